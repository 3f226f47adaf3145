//! The handle: opens a log, hands bodies to its writer, reads, closes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, RwLock};
use tidings_protocol::{Epoch, Position, TenantId};

use crate::backup::{self, BackupError, BackupReport, Companions, Stop};
use crate::clock::{Clock, RunClock, SystemClock};
use crate::folder::{io_error, lock, open_or_create};
use crate::fork;
use crate::format::{Events, FrameHeader};
use crate::horizon::Horizons;
use crate::keys::KeyWindow;
use crate::lineage::Lineage;
use crate::purge::Purging;
use crate::queue::{PurgeRequest, Queue, Submission};
use crate::reading::Hints;
use crate::recovery::{Recovered, recover, visit_keyed};
use crate::segment::Files;
use crate::storage::{FileStorage, Storage};
use crate::tenant_caps::TenantCaps;
use crate::view::{Shared, View};
use crate::workshop::Workshop;
use crate::writer::Writer;
use crate::{
    AppendError, Appended, Busy, Chain, Commit, EventRef, Health, LogOptions, MAX_ORIGIN, NewEvent,
    OpenError, ReadEnd, ReadError, ReadLimit, Resume, Scope, State, StateError, TenantUsage, Usage,
    state, upkeep,
};

/// Told what became durable. Called on the writer thread: what it does, publishers wait for.
pub trait Listener: Send + 'static {
    /// One group commit: all its events, positions ascending, after the sync and before any of its
    /// publishers is answered. [`Log::read`] can see them already.
    fn committed(&mut self, events: &[EventRef<'_>]);
    /// How that commit went. Called just before [`Listener::committed`].
    fn commit_measured(&mut self, _commit: &Commit) {}
    /// The log became better or worse. Called first while the log is being opened, with its state
    /// then, on the thread that opens it.
    fn health_changed(&mut self, health: &Health);
}

/// What is called with a body's fate, mostly on the writer thread: it must not block.
pub type Answer = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// An open log. Clones share it; it is closed by [`Log::close`] or when the last clone goes.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Until the log is closed.
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    writer: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    state: JoinHandle<()>,
}

/// While there is one, nobody is given a snapshot of the state.
#[must_use]
pub struct HeldState(Log);

impl Drop for HeldState {
    fn drop(&mut self) {
        self.0.state().let_go();
    }
}

impl Log {
    /// Opens the log in `options.path`, or makes it; returns when it is ready to append and read.
    pub fn open(options: LogOptions, listener: Box<dyn Listener>) -> Result<Self, OpenError> {
        let doing = format!("making the folder {}", options.path.display());
        let storage = FileStorage::create(&options.path).map_err(io_error(doing))?;
        Self::open_with(options, Arc::new(storage), Arc::new(SystemClock), listener)
    }

    /// [`Log::open`] on another file system and by another clock.
    pub fn open_with(
        options: LogOptions,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        listener: Box<dyn Listener>,
    ) -> Result<Self, OpenError> {
        let lock = lock(&*storage, &options.path, &options.owner)?;
        let (meta, known, lineage) = open_or_create(&storage, &options.path, clock.now().wall)?;
        let files = Files::new(storage, options.cache_bytes);
        let recovered = recover(&files, &options.path, &known, &lineage)?;
        let lineage = if recovered.tail < known.shown_through {
            fork::after_loss(&files, &options.path, &meta, &lineage, &recovered)?
        } else {
            lineage
        };
        let clock = Arc::new(RunClock::open(
            clock,
            options.retention_micros(),
            options.guiding_retention(),
            recovered.known,
            known.cutoff,
        ));
        let keys = remembered_keys(&options, &files, &recovered, &clock, &known.purged)
            .map_err(io_error("reading the keys of the last events"))?;
        let Recovered {
            segments,
            active,
            unindexed,
            lost,
            tail,
            next_position,
            next_number,
            last_time,
            ..
        } = recovered;
        let shared = Arc::new(Shared {
            lineage,
            files,
            meta,
            state: State::new(&options, Arc::clone(&clock)),
            clock,
            view: RwLock::new(View::opened(segments, tail, lost, &known)),
            horizons: Horizons::new(&options),
            hints: Hints::new(),
            queue: Queue::new(options.queue_bytes),
            workshop: Workshop::new(next_number),
            caps: TenantCaps::new(&options),
            retention: Mutex::new(()),
            purging: Mutex::new(Purging::begun(&known.purged)),
            purges: AtomicU64::new(0),
            backing_up: Mutex::new(()),
            lock: Mutex::new(Some(lock)),
            options,
        });
        shared
            .count_tenants()
            .map_err(io_error("counting tenants' bytes"))?;
        shared.retain();
        for segment in unindexed {
            shared.workshop.seal(segment);
        }
        if shared.is_purging() {
            shared.workshop.purge();
        }
        let last_time = last_time.unwrap_or(known.removed_at);
        let writer = Writer::new(
            Arc::clone(&shared),
            listener,
            active,
            keys,
            next_position,
            last_time,
        );
        Self::start(shared, writer, tail)
    }

    fn start(
        shared: Arc<Shared>,
        mut writer: Writer,
        opened_tail: Position,
    ) -> Result<Self, OpenError> {
        let for_state = Arc::clone(&shared);
        let state = thread::Builder::new()
            .name("log-state".to_owned())
            .spawn(move || state::run(&for_state, opened_tail))
            .map_err(io_error("starting the state's thread"))?;
        let for_upkeep = Arc::clone(&shared);
        let upkeep = thread::Builder::new()
            .name("log-upkeep".to_owned())
            .spawn(move || upkeep::run(&for_upkeep))
            .map_err(io_error("starting the upkeep thread"))
            .inspect_err(|_| shared.state.stop())?;
        writer.begin();
        let writer = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(io_error("starting the writer thread"));
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                shared.workshop.stop();
                shared.state.stop();
                return Err(error);
            }
        };
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                threads: Mutex::new(Some(Threads {
                    writer,
                    upkeep,
                    state,
                })),
            }),
        })
    }

    /// Which log its positions belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared().lineage.epoch()
    }

    /// The log's epoch and those that it descends from, whose positions it shares up to a fork.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.shared().lineage
    }

    /// Hands a body to the writer; never blocks. The body is stored whole or not at all, and
    /// `answer` called when its fate is durable. An empty body is answered with
    /// [`AppendError::TooLarge`]. When the log is closed or has failed, `answer` is called at once,
    /// on this thread.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue is full; `answer` is dropped then.
    pub fn submit(
        &self,
        tenant: TenantId,
        events: Vec<NewEvent>,
        answer: Answer,
    ) -> Result<(), Busy> {
        self.hand_in(Submission::new(tenant, events, answer))
    }

    /// [`Log::submit`], as the next of a chain: answered [`AppendError::Unchained`] where a body before it was
    /// not stored.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue is full; the chain is as it was.
    pub fn submit_chained(
        &self,
        chain: &Chain,
        tenant: TenantId,
        events: Vec<NewEvent>,
        answer: Answer,
    ) -> Result<(), Busy> {
        let mut submission = Submission::new(tenant, events, answer);
        submission.chain = Some(chain.clone());
        self.hand_in(submission)
    }

    fn hand_in(&self, submission: Submission) -> Result<(), Busy> {
        let limit = self.shared().options.max_frame_bytes();
        if submission.events.is_empty() || submission.bytes > limit {
            let bytes = submission.bytes;
            (submission.answer)(Err(AppendError::TooLarge { bytes, limit }));
            return Ok(());
        }
        debug_assert!(
            submission.events.iter().all(|event| event
                .origin
                .as_ref()
                .is_none_or(|origin| origin.len() <= MAX_ORIGIN)),
            "an origin is at most MAX_ORIGIN bytes"
        );
        self.shared().queue.submit(submission)
    }

    /// The last durable position; 0 when the log is empty.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.shared().view.read().tail
    }

    /// Whether everything of the scope after a position is still retained. Exact per scope: a
    /// tenant is not told of another tenant's removed events.
    #[must_use]
    pub fn resume_point(&self, scope: Scope, after: Position) -> Resume {
        self.shared().resume_point(scope, after)
    }

    /// The position after which the first event appended at or after `time` (microseconds since
    /// the Unix epoch) comes. Where such events may have been removed it is 0, so that
    /// [`Log::resume_point`] tells of them.
    pub fn position_before(&self, time: i64) -> Result<Position, ReadError> {
        self.shared().position_before(time)
    }

    /// Visits the retained, durable events of the scope after a position, in order.
    pub fn read(
        &self,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
        visit: &mut dyn FnMut(EventRef<'_>),
    ) -> Result<ReadEnd, ReadError> {
        self.shared().read(scope, after, limit, visit)
    }

    /// The last event of each living subject. After the log was closed it can still be asked, and
    /// does not change any more.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.shared().state
    }

    /// Lets nobody have a snapshot of the state until what this gives is dropped: what the state has is about to be
    /// mended by [`State::restore`].
    pub fn hold_state(&self) -> HeldState {
        self.state().hold();
        HeldState(self.clone())
    }

    /// How well the log is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared().view.read().health.clone()
    }

    /// How often the writer has come for work. It is asked to come again, so that a later answer differs unless the
    /// writer is stuck, in a write or sync that does not return, or has ended.
    #[must_use]
    pub fn pulse(&self) -> u64 {
        self.shared().queue.pulse()
    }

    /// What the log holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared().usage()
    }

    /// What is retained of each tenant of whom something is, in no order. By the segments' directories,
    /// not by reading events.
    pub fn tenants(&self) -> Result<Vec<TenantUsage>, ReadError> {
        self.shared().tenants()
    }

    /// What is retained of one tenant.
    pub fn tenant(&self, tenant: TenantId) -> Result<TenantUsage, ReadError> {
        self.shared().tenant(tenant)
    }

    /// Purges a tenant, for good. When it returns this is durable: no read shows its events any more,
    /// nothing is stored for it, its keys are forgotten. The upkeep thread then takes the events out of
    /// the files, also after a restart; [`Log::is_on_disk`] says when that is done.
    ///
    /// What the listener was told before stays with the listener. Waits for the writer.
    pub fn purge(&self, tenant: TenantId) -> Result<(), AppendError> {
        loop {
            let (answer, answered) = mpsc::channel();
            match self.shared().queue.purge(PurgeRequest { tenant, answer }) {
                // Without an answer the writer has ended meanwhile.
                Ok(()) => {
                    if let Ok(outcome) = answered.recv() {
                        outcome?;
                        return self.purge_state(tenant);
                    }
                }
                Err(AppendError::Closed) => return Err(AppendError::Closed),
                // The log has failed: nothing is appended, so nothing can come in between.
                Err(_) => {
                    self.shared().hide(tenant)?;
                    self.shared().workshop.purge();
                    return self.purge_state(tenant);
                }
            }
        }
    }

    /// Takes a purged tenant's subjects from the state.
    fn purge_state(&self, tenant: TenantId) -> Result<(), AppendError> {
        match self.shared().state.forget_tenants(&[tenant]) {
            // Gone from memory; the upkeep thread sees to the disk.
            Ok(()) | Err(StateError::Unwritten(_)) => Ok(()),
            Err(StateError::Stopped(reason)) => {
                tracing::error!(%tenant, reason, "the state of a purged tenant can't be taken away");
                Ok(())
            }
            Err(error @ StateError::NotReady { .. }) => Err(AppendError::Failed(error.to_string())),
        }
    }

    /// The tenants that were purged, ever, in no order.
    #[must_use]
    pub fn purged(&self) -> Vec<TenantId> {
        self.shared().view.read().purged.iter().copied().collect()
    }

    /// Whether a tenant was purged, ever.
    #[must_use]
    pub fn is_purged(&self, tenant: TenantId) -> bool {
        self.shared().view.read().purged.contains(&tenant)
    }

    /// Whether events of a purged tenant may still be on the disk; `None` of one that was not purged.
    #[must_use]
    pub fn is_on_disk(&self, tenant: TenantId) -> Option<bool> {
        self.shared().purge_state(tenant)
    }

    /// How many tenants were purged since the log was opened. Who keeps what it has read compares this
    /// before and after, to know whether it may hold a purged tenant's events.
    #[must_use]
    pub fn purge_count(&self) -> u64 {
        self.shared().purges.load(Ordering::Acquire)
    }

    /// Writes a backup into a folder, while the log goes on. What is there of an earlier backup of this log and
    /// is still the same is kept; where the folder holds anything else, it is refused. On this thread.
    ///
    /// # Errors
    ///
    /// Any, after which an earlier backup in the folder is as it was.
    pub fn backup(
        &self,
        target: &Path,
        companions: Companions<'_>,
        stop: Stop<'_>,
    ) -> Result<BackupReport, BackupError> {
        let storage = backup::target_folder(target)?;
        self.backup_with(&storage, target, companions, stop)
    }

    /// [`Log::backup`] into another file system; `target` only serves messages.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn backup_with(
        &self,
        storage: &Arc<dyn Storage>,
        target: &Path,
        companions: Companions<'_>,
        stop: Stop<'_>,
    ) -> Result<BackupReport, BackupError> {
        backup::run(self.shared(), storage, target, companions, stop)
    }

    /// Runs retention now, on this thread, rather than at the next interval.
    pub fn run_upkeep(&self) {
        self.shared().retain();
    }

    /// Stores what was submitted, stops the writer and releases the folder. Later submissions are
    /// answered [`AppendError::Closed`]; other clones can go on reading.
    pub fn close(self) {
        self.handle.shut_down();
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Log")
            .field("path", &self.shared().options.path)
            .field("epoch", &self.epoch())
            .field("tail", &self.tail())
            .finish_non_exhaustive()
    }
}

impl Handle {
    fn shut_down(&self) {
        let Some(threads) = self.threads.lock().take() else {
            return;
        };
        self.shared.queue.close();
        // The last clone can be dropped by an answer, on the writer thread itself, which can't wait
        // for its own end: then another thread does.
        if thread::current().id() == threads.writer.thread().id() {
            let shared = Arc::clone(&self.shared);
            thread::spawn(move || wind_up(&shared, threads));
        } else {
            wind_up(&self.shared, threads);
        }
    }
}

fn wind_up(shared: &Shared, threads: Threads) {
    let _ = threads.writer.join();
    shared.workshop.stop();
    let _ = threads.upkeep.join();
    // Last, since retention waits for it.
    shared.state.stop();
    let _ = threads.state.join();
    shared.note_time();
    if let Some(unused) = shared.workshop.take_unused() {
        upkeep::discard(&shared.files, unused.number);
    }
    shared.meta.close();
    shared.lock.lock().take();
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    fn usage(&self) -> Usage {
        let snapshot = self.snapshot(Scope::All);
        let events = snapshot
            .segments
            .iter()
            .map(|segment| segment.summary().events);
        let mut oldest = None;
        let limit = ReadLimit {
            events: 1,
            bytes: 1,
        };
        // An unreadable oldest event is no reason to say nothing of the rest.
        let _ = self.read(Scope::All, snapshot.horizon, limit, &mut |event| {
            oldest.get_or_insert((event.position, event.appended_at));
        });
        Usage {
            bytes: self.segment_bytes(),
            segments: snapshot.segments.len(),
            events: events.sum(),
            oldest: oldest.map(|(position, _)| position),
            oldest_at: oldest.map(|(_, at)| at),
        }
    }

    /// Opens the tenants' accounts, where there is a cap, and takes what exceeds it.
    fn count_tenants(&self) -> std::io::Result<()> {
        if !self.caps.any() {
            return Ok(());
        }
        let segments = Arc::clone(&self.view.read().segments);
        for segment in segments.iter() {
            let directory = segment.directory(&self.files).or_else(|_| {
                self.rescan(segment)?;
                segment.directory(&self.files)
            })?;
            self.caps.add(
                directory
                    .into_iter()
                    .map(|entry| (entry.tenant, entry.bytes)),
            );
        }
        Ok(())
    }
}

fn remembered_keys(
    options: &LogOptions,
    files: &Files,
    recovered: &Recovered,
    clock: &RunClock,
    purged: &HashMap<TenantId, bool>,
) -> std::io::Result<KeyWindow> {
    let mut keys = KeyWindow::new(options.key_window_micros(), options.max_keys);
    let oldest = keys.oldest(clock.now().run);
    let mut remember = |header: &FrameHeader, payload: &[u8]| {
        if purged.contains_key(&header.tenant) {
            return;
        }
        for (event, position) in Events::new(payload).zip(header.position..) {
            if let Some(key) = &event.key {
                keys.insert(header.tenant, key, position, header.run_time);
            }
        }
    };
    visit_keyed(files, &recovered.segments, oldest, &mut remember)?;
    Ok(keys)
}
