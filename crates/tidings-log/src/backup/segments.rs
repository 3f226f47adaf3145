//! The segments of a backup: which are kept, which are copied.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use super::copy::{self, Copied, Failed, Plan};
use super::manifest::SegmentEntry;
use super::{BackupError, Making, folder, io_error};
use crate::event::Lost;
use crate::format::{FRAMES_BEGIN, SegmentHeader, log_name};
use crate::index::{DirectoryEntry, Summary};
use crate::scan;
use crate::segment::Segment;
use crate::storage::OpenMode;

/// A segment that the backup has.
pub(super) struct Held {
    pub(super) entry: SegmentEntry,
    /// The greatest position that it speaks of.
    pub(super) reached: Position,
    pub(super) lost: Vec<Lost>,
    /// Whose events it holds.
    tenants: HashSet<TenantId>,
}

impl Making<'_> {
    /// Sees to it that the backup has every segment that there was when it began and still is, and of purged
    /// tenants nothing.
    pub(super) fn copy_segments(&mut self, segments: &[Arc<Segment>]) -> Result<(), BackupError> {
        let had = std::mem::take(&mut self.held);
        let mut had = had.into_iter().peekable();
        let is_wanted = |summary: &Summary| {
            summary.frames > 0 && (summary.events == 0 || summary.first <= self.through)
        };
        let wanted: Vec<_> = segments
            .iter()
            .filter(|segment| is_wanted(&segment.summary()))
            .collect();
        let last = wanted.last().map(|segment| segment.number);
        let mut before = 0;
        for segment in wanted {
            self.check_stop()?;
            let number = segment.number;
            let copied = had
                .next_if(|held| held.entry.number == number)
                .filter(|held| held.tenants.is_disjoint(&self.purged));
            let held = match copied.or_else(|| self.kept(segment)) {
                Some(held) => Some(held),
                None => self.copied(segment, before, last == Some(number))?,
            };
            if let Some(held) = held {
                before = held.reached;
                self.held.push(held);
            }
        }
        Ok(())
    }

    /// What the backup before has of a segment, where that is still right; or better than what there is now,
    /// which was damaged since.
    fn kept(&self, segment: &Segment) -> Option<Held> {
        let previous = self.previous?;
        let summary = segment.summary();
        if !segment.is_sealed() || previous.lineage.epoch() != self.shared.lineage.epoch() {
            return None;
        }
        let place = previous
            .segments
            .binary_search_by_key(&segment.number, |entry| entry.number);
        let entry = &previous.segments[place.ok()?];
        let file = self
            .target
            .open(&folder::place(&entry.file), OpenMode::Read)
            .ok()?;
        if entry.salt != segment.salt || file.len().ok()? != entry.length {
            return None;
        }
        let directory = segment.directory(&self.shared.files).ok()?;
        let lives = |found: &&DirectoryEntry| !self.purged.contains(&found.tenant);
        let living = || directory.iter().filter(lives);
        let is_same = entry.length == summary.end.max(FRAMES_BEGIN)
            && entry.holds == copy::holds(living().copied());
        let (_, lost) = segment.blemishes();
        let is_better = lost.len() > entry.lost
            && entry.length >= summary.end
            && self
                .purged
                .iter()
                .all(|tenant| previous.purged.contains(tenant));
        (is_same || is_better).then(|| Held {
            entry: entry.clone(),
            reached: summary.reached,
            lost: Vec::new(),
            tenants: living().map(|found| found.tenant).collect(),
        })
    }

    /// Copies a segment; `None` where retention has removed it meanwhile.
    fn copied(
        &mut self,
        segment: &Segment,
        before: Position,
        is_last: bool,
    ) -> Result<Option<Held>, BackupError> {
        let name = log_name(segment.number);
        let from = match self.shared.files.storage.open(&name, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(format!("reading {name}"))(error)),
        };
        let own = SegmentHeader {
            salt: segment.salt,
            epoch: self.shared.lineage.epoch().0,
            number: segment.number,
        };
        let summary = segment.summary();
        let plan = Plan {
            header: scan::read_header(&*from).map_or(own, |(header, _)| header),
            end: summary.end,
            through: self.through,
            // Before the oldest, anything may have been removed.
            before: if before == 0 { summary.follows } else { before },
            blank: &self.purged,
            marked: is_last,
        };
        let file = format!("segment-{:010}-{}", segment.number, self.generation);
        let to = self
            .target
            .open(&folder::place(&file), OpenMode::Create)
            .map_err(io_error(format!("writing {file}")))?;
        let copied = copy::segment(from, &*to, &plan).map_err(|failed| match failed {
            Failed::Source(error) => io_error(format!("reading {name}"))(error),
            Failed::Target(error) => io_error(format!("writing {file}"))(error),
        })?;
        self.bytes_copied += copied.length;
        self.segments_copied.insert(segment.number);
        Ok(Some(held(segment, file, copied)))
    }
}

fn held(segment: &Segment, file: String, copied: Copied) -> Held {
    let Copied {
        index,
        length,
        crc,
        lost,
    } = copied;
    let entries = || {
        let tenants = index.tenants.iter();
        tenants.filter_map(|(tenant, frames)| frames.entry(*tenant))
    };
    Held {
        entry: SegmentEntry {
            number: segment.number,
            salt: segment.salt,
            length,
            crc,
            holds: copy::holds(entries()),
            lost: lost.len(),
            file,
        },
        reached: index.summary.reached,
        lost,
        tenants: entries().map(|entry| entry.tenant).collect(),
    }
}
