//! A tenant: the bytes of its events and who reads them.

use std::collections::VecDeque;

use anyhow::Result;
use tidings_protocol::{Cursor, Epoch, Position, sse};

use crate::request::event_of;

/// The epoch of every cursor; the floor never has another.
pub(crate) const EPOCH: Epoch = Epoch(1);

/// The events of a tenant as the bytes that every stream is sent, and the tenant's streams.
#[derive(Debug, Default)]
pub(crate) struct Room {
    wire: Vec<u8>,
    /// Offset of `wire`'s first byte since the tenant began.
    start: u64,
    /// Position and end offset of each event that `wire` holds, for streams that resume.
    ends: VecDeque<(Position, u64)>,
    /// Indices of the tenant's streams among the server's connections.
    pub(crate) streams: Vec<usize>,
    /// There are bytes that streams have not been sent.
    pub(crate) dirty: bool,
}

impl Room {
    /// The offset behind the last event.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.wire.len() as u64
    }

    /// Everything behind `offset`; `None` when some of it is gone.
    pub(crate) fn after(&self, offset: u64) -> Option<&[u8]> {
        let skip = offset.checked_sub(self.start)?;
        self.wire.get(usize::try_from(skip).ok()?..)
    }

    /// Where the first event after `position` begins.
    pub(crate) fn offset_after(&self, position: Position) -> u64 {
        let read = self.ends.partition_point(|(at, _)| *at <= position);
        match read.checked_sub(1) {
            Some(last) => self.ends[last].1,
            None => self.start,
        }
    }

    /// Appends the events of a body, one a line, and returns how many there were.
    pub(crate) fn publish(&mut self, body: &[u8], tail: &mut Position) -> Result<u64> {
        let mut count = 0;
        for line in body.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let (event_type, data) = event_of(line)?;
            *tail += 1;
            let cursor = Cursor {
                epoch: EPOCH,
                position: *tail,
            };
            sse::write_event(&mut self.wire, cursor, event_type, data);
            self.ends.push_back((*tail, self.end()));
            count += 1;
        }
        self.dirty = true;
        Ok(count)
    }

    /// Forgets the oldest events once twice as much as `window_bytes` is held.
    pub(crate) fn trim(&mut self, window_bytes: usize) {
        if self.wire.len() <= 2 * window_bytes {
            return;
        }
        let keep_from = self.end() - window_bytes as u64;
        let mut cut = self.start;
        while let Some((_, end)) = self.ends.pop_front_if(|(_, end)| *end <= keep_from) {
            cut = end;
        }
        // Less than `wire` holds, so it fits.
        self.wire
            .drain(..usize::try_from(cut - self.start).unwrap_or(usize::MAX));
        self.start = cut;
    }
}
