//! A log on a simulated disk, and short ways to use it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings_log::{
    AppendError, Appended, EventRef, Health, IdempotencyKey, Listener, Log, LogOptions, Lost,
    NewEvent, NewSubject, OpenError, ReadEnd, ReadLimit, Scope, StateSnapshot,
};
use tidings_protocol::{EventType, Position, TenantId};

use crate::simulated::{ManualClock, SimulatedStorage};

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const HOUR: i64 = 3_600 * SECOND;
pub(crate) const NO_LIMIT: ReadLimit = ReadLimit {
    events: usize::MAX,
    bytes: usize::MAX,
};

/// An event that was read, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) position: Position,
    pub(crate) tenant: TenantId,
    pub(crate) data: Vec<u8>,
    pub(crate) appended_at: i64,
}

impl Read {
    fn of(event: &EventRef<'_>) -> Self {
        Self {
            position: event.position,
            tenant: event.tenant,
            data: event.data.to_vec(),
            appended_at: event.appended_at,
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.data).unwrap()
    }
}

/// What a listener heard, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Committed(Vec<Read>),
    Health(Health),
}

pub(crate) struct Recorder {
    heard: Sender<Heard>,
}

impl Listener for Recorder {
    fn committed(&mut self, events: &[EventRef<'_>]) {
        let events = events.iter().map(Read::of).collect();
        let _ = self.heard.send(Heard::Committed(events));
    }

    fn health_changed(&mut self, health: &Health) {
        let _ = self.heard.send(Heard::Health(health.clone()));
    }
}

/// A log with what it lives on.
pub(crate) struct Bench {
    pub(crate) storage: SimulatedStorage,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: LogOptions,
    log: Option<Log>,
    pub(crate) heard: Mutex<Receiver<Heard>>,
}

impl Bench {
    /// A log that keeps 8 MiB of whatever age, in segments of 1 MiB.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut LogOptions)) -> Self {
        let mut options = LogOptions::new("/simulated");
        options.retention = Duration::ZERO;
        options.max_bytes = 8 << 20;
        "pid 7, the test".clone_into(&mut options.owner);
        // Only where a test waits for it, by a handshake.
        options.upkeep_interval = Duration::from_millis(1);
        change(&mut options);
        let (_, heard) = channel();
        let mut bench = Self {
            storage: SimulatedStorage::new(),
            clock: ManualClock::new(),
            options,
            log: None,
            heard: Mutex::new(heard),
        };
        bench.open();
        bench
    }

    pub(crate) fn try_open(&mut self) -> Result<(), OpenError> {
        let (sender, receiver) = channel();
        let log = Log::open_with(
            self.options.clone(),
            Arc::new(self.storage.clone()),
            self.clock.clone(),
            Box::new(Recorder { heard: sender }),
        )?;
        self.log = Some(log);
        self.heard = Mutex::new(receiver);
        Ok(())
    }

    pub(crate) fn open(&mut self) {
        self.try_open().expect("the log opens");
    }

    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().expect("the log is open")
    }

    pub(crate) fn close(&mut self) {
        if let Some(log) = self.log.take() {
            log.close();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.close();
        self.open();
    }

    /// The process dies and its memory with it.
    pub(crate) fn die(&mut self) {
        let storage = self.storage.kill();
        self.log = None;
        self.storage = storage;
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.die();
        self.open();
    }

    pub(crate) fn lose_power(&mut self, keep: impl FnMut() -> bool) {
        let storage = self.storage.lose_power(keep);
        self.log = None;
        self.storage = storage;
    }

    /// Hands a body in; its fate comes through the channel.
    pub(crate) fn submit(
        &self,
        tenant: TenantId,
        events: Vec<NewEvent>,
    ) -> Receiver<Result<Appended, AppendError>> {
        let (sender, receiver) = channel();
        self.log()
            .submit(
                tenant,
                events,
                Box::new(move |outcome| {
                    let _ = sender.send(outcome);
                }),
            )
            .expect("the queue has room");
        receiver
    }

    pub(crate) fn append(
        &self,
        tenant: TenantId,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        self.submit(tenant, events).recv().expect("an answer")
    }

    /// Appends one event for each text, in one body.
    pub(crate) fn put(&self, tenant: TenantId, texts: &[&str]) -> Appended {
        let events = texts.iter().map(|text| event(text)).collect();
        self.append(tenant, events).expect("the body is stored")
    }

    pub(crate) fn read(&self, scope: Scope, after: Position) -> (Vec<Read>, ReadEnd) {
        self.read_limited(scope, after, NO_LIMIT)
    }

    pub(crate) fn read_limited(
        &self,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
    ) -> (Vec<Read>, ReadEnd) {
        let mut events = Vec::new();
        let end = self
            .log()
            .read(scope, after, limit, &mut |event| {
                events.push(Read::of(&event));
            })
            .expect("the log is readable");
        (events, end)
    }

    /// Waits until the state has come to the log's end.
    pub(crate) fn wait_for_state(&self) {
        let patience = Duration::from_mins(2);
        assert!(self.log().state().wait_through(self.log().tail(), patience));
    }

    /// The state as of the log's end.
    pub(crate) fn state(&self, scope: Scope) -> StateSnapshot {
        self.wait_for_state();
        self.log().state().snapshot(scope).expect("it is ready")
    }

    /// The texts of a state's entries, by tenant, kind and key.
    pub(crate) fn state_texts(&self, scope: Scope) -> Vec<String> {
        self.state(scope)
            .into_entries()
            .map(|entry| String::from_utf8(entry.event().data.to_vec()).unwrap())
            .collect()
    }

    /// Everything of a scope, over however many reads and lost stretches.
    pub(crate) fn read_all(&self, scope: Scope, limit: ReadLimit) -> Vec<Read> {
        let mut events = Vec::new();
        let mut after = 0;
        loop {
            let (some, end) = self.read_limited(scope, after, limit);
            assert!(end.examined_through > after || end.reached_tail);
            events.extend(some);
            after = end.examined_through;
            if end.reached_tail {
                return events;
            }
        }
    }

    /// The lost stretches that a reader of a scope is told of.
    pub(crate) fn lost(&self, scope: Scope) -> Vec<Lost> {
        let (mut lost, mut after) = (Vec::new(), 0);
        loop {
            let (_, end) = self.read(scope, after);
            lost.extend(end.lost);
            after = end.examined_through;
            if end.reached_tail {
                return lost;
            }
        }
    }

    pub(crate) fn texts(&self, scope: Scope) -> Vec<String> {
        let events = self.read_all(scope, NO_LIMIT);
        events.iter().map(|event| event.text().to_owned()).collect()
    }

    /// Waits until nothing of a purged tenant is on the disk, or the disk has died.
    pub(crate) fn wait_for_purge(&self, tenant: TenantId) {
        while self.log().is_on_disk(tenant) == Some(true) && !self.storage.has_died() {
            std::thread::yield_now();
        }
    }

    /// Waits until the listener hears of a state of health that fits.
    pub(crate) fn wait_for_health(&self, fits: impl Fn(&Health) -> bool) -> Health {
        let heard = self.heard.lock().unwrap();
        loop {
            if let Heard::Health(health) = heard.recv().expect("the listener lives")
                && fits(&health)
            {
                return health;
            }
        }
    }
}

pub(crate) fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number; 16])
}

pub(crate) fn event(text: &str) -> NewEvent {
    NewEvent {
        event_type: "device_status".parse().unwrap(),
        device: Some("router-1".parse().unwrap()),
        time: None,
        key: None,
        subject: None,
        origin: None,
        data: text.as_bytes().to_vec(),
    }
}

/// An event that says something of a subject, of no device.
pub(crate) fn of_subject(kind: &str, key: &str, text: &str) -> NewEvent {
    NewEvent {
        event_type: kind.parse().unwrap(),
        device: None,
        subject: Some(NewSubject {
            kind: kind.parse().unwrap(),
            key: key.parse().unwrap(),
            ends: false,
        }),
        ..event(text)
    }
}

/// The event with which the server takes a subject away.
pub(crate) fn removed(kind: &str, key: &str) -> NewEvent {
    let mut event = of_subject(kind, key, "{}");
    event.event_type = EventType::removed();
    event.subject.as_mut().unwrap().ends = true;
    event
}

pub(crate) fn keyed(text: &str, key: u8) -> NewEvent {
    let mut digest = [0; 16];
    for (place, byte) in text.bytes().enumerate() {
        digest[place % 16] ^= byte;
    }
    NewEvent {
        key: Some(IdempotencyKey {
            key: [key; 16],
            digest,
        }),
        ..event(text)
    }
}

/// An event of about so many bytes that says which it is.
pub(crate) fn bulky(number: usize, bytes: usize) -> NewEvent {
    event(&format!("{number:08}{}", "x".repeat(bytes)))
}
