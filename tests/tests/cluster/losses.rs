//! A source that has lost events before a node could copy them: its retention, or whoever purged it, was faster. Nobody
//! is left to believe that there was nothing, and the state does not say what nobody can know any more.

use serde_json::{Value, json};
use tidings_tests::publish::{many, must, status};
use tidings_tests::{Door, Event, NatsClient, NatsOptions, NatsServer, Stream, new_tenant};

use crate::state::{subjects, wait_for_the_bucket};
use crate::support::{Node, issued, until};

const DEVICES: (&str, &[&str]) = ("DEVICE_EVENTS", &["device.>", "config.>"]);
const ALERTS: (&str, &[&str]) = ("ALERT_EVENTS", &["alert.>"]);

fn fleet(name: &str, url: &str) -> Node {
    Node::start_from(name, url, 1, |setup| {
        setup.set("TIDINGS_LOG__LAYOUT", "fleet")
    })
}

/// Publishes on a node; the cursor of the last.
fn publish(node: &Node, tenant: &str, numbers: std::ops::RangeInclusive<u64>) -> String {
    let access = issued("poller", tenant, "publisher", 0);
    let events: Vec<Value> = numbers.map(|number| status("r1", number)).collect();
    must(node.address, &many(tenant, &access, &events)).last
}

fn open(node: &Node, tenant: &str, cursor: Option<&str>) -> Stream {
    let watch = node
        .stream_of(tenant)
        .bearer(&issued("ada", tenant, "viewer", 0));
    match cursor {
        Some(cursor) => watch.after(cursor).open(),
        None => watch.open(),
    }
}

fn number(event: &Event) -> u64 {
    let number = event.json()["n"].as_u64();
    number.unwrap_or_else(|| panic!("no event: {event:?}"))
}

fn numbers(stream: &mut Stream, count: usize) -> Vec<u64> {
    stream.events(count).iter().map(number).collect()
}

/// What comes next is a gap of this source; its cursor.
fn lost(stream: &mut Stream, source: &str) -> String {
    let gap = stream.next_event();
    assert_eq!(gap.name, "gap", "{gap:?}");
    let data = gap.json();
    assert_eq!(
        (&data["reason"], &data["source"]),
        (&json!("expired"), &json!(source)),
        "{gap:?}"
    );
    assert_eq!(data["resumed_at"], *gap.cursor());
    gap.cursor().to_owned()
}

fn history(node: &Node, tenant: &str, query: &str) -> Value {
    let access = issued("ada", tenant, "viewer", 0);
    let target = format!("/tenants/{tenant}/events?{query}");
    node.exchange(&tidings_tests::Request::get(&target).bearer(&access))
        .expect(200)
}

fn numbers_of(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().expect("a list").iter();
    events
        .map(|event| event["data"]["n"].as_u64().expect("a number"))
        .collect()
}

fn purge(client: &mut NatsClient, stream: &str) {
    client.ask(&format!("$JS.API.STREAM.PURGE.{stream}"), "");
}

#[test]
fn a_node_that_was_down_tells_of_what_its_stream_lost_and_takes_the_state_from_the_others() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    let [mut a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let second = publish(&a, &tenant, 1..=2);
    let third = publish(&a, &tenant, 3..=3);
    let access = issued("poller", &tenant, "publisher", 0);
    let kept = json!({"type": "device_status", "device_id": "r2", "data": {"status": "online"}});
    must(a.address, &many(&tenant, &access, &[kept]));
    // It has read this back.
    open(&a, &tenant, Some(&third)).next_event();
    a.kill();
    let fifth = publish(&b, &tenant, 4..=5);
    let sixth = publish(&b, &tenant, 6..=6);
    wait_for_the_bucket(&mut client, &sixth);
    purge(&mut client, "TIDINGS");
    let seventh = publish(&b, &tenant, 7..=7);
    a.start_again();

    // Everything that it has, and what is missing at its place.
    let mut stream = open(&a, &tenant, Some(&second));
    assert_eq!(numbers(&mut stream, 1), [3]);
    assert_eq!(stream.next_event().json()["device_id"], "r2");
    assert_eq!(lost(&mut stream, "TIDINGS"), sixth);
    let seen = stream.next_event();
    assert_eq!((number(&seen), seen.cursor()), (7, &*seventh));
    // From the middle of what is missing, with a cursor of the node that had it.
    let mut stream = open(&a, &tenant, Some(&fifth));
    assert_eq!(lost(&mut stream, "TIDINGS"), sixth);
    assert_eq!(numbers(&mut stream, 1), [7]);
    // Behind it nothing is missing, and where it was not missing neither.
    assert_eq!(numbers(&mut open(&a, &tenant, Some(&sixth)), 1), [7]);
    let mut stream = open(&b, &tenant, Some(&fifth));
    assert_eq!(numbers(&mut stream, 2), [6, 7]);
    let page = history(&a, &tenant, &format!("after={fifth}"));
    assert_eq!(numbers_of(&page), [7]);
    assert_eq!(page["gap"]["source"], "TIDINGS", "{page}");
    let page = history(&a, &tenant, &format!("after={third}&limit=1"));
    assert_eq!(page["gap"], Value::Null, "{page}");
    let next = page["next"].as_str().expect("a cursor");
    let page = history(&a, &tenant, &format!("after={next}"));
    assert_eq!(numbers_of(&page), [7]);
    assert_eq!(page["gap"]["source"], "TIDINGS", "{page}");

    // What it did not read, the other has folded.
    assert_eq!(subjects(&a, &tenant), subjects(&b, &tenant));
    assert_eq!(subjects(&a, &tenant).as_array().expect("a list").len(), 2);
    // It stays so, and is nobody's tenant.
    a.kill();
    a.start_again();
    let mut stream = open(&a, &tenant, Some(&third));
    assert_eq!(stream.next_event().json()["device_id"], "r2");
    lost(&mut stream, "TIDINGS");
    assert_eq!(numbers(&mut stream, 1), [7]);
    assert_eq!(subjects(&a, &tenant), subjects(&b, &tenant));
    let everything = a
        .stream_of(&tenant)
        .bearer(&crate::support::root())
        .query("scope", "tenant");
    drop(everything.open());
    let tenants = a
        .exchange(&tidings_tests::Request::get("/tenants").bearer(&crate::support::root()))
        .expect(200);
    let listed = tenants["tenants"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{tenants}");
}

#[test]
fn what_nobody_read_is_in_no_state() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    let mut a = Node::start("a", &nats.url());
    let tenant = new_tenant();
    let last = publish(&a, &tenant, 1..=1);
    // It is what this node writes there, so it has read it back.
    wait_for_the_bucket(&mut client, &last);
    let mut b = Node::start("b", &nats.url());
    a.kill();
    publish(&b, &tenant, 2..=2);
    // Before it would take over the bucket from the one that wrote it.
    b.kill();
    purge(&mut client, "TIDINGS");
    a.start_again();
    let mut stream = open(&a, &tenant, Some(&last));
    lost(&mut stream, "TIDINGS");
    assert_eq!(subjects(&a, &tenant), json!([]), "r1 may be anything");
    let third = publish(&a, &tenant, 3..=3);
    assert_eq!(numbers(&mut stream, 1), [3]);
    // Nor does it tell the others what it can't know.
    wait_for_the_bucket(&mut client, &third);
    purge(&mut client, "TIDINGS");
    let c = Node::start("c", &nats.url());
    assert_eq!(subjects(&c, &tenant), subjects(&a, &tenant));
    assert_eq!(subjects(&a, &tenant).as_array().expect("a list").len(), 1);
}

#[test]
fn one_source_of_a_fleet_loses_events_while_a_node_is_down_and_restarts_alone() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    for stream in [DEVICES, ALERTS] {
        client.create(stream);
    }
    let mut a = fleet("a", &nats.url());
    let b = fleet("b", &nats.url());
    let tenant = new_tenant();
    let mut on_b = open(&b, &tenant, None);
    client.put("device.status.r1", &tenant, 1);
    let first = on_b.next_event().cursor().to_owned();
    client.put("device.status.r1", &tenant, 2);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 10);
    assert_eq!(numbers(&mut on_b, 2), [2, 10]);
    assert_eq!(numbers(&mut open(&a, &tenant, Some(&first)), 2), [2, 10]);
    a.kill();
    client.put("device.status.r1", &tenant, 3);
    let third = on_b.next_event().cursor().to_owned();
    client.put("device.status.r1", &tenant, 4);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 11);
    assert_eq!(numbers(&mut on_b, 2), [4, 11]);
    purge(&mut client, "DEVICE_EVENTS");
    a.start_again();

    // Nothing has come behind it yet, and it is told all the same.
    let mut stream = open(&a, &tenant, Some(&first));
    assert_eq!(numbers(&mut stream, 2), [2, 10]);
    let mut after_third = open(&a, &tenant, Some(&third));
    lost(&mut after_third, "DEVICE_EVENTS");
    assert_eq!(numbers(&mut after_third, 1), [11]);
    let mut seen = vec![stream.next_event(), stream.next_event()];
    seen.sort_by_key(|event| event.name == "gap");
    assert_eq!(number(&seen[0]), 11);
    assert_eq!(seen[1].json()["source"], "DEVICE_EVENTS", "{seen:?}");
    // Of the devices nothing is known until they are heard of; the alerts are as they were.
    let kinds = |node: &Node| -> Vec<Value> {
        let all = subjects(node, &tenant);
        let all = all.as_array().expect("a list").iter();
        all.map(|subject| subject["type"].clone()).collect()
    };
    assert_eq!(kinds(&a), ["alert_fired", "alert_fired"]);
    assert_eq!(kinds(&b), ["alert_fired", "alert_fired", "device_status"]);
    client.put("device.status.r1", &tenant, 5);
    assert_eq!(numbers(&mut stream, 1), [5]);
    assert_eq!(numbers(&mut on_b, 1), [5]);
    assert_eq!(subjects(&a, &tenant), subjects(&b, &tenant));
}

#[test]
fn open_streams_of_a_node_that_was_cut_off_are_told_what_they_will_not_get() {
    let nats = NatsServer::start(&NatsOptions::new().unadvertised());
    let mut client = NatsClient::connect(nats.address);
    let door = Door::to(nats.address);
    let a = Node::start("a", &nats.url());
    let b = Node::start("b", &door.nats_url());
    let (tenant, silent) = (new_tenant(), new_tenant());
    let mut streams: Vec<Stream> = (0..20).map(|_| open(&b, &tenant, None)).collect();
    let mut of_silent = open(&b, &silent, None);
    let mut with_snapshot = b
        .stream_of(&tenant)
        .bearer(&issued("ada", &tenant, "viewer", 0))
        .query("snapshot", "true")
        .open();
    assert_eq!(with_snapshot.next_event().name, "snapshot_end");
    publish(&a, &tenant, 1..=1);
    for stream in &mut streams {
        assert_eq!(numbers(stream, 1), [1]);
    }
    door.close();
    for stream in &mut streams {
        stream.next_named("stale");
    }
    let third = publish(&a, &tenant, 2..=3);
    wait_for_the_bucket(&mut client, &third);
    purge(&mut client, "TIDINGS");
    door.open();
    for stream in &mut streams {
        assert_eq!(lost(stream, "TIDINGS"), third);
    }
    // Something of theirs may have been in it: nobody can know.
    let gap = of_silent.next_named("gap");
    assert_eq!(gap.json()["source"], "TIDINGS", "{gap:?}");
    publish(&a, &tenant, 4..=4);
    for stream in &mut streams {
        assert_eq!(number(&stream.next_named("device_status")), 4);
    }
    assert_eq!(subjects(&b, &tenant), subjects(&a, &tenant));
}

#[test]
fn open_streams_of_a_fleet_are_told_which_source_has_lost_something() {
    let nats = NatsServer::start(&NatsOptions::new().unadvertised());
    let mut client = NatsClient::connect(nats.address);
    for stream in [DEVICES, ALERTS] {
        client.create(stream);
    }
    let door = Door::to(nats.address);
    let node = fleet("a", &door.nats_url());
    let tenant = new_tenant();
    let mut stream = open(&node, &tenant, None);
    client.put("device.status.r1", &tenant, 1);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 10);
    let seen: Vec<Event> = stream.events(2);
    door.close();
    stream.next_named("stale");
    client.put("device.status.r1", &tenant, 2);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 11);
    purge(&mut client, "DEVICE_EVENTS");
    client.put("device.status.r1", &tenant, 3);
    door.open();
    // Whichever source is followed first.
    let mut told: Vec<Value> = (0..3)
        .map(|_| {
            let event = stream.next_event();
            let data = event.json();
            if event.name == "gap" {
                data["source"].clone()
            } else {
                data["n"].clone()
            }
        })
        .collect();
    let gap = told.iter().position(|told| *told == "DEVICE_EVENTS");
    let behind = told.iter().position(|told| *told == 3);
    assert!(gap < behind, "{told:?}");
    told.sort_by_key(Value::to_string);
    assert_eq!(told, [json!("DEVICE_EVENTS"), json!(11), json!(3)]);
    let mut again = open(&node, &tenant, Some(seen[1].cursor()));
    let mut gaps = 0;
    let rest: Vec<u64> = std::iter::from_fn(|| Some(again.next_event()))
        .filter(|event| {
            gaps += usize::from(event.name == "gap");
            event.name != "gap"
        })
        .take(2)
        .map(|event| number(&event))
        .collect();
    assert_eq!(gaps, 1, "{rest:?}");
}

/// A source in which each subject has only its newest message has holes everywhere, and has lost nothing that its
/// owner wanted to keep.
#[test]
fn holes_within_a_source_are_no_gaps() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    let config = json!({
        "name": "DEVICE_EVENTS", "subjects": DEVICES.1, "storage": "file", "num_replicas": 1,
        "max_msgs_per_subject": 1,
    });
    client.ask("$JS.API.STREAM.CREATE.DEVICE_EVENTS", &config.to_string());
    client.create(ALERTS);
    let mut node = fleet("a", &nats.url());
    let tenant = new_tenant();
    let mut stream = open(&node, &tenant, None);
    client.put("device.status.old", &tenant, 1);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 10);
    let seen = stream.events(2);
    node.kill();
    for number in 2..=40 {
        client.put(&format!("device.status.r{}", number % 3), &tenant, number);
    }
    // The newest of the alerts' stream, which was read, and one in the middle.
    client.put(&format!("alert.fired.{tenant}"), &tenant, 11);
    client.put(&format!("alert.fired.{tenant}"), &tenant, 12);
    client.ask("$JS.API.STREAM.MSG.DELETE.ALERT_EVENTS", r#"{"seq":2}"#);
    node.start_again();
    let last = seen[1].cursor();
    let mut rest = numbers(&mut open(&node, &tenant, Some(last)), 4);
    rest.sort_unstable();
    assert_eq!(rest, [12, 38, 39, 40]);
    let devices = || subjects(&node, &tenant).as_array().map(Vec::len);
    until("the state", || devices() == Some(6));
}
