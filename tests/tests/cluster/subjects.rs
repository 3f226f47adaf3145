//! Subjects on several nodes: taken away by an operator or by their age, on all nodes and once; and conflated on whichever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::publish::{many, must, status};
use tidings_tests::{Door, NatsOptions, NatsServer, Stream, new_tenant};

use crate::state::subjects;
use crate::support::{Node, issued, root, until};

/// A node that takes a push away after so many seconds without a word, and waits for streams that are not read.
fn ageing(name: &str, url: &str, seconds: u64) -> Node {
    let subjects = format!(
        r#"{{ config_push = {{ fields = ["push_operation_id"], max_age = "{seconds}s" }} }}"#
    );
    Node::start_from(name, url, 1, |setup| {
        setup
            .set("TIDINGS_SUBJECTS", &subjects)
            .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
    })
}

fn push(id: &str, n: u64) -> Value {
    let data = json!({"push_operation_id": id, "stage": "pushing", "n": n});
    json!({"type": "config_push", "device_id": "r1", "data": data})
}

fn publish(node: &Node, tenant: &str, events: &[Value]) -> String {
    let access = issued("poller", tenant, "publisher", 0);
    must(node.address, &many(tenant, &access, events)).last
}

fn open(node: &Node, tenant: &str) -> Stream {
    node.watch(tenant, &issued("ada", tenant, "viewer", 0))
}

fn count(node: &Node, tenant: &str) -> usize {
    subjects(node, tenant).as_array().expect("a list").len()
}

#[test]
fn a_device_that_is_deleted_on_one_node_leaves_the_state_and_the_streams_of_the_other() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let alert = json!({"type": "alert_fired", "device_id": "r1", "data": {"alert_event_id": "a1"}});
    let mut streams = [open(&a, &tenant), open(&b, &tenant)];
    publish(&a, &tenant, &[status("r1", 1), alert, status("r2", 1)]);
    for stream in &mut streams {
        stream.events(3);
    }
    assert_eq!((count(&a, &tenant), count(&b, &tenant)), (3, 3));
    let operator = issued("operator", &tenant, "tenant_operator", 0);
    let deleted = a.delete(&operator, &format!("/tenants/{tenant}/devices/r1"));
    assert!(deleted.status < 300, "{deleted:?}");
    let last = publish(&b, &tenant, &[status("r2", 2)]);
    let removed = streams.each_mut().map(|stream| {
        let removed: Vec<(String, Value)> = stream
            .events(2)
            .iter()
            .map(|event| {
                assert_eq!(event.name, "removed", "{event:?}");
                (event.cursor().to_owned(), event.json())
            })
            .collect();
        assert_eq!(stream.next_event().cursor(), last, "no more than these");
        removed
    });
    assert_eq!(removed[0], removed[1], "the same under the same names");
    assert_eq!(subjects(&a, &tenant), subjects(&b, &tenant));
    assert_eq!(count(&b, &tenant), 1);
}

#[test]
fn a_push_that_ages_on_several_nodes_is_taken_away_once() {
    let nats = NatsServer::start(&NatsOptions::new());
    let nodes = ["a", "b", "c"].map(|name| ageing(name, &nats.url(), 3));
    let tenant = new_tenant();
    let mut streams = nodes.each_ref().map(|node| open(node, &tenant));
    let pushes: Vec<Value> = (0..20).map(|id| push(&format!("p{id}"), 1)).collect();
    publish(&nodes[0], &tenant, &pushes);
    // Each takes its own turn at finding them overdue, some at once.
    for stream in &mut streams {
        stream.events(20);
    }
    for (node, stream) in nodes.iter().zip(&mut streams) {
        let mut gone: Vec<String> = (0..20)
            .map(|_| {
                let removed = stream.next_event();
                assert_eq!(removed.name, "removed", "{removed:?}");
                removed.json()["subject"]
                    .as_str()
                    .expect("a key")
                    .to_owned()
            })
            .collect();
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(gone.len(), 20, "each once");
        assert_eq!(count(node, &tenant), 0);
    }
    // All that any of them has made comes before this.
    let last = publish(&nodes[1], &tenant, &[status("r1", 1)]);
    for stream in &mut streams {
        assert_eq!(stream.next_event().cursor(), last);
    }
}

/// A node that was cut off for longer than a push may say nothing found every push overdue, and took away for all
/// nodes what the others had heard of all the time.
#[test]
fn a_node_that_comes_back_takes_nothing_away_that_lives() {
    // Longer than anything stands still.
    const MAX_AGE: u64 = 8;
    let nats = NatsServer::start(&NatsOptions::new().unadvertised());
    let door = Door::to(nats.address);
    let a = ageing("a", &nats.url(), MAX_AGE);
    let b = ageing("b", &door.nats_url(), MAX_AGE);
    let tenant = new_tenant();
    let mut on_a = open(&a, &tenant);
    let mut on_b = open(&b, &tenant);
    publish(&a, &tenant, &[push("p", 1)]);
    on_a.next_event();
    on_b.next_event();
    door.close();
    on_b.next_named("stale");
    // What passes here is how long it is cut off; the push is heard of all the time, whatever else takes its time, and
    // among much that has to be copied before it.
    let filling: Vec<Value> = (0..500).map(|n| status(&format!("r{n}"), n)).collect();
    let said = AtomicU64::new(1);
    thread::scope(|scope| {
        let cut_off = scope.spawn(|| {
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(2 * MAX_AGE) {
                publish(&a, &tenant, &filling);
                thread::sleep(Duration::from_millis(50));
            }
            door.open();
            let before = said.load(Ordering::SeqCst);
            until("the state of b", || {
                let subjects = subjects(&b, &tenant);
                let listed = subjects.as_array().expect("a list").iter();
                listed
                    .filter(|subject| subject["type"] == "config_push")
                    .any(|subject| subject["data"]["n"].as_u64() > Some(before))
            });
        });
        while !cut_off.is_finished() {
            let n = said.load(Ordering::SeqCst) + 1;
            publish(&a, &tenant, &[push("p", n)]);
            said.store(n, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
        }
        cut_off.join().expect("b is there again");
    });
    let last = said.into_inner();
    let mut removed = 0;
    loop {
        let event = on_a.next_event();
        removed += u64::from(event.name == "removed");
        if event.name == "config_push" && event.json()["n"] == last {
            break;
        }
    }
    assert_eq!(removed, 0, "it was heard of all the time");
    // When it is heard of no more, it is taken away.
    assert_eq!(on_a.next_named("removed").json()["subject"], "p");
}

#[test]
fn a_stream_conflates_what_is_published_on_another_node() {
    const METRICS: u64 = 20_000;
    let nats = NatsServer::start(&NatsOptions::new());
    let node = |name| {
        Node::start_from(name, &nats.url(), 1, |setup| {
            setup
                .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
                .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        })
    };
    let (a, b) = (node("a"), node("b"));
    let tenant = new_tenant();
    let mut lagging = b
        .stream_of(&tenant)
        .bearer(&issued("ada", &tenant, "viewer", 0))
        .query("conflate", "default")
        .receive_buffer(4096)
        .open();
    let padding = "x".repeat(300);
    let mut due = BTreeMap::new();
    let mut statuses = Vec::new();
    for body in 0..METRICS / 200 {
        let mut events: Vec<Value> = (body * 200..(body + 1) * 200)
            .map(|n| {
                let kind = format!("k{}", n % 10);
                due.insert(kind.clone(), n);
                json!({"type": "metric_update", "device_id": "r1", "data": {"type": kind, "n": n, "padding": padding}})
            })
            .collect();
        events.push(status("r1", body));
        statuses.push(publish(&a, &tenant, &events));
    }
    let last = statuses.last().expect("some").clone();
    let (mut metrics, mut latest, mut seen) = (0, BTreeMap::new(), Vec::new());
    loop {
        let event = lagging.next_event();
        if event.name == "device_status" {
            seen.push(event.cursor().to_owned());
            if event.cursor() == last {
                break;
            }
            continue;
        }
        let data = event.json();
        let kind = data["type"].as_str().expect("a kind").to_owned();
        let n = data["n"].as_u64().expect("a number");
        assert!(latest.insert(kind, n) < Some(n), "in order");
        metrics += 1;
    }
    assert_eq!(seen, statuses, "what does not conflate is whole");
    assert_eq!(latest, due);
    assert!(metrics < METRICS, "megabytes are more than sockets hold");
    let listed = a.listing(&root(), &format!("/streams?tenant={tenant}"));
    assert_eq!(listed["streams"][0]["conflated"], METRICS - metrics);
}
