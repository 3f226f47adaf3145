//! The layout `fleet` on several nodes: each merges the sources in an order of its own, and a client that goes from one
//! to the other gets everything once all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tidings_tests::{Event, NatsClient, NatsOptions, NatsServer, Request, Stream, new_tenant};

use crate::support::{Node, issued};

/// A source, and what a client is given of it.
struct Source {
    stream: &'static str,
    subjects: &'static [&'static str],
    event: &'static str,
}

const SOURCES: [Source; 2] = [
    Source {
        stream: "DEVICE_EVENTS",
        subjects: &["device.>", "config.>"],
        event: "device_status",
    },
    Source {
        stream: "ALERT_EVENTS",
        subjects: &["alert.>"],
        event: "alert_fired",
    },
];

/// How many events each source has before the second node is started, and at the end.
const BEFORE: u64 = 400;
const ALL: u64 = 2_000;

const CLIENTS: u64 = 4;

fn node(name: &str, url: &str) -> Node {
    Node::start_from(name, url, 1, |setup| {
        setup.set("TIDINGS_LOG__LAYOUT", "fleet")
    })
}

fn subject(source: usize, tenant: &str) -> String {
    match source {
        0 => "device.status.r1".to_owned(),
        _ => format!("alert.fired.{tenant}"),
    }
}

/// What a client was given of each source, and where it stands.
#[derive(Default)]
struct Client {
    last: Option<String>,
    seen: [u64; 2],
    openings: u64,
}

impl Client {
    fn is_done(&self) -> bool {
        self.seen == [ALL; 2]
    }

    fn open(&self, watch: tidings_tests::Watch) -> Option<Stream> {
        let watch = match &self.last {
            Some(last) => watch.after(last),
            None => watch.query("since", "2020-01-01T00:00:00Z"),
        };
        match watch.try_open() {
            Ok(Ok(stream)) => Some(stream),
            // A node that has not copied yet what the cursor names, or that has only just started.
            Ok(Err(answer)) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                None
            }
            // One that was killed.
            Err(_) => None,
        }
    }

    fn take(&mut self, event: &Event) {
        let source = SOURCES.iter().position(|one| one.event == event.name);
        if let Some(source) = source {
            let number = event.json()["n"].as_u64().expect("a number");
            assert_eq!(
                number,
                self.seen[source] + 1,
                "of {}, behind {:?}",
                SOURCES[source].stream,
                self.last
            );
            self.seen[source] = number;
        } else {
            let is_word = ["cursor", "stale", "fresh", "closing"].contains(&event.name.as_str());
            assert!(is_word, "nothing was to be missing: {event:?}");
        }
        if event.id.is_some() {
            self.last.clone_from(&event.id);
        }
    }
}

/// The types of everything that a node has, in its order.
fn order(node: &Node, tenant: &str) -> Vec<String> {
    let access = issued("ada", tenant, "viewer", 0);
    let (mut order, mut after) = (Vec::new(), String::new());
    loop {
        let target = format!("/tenants/{tenant}/events?limit=1000{after}");
        let page = node
            .exchange(&Request::get(&target).bearer(&access))
            .expect(200);
        let events = page["events"].as_array().expect("a list");
        if events.is_empty() {
            return order;
        }
        order.extend(events.iter().map(|event| event["type"].to_string()));
        after = format!("&after={}", page["next"].as_str().expect("a cursor"));
    }
}

#[test]
fn clients_go_from_one_node_of_a_fleet_to_the_other_also_when_one_is_killed() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    for source in &SOURCES {
        client.create((source.stream, source.subjects));
    }
    let tenant = &new_tenant();
    // The first node meets the sources one after the other; who begins later merges them by time.
    let a = node("a", &nats.url());
    for number in 1..=BEFORE {
        for (source, _) in SOURCES.iter().enumerate() {
            client.put(&subject(source, tenant), tenant, number);
        }
    }
    let mut b = node("b", &nats.url());
    let published = [AtomicU64::new(BEFORE), AtomicU64::new(BEFORE)];
    let addresses = [a.address, b.address];
    let openings = thread::scope(|scope| {
        for (source, published) in published.iter().enumerate() {
            let mut client = NatsClient::connect(nats.address);
            scope.spawn(move || {
                for number in BEFORE + 1..=ALL {
                    client.put(&subject(source, tenant), tenant, number);
                    published.store(number, Ordering::SeqCst);
                }
            });
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let access = issued("ada", tenant, "viewer", 0);
                    let path = format!("/tenants/{tenant}/events/stream");
                    let mut client = Client::default();
                    while !client.is_done() {
                        let address = addresses[usize::from((client.openings + number) % 2 == 0)];
                        client.openings += 1;
                        let watch = tidings_tests::Watch::at(address, &path).bearer(&access);
                        let Some(mut stream) = client.open(watch) else {
                            thread::yield_now();
                            continue;
                        };
                        for _ in 0..fastrand::usize(1..60) {
                            match stream.next_of_any() {
                                Some(event) => client.take(&event),
                                None => break,
                            }
                            if client.is_done() {
                                break;
                            }
                        }
                    }
                    client.openings
                })
            })
            .collect();
        for step in 1..4 {
            let due = BEFORE + (ALL - BEFORE) * step / 4;
            while published[0].load(Ordering::SeqCst) < due {
                thread::yield_now();
            }
            b.kill();
            b.start_again();
        }
        let joined = clients.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|openings| openings.expect("a client failed"))
            .sum::<u64>()
    });
    let orders = [order(&a, tenant), order(&b, tenant)];
    let places = orders[0].iter().zip(&orders[1]);
    let differing = places.filter(|(one, other)| one != other).count();
    println!(
        "{openings} streams; the nodes' orders differ at {differing} of {} places",
        2 * ALL
    );
    assert!(orders.iter().all(|order| order.len() as u64 == 2 * ALL));
}
