//! Clients that go from node to node, each of which has merged the same sources in an order of its own.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use proptest::prelude::*;
use tidings_log::{EventRef, Health, Listener, LogOptions, NewEvent, ReadLimit};
use tidings_protocol::{Epoch, TenantId};

use super::*;

struct NoListener;

impl Listener for NoListener {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

/// An event of a source.
#[derive(Clone, Copy, Debug)]
struct Sourced {
    place: Cursor,
    tenant: u8,
}

/// What happened in each source, in order; positions ascend with gaps, as where others' messages stand
/// between.
type History = Vec<Vec<Sourced>>;

fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number + 1; 16])
}

/// `renewed`: where in the first source it is made anew.
fn history(
    sources: std::ops::Range<usize>,
    renewed: impl Strategy<Value = Option<usize>>,
) -> impl Strategy<Value = History> {
    let source = prop::collection::vec((1_u64..4, 0_u8..2), 0..12);
    (prop::collection::vec(source, sources), renewed).prop_map(|(sources, renewed)| {
        let sources = sources.into_iter().enumerate();
        sources
            .map(|(number, steps)| {
                let mut place = Cursor {
                    epoch: Epoch(100),
                    position: 0,
                };
                let steps = steps.into_iter().enumerate();
                steps
                    .map(|(index, (step, tenant))| {
                        if number == 0 && renewed == Some(index) {
                            place = Cursor {
                                epoch: Epoch(200),
                                position: 0,
                            };
                        }
                        place.position += step;
                        Sourced { place, tenant }
                    })
                    .collect()
            })
            .collect()
    })
}

/// A node that has copied some of the sources' events.
struct Node {
    cursors: Cursors,
    log: Log,
    _folder: tempfile::TempDir,
}

impl Node {
    /// Copies up to `most` events, the next always from the source that `order` picks.
    fn copying(history: &History, order: &[usize], most: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::new(folder.path()), Box::new(NoListener)).unwrap();
        let sources = Sources::new((0..history.len()).map(|number| format!("S{number}")));
        let mut next = vec![0; history.len()];
        let mut reached: Reached = history
            .iter()
            .map(|events| match events.first() {
                Some(first) => Cursor {
                    epoch: first.place.epoch,
                    position: 0,
                },
                None => Cursor::NOWHERE,
            })
            .collect();
        let (answers, answered) = channel();
        let mut submitted = 0;
        for pick in order.iter().cycle() {
            let left: Vec<usize> = (0..history.len())
                .filter(|&source| next[source] < history[source].len())
                .collect();
            if left.is_empty() || submitted == most {
                break;
            }
            let source = left[pick % left.len()];
            let event = history[source][next[source]];
            next[source] += 1;
            reached[source] = event.place;
            let time = i64::try_from(submitted).unwrap();
            let origin = Origin {
                source,
                time,
                reached: reached.clone(),
            };
            let body = NewEvent {
                event_type: "device_status".parse().unwrap(),
                device: None,
                time: None,
                key: None,
                subject: None,
                origin: Some(origin.encode()),
                data: b"{}".to_vec(),
            };
            let answers = answers.clone();
            let answer = Box::new(move |outcome| answers.send(outcome).unwrap());
            log.submit(tenant(event.tenant), vec![body], answer)
                .unwrap();
            submitted += 1;
        }
        for _ in 0..submitted {
            answered.recv().unwrap().unwrap();
        }
        for (source, place) in reached.iter().enumerate() {
            sources.update(source, |standing| {
                standing.epoch = place.epoch;
                standing.copied = place.position;
                standing.last = place.position;
            });
        }
        Self {
            cursors: Cursors::of_mirror(&log, &Arc::new(sources), &Arc::default()),
            log,
            _folder: folder,
        }
    }

    /// Up to `most` events of a scope from a cursor on, with their ids; `None` where the node is not so
    /// far yet.
    fn watch(&self, scope: Scope, cursor: &str, most: usize) -> Option<Leg> {
        let tail = self.log.tail();
        let place = match self.cursors.resolve(scope, cursor, || tail).unwrap() {
            Resolution::Found(place) => place,
            Resolution::Ahead(_) => return None,
            Resolution::Unknown(reason) => panic!("{cursor} is {reason:?}"),
        };
        let mut given = Vec::new();
        let mut passage = place.passage;
        let everything = ReadLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let ids = self.cursors.ids();
        self.log
            .read(scope, place.after, everything, &mut |event| {
                let id = match &mut passage {
                    Some(passage) if event.position <= passage.until => passage.admit(&event, ids),
                    _ => Some(ids.id(&event)),
                };
                let origin = event.origin.and_then(Origin::decode).unwrap();
                if let Some(id) = id {
                    given.push((id.to_string(), origin.source, origin.own(), event.tenant));
                }
            })
            .unwrap();
        given.truncate(most);
        Some(Leg {
            at: place.at.to_string(),
            missing: place.missing,
            given,
        })
    }
}

struct Leg {
    at: String,
    missing: Vec<Missing>,
    given: Vec<(String, usize, Cursor, TenantId)>,
}

fn nodes(history: &History, orders: &[(Vec<usize>, usize)]) -> Vec<Node> {
    let all = usize::MAX;
    let whole = (vec![0], all);
    // One has everything, so that a client always finds one to go on at.
    std::iter::once(&whole)
        .chain(orders)
        .map(|(order, most)| Node::copying(history, order, *most))
        .collect()
}

fn orders() -> impl Strategy<Value = Vec<(Vec<usize>, usize)>> {
    let index = any::<usize>;
    let most = prop_oneof![2 => Just(usize::MAX), 1 => 0_usize..20];
    prop::collection::vec((prop::collection::vec(index(), 1..12), most), 1..4)
}

/// A client that watches a few events here and a few there, and at last all that is left. Gives what it
/// was given of each source, and the gaps.
fn travel(
    nodes: &[Node],
    scope: Scope,
    legs: &[(usize, usize)],
) -> (BTreeMap<usize, Vec<Cursor>>, Vec<Missing>) {
    let mut cursor = nodes[0].cursors.text(0).to_string();
    let (mut given, mut missing) = (BTreeMap::<usize, Vec<Cursor>>::new(), Vec::new());
    let last = (0, usize::MAX);
    for (number, (node, most)) in legs.iter().chain([&last]).enumerate() {
        let node = if number == legs.len() {
            &nodes[0]
        } else {
            &nodes[*node % nodes.len()]
        };
        let Some(leg) = node.watch(scope, &cursor, *most) else {
            continue;
        };
        cursor = leg.at;
        missing.extend(leg.missing);
        for (id, source, place, owner) in leg.given {
            assert!(scope == Scope::All || scope == Scope::Tenant(owner));
            given.entry(source).or_default().push(place);
            cursor = id;
        }
    }
    (given, missing)
}

fn of_scope(events: &[Sourced], scope: Scope) -> Vec<Cursor> {
    let mine =
        |event: &&Sourced| scope == Scope::All || scope == Scope::Tenant(tenant(event.tenant));
    events
        .iter()
        .filter(mine)
        .map(|event| event.place)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_client_that_goes_from_node_to_node_gets_everything_once_and_in_order(
        history in history(1..4, Just(None)),
        orders in orders(),
        legs in prop::collection::vec((any::<usize>(), 0_usize..6), 0..8),
        one_tenant: bool,
    ) {
        let nodes = nodes(&history, &orders);
        let scope = if one_tenant { Scope::Tenant(tenant(0)) } else { Scope::All };
        let (given, missing) = travel(&nodes, scope, &legs);
        prop_assert_eq!(missing, vec![]);
        for (source, events) in history.iter().enumerate() {
            let given = given.get(&source).cloned().unwrap_or_default();
            prop_assert_eq!(given, of_scope(events, scope), "of source {}", source);
        }
    }

    #[test]
    fn a_source_that_is_made_anew_restarts_alone(
        history in history(2..4, (0_usize..12).prop_map(Some)),
        orders in orders(),
        legs in prop::collection::vec((any::<usize>(), 0_usize..6), 0..8),
    ) {
        let nodes = nodes(&history, &orders);
        let (given, missing) = travel(&nodes, Scope::All, &legs);
        prop_assert!(missing.iter().all(|missing| missing.source.as_deref() == Some("S0")));
        for (source, events) in history.iter().enumerate() {
            let given = given.get(&source).cloned().unwrap_or_default();
            if source > 0 {
                prop_assert_eq!(given, of_scope(events, Scope::All), "of source {}", source);
                continue;
            }
            prop_assert!(given.is_sorted() && given.windows(2).all(|pair| pair[0] < pair[1]));
            let renewed = |place: &Cursor| place.epoch == Epoch(200);
            let (mut given, mut all) = (given, of_scope(events, Scope::All));
            if missing.is_empty() {
                prop_assert_eq!(&given, &all);
            }
            given.retain(renewed);
            all.retain(renewed);
            prop_assert_eq!(given, all);
        }
    }

    #[test]
    fn the_cursor_of_an_event_leads_to_that_event_on_every_node(
        history in history(1..4, Just(None)),
        orders in orders(),
    ) {
        let nodes = nodes(&history, &orders);
        for node in &nodes {
            let beginning = nodes[0].cursors.text(0).to_string();
            let Some(leg) = node.watch(Scope::All, &beginning, usize::MAX) else {
                continue;
            };
            for (id, _, place, owner) in leg.given {
                let position = nodes[0].cursors.position_of(&id).unwrap().expect("it is there");
                let limit = ReadLimit { events: 1, bytes: 1 };
                let mut found = None;
                nodes[0].log.read(Scope::All, position - 1, limit, &mut |event| {
                    let origin = event.origin.and_then(Origin::decode).unwrap();
                    found = Some((origin.own(), event.tenant));
                }).unwrap();
                prop_assert_eq!(found, Some((place, owner)));
            }
        }
    }
}

/// A client comes with a cursor from before a source was made anew, and is told so. What the source was before is then
/// given by no node, wherever it merged that; one that gave it gave it again at the next node.
#[test]
fn what_a_source_was_before_it_was_made_anew_is_given_by_no_node() {
    let place = |epoch, position| Sourced {
        place: Cursor {
            epoch: Epoch(epoch),
            position,
        },
        tenant: 0,
    };
    let renewed = vec![place(100, 1), place(200, 1)];
    let history = vec![renewed, vec![place(100, 1), place(100, 2)]];
    let orders = [vec![1, 0, 1], vec![1, 1, 0]].map(|order| (order, usize::MAX));
    let nodes = nodes(&history, &orders);
    let (given, missing) = travel(&nodes, Scope::All, &[(1, 2), (2, usize::MAX)]);
    assert_eq!(given[&0], [history[0][1].place]);
    assert_eq!(given[&1], of_scope(&history[1], Scope::All));
    let told = Missing {
        reason: GapReason::UnknownEpoch,
        source: Some("S0".to_owned()),
    };
    assert_eq!(missing, [told]);
}

#[test]
fn what_no_source_of_this_deployment_ever_was_leads_nowhere() {
    let place = |position| Sourced {
        place: Cursor {
            epoch: Epoch(100),
            position,
        },
        tenant: 0,
    };
    let history = vec![vec![place(1), place(2)], vec![place(1)]];
    let node = Node::copying(&history, &[0], usize::MAX);
    let resolve = |text: &str| {
        node.cursors
            .resolve(Scope::All, text, || node.log.tail())
            .unwrap()
    };
    let malformed = Resolution::Unknown(GapReason::Malformed);
    for text in ["", "4711", "1j8.42", "0~", "0~2s.01~2s.1", "x"] {
        assert_eq!(resolve(text), malformed, "{text:?}");
    }
    // Of a deployment with one more source.
    let unknown = Resolution::Unknown(GapReason::UnknownEpoch);
    assert_eq!(resolve("0~2s.1~2s.1~2s.1"), unknown);
    let beyond = resolve("0~2s.3~2s.1");
    assert!(matches!(beyond, Resolution::Ahead(_)), "{beyond:?}");
    // A tail that was looked at before the log has what a cursor names is not the tail to go by: a stream began
    // there and was given that event again.
    let early = || -> Position { panic!("the log does not have it yet") };
    let beyond = node.cursors.resolve(Scope::All, "0~2s.3~2s.1", early);
    assert!(matches!(beyond, Ok(Resolution::Ahead(_))));
}

/// A node that was cut off took what it had heard last for what there is, and told clients that came from another
/// node that their cursors were ahead: they were shown again what they had seen.
#[test]
fn only_what_a_source_says_when_asked_makes_it_certain_that_it_has_no_more() {
    let standing = Standing {
        incarnation: 7,
        epoch: Epoch(100),
        copied: 40,
        last: 40,
        current: true,
        ..Standing::default()
    };
    let place = |epoch, position| Cursor {
        epoch: Epoch(epoch),
        position,
    };
    let asked = |incarnation, last| Asked { incarnation, last };
    let judged = |place, asked| judge(&standing, place, asked);
    assert_eq!(judged(place(100, 59), asked(7, 60)), None);
    let ahead = Some(GapReason::AheadOfLog);
    assert_eq!(judged(place(100, 59), asked(7, 58)), ahead);
    assert_eq!(judged(place(100, 40), asked(7, 40)), None);
    let unknown = Some(GapReason::UnknownEpoch);
    assert_eq!(judged(place(101, 1), asked(7, 60)), unknown);
    // It was made anew a moment ago.
    assert_eq!(judged(place(101, 1), asked(8, 1)), None);
}

/// A server that was frozen, and led the stream before, says for a moment what was so when it froze.
#[test]
fn a_source_is_believed_only_when_it_says_the_same_for_a_while() {
    let sources = Sources::new(["ONE".to_owned(), "TWO".to_owned()]);
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    assert!(!sources.is_believed(0, true, at(0)));
    assert!(!sources.is_believed(0, true, at(14)));
    assert!(sources.is_believed(0, true, at(15)));
    assert!(!sources.is_believed(1, true, at(16)));
    // It has found out.
    assert!(!sources.is_believed(0, false, at(17)));
    assert!(!sources.is_believed(0, true, at(18)));
    assert!(!sources.is_believed(0, true, at(32)));
    assert!(sources.is_believed(0, true, at(33)));
    // Nobody has asked for long.
    assert!(!sources.is_believed(1, true, at(300)));
    assert!(sources.is_believed(1, true, at(316)));
}
