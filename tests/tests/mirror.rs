//! Nodes whose log is a copy of streams in NATS JetStream: what is published there or through another node
//! arrives once, in order, under cursors that any node understands. See `spec/protocol.md`, "On the wire" and
//! "NATS JetStream layouts".

use serde_json::json;
use tidings_tests::brokers::{NatsOptions, NatsServer, wait_for};
use tidings_tests::publish::status;
use tidings_tests::scrape::Scrape;
use tidings_tests::{Event, GUARD, NatsClient, Request, Server, Setup, Stream, new_tenant};

/// The streams of the layout `fleet`, with what they take.
const FLEET: [(&str, &[&str]); 3] = [
    ("DEVICE_EVENTS", &["device.>", "config.>"]),
    ("ALERT_EVENTS", &["alert.>"]),
    ("OPERATION_EVENTS", &["firmware.>"]),
];

/// How many streams are open at once while the broker is asked.
const HELD: usize = 500;

fn setup(nats: &NatsServer, layout: &str) -> Setup {
    Setup::new()
        .set("TIDINGS_LOG__KIND", "jetstream")
        .set("TIDINGS_LOG__LAYOUT", layout)
        .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
        .set("TIDINGS_NATS__URL", &nats.url())
}

fn number(event: &Event) -> u64 {
    event.json()["n"]
        .as_u64()
        .unwrap_or_else(|| panic!("{event:?}"))
}

fn numbers(stream: &mut Stream, count: usize) -> Vec<u64> {
    stream.events(count).iter().map(number).collect()
}

#[test]
fn what_is_published_on_one_node_is_read_and_resumed_on_another() {
    let nats = NatsServer::start(&NatsOptions::new());
    let a = setup(&nats, "own").start();
    let mut b = setup(&nats, "own").start();
    let tenant = new_tenant();
    let mut on_b = b.watch(&tenant).open();
    let receipts: Vec<_> = (1..=3)
        .map(|n| a.publish(&tenant, &status("r1", n)))
        .collect();
    let seen = on_b.events(3);
    for (event, receipt) in seen.iter().zip(&receipts) {
        assert_eq!(
            event.id.as_deref(),
            Some(receipt.first.as_str()),
            "one name on all nodes"
        );
    }
    // From the middle, on the other node; and with a node that was killed meanwhile.
    b.kill();
    a.publish(&tenant, &status("r1", 4));
    let after = &seen[0].last_event_id;
    assert_eq!(
        numbers(&mut a.watch(&tenant).after(after).open(), 3),
        [2, 3, 4]
    );
    b.start_again();
    let mut again = b.watch(&tenant).after(after).open();
    assert_eq!(numbers(&mut again, 3), [2, 3, 4]);
    b.publish(&tenant, &status("r1", 5));
    assert_eq!(numbers(&mut again, 1), [5]);
    // What every node copies, a node that never saw it has from the beginning.
    let c = setup(&nats, "own").start();
    let mut late = c.watch(&tenant).after(after).open();
    assert_eq!(numbers(&mut late, 4), [2, 3, 4, 5]);
    let page = c.history(&tenant, "");
    assert_eq!(page["events"].as_array().expect("a list").len(), 5);
}

#[test]
fn a_key_makes_a_repeated_publish_safe_on_whichever_node() {
    let nats = NatsServer::start(&NatsOptions::new());
    let nodes = [setup(&nats, "own").start(), setup(&nats, "own").start()];
    let tenant = new_tenant();
    let mut event = status("r1", 1);
    event["key"] = "once".into();
    let first = nodes[0].publish(&tenant, &event);
    let second = nodes[1].publish(&tenant, &event);
    assert_eq!(
        (first.accepted, second.accepted, second.duplicates),
        (1, 0, 1)
    );
    assert_eq!(first.first, second.first);
    event["data"]["n"] = 2.into();
    let request = tidings_tests::publish::one(&tenant, &nodes[1].publisher(&tenant), &event);
    let refused = nodes[1].exchange(&request).expect(422);
    assert_eq!(refused["field"], "key");
}

#[test]
fn events_of_the_fleet_arrive_typed_and_once_and_only_at_their_tenant() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    client.create(FLEET[0]);
    client.create(FLEET[1]);
    let server = setup(&nats, "fleet").start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let mut stream = server.watch(&tenant).open();
    client.put("device.status.r1", &tenant, 1);
    client.put("device.metrics.health.r1", &tenant, 2);
    client.put("device.status.r2", &other, 100);
    client.put(&format!("config.push.{tenant}.r1"), &tenant, 3);
    client.put("device.unknown.r1", &tenant, 101);
    client.ask("device.status.r1", "no JSON");
    client.ask("device.status.r1", r#"{"n":102}"#);
    client.put("device.status.r1", &tenant, 4);
    let kinds: Vec<_> = stream
        .events(4)
        .into_iter()
        .map(|event| (number(&event), event.name))
        .collect();
    let expected = [
        (1, "device_status"),
        (2, "metric_update"),
        (3, "config_push"),
        (4, "device_status"),
    ];
    assert_eq!(
        kinds,
        expected.map(|(number, name)| (number, name.to_owned()))
    );
    client.put(&format!("alert.fired.{tenant}"), &tenant, 5);
    let fired = stream.next_event();
    assert_eq!((number(&fired), fired.name.as_str()), (5, "alert_fired"));
    // What was passed over is counted, and what is missing is said.
    let skipped = |reason: &str| {
        format!("tidings_source_skipped_total{{stream=\"DEVICE_EVENTS\",reason=\"{reason}\"}}")
    };
    let counted = Scrape::of(&server);
    for reason in ["payload", "no_tenant", "other_subject"] {
        let count = counted.value(&skipped(reason));
        assert!((count - 1.0).abs() < f64::EPSILON, "{count} of {reason}");
    }
    let said = |line: &str, stream: &str| {
        server.wait_for_log(line, |text| {
            text.lines().any(|written| {
                written.contains(&format!("\"{line}\""))
                    && written.contains(&format!("\"{stream}\""))
                    && written.contains("\"WARN\"")
            })
        })
    };
    said("source_message_skipped", "DEVICE_EVENTS");
    let text = said("source_missing", "OPERATION_EVENTS");
    let missing = |line: &&str| line.contains("source_missing");
    assert_eq!(text.lines().filter(missing).count(), 1, "it is said once");
    // A source that appears later is picked up; a cursor from before it is told that it is new.
    client.create(FLEET[2]);
    client.put(&format!("firmware.progress.{tenant}.r1"), &tenant, 6);
    assert_eq!(number(&stream.next_event()), 6);
    let mut resumed = server.watch(&tenant).after(&fired.last_event_id).open();
    let gap = resumed.next_event();
    assert_eq!(gap.json()["source"], "OPERATION_EVENTS", "{gap:?}");
    assert_eq!(numbers(&mut resumed, 1), [6]);
    // Others publish here.
    let request =
        tidings_tests::publish::one(&tenant, &server.publisher(&tenant), &status("r1", 1));
    server.exchange(&request).expect(405);
}

#[test]
fn a_stream_that_is_made_anew_restarts_alone_with_a_gap_that_names_it() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    for stream in FLEET {
        client.create(stream);
    }
    let server = setup(&nats, "fleet").start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    client.put("device.status.r1", &tenant, 1);
    assert_eq!(number(&stream.next_event()), 1);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 2);
    let seen = stream.next_event();
    client.delete("ALERT_EVENTS");
    client.create(FLEET[1]);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 3);
    client.put("device.status.r1", &tenant, 4);
    let mut rest: Vec<u64> = numbers(&mut stream, 2);
    rest.sort_unstable();
    assert_eq!(rest, [3, 4]);
    let mut resumed = server.watch(&tenant).after(&seen.last_event_id).open();
    let gap = resumed.next_event();
    assert_eq!(
        (gap.name.as_str(), &gap.json()["source"]),
        ("gap", &json!("ALERT_EVENTS"))
    );
    let mut rest: Vec<u64> = numbers(&mut resumed, 2);
    rest.sort_unstable();
    assert_eq!(rest, [3, 4]);
    // An id of the server that was here before names nothing.
    let mut old = server.watch(&tenant).after("4711").open();
    assert_eq!(old.next_event().json()["reason"], "malformed");
}

#[test]
fn streams_cost_the_broker_nothing() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    for stream in FLEET {
        client.create(stream);
    }
    let server = setup(&nats, "fleet").start();
    let tenant = new_tenant();
    client.put("device.status.r1", &tenant, 1);
    let mut first = server
        .watch(&tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .open();
    let begin = first.next_event();
    let count = |client: &mut NatsClient| FLEET.map(|(stream, _)| client.consumers(stream));
    let all = || {
        let (connections, jetstream) = (nats.page("/connz"), nats.page("/jsz"));
        [&connections["num_connections"], &jetstream["consumers"]]
            .map(|number| number.as_u64().expect("a number"))
    };
    // A source that was silent for too long is followed anew, and who followed it before is there for a while.
    wait_for("one for each source", || count(&mut client) == [1; 3]);
    let before = all();
    let streams = std::env::var("TIDINGS_BROKER_STREAMS").ok();
    let streams: usize = streams.map_or(10_000, |text| text.parse().expect("a number"));
    let mut held = Vec::new();
    for opened in 1..=streams {
        let mut stream = server
            .watch(&tenant)
            .query("since", "2020-01-01T00:00:00Z")
            .open();
        assert_eq!(stream.next_event().id, begin.id);
        held.push(stream);
        if held.len() == HELD || opened == streams {
            // Asked while all of them are open, and when they are gone.
            let mut costs_nothing = || {
                let are_no_more = all().iter().zip(&before).all(|(now, before)| now <= before);
                are_no_more && count(&mut client) == [1; 3]
            };
            wait_for("a broker without open streams", &mut costs_nothing);
            held.clear();
            wait_for("a broker without those that are gone", costs_nothing);
        }
    }
}

#[test]
fn streams_are_told_when_nats_is_away_and_get_everything_when_it_is_back() {
    let mut nats = NatsServer::start(&NatsOptions::new());
    let server = setup(&nats, "own").start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    server.publish(&tenant, &status("r1", 1));
    assert_eq!(number(&stream.next_event()), 1);
    nats.kill();
    let stale = stream.next_named("stale");
    assert!(stale.json()["reason"].is_string(), "{stale:?}");
    let unready = server.ask_admin(&Request::get("/readyz"));
    assert_eq!(unready.status, 503, "{unready:?}");
    assert!(unready.text().contains("\"broker_away\""), "{unready:?}");
    let request =
        tidings_tests::publish::one(&tenant, &server.publisher(&tenant), &status("r1", 2));
    let refused = server.exchange(&request);
    assert_eq!(refused.status, 503, "{refused:?}");
    nats.start_again();
    stream.next_named("fresh");
    publish_in_the_end(&server, &tenant, 3);
    loop {
        // What was refused may have been stored all the same, before.
        match number(&stream.next_event()) {
            2 => {}
            seen => break assert_eq!(seen, 3),
        }
    }
}

/// The publisher's own connection may come back a moment later than the reader's.
fn publish_in_the_end(server: &Server, tenant: &str, number: u64) {
    let mut event = status("r1", number);
    event["key"] = format!("n{number}").into();
    let deadline = std::time::Instant::now() + GUARD;
    loop {
        let request = tidings_tests::publish::one(tenant, &server.publisher(tenant), &event);
        let answer = server.exchange(&request);
        if answer.status == 200 {
            return;
        }
        assert!(
            answer.status == 503 && std::time::Instant::now() < deadline,
            "{answer:?}"
        );
    }
}
