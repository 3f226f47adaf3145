//! Checks a folder without changing it.

use std::io;
use std::path::Path;

use tidings_protocol::{Epoch, Position};

use crate::OpenError;
use crate::folder::{format, io_error};
use crate::format::{FRAMES_BEGIN, FrameKind, SEGMENTS, index_name, log_name, segment_number};
use crate::index_file::DiskIndex;
use crate::scan::{self, Scan};
use crate::storage::{FileStorage, OpenMode, Storage};

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
    if format(storage, path)?.is_none() {
        return Err(VerifyError::Open(OpenError::NotALog {
            path: path.to_owned(),
            what: "it has no file FORMAT".to_owned(),
        }));
    }
    let names = storage
        .list(SEGMENTS)
        .map_err(io_error("listing the segments"))?;
    let mut check = Check {
        storage,
        report: VerifyReport::default(),
        reached: None,
        next: 0,
        times: None,
    };
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
    for (place, number) in numbers.iter().enumerate() {
        let newest = place + 1 == numbers.len();
        match check.segment(*number, newest) {
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

struct Check<'s> {
    storage: &'s dyn Storage,
    report: VerifyReport,
    /// The last position of the segments so far; `None` before the first.
    reached: Option<Position>,
    /// The least position that the next frame may have.
    next: Position,
    /// Append and run time of the last frame.
    times: Option<(i64, i64)>,
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
        let Some((header, whole)) = scan::read_header(&*file)? else {
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
        if header.number != number
            || self
                .report
                .epoch
                .is_some_and(|epoch| epoch.0 != header.epoch)
        {
            let what = "the segment belongs to another log or another place".to_owned();
            self.find(name, Some(16), what, true);
            return Ok(());
        }
        self.report.epoch = Some(Epoch(header.epoch));
        let mut order = Vec::new();
        let (mut next, mut times) = (self.next, self.times);
        let scan = scan::scan(&*file, header.salt, &mut |frame, offset, _| {
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
            self.find(name.clone(), Some(offset), what.to_owned(), false);
        }
        self.frames(&name, &scan, newest);
        self.index(number, header.salt, &scan, newest)
    }

    fn frames(&mut self, name: &str, scan: &Scan, newest: bool) {
        let summary = scan.index.summary;
        for (from, to) in &scan.damaged {
            let what = format!("{} bytes are no sound frame", to - from);
            // Which events that cost, if any, the missing positions tell.
            self.find(name.to_owned(), Some(*from), what, false);
        }
        let mut lost = scan.index.lost.clone();
        if !newest {
            lost.extend_from_slice(&scan.unproven);
        }
        if summary.frames > 0 {
            if let Some(reached) = self.reached
                && summary.follows > reached
            {
                lost.push(crate::Lost {
                    first: reached + 1,
                    last: summary.follows,
                });
            }
            self.reached = Some(self.reached.unwrap_or(0).max(summary.reached));
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

    fn index(&mut self, number: u64, salt: u64, scan: &Scan, newest: bool) -> io::Result<()> {
        let name = index_name(number);
        let index =
            DiskIndex::open(self.storage, number, salt).and_then(|index| index.load(self.storage));
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
                if agrees {
                    return Ok(());
                }
                "the index does not say what the segment holds".to_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if newest {
                    return Ok(());
                }
                "there is no index; it was not yet written, or removed".to_owned()
            }
            Err(error) => format!("the index can't be read: {error}"),
        };
        self.find(name, None, what, false);
        Ok(())
    }
}
