//! Delivery to streams that follow the tail.
//!
//! What a group is due is laid side by side once, and each member gets it in one write.

use std::io::IoSlice;
use std::sync::Arc;

use tidings_protocol::Position;

use super::index::GroupId;
use super::stream::{Stage, Written};
use super::thread::Thread;
use crate::fanout::Block;

/// How many bytes of the window are handed out before the sockets are looked at again. About what
/// a socket takes at once, so that a burst leaves few streams with a partial write.
const STEP: usize = 128 * 1024;

/// Bytes that every member of a group is due, and where the events in them end.
pub(super) struct Due<'a> {
    pub(super) bytes: &'a [u8],
    /// For each event: its position, and where its bytes end.
    pub(super) ends: &'a [(Position, usize)],
}

impl Due<'_> {
    /// The first event that is not whole within the first `taken` bytes.
    fn cut(&self, taken: usize) -> usize {
        self.ends.partition_point(|&(_, end)| end <= taken)
    }
}

impl Thread {
    /// Hands out the next events of the window to the live streams.
    pub(super) fn follow(&mut self) {
        if self.position >= self.window.tail() {
            return;
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        if self.window.blocks_after(self.position, STEP, &mut blocks) {
            self.hand_out(&blocks);
        } else {
            self.fall_behind();
        }
        blocks.clear();
        self.blocks = blocks;
    }

    fn hand_out(&mut self, blocks: &[Arc<Block>]) {
        let Some(through) = blocks.last().map(|block| block.through()) else {
            return;
        };
        let mut touched = std::mem::take(&mut self.touched);
        for (number, block) in blocks.iter().enumerate() {
            for event in block.first_after(self.position)..block.event_count() {
                let place = (number_of(number), number_of(event));
                self.index.note(block.facts(event), place, &mut touched);
            }
        }
        for group in touched.drain(..) {
            self.deliver(group, blocks);
        }
        self.touched = touched;
        self.position = through;
    }

    fn deliver(&mut self, group: GroupId, blocks: &[Arc<Block>]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let entry = self.index.group_mut(group);
        let mut due = std::mem::take(&mut entry.due);
        let members = std::mem::take(&mut entry.members);

        let mut ends = Vec::with_capacity(due.len());
        let bytes = lay_out(blocks, &due, &mut scratch, &mut ends);
        let due_bytes = Due { bytes, ends: &ends };
        let mut failed = Vec::new();
        for &slot in &members {
            if let Some(error) = self.deliver_to(slot as usize, &due_bytes) {
                failed.push((slot, error));
            }
        }

        scratch.clear();
        self.scratch = scratch;
        due.clear();
        let entry = self.index.group_mut(group);
        entry.due = due;
        entry.members = members;
        for (slot, error) in failed {
            self.peer_failed(slot as usize, &error);
        }
    }

    /// Gives a live stream what it is due. Streams that are not live find it by their cursor.
    fn deliver_to(&mut self, slot: usize, due: &Due<'_>) -> Option<std::io::Error> {
        let stream = &mut self.streams[slot];
        if stream.stage != Stage::Live {
            return None;
        }
        debug_assert!(stream.is_clear(), "a live stream owes nothing");
        match stream.write(&[IoSlice::new(due.bytes)], self.now) {
            Written::All => {
                stream.events_sent += due.ends.len() as u64;
                stream.told = due
                    .ends
                    .last()
                    .map_or(stream.told, |&(position, _)| position);
                None
            }
            Written::Part(taken) => {
                let cut = due.cut(taken);
                stream.stage = Stage::Behind;
                // Up to here it had all of its view; what was not due needs no second look.
                stream.cursor = self.position;
                stream.note_cut(due, cut, taken);
                self.watch_for_stall(slot);
                None
            }
            Written::Failed(error) => Some(error),
        }
    }

    /// The window has left this thread behind: what its live streams are due must be read from the
    /// log.
    fn fall_behind(&mut self) {
        let position = self.position;
        tracing::warn!(
            position,
            "an engine was overtaken by the window; its streams read the log"
        );
        for (slot, stream) in &mut self.streams {
            if stream.stage == Stage::Live {
                stream.stage = Stage::Behind;
                stream.cursor = position;
                if !stream.queued {
                    stream.queued = true;
                    self.turns.push_back(super::index::slot(slot));
                }
            }
        }
        self.position = self.window.tail();
    }
}

impl super::stream::Stream {
    /// Notes that a write was cut at `taken` bytes, within the event at `cut`: its rest waits for
    /// the sink, what follows is read again.
    pub(super) fn note_cut(&mut self, due: &Due<'_>, cut: usize, taken: usize) {
        let start = if cut == 0 { 0 } else { due.ends[cut - 1].1 };
        let whole = if taken > start {
            self.unsent.append(&due.bytes[taken..due.ends[cut].1]);
            cut + 1
        } else {
            cut
        };
        if whole > 0 {
            let position = due.ends[whole - 1].0;
            self.cursor = position;
            self.told = position;
            self.events_sent += whole as u64;
        }
    }
}

/// The due events' bytes side by side: in the block itself where they stand so already, in
/// `scratch` otherwise.
fn lay_out<'a>(
    blocks: &'a [Arc<Block>],
    due: &[(u32, u32)],
    scratch: &'a mut Vec<u8>,
    ends: &mut Vec<(Position, usize)>,
) -> &'a [u8] {
    let (first, last) = (due[0], due[due.len() - 1]);
    let side_by_side = first.0 == last.0 && (last.1 - first.1) as usize + 1 == due.len();
    if side_by_side {
        let block = &blocks[first.0 as usize];
        let start = block.extent(first.1 as usize).start;
        for event in first.1..=last.1 {
            let event = event as usize;
            ends.push((block.position(event), block.extent(event).end - start));
        }
        return &block.bytes()[start..block.extent(last.1 as usize).end];
    }
    for &(number, event) in due {
        let block = &blocks[number as usize];
        scratch.extend_from_slice(&block.bytes()[block.extent(event as usize)]);
        ends.push((block.position(event as usize), scratch.len()));
    }
    scratch
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).expect("a step holds far fewer than 2^32 events")
}
