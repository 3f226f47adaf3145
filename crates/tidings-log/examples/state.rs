//! Measures the state on a real disk: what folding costs an event, a checkpoint a subject, and how
//! long a snapshot takes.
//!
//! `cargo run --release -p tidings-log --example state -- [folder] [events]`
//!
//! The events, a hundred a body, go round the tenants, and within each tenant round its devices, so that
//! every event replaces the one before it of its device. Folding is measured where nothing else runs:
//! over the whole log, after the file of the state was deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tidings_log::{
    Answer, EventRef, Health, Listener, Log, LogOptions, NewEvent, NewSubject, Scope,
};
use tidings_protocol::{DeviceId, EventType, TenantId};

const TENANTS: usize = 10;
const DEVICES: usize = 10_000;
const DATA: usize = 250;
const BATCH: usize = 100;
const ROUNDS: usize = 9;
const PATIENCE: Duration = Duration::from_mins(10);

struct Silent;

impl Listener for Silent {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(
        || std::env::temp_dir().join("tidings-log-state"),
        PathBuf::from,
    );
    let events: usize = arguments
        .next()
        .map_or(1_000_000, |text| text.parse().expect("a number of events"));
    let _ = fs::remove_dir_all(&folder);
    let log = open(&folder);
    fill(&log, events);
    close(log);

    let folds = (0..3)
        .map(|_| {
            fs::remove_file(folder.join("state.redb")).expect("the log wrote it");
            let begun = Instant::now();
            let log = open(&folder);
            let opened = begun.elapsed();
            wait(&log);
            let folded = begun.elapsed();
            close(log);
            (opened, folded)
        })
        .collect::<Vec<_>>();
    for (opened, folded) in folds {
        println!(
            "start without a state: the log ready after {opened:.1?}, the state after {folded:.1?}: {:.0} ns an event with its checkpoints",
            folded.as_secs_f64() * 1e9 / events as f64
        );
    }
    let begun = Instant::now();
    let log = open(&folder);
    let opened = begun.elapsed();
    wait(&log);
    println!(
        "start with the state of {} subjects: the log ready after {opened:.1?}, the state after {:.1?}",
        log.state().health().subjects,
        begun.elapsed()
    );
    snapshots(&log, "quiet");
    look_ups(&log);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| fill(&log, events / 4));
        snapshots(&log, "while events are appended");
        filling.join().expect("the events are appended");
    });
    checkpoint(&log);
    close(log);
    fs::remove_dir_all(&folder).expect("the folder can be removed");
}

fn open(folder: &Path) -> Log {
    let options = LogOptions {
        max_bytes: 0,
        owner: "state".to_owned(),
        ..LogOptions::new(folder)
    };
    fs::create_dir_all(folder).expect("the folder can be made");
    Log::open(options, Box::new(Silent)).expect("the log opens")
}

fn wait(log: &Log) {
    assert!(log.state().wait_through(log.tail(), PATIENCE));
}

fn close(log: Log) {
    wait(&log);
    log.close();
}

fn tenant(number: usize) -> TenantId {
    TenantId::from_bytes([u8::try_from(number % TENANTS).expect("few tenants"); 16])
}

fn fill(log: &Log, events: usize) {
    let status: EventType = "device_status".parse().expect("well formed");
    let event = |number: usize| {
        let device: DeviceId = format!("router-{:06}", number % DEVICES)
            .parse()
            .expect("well formed");
        NewEvent {
            event_type: status.clone(),
            subject: Some(NewSubject {
                kind: status.clone(),
                key: (&device).into(),
                ends: false,
            }),
            device: Some(device),
            time: None,
            key: None,
            origin: None,
            data: vec![b'x'; DATA],
        }
    };
    let (sender, receiver) = channel();
    let mut outstanding = 0;
    for body in 0..events / BATCH {
        let first = body / TENANTS * BATCH;
        let sender = sender.clone();
        let answer: Answer = Box::new(move |outcome| {
            let _ = sender.send(outcome.is_ok());
        });
        let events = (first..first + BATCH).map(event).collect();
        log.submit(tenant(body), events, answer)
            .expect("room in the queue");
        outstanding += 1;
        if outstanding >= 64 {
            assert!(receiver.recv().expect("an answer"));
            outstanding -= 1;
        }
    }
    for _ in 0..outstanding {
        assert!(receiver.recv().expect("an answer"));
    }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Of one tenant, and of all.
fn snapshots(log: &Log, when: &str) {
    for (what, scope) in [("a tenant", Scope::Tenant(tenant(3))), ("all", Scope::All)] {
        let mut subjects = 0;
        let (mut taken, mut visited) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let snapshot = log.state().snapshot(scope).expect("it is ready");
            taken.push(begun.elapsed());
            subjects = snapshot.len();
            let bytes: usize = snapshot
                .into_entries()
                .map(|entry| entry.event().data.len())
                .sum();
            visited.push(begun.elapsed());
            assert_eq!(bytes, subjects * DATA);
        }
        println!(
            "snapshot of {what}, {subjects} subjects, {when}: taken in {:.1?}, every entry visited after {:.1?}",
            median(taken),
            median(visited)
        );
    }
}

fn look_ups(log: &Log) {
    const LOOK_UPS: usize = 1_000_000;
    let keys: Vec<String> = (0..DEVICES)
        .map(|number| format!("router-{number:06}"))
        .collect();
    let begun = Instant::now();
    let mut newest = 0;
    for number in 0..LOOK_UPS {
        let key = &keys[number * 7919 % DEVICES];
        let latest = log.state().latest(tenant(number), "device_status", key);
        newest = newest.max(latest.map_or(0, |entry| entry.position()));
    }
    assert!(newest > 0);
    println!(
        "latest: {:.0} ns a look-up",
        begun.elapsed().as_secs_f64() * 1e9 / LOOK_UPS as f64
    );
}

/// Of as many subjects as a tenant has.
fn checkpoint(log: &Log) {
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        log.state().checkpoint().expect("the disk takes it");
        fill(log, DEVICES);
        wait(log);
        let begun = Instant::now();
        log.state().checkpoint().expect("the disk takes it");
        taken.push(begun.elapsed());
    }
    println!(
        "checkpoint of {DEVICES} changed subjects: {:.1?}",
        median(taken)
    );
}
