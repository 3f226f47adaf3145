//! The upkeep thread: prepares segments, indexes sealed ones, runs retention, keeps time.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tidings_protocol::Position;

use crate::Health;
use crate::folder::random;
use crate::format::{FRAMES_BEGIN, SEGMENTS, SegmentHeader, index_name, log_name};
use crate::index_file::{self, DiskIndex};
use crate::segment::{Files, Segment};
use crate::storage::OpenMode;
use crate::view::Shared;
use crate::workshop::{Job, Prepared};

/// How often the present time is written down, in microseconds: what a restart with a clock set
/// back can make the horizon of age fall back by.
const TIME_INTERVAL: i64 = 60 * 1_000_000;
/// The same where events were appended since: what is missing at a start is known to be by this.
const TAIL_INTERVAL: i64 = 10 * 1_000_000;
/// A segment is rolled for its age when its first event is older than this part of the retention,
/// so that what is unlinked is never much younger than what must go.
const ROLL_PART: i64 = 8;
/// But no sooner than after so many microseconds.
const ROLL_AT_LEAST: i64 = 10 * 1_000_000;

/// When the present time and the log's end were last written down, and what they were.
struct Noted {
    run: i64,
    tail: Position,
}

impl Noted {
    fn is_due(&self, now: &Self) -> bool {
        let since = now.run - self.run;
        since >= TIME_INTERVAL || (since >= TAIL_INTERVAL && now.tail != self.tail)
    }
}

/// Runs until the workshop stops.
pub(crate) fn run(shared: &Shared) {
    let mut noted = Noted {
        run: shared.clock.now().run,
        tail: shared.view.read().tail,
    };
    loop {
        let job = shared.workshop.next(shared.options.upkeep_interval);
        if matches!(job, Job::Stop) {
            return;
        }
        let preparing = matches!(job, Job::Prepare { .. });
        let done = catch_unwind(AssertUnwindSafe(|| work(shared, job, &mut noted)));
        if done.is_err() {
            tracing::error!("a job of the upkeep thread panicked");
            if preparing {
                let outcome = Err("preparing a segment panicked".to_owned());
                shared.workshop.prepared(outcome);
            }
        }
    }
}

fn work(shared: &Shared, job: Job, noted: &mut Noted) {
    match job {
        Job::Prepare { number, bytes } => {
            let outcome = shared.make_room(bytes).and_then(|()| {
                prepare(&shared.files, shared.lineage.epoch().0, number, bytes)
                    .map_err(|error| error.to_string())
            });
            if let Err(reason) = &outcome {
                // The writer says once that the log is full; each further attempt is no news.
                if shared.view.read().health == Health::Healthy {
                    crate::seldom!(warn, reason, bytes, "no new segment can be made");
                } else {
                    tracing::debug!(reason, bytes, "no new segment can be made");
                }
            }
            if let Some(superseded) = shared.workshop.prepared(outcome) {
                discard(&shared.files, superseded.number);
            }
        }
        Job::Seal(segment) => {
            seal(&shared.files, &segment);
            shared.note_time();
            shared.retain();
        }
        Job::IndexAgain(number) => {
            let segments = Arc::clone(&shared.view.read().segments);
            let segment = segments.iter().find(|segment| segment.number == number);
            if let Some(segment) = segment
                && segment.is_sealed()
            {
                write_index(&shared.files, segment);
            }
        }
        Job::Caps => shared.trim_tenants(),
        // One segment at a time, so that the writer never waits long for its next one.
        Job::Purge => {
            if shared.purge_further() {
                shared.workshop.purge();
            }
        }
        Job::Interval => {
            shared.retain();
            shared.nudge_for_age();
            if shared.is_purging() {
                shared.workshop.purge();
            }
            let now = Noted {
                run: shared.clock.now().run,
                tail: shared.view.read().tail,
            };
            if noted.is_due(&now) {
                *noted = now;
                shared.note_time();
            }
        }
        Job::Stop => {}
    }
}

/// Makes a segment: its room reserved, its header and its name durable.
pub(crate) fn prepare(files: &Files, epoch: u64, number: u64, bytes: u64) -> io::Result<Prepared> {
    let salt = random();
    let header = SegmentHeader {
        salt,
        epoch,
        number,
    };
    let make = || {
        let file = files.storage.open(&log_name(number), OpenMode::Create)?;
        file.allocate(bytes)?;
        file.write_at(&header.encode(), 0)?;
        file.sync_data()?;
        files.storage.sync_folder(SEGMENTS)?;
        Ok(file)
    };
    match make() {
        Ok(file) => Ok(Prepared {
            number,
            salt,
            file,
            capacity: bytes,
        }),
        Err(error) => {
            discard(files, number);
            Err(error)
        }
    }
}

/// Removes a segment that holds nothing.
pub(crate) fn discard(files: &Files, number: u64) {
    if let Err(error) = files.storage.remove(&log_name(number))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(number, %error, "removing a segment that was not made completely");
    }
}

/// Cuts a sealed segment to its length and puts its index on disk. Whatever fails here costs room
/// or time, never an event: a start finds out anew.
fn seal(files: &Files, segment: &Arc<Segment>) {
    let end = segment.summary().end.max(FRAMES_BEGIN);
    // The index must not speak of what the disk has not got: a mark at the end was not synced yet.
    let cut = files
        .storage
        .open(&log_name(segment.number), OpenMode::Write)
        .and_then(|file| {
            file.set_len(end)?;
            file.sync_data()
        });
    if let Err(error) = cut {
        tracing::warn!(segment = segment.number, %error, "cutting a sealed segment");
        return;
    }
    segment.set_allocated(end);
    write_index(files, segment);
}

pub(crate) fn write_index(files: &Files, segment: &Segment) {
    let Some(index) = segment.memory_index() else {
        return;
    };
    let storage = &*files.storage;
    let written = index_file::write(storage, segment.number, segment.salt, &index)
        .and_then(|()| DiskIndex::open(storage, segment.number, segment.salt));
    match written {
        Ok(disk) => segment.use_disk_index(disk),
        Err(error) => {
            tracing::warn!(name = index_name(segment.number), %error, "writing an index");
        }
    }
}

impl Shared {
    /// Has the writer begin a new segment where the active one is old enough.
    fn nudge_for_age(&self) {
        let active = self.view.read().segments.last().cloned();
        if let Some(active) = active
            && self.is_due_for_age(&active)
        {
            self.queue.nudge();
        }
    }

    pub(crate) fn is_due_for_age(&self, active: &Segment) -> bool {
        let Some(retention) = self.options.guiding_retention() else {
            return false;
        };
        let summary = active.summary();
        let age = self.clock.now().run - summary.first_run;
        !active.is_sealed()
            && summary.events > 0
            && age > (retention / ROLL_PART).max(ROLL_AT_LEAST)
    }

    /// Writes down how far time is known, and how far the log reaches.
    pub(crate) fn note_time(&self) {
        let (now, cutoff) = (self.clock.now(), self.clock.cutoff());
        let tail = self.view.read().tail;
        if let Err(error) = self.meta.record_time(now, cutoff, tail) {
            tracing::warn!(%error, "noting the time");
        }
    }
}
