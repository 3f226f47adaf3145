//! Isolation: nobody receives an event that the rules do not allow, and everybody receives all that
//! they do, live, on replay (by cursor and by time), in the history, in snapshots and in the state, also when
//! device groups change. What operators are then told of each event's audience is what happened. The rules are
//! written a second time here, as a model that has no code in common with the server's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tidings_tests::http::encode;
use tidings_tests::{
    AccessToken, Event, Request, Server, Setup, Stream, Watch, new_tenant, publish,
};

const TYPES: [&str; 4] = [
    "device_status",
    "metric_update",
    "alert_fired",
    "config_push",
];
/// Some are prefixes of others, and differ in case only, so that a sloppy comparison shows.
const DEVICES: [&str; 5] = ["r1", "r10", "R1", "r1.a", "aa:bb"];

/// An event of the fleet, before the server knows it.
#[derive(Clone, Debug)]
struct Fact {
    tenant: usize,
    event_type: &'static str,
    device: Option<&'static str>,
    /// Where the device is named: in the envelope, in the data, or in both.
    device_in: DeviceIn,
    /// Which alert it is, whatever its device: the last event of a subject can be another device's.
    alert: u8,
}

impl Fact {
    /// What it is the latest state of, within its tenant.
    fn subject(&self) -> Option<(&'static str, String)> {
        let key = match self.event_type {
            "alert_fired" => self.alert.to_string(),
            _ => self.device?.to_owned(),
        };
        Some((self.event_type, key))
    }
}

#[derive(Clone, Copy, Debug)]
enum DeviceIn {
    Envelope,
    Data,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Member,
    /// A `super_admin` at the path of a tenant, who sees all tenants.
    SuperAdminOfAll,
    /// A `super_admin` at `/events/stream`.
    SuperAdminAtRoot,
    /// A `super_admin` who asks for the path's tenant only.
    SuperAdminOfOne,
}

#[derive(Clone, Debug)]
enum How {
    Live,
    AfterHeader(Index),
    AfterParameter(Index),
    Since(Index),
    /// With what is true now, and what comes after it.
    Snapshot,
}

/// The device group that somebody's token names, which is of that watcher alone; absent members are
/// those of a group that does not exist.
#[derive(Clone, Debug)]
struct Group {
    name: &'static str,
    before: Option<Vec<&'static str>>,
    after: Option<Vec<&'static str>>,
}

impl Group {
    fn changes(&self) -> bool {
        self.before != self.after
    }
}

/// Somebody who watches, with what bounds the view.
#[derive(Clone, Debug)]
struct Watcher {
    who: Who,
    tenant: usize,
    claimed_devices: Option<Vec<&'static str>>,
    claimed_types: Option<Vec<&'static str>>,
    claimed_group: Option<Group>,
    asked_types: Option<Vec<&'static str>>,
    asked_devices: Option<Vec<&'static str>>,
    by_stream_token: bool,
    how: How,
}

impl Watcher {
    fn sees_all_tenants(&self) -> bool {
        matches!(self.who, Who::SuperAdminOfAll | Who::SuperAdminAtRoot)
    }

    /// The rules of a stream: the tenant, then the claims, then the filters. All tenants together have
    /// no groups.
    fn may_see(&self, fact: &Fact, act: Act) -> bool {
        let all_tenants = self.sees_all_tenants();
        let act = if all_tenants { Act::NoGroups } else { act };
        (all_tenants || fact.tenant == self.tenant) && self.may_see_of(fact, act)
    }

    /// The rules of the history, which is always of the tenant in the path.
    fn may_read(&self, fact: &Fact, act: Act) -> bool {
        fact.tenant == self.tenant && self.may_see_of(fact, act)
    }

    /// Whether a change of its group ends its stream.
    fn is_ended_by_the_change(&self) -> bool {
        !self.sees_all_tenants() && self.claimed_group.as_ref().is_some_and(Group::changes)
    }

    fn may_see_of(&self, fact: &Fact, act: Act) -> bool {
        self.kept_out_by(fact, act).is_none()
    }

    /// The first bound within the tenant that the fact is outside of, as operators are told it.
    fn kept_out_by(&self, fact: &Fact, act: Act) -> Option<&'static str> {
        let members = self.claimed_group.as_ref().map(|group| match act {
            Act::Before => group.before.clone().unwrap_or_default(),
            Act::After => group.after.clone().unwrap_or_default(),
            Act::NoGroups => Vec::new(),
        });
        let device_in = |list: &Option<Vec<&str>>| match list {
            None => true,
            Some(devices) => fact.device.is_some_and(|device| devices.contains(&device)),
        };
        let type_in = |list: &Option<Vec<&str>>| match list {
            None => true,
            Some(types) => types.contains(&fact.event_type),
        };
        let of_devices = match &members {
            None => "devices_claim",
            Some(_) => "device_group",
        };
        let claimed_devices = match (self.claimed_devices.clone(), members) {
            (devices, None) => devices,
            (devices, Some(members)) => Some([devices.unwrap_or_default(), members].concat()),
        };
        let bounds = [
            (type_in(&self.claimed_types), "types_claim"),
            (device_in(&claimed_devices), of_devices),
            (type_in(&self.asked_types), "types_filter"),
            (device_in(&self.asked_devices), "device_filter"),
        ];
        let failed = bounds.into_iter().find(|(within, _)| !within);
        failed.map(|(_, bound)| bound)
    }

    fn access(&self, tenants: &[String]) -> AccessToken {
        let mut token = match self.who {
            Who::Member => AccessToken::new("member", &tenants[self.tenant], "viewer"),
            _ => AccessToken::super_admin("root"),
        };
        if let Some(devices) = &self.claimed_devices {
            token = token.claim("devices", json!(devices));
        }
        if let Some(types) = &self.claimed_types {
            token = token.claim("types", json!(types));
        }
        if let Some(group) = &self.claimed_group {
            token = token.claim("device_group", group.name);
        }
        token
    }

    fn filters(&self) -> Vec<(&'static str, String)> {
        let types = self
            .asked_types
            .iter()
            .map(|types| ("types", types.join(",")));
        let devices = self
            .asked_devices
            .iter()
            .map(|devices| ("device_id", devices.join(",")));
        types.chain(devices).collect()
    }

    fn request(&self, server: &Server, tenants: &[String]) -> Watch {
        let mut watch = match self.who {
            Who::SuperAdminAtRoot => Watch::at(server.address, "/events/stream"),
            _ => server.stream_of(&tenants[self.tenant]),
        };
        if self.who == Who::SuperAdminOfOne {
            watch = watch.query("scope", "tenant");
        }
        for (name, value) in self.filters() {
            watch = watch.query(name, &value);
        }
        let access = server.sign(&self.access(tenants));
        if self.by_stream_token {
            watch.token(&server.stream_token(&access))
        } else {
            watch.bearer(&access)
        }
    }
}

fn fact(tenants: usize) -> impl Strategy<Value = Fact> {
    (
        0..tenants,
        select(TYPES.to_vec()),
        proptest::option::weighted(0.8, select(DEVICES.to_vec())),
        select(vec![DeviceIn::Envelope, DeviceIn::Data, DeviceIn::Both]),
        0..3_u8,
    )
        .prop_map(|(tenant, event_type, device, device_in, alert)| Fact {
            tenant,
            event_type,
            device,
            device_in,
            alert,
        })
}

fn some_of(
    all: &'static [&'static str],
    least: usize,
) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    proptest::option::weighted(0.4, subsequence(all, least..=all.len()))
}

fn group() -> impl Strategy<Value = Option<Group>> {
    let group = (some_of(&DEVICES, 0), some_of(&DEVICES, 0), any::<bool>());
    let group = group.prop_map(|(before, after, changes)| Group {
        name: GROUP_NAMES[0],
        after: if changes { after } else { before.clone() },
        before,
    });
    proptest::option::weighted(0.4, group)
}

fn watcher(tenants: usize) -> impl Strategy<Value = Watcher> {
    let who = prop_oneof![
        5 => Just(Who::Member),
        1 => Just(Who::SuperAdminOfAll),
        1 => Just(Who::SuperAdminAtRoot),
        1 => Just(Who::SuperAdminOfOne),
    ];
    let how = prop_oneof![
        Just(How::Live),
        any::<Index>().prop_map(How::AfterHeader),
        any::<Index>().prop_map(How::AfterParameter),
        any::<Index>().prop_map(How::Since),
        Just(How::Snapshot),
    ];
    (
        who,
        0..tenants,
        // An empty claim shows nothing; an empty filter can't be asked for.
        (some_of(&DEVICES, 0), some_of(&TYPES, 0), group()),
        (some_of(&TYPES, 1), some_of(&DEVICES, 1)),
        any::<bool>(),
        how,
    )
        .prop_map(
            |(who, tenant, claimed, asked, by_stream_token, how)| Watcher {
                who,
                tenant,
                claimed_devices: claimed.0,
                claimed_types: claimed.1,
                claimed_group: claimed.2,
                asked_types: asked.0,
                asked_devices: asked.1,
                by_stream_token,
                how,
            },
        )
}

/// Before the groups change, or after.
#[derive(Clone, Copy, Debug)]
enum Act {
    Before,
    After,
    /// All tenants together have no groups.
    NoGroups,
}

/// What happens: facts before the streams open, the streams, facts after.
#[derive(Clone, Debug)]
struct Story {
    tenants: usize,
    before: Vec<Fact>,
    watchers: Vec<Watcher>,
    after: Vec<Fact>,
    /// Once the groups have changed.
    later: Vec<Fact>,
}

/// Each watcher's group has a name of its own.
const GROUP_NAMES: [&str; 5] = ["core", "Core", "core-2", "r1", "b\u{fc}ro nord"];

fn story() -> impl Strategy<Value = Story> {
    (1_usize..=3).prop_flat_map(|tenants| {
        (
            proptest::collection::vec(fact(tenants), 1..25),
            proptest::collection::vec(watcher(tenants), 1..6),
            proptest::collection::vec(fact(tenants), 0..25),
            proptest::collection::vec(fact(tenants), 0..12),
        )
            .prop_map(move |(before, mut watchers, after, later)| {
                for (watcher, name) in watchers.iter_mut().zip(GROUP_NAMES) {
                    if let Some(group) = &mut watcher.claimed_group {
                        group.name = name;
                    }
                }
                Story {
                    tenants,
                    before,
                    watchers,
                    after,
                    later,
                }
            })
    })
}

/// A fact that the server has acknowledged.
#[derive(Debug)]
struct Stored {
    fact: Fact,
    cursor: String,
    number: usize,
}

/// Publishes one story's facts and remembers where each one lies.
struct Record<'a> {
    server: &'a Server,
    tenants: Vec<String>,
    publisher: String,
    stored: Vec<Stored>,
}

impl Record<'_> {
    fn publish(&mut self, fact: &Fact) {
        let number = self.stored.len();
        let alert = fact.alert.to_string();
        let mut data = json!({"n": number, "type": "health", "alert_event_id": alert});
        let mut event = json!({"type": fact.event_type});
        if let Some(device) = fact.device {
            if !matches!(fact.device_in, DeviceIn::Envelope) {
                data["device_id"] = json!(device);
            }
            if !matches!(fact.device_in, DeviceIn::Data) {
                event["device_id"] = json!(device);
            }
        }
        event["data"] = data;
        let request = publish::one(&self.tenants[fact.tenant], &self.publisher, &event);
        let receipt = publish::must(self.server.address, &request);
        self.stored.push(Stored {
            fact: fact.clone(),
            cursor: receipt.last,
            number,
        });
    }

    /// Makes the watcher's group what it is in this act, as a super admin.
    fn arrange_group(&self, watcher: &Watcher, act: Act) {
        let Some(group) = &watcher.claimed_group else {
            return;
        };
        let target = format!(
            "/tenants/{}/device-groups/{}",
            self.tenants[watcher.tenant],
            encode(group.name)
        );
        let (members, existed) = match act {
            Act::Before => (&group.before, false),
            Act::After => (&group.after, group.before.is_some()),
            Act::NoGroups => return,
        };
        let request = match members {
            Some(devices) => Request::new("PUT", &target).body(
                "application/json",
                json!({ "devices": devices }).to_string(),
            ),
            None if existed => Request::new("DELETE", &target),
            None => return,
        };
        let answer = self.server.exchange(&request.bearer(&self.publisher));
        assert_eq!(answer.status, 204, "{}", answer.head);
    }

    /// The numbers of the facts from this one on that the watcher may see.
    fn expected(&self, watcher: &Watcher, from: usize, act: Act) -> Vec<usize> {
        self.stored[from..]
            .iter()
            .filter(|stored| watcher.may_see(&stored.fact, act))
            .map(|stored| stored.number)
            .collect()
    }

    /// The numbers of the facts that are the last of their subjects up to a position, and that the watcher
    /// may see.
    fn last_of_subjects(&self, through: u64, may_see: impl Fn(&Fact) -> bool) -> BTreeSet<usize> {
        let mut last = BTreeMap::new();
        for stored in &self.stored {
            if tidings_tests::position(&stored.cursor) <= through
                && let Some(subject) = stored.fact.subject()
            {
                last.insert((stored.fact.tenant, subject), stored.number);
            }
        }
        let numbers = last.into_values();
        numbers
            .filter(|&number| may_see(&self.stored[number].fact))
            .collect()
    }

    /// The time at which the server says that it appended this fact.
    fn time_of(&self, number: usize) -> String {
        let stored = &self.stored[number];
        let tenant = &self.tenants[stored.fact.tenant];
        let page = self.server.history(tenant, "?limit=1000");
        let events = page["events"].as_array().expect("a list");
        let event = events
            .iter()
            .find(|event| event["id"] == stored.cursor.as_str());
        let time = &event.expect("the event is in the history")["time"];
        time.as_str().expect("a time").to_owned()
    }

    /// The first fact that was appended at that time; several may share one.
    fn first_at(&self, time: &str, of: usize) -> usize {
        (0..=of)
            .find(|&number| self.time_of(number).as_str() == time)
            .expect("at least itself")
    }
}

fn number_of(event: &Event) -> usize {
    let number = event.json()["n"].as_u64().expect("a number");
    usize::try_from(number).expect("small")
}

/// Checks that an event says of itself what was published, whoever sees it.
fn check_payload(event: &Event, record: &Record<'_>) -> Result<(), TestCaseError> {
    let stored = &record.stored[number_of(event)];
    prop_assert_eq!(&event.name, stored.fact.event_type);
    prop_assert_eq!(event.cursor(), &stored.cursor);
    let data = event.json();
    prop_assert_eq!(
        &data["tenant_id"],
        &json!(record.tenants[stored.fact.tenant])
    );
    prop_assert_eq!(&data["device_id"], &json!(stored.fact.device));
    Ok(())
}

/// Reads a stream until it has shown, or said that it has passed, the last fact of all.
fn read_to_the_end(stream: &mut Stream, record: &Record<'_>) -> Vec<Event> {
    let last = tidings_tests::position(&record.stored.last().expect("one at least").cursor);
    let mut events = Vec::new();
    loop {
        let event = stream.next_of_any().expect("the stream stays open");
        let reached = tidings_tests::position(event.cursor()) >= last;
        if event.name != "cursor" {
            events.push(event);
        }
        if reached {
            return events;
        }
    }
}

/// The number of a subject's last event, checked to be what was published.
fn number_of_subject(subject: &Value, record: &Record<'_>) -> Result<usize, TestCaseError> {
    let number = subject["data"]["n"].as_u64().expect("a number");
    let number = usize::try_from(number).expect("small");
    let stored = &record.stored[number];
    prop_assert_eq!(&subject["type"], stored.fact.event_type);
    prop_assert_eq!(&subject["id"], &stored.cursor);
    prop_assert_eq!(
        &subject["data"]["tenant_id"],
        &record.tenants[stored.fact.tenant]
    );
    prop_assert_eq!(&subject["data"]["device_id"], &json!(stored.fact.device));
    Ok(number)
}

/// Reads the snapshot that a stream begins with. Gives the first fact that comes after it.
fn check_snapshot(
    stream: &mut Stream,
    watcher: &Watcher,
    record: &Record<'_>,
) -> Result<usize, TestCaseError> {
    let mut numbers = BTreeSet::new();
    loop {
        let event = stream.next_of_any().expect("the stream stays open");
        if event.name == "snapshot" {
            let tenant = &event.json()["data"]["tenant_id"];
            if watcher.sees_all_tenants() && !record.tenants.iter().any(|own| tenant == own) {
                // Of another story.
                continue;
            }
            prop_assert!(numbers.insert(number_of_subject(&event.json(), record)?));
            continue;
        }
        prop_assert_eq!(&event.name, "snapshot_end");
        let through = tidings_tests::position(event.cursor());
        let expected = record.last_of_subjects(through, |fact| watcher.may_see(fact, Act::Before));
        prop_assert_eq!(numbers, expected, "the snapshot of {:?}", watcher);
        let passed = |stored: &Stored| tidings_tests::position(&stored.cursor) <= through;
        return Ok(record.stored.partition_point(passed));
    }
}

fn check_state(
    server: &Server,
    watcher: &Watcher,
    record: &Record<'_>,
    act: Act,
) -> Result<(), TestCaseError> {
    let access = server.sign(&watcher.access(&record.tenants));
    let tenant = &record.tenants[watcher.tenant];
    let mut target = format!("/tenants/{tenant}/state?");
    for (name, value) in watcher.filters() {
        let _ = write!(target, "{name}={}&", encode(&value));
    }
    let answer = server.exchange(&Request::get(&target).bearer(&access));
    let state = answer.expect(200);
    let mut numbers = BTreeSet::new();
    for subject in state["subjects"].as_array().expect("a list") {
        prop_assert!(numbers.insert(number_of_subject(subject, record)?));
    }
    let expected = record.last_of_subjects(u64::MAX, |fact| watcher.may_read(fact, act));
    prop_assert_eq!(numbers, expected, "the state for {:?}", watcher);
    Ok(())
}

fn check_history(
    server: &Server,
    watcher: &Watcher,
    record: &Record<'_>,
    act: Act,
) -> Result<(), TestCaseError> {
    let access = server.sign(&watcher.access(&record.tenants));
    let mut numbers = Vec::new();
    let mut after = String::new();
    loop {
        let mut target = format!(
            "/tenants/{}/events?limit=7{after}",
            record.tenants[watcher.tenant]
        );
        for (name, value) in watcher.filters() {
            let _ = write!(target, "&{name}={}", encode(&value));
        }
        let page = server
            .exchange(&Request::get(&target).bearer(&access))
            .expect(200);
        let events = page["events"].as_array().expect("a list").clone();
        if events.is_empty() {
            break;
        }
        let number = |event: &Value| event["data"]["n"].as_u64().expect("a number");
        numbers.extend(events.iter().map(number));
        after = format!("&after={}", page["next"].as_str().expect("a cursor"));
    }
    // History is always of the tenant in the path, also for a super_admin.
    let expected: Vec<u64> = record
        .stored
        .iter()
        .filter(|stored| watcher.may_read(&stored.fact, act))
        .map(|stored| stored.number as u64)
        .collect();
    prop_assert_eq!(numbers, expected);
    Ok(())
}

fn play(server: &Server, story: &Story) -> Result<(), TestCaseError> {
    let mut record = Record {
        server,
        tenants: (0..story.tenants).map(|_| new_tenant()).collect(),
        publisher: server.super_admin(),
        stored: Vec::new(),
    };
    for watcher in &story.watchers {
        record.arrange_group(watcher, Act::Before);
    }
    for fact in &story.before {
        record.publish(fact);
    }
    let known = story.before.len();
    let mut open: Vec<(Stream, usize)> = story
        .watchers
        .iter()
        .map(|watcher| {
            let request = watcher.request(server, &record.tenants);
            match &watcher.how {
                How::Live => (request.open(), known),
                How::AfterHeader(index) => {
                    let from = index.index(known);
                    (request.after(&record.stored[from].cursor).open(), from + 1)
                }
                How::AfterParameter(index) => {
                    let from = index.index(known);
                    let cursor = &record.stored[from].cursor;
                    (request.query("last_event_id", cursor).open(), from + 1)
                }
                How::Snapshot => (request.query("snapshot", "true").open(), known),
                How::Since(index) => {
                    let of = index.index(known);
                    let time = record.time_of(of);
                    let from = record.first_at(&time, of);
                    (request.query("since", &time).open(), from)
                }
            }
        })
        .collect();
    for fact in &story.after {
        record.publish(fact);
    }
    for ((stream, from), watcher) in open.iter_mut().zip(&story.watchers) {
        if matches!(watcher.how, How::Snapshot) {
            *from = check_snapshot(stream, watcher, &record)?;
        }
        check_state(server, watcher, &record, Act::Before)?;
        check_stream(stream, watcher, &record, *from, Act::Before)?;
        check_history(server, watcher, &record, Act::Before)?;
    }
    let sightings = play_on(story, &mut record, open)?;
    check_audiences(&sightings, &record)
}

/// Groups change, and more happens. Gives the streams that there were.
fn play_on<'a>(
    story: &'a Story,
    record: &mut Record<'_>,
    open: Vec<(Stream, usize)>,
) -> Result<Vec<Sighting<'a>>, TestCaseError> {
    let server = record.server;
    for watcher in &story.watchers {
        record.arrange_group(watcher, Act::After);
    }
    let turn = record.stored.len();
    for fact in &story.later {
        record.publish(fact);
    }
    let mut sightings = Vec::new();
    for ((mut stream, from), watcher) in open.into_iter().zip(&story.watchers) {
        let ended = watcher.is_ended_by_the_change();
        sightings.push(Sighting {
            connection: stream.connection_id().to_owned(),
            watcher,
            from,
            until: ended.then_some(turn),
            act: Act::Before,
        });
        if ended {
            check_view_changed(&mut stream)?;
            let last = &record.stored[turn - 1].cursor;
            let request = watcher.request(server, &record.tenants);
            stream = request.after(last).open();
            sightings.push(Sighting {
                connection: stream.connection_id().to_owned(),
                watcher,
                from: turn,
                until: None,
                act: Act::After,
            });
        }
        check_state(server, watcher, record, Act::After)?;
        check_stream(&mut stream, watcher, record, turn, Act::After)?;
        check_history(server, watcher, record, Act::After)?;
    }
    Ok(sightings)
}

/// A stream as it is to be found in audiences.
struct Sighting<'a> {
    connection: String,
    watcher: &'a Watcher,
    /// It begins with this fact.
    from: usize,
    /// It ended before this fact; `None` where it has come to the last.
    until: Option<usize>,
    act: Act,
}

impl Sighting<'_> {
    /// What became of the fact on its way to the stream; `None` where the stream is of another tenant.
    fn outcome(&self, stored: &Stored) -> Option<&'static str> {
        let all_tenants = self.watcher.sees_all_tenants();
        if !all_tenants && stored.fact.tenant != self.watcher.tenant {
            return None;
        }
        let act = if all_tenants { Act::NoGroups } else { self.act };
        let kept_out = self.watcher.kept_out_by(&stored.fact, act);
        Some(kept_out.unwrap_or({
            if stored.number < self.from {
                "opened_after"
            } else if self.until.is_some_and(|until| stored.number >= until) {
                "closed_before"
            } else {
                "sent"
            }
        }))
    }
}

/// Checks what a super admin, and an operator of the event's tenant, are told of every fact: what the
/// streams were seen to be given, and of no stream that is not theirs to know.
fn check_audiences(sightings: &[Sighting<'_>], record: &Record<'_>) -> Result<(), TestCaseError> {
    let server = record.server;
    let operators: Vec<String> = record
        .tenants
        .iter()
        .map(|tenant| server.sign(&AccessToken::new("operator", tenant, "tenant_operator")))
        .collect();
    let ask = |access: &str, tenant: usize, cursor: &str, after: &str| {
        let tenant = &record.tenants[tenant];
        let target = format!("/tenants/{tenant}/events/{cursor}/audience?limit=1000{after}");
        server.exchange(&Request::get(&target).bearer(access))
    };
    let told = |access: &str, stored: &Stored| {
        let mut outcomes = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = ask(access, stored.fact.tenant, &stored.cursor, &after).expect(200);
            for stream in page["streams"].as_array().expect("a list") {
                let text = |field: &str| stream[field].as_str().expect("text").to_owned();
                outcomes.insert(text("connection_id"), text("outcome"));
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return outcomes,
            }
        }
    };
    let expected = |stored: &Stored, of: &dyn Fn(&Watcher) -> bool| -> BTreeMap<String, String> {
        let meant = sightings.iter().filter(|sighting| of(sighting.watcher));
        meant
            .filter_map(|sighting| {
                let outcome = sighting.outcome(stored)?.to_owned();
                Some((sighting.connection.clone(), outcome))
            })
            .collect()
    };
    for stored in &record.stored {
        let by_operator = told(&operators[stored.fact.tenant], stored);
        let of_members = expected(stored, &|watcher| watcher.who == Who::Member);
        prop_assert_eq!(by_operator, of_members, "{:?}", stored);

        // Other stories had streams of all tenants, which are known to a super admin.
        let mut by_root = told(&record.publisher, stored);
        by_root.retain(|id, _| sightings.iter().any(|known| known.connection == *id));
        prop_assert_eq!(by_root, expected(stored, &|_| true), "{:?}", stored);

        let next_tenant = (stored.fact.tenant + 1) % record.tenants.len();
        if next_tenant != stored.fact.tenant {
            let elsewhere = ask(&operators[next_tenant], next_tenant, &stored.cursor, "");
            prop_assert_eq!(elsewhere.status, 404);
        }
    }
    Ok(())
}

/// The stream ends with the word for it and shows nothing before.
fn check_view_changed(stream: &mut Stream) -> Result<(), TestCaseError> {
    let closing = stream.next_but_cursors();
    let closing = closing.ok_or_else(|| TestCaseError::fail("it ended without a word"))?;
    prop_assert_eq!(&closing.name, "closing");
    prop_assert_eq!(&closing.json()["reason"], "view_changed");
    prop_assert!(stream.next_but_cursors().is_none());
    Ok(())
}

/// Checks that a stream shows, of the facts from this one on, exactly those of its view.
fn check_stream(
    stream: &mut Stream,
    watcher: &Watcher,
    record: &Record<'_>,
    from: usize,
    act: Act,
) -> Result<(), TestCaseError> {
    // A stream that has nothing to come says where it stands only when that moves on.
    if from == record.stored.len() {
        return Ok(());
    }
    let events = read_to_the_end(stream, record);
    for event in &events {
        check_payload(event, record)?;
    }
    let numbers: Vec<usize> = events.iter().map(number_of).collect();
    prop_assert_eq!(
        numbers,
        record.expected(watcher, from, act),
        "{:?}",
        watcher
    );
    Ok(())
}

#[test]
fn nobody_receives_what_is_not_theirs_and_everybody_all_that_is() {
    // A stream that may see nothing says so only with its next beat.
    let server = Setup::new()
        .set("TIDINGS_STREAM__HEARTBEAT", "100ms")
        .start();
    let cases = std::env::var("TIDINGS_ISOLATION_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(64);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    runner
        .run(&story(), |story| play(&server, &story))
        .unwrap_or_else(|failure| panic!("{failure}"));
}
