//! Delivery to streams that follow the tail.
//!
//! What a group is due is laid side by side once, and each member gets it in one write.

use std::io::IoSlice;
use std::sync::Arc;

use tidings_protocol::Position;

use super::coding::{Checksum, Coder, Coding};
use super::index::GroupId;
use super::stream::{Stage, Stream, Written};
use super::thread::Thread;
use crate::cursors::Loss;
use crate::fanout::Block;
use crate::fanout::block::Run;

/// How many bytes of the window are handed out before the sockets are looked at again. About what
/// a socket takes at once, so that a burst leaves few streams with a partial write.
const STEP: usize = 128 * 1024;

/// How many bytes are compressed together at most. The rest of a segment that was sent in part is
/// kept for its stream, so that this bounds memory.
const SEGMENT: usize = 16 * 1024;

/// A part of what a stream is due that is sent whole or kept: an event, or a compressed segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The position of its last event.
    pub(super) position: Position,
    /// Where its bytes end.
    pub(super) end: usize,
    pub(super) events: u32,
    /// Of its bytes before they were coded, where the coding asks for it.
    pub(super) checksum: Checksum,
}

/// Bytes that every member of a group is due, and the pieces that they consist of.
pub(super) struct Due<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) pieces: &'a [Piece],
    /// The sums of the pieces.
    events: u64,
    checksum: Checksum,
    coding: Coding,
}

impl<'a> Due<'a> {
    pub(super) fn new(bytes: &'a [u8], pieces: &'a [Piece], coding: Coding) -> Self {
        let events = match coding {
            Coding::Identity => pieces.len() as u64,
            Coding::Gzip | Coding::Zstd => pieces.iter().map(|piece| u64::from(piece.events)).sum(),
        };
        let checksum = match coding {
            Coding::Gzip => pieces
                .iter()
                .fold(Checksum::EMPTY, |sum, piece| sum.then(&piece.checksum)),
            Coding::Identity | Coding::Zstd => Checksum::EMPTY,
        };
        Self {
            bytes,
            pieces,
            events,
            checksum,
            coding,
        }
    }
}

/// Compresses pieces, several into a segment, which become the pieces of what results.
pub(super) fn code_pieces(
    coder: &mut Coder,
    coding: Coding,
    plain: &[u8],
    plain_pieces: &[Piece],
    coded: &mut Vec<u8>,
    pieces: &mut Vec<Piece>,
) {
    let mut start = 0;
    let mut rest = plain_pieces;
    while !rest.is_empty() {
        let fitting = rest
            .partition_point(|piece| piece.end - start <= SEGMENT)
            .max(1);
        let (segment, behind) = rest.split_at(fitting);
        let last = segment[fitting - 1];
        let checksum = coder.code(coding, &plain[start..last.end], coded);
        let events = segment.iter().map(|piece| piece.events).sum();
        pieces.push(Piece {
            position: last.position,
            end: coded.len(),
            events,
            checksum,
        });
        start = last.end;
        rest = behind;
    }
}

impl Thread {
    /// Hands out the next events of the window to the live streams.
    pub(super) fn follow(&mut self) {
        let tail = self.window.tail();
        if self.position >= tail {
            return;
        }
        if self.streams.is_empty() {
            self.position = tail;
            return;
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        if !self.window.blocks_after(self.position, STEP, &mut blocks) {
            let position = self.position;
            self.mailbox.counters.overtaken.add(1);
            tidings_log::seldom!(
                warn,
                position,
                "an engine was overtaken by the window; its streams read the log"
            );
            self.fall_behind();
        } else if let Some(loss) = self.loss_within(&blocks) {
            blocks.retain(|block| block.through() < loss.position);
            if blocks.is_empty() {
                // Each stream is told of it where it comes to it.
                self.fall_behind();
            } else {
                self.hand_out(&blocks);
            }
        } else {
            self.hand_out(&blocks);
        }
        blocks.clear();
        self.blocks = blocks;
    }

    fn loss_within(&self, blocks: &[Arc<Block>]) -> Option<Loss> {
        let loss = self.pool.cursors().losses().first_after(self.position)?;
        let through = blocks.last()?.through();
        (loss.position <= through).then_some(loss)
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
        let anybody = !touched.is_empty();
        for group in touched.drain(..) {
            self.deliver(group, blocks);
        }
        if anybody && let Some(submitted) = blocks[0].submitted() {
            let took = submitted.elapsed();
            self.mailbox.counters.publish_to_write.observe(took);
        }
        self.touched = touched;
        self.position = through;
    }

    fn deliver(&mut self, group: GroupId, blocks: &[Arc<Block>]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let entry = self.index.group_mut(group);
        let coding = entry.coding;
        let mut due = std::mem::take(&mut entry.due);
        let members = std::mem::take(&mut entry.members);

        let Scratch {
            plain,
            plain_pieces,
            coded,
            coded_pieces,
        } = &mut scratch;
        let bytes = lay_out(blocks, &due, plain, plain_pieces);
        let (bytes, pieces) = if coding == Coding::Identity {
            (bytes, &*plain_pieces)
        } else {
            code_pieces(
                &mut self.coder,
                coding,
                bytes,
                plain_pieces,
                coded,
                coded_pieces,
            );
            (&**coded, &*coded_pieces)
        };
        let what = Due::new(bytes, pieces, coding);
        let mut failed = Vec::new();
        let mut whole = 0;
        for &slot in &members {
            match self.deliver_to(slot as usize, &what) {
                Ok(all) => whole += u64::from(all),
                Err(error) => failed.push((slot, error)),
            }
        }
        let bytes = what.bytes.len() as u64;
        self.tally.add(whole * what.events, whole * bytes);

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

    /// Gives a live stream what it is due; whether it took all of it. Streams that are not live find it by their
    /// cursor.
    fn deliver_to(&mut self, slot: usize, due: &Due<'_>) -> std::io::Result<bool> {
        let stream = &mut self.streams[slot];
        if stream.stage != Stage::Live {
            return Ok(false);
        }
        debug_assert!(stream.is_clear(), "a live stream owes nothing");
        match stream.write(&[IoSlice::new(due.bytes)], self.now) {
            Written::All => {
                stream.note_all(due);
                Ok(true)
            }
            Written::Part(taken) => {
                stream.stage = Stage::Behind;
                // Up to here it had all of its view; what was not due needs no second look.
                stream.cursor = self.position;
                let before = stream.events_sent;
                stream.note_cut(due, taken);
                self.tally.add(stream.events_sent - before, taken as u64);
                self.mailbox.counters.lapses.add(1);
                self.watch_for_stall(slot);
                Ok(false)
            }
            Written::Failed(error) => Err(error),
        }
    }

    /// Has the live streams read the log from here on: the window does not have what they are due, or not without a
    /// word of what is missing.
    fn fall_behind(&mut self) {
        let position = self.position;
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

impl Stream {
    /// Notes that all of `due` was written.
    pub(super) fn note_all(&mut self, due: &Due<'_>) {
        self.events_sent += due.events;
        if let Some(last) = due.pieces.last() {
            self.told = last.position;
        }
        if due.coding == Coding::Gzip {
            self.checksum.append(&due.checksum);
        }
    }

    /// Notes that a write of `due` was cut at `taken` bytes: the rest of the piece that was cut waits
    /// for the sink, what follows is read again.
    pub(super) fn note_cut(&mut self, due: &Due<'_>, taken: usize) {
        let cut = due.pieces.partition_point(|piece| piece.end <= taken);
        let start = if cut == 0 { 0 } else { due.pieces[cut - 1].end };
        let whole = if taken > start {
            self.unsent.append(&due.bytes[taken..due.pieces[cut].end]);
            self.whole = match cut {
                0 => self.cursor,
                _ => due.pieces[cut - 1].position,
            };
            cut + 1
        } else {
            cut
        };
        for piece in &due.pieces[..whole] {
            self.cursor = piece.position;
            self.told = piece.position;
            self.events_sent += u64::from(piece.events);
            self.checksum.append(&piece.checksum);
        }
    }

    /// [`Stream::note_cut`] for a run of events as they stand in a block, none of which is coded. A run can hold a
    /// thousand events and be cut every hundred, so none of them is looked at but where the cut is.
    pub(super) fn note_cut_run(&mut self, block: &Block, run: &Run, taken: usize) {
        let (first, behind) = (run.events.start, run.events.end);
        let cut = block.event_at(run.bytes.start + taken).clamp(first, behind);
        let before = if cut == first {
            self.cursor
        } else {
            block.position(cut - 1)
        };
        let mut whole = cut;
        if cut < behind {
            let extent = block.extent(cut);
            let from = run.bytes.start + taken;
            if from > extent.start {
                self.unsent.append(&block.bytes()[from..extent.end]);
                self.whole = before;
                whole += 1;
            }
        }
        if whole > first {
            self.cursor = block.position(whole - 1);
            self.told = self.cursor;
            self.events_sent += (whole - first) as u64;
        }
    }
}

/// Buffers that are kept from one delivery to the next.
#[derive(Default)]
pub(super) struct Scratch {
    plain: Vec<u8>,
    plain_pieces: Vec<Piece>,
    coded: Vec<u8>,
    coded_pieces: Vec<Piece>,
}

impl Scratch {
    fn clear(&mut self) {
        self.plain.clear();
        self.plain_pieces.clear();
        self.coded.clear();
        self.coded_pieces.clear();
    }
}

/// The due events' bytes side by side: in the block itself where they stand so already, in
/// `plain` otherwise.
fn lay_out<'a>(
    blocks: &'a [Arc<Block>],
    due: &[(u32, u32)],
    plain: &'a mut Vec<u8>,
    pieces: &mut Vec<Piece>,
) -> &'a [u8] {
    let piece = |position, end| Piece {
        position,
        end,
        events: 1,
        checksum: Checksum::EMPTY,
    };
    let (first, last) = (due[0], due[due.len() - 1]);
    let side_by_side = first.0 == last.0 && (last.1 - first.1) as usize + 1 == due.len();
    if side_by_side {
        let block = &blocks[first.0 as usize];
        let start = block.extent(first.1 as usize).start;
        for event in first.1..=last.1 {
            let event = event as usize;
            pieces.push(piece(
                block.position(event),
                block.extent(event).end - start,
            ));
        }
        return &block.bytes()[start..block.extent(last.1 as usize).end];
    }
    for &(number, event) in due {
        let block = &blocks[number as usize];
        plain.extend_from_slice(&block.bytes()[block.extent(event as usize)]);
        pieces.push(piece(block.position(event as usize), plain.len()));
    }
    plain
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).expect("a step holds far fewer than 2^32 events")
}
