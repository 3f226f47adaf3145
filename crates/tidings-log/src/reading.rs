//! One read on its way through the segments.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use tidings_protocol::{Position, TenantId};

use crate::event::{EventRef, ReadLimit, Scope};
use crate::format::{Events, FRAME_HEADER, FrameHeader, FrameKind};
use crate::index::FramePlace;
use crate::index_file;
use crate::read_buffer::ReadBuffer;
use crate::segment::Segment;
use crate::storage::StorageFile;
use crate::view::{Shared, Snapshot};

/// Frames of a tenant that lie no farther apart are read together with what is between them.
const NEAR: u64 = 8 << 10;
const LARGEST_READ: u64 = 1 << 20;
const SMALLEST_READ: u64 = 8 << 10;
/// Frames from this size on are kept for the next read, which may want the rest of them.
const LARGE_FRAME: usize = 128 << 10;
/// Frames of a tenant that are looked up at once.
const PLACES: usize = 1024;

/// Called with each event and its run time.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(EventRef<'_>, i64);

/// Why a read could not go on where it stood.
pub(crate) enum Fault {
    /// The segment holds something else than its index says.
    Damaged(Arc<Segment>),
    /// The operating system refused.
    Io(io::Error),
}

pub(crate) fn index_fault(segment: &Arc<Segment>, error: io::Error) -> Fault {
    if error.kind() != io::ErrorKind::NotFound && index_file::is_damage(&error) {
        Fault::Damaged(Arc::clone(segment))
    } else {
        Fault::Io(error)
    }
}

/// Places where reads of all tenants ended, so that the next one begins there.
pub(crate) struct Hints {
    slots: Mutex<Vec<Option<Hint>>>,
}

#[derive(Clone, Copy)]
struct Hint {
    after: Position,
    number: u64,
    offset: u64,
}

impl Hints {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(vec![None; 1024]),
        }
    }

    fn slot(after: Position, slots: usize) -> usize {
        let mixed = after.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        usize::try_from(mixed).expect("32 bits") % slots
    }

    fn get(&self, after: Position, number: u64) -> Option<u64> {
        let slots = self.slots.lock();
        slots[Self::slot(after, slots.len())]
            .filter(|hint| hint.after == after && hint.number == number)
            .map(|hint| hint.offset)
    }

    fn put(&self, hint: Hint) {
        let mut slots = self.slots.lock();
        let slot = Self::slot(hint.after, slots.len());
        slots[slot] = Some(hint);
    }
}

/// One read on its way.
pub(crate) struct Reading<'r> {
    pub(crate) shared: &'r Shared,
    pub(crate) snapshot: Snapshot,
    pub(crate) scope: Scope,
    pub(crate) limit: ReadLimit,
    pub(crate) visit: Visit<'r>,
    /// Nothing behind this is visited: a lost stretch comes next, or the tail.
    pub(crate) until: Position,
    /// The last position that was visited or found not to be of the scope.
    pub(crate) position: Position,
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) buffer: ReadBuffer,
    /// What part of the present segment's file the buffer holds.
    pub(crate) buffer_start: u64,
}

impl Reading<'_> {
    /// Visits what there is up to `until`; breaks off at the limit.
    pub(crate) fn run(&mut self) -> Result<ControlFlow<()>, Fault> {
        let segments = Arc::clone(&self.snapshot.segments);
        let first = segments.partition_point(|segment| {
            segment.is_sealed() && segment.summary().reached <= self.position
        });
        for segment in &segments[first..] {
            if self.position >= self.until {
                break;
            }
            let summary = segment.summary();
            if summary.events == 0 || summary.first > self.until {
                continue;
            }
            self.buffer.clear();
            let flow = match self.scope {
                // What is too old for most is read by the index of those who keep longer.
                Scope::All
                    if segment.is_sealed() && summary.last <= self.snapshot.ages.all.position =>
                {
                    let keepers = self.shared.horizons.who_keep_longer(&self.snapshot.ages);
                    self.of_tenants(segment, &keepers)?
                }
                Scope::All => self.in_order(segment)?,
                Scope::Tenant(tenant) => self.of_tenants(segment, &[tenant])?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// How much to read at once for the rest of the limit, at an average size of events.
    fn ahead(&self, segment: &Segment) -> u64 {
        let events = self.limit.events.saturating_sub(self.events) as u64;
        let bytes = self.limit.bytes.saturating_sub(self.bytes) as u64;
        // What is counted are payloads; what surrounds them comes on top.
        let of_bytes = bytes
            .saturating_add(bytes / 4)
            .saturating_add(SMALLEST_READ);
        let wanted = events.saturating_mul(segment.summary().bytes_per_event() + 16);
        wanted.min(of_bytes).clamp(SMALLEST_READ, LARGEST_READ)
    }

    fn in_order(&mut self, segment: &Arc<Segment>) -> Result<ControlFlow<()>, Fault> {
        let files = &self.shared.files;
        let file = files.log(segment.number).map_err(Fault::Io)?;
        let hint = self.shared.hints.get(self.position, segment.number);
        let mut offset = match hint {
            Some(offset) => offset,
            None => segment
                .last_step(files, |step| step.position <= self.position + 1)
                .map_err(|error| index_fault(segment, error))?
                .map_or(crate::format::FRAMES_BEGIN, |step| step.offset),
        };
        let summary = segment.summary();
        let end = summary.end;
        let mut walked = 0;
        while offset < end {
            if let Some(behind) = segment.skip(offset) {
                offset = behind;
                continue;
            }
            let header = self.header(segment, &*file, offset, end)?;
            let next = offset + header.frame_bytes();
            if header.kind == FrameKind::Events {
                // Changed since its segment was indexed, with a right checksum all the same.
                if header.position <= walked || header.last() > summary.reached {
                    return Err(Fault::Damaged(Arc::clone(segment)));
                }
                walked = header.last();
            }
            if header.kind != FrameKind::Events || header.last() <= self.position {
                offset = next;
                continue;
            }
            if header.position > self.until {
                break;
            }
            if self.is_hidden(&header) {
                self.position = header.last();
                offset = next;
                continue;
            }
            let flow = self.frame(segment, &*file, offset, &header)?;
            if self.position >= header.last() {
                offset = next;
            }
            if flow.is_break() {
                self.shared.hints.put(Hint {
                    after: self.position,
                    number: segment.number,
                    offset,
                });
                return Ok(flow);
            }
        }
        // The next read, when there is more, begins here.
        if !segment.is_sealed() {
            self.shared.hints.put(Hint {
                after: self.until,
                number: segment.number,
                offset,
            });
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether a frame's events are not to be shown, as of now: a tenant that is purged during a read is
    /// hidden from the rest of it.
    fn is_hidden(&self, header: &FrameHeader) -> bool {
        header.last() <= self.snapshot.hidden_through
            && header.last() <= self.shared.hidden(&self.snapshot, header.tenant)
    }

    /// The next frames of some tenants, in order, all that there are up to the last of them.
    fn places(
        &self,
        segment: &Arc<Segment>,
        tenants: &[TenantId],
    ) -> Result<Vec<FramePlace>, Fault> {
        let most = PLACES.min(self.limit.events.max(1));
        let mut places: Vec<FramePlace> = Vec::new();
        // Of a tenant with more frames than were taken, what lies behind them is not known here.
        let mut known_through = Position::MAX;
        for tenant in tenants {
            let taken = segment.with_tenant(&self.shared.files, *tenant, |frames| {
                let before = places.len();
                let from = frames.first_after(self.position);
                let wanted = frames.frames[from..].iter().take(most);
                places.extend(wanted.take_while(|frame| frame.position <= self.until));
                places.len() - before
            });
            if taken.map_err(|error| index_fault(segment, error))? == most
                && let Some(last) = places.last()
            {
                known_through = known_through.min(last.last());
            }
        }
        if tenants.len() > 1 {
            places.sort_unstable_by_key(|place| place.position);
            places.retain(|place| place.position <= known_through);
        }
        Ok(places)
    }

    fn of_tenants(
        &mut self,
        segment: &Arc<Segment>,
        tenants: &[TenantId],
    ) -> Result<ControlFlow<()>, Fault> {
        let files = &self.shared.files;
        let mut file = None;
        loop {
            let places = self.places(segment, tenants)?;
            if places.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let file = match &file {
                Some(file) => file,
                None => file.insert(files.log(segment.number).map_err(Fault::Io)?),
            };
            for (index, place) in places.iter().enumerate() {
                self.fetch_near(segment, &**file, &places[index..]);
                let header = self.header(segment, &**file, place.offset(), place.end())?;
                if !tenants.contains(&header.tenant) || header.position != place.position {
                    return Err(Fault::Damaged(Arc::clone(segment)));
                }
                if self.is_hidden(&header) {
                    self.position = header.last();
                    continue;
                }
                if self
                    .frame(segment, &**file, place.offset(), &header)?
                    .is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }

    /// Has the first of these frames in the buffer, and those near it.
    fn fetch_near(&mut self, segment: &Segment, file: &dyn StorageFile, places: &[FramePlace]) {
        let first = places[0];
        if self.held(first.offset(), first.length()) {
            return;
        }
        let ahead = self.ahead(segment);
        let mut end = first.end();
        for place in &places[1..] {
            if place.offset() > end + NEAR || place.end() - first.offset() > ahead {
                break;
            }
            end = place.end();
        }
        self.fill(file, first.offset(), end - first.offset(), first.length());
    }

    fn held(&self, offset: u64, length: u64) -> bool {
        offset >= self.buffer_start
            && offset + length <= self.buffer_start + self.buffer.len() as u64
    }

    /// Reads `length` bytes into the buffer, or, where some of them can't be read, the first
    /// `needed`; what can't be read at all looks like damage.
    fn fill(&mut self, file: &dyn StorageFile, offset: u64, length: u64, needed: u64) {
        self.buffer_start = offset;
        for length in [length.max(needed), needed] {
            let length = usize::try_from(length).expect("less than a segment");
            match self.buffer.fill(length, |room| file.read_at(room, offset)) {
                Ok(()) => return,
                Err(error) => {
                    crate::seldom!(error, offset, length, %error, "reading a segment");
                }
            }
        }
    }

    /// The header of the frame at an offset, before `end`.
    fn header(
        &mut self,
        segment: &Arc<Segment>,
        file: &dyn StorageFile,
        offset: u64,
        end: u64,
    ) -> Result<FrameHeader, Fault> {
        if !self.held(offset, FRAME_HEADER as u64) {
            let ahead = self.ahead(segment).min(end - offset);
            self.fill(file, offset, ahead, FRAME_HEADER as u64);
        }
        let from = usize::try_from(offset - self.buffer_start).expect("within the buffer");
        self.buffer
            .get(from..)
            .and_then(|bytes| FrameHeader::decode(bytes, segment.salt, offset))
            .ok_or_else(|| Fault::Damaged(Arc::clone(segment)))
    }

    /// Visits what is wanted of a frame.
    fn frame(
        &mut self,
        segment: &Arc<Segment>,
        file: &dyn StorageFile,
        offset: u64,
        header: &FrameHeader,
    ) -> Result<ControlFlow<()>, Fault> {
        let damaged = || Fault::Damaged(Arc::clone(segment));
        let length = FRAME_HEADER + header.payload_length as usize;
        if length >= LARGE_FRAME {
            let frame = self.large_frame(segment, file, offset, header)?;
            return self
                .events_of(header, &frame[FRAME_HEADER..length])
                .ok_or_else(damaged);
        }
        if !self.held(offset, length as u64) {
            let ahead = self.ahead(segment);
            self.fill(file, offset, ahead, length as u64);
        }
        let from = usize::try_from(offset - self.buffer_start).expect("within the buffer");
        let buffer = std::mem::take(&mut self.buffer);
        let flow = buffer
            .get(from..)
            .and_then(|bytes| header.payload(bytes))
            .and_then(|payload| self.events_of(header, payload));
        self.buffer = buffer;
        flow.ok_or_else(damaged)
    }

    fn large_frame(
        &mut self,
        segment: &Arc<Segment>,
        file: &dyn StorageFile,
        offset: u64,
        header: &FrameHeader,
    ) -> Result<Arc<Vec<u8>>, Fault> {
        let key = (segment.number, offset);
        if let Some(frame) = self.shared.files.frames.get(key) {
            return Ok(frame);
        }
        let mut frame = vec![0; FRAME_HEADER + header.payload_length as usize];
        let read = file.read_at(&mut frame, offset).unwrap_or_else(|error| {
            crate::seldom!(error, offset, %error, "reading a segment");
            0
        });
        if header.payload(&frame[..read]).is_none() {
            return Err(Fault::Damaged(Arc::clone(segment)));
        }
        let frame = Arc::new(frame);
        self.shared
            .files
            .frames
            .put(key, Arc::clone(&frame), frame.len());
        Ok(frame)
    }

    /// Visits the events of a sound payload; `None` where it makes no sense after all.
    fn events_of(&mut self, header: &FrameHeader, payload: &[u8]) -> Option<ControlFlow<()>> {
        let mut events = Events::new(payload);
        for position in header.position..=header.last() {
            let event = events.next()?;
            if position <= self.position {
                continue;
            }
            if self.events > 0
                && (self.events >= self.limit.events || self.bytes >= self.limit.bytes)
            {
                return Some(ControlFlow::Break(()));
            }
            let device_bytes = event.device.map_or(0, str::len);
            self.events += 1;
            self.bytes += event.event_type.len() + device_bytes + event.data.len();
            let event = EventRef {
                position,
                appended_at: header.appended_at,
                time: event.time,
                tenant: header.tenant,
                event_type: event.event_type,
                device: event.device,
                subject: event.subject,
                origin: event.origin,
                data: event.data,
            };
            (self.visit)(event, header.run_time);
            self.position = position;
        }
        Some(ControlFlow::Continue(()))
    }
}
