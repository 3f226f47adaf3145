//! From a folder to a log that can be read and appended to.
//!
//! Sealed segments are known by their index; what has none is scanned, in ordinary life only the
//! segment that was being written. What is torn at its end was never acknowledged and is cleared
//! away; what is missing before sound frames is told apart into lost and never durable
//! ([`crate::format`], invariants 3 and 4).

use std::io;
use std::path::Path;
use std::sync::Arc;

use tidings_protocol::{Epoch, Position, TenantId};

use crate::OpenError;
use crate::active::Active;
use crate::clock::KnownTime;
use crate::event::Lost;
use crate::folder::io_error;
use crate::format::{
    FRAME_HEADER, FRAMES_BEGIN, FrameHeader, FrameKind, MOST_POSITION, SEGMENTS, index_name,
    log_name, segment_number,
};
use crate::index_file::{self, DiskIndex};
use crate::lineage::Lineage;
use crate::meta::MetaState;
use crate::scan::{self, Scan};
use crate::segment::{Files, Segment};
use crate::storage::{OpenMode, StorageFile, read_exact_at};

/// Positions that are not given out again when nobody can say how many a torn write had.
const SKIPPED_AFTER_DAMAGE: u64 = 1 << 20;

/// What was found.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) active: Option<Active>,
    /// Sealed segments whose index has to be written.
    pub(crate) unindexed: Vec<Arc<Segment>>,
    pub(crate) lost: Vec<Lost>,
    pub(crate) tail: Position,
    pub(crate) next_position: Position,
    pub(crate) next_number: u64,
    /// The append time of the last event.
    pub(crate) last_time: Option<i64>,
    pub(crate) known: Option<KnownTime>,
}

struct Found {
    segment: Arc<Segment>,
    /// Of a segment without an index.
    scan: Option<Scan>,
}

pub(crate) fn recover(
    files: &Files,
    path: &Path,
    meta: &MetaState,
    lineage: &Lineage,
) -> Result<Recovered, OpenError> {
    let mut found = Vec::new();
    let (numbers, other) = list(files)?;
    for name in other {
        // Left by a start, a seal or a purge that was cut off.
        let _ = files.storage.remove(&format!("{SEGMENTS}/{name}"));
    }
    let mut damaged_at = None;
    let mut before = meta.removed_through;
    for number in &numbers {
        match find(files, path, (meta, lineage), *number, before)? {
            Finding::Segment(segment) => {
                before = before.max(segment.segment.summary().reached);
                found.push(*segment);
            }
            Finding::Empty => remove(files, *number),
            Finding::Destroyed => {
                damaged_at = Some(found.len());
                set_aside(files, *number)?;
            }
        }
    }
    in_order(path, &found)?;
    let mut recovered = Recovered {
        segments: Vec::new(),
        active: None,
        unindexed: Vec::new(),
        lost: Vec::new(),
        tail: meta.removed_through,
        next_position: meta.removed_through + 1,
        next_number: numbers.last().map_or(1, |number| number + 1),
        last_time: None,
        known: meta.known,
    };
    let mut last_scan = None;
    let count = found.len();
    for (place, Found { segment, scan }) in found.into_iter().enumerate() {
        let is_last = place + 1 == count;
        recovered.take(&segment, scan.as_ref());
        if let Some(scan) = scan {
            if is_last {
                last_scan = Some(scan);
            } else {
                recovered.seal(&segment, &scan);
            }
        }
        recovered.segments.push(segment);
    }
    if damaged_at == Some(count) {
        // The newest segment is destroyed: its positions were perhaps shown, so none is reused.
        let first = recovered.next_position;
        recovered.next_position += 16 * SKIPPED_AFTER_DAMAGE;
        recovered.tail = recovered.next_position - 1;
        recovered.lost.push(Lost {
            first,
            last: recovered.tail,
        });
    }
    leaves_room(path, recovered.next_position)?;
    if let Some(scan) = last_scan {
        let segment = recovered.segments.last().cloned().expect("it was scanned");
        let active = make_ready(files, segment, &scan, &mut recovered)
            .map_err(io_error("making the newest segment ready"))?;
        recovered.active = Some(active);
    }
    recovered.lost.sort_unstable();
    for lost in &recovered.lost {
        tracing::error!(
            first = lost.first,
            last = lost.last,
            "events are lost: they were durable once and are missing or damaged"
        );
    }
    Ok(recovered)
}

/// Positions ascend from segment to segment. Which of two that contradict each other is wrong nobody can say, and
/// readers would be led past one of them without a word.
fn in_order(path: &Path, found: &[Found]) -> Result<(), OpenError> {
    let mut reached = 0;
    for Found { segment, .. } in found {
        let summary = segment.summary();
        if summary.events > 0 && summary.first <= reached {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                what: format!(
                    "{} begins with position {}, but what stands before it reaches {reached}; restore a backup",
                    log_name(segment.number),
                    summary.first
                ),
            });
        }
        reached = reached.max(summary.reached);
    }
    Ok(())
}

/// What would be appended behind the end of all positions could not be read again.
fn leaves_room(path: &Path, next_position: Position) -> Result<(), OpenError> {
    if next_position <= MOST_POSITION / 2 {
        return Ok(());
    }
    Err(OpenError::Damaged {
        path: path.to_owned(),
        what: format!(
            "it speaks of position {}, which nobody can have reached; restore a backup",
            next_position - 1
        ),
    })
}

impl Recovered {
    fn take(&mut self, segment: &Segment, scan: Option<&Scan>) {
        let summary = segment.summary();
        if summary.frames == 0 {
            return;
        }
        if summary.follows > self.tail {
            self.lost.push(Lost {
                first: self.tail + 1,
                last: summary.follows,
            });
        }
        self.tail = self.tail.max(summary.reached).max(summary.follows);
        self.next_position = self.next_position.max(summary.next).max(self.tail + 1);
        if summary.events > 0 {
            self.last_time = Some(summary.last_time);
        }
        let times = scan
            .and_then(|scan| scan.last_times)
            .or((summary.events > 0).then_some((summary.last_time, summary.last_run)));
        if let Some((wall, run)) = times
            && self.known.is_none_or(|known| known.run < run)
        {
            self.known = Some(KnownTime { wall, run });
        }
        match scan {
            Some(scan) => self.lost.extend_from_slice(&scan.index.lost),
            None => self.lost.extend(
                segment
                    .disk_index()
                    .iter()
                    .flat_map(|disk| disk.lost.iter()),
            ),
        }
    }

    /// A segment that was sealed before its index was written. As it was durable to its end, what
    /// is missing in it is lost.
    fn seal(&mut self, segment: &Arc<Segment>, scan: &Scan) {
        self.lost.extend_from_slice(&scan.unproven);
        segment.add_lost(&scan.unproven);
        segment.seal();
        self.unindexed.push(Arc::clone(segment));
    }
}

fn list(files: &Files) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let names = files
        .storage
        .list(SEGMENTS)
        .map_err(io_error("listing the segments"))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    let unfinished = names
        .into_iter()
        .filter(|name| name.ends_with(".index.new") || name.ends_with(".log.new"))
        .collect();
    Ok((numbers, unfinished))
}

enum Finding {
    Segment(Box<Found>),
    /// Nothing was ever written to it, or retention has removed what was.
    Empty,
    /// Neither copy of its header can be read, so none of its frames can be told from garbage.
    Destroyed,
}

fn find(
    files: &Files,
    path: &Path,
    (meta, lineage): (&MetaState, &Lineage),
    number: u64,
    before: Position,
) -> Result<Finding, OpenError> {
    let name = log_name(number);
    let doing = || io_error(format!("reading {name}"));
    let file = files.log(number).map_err(doing())?;
    let allocated = file.len().map_err(doing())?;
    let Some((header, whole)) = scan::read_header(&*file) else {
        let blank = scan::is_blank(&*file).map_err(doing())?;
        return Ok(if blank {
            Finding::Empty
        } else {
            Finding::Destroyed
        });
    };
    if !lineage.has(Epoch(header.epoch)) || header.number != number {
        return Err(OpenError::NotALog {
            path: path.join(&name),
            what: "it belongs to another log".to_owned(),
        });
    }
    if !whole {
        tracing::error!(name, "one of the two headers of a segment is damaged");
    }
    let found = match DiskIndex::open(&*files.storage, number, header.salt) {
        Ok(index) => Found {
            segment: Arc::new(Segment::on_disk(number, header.salt, index, allocated)),
            scan: None,
        },
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(name = index_name(number), %error, "building an index anew");
            }
            scanned(&*file, number, header.salt, allocated, before).map_err(doing())?
        }
    };
    let summary = found.segment.summary();
    let removed = summary.events > 0 && summary.last <= meta.removed_through;
    let untouched = found
        .scan
        .as_ref()
        .is_some_and(|scan| summary.frames == 0 && scan.dirty_end == 0);
    Ok(if removed || untouched {
        Finding::Empty
    } else {
        Finding::Segment(Box::new(found))
    })
}

fn scanned(
    file: &dyn StorageFile,
    number: u64,
    salt: u64,
    allocated: u64,
    before: Position,
) -> io::Result<Found> {
    let scan = scan::scan(file, salt, Some(before), &mut |_, _, _| {})?;
    let index = scan.index.clone();
    Ok(Found {
        segment: Arc::new(Segment::in_memory(number, salt, index, allocated)),
        scan: Some(scan),
    })
}

fn remove(files: &Files, number: u64) {
    files.forget(number);
    for name in [index_name(number), log_name(number)] {
        if let Err(error) = files.storage.remove(&name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "removing a segment that is not needed");
        }
    }
}

fn set_aside(files: &Files, number: u64) -> Result<(), OpenError> {
    let name = log_name(number);
    tracing::error!(name, "a segment is destroyed; keeping it as .damaged");
    files.forget(number);
    files
        .storage
        .rename(&name, &format!("{name}.damaged"))
        .map_err(io_error(format!("setting {name} aside")))
}

/// Clears away what was torn, makes durable what is sound, and says what positions are skipped.
fn make_ready(
    files: &Files,
    segment: Arc<Segment>,
    scan: &Scan,
    recovered: &mut Recovered,
) -> io::Result<Active> {
    let file = files
        .storage
        .open(&log_name(segment.number), OpenMode::Write)?;
    let end = scan.end();
    // After a failed sync the kernel may hold pages for clean that never reached the disk. Written
    // again they are dirty, and the sync below means something.
    if scan.unproven_from < end {
        let length = usize::try_from(end - scan.unproven_from).expect("less than a segment");
        let mut bytes = vec![0; length];
        read_exact_at(&*file, &mut bytes, scan.unproven_from)?;
        file.write_at(&bytes, scan.unproven_from)?;
    }
    if scan.has_torn_tail() {
        let length = usize::try_from(scan.dirty_end - end).expect("less than a segment");
        file.write_at(&vec![0; length], end)?;
    }
    file.sync_data()?;
    let mut active = Active::new(segment, Arc::clone(&file), end, file.len()?);
    if scan.has_torn_tail() || !scan.unproven.is_empty() {
        let skipped_to = scan
            .dirty_position
            .map_or(recovered.tail + SKIPPED_AFTER_DAMAGE, |position| position)
            + 1;
        if scan.has_torn_tail() {
            recovered.next_position = recovered.next_position.max(skipped_to);
        }
        tracing::warn!(
            segment = active.segment.number,
            torn_bytes = scan.dirty_end.saturating_sub(end),
            next_position = recovered.next_position,
            "discarded a write that was cut off before it was durable"
        );
        write_recovery(&mut active, scan, recovered)?;
    }
    Ok(active)
}

fn write_recovery(active: &mut Active, scan: &Scan, recovered: &Recovered) -> io::Result<()> {
    let payload: Vec<u8> = scan
        .unproven
        .iter()
        .flat_map(|stretch| [stretch.first, stretch.last])
        .flat_map(u64::to_le_bytes)
        .collect();
    let (wall, run) = scan
        .last_times
        .or(recovered.known.map(|known| (known.wall, known.run)))
        .unwrap_or((0, 0));
    let header = FrameHeader {
        kind: FrameKind::Recovery,
        keyed: false,
        payload_crc: crc32fast::hash(&payload),
        payload_length: u32::try_from(payload.len()).expect("a few stretches"),
        count: 0,
        position: recovered.next_position,
        follows: recovered.tail,
        synced_through: recovered.tail,
        appended_at: wall,
        run_time: run,
        tenant: TenantId::from_bytes([0; 16]),
    };
    let mut frame = header.encode(active.segment.salt, active.offset).to_vec();
    frame.extend_from_slice(&payload);
    frame.resize(usize::try_from(header.frame_bytes()).expect("small"), 0);
    debug_assert!(frame.len() >= FRAME_HEADER && active.offset >= FRAMES_BEGIN);
    active.file.write_at(&frame, active.offset)?;
    active.file.sync_data()?;
    active.segment.add(&[(header, active.offset)]);
    active.offset += header.frame_bytes();
    active.capacity = active.capacity.max(active.offset);
    Ok(())
}

/// Visits the frames with keys that are young enough to be remembered.
pub(crate) fn visit_keyed(
    files: &Files,
    segments: &[Arc<Segment>],
    oldest_run: i64,
    visit: &mut dyn FnMut(&FrameHeader, &[u8]),
) -> io::Result<()> {
    for segment in segments {
        let summary = segment.summary();
        if summary.events == 0 || summary.last_run < oldest_run {
            continue;
        }
        let from = segment
            .last_step(files, |step| step.run_time < oldest_run)
            .or_else(|error| {
                if index_file::is_damage(&error) {
                    Ok(None)
                } else {
                    Err(error)
                }
            })?
            .map_or(FRAMES_BEGIN, |step| step.offset);
        let file = files.log(segment.number)?;
        let mut visit_young = |header: &FrameHeader, payload: &[u8]| {
            if header.run_time >= oldest_run {
                visit(header, payload);
            }
        };
        scan::visit_keyed(&*file, segment.salt, from, summary.end, &mut visit_young)?;
    }
    Ok(())
}
