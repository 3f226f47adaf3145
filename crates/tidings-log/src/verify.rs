//! Checks a folder without changing it.

use std::io;
use std::path::Path;

use tidings_protocol::{Epoch, Position};

use crate::OpenError;
use crate::backup::{self, BackupFolder};
use crate::event::Lost;
use crate::folder::{self, format, io_error};
use crate::format::{
    FRAME_HEADER, FRAMES_BEGIN, FrameKind, RESTORING, SEGMENTS, index_name, log_name,
    segment_number,
};
use crate::index::MemoryIndex;
use crate::index_file::DiskIndex;
use crate::lineage::Lineage;
use crate::scan::{self, Scan};
use crate::storage::{FileStorage, OpenMode, Storage, StorageFile};
use crate::text_file;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the log's folder.
    pub file: String,
    /// Where in the file, in bytes from its beginning.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Whether events are lost; otherwise the log mends it when it is opened.
    pub loses_events: bool,
}

/// What a folder holds and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// It is a backup, not a log.
    pub is_backup: bool,
    /// The log's epoch, as in its cursors.
    pub epoch: Option<Epoch>,
    /// Segments that were checked.
    pub segments: u64,
    /// Frames (bodies, and the log's own marks) whose checksums hold.
    pub frames: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// The first position found.
    pub first: Option<Position>,
    /// The last position found.
    pub last: Option<Position>,
    /// What is wrong; empty for a sound log.
    pub findings: Vec<Finding>,
}

/// The folder could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder can't be read as a log at all.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Checks every frame, every index and the order of the log in `path`. The folder is only read,
/// and not locked: of a log that is in use, a write that is under way can show as an unfinished
/// one at the end.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport, VerifyError> {
    let path = path.as_ref();
    let storage =
        FileStorage::existing(path).map_err(io_error(format!("opening {}", path.display())))?;
    verify_with(&storage, path)
}

/// [`verify`] on another file system; `path` only serves messages.
pub fn verify_with(storage: &dyn Storage, path: &Path) -> Result<VerifyReport, VerifyError> {
    if text_file::exists(storage, backup::MANIFEST).map_err(io_error("opening BACKUP"))? {
        return verify_backup(storage, path);
    }
    if text_file::exists(storage, RESTORING).map_err(io_error("opening RESTORING"))? {
        return Err(VerifyError::Open(OpenError::NotALog {
            path: path.to_owned(),
            what: "a restore into it did not end; restore into it once more".to_owned(),
        }));
    }
    if format(storage, path)?.is_none() {
        return Err(VerifyError::Open(OpenError::NotALog {
            path: path.to_owned(),
            what: "it has no file FORMAT".to_owned(),
        }));
    }
    let lineage = folder::lineage(storage, path)?;
    let names = storage
        .list(SEGMENTS)
        .map_err(io_error("listing the segments"))?;
    let mut check = Check::new(storage, lineage);
    for name in &names {
        if Path::new(name)
            .extension()
            .is_some_and(|kind| kind == "damaged")
        {
            check.find(
                format!("{SEGMENTS}/{name}"),
                None,
                "a segment that was destroyed and set aside".to_owned(),
                true,
            );
        }
    }
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    // Behind the segment that is written, the next one may be prepared.
    let newest = numbers
        .iter()
        .rev()
        .find(|number| has_begun(storage, **number));
    for number in &numbers {
        match check.segment(*number, newest.is_none_or(|newest| number >= newest)) {
            // Retention has removed it since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                check.find(
                    log_name(*number),
                    None,
                    format!("can't be read: {error}"),
                    true,
                );
            }
            Ok(()) => {}
        }
    }
    Ok(check.report)
}

/// Whether anything was written behind a segment's header. What can't be read counts as written.
fn has_begun(storage: &dyn Storage, number: u64) -> bool {
    let mut first = [0; FRAME_HEADER];
    storage
        .open(&log_name(number), OpenMode::Read)
        .and_then(|file| file.read_at(&mut first, FRAMES_BEGIN))
        .map_or(true, |_| first != [0; FRAME_HEADER])
}

/// Checks a backup: each file, and its segments as those of a log.
fn verify_backup(storage: &dyn Storage, path: &Path) -> Result<VerifyReport, VerifyError> {
    let backup = BackupFolder::open(storage).map_err(|what| OpenError::NotALog {
        path: path.to_owned(),
        what,
    })?;
    let mut check = Check::new(storage, Some(backup.lineage().clone()));
    check.report.is_backup = true;
    for (file, what) in backup.damaged_files() {
        // Which events that costs, if any, the frames tell.
        check.find(file, None, what, false);
    }
    for number in backup.numbers() {
        let name = backup.shown_name(number);
        let checked = backup
            .segment(number)
            .and_then(|(file, salt)| check.copied_segment(number, &name, &*file, salt));
        if let Err(error) = checked {
            check.find(name, None, format!("can't be read: {error}"), true);
        }
    }
    Ok(check.report)
}

struct Check<'s> {
    storage: &'s dyn Storage,
    /// The log's epoch and its ancestors, where it has any.
    lineage: Option<Lineage>,
    report: VerifyReport,
    /// The last position of the segments so far; `None` before the first.
    reached: Option<Position>,
    /// The least position that the next frame may have.
    next: Position,
    /// Append and run time of the last frame.
    times: Option<(i64, i64)>,
}

impl<'s> Check<'s> {
    fn new(storage: &'s dyn Storage, lineage: Option<Lineage>) -> Self {
        Self {
            storage,
            report: VerifyReport {
                epoch: lineage.as_ref().map(Lineage::epoch),
                ..VerifyReport::default()
            },
            lineage,
            reached: None,
            next: 0,
            times: None,
        }
    }
}

impl Check<'_> {
    fn find(&mut self, file: String, offset: Option<u64>, what: String, loses_events: bool) {
        self.report.findings.push(Finding {
            file,
            offset,
            what,
            loses_events,
        });
    }

    fn segment(&mut self, number: u64, newest: bool) -> io::Result<()> {
        let name = log_name(number);
        let file = self.storage.open(&name, OpenMode::Read)?;
        self.report.segments += 1;
        self.report.bytes += file.len()?;
        let Some((header, whole)) = scan::read_header(&*file) else {
            if !scan::is_blank(&*file)? {
                let what = "neither copy of the segment's header is sound".to_owned();
                self.find(name, Some(0), what, true);
            }
            return Ok(());
        };
        if !whole {
            let what = "one of the two copies of the segment's header is damaged".to_owned();
            self.find(name.clone(), Some(0), what, false);
        }
        if header.number != number || !self.is_ours(Epoch(header.epoch)) {
            let what = "the segment belongs to another log or another place".to_owned();
            self.find(name, Some(16), what, true);
            return Ok(());
        }
        self.report.epoch.get_or_insert(Epoch(header.epoch));
        let scan = self.scan(&name, &*file, header.salt)?;
        let index = DiskIndex::open(self.storage, number, header.salt)
            .and_then(|index| index.load(self.storage));
        self.frames(&name, &scan, index.as_ref().ok(), newest);
        self.index(number, &scan, index, newest);
        Ok(())
    }

    /// A segment in a backup, which says itself to its end what was durable.
    fn copied_segment(
        &mut self,
        number: u64,
        name: &str,
        file: &dyn StorageFile,
        salt: u64,
    ) -> io::Result<()> {
        self.report.segments += 1;
        self.report.bytes += file.len()?;
        let ours = scan::read_header(file).is_some_and(|(header, _)| {
            header.number == number && header.salt == salt && self.is_ours(Epoch(header.epoch))
        });
        if !ours {
            let what = "the segment's header is not this one's".to_owned();
            self.find(name.to_owned(), Some(0), what, false);
        }
        let scan = self.scan(name, file, salt)?;
        self.frames(name, &scan, None, false);
        Ok(())
    }

    fn is_ours(&self, epoch: Epoch) -> bool {
        match &self.lineage {
            Some(lineage) => lineage.has(epoch),
            None => self.report.epoch.is_none_or(|known| known == epoch),
        }
    }

    /// Scans a segment behind those before, and finds what is out of order.
    fn scan(&mut self, name: &str, file: &dyn StorageFile, salt: u64) -> io::Result<Scan> {
        let mut order = Vec::new();
        let (mut next, mut times) = (self.next, self.times);
        let scan = scan::scan(file, salt, self.reached, &mut |frame, offset, _| {
            if frame.kind == FrameKind::Events && frame.position < next {
                order.push((offset, "a position that an earlier frame has"));
            }
            if times.is_some_and(|(at, run)| frame.appended_at < at || frame.run_time < run) {
                order.push((offset, "a time before that of the frame before it"));
            }
            next = next.max(frame.next_position());
            times = Some((frame.appended_at, frame.run_time));
        })?;
        (self.next, self.times) = (next, times);
        for (offset, what) in order {
            self.find(name.to_owned(), Some(offset), what.to_owned(), false);
        }
        Ok(scan)
    }

    fn frames(&mut self, name: &str, scan: &Scan, index: Option<&MemoryIndex>, newest: bool) {
        let summary = scan.index.summary;
        let harmless = scan.index.lost.is_empty();
        for (from, to) in &scan.index.skips {
            // The log has met this before, and no event is missing for it.
            if harmless && *from < scan.recovered_at {
                continue;
            }
            let what = format!("{} bytes are no sound frame", to - from);
            // Which events that cost, if any, the index or the missing positions tell.
            self.find(name.to_owned(), Some(*from), what, false);
        }
        let mut lost = self.missing(scan, newest);
        for (offset, stretch) in index.iter().flat_map(|index| vanished(index, scan)) {
            let what = format!("the events {} to {} are lost", stretch.first, stretch.last);
            self.find(name.to_owned(), Some(offset), what, true);
            lost.retain(|other| other.last < stretch.first || stretch.last < other.first);
        }
        for lost in lost {
            let what = format!("the events {} to {} are lost", lost.first, lost.last);
            self.find(name.to_owned(), None, what, true);
        }
        if scan.has_torn_tail() {
            let bytes = scan.dirty_end - scan.end();
            let what = format!("{bytes} bytes of an unfinished write at the end");
            self.find(name.to_owned(), Some(scan.end()), what, !newest);
        }
        self.report.frames += summary.frames;
        self.report.events += summary.events;
        if summary.events > 0 {
            self.report.first.get_or_insert(summary.first);
            self.report.last = Some(summary.last);
        }
    }

    /// Positions that are missing within a segment and before it.
    fn missing(&mut self, scan: &Scan, newest: bool) -> Vec<Lost> {
        let summary = scan.index.summary;
        let mut lost = scan.index.lost.clone();
        if !newest {
            lost.extend_from_slice(&scan.unproven);
        }
        if summary.frames > 0 {
            // Before the oldest segment retention may have removed any number of events; but not
            // where its first bytes are damaged.
            let begins_damaged = scan
                .index
                .skips
                .first()
                .is_some_and(|(at, _)| *at == FRAMES_BEGIN);
            let reached = self
                .reached
                .or(begins_damaged.then(|| summary.follows.saturating_sub(1)));
            if let Some(reached) = reached
                && summary.follows > reached
            {
                lost.push(Lost {
                    first: reached + 1,
                    last: summary.follows,
                });
            }
            self.reached = Some(self.reached.unwrap_or(0).max(summary.reached));
        }
        lost
    }

    fn index(&mut self, number: u64, scan: &Scan, index: io::Result<MemoryIndex>, newest: bool) {
        let name = index_name(number);
        let what = match index {
            Ok(index) => {
                let scanned = &scan.index;
                let mut summary = index.summary;
                summary.end = summary.end.max(FRAMES_BEGIN);
                let agrees = summary.events == scanned.summary.events
                    && summary.reached == scanned.summary.reached
                    && summary.end == scan.end()
                    && index.tenants == scanned.tenants
                    && index.steps == scanned.steps;
                if agrees || !vanished(&index, scan).is_empty() {
                    return;
                }
                "the index does not say what the segment holds".to_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if newest {
                    return;
                }
                "there is no index; it was not yet written, or removed".to_owned()
            }
            Err(error) => format!("the index can't be read: {error}"),
        };
        self.find(name, None, what, false);
    }
}

/// Frames that an index names and a scan did not find, with their offsets.
fn vanished(index: &MemoryIndex, scan: &Scan) -> Vec<(u64, Lost)> {
    let mut vanished = Vec::new();
    for (tenant, frames) in &index.tenants {
        let found = scan.index.tenants.get(tenant);
        for frame in &frames.frames {
            let there = found.is_some_and(|found| {
                found
                    .frames
                    .binary_search_by_key(&frame.position, |other| other.position)
                    .is_ok()
            });
            if !there {
                let stretch = Lost {
                    first: frame.position,
                    last: frame.last(),
                };
                vanished.push((frame.offset(), stretch));
            }
        }
    }
    vanished.sort_unstable();
    vanished
}
