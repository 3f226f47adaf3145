//! Measures the log on a real disk: appending against a bare append and sync of as many bytes,
//! replay, and the time to start.
//!
//! `cargo run --release -p tidings-log --example throughput -- [folder] [events]`
//!
//! Appending alternates with its floor, in nine rounds of which the medians count. The floor writes
//! the same payload bytes to a growing file and syncs as often as the log does.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use tidings_log::{
    Answer, EventRef, Health, IdempotencyKey, Listener, Log, LogOptions, NewEvent, ReadLimit, Scope,
};
use tidings_protocol::TenantId;

const TENANTS: u8 = 100;
const DATA: usize = 250;
const BATCH: usize = 100;
const ROUNDS: usize = 9;

struct Silent;

impl Listener for Silent {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(
        || std::env::temp_dir().join("tidings-log-throughput"),
        PathBuf::from,
    );
    let events: usize = arguments
        .next()
        .map_or(1_000_000, |text| text.parse().expect("a number of events"));
    fs::create_dir_all(&root).expect("the folder can be made");
    let folder = root.join("log");
    let _ = fs::remove_dir_all(&folder);

    let log = open(&folder);
    batches(&log, &root, events);
    singles(&log);
    let stored = log.tail();
    log.close();

    let begun = Instant::now();
    let log = open(&folder);
    println!(
        "start with {stored} events: {:.1} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    replay(&log, "all tenants", Scope::All);
    replay(&log, "one tenant of 100", Scope::Tenant(tenant(7)));
    replay(&log, "all tenants, warm", Scope::All);
    log.close();
    dense(&root.join("dense"), events.min(500_000));
    fs::remove_dir_all(&root).expect("the folder can be removed");
}

fn open(folder: &Path) -> Log {
    let options = LogOptions {
        max_bytes: 0,
        owner: "throughput".to_owned(),
        ..LogOptions::new(folder)
    };
    Log::open(options, Box::new(Silent)).expect("the log opens")
}

fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number; 16])
}

fn event(key: Option<IdempotencyKey>) -> NewEvent {
    NewEvent {
        event_type: "device_status".parse().expect("well formed"),
        device: Some("router-0042".parse().expect("well formed")),
        time: None,
        key,
        subject: None,
        origin: None,
        data: vec![b'x'; DATA],
    }
}

/// Hands a body in and waits for its fate.
fn append(log: &Log, tenant: TenantId, events: Vec<NewEvent>) {
    let (sender, receiver) = channel();
    let answer: Answer = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    log.submit(tenant, events, answer)
        .expect("room in the queue");
    receiver.recv().expect("an answer").expect("stored");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One publisher, 100 events a body, each body in a commit of its own.
fn batches(log: &Log, root: &Path, events: usize) {
    let per_round = (events / ROUNDS / BATCH).max(1);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let mut file = File::create(root.join("floor")).expect("a file for the floor");
    let body = vec![b'x'; BATCH * DATA];
    for _ in 0..ROUNDS {
        ours.push(rate(per_round * BATCH, || {
            for number in 0..per_round {
                let owner = tenant(u8::try_from(number % usize::from(TENANTS)).expect("small"));
                append(log, owner, (0..BATCH).map(|_| event(None)).collect());
            }
        }));
        floor.push(rate(per_round * BATCH, || {
            for _ in 0..per_round {
                file.write_all(&body).expect("the floor writes");
                file.sync_data().expect("the floor syncs");
            }
        }));
    }
    let ratios = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor);
    println!(
        "append, {BATCH} a body: {:.0} events/s; bare append and sync: {:.0}; ratio {:.2}",
        median(ours.clone()),
        median(floor.clone()),
        median(ratios.collect())
    );
}

fn rate(events: usize, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    events as f64 / begun.elapsed().as_secs_f64()
}

/// 64 publishers, one event a body, each with a key.
fn singles(log: &Log) {
    const PUBLISHERS: u8 = 64;
    const EACH: u32 = 600;
    let rates = (0..ROUNDS)
        .map(|round| {
            rate(usize::from(PUBLISHERS) * EACH as usize, || {
                thread::scope(|scope| {
                    for publisher in 0..PUBLISHERS {
                        scope.spawn(move || publish(log, round, publisher, EACH));
                    }
                });
            })
        })
        .collect();
    println!(
        "append, {PUBLISHERS} publishers at once, one event a body: {:.0} events/s",
        median(rates)
    );
}

fn publish(log: &Log, round: usize, publisher: u8, events: u32) {
    for number in 0..events {
        let mut key = [publisher; 16];
        key[..4].copy_from_slice(&number.to_le_bytes());
        key[8] = u8::try_from(round).expect("few rounds");
        let key = IdempotencyKey { key, digest: key };
        append(log, tenant(publisher % TENANTS), vec![event(Some(key))]);
    }
}

fn replay(log: &Log, what: &str, scope: Scope) {
    let limit = ReadLimit {
        events: BATCH,
        bytes: 1 << 20,
    };
    let (mut after, mut events, mut bytes, mut reads) = (0, 0_u64, 0_usize, 0_u64);
    let begun = Instant::now();
    loop {
        let end = log
            .read(scope, after, limit, &mut |event| {
                events += 1;
                bytes += event.data.len();
            })
            .expect("the log is readable");
        reads += 1;
        after = end.examined_through;
        if end.reached_tail {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "replay of {what}: {events} events in {reads} reads, {:.2} million events/s, {:.0} MB/s of data",
        events as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e6
    );
}

/// One tenant that has everything, one event a body: the index's worst case.
fn dense(folder: &Path, events: usize) {
    let log = open(folder);
    let (sender, receiver) = channel();
    for _ in 0..events {
        loop {
            let sender = sender.clone();
            let answer: Answer = Box::new(move |outcome| {
                let _ = sender.send(outcome.is_ok());
            });
            match log.submit(tenant(1), vec![event(None)], answer) {
                Ok(()) => break,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    drop(sender);
    assert!(receiver.iter().all(|stored| stored), "everything is stored");
    replay(
        &log,
        "one tenant, one event a frame",
        Scope::Tenant(tenant(1)),
    );
    replay(&log, "the same by position", Scope::All);
    log.close();
}
