//! What the folding thread and all others tell each other.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tidings_protocol::{Position, TenantId};

use super::StateError;
use crate::event::NewEvent;

/// What is folded together: a wait this long after the first event of a batch saves a wake-up for
/// each commit. Nobody waits for it who has said so.
const COALESCE: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Control {
    inner: Mutex<Inner>,
    for_thread: Condvar,
    for_others: Condvar,
}

#[derive(Default)]
struct Inner {
    /// The state has come to where the log ended at the start.
    ready: bool,
    folded: Position,
    checkpointed: Position,
    /// Somebody waits for the state to be true here.
    urgent: Position,
    /// Checkpoints that were asked for, and how many of them were tried.
    requested: u64,
    served: u64,
    oblivion: Oblivion,
    /// What the state is to have of subjects that the log knows nothing of.
    restored: Vec<(TenantId, NewEvent)>,
    /// Why the last checkpoint or read failed.
    error: Option<String>,
    /// The thread waits for the tail to move.
    idle: bool,
    stop: bool,
    /// Why the thread has ended.
    ended: Option<String>,
}

/// Whose subjects are to go.
#[derive(Debug, Default)]
pub(super) struct Oblivion {
    pub(super) tenants: Vec<TenantId>,
    /// What was taken away is to leave the disk too.
    pub(super) wipe: bool,
}

/// What the thread is to do next.
#[derive(Debug)]
pub(super) enum Task {
    /// Fold what is durable.
    Fold,
    /// Make durable what has changed.
    Checkpoint,
    /// Forget these tenants, take in what is restored, fold what is durable now, make it durable, and say so
    /// with the ticket.
    Serve {
        ticket: u64,
        oblivion: Oblivion,
        restored: Vec<(TenantId, NewEvent)>,
    },
    Stop,
}

/// Where the thread stands when it asks what to do.
pub(super) struct Standing {
    pub(super) through: Position,
    pub(super) ready: bool,
    /// The last batch ended before what was durable when it began.
    pub(super) unfinished: bool,
    /// When what has changed is to be made durable.
    pub(super) checkpoint_at: Option<Instant>,
}

impl Control {
    /// Waits for something to do. `tail` looks how far the log reaches.
    pub(super) fn next(&self, standing: &Standing, tail: impl Fn() -> Position) -> Task {
        let mut inner = self.inner.lock();
        let mut patient = standing.ready && !standing.unfinished;
        loop {
            if inner.stop {
                return Task::Stop;
            }
            if inner.requested > inner.served && standing.ready {
                return Task::Serve {
                    ticket: inner.requested,
                    oblivion: std::mem::take(&mut inner.oblivion),
                    restored: std::mem::take(&mut inner.restored),
                };
            }
            let now = Instant::now();
            if standing.checkpoint_at.is_some_and(|at| at <= now) {
                return Task::Checkpoint;
            }
            let behind = tail() > standing.through;
            if behind && (!patient || inner.urgent > standing.through) {
                return Task::Fold;
            }
            let fold_at = behind.then(|| now + COALESCE);
            let next = fold_at.into_iter().chain(standing.checkpoint_at).min();
            inner.idle = !behind;
            match next {
                Some(next) => {
                    let waited = self.for_thread.wait_until(&mut inner, next);
                    patient = !(waited.timed_out() && behind);
                }
                None => self.for_thread.wait(&mut inner),
            }
            inner.idle = false;
        }
    }

    pub(super) fn tail_moved(&self) {
        let mut inner = self.inner.lock();
        if inner.idle {
            inner.idle = false;
            self.for_thread.notify_one();
        }
    }

    pub(super) fn has_folded(&self, through: Position, ready: bool) {
        let mut inner = self.inner.lock();
        inner.folded = through;
        inner.ready = ready;
        self.for_others.notify_all();
    }

    /// Says how a checkpoint, and the request that it answers, went.
    pub(super) fn has_tried(&self, outcome: Result<Position, String>, ticket: Option<u64>) {
        let mut inner = self.inner.lock();
        match outcome {
            Ok(checkpointed) => {
                inner.checkpointed = checkpointed;
                inner.error = None;
            }
            Err(error) => inner.error = Some(error),
        }
        if let Some(ticket) = ticket {
            inner.served = inner.served.max(ticket);
        }
        self.for_others.notify_all();
    }

    /// Waits before a failed read is tried again; whether the thread is to go on at all.
    pub(super) fn rest(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut inner = self.inner.lock();
        while !inner.stop && !self.for_thread.wait_until(&mut inner, until).timed_out() {}
        !inner.stop
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.inner.lock().stop
    }

    pub(super) fn has_ended(&self, reason: &str) {
        self.inner.lock().ended = Some(reason.to_owned());
        self.for_others.notify_all();
    }

    pub(super) fn stop(&self) {
        self.inner.lock().stop = true;
        self.for_thread.notify_one();
    }

    pub(super) fn stopped(&self) -> Option<String> {
        self.inner.lock().ended.clone()
    }

    /// How far the state is durable, and what is wrong.
    pub(super) fn condition(&self) -> (Position, Option<String>) {
        let inner = self.inner.lock();
        let error = inner.ended.clone().or_else(|| inner.error.clone());
        (inner.checkpointed, error)
    }

    pub(super) fn wait_through(&self, position: Position, deadline: Instant) -> bool {
        let mut inner = self.inner.lock();
        loop {
            if inner.ready && inner.folded >= position {
                return true;
            }
            if inner.ended.is_some() {
                return false;
            }
            inner.urgent = inner.urgent.max(position);
            self.for_thread.notify_one();
            if self.for_others.wait_until(&mut inner, deadline).timed_out() {
                return inner.ready && inner.folded >= position;
            }
        }
    }

    pub(super) fn checkpoint(&self) -> Result<(), StateError> {
        self.request(|_| {})
    }

    pub(super) fn restore(&self, events: Vec<(TenantId, NewEvent)>) -> Result<(), StateError> {
        self.request(|inner| inner.restored.extend(events))
    }

    pub(super) fn forget(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        self.request(|inner| inner.oblivion.tenants.extend_from_slice(tenants))
    }

    pub(super) fn wipe(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        self.request(|inner| {
            inner.oblivion.tenants.extend_from_slice(tenants);
            inner.oblivion.wipe = true;
        })
    }

    fn request(&self, ask: impl FnOnce(&mut Inner)) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        ask(&mut inner);
        inner.requested += 1;
        let ticket = inner.requested;
        self.for_thread.notify_one();
        loop {
            if inner.served >= ticket {
                return match &inner.error {
                    None => Ok(()),
                    Some(error) => Err(StateError::Unwritten(error.clone())),
                };
            }
            if let Some(reason) = &inner.ended {
                return Err(StateError::Stopped(reason.clone()));
            }
            // What was asked for is done when the state can be read after all.
            if !inner.ready
                && let Some(error) = &inner.error
            {
                return Err(StateError::Unwritten(error.clone()));
            }
            self.for_others.wait(&mut inner);
        }
    }

    pub(super) fn covers(&self, position: Position, ready: bool) -> Result<bool, StateError> {
        {
            let inner = self.inner.lock();
            if inner.checkpointed >= position {
                return Ok(true);
            }
            if inner.ended.is_some() && !inner.stop {
                // A fault has ended it. The log can't be kept whole for a state that never comes;
                // the next start builds it from what is retained then.
                return Ok(true);
            }
            if let Some(error) = &inner.error {
                return Err(StateError::Unwritten(error.clone()));
            }
            if !ready || inner.ended.is_some() {
                return Ok(false);
            }
        }
        match self.request(|_| {}) {
            Ok(()) => Ok(true),
            Err(StateError::Stopped(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
