//! Reads a segment from its beginning to its end, over whatever is damaged.

use std::io;
use std::ops::RangeInclusive;

use tidings_protocol::Position;

use crate::event::Lost;
use crate::format::{
    ALIGN, Events, FRAME_HEADER, FRAMES_BEGIN, FrameHeader, FrameKind, MOST_POSITION,
    SegmentHeader, get_u64,
};
use crate::index::MemoryIndex;
use crate::storage::StorageFile;

const CHUNK: usize = 1 << 20;
/// Of frames of which only the headers are wanted: read at once where they are near each other,
/// and where they are not.
const NEAR_CHUNK: usize = 128 << 10;
const FAR_CHUNK: usize = 4 << 10;
/// The smallest part that is tried alone when a larger one can't be read.
const SECTOR: usize = 4096;
static ZEROS: [u8; SECTOR] = [0; SECTOR];

/// What a scan found beside the frames.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Of the sound frames, with what is lost, and what is skipped between them.
    pub(crate) index: MemoryIndex,
    /// Positions that are missing between sound frames but were perhaps never durable, and that
    /// no recovery frame speaks of yet.
    pub(crate) unproven: Vec<Lost>,
    /// Where the last recovery frame stands: what is missing before it is accounted for.
    pub(crate) recovered_at: u64,
    /// Where the last byte behind the last sound frame that is not zero ends.
    pub(crate) dirty_end: u64,
    /// The greatest position that the damaged bytes behind the last sound frame claim.
    pub(crate) dirty_position: Option<Position>,
    /// The greatest position that is known to have been durable.
    pub(crate) synced_through: Position,
    /// Where the frames begin whose durability nothing proves.
    pub(crate) unproven_from: u64,
    /// The last frame's times, append and run.
    pub(crate) last_times: Option<(i64, i64)>,
}

impl Scan {
    /// Whether bytes behind the last sound frame have to be cleared away.
    pub(crate) fn has_torn_tail(&self) -> bool {
        self.dirty_end > self.end()
    }

    /// Where the next frame can be written.
    pub(crate) fn end(&self) -> u64 {
        self.index.summary.end.max(FRAMES_BEGIN)
    }
}

/// The segment's header, and whether both copies of it are sound. `None` where neither is.
pub(crate) fn read_header(file: &dyn StorageFile) -> Option<(SegmentHeader, bool)> {
    let mut bytes = vec![0; usize::try_from(FRAMES_BEGIN).expect("small")];
    let length = read_what_can_be_read(file, &mut bytes, 0);
    SegmentHeader::decode(&bytes[..length])
}

/// Whether a segment has nothing but zeros where frames would be, so that none was ever written.
pub(crate) fn is_blank(file: &dyn StorageFile) -> io::Result<bool> {
    let mut window = Window::new(file)?;
    let mut offset = FRAMES_BEGIN;
    while let Some(bytes) = window.some_at(offset) {
        if !is_zero(bytes) {
            return Ok(false);
        }
        offset += bytes.len() as u64;
    }
    Ok(true)
}

/// Scans a segment, visiting its sound frames in order. `before` is the last position of the
/// segments before it, where that is known: what is missing after it is found, too.
pub(crate) fn scan(
    file: &dyn StorageFile,
    salt: u64,
    before: Option<Position>,
    visit: &mut dyn FnMut(&FrameHeader, u64, &[u8]),
) -> io::Result<Scan> {
    scan_within(file, salt, before, &(0..=MOST_POSITION), visit)
}

/// As [`scan`], of a segment of which it is known that its events are `within` these positions: frames with others are
/// damage.
pub(crate) fn scan_within(
    file: &dyn StorageFile,
    salt: u64,
    before: Option<Position>,
    within: &RangeInclusive<Position>,
    visit: &mut dyn FnMut(&FrameHeader, u64, &[u8]),
) -> io::Result<Scan> {
    let mut window = Window::new(file)?;
    let mut scan = Scan::default();
    let mut frames = Missing {
        reached: before,
        ..Missing::default()
    };
    let mut unsynced: Vec<(Position, u64)> = Vec::new();
    let mut offset = FRAMES_BEGIN;
    loop {
        let sound = frame_at(&mut window, salt, offset);
        // A frame that goes back was written by nobody who knew the ones before it: damage with a right checksum.
        let sound = sound.filter(|(header, _)| {
            let is_known = within.contains(&header.position) && within.contains(&header.last());
            header.position >= scan.index.summary.next
                && (is_known || header.kind != FrameKind::Events)
        });
        let Some((header, frame)) = sound else {
            match next_frame(&mut window, salt, offset, &mut scan) {
                Some(next) => {
                    scan.index.skip(offset, next);
                    offset = next;
                    continue;
                }
                None => break,
            }
        };
        // Damage that turned out to be followed by a sound frame is no torn tail.
        scan.dirty_end = 0;
        scan.dirty_position = None;
        frames.add(&header, &frame[FRAME_HEADER..]);
        scan.synced_through = scan.synced_through.max(header.synced_through);
        unsynced.push((header.last(), offset));
        unsynced.retain(|(last, _)| *last > scan.synced_through);
        scan.index.add(&header, offset);
        if header.kind == FrameKind::Recovery {
            scan.recovered_at = offset;
        }
        scan.last_times = Some((header.appended_at, header.run_time));
        visit(&header, offset, frame);
        offset += header.frame_bytes();
    }
    // Where every frame that follows goes back, there is a torn end, which is written over, and nothing to skip.
    let end = scan.end();
    scan.index.skips.retain(|(from, _)| *from < end);
    scan.unproven_from = unsynced.first().map_or(scan.end(), |(_, offset)| *offset);
    if let Some(before) = before {
        // What is missing before the first frame is accounted for from here on.
        scan.index.summary.follows = scan.index.summary.follows.min(before);
    }
    (scan.index.lost, scan.unproven) = frames.judge(scan.synced_through);
    Ok(scan)
}

/// Visits the sound frames with keys between two offsets; the first must be a frame's. The payloads
/// of others are not even read.
pub(crate) fn visit_keyed(
    file: &dyn StorageFile,
    salt: u64,
    mut offset: u64,
    end: u64,
    visit: &mut dyn FnMut(&FrameHeader, &[u8]),
) -> io::Result<()> {
    let mut window = Window::new(file)?;
    let mut unused = Scan::default();
    while offset < end {
        // Where frames are large, their headers are far apart.
        window.chunk = if offset > window.end() {
            FAR_CHUNK
        } else {
            NEAR_CHUNK
        };
        let header = window
            .at(offset, FRAME_HEADER)
            .and_then(|bytes| FrameHeader::decode(bytes, salt, offset));
        if let Some(header) = header
            && !header.keyed
        {
            offset += header.frame_bytes();
            continue;
        }
        let Some((header, frame)) = frame_at(&mut window, salt, offset) else {
            match next_frame(&mut window, salt, offset, &mut unused) {
                Some(next) => offset = next,
                None => break,
            }
            continue;
        };
        visit(&header, &frame[FRAME_HEADER..]);
        offset += header.frame_bytes();
    }
    Ok(())
}

/// Positions that are missing between frames.
#[derive(Default)]
struct Missing {
    reached: Option<Position>,
    stretches: Vec<Lost>,
    forgiven: Vec<Lost>,
}

impl Missing {
    fn add(&mut self, header: &FrameHeader, payload: &[u8]) {
        if let Some(reached) = self.reached
            && header.follows > reached
        {
            self.stretches.push(Lost {
                first: reached + 1,
                last: header.follows,
            });
        }
        self.reached = Some(self.reached.unwrap_or(0).max(header.last()));
        if header.kind == FrameKind::Recovery {
            let stretches = payload[..header.payload_length as usize].chunks_exact(16);
            self.forgiven.extend(stretches.map(|bytes| Lost {
                first: get_u64(bytes, 0),
                last: get_u64(bytes, 8),
            }));
        }
    }

    /// Tells what is lost from what was perhaps never durable. A recovery frame speaks of stretches
    /// exactly as a scan before it found them.
    fn judge(self, synced_through: Position) -> (Vec<Lost>, Vec<Lost>) {
        let (mut lost, mut unproven) = (Vec::new(), Vec::new());
        for stretch in self.stretches {
            let mut first = stretch.first;
            for forgiven in &self.forgiven {
                if forgiven.last == stretch.last
                    && (stretch.first..=stretch.last).contains(&forgiven.first)
                {
                    if forgiven.first > first {
                        lost.push(Lost {
                            first,
                            last: forgiven.first - 1,
                        });
                    }
                    first = stretch.last + 1;
                }
            }
            let proven = stretch.last.min(synced_through);
            if first <= proven {
                lost.push(Lost {
                    first,
                    last: proven,
                });
                first = proven + 1;
            }
            if first <= stretch.last {
                unproven.push(Lost {
                    first,
                    last: stretch.last,
                });
            }
        }
        (lost, unproven)
    }
}

/// The frame at an offset, where a sound one stands there.
fn frame_at<'w>(
    window: &'w mut Window<'_>,
    salt: u64,
    offset: u64,
) -> Option<(FrameHeader, &'w [u8])> {
    let bytes = window.at(offset, FRAME_HEADER)?;
    let header = FrameHeader::decode(bytes, salt, offset)?;
    let frame = window.at(offset, FRAME_HEADER + header.payload_length as usize)?;
    let payload = header.payload(frame)?;
    let whole = match header.kind {
        FrameKind::Events => Events::new(payload).count() == header.count as usize,
        FrameKind::Mark | FrameKind::Recovery => header.count == 0 && payload.len() % 16 == 0,
        FrameKind::Blank => payload.iter().all(|byte| *byte == 0),
    };
    whole.then_some((header, frame))
}

/// Searches behind a damaged place for the next sound frame, by the salt that every frame begins
/// with. Notes what stands between in case there is none.
fn next_frame(window: &mut Window<'_>, salt: u64, damaged: u64, scan: &mut Scan) -> Option<u64> {
    let salt_bytes = salt.to_le_bytes();
    let mut offset = damaged;
    loop {
        let bytes = window.some_at(offset)?;
        let length = bytes.len() as u64;
        if !is_zero(bytes) {
            let filled = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            scan.dirty_end = offset + filled as u64 + 1;
            let candidates: Vec<u64> = bytes
                .chunks_exact(salt_bytes.len())
                .zip((offset..).step_by(salt_bytes.len()))
                .filter(|(chunk, _)| *chunk == salt_bytes)
                .map(|(_, at)| at)
                .collect();
            for at in candidates {
                if at > damaged && frame_at(window, salt, at).is_some() {
                    return Some(at);
                }
                if let Some(header) = window
                    .at(at, FRAME_HEADER)
                    .and_then(|bytes| FrameHeader::decode(bytes, salt, at))
                {
                    let claimed = scan.dirty_position.unwrap_or(0).max(header.last());
                    scan.dirty_position = Some(claimed);
                }
            }
        }
        offset += length.next_multiple_of(ALIGN);
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}

/// A part of a file in memory that moves forward.
struct Window<'f> {
    file: &'f dyn StorageFile,
    length: u64,
    start: u64,
    buffer: Vec<u8>,
    /// How much is read at least.
    chunk: usize,
}

impl<'f> Window<'f> {
    fn new(file: &'f dyn StorageFile) -> io::Result<Self> {
        Ok(Self {
            file,
            length: file.len()?,
            start: 0,
            buffer: Vec::new(),
            chunk: CHUNK,
        })
    }

    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// So many bytes from an offset on; `None` where the file ends before.
    fn at(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        if offset + length as u64 > self.length {
            return None;
        }
        let held = self.start..self.start + self.buffer.len() as u64;
        if offset < held.start || offset + length as u64 > held.end {
            self.fill(offset, length);
        }
        let from = usize::try_from(offset - self.start).expect("within the buffer");
        self.buffer.get(from..from + length)
    }

    /// As many bytes as are at hand from an offset on, at least one; `None` at the end.
    fn some_at(&mut self, offset: u64) -> Option<&[u8]> {
        if offset >= self.length {
            return None;
        }
        let held = self.start..self.start + self.buffer.len() as u64;
        if !held.contains(&offset) {
            self.fill(offset, 1);
        }
        let from = usize::try_from(offset - self.start).expect("within the buffer");
        self.buffer.get(from..).filter(|bytes| !bytes.is_empty())
    }

    fn fill(&mut self, offset: u64, length: usize) {
        let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
        // Whole words, so that a search for the salt, word by word, misses none at the seam.
        let wanted = length.max(self.chunk).next_multiple_of(size_of::<u64>());
        self.buffer.resize(wanted.min(left), 0);
        self.start = offset;
        let read = self
            .file
            .read_at(&mut self.buffer, offset)
            .unwrap_or_else(|_| {
                // What is wanted can perhaps be read although something behind it can't.
                let wanted = length.next_multiple_of(size_of::<u64>());
                self.buffer.truncate(wanted.min(left));
                read_what_can_be_read(self.file, &mut self.buffer, offset)
            });
        self.buffer.truncate(read);
    }
}

/// Reads over bad sectors: what can't be read becomes bytes that are no frame.
fn read_what_can_be_read(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> usize {
    if let Ok(read) = file.read_at(buffer, offset) {
        return read;
    }
    let mut total = 0;
    let mut rest = buffer;
    while !rest.is_empty() {
        let at = offset + total as u64;
        let to_boundary = SECTOR - usize::try_from(at % SECTOR as u64).expect("small");
        let (sector, behind) = rest.split_at_mut(to_boundary.min(rest.len()));
        rest = behind;
        let read = file.read_at(sector, at).unwrap_or_else(|error| {
            tracing::error!(offset = at, %error, "a part of a segment can't be read");
            sector.fill(0xA5);
            sector.len()
        });
        total += read;
        if read < sector.len() {
            break;
        }
    }
    total
}
