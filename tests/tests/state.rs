//! The state: snapshots on streams, `GET /tenants/{id}/state`, what takes subjects away, and conflation.
//! See `spec/protocol.md`, "Subjects" and "Snapshot and conflation". What an event is the latest state of
//! is written here a second time, from that text.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tidings_tests::publish::status;
use tidings_tests::{
    AccessToken, Answer, Event, Request, Server, Setup, Stream, Watch, new_tenant, position,
    publish,
};

/// The last event of each living subject, by kind and key: its type, its cursor where it is known, its data.
type Picture = BTreeMap<(String, String), Value>;

/// Kind, key, and whether the subject ends.
fn subject(event_type: &str, data: &Value) -> Option<(&'static str, String, bool)> {
    let text = |field: &str| data[field].as_str().map(str::to_owned);
    let stage = |last: &[&str]| {
        data["stage"]
            .as_str()
            .is_some_and(|stage| last.contains(&stage))
    };
    match event_type {
        "device_status" => Some(("device_status", text("device_id")?, false)),
        "metric_update" => {
            let key = format!("{}/{}", text("device_id")?, text("type")?);
            Some(("metric_update", key, false))
        }
        "alert_fired" => Some(("alert_fired", text("alert_event_id")?, false)),
        "alert_resolved" => Some(("alert_fired", text("alert_event_id")?, true)),
        "config_push" => {
            let fallback = || Some(format!("~device_id:{}", text("device_id")?));
            let key = text("push_operation_id").or_else(fallback)?;
            Some((
                "config_push",
                key,
                stage(&["committed", "reverted", "failed"]),
            ))
        }
        "firmware_progress" => Some((
            "firmware_progress",
            text("job_id")?,
            stage(&["completed", "failed"]),
        )),
        _ => None,
    }
}

fn fold(picture: &mut Picture, event_type: &str, data: &Value) {
    if event_type == "removed" {
        let name = |field: &str| data[field].as_str().expect("a text").to_owned();
        picture.remove(&(name("type"), name("subject")));
        return;
    }
    let Some((kind, key, ends)) = subject(event_type, data) else {
        return;
    };
    let name = (kind.to_owned(), key);
    if ends {
        picture.remove(&name);
    } else {
        picture.insert(name, data.clone());
    }
}

fn folded<'a>(events: impl IntoIterator<Item = &'a Event>) -> Picture {
    let mut picture = Picture::new();
    for event in events {
        fold(&mut picture, &event.name, &event.json());
    }
    picture
}

/// Reads the snapshot that a stream begins with. Gives the picture, and the cursor that it is true at.
fn read_snapshot(stream: &mut Stream) -> (Picture, String) {
    let mut picture = Picture::new();
    loop {
        let event = stream.next_of_any().expect("the stream stays open");
        if event.name == "snapshot_end" {
            return (picture, event.cursor().to_owned());
        }
        assert_eq!(event.name, "snapshot", "{event:?}");
        assert_eq!(event.id, None, "{event:?}");
        let subject = event.json();
        let before = picture.len();
        let event_type = subject["type"].as_str().expect("a type");
        fold(&mut picture, event_type, &subject["data"]);
        assert_eq!(
            picture.len(),
            before + 1,
            "a subject of its own that lives: {subject}"
        );
    }
}

fn state(server: &Server, tenant: &str, access: &str, query: &str) -> Answer {
    let target = format!("/tenants/{tenant}/state{query}");
    server.exchange(&Request::get(&target).bearer(access))
}

fn picture_of(state: &Value) -> Picture {
    let mut picture = Picture::new();
    for subject in state["subjects"].as_array().expect("a list") {
        fold(
            &mut picture,
            subject["type"].as_str().expect("a type"),
            &subject["data"],
        );
    }
    picture
}

fn remove_device(server: &Server, tenant: &str, device: &str, access: &str) -> Answer {
    let target = format!("/tenants/{tenant}/devices/{device}");
    server.exchange(&Request::new("DELETE", &target).bearer(access))
}

const DEVICES: [&str; 3] = ["r1", "r10", "R1"];

#[derive(Clone, Debug)]
enum Step {
    Publish(Value),
    Remove(&'static str),
    /// Killed, and started again.
    Kill,
}

/// What is published of a subject is always of one device.
fn any_event() -> impl Strategy<Value = Value> {
    let stages = ["pushing", "committed", "failed", "downloading", "completed"];
    (
        0_usize..7,
        select(DEVICES.to_vec()),
        0_u8..2,
        select(stages.to_vec()),
        any::<u32>(),
    )
        .prop_map(|(what, device, number, stage, n)| {
            let named = |name: &str| format!("{name}-{device}-{number}");
            let (event_type, mut data) = match what {
                0 => ("device_status", json!({"status": "online"})),
                1 => (
                    "metric_update",
                    json!({"type": (if number == 0 { "health" } else { "wireless" })}),
                ),
                2 => ("alert_fired", json!({"alert_event_id": named("a")})),
                3 => ("alert_resolved", json!({"alert_event_id": named("a")})),
                4 => (
                    "config_push",
                    json!({"push_operation_id": named("p"), "stage": stage}),
                ),
                5 => (
                    "config_push",
                    json!({"push_operation_id": null, "stage": stage}),
                ),
                _ => (
                    "firmware_progress",
                    json!({"job_id": named("j"), "stage": stage}),
                ),
            };
            data["n"] = n.into();
            json!({"type": event_type, "device_id": device, "data": data})
        })
}

fn steps(kills: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => any_event().prop_map(Step::Publish),
        2 => select(DEVICES.to_vec()).prop_map(Step::Remove),
        u32::from(kills) => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Claims and filters. A filter by types takes a kind of subject whole, since one that leaves out the ends
/// of alerts does not see them end.
#[derive(Clone, Debug)]
struct Bounds {
    claimed_devices: Option<Vec<&'static str>>,
    asked_devices: Option<Vec<&'static str>>,
    claimed_types: Option<Vec<&'static str>>,
    asked_types: Option<Vec<&'static str>>,
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let devices =
        || proptest::option::weighted(0.4, proptest::sample::subsequence(&DEVICES, 1..=2));
    let types = || {
        let kinds = [
            vec!["device_status"],
            vec!["metric_update", "device_status"],
            vec!["alert_fired", "alert_resolved"],
            vec![
                "config_push",
                "firmware_progress",
                "alert_fired",
                "alert_resolved",
            ],
        ];
        proptest::option::weighted(0.4, select(kinds.to_vec()))
    };
    (devices(), devices(), types(), types()).prop_map(
        |(claimed_devices, asked_devices, claimed_types, asked_types)| Bounds {
            claimed_devices,
            asked_devices,
            claimed_types,
            asked_types,
        },
    )
}

impl Bounds {
    fn access(&self, server: &Server, tenant: &str) -> String {
        let mut token = AccessToken::new("viewer-1", tenant, "viewer");
        if let Some(devices) = &self.claimed_devices {
            token = token.claim("devices", json!(devices));
        }
        if let Some(types) = &self.claimed_types {
            token = token.claim("types", json!(types));
        }
        server.sign(&token)
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

    fn watch(&self, server: &Server, tenant: &str) -> Watch {
        let watch = server
            .stream_of(tenant)
            .bearer(&self.access(server, tenant));
        self.filters()
            .into_iter()
            .fold(watch, |watch, (name, value)| watch.query(name, &value))
    }

    fn query(&self) -> String {
        let filters = self.filters().into_iter();
        let pairs: Vec<String> = filters
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if pairs.is_empty() {
            String::new()
        } else {
            format!("?{}", pairs.join("&"))
        }
    }
}

/// Reads what a stream shows up to a position, and no further.
fn read_through(stream: &mut Stream, last: u64) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = stream.next_of_any().expect("the stream stays open");
        let reached = position(event.cursor()) >= last;
        if event.name != "cursor" {
            events.push(event);
        }
        if reached {
            return events;
        }
    }
}

fn take_steps(server: &mut Server, tenant: &str, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Publish(event) => drop(server.publish(tenant, event)),
            Step::Remove(device) => {
                let answer = remove_device(server, tenant, device, &server.super_admin());
                assert!(matches!(answer.status, 204 | 404), "{}", answer.head);
            }
            Step::Kill => {
                server.kill();
                server.start_again();
            }
        }
    }
}

fn play(
    server: &mut Server,
    before: &[Step],
    after: &[Step],
    bounds: &[Bounds],
) -> Result<(), TestCaseError> {
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 0));
    take_steps(server, &tenant, before);
    let mut open: Vec<Stream> = bounds
        .iter()
        .map(|bounds| {
            bounds
                .watch(server, &tenant)
                .query("snapshot", "true")
                .open()
        })
        .collect();
    take_steps(server, &tenant, after);
    let last = position(&server.publish(&tenant, &status("r10", 1)).last);
    for (stream, bounds) in open.iter_mut().zip(bounds) {
        let from_the_beginning = bounds
            .watch(server, &tenant)
            .query("since", "1970-01-01T00:00:00Z");
        let whole = folded(&read_through(&mut from_the_beginning.open(), last));

        let (mut picture, cursor) = read_snapshot(stream);
        if position(&cursor) < last {
            for event in read_through(stream, last) {
                prop_assert!(position(event.cursor()) > position(&cursor), "{:?}", event);
                fold(&mut picture, &event.name, &event.json());
            }
        }
        prop_assert_eq!(&picture, &whole, "snapshot and what follows, {:?}", bounds);

        let answer = state(
            server,
            &tenant,
            &bounds.access(server, &tenant),
            &bounds.query(),
        );
        let now = answer.expect(200);
        prop_assert!(position(now["cursor"].as_str().expect("a cursor")) >= last);
        prop_assert_eq!(&picture_of(&now), &whole, "the state, {:?}", bounds);
    }
    Ok(())
}

#[test]
fn a_snapshot_and_what_follows_are_what_a_stream_from_the_beginning_shows() {
    let mut server = Setup::new()
        .set("TIDINGS_STREAM__HEARTBEAT", "100ms")
        .start();
    let mut runner = TestRunner::new(Config {
        cases: 16,
        failure_persistence: None,
        ..Config::default()
    });
    let story = (
        steps(true),
        steps(false),
        proptest::collection::vec(bounds(), 1..4),
    );
    let played = std::cell::RefCell::new(&mut server);
    let outcome = runner.run(&story, |(before, after, bounds)| {
        play(&mut played.borrow_mut(), &before, &after, &bounds)
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_can_not_be_asked_for_is_refused_by_name() {
    let server = Server::start();
    let tenant = new_tenant();
    let viewer = server.viewer(&tenant);
    for (query, parameter) in [
        (vec![("snapshot", "maybe")], "snapshot"),
        (
            vec![("snapshot", "true"), ("since", "2026-01-01T00:00:00Z")],
            "snapshot",
        ),
        (vec![("conflate", "metric_updates")], "conflate"),
        (vec![("conflate", "metric_update,removed")], "conflate"),
    ] {
        let watch = query.iter().fold(
            server.stream_of(&tenant).bearer(&viewer),
            |watch, (name, value)| watch.query(name, value),
        );
        let problem = watch.refused().problem(422);
        assert_eq!(problem["parameter"], parameter, "{problem}");
    }
    let answer = state(&server, &tenant, &viewer, "?types=nothing");
    assert_eq!(answer.problem(422)["parameter"], "types");
    let other = server.viewer(&new_tenant());
    state(&server, &tenant, &other, "").problem(403);
    state(&server, &tenant, "e30.e30.e30", "").problem(401);
}

#[test]
fn an_empty_tenant_has_an_empty_snapshot_with_a_cursor() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).query("snapshot", "true").open();
    let (picture, cursor) = read_snapshot(&mut stream);
    assert!(picture.is_empty());
    let receipt = server.publish(&tenant, &status("r1", 1));
    let event = stream.next_event();
    assert_eq!(event.cursor(), receipt.last);
    // The cursor is one to go on from.
    let mut resumed = server.watch(&tenant).after(&cursor).open();
    assert_eq!(resumed.next_event().cursor(), receipt.last);
    let state = state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    assert_eq!(state["subjects"][0]["id"], receipt.last.as_str());
    assert_eq!(state["subjects"][0]["type"], "device_status");
}

#[test]
fn a_cursor_wins_over_a_snapshot_and_a_gap_brings_it_back() {
    let server = Server::start();
    let tenant = new_tenant();
    let first = server.publish(&tenant, &status("r1", 1));
    let second = server.publish(&tenant, &status("r1", 2));
    let watch = || server.watch(&tenant).query("snapshot", "true");
    let mut resumed = watch().after(&first.last).open();
    assert_eq!(resumed.next_event().cursor(), second.last);

    // A snapshot may be of a moment before what was just stored; the state that is asked for is not.
    state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    let mut lost = watch().after("nothing").open();
    let gap = lost.next_of_any().expect("a gap");
    assert_eq!(
        (gap.name.as_str(), gap.id.as_ref()),
        ("gap", None),
        "{gap:?}"
    );
    let (picture, cursor) = read_snapshot(&mut lost);
    assert_eq!(picture.len(), 1);
    assert_eq!(gap.json()["resumed_at"], cursor.as_str());
    assert_eq!(gap.json()["reason"], "malformed");
    let third = server.publish(&tenant, &status("r1", 3));
    assert_eq!(lost.next_event().cursor(), third.last);
}

#[test]
fn a_device_that_is_taken_away_is_gone_for_everyone_who_saw_it() {
    let server = Server::start();
    let tenant = new_tenant();
    let metric = json!({"type": "metric_update", "device_id": "r1", "data": {"type": "health"}});
    let alert = json!({"type": "alert_fired", "data": {"alert_event_id": "a1"}});
    server.publish_all(&tenant, &[status("r1", 1), metric, status("r2", 1), alert]);
    let of_types = |types: &str| server.watch(&tenant).query("types", types).open();
    let mut statuses = of_types("device_status");
    let mut metrics = of_types("metric_update");
    let mut other = server.watch(&tenant).query("device_id", "r2").open();

    let operator = server.sign(&AccessToken::new("o", &tenant, "tenant_operator"));
    let limited = AccessToken::new("o", &tenant, "tenant_operator").claim("devices", json!(["r1"]));
    remove_device(&server, &tenant, "r1", &server.viewer(&tenant)).problem(403);
    remove_device(&server, &tenant, "r1", &server.sign(&limited)).problem(403);
    // Who is limited to types would take away subjects of all the others.
    let limited = AccessToken::new("o", &tenant, "tenant_operator");
    let limited = limited.claim("types", json!(["device_status"]));
    remove_device(&server, &tenant, "r1", &server.sign(&limited)).problem(403);
    remove_device(&server, &new_tenant(), "r1", &operator).problem(403);
    remove_device(&server, &tenant, "r1%20", &operator).problem(422);
    remove_device(&server, &tenant, "r3", &operator).problem(404);
    let answer = remove_device(&server, &tenant, "r1", &operator);
    assert_eq!(answer.status, 204, "{}", answer.head);
    remove_device(&server, &tenant, "r1", &operator).problem(404);

    let removed = |kind: &str, key: &str| json!({"tenant_id": tenant, "device_id": "r1", "subject": key, "type": kind});
    let event = statuses.next_event();
    assert_eq!(event.name, "removed");
    assert_eq!(event.json(), removed("device_status", "r1"));
    assert_eq!(
        metrics.next_event().json(),
        removed("metric_update", "r1/health")
    );
    let marker = server.publish(&tenant, &status("r2", 2));
    assert_eq!(
        other.next_event().cursor(),
        marker.last,
        "nothing of r1 before it"
    );

    let read = || state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    let left: Vec<(String, String)> = picture_of(&read()).into_keys().collect();
    let name = |kind: &str, key: &str| (kind.to_owned(), key.to_owned());
    assert_eq!(
        left,
        [name("alert_fired", "a1"), name("device_status", "r2")]
    );
    // It comes back as any other does.
    server.publish(&tenant, &status("r1", 3));
    assert_eq!(picture_of(&read()).len(), 3);
    let (picture, _) = read_snapshot(&mut server.watch(&tenant).query("snapshot", "true").open());
    assert!(picture.contains_key(&name("device_status", "r1")));
}

#[test]
fn a_push_that_never_says_how_it_ended_is_taken_away_in_time() {
    let server = Setup::new()
        .set(
            "TIDINGS_SUBJECTS",
            r#"{ config_push = { fields = ["push_operation_id"], max_age = "1s" } }"#,
        )
        .start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let push = json!({"type": "config_push", "device_id": "r1", "data": {"push_operation_id": "p", "stage": "pushing"}});
    server.publish_all(&tenant, &[push, status("r1", 1)]);
    assert_eq!(stream.next_event().name, "config_push");
    assert_eq!(stream.next_event().name, "device_status");
    let removed = stream.next_event();
    assert_eq!(removed.name, "removed");
    let expected =
        json!({"tenant_id": tenant, "device_id": "r1", "subject": "p", "type": "config_push"});
    assert_eq!(removed.json(), expected);
    let state = state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    assert_eq!(
        picture_of(&state).len(),
        1,
        "the status does not age: {state}"
    );
}

#[test]
fn a_subject_beyond_the_limit_is_refused_and_the_known_ones_go_on() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__SUBJECTS_PER_TYPE", "3")
        .start();
    let tenant = new_tenant();
    for device in ["r1", "r2", "r3"] {
        server.publish(&tenant, &status(device, 1));
    }
    // The state follows what is durable; reading it waits for that.
    state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    let publisher = server.publisher(&tenant);
    let answer = server.exchange(&publish::one(&tenant, &publisher, &status("r4", 1)));
    let problem = answer.problem(429);
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.contains("limits.subjects_per_type"), "{detail}");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    server.publish(&tenant, &status("r3", 2));
    server.publish(
        &tenant,
        &json!({"type": "alert_fired", "data": {"alert_event_id": "a"}}),
    );
    assert_eq!(
        remove_device(&server, &tenant, "r1", &server.super_admin()).status,
        204
    );
    state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    server.publish(&tenant, &status("r4", 1));
}

#[test]
fn a_large_snapshot_comes_whole_however_the_stream_goes_out() {
    const SUBJECTS: u64 = 3_000;
    let server = Setup::new()
        .set("TIDINGS_STREAM__COMPRESSION", r#"["gzip"]"#)
        .start();
    let tenant = new_tenant();
    let padding = "x".repeat(400);
    let event = |number: u64| json!({"type": "device_status", "device_id": format!("r{number}"), "data": {"n": number, "padding": padding}});
    let events: Vec<Value> = (0..SUBJECTS).map(event).collect();
    server.publish_all(&tenant, &events);
    // A snapshot may be of a moment before what was just stored; the state that is asked for is not.
    state(&server, &tenant, &server.viewer(&tenant), "").expect(200);
    let watch = || server.watch(&tenant).query("snapshot", "true");
    // One that does not read at first, and one that does.
    let mut slow = watch().receive_buffer(4096).open();
    let mut fast = watch().open();
    assert_eq!(read_snapshot(&mut fast).0.len(), 3_000);
    let marker = server.publish(&tenant, &status("r1", 9));
    assert_eq!(
        fast.next_event().cursor(),
        marker.last,
        "the slow one holds up nobody"
    );
    let (picture, cursor) = read_snapshot(&mut slow);
    assert_eq!(picture.len(), 3_000);
    assert!(position(&cursor) < position(&marker.last));
    assert_eq!(slow.next_event().cursor(), marker.last);

    let request = watch().request().header("Accept-Encoding", "gzip");
    let mut connection = tidings_tests::Connection::open(server.address).expect("a connection");
    connection.send(&request.bytes()).expect("sent");
    let head = connection.read_head().expect("a head");
    assert_eq!(
        head.header("content-encoding"),
        Some("gzip"),
        "{}",
        head.head
    );
    let (socket, ahead) = connection.into_parts();
    let coded = std::io::Read::chain(std::io::Cursor::new(ahead), socket);
    let mut decoder = flate2::read::GzDecoder::new(coded);
    let mut text = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while tidings_tests::Decoder::default().feed(&text).last().is_none_or(
        |item| !matches!(item, tidings_tests::Item::Event(event) if event.name == "snapshot_end"),
    ) {
        let count = std::io::Read::read(&mut decoder, &mut chunk).expect("gzip");
        text.extend_from_slice(&chunk[..count]);
    }
    let count = String::from_utf8(text)
        .expect("UTF-8")
        .matches("event: snapshot\n")
        .count();
    assert_eq!(count, 3_000);
}

/// Publishes metrics of a few subjects, and a status now and then. Gives the cursors of the statuses and of
/// each subject's last metric.
fn publish_many(server: &Server, tenant: &str, count: u64) -> (Vec<String>, BTreeMap<String, u64>) {
    let padding = "x".repeat(300);
    let mut statuses = Vec::new();
    let mut last = BTreeMap::new();
    for body in 0..count / 100 {
        let metrics: Vec<Value> = (0..100)
            .map(|number| {
                let (n, kind) = (body * 100 + number, format!("k{}", number % 10));
                last.insert(kind.clone(), n);
                json!({"type": "metric_update", "device_id": "r1", "data": {"type": kind, "n": n, "padding": padding}})
            })
            .collect();
        server.publish_all(tenant, &metrics);
        statuses.push(server.publish(tenant, &status("r1", body)).last);
    }
    (statuses, last)
}

#[test]
fn a_stream_that_lags_is_given_the_latest_and_everything_that_does_not_conflate() {
    const METRICS: u64 = 20_000;
    let mut server = Setup::new()
        .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        .start();
    let tenant = new_tenant();
    let mut lagging = server
        .watch(&tenant)
        .query("conflate", "default")
        .receive_buffer(4096)
        .open();
    let mut reading = server.watch(&tenant).receive_buffer(4096).open();
    let (statuses, last) = publish_many(&server, &tenant, METRICS);
    let marker = position(statuses.last().expect("some"));

    let events = read_through(&mut lagging, marker);
    let cursors: Vec<u64> = events
        .iter()
        .map(|event| position(event.cursor()))
        .collect();
    assert!(
        cursors.is_sorted_by(|one, other| one < other),
        "in order, each once"
    );
    let seen: Vec<&str> = events
        .iter()
        .filter(|event| event.name == "device_status")
        .map(Event::cursor)
        .collect();
    assert_eq!(seen, statuses);
    let mut latest = BTreeMap::new();
    let mut metrics = 0;
    for event in events.iter().filter(|event| event.name == "metric_update") {
        let data = event.json();
        let kind = data["type"].as_str().expect("a kind").to_owned();
        latest.insert(kind, data["n"].as_u64().expect("a number"));
        metrics += 1;
    }
    assert_eq!(latest, last);
    assert!(metrics < METRICS, "megabytes are more than sockets hold");

    let all = read_through(&mut reading, marker);
    assert_eq!(all.len() as u64, METRICS + statuses.len() as u64);

    let target = format!("/streams?tenant={tenant}");
    let listed = server.exchange(&Request::get(&target).bearer(&server.super_admin()));
    let listed = listed.expect(200);
    let mut counts: Vec<u64> = listed["streams"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|stream| stream["conflated"].as_u64().expect("a count"))
        .collect();
    let outcomes = |cursor: &str| {
        let target = format!("/tenants/{tenant}/events/{cursor}/audience");
        let answer = server.exchange(&Request::get(&target).bearer(&server.super_admin()));
        answer.expect(200).to_string()
    };
    assert!(!outcomes(&statuses[0]).contains("conflated"));
    let first = server.history(&tenant, "?types=metric_update&limit=1");
    let metric = outcomes(first["events"][0]["id"].as_str().expect("a cursor"));
    assert!(metric.contains("possibly_conflated"), "{metric}");
    counts.sort_unstable();
    assert_eq!(counts, [0, METRICS - metrics]);
    server.stop();
    assert_eq!(
        lagging.next_named("closing").json()["conflated"],
        METRICS - metrics
    );
    assert_eq!(reading.next_named("closing").json()["conflated"], 0);
}
