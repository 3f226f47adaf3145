//! The writer: the one thread that appends.
//!
//! Publishes that arrive while one sync runs share the next (group commit). Of a group, all is
//! written with one write and one sync; then readers can see it, the listener is told, and the
//! publishers are answered, in this order. After a sync or write that failed nothing is
//! acknowledged any more: the kernel may have dropped what it could not write, and a later sync
//! would not say so.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_protocol::{Position, TenantId};

use crate::active::{Active, is_full};
use crate::format::{FRAMES_BEGIN, FrameHeader, FrameKind};
use crate::group::Group;
use crate::keys::KeyWindow;
use crate::log::Listener;
use crate::queue::{PurgeRequest, Submission, Work};
use crate::view::Shared;
use crate::{AppendError, Appended, Commit, Health};

/// A group takes in bodies up to so many bytes.
const GROUP_BYTES: u64 = 4 << 20;
/// When nothing was published for so long, a mark says that all was durable.
const IDLE: Duration = Duration::from_millis(20);

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: Box<dyn Listener>,
    pub(crate) active: Option<Active>,
    pub(crate) keys: KeyWindow,
    pub(crate) next_position: Position,
    /// The last position that was given to a frame.
    pub(crate) last: Position,
    /// Times of the last frame; those of the next are never less.
    pub(crate) last_time: i64,
    pub(crate) last_run: i64,
    /// A mark, or a segment's beginning, says that everything up to here was durable.
    marked: Position,
    pub(crate) group: Group,
    /// Bytes of the segment that could not be made.
    lacking: Option<u64>,
    /// Tenants from whom nothing is taken any more.
    pub(crate) purged: HashSet<TenantId>,
    pub(crate) failed: bool,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        listener: Box<dyn Listener>,
        active: Option<Active>,
        keys: KeyWindow,
        next_position: Position,
        last_time: i64,
    ) -> Self {
        let (last, purged) = {
            let view = shared.view.read();
            (view.tail, view.purged.clone())
        };
        let last_run = shared.clock.now().run;
        Self {
            shared,
            listener,
            active,
            keys,
            next_position,
            last,
            last_time,
            last_run,
            marked: 0,
            group: Group::default(),
            lacking: None,
            purged,
            failed: false,
        }
    }

    /// Runs until the queue closes or the log fails.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work()));
        if outcome.is_err() {
            tracing::error!("the writer panicked; the log stops");
            let reason = "the writer panicked".to_owned();
            shared.view.write().health = Health::Failed {
                since: shared.clock.now().wall,
                reason: reason.clone(),
            };
            shared.queue.stop(&AppendError::Failed(reason));
        }
    }

    /// Tells the listener how the log is, and makes the first segment where there is none. The
    /// upkeep thread must be running.
    pub(crate) fn begin(&mut self) {
        let health = self.shared.view.read().health.clone();
        self.listener.health_changed(&health);
        if self.active.is_none() {
            // A full disk does not keep anyone from reading.
            let _ = self.roll(0);
        }
    }

    fn work(&mut self) {
        while !self.failed {
            let patience = if self.marked < self.last && self.active.is_some() {
                Some(IDLE)
            } else {
                self.lacking.map(|_| self.shared.options.upkeep_interval)
            };
            match self.shared.queue.next(GROUP_BYTES, patience) {
                Work::Bodies(bodies) => self.store(bodies),
                Work::Idle => {
                    self.mark();
                    self.look_for_room();
                }
                // Nudges can come as often as the patience ends, so that it never does.
                Work::Nudge => {
                    self.look_for_room();
                    self.roll_if_due();
                }
                Work::Purge(request) => self.purge(request),
                Work::Close => {
                    self.finish();
                    return;
                }
            }
        }
    }

    fn store(&mut self, bodies: Vec<Submission>) {
        self.look_at_clock();
        self.keys.forget(self.last_run);
        for submission in bodies {
            if self.failed {
                let error = self.failure();
                answer(submission.answer, Err(error));
                continue;
            }
            self.take_in(submission);
        }
        if !self.failed {
            self.commit();
        }
    }

    /// A frame's two times are of one moment: a start takes them for a pair that belongs together.
    fn look_at_clock(&mut self) {
        let now = self.shared.clock.now();
        self.last_time = self.last_time.max(now.wall);
        self.last_run = self.last_run.max(now.run);
    }

    pub(crate) fn failure(&self) -> AppendError {
        match &self.shared.view.read().health {
            Health::Failed { reason, .. } => AppendError::Failed(reason.clone()),
            _ => AppendError::Closed,
        }
    }

    /// Makes the group durable, shows it, and answers its publishers.
    pub(crate) fn commit(&mut self) {
        if !self.group.frames.is_empty() {
            let active = self.active.as_mut().expect("the group was encoded for it");
            let begun = Instant::now();
            match active.append(&self.group.buffer) {
                Ok(()) => self.show(begun),
                Err(("writing", error)) if is_full(&error) => return self.give_up_segment(&error),
                Err((doing, error)) => {
                    let reason = format!("{doing} the log: {error}");
                    return self.fail(&reason);
                }
            }
        }
        for body in self.group.finish() {
            answer(body.answer, body.outcome);
        }
        self.prepare_ahead();
    }

    /// Shows the group, whose write has begun then.
    fn show(&mut self, begun: Instant) {
        let took = begun.elapsed();
        let active = self.active.as_ref().expect("the group was written to it");
        active.segment.add(&self.group.frames);
        let sizes = self.group.frames.iter();
        let exceeded = self
            .shared
            .caps
            .add(sizes.map(|(header, _)| (header.tenant, header.frame_bytes())));
        self.shared.view.write().tail = self.last;
        self.shared.state.tail_moved();
        if exceeded {
            self.shared.workshop.check_caps();
        }
        let events = self.group.events();
        self.listener.commit_measured(&Commit {
            submitted: self.group.submitted.unwrap_or(begun),
            took,
            events: events.len() as u64,
            bytes: self.group.buffer.len() as u64,
        });
        self.listener.committed(&events);
    }

    fn prepare_ahead(&mut self) {
        if let Some(active) = &self.active
            && active.offset > active.capacity / 2
        {
            self.shared
                .workshop
                .want(self.shared.options.segment_bytes());
        }
    }

    /// The disk is full in the middle of a group, on a file system that can't reserve room. Its
    /// bytes are cut off, so that no later start takes them for what was answered to be stored.
    fn give_up_segment(&mut self, error: &io::Error) {
        let active = self.active.take().expect("the group was written to it");
        let cut = active
            .file
            .set_len(active.offset)
            .and_then(|()| active.file.sync_data());
        if let Err(error) = cut {
            return self.fail(&format!("cutting off a write: {error}"));
        }
        active.segment.seal();
        self.shared.workshop.seal(active.segment);
        self.keys.retract(self.group.keys);
        self.last = self.shared.view.read().tail;
        if let Some((header, _)) = self.group.frames.first() {
            self.next_position = header.position;
        }
        let reason = error.to_string();
        self.lacking = Some(self.shared.options.segment_bytes());
        self.become_full(&reason);
        for body in self.group.finish() {
            if let Some(chain) = &body.chain {
                chain.set_broken();
            }
            answer(body.answer, Err(AppendError::Full(reason.clone())));
        }
    }

    fn fail(&mut self, reason: &str) {
        tracing::error!(
            reason,
            "the log stops; nothing more is stored until it is opened anew"
        );
        self.failed = true;
        self.set_health(&Health::Failed {
            since: self.shared.clock.now().wall,
            reason: reason.to_owned(),
        });
        for body in self.group.finish() {
            // Also one that was refused: perhaps for the key of a body that is not stored now.
            answer(body.answer, Err(AppendError::Failed(reason.to_owned())));
        }
        self.shared
            .queue
            .stop(&AppendError::Failed(reason.to_owned()));
    }

    /// Goes on in a new segment with room for a frame. The group must be empty.
    pub(crate) fn roll(&mut self, bytes: u64) -> Result<(), String> {
        debug_assert!(self.group.frames.is_empty());
        let size = self
            .shared
            .options
            .segment_bytes()
            .max(FRAMES_BEGIN + bytes);
        let prepared = match self.shared.workshop.take(size) {
            Ok(prepared) => prepared,
            Err(reason) => {
                self.lacking = Some(bytes);
                self.become_full(&reason);
                return Err(reason);
            }
        };
        let segment = Arc::new(crate::segment::Segment::in_memory(
            prepared.number,
            prepared.salt,
            crate::index::MemoryIndex::default(),
            prepared.capacity,
        ));
        if let Some(active) = self.active.take() {
            active.segment.seal();
            self.shared.workshop.seal(active.segment);
        }
        {
            let mut view = self.shared.view.write();
            let mut segments = (*view.segments).clone();
            segments.push(Arc::clone(&segment));
            view.segments = Arc::new(segments);
        }
        self.active = Some(Active::new(
            segment,
            prepared.file,
            FRAMES_BEGIN,
            prepared.capacity,
        ));
        self.lacking = None;
        let full = matches!(self.shared.view.read().health, Health::Full { .. });
        if full {
            tracing::info!("there is room again");
            self.set_health(&Health::Healthy);
        }
        Ok(())
    }

    /// Makes the segment that could not be made, if there is room by now.
    fn look_for_room(&mut self) {
        if let Some(bytes) = self.lacking {
            let _ = self.roll(bytes);
        }
    }

    /// Stands between what was stored before the purge and what is refused after it: the group is empty.
    fn purge(&mut self, request: PurgeRequest) {
        let PurgeRequest { tenant, answer } = request;
        let outcome = self.shared.hide(tenant);
        if outcome.is_ok() {
            self.purged.insert(tenant);
            self.keys.forget_tenant(tenant);
        }
        // Who asked may have given up.
        let _ = answer.send(outcome);
        self.roll_if_due();
        self.shared.workshop.purge();
    }

    /// Begins a new segment where the active one is old, or holds what is to be purged: only sealed
    /// segments are rewritten.
    fn roll_if_due(&mut self) {
        let due = self.active.as_ref().is_some_and(|active| {
            self.shared.is_due_for_age(&active.segment) || self.shared.is_to_purge(&active.segment)
        });
        if due {
            // A disk that has no room for a new segment is no trouble while the old one has.
            let health = self.shared.view.read().health.clone();
            if health == Health::Healthy && !self.failed {
                let _ = self.roll(0);
            }
        }
    }

    fn become_full(&mut self, reason: &str) {
        let healthy = self.shared.view.read().health == Health::Healthy;
        if healthy {
            tracing::error!(reason, "there is no room for a new segment");
            self.set_health(&Health::Full {
                since: self.shared.clock.now().wall,
                reason: reason.to_owned(),
            });
        }
    }

    fn set_health(&mut self, health: &Health) {
        self.shared.view.write().health = health.clone();
        self.listener.health_changed(health);
    }

    /// Says in the log that everything before was durable, so that damage to it can't be taken for
    /// a write that was cut off. It need not be durable itself.
    fn mark(&mut self) {
        self.look_at_clock();
        let header = FrameHeader {
            kind: FrameKind::Mark,
            keyed: false,
            payload_crc: crc32fast::hash(&[]),
            payload_length: 0,
            count: 0,
            position: self.next_position,
            follows: self.last,
            synced_through: self.last,
            appended_at: self.last_time,
            run_time: self.last_run,
            tenant: TenantId::from_bytes([0; 16]),
        };
        if self.marked >= self.last || !self.fits(header.frame_bytes()) {
            self.marked = self.last;
            return;
        }
        self.marked = self.last;
        let Some(active) = self.active.as_mut() else {
            return;
        };
        let frame = header.encode(active.segment.salt, active.offset);
        match active.file.write_at(&frame, active.offset) {
            Ok(()) => {
                active.segment.add(&[(header, active.offset)]);
                active.offset += header.frame_bytes();
            }
            // The next group is written over whatever this has left.
            Err(error) if is_full(&error) => {}
            Err(error) => self.fail(&format!("writing the log: {error}")),
        }
    }

    fn finish(&mut self) {
        self.mark();
        if let Some(active) = &self.active
            && let Err(error) = active.file.sync_data()
        {
            // Everything acknowledged was synced before; only the mark may be missing.
            tracing::warn!(%error, "syncing the log while closing it");
        }
        self.shared.queue.stop(&AppendError::Closed);
    }
}

/// A panic of a publisher's own code is its own trouble.
pub(crate) fn answer(answer: crate::log::Answer, outcome: Result<Appended, AppendError>) {
    if catch_unwind(AssertUnwindSafe(|| answer(outcome))).is_err() {
        tracing::error!("answering a publisher panicked");
    }
}
