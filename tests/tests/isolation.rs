//! Isolation: nobody receives an event that the rules do not allow, and everybody receives all that
//! they do, live, on replay (by cursor and by time) and in the history. The rules are written a
//! second time here, as a model that has no code in common with the server's.

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
}

/// Somebody who watches, with what bounds the view.
#[derive(Clone, Debug)]
struct Watcher {
    who: Who,
    tenant: usize,
    claimed_devices: Option<Vec<&'static str>>,
    claimed_types: Option<Vec<&'static str>>,
    asked_types: Option<Vec<&'static str>>,
    asked_devices: Option<Vec<&'static str>>,
    by_stream_token: bool,
    how: How,
}

impl Watcher {
    /// The rules: the tenant, then the claims, then the filters.
    fn may_see(&self, fact: &Fact) -> bool {
        let all_tenants = matches!(self.who, Who::SuperAdminOfAll | Who::SuperAdminAtRoot);
        (all_tenants || fact.tenant == self.tenant) && self.may_see_within_the_tenant(fact)
    }

    fn may_see_within_the_tenant(&self, fact: &Fact) -> bool {
        let device_in = |list: &Option<Vec<&str>>| match list {
            None => true,
            Some(devices) => fact.device.is_some_and(|device| devices.contains(&device)),
        };
        let type_in = |list: &Option<Vec<&str>>| match list {
            None => true,
            Some(types) => types.contains(&fact.event_type),
        };
        device_in(&self.claimed_devices)
            && device_in(&self.asked_devices)
            && type_in(&self.claimed_types)
            && type_in(&self.asked_types)
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
    )
        .prop_map(|(tenant, event_type, device, device_in)| Fact {
            tenant,
            event_type,
            device,
            device_in,
        })
}

fn some_of(
    all: &'static [&'static str],
    least: usize,
) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    proptest::option::weighted(0.4, subsequence(all, least..=all.len()))
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
    ];
    (
        who,
        0..tenants,
        // An empty claim shows nothing; an empty filter can't be asked for.
        (some_of(&DEVICES, 0), some_of(&TYPES, 0)),
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
                asked_types: asked.0,
                asked_devices: asked.1,
                by_stream_token,
                how,
            },
        )
}

/// What happens: facts before the streams open, the streams, facts after.
#[derive(Clone, Debug)]
struct Story {
    tenants: usize,
    before: Vec<Fact>,
    watchers: Vec<Watcher>,
    after: Vec<Fact>,
}

fn story() -> impl Strategy<Value = Story> {
    (1_usize..=3).prop_flat_map(|tenants| {
        (
            proptest::collection::vec(fact(tenants), 1..25),
            proptest::collection::vec(watcher(tenants), 1..6),
            proptest::collection::vec(fact(tenants), 0..25),
        )
            .prop_map(move |(before, watchers, after)| Story {
                tenants,
                before,
                watchers,
                after,
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
        let mut data = json!({"n": number});
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

    /// The numbers of the facts from this one on that the watcher may see.
    fn expected(&self, watcher: &Watcher, from: usize) -> Vec<usize> {
        self.stored[from..]
            .iter()
            .filter(|stored| watcher.may_see(&stored.fact))
            .map(|stored| stored.number)
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

fn check_history(
    server: &Server,
    watcher: &Watcher,
    record: &Record<'_>,
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
        .filter(|stored| {
            stored.fact.tenant == watcher.tenant && watcher.may_see_within_the_tenant(&stored.fact)
        })
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
        // A stream that has nothing to come says where it stands only when that moves on.
        if *from == record.stored.len() {
            continue;
        }
        let events = read_to_the_end(stream, &record);
        for event in &events {
            check_payload(event, &record)?;
        }
        let numbers: Vec<usize> = events.iter().map(number_of).collect();
        prop_assert_eq!(numbers, record.expected(watcher, *from), "{:?}", watcher);
        check_history(server, watcher, &record)?;
    }
    Ok(())
}

#[test]
fn nobody_receives_what_is_not_theirs_and_everybody_all_that_is() {
    // A stream that may see nothing says so only with its next beat.
    let server = Setup::new()
        .set("TIDINGS_STREAM__HEARTBEAT", "200ms")
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
