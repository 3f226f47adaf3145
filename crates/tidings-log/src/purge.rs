//! Purging: a tenant's events hidden at once, then taken from the files.
//!
//! That a tenant is purged is durable in `meta` before anything else happens, so that a start goes on
//! with what a crash has interrupted. A sealed segment that holds the tenant is copied with its frames
//! blanked ([`crate::format`]) and takes the old one's place by a rename: at every instant the name leads
//! to the old bytes or the new, and of everybody else both hold the same at the same places.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings_protocol::TenantId;

use crate::AppendError;
use crate::format::{
    FRAME_HEADER, FRAMES_BEGIN, FrameHeader, FrameKind, SEGMENTS, SegmentHeader, index_name,
    log_name, rewritten_name,
};
use crate::index::MemoryIndex;
use crate::segment::Segment;
use crate::storage::{OpenMode, StorageFile, read_exact_at};
use crate::upkeep::write_index;
use crate::view::Shared;

/// How much is copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// Purged tenants whose events may still be on the disk.
#[derive(Default)]
pub(crate) struct Purging {
    pending: HashSet<TenantId>,
    pass: Option<Pass>,
}

/// One way through all segments. A purge that comes meanwhile begins another.
struct Pass {
    tenants: HashSet<TenantId>,
    /// Segments with a lesser number hold none of them.
    next: u64,
}

/// How one step went.
enum Step {
    /// There is more to do at once.
    More,
    /// The writer must first seal the active segment.
    Wait,
    /// It goes on at the next interval.
    Later,
    /// Nothing is left.
    Done,
}

impl Purging {
    /// What a start goes on with: of each purged tenant, whether its events are gone from the disk.
    pub(crate) fn begun(purged: &HashMap<TenantId, bool>) -> Self {
        let left = purged.iter().filter(|(_, done)| !**done);
        Self {
            pending: left.map(|(tenant, _)| *tenant).collect(),
            pass: None,
        }
    }
}

impl Shared {
    /// Makes durable that a tenant is purged, and hides its events from every reader.
    pub(crate) fn hide(&self, tenant: TenantId) -> Result<(), AppendError> {
        if self.view.read().purged.contains(&tenant) {
            return Ok(());
        }
        self.meta
            .record_purge(tenant)
            .map_err(|error| AppendError::Failed(error.to_string()))?;
        {
            let mut view = self.view.write();
            view.purged.insert(tenant);
            view.removed.remove(&tenant);
            view.trimmed.remove(&tenant);
        }
        self.purges.fetch_add(1, Ordering::AcqRel);
        self.caps.forget(tenant);
        let mut purging = self.purging.lock();
        purging.pending.insert(tenant);
        purging.pass = None;
        tracing::info!(%tenant, "purged a tenant; its events are hidden and go from the disk next");
        Ok(())
    }

    /// Whether events of purged tenants may be on the disk.
    pub(crate) fn is_purging(&self) -> bool {
        !self.purging.lock().pending.is_empty()
    }

    /// Whether a tenant was purged, and if so, whether its events may still be on the disk.
    pub(crate) fn purge_state(&self, tenant: TenantId) -> Option<bool> {
        let purged = self.view.read().purged.contains(&tenant);
        purged.then(|| self.purging.lock().pending.contains(&tenant))
    }

    /// Whether a segment holds events that are to go.
    pub(crate) fn is_to_purge(&self, segment: &Segment) -> bool {
        let pending = self.purging.lock().pending.clone();
        !pending.is_empty() && self.holds_any(segment, &pending).unwrap_or(true)
    }

    /// Goes one segment further; whether there is more to do at once. What fails is tried again at the
    /// next interval.
    pub(crate) fn purge_further(&self) -> bool {
        let _one_at_a_time = self.retention.lock();
        match self.purge_step() {
            Ok(Step::More) => true,
            Ok(Step::Wait) => {
                self.queue.nudge();
                false
            }
            Ok(Step::Later | Step::Done) => false,
            Err(error) => {
                tracing::error!(
                    error,
                    "a purged tenant's events can't be removed; trying again"
                );
                false
            }
        }
    }

    fn purge_step(&self) -> Result<Step, String> {
        let (tenants, next) = {
            let mut purging = self.purging.lock();
            if purging.pending.is_empty() {
                return Ok(Step::Done);
            }
            let tenants = purging.pending.clone();
            let pass = purging.pass.get_or_insert(Pass { tenants, next: 0 });
            (pass.tenants.clone(), pass.next)
        };
        let segments = Arc::clone(&self.view.read().segments);
        for segment in segments.iter().filter(|segment| segment.number >= next) {
            let holds = self.holds_any(segment, &tenants).or_else(|_| {
                self.rescan(segment)
                    .and_then(|()| self.holds_any(segment, &tenants))
            });
            if holds.map_err(|error| error.to_string())? {
                if !segment.is_sealed() {
                    return Ok(Step::Wait);
                }
                self.rewrite(segment, &tenants)
                    .map_err(|error| format!("rewriting {}: {error}", log_name(segment.number)))?;
                self.passed(segment.number);
                return Ok(Step::More);
            }
            if segment.is_sealed() {
                self.passed(segment.number);
            }
        }
        self.finish_pass(&tenants)
    }

    fn passed(&self, number: u64) {
        if let Some(pass) = &mut self.purging.lock().pass {
            pass.next = number + 1;
        }
    }

    /// No segment holds the tenants of the pass any more.
    fn finish_pass(&self, tenants: &HashSet<TenantId>) -> Result<Step, String> {
        let health = self.state.health();
        if !health.ready && health.error.is_none() {
            // Whoever prepares segments must not wait for it.
            return Ok(Step::Later);
        }
        let forgotten: Vec<TenantId> = tenants.iter().copied().collect();
        self.state
            .wipe_tenants(&forgotten)
            .map_err(|error| error.to_string())?;
        self.remove_set_aside().map_err(|error| error.to_string())?;
        // A reader may have opened a file just before another took its place.
        self.files.close();
        self.meta
            .record_purged(tenants.iter().copied())
            .map_err(|error| error.to_string())?;
        for tenant in tenants {
            tracing::info!(%tenant, "the events of a purged tenant are gone from the disk");
        }
        let mut purging = self.purging.lock();
        purging.pending.retain(|tenant| !tenants.contains(tenant));
        purging.pass = None;
        Ok(if purging.pending.is_empty() {
            Step::Done
        } else {
            Step::More
        })
    }

    /// Whose events a destroyed segment holds nobody can say, so it goes with any purge.
    fn remove_set_aside(&self) -> io::Result<()> {
        let storage = &*self.files.storage;
        for name in storage.list(SEGMENTS)? {
            if name.ends_with(".damaged") {
                tracing::warn!(
                    name,
                    "removing a destroyed segment, which may hold events of a purged tenant"
                );
                storage.remove(&format!("{SEGMENTS}/{name}"))?;
            }
        }
        storage.sync_folder(SEGMENTS)
    }

    /// Whether a segment holds frames of these tenants, or bytes of which nobody can say whose they are.
    fn holds_any(&self, segment: &Segment, tenants: &HashSet<TenantId>) -> io::Result<bool> {
        if !segment.blemishes().0.is_empty() {
            return Ok(true);
        }
        for tenant in tenants {
            if segment.with_tenant(&self.files, *tenant, |frames| !frames.frames.is_empty())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a copy without some tenants' events in the place of a sealed segment.
    fn rewrite(&self, segment: &Segment, tenants: &HashSet<TenantId>) -> io::Result<()> {
        let storage = &*self.files.storage;
        let (name, fresh) = (log_name(segment.number), rewritten_name(segment.number));
        let length = segment.summary().end.max(FRAMES_BEGIN);
        let index = {
            // Its length is set, not reserved: what is blank takes no room.
            let to = storage.open(&fresh, OpenMode::Create)?;
            let copied = to
                .set_len(length)
                .and_then(|()| self.copy(segment, tenants, &*to));
            let index = copied.inspect_err(|_| {
                // Its room may be what is lacking.
                let _ = storage.remove(&fresh);
            })?;
            to.sync_data()?;
            index
        };
        // A reader with the old list of frames may meet the new file and have the segment repaired; that
        // must go by the new index, or it would take the blanked frames for lost ones.
        let before = segment.rewritten(index);
        let swapped = self.swap(segment.number, &fresh, &name);
        if let Err(error) = swapped {
            segment.restore(before);
            return Err(error);
        }
        self.files.forget(segment.number);
        segment.set_allocated(length);
        write_index(&self.files, segment);
        Ok(())
    }

    fn swap(&self, number: u64, fresh: &str, name: &str) -> io::Result<()> {
        let storage = &*self.files.storage;
        // After a crash between the two, the index is built anew from whichever file is there.
        match storage.remove(&index_name(number)) {
            Ok(()) => storage.sync_folder(SEGMENTS)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        storage.rename(fresh, name)?;
        storage.sync_folder(SEGMENTS)
    }

    /// Copies a segment's frames to the same places of another file, those of `tenants` blank. What is no
    /// sound frame is left out.
    fn copy(
        &self,
        segment: &Segment,
        tenants: &HashSet<TenantId>,
        to: &dyn StorageFile,
    ) -> io::Result<MemoryIndex> {
        let from = self.files.log(segment.number)?;
        let header = SegmentHeader {
            salt: segment.salt,
            epoch: self.lineage.epoch().0,
            number: segment.number,
        };
        to.write_at(&header.encode(), 0)?;
        let (skips, lost) = segment.blemishes();
        let mut index = MemoryIndex {
            lost,
            skips,
            ..MemoryIndex::default()
        };
        let end = segment.summary().end;
        let mut run = Run::at(FRAMES_BEGIN);
        let mut offset = FRAMES_BEGIN;
        let mut bytes = [0; FRAME_HEADER];
        while offset < end {
            if let Some(behind) = segment.skip(offset) {
                run.copy(&*from, to)?;
                run = Run::at(behind);
                offset = behind;
                continue;
            }
            read_exact_at(&*from, &mut bytes, offset)?;
            let Some(header) = FrameHeader::decode(&bytes, segment.salt, offset) else {
                // Damage that nobody has met yet: with it known, the next try gets over it.
                self.repair(segment)?;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("no frame at offset {offset}"),
                ));
            };
            let next = offset + header.frame_bytes();
            if header.kind == FrameKind::Events && tenants.contains(&header.tenant) {
                run.copy(&*from, to)?;
                run = Run::at(next);
                let blank = header.blanked();
                to.write_at(&blank.encode(segment.salt, offset), offset)?;
                index.add(&blank, offset);
            } else {
                run.end = next;
                index.add(&header, offset);
            }
            offset = next;
        }
        run.copy(&*from, to)?;
        Ok(index)
    }
}

/// Frames that stand side by side and are copied as they are.
struct Run {
    start: u64,
    end: u64,
}

impl Run {
    fn at(start: u64) -> Self {
        Self { start, end: start }
    }

    fn copy(&self, from: &dyn StorageFile, to: &dyn StorageFile) -> io::Result<()> {
        let mut offset = self.start;
        let mut buffer = Vec::new();
        while offset < self.end {
            let part = COPY_BYTES.min(self.end - offset);
            buffer.resize(usize::try_from(part).expect("small"), 0);
            read_exact_at(from, &mut buffer, offset)?;
            to.write_at(&buffer, offset)?;
            offset += part;
        }
        Ok(())
    }
}
