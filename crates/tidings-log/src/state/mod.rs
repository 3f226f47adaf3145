//! The state: the last event of each living subject, by tenant, kind and key.
//!
//! One thread, `log-state`, folds it from what is durable ([`fold`]); the writer only leaves word that
//! there is more. Readers share the table ([`table`]) under a lock that is held for moments. From time to
//! time the thread writes what has changed into a file of its own, together with the position that it
//! is true at ([`store`]); retention unlinks no segment that this does not cover yet, so that a subject
//! outlives the events behind it. A start reads the file and folds what came after, in the background.
//! A file that is missing, damaged, of another log or ahead of this one is built anew from what the
//! log retains.

mod batch;
mod control;
mod entry;
mod fold;
mod snapshot;
mod store;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tidings_protocol::{Epoch, Position, TenantId};

use crate::LogOptions;
use crate::clock::RunClock;
use crate::event::{NewEvent, Scope, Subject};
use crate::storage::Storage;
use control::Control;
use table::Table;

pub use entry::StateEntry;
pub(crate) use fold::run;
pub use snapshot::{StateEntries, StateSnapshot};

/// The state can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// After a start: it is still being read. [`State::wait_through`] waits for it.
    #[error("the state is still being read; it has come to position {through}")]
    NotReady {
        /// How far it has come.
        through: Position,
    },
    /// It could not be written; it is tried again.
    #[error("the state can't be written: {0}")]
    Unwritten(String),
    /// Its thread has stopped, with the log or by a fault.
    #[error("the state has stopped: {0}")]
    Stopped(String),
}

/// How well the state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHealth {
    /// It has come to where the log ended when it was opened, and can be asked.
    pub ready: bool,
    /// The position that it is true at.
    pub folded: Position,
    /// The position that it is durable at; retention keeps what comes after.
    pub checkpointed: Position,
    /// Subjects of all tenants.
    pub subjects: usize,
    /// What fails at present, or has stopped it.
    pub error: Option<String>,
}

/// The last event of each living subject. Owned by the thread that folds it; asked by any.
pub struct State {
    table: RwLock<Table>,
    /// Set once, by the folding thread.
    ready: AtomicBool,
    /// How many hold it back.
    held: AtomicUsize,
    control: Control,
    clock: Arc<RunClock>,
    subjects_per_kind: usize,
    /// Microseconds.
    max_age: BTreeMap<String, i64>,
}

/// Writes a snapshot into a file of a backup, without these tenants.
pub(crate) fn write_snapshot(
    storage: &dyn Storage,
    name: &str,
    epoch: Epoch,
    snapshot: StateSnapshot,
    without: &HashSet<TenantId>,
) -> Result<(), String> {
    store::write_snapshot(storage, name, epoch, snapshot, without)
        .map_err(|error| error.to_string())
}

/// Makes the file in a folder that no log has open one of this epoch, without these tenants.
pub(crate) fn adapt(
    storage: &Arc<dyn Storage>,
    epoch: Epoch,
    without: &HashSet<TenantId>,
) -> Result<(), String> {
    store::adapt(storage, epoch, without)
}

impl State {
    pub(crate) fn new(options: &LogOptions, clock: Arc<RunClock>) -> Self {
        let micros = |age: &Duration| i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        Self {
            table: RwLock::default(),
            ready: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            control: Control::default(),
            clock,
            subjects_per_kind: options.state_subjects_per_kind,
            max_age: options
                .state_max_age
                .iter()
                .map(|(kind, age)| (kind.clone(), micros(age)))
                .collect(),
        }
    }

    /// The subjects of a scope as of one position. Costs next to nothing.
    ///
    /// # Errors
    ///
    /// [`StateError::NotReady`] after a start, until it has come to where the log ended then;
    /// [`StateError::Stopped`] when it never will.
    pub fn snapshot(&self, scope: Scope) -> Result<StateSnapshot, StateError> {
        if !self.is_ready() {
            if let Some(reason) = self.control.stopped() {
                return Err(StateError::Stopped(reason));
            }
            return Err(StateError::NotReady {
                through: self.folded(),
            });
        }
        let tenant = match scope {
            Scope::All => None,
            Scope::Tenant(tenant) => Some(tenant),
        };
        Ok(StateSnapshot::of(&self.table.read(), tenant))
    }

    /// See [`Log::hold_state`](crate::Log::hold_state).
    pub(crate) fn hold(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn let_go(&self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.held.load(Ordering::Acquire) == 0
    }

    /// The position that the state is true at; of all tenants.
    #[must_use]
    pub fn folded(&self) -> Position {
        self.table.read().through
    }

    /// Waits until the state is ready and true at a position or behind it, but no longer than this;
    /// whether it is. A position beyond the log's tail is waited for as well.
    #[must_use]
    pub fn wait_through(&self, position: Position, patience: Duration) -> bool {
        self.control
            .wait_through(position, Instant::now() + patience)
    }

    /// The last event of a subject, if it lives. Costs a lookup and allocates nothing. Before the
    /// state is ready it may be one that is not the last any more.
    #[must_use]
    pub fn latest(&self, tenant: TenantId, kind: &str, key: &str) -> Option<Arc<StateEntry>> {
        self.table.read().get(tenant, kind, key).cloned()
    }

    /// How many subjects of a kind a tenant has.
    #[must_use]
    pub fn count(&self, tenant: TenantId, kind: &str) -> usize {
        self.table
            .read()
            .kind(tenant, kind)
            .map_or(0, |kind| kind.count)
    }

    /// The tenants that have subjects, and how many; in no order.
    #[must_use]
    pub fn tenants(&self) -> Vec<(TenantId, usize)> {
        let table = self.table.read();
        let counts = table.tenants.iter();
        counts
            .map(|(tenant, state)| (*tenant, state.count()))
            .collect()
    }

    /// The subjects whose last event is of a device, by kind and key. Looks through all subjects of the
    /// tenant, without holding a lock.
    #[must_use]
    pub fn subjects_of_device(&self, tenant: TenantId, device: &str) -> Vec<Arc<StateEntry>> {
        StateSnapshot::of(&self.table.read(), Some(tenant))
            .into_entries()
            .filter(|entry| entry.device() == Some(device))
            .collect()
    }

    /// Whether the subjects of a body would bring its tenant over
    /// [`LogOptions::state_subjects_per_kind`]; answers the first kind that they would. To be asked
    /// before the body is submitted. What waits in the log's queue is not counted, so the limit can be
    /// exceeded by as many subjects as were admitted and not folded yet.
    #[must_use]
    pub fn would_exceed<'a>(&self, tenant: TenantId, subjects: &[Subject<'a>]) -> Option<&'a str> {
        let table = self.table.read();
        let living = || subjects.iter().filter(|subject| !subject.ends);
        let mut asked: Vec<&str> = Vec::new();
        for subject in living() {
            if asked.contains(&subject.kind) {
                continue;
            }
            asked.push(subject.kind);
            let count = table
                .kind(tenant, subject.kind)
                .map_or(0, |kind| kind.count);
            if count + subjects.len() <= self.subjects_per_kind {
                continue;
            }
            let fresh: HashSet<&str> = living()
                .filter(|other| other.kind == subject.kind)
                .map(|other| other.key)
                .filter(|key| table.get(tenant, subject.kind, key).is_none())
                .collect();
            if !fresh.is_empty() && count + fresh.len() > self.subjects_per_kind {
                return Some(subject.kind);
            }
        }
        None
    }

    /// Up to `limit` subjects whose last event is older than [`LogOptions::state_max_age`] has for
    /// their kind, by the run time that no setting of a clock moves. Nothing is taken away: whoever
    /// asks appends an event that ends them, and waits until it is folded before asking again. Looks
    /// through all subjects of these kinds, without holding a lock; nothing before the state is ready.
    #[must_use]
    pub fn overdue(&self, limit: usize) -> Vec<Arc<StateEntry>> {
        let mut overdue = Vec::new();
        if self.max_age.is_empty() || !self.is_ready() {
            return overdue;
        }
        let now = self.clock.now().run;
        let tenants: Vec<_> = self.table.read().tenants.values().cloned().collect();
        for kind in tenants.iter().flat_map(|tenant| &tenant.kinds) {
            let Some(age) = self.max_age.get(&*kind.name) else {
                continue;
            };
            let oldest = now.saturating_sub(*age);
            let old = kind
                .chunks
                .iter()
                .flat_map(|chunk| chunk.entries.iter())
                .filter(|entry| entry.run_time < oldest);
            overdue.extend(old.take(limit - overdue.len()).cloned());
            if overdue.len() == limit {
                break;
            }
        }
        overdue
    }

    /// Takes these tenants' subjects away, durably, and folds no further event of theirs, also
    /// after restarts. Done for those that are forgotten already, it costs next to nothing. A state
    /// that had to be built anew has forgotten whom it forgot, so whoever purges tenants calls this at
    /// each start.
    ///
    /// # Errors
    ///
    /// [`StateError::Unwritten`] when they are gone from memory, but not from the disk yet;
    /// [`StateError::Stopped`] when nothing was done.
    pub fn forget_tenants(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        self.control.forget(tenants)
    }

    /// [`State::forget_tenants`], and writes the file anew, so that nothing of theirs stands on the disk any
    /// more. Waits until the state is ready.
    pub(crate) fn wipe_tenants(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        self.control.wipe(tenants)
    }

    /// Gives the state the last events of subjects that the log has none of, since whatever it is a copy of does not
    /// retain them any more. They stand before the log's first position. A subject that the log knows keeps
    /// what it has, what ends a subject is passed over, and so is a tenant that was forgotten. Returns when
    /// this is durable; done again, it changes nothing.
    ///
    /// # Errors
    ///
    /// [`StateError::Unwritten`] when the state has them and the disk does not yet; [`StateError::Stopped`] when
    /// nothing was done.
    pub fn restore(&self, events: Vec<(TenantId, NewEvent)>) -> Result<(), StateError> {
        self.control.restore(events)
    }

    /// Makes the state durable as of now, rather than at the next interval.
    ///
    /// # Errors
    ///
    /// [`StateError::Unwritten`] or [`StateError::Stopped`].
    pub fn checkpoint(&self) -> Result<(), StateError> {
        self.control.checkpoint()
    }

    /// How well the state is.
    #[must_use]
    pub fn health(&self) -> StateHealth {
        let (checkpointed, error) = self.control.condition();
        let table = self.table.read();
        StateHealth {
            ready: self.is_ready(),
            folded: table.through,
            checkpointed,
            subjects: table.count,
            error,
        }
    }

    /// Leaves word that more is durable. Called by the writer after each commit.
    pub(crate) fn tail_moved(&self) {
        self.control.tail_moved();
    }

    /// Whether the segments up to a position can be unlinked, as far as the state is concerned. Has
    /// it made durable first, unless it is still on its way to where the log ended at the start: then
    /// retention comes again later rather than wait for it.
    pub(crate) fn covers(&self, position: Position) -> Result<bool, StateError> {
        self.control
            .covers(position, self.ready.load(Ordering::Acquire))
    }

    /// Has the thread finish; what is durable is folded, and made durable.
    pub(crate) fn stop(&self) {
        self.control.stop();
    }
}
