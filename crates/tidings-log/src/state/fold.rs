//! The thread that folds the state from the log.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidings_protocol::{DeviceId, Epoch, Position, TenantId};

use super::batch::Batch;
use super::control::{Standing, Task};
use super::entry::{Names, StateEntry};
use super::snapshot::StateSnapshot;
use super::store::{Changes, LoadError, Store, StoreKey, Stored, store_key};
use super::table::Table;
use crate::ReadError;
use crate::event::{EventRef, NewEvent, NewSubject, ReadLimit, Subject};
use crate::lineage::Kinship;
use crate::options::Doubt;
use crate::view::Shared;

/// How much is folded under one hold of the table's lock.
const BATCH: ReadLimit = ReadLimit {
    events: 1024,
    bytes: 1 << 20,
};
/// Batches after which the thread looks whether it is asked for anything else.
const BATCHES: usize = 64;
/// A checkpoint is made after so many events at the latest, so that a start has no more to fold.
const EVENTS: u64 = 500_000;
/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts to read the file before it is taken for damaged.
const ATTEMPTS: u32 = 3;

/// Runs until the state is stopped. `opened_tail` is where the log ended when it was opened.
pub(crate) fn run(shared: &Shared, opened_tail: Position) {
    let worked = catch_unwind(AssertUnwindSafe(|| {
        Folding::new(shared, opened_tail).work();
    }));
    let reason = if worked.is_ok() {
        "the log is closed"
    } else {
        tracing::error!(
            "the state's thread panicked; the state stops until the log is opened anew"
        );
        "its thread panicked"
    };
    shared.state.control.has_ended(reason);
}

/// What an event does to the state.
enum Change {
    Put(Arc<StateEntry>),
    End {
        tenant: TenantId,
        kind: Arc<str>,
        key: Box<str>,
    },
}

/// An event behind which some of the state is doubtful.
struct Doubtful {
    position: Position,
    tenant: TenantId,
    event_type: Box<str>,
    origin: Option<Box<[u8]>>,
    data: Box<[u8]>,
}

impl Doubtful {
    fn behind(event: &EventRef<'_>) -> Self {
        Self {
            position: event.position,
            tenant: event.tenant,
            event_type: event.event_type.into(),
            origin: event.origin.map(Box::from),
            data: event.data.into(),
        }
    }

    fn event(&self) -> EventRef<'_> {
        EventRef {
            position: self.position,
            appended_at: 0,
            time: None,
            tenant: self.tenant,
            event_type: &self.event_type,
            device: None,
            subject: None,
            origin: self.origin.as_deref(),
            data: &self.data,
        }
    }
}

struct Folding<'s> {
    shared: &'s Shared,
    opened_tail: Position,
    store: Store,
    /// The file has to be made first; whether the one that is there is damaged.
    anew: Option<bool>,
    names: Names,
    /// Kept from one batch to the next.
    batch: Batch,
    through: Position,
    ready: bool,
    unfinished: bool,
    forgotten: HashSet<TenantId>,
    /// Some of `forgotten` is not durable yet.
    newly_forgotten: bool,
    dirty: Changes,
    checkpointed: Position,
    /// Events that were folded since the last checkpoint.
    events: u64,
    /// Not before this is the next checkpoint made of its own accord.
    checkpoint_at: Instant,
}

impl<'s> Folding<'s> {
    fn new(shared: &'s Shared, opened_tail: Position) -> Self {
        Self {
            shared,
            opened_tail,
            store: Store::new(Arc::clone(&shared.files.storage), shared.lineage.epoch()),
            anew: None,
            names: Names::default(),
            batch: Batch::default(),
            // Nothing before it is there to be folded.
            through: shared.view.read().removed_through,
            ready: false,
            unfinished: false,
            forgotten: HashSet::new(),
            newly_forgotten: false,
            dirty: Changes::new(),
            checkpointed: 0,
            events: 0,
            checkpoint_at: Instant::now() + shared.options.state_checkpoint_interval,
        }
    }

    fn work(&mut self) {
        if !self.load() {
            return;
        }
        let control = &self.shared.state.control;
        self.has_folded();
        let mut read_failed = false;
        loop {
            let standing = Standing {
                through: self.through,
                ready: self.ready,
                unfinished: self.unfinished,
                checkpoint_at: self.checkpoint_due(),
            };
            match control.next(&standing, || self.shared.view.read().tail) {
                Task::Fold => match self.fold() {
                    Ok(()) if read_failed => {
                        read_failed = false;
                        control.has_tried(Ok(self.checkpointed), None);
                    }
                    Ok(()) => {}
                    Err(error) => {
                        crate::seldom!(error, %error, "the state can't be folded; trying again");
                        read_failed = true;
                        control.has_tried(Err(error.to_string()), None);
                        control.rest(RETRY);
                    }
                },
                Task::Checkpoint => {
                    let outcome = self.checkpoint();
                    control.has_tried(outcome, None);
                }
                Task::Serve {
                    ticket,
                    oblivion,
                    restored,
                } => {
                    let wipe = oblivion.wipe;
                    self.forget(oblivion.tenants);
                    // Before what is restored: the log may say that something is to be forgotten first.
                    let folded = self.fold_all();
                    self.restore(restored);
                    let mut outcome = folded.and_then(|()| self.checkpoint());
                    if wipe {
                        outcome = outcome.and_then(|checkpointed| {
                            let wiped = self.store.rewrite();
                            wiped
                                .map(|()| checkpointed)
                                .map_err(|error| error.to_string())
                        });
                    }
                    control.has_tried(outcome, Some(ticket));
                }
                Task::Stop => return self.finish(),
            }
        }
    }

    fn finish(&mut self) {
        // A state that is still far behind is left where it stands; the next start goes on there.
        let folded = if self.ready { self.fold_all() } else { Ok(()) };
        let outcome = folded.and_then(|()| self.checkpoint());
        self.shared.state.control.has_tried(outcome, None);
    }

    /// Reads the file, or finds out that it has to be made anew; whether the thread is to go on.
    fn load(&mut self) -> bool {
        let begun = Instant::now();
        let mut attempts = 0;
        let (reason, damaged) = loop {
            let mut table = Table::default();
            let loaded = self.store.load(&mut self.names, &mut |entry| {
                table.put(Arc::new(entry));
            });
            match loaded {
                Ok(stored) if !self.is_ours(&stored) => {
                    break ("it belongs to another log".to_owned(), false);
                }
                Ok(stored) => {
                    self.forgotten = stored.forgotten;
                    if stored.through > self.opened_tail {
                        break ("it is ahead of the log".to_owned(), false);
                    }
                    if stored.through < self.through {
                        break ("the log no longer has what follows it".to_owned(), false);
                    }
                    tracing::info!(
                        subjects = table.count,
                        through = stored.through,
                        milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(0),
                        "read the state"
                    );
                    self.through = stored.through;
                    self.checkpointed = stored.through;
                    table.through = stored.through;
                    *self.shared.state.table.write() = table;
                    self.shared
                        .state
                        .control
                        .has_tried(Ok(self.checkpointed), None);
                    return !self.shared.state.control.is_stopping();
                }
                Err(LoadError::Missing) if self.opened_tail == 0 => break (String::new(), false),
                Err(LoadError::Missing) => break ("it is missing".to_owned(), false),
                Err(LoadError::Damaged(what)) => break (what, true),
                Err(LoadError::Io(what)) if attempts == ATTEMPTS => break (what, true),
                Err(LoadError::Io(what)) => {
                    attempts += 1;
                    let control = &self.shared.state.control;
                    control.has_tried(Err(what), None);
                    if !control.rest(RETRY) {
                        return false;
                    }
                }
            }
        };
        self.anew = Some(damaged);
        self.newly_forgotten = !self.forgotten.is_empty();
        self.shared.state.table.write().through = self.through;
        if self.through > 0 {
            tracing::warn!(
                reason,
                "building the state anew; subjects whose events retention has removed are missing in it"
            );
        } else if !reason.is_empty() {
            tracing::warn!(reason, "building the state anew from the log");
        }
        !self.shared.state.control.is_stopping()
    }

    /// Whether a file is this log's, or was an ancestor's where the two were still the same.
    fn is_ours(&self, stored: &Stored) -> bool {
        let kinship = self
            .shared
            .lineage
            .kinship(Epoch(stored.epoch), stored.through);
        kinship == Kinship::Same
    }

    /// Folds what was durable when this began, or a good part of it.
    fn fold(&mut self) -> Result<(), ReadError> {
        let tail = self.shared.view.read().tail;
        for _ in 0..BATCHES {
            if self.through >= tail {
                break;
            }
            self.fold_batch()?;
        }
        self.unfinished = self.through < tail;
        self.has_folded();
        Ok(())
    }

    /// Folds what was durable when this began.
    fn fold_all(&mut self) -> Result<(), String> {
        let tail = self.shared.view.read().tail;
        while self.through < tail {
            self.fold_batch().map_err(|error| error.to_string())?;
        }
        self.has_folded();
        Ok(())
    }

    fn has_folded(&mut self) {
        let state = &self.shared.state;
        if !self.ready && self.through >= self.opened_tail {
            self.ready = true;
            state.ready.store(true, Ordering::Release);
        }
        state.control.has_folded(self.through, self.ready);
    }

    fn fold_batch(&mut self) -> Result<(), ReadError> {
        self.batch.clear();
        let (batch, forgotten) = (&mut self.batch, &self.forgotten);
        let doubting = self.shared.options.state_doubt;
        let mut doubts = Vec::new();
        let mut events = 0;
        let end = self
            .shared
            .read_everything(self.through, BATCH, &mut |event, run_time| {
                events += 1;
                if doubting.is_some_and(|doubt| doubt.tenant == event.tenant) {
                    doubts.push(Doubtful::behind(&event));
                } else if !forgotten.contains(&event.tenant) {
                    batch.note(&event, run_time);
                }
            })?;
        if let Some(lost) = end.lost {
            tracing::error!(
                first = lost.first,
                last = lost.last,
                "the state lacks what lost events said"
            );
        }
        self.events += events;
        self.through = end.examined_through;
        let names = &mut self.names;
        let last = self.batch.last_of_each_subject();
        let changes: Vec<Change> = last
            .map(|(event, subject, run_time)| change(&event, subject, run_time, names))
            .collect();
        let changes = match doubting {
            Some(doubt) if !doubts.is_empty() => self.with_doubts(doubt, &doubts, changes),
            _ => changes,
        };
        for change in &changes {
            let (key, entry) = dirty(change);
            self.dirty.insert(key, entry);
        }
        // What is replaced is dropped after the lock is released.
        let mut replaced = Vec::with_capacity(changes.len());
        let mut table = self.shared.state.table.write();
        for change in changes {
            replaced.extend(match change {
                Change::Put(entry) => table.put(entry),
                Change::End { tenant, kind, key } => table.take(tenant, &kind, &key),
            });
        }
        table.through = self.through;
        drop(table);
        Ok(())
    }

    /// What a batch changes when some of its events make what came before them doubtful.
    fn with_doubts(&self, doubt: Doubt, doubts: &[Doubtful], changes: Vec<Change>) -> Vec<Change> {
        let is_doubtful = |entry: &StateEntry| {
            doubts.iter().any(|behind| {
                entry.position < behind.position && (doubt.covers)(&behind.event(), &entry.event())
            })
        };
        let end = |entry: &StateEntry| Change::End {
            tenant: entry.tenant,
            kind: Arc::clone(&entry.kind),
            key: entry.key().into(),
        };
        // This thread alone changes the table, so that what is looked at here is what the changes meet.
        let known = StateSnapshot::of(&self.shared.state.table.read(), None);
        let mut all: Vec<Change> = known
            .into_entries()
            .filter(|entry| is_doubtful(entry))
            .map(|entry| end(&entry))
            .collect();
        tracing::warn!(
            subjects = all.len(),
            "the state has forgotten what missing events may have changed"
        );
        all.extend(changes.into_iter().map(|change| match change {
            Change::Put(entry) if is_doubtful(&entry) => end(&entry),
            other => other,
        }));
        all
    }

    fn forget(&mut self, tenants: Vec<TenantId>) {
        for tenant in tenants {
            if self.forgotten.insert(tenant) {
                self.newly_forgotten = true;
                let forgotten = self.shared.state.table.write().forget(tenant);
                // After the lock is released.
                drop(forgotten);
            }
            // Its subjects leave the file with the whole tenant.
            self.dirty
                .retain(|key, _| key[..16] != tenant.as_bytes()[..]);
        }
    }

    /// Takes in the last events of subjects that the log knows nothing of.
    fn restore(&mut self, events: Vec<(TenantId, NewEvent)>) {
        let now = self.shared.clock.now();
        for (tenant, event) in events {
            let living = event.subject.as_ref().map(NewSubject::as_ref);
            let Some(subject) = living.filter(|subject| !subject.ends) else {
                continue;
            };
            let state = &self.shared.state;
            let known = state.latest(tenant, subject.kind, subject.key);
            // What the log says is later than anything from outside.
            if self.forgotten.contains(&tenant) || known.is_some_and(|known| known.position > 0) {
                continue;
            }
            let event = EventRef {
                position: 0,
                appended_at: now.wall,
                time: event.time,
                tenant,
                event_type: event.event_type.as_str(),
                device: event.device.as_ref().map(DeviceId::as_str),
                subject: Some(subject),
                origin: event.origin.as_deref(),
                data: &event.data,
            };
            let entry = StateEntry::new(&event, subject, now.run, &mut self.names);
            let (key, entry) = (
                store_key(tenant, subject.kind, subject.key),
                Arc::new(entry),
            );
            self.dirty.insert(key, Some(Arc::clone(&entry)));
            let replaced = state.table.write().put(entry);
            // After the lock is released.
            drop(replaced);
        }
    }

    /// When what has changed is to be made durable.
    fn checkpoint_due(&self) -> Option<Instant> {
        if !self.has_changed() {
            return None;
        }
        let full = self.events >= EVENTS && self.shared.state.control.condition().1.is_none();
        Some(if full {
            Instant::now()
        } else {
            self.checkpoint_at
        })
    }

    fn has_changed(&self) -> bool {
        self.through > self.checkpointed || !self.dirty.is_empty() || self.newly_forgotten
    }

    /// Makes durable what has changed; answers how far the state is durable.
    fn checkpoint(&mut self) -> Result<Position, String> {
        if !self.has_changed() {
            return Ok(self.checkpointed);
        }
        let outcome = self.try_checkpoint();
        if let Err(error) = &outcome {
            crate::seldom!(
                error,
                error,
                "the state can't be made durable; trying again"
            );
            self.checkpoint_at = Instant::now() + RETRY;
        }
        outcome
    }

    fn try_checkpoint(&mut self) -> Result<Position, String> {
        if let Some(damaged) = self.anew {
            self.store
                .start_anew(damaged)
                .map_err(|error| error.to_string())?;
            self.anew = None;
        }
        self.store
            .save(self.through, &self.dirty, &self.forgotten)
            .map_err(|error| error.to_string())?;
        self.dirty.clear();
        self.newly_forgotten = false;
        self.checkpointed = self.through;
        self.events = 0;
        self.checkpoint_at = Instant::now() + self.shared.options.state_checkpoint_interval;
        Ok(self.checkpointed)
    }
}

fn change(event: &EventRef<'_>, subject: Subject<'_>, run_time: i64, names: &mut Names) -> Change {
    if subject.ends {
        Change::End {
            tenant: event.tenant,
            kind: names.shared(subject.kind),
            key: subject.key.into(),
        }
    } else {
        Change::Put(Arc::new(StateEntry::new(event, subject, run_time, names)))
    }
}

fn dirty(change: &Change) -> (StoreKey, Option<Arc<StateEntry>>) {
    match change {
        Change::Put(entry) => (
            store_key(entry.tenant, &entry.kind, entry.key()),
            Some(Arc::clone(entry)),
        ),
        Change::End { tenant, kind, key } => (store_key(*tenant, kind, key), None),
    }
}
