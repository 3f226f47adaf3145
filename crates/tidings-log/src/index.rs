//! Where a segment's frames stand: by tenant, and by position and time.

use std::collections::HashMap;

use tidings_protocol::{Position, TenantId};

use crate::event::Lost;
use crate::format::{ALIGN, FRAMES_BEGIN, FrameHeader, FrameKind};

/// A step of the ladder is laid down whenever so many bytes of frames have passed.
const STEP_BYTES: u64 = 32 << 10;

/// A frame with events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramePlace {
    /// Position of its first event.
    pub(crate) position: Position,
    /// Number of its events.
    pub(crate) count: u32,
    /// Its offset in the file, in units of [`ALIGN`].
    offset: u32,
    /// Its bytes, in units of [`ALIGN`].
    length: u32,
}

impl FramePlace {
    pub(crate) fn new(position: Position, count: u32, offset: u64, length: u64) -> Self {
        let units = |bytes: u64| {
            u32::try_from(bytes / ALIGN).expect("a segment is far smaller than 32 GiB")
        };
        Self {
            position,
            count,
            offset: units(offset),
            length: units(length),
        }
    }

    pub(crate) fn last(&self) -> Position {
        self.position + u64::from(self.count) - 1
    }

    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.offset) * ALIGN
    }

    pub(crate) fn length(&self) -> u64 {
        u64::from(self.length) * ALIGN
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset() + self.length()
    }
}

/// A place in a segment from which frames can be read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Position of the first event of the frame at `offset`.
    pub(crate) position: Position,
    pub(crate) offset: u64,
    pub(crate) appended_at: i64,
    pub(crate) run_time: i64,
}

/// One tenant's frames in a segment, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantFrames {
    pub(crate) frames: Vec<FramePlace>,
    pub(crate) bytes: u64,
    /// Append time of the first frame.
    pub(crate) first_at: i64,
}

/// What a segment holds of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) tenant: TenantId,
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// Append time of the first frame.
    pub(crate) first_at: i64,
}

impl TenantFrames {
    pub(crate) fn events(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.count)).sum()
    }

    /// What the directory says of them; `None` where there are none.
    pub(crate) fn entry(&self, tenant: TenantId) -> Option<DirectoryEntry> {
        Some(DirectoryEntry {
            tenant,
            first: self.frames.first()?.position,
            last: self.frames.last()?.last(),
            events: self.events(),
            bytes: self.bytes,
            first_at: self.first_at,
        })
    }

    /// The first frame that reaches beyond a position, as an index.
    pub(crate) fn first_after(&self, after: Position) -> usize {
        self.frames.partition_point(|frame| frame.last() <= after)
    }
}

/// What is known of a segment as a whole. Positions and times are those of its frames with events;
/// without any, they are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The last position before the segment, as its first frame says; less where what is missing
    /// between is accounted for within the segment's own index.
    pub(crate) follows: Position,
    /// Position of the first event.
    pub(crate) first: Position,
    /// Position of the last event.
    pub(crate) last: Position,
    /// The greatest position that the segment speaks of; more than `last` where its last events
    /// are damaged and a mark tells of them.
    pub(crate) reached: Position,
    pub(crate) events: u64,
    /// Frames of any kind.
    pub(crate) frames: u64,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    pub(crate) first_run: i64,
    pub(crate) last_run: i64,
    /// Where the last frame ends.
    pub(crate) end: u64,
    /// Where positions go on behind the segment.
    pub(crate) next: Position,
}

impl Summary {
    pub(crate) fn bytes_per_event(&self) -> u64 {
        self.end.saturating_sub(FRAMES_BEGIN) / self.events.max(1)
    }

    fn add(&mut self, header: &FrameHeader, offset: u64) {
        if self.frames == 0 {
            self.follows = header.follows;
        }
        self.frames += 1;
        self.end = offset + header.frame_bytes();
        self.reached = self.reached.max(header.last());
        self.next = self.next.max(header.next_position());
        if header.kind != FrameKind::Events {
            return;
        }
        if self.events == 0 {
            self.first = header.position;
            self.first_time = header.appended_at;
            self.first_run = header.run_time;
        }
        self.events += u64::from(header.count);
        self.last = header.last();
        // A pair: what a start knows of time is the last event's.
        self.last_time = header.appended_at;
        self.last_run = header.run_time;
    }
}

/// A segment's index in memory: of the active segment, and of a sealed one until its file is
/// written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryIndex {
    pub(crate) summary: Summary,
    pub(crate) tenants: HashMap<TenantId, TenantFrames>,
    pub(crate) steps: Vec<Step>,
    /// Stretches within the segment that are lost.
    pub(crate) lost: Vec<Lost>,
    /// Stretches of the file that are no frames: from, to; ascending.
    pub(crate) skips: Vec<(u64, u64)>,
}

impl MemoryIndex {
    /// Notes a stretch of the file that is no frame, behind those that are noted.
    pub(crate) fn skip(&mut self, from: u64, to: u64) {
        match self.skips.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.skips.push((from, to)),
        }
    }

    pub(crate) fn add(&mut self, header: &FrameHeader, offset: u64) {
        self.summary.add(header, offset);
        if header.kind != FrameKind::Events {
            return;
        }
        if self
            .steps
            .last()
            .is_none_or(|step| offset - step.offset >= STEP_BYTES)
        {
            self.steps.push(Step {
                position: header.position,
                offset,
                appended_at: header.appended_at,
                run_time: header.run_time,
            });
        }
        let length = header.frame_bytes();
        let place = FramePlace::new(header.position, header.count, offset, length);
        let tenant = self.tenants.entry(header.tenant).or_default();
        if tenant.frames.is_empty() {
            tenant.first_at = header.appended_at;
        }
        tenant.frames.push(place);
        tenant.bytes += length;
    }
}
