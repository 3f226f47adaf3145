//! What is committed together.

use std::time::Instant;

use tidings_protocol::{DeviceId, Position, TenantId};

use crate::event::{EventRef, NewEvent, NewSubject};
use crate::format::{ALIGN, FRAME_HEADER, FrameHeader};
use crate::log::Answer;
use crate::{AppendError, Appended, Chain};

/// The buffer of a group that was larger than this is given back.
const KEPT_BUFFER: usize = 8 << 20;

/// A body whose fate hangs on the group's.
pub(crate) struct Body {
    pub(crate) answer: Answer,
    pub(crate) chain: Option<Chain>,
    /// What it is answered if the group becomes durable.
    pub(crate) outcome: Result<Appended, AppendError>,
    pub(crate) stored: Option<Stored>,
}

/// The events of a body that are in the group.
pub(crate) struct Stored {
    pub(crate) tenant: TenantId,
    pub(crate) events: Vec<NewEvent>,
    /// Which of them are new; `None` where all are.
    pub(crate) fresh: Option<Vec<bool>>,
    pub(crate) first: Position,
    pub(crate) appended_at: i64,
}

#[derive(Default)]
pub(crate) struct Group {
    /// The frames as they will stand in the file.
    pub(crate) buffer: Vec<u8>,
    pub(crate) frames: Vec<(FrameHeader, u64)>,
    pub(crate) bodies: Vec<Body>,
    /// Keys that the group has added to the window.
    pub(crate) keys: usize,
    /// When the first of its bodies was submitted.
    pub(crate) submitted: Option<Instant>,
    frame_begin: usize,
}

impl Group {
    /// Leaves room for a frame's header; answers where its payload begins.
    pub(crate) fn begin_frame(&mut self) -> usize {
        self.frame_begin = self.buffer.len();
        self.buffer.resize(self.frame_begin + FRAME_HEADER, 0);
        self.buffer.len()
    }

    pub(crate) fn end_frame(&mut self, header: FrameHeader, salt: u64, group_offset: u64) {
        let offset = group_offset + self.frame_begin as u64;
        let begin = self.frame_begin;
        self.buffer[begin..begin + FRAME_HEADER].copy_from_slice(&header.encode(salt, offset));
        let align = usize::try_from(ALIGN).expect("small");
        self.buffer
            .resize(self.buffer.len().next_multiple_of(align), 0);
        self.frames.push((header, offset));
    }

    /// The last position that is durable while the group is not; `last` is the last of all.
    pub(crate) fn synced_through(&self, last: Position) -> Position {
        self.frames
            .first()
            .map_or(last, |(header, _)| header.follows)
    }

    /// The events that are new, in order.
    pub(crate) fn events(&self) -> Vec<EventRef<'_>> {
        let mut events = Vec::with_capacity(self.bodies.len());
        for stored in self.bodies.iter().filter_map(|body| body.stored.as_ref()) {
            let mut position = stored.first;
            for (index, event) in stored.events.iter().enumerate() {
                if stored.fresh.as_ref().is_some_and(|fresh| !fresh[index]) {
                    continue;
                }
                events.push(EventRef {
                    position,
                    appended_at: stored.appended_at,
                    time: event.time,
                    tenant: stored.tenant,
                    event_type: event.event_type.as_str(),
                    device: event.device.as_ref().map(DeviceId::as_str),
                    subject: event.subject.as_ref().map(NewSubject::as_ref),
                    origin: event.origin.as_deref(),
                    data: &event.data,
                });
                position += 1;
            }
        }
        events
    }

    /// Empties the group and answers its bodies.
    pub(crate) fn finish(&mut self) -> Vec<Body> {
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        self.frames.clear();
        self.keys = 0;
        self.submitted = None;
        std::mem::take(&mut self.bodies)
    }
}
