//! `kill -9` at random moments under load: publishers with keys repeat what was not answered,
//! readers resume after the last id they have processed. No acknowledged event is lost, none is
//! shown twice, none out of order.
//!
//! `TIDINGS_CRASH_ROUNDS` sets the number of kills (20), `TIDINGS_SEED` plays a run again as far as
//! the machine allows: what is sent and when the kill is due follow the seed, threads do not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_tests::http::Connection;
use tidings_tests::publish;
use tidings_tests::{Event, GUARD, Receipt, Server, Watch, new_tenant, position};

const PUBLISHERS: usize = 4;
const READERS: usize = 3;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What the threads share with the one that kills.
struct Shared {
    /// Answers with 200 over all publishers.
    acknowledged: AtomicU64,
    /// No further bodies; what is under way is still brought to its end.
    enough: AtomicBool,
    /// Counts up each time the server is ready again.
    life: Mutex<u64>,
    ready_again: Condvar,
}

impl Shared {
    fn life(&self) -> u64 {
        *self.life.lock().expect("nobody panics with it")
    }

    /// After a failure in life `seen`: waits until the server is in a later one.
    fn wait_for_life_after(&self, seen: u64) {
        let life = self.life.lock().expect("nobody panics with it");
        let (life, waited) = self
            .ready_again
            .wait_timeout_while(life, GUARD, |life| *life <= seen)
            .expect("nobody panics with it");
        assert!(
            !waited.timed_out(),
            "a request failed in life {life} and no kill followed"
        );
    }
}

/// One body's events, with what the receipt said of them.
struct Acknowledged {
    numbers: Vec<u64>,
    first: u64,
    last: u64,
}

/// A publisher: bodies of one to twenty events, each with a key, one after the other. A body that
/// is not answered is sent again, to the next life.
fn publish_until_enough(
    shared: &Shared,
    server: (std::net::SocketAddr, &str),
    tenant: &str,
    name: usize,
    mut rng: fastrand::Rng,
) -> Vec<Acknowledged> {
    let (address, access) = server;
    let mut done = Vec::new();
    let mut next = 0;
    let mut connection: Option<Connection> = None;
    while !shared.enough.load(Ordering::SeqCst) {
        let count = *rng.choice(&[1, 1, 1, 5, 20]).expect("not empty");
        let numbers: Vec<u64> = (next..next + count).collect();
        let padding = "p".repeat(rng.usize(..400));
        let events: Vec<Value> = numbers
            .iter()
            .map(|number| {
                json!({
                    "type": "metric_update",
                    "key": format!("{name}-{number}"),
                    "data": {"publisher": name, "n": number, "p": padding},
                })
            })
            .collect();
        let request = publish::many(tenant, access, &events);
        let mut repeated = false;
        let receipt = loop {
            let life = shared.life();
            // A connection of an earlier life may only just be found dead; a fresh one says for sure.
            let kept = connection.take();
            let fresh = kept.is_none();
            let answer =
                kept.map_or_else(|| Connection::open(address), Ok)
                    .and_then(|mut opened| {
                        let answer = opened.exchange(&request)?;
                        connection = Some(opened);
                        Ok(answer)
                    });
            if let Ok(answer) = answer {
                break Receipt::of(&answer);
            }
            repeated = true;
            if fresh {
                shared.wait_for_life_after(life);
            }
        };
        // Whole or not at all: what a kill interrupted was stored with all its lines or with none.
        let whole = [(count, 0), (0, count)];
        let got = (receipt.accepted, receipt.duplicates);
        assert!(whole.contains(&got), "{got:?} of {count}");
        assert!(
            repeated || got == (count, 0),
            "a first attempt was called a duplicate"
        );
        done.push(Acknowledged {
            first: position(&receipt.first),
            last: position(&receipt.last),
            numbers,
        });
        shared.acknowledged.fetch_add(1, Ordering::SeqCst);
        next += count;
    }
    done
}

/// What a reader has seen: positions rise, and each publisher's numbers follow one another.
#[derive(Default)]
struct Seen {
    last_event_id: Option<String>,
    last_position: u64,
    next_of: [u64; PUBLISHERS],
    events: Vec<(u64, usize, u64)>,
    ended: bool,
}

impl Seen {
    fn take(&mut self, event: &Event) {
        let at = position(event.cursor());
        if event.name == "cursor" {
            assert!(at >= self.last_position, "a cursor went back: {event:?}");
            self.last_event_id = Some(event.cursor().to_owned());
            return;
        }
        if event.name == "closing" {
            return;
        }
        assert_eq!(event.name, "metric_update", "{event:?}");
        assert!(
            at > self.last_position,
            "repeated or out of order: {event:?}"
        );
        let data = event.json();
        let publisher =
            usize::try_from(data["publisher"].as_u64().expect("a number")).expect("small");
        let number = data["n"].as_u64().expect("a number");
        assert_eq!(
            number, self.next_of[publisher],
            "lost, repeated or out of order: {event:?}"
        );
        self.next_of[publisher] = number + 1;
        self.last_position = at;
        self.last_event_id = Some(event.cursor().to_owned());
        self.events.push((at, publisher, number));
        self.ended = data["end"] == true;
    }
}

/// A reader: resumes after what it has processed until it has seen the event that ends it all.
fn read_to_the_end(shared: &Shared, watch: &Watch) -> Seen {
    let mut seen = Seen::default();
    loop {
        let life = shared.life();
        let resumed = match &seen.last_event_id {
            Some(cursor) => watch.clone().after(cursor),
            None => watch.clone().query("since", "2020-01-01T00:00:00Z"),
        };
        let Ok(Ok(mut stream)) = resumed.try_open() else {
            shared.wait_for_life_after(life);
            continue;
        };
        while let Some(event) = stream.next_of_any() {
            seen.take(&event);
            if seen.ended {
                return seen;
            }
        }
        shared.wait_for_life_after(life);
    }
}

/// Kills the server at a moment that the seed chooses: after so many answers, and a little later.
fn kill_and_start_again(server: &mut Server, shared: &Shared, rng: &mut fastrand::Rng) {
    let due = shared.acknowledged.load(Ordering::SeqCst) + rng.u64(1..200);
    let deadline = std::time::Instant::now() + GUARD;
    while shared.acknowledged.load(Ordering::SeqCst) < due {
        assert!(
            std::time::Instant::now() < deadline,
            "nothing is acknowledged any more"
        );
        std::thread::yield_now();
    }
    // Not to wait for anything, but to hit every part of a commit.
    std::thread::sleep(Duration::from_micros(rng.u64(..3000)));
    server.kill();
    server.start_again();
    *shared.life.lock().expect("nobody panics with it") += 1;
    shared.ready_again.notify_all();
}

#[test]
fn no_acknowledged_event_is_lost_repeated_or_out_of_order() {
    let rounds = setting("TIDINGS_CRASH_ROUNDS").unwrap_or(20);
    let seed = setting("TIDINGS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("crash: TIDINGS_CRASH_ROUNDS={rounds} TIDINGS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);

    let mut server = Server::start();
    let tenant = new_tenant();
    let access = server.publisher(&tenant);
    let watch = server.stream_of(&tenant).bearer(&server.viewer(&tenant));
    let address = server.address;
    let shared = Shared {
        acknowledged: AtomicU64::new(0),
        enough: AtomicBool::new(false),
        life: Mutex::new(0),
        ready_again: Condvar::new(),
    };

    let (acknowledged, readings) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|name| {
                let (shared, access, tenant, rng) = (&shared, &access, &tenant, rng.fork());
                scope.spawn(move || {
                    publish_until_enough(shared, (address, access), tenant, name, rng)
                })
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|_| scope.spawn(|| read_to_the_end(&shared, &watch)))
            .collect();
        for _ in 0..rounds {
            kill_and_start_again(&mut server, &shared, &mut rng);
        }
        shared.enough.store(true, Ordering::SeqCst);
        let acknowledged: Vec<Vec<Acknowledged>> = publishers
            .into_iter()
            .map(|thread| thread.join().expect("a publisher failed"))
            .collect();
        // One more, behind all others, tells the readers that this is all.
        let last = json!({"type": "metric_update",
            "data": {"publisher": 0, "n": next_number(&acknowledged[0]), "end": true}});
        server.publish(&tenant, &last);
        let readings: Vec<Seen> = readers
            .into_iter()
            .map(|thread| thread.join().expect("a reader failed"))
            .collect();
        (acknowledged, readings)
    });

    let order = &readings[0].events;
    for other in &readings[1..] {
        assert!(other.events == *order, "two readers saw different orders");
    }
    check_acknowledged(&acknowledged, order);
    let events = order.len();
    println!(
        "crash: {rounds} kills, {events} events, each seen once and in order by {READERS} readers"
    );

    // And the last stop is a clean one, after which nothing has changed.
    assert!(server.stop().success());
    server.start_again();
    let mut again = Seen::default();
    let mut stream = watch.query("since", "2020-01-01T00:00:00Z").open();
    while again.events.len() < order.len() {
        again.take(&stream.next_of_any().expect("the stream stays open"));
    }
    assert!(again.events == *order);
}

fn next_number(acknowledged: &[Acknowledged]) -> u64 {
    acknowledged
        .last()
        .and_then(|body| body.numbers.last())
        .map_or(0, |number| number + 1)
}

/// Every receipt is true: its events lie where it says, in its order.
fn check_acknowledged(acknowledged: &[Vec<Acknowledged>], order: &[(u64, usize, u64)]) {
    let mut total = 1;
    for (publisher, bodies) in acknowledged.iter().enumerate() {
        for body in bodies {
            let stored: Vec<u64> = order
                .iter()
                .filter(|(at, by, _)| *by == publisher && (body.first..=body.last).contains(at))
                .map(|(_, _, number)| *number)
                .collect();
            assert_eq!(stored, body.numbers, "a receipt of publisher {publisher}");
            total += body.numbers.len();
        }
    }
    assert_eq!(
        order.len(),
        total,
        "there is more or less than was acknowledged"
    );
}
