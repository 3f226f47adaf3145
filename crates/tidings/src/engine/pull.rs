//! Reading on: what is given to streams behind the tail, from the window or the log.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_log::{Expired, Scope};
use tidings_protocol::Position;
use tidings_protocol::api::{ClosingReason, Gap, GapReason};

use super::catch_up::{Caught, Chunk, Request};
use super::coding::{Coder, Coding};
use super::deliver::{Due, Piece, code_pieces};
use super::index::slot as slot_of;
use super::select::{Reading, Selection, Thinning, pieces_of, select};
use super::stream::{Stage, Written};
use super::thread::{Thread, ticks};
use super::wheel::Tick;
use crate::fanout::{Block, Conflation, View};
use crate::stream::preamble;

/// How far behind the tail a stream may be and still read from the window. Beyond it a sparse view
/// would make the engine look at too many events of others; the log has an index by tenant.
const WINDOW_REACH: Position = 16 * 1024;

/// How many bytes a stream is given in one turn.
const TURN: usize = 256 * 1024;

/// The same for a compressed stream, in bytes before compression, which takes its time.
const CODED_TURN: usize = 64 * 1024;

/// The same for a stream that conflates: what it can do without is better known at the next write.
const CONFLATED_TURN: usize = 32 * 1024;

/// How long turns are taken before the tail is looked at again.
const SLICE: Duration = Duration::from_millis(1);

/// What the catch-up pool has brought, for the streams that can still use it.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    by_scope: HashMap<Scope, VecDeque<Chunk>>,
    /// Oldest first.
    order: VecDeque<Scope>,
    weight: usize,
    /// When one was brought or used last.
    used: Tick,
}

/// How many bytes of chunks are kept.
const CHUNKS_CAPACITY: usize = 16 * 1024 * 1024;

/// How long they are kept when nobody uses them. A stream whose sink takes no more for the moment comes back
/// for the rest of its chunk.
const CHUNKS_KEPT: Duration = Duration::from_secs(1);

/// Of how many scopes, and beside how many bytes of chunks, the next chunk is read before anybody asks for it. With
/// more of them it could be gone before its turn.
const SCOPES_READ_AHEAD: usize = 8;
const READ_AHEAD_BESIDE: usize = CHUNKS_CAPACITY / 2;

impl Chunks {
    fn insert(&mut self, scope: Scope, chunk: Chunk) {
        self.weight += chunk.block.weight();
        self.by_scope.entry(scope).or_default().push_back(chunk);
        self.order.push_back(scope);
        while self.weight > CHUNKS_CAPACITY && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(chunks) = self.by_scope.get_mut(&oldest) {
                if let Some(chunk) = chunks.pop_front() {
                    self.weight -= chunk.block.weight();
                }
                if chunks.is_empty() {
                    self.by_scope.remove(&oldest);
                }
            }
        }
    }

    fn find(&self, scope: Scope, after: Position, purges: u64) -> Option<Chunk> {
        self.by_scope
            .get(&scope)?
            .iter()
            .rev()
            .find(|chunk| chunk.covers(after, purges))
            .cloned()
    }

    #[cfg(test)]
    pub(super) fn reach(&self, scope: Scope, after: Position) -> bool {
        self.find(scope, after, 0).is_some()
    }

    /// Lets go of everything: nobody reads behind the tail any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Chunk {
    /// Whether a stream at this position can read on from here, when so many tenants were purged.
    fn covers(&self, position: Position, purges: u64) -> bool {
        self.purges == purges && self.block.after() <= position && position < self.block.through()
    }
}

impl Thread {
    /// Gives streams that have more to read their turns, as many as fit into a slice of time: those
    /// that are live do not wait for all that catch up.
    pub(super) fn take_turns(&mut self) {
        let begun = Instant::now();
        for _ in 0..self.turns.len() {
            if begun.elapsed() >= SLICE {
                break;
            }
            let Some(slot) = self.turns.pop_front() else {
                break;
            };
            if let Some(stream) = self.streams.get_mut(slot as usize)
                && std::mem::take(&mut stream.queued)
            {
                self.pull(slot as usize);
            }
        }
        if self.turns.is_empty() && self.waiting.is_empty() {
            let unused = self.now.saturating_sub(self.chunks.used) > ticks(CHUNKS_KEPT);
            if unused || self.streams.is_empty() {
                self.chunks.clear();
            }
        }
    }

    pub(super) fn queue_turn(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        if !stream.queued {
            stream.queued = true;
            self.turns.push_back(slot_of(slot));
        }
    }

    /// Lets a stream read on as far as its sink, its turn and what is at hand go.
    pub(super) fn pull(&mut self, slot: usize) {
        if !self.flush(slot) {
            return;
        }
        let stream = &self.streams[slot];
        match stream.stage {
            Stage::Snapshot => return self.give_snapshot(slot),
            Stage::Live | Stage::Waiting | Stage::Closing(_) => return,
            Stage::Behind => {}
        }
        if stream.cursor == self.position {
            self.streams[slot].stage = Stage::Live;
            return;
        }
        if stream.cursor > self.position {
            // The state was a moment ahead of this thread. It must not follow before it is level.
            self.queue_turn(slot);
            return;
        }
        let (cursor, view) = (stream.cursor, Arc::clone(self.index.view(stream.group)));
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.clear();
        // What the window has it has without a word of what is missing between.
        let losses = self.pool.cursors().losses();
        let is_whole = losses
            .first_after(cursor)
            .is_none_or(|loss| loss.position > self.position);
        let near = is_whole && self.position - cursor <= WINDOW_REACH;
        if near && self.window.blocks_after(cursor, TURN, &mut blocks) {
            self.give(slot, &view, &blocks);
        } else if let Some(chunk) = self
            .chunks
            .find(view.scope(), cursor, self.pool.purge_count())
        {
            self.chunks.used = self.now;
            self.read_ahead(view.scope(), &chunk);
            if let Some(expired) = chunk.expired {
                self.tell_gap(slot, expired);
            }
            blocks.push(chunk.block);
            self.give(slot, &view, &blocks);
        } else {
            self.ask_pool(slot, view.scope());
        }
        blocks.clear();
        self.blocks = blocks;
    }

    /// Writes what the blocks hold for the view after the stream's cursor, in one call.
    fn give(&mut self, slot: usize, view: &Arc<View>, blocks: &[Arc<Block>]) {
        // A gap that was told before may have filled the sink, or found the peer gone.
        let Some(stream) = self
            .streams
            .get(slot)
            .filter(|stream| stream.is_clear() && stream.stage == Stage::Behind)
        else {
            return;
        };
        let (events, bytes) = (stream.events_sent, stream.bytes_sent);
        match stream.coding {
            Coding::Identity => self.give_plain(slot, view, blocks),
            Coding::Gzip | Coding::Zstd => self.give_coded(slot, view, blocks),
        }
        // One that is gone by now took nothing.
        if let Some(stream) = self.streams.get(slot) {
            let (given, taken) = (stream.events_sent - events, stream.bytes_sent - bytes);
            self.tally.add(given, taken);
        }
    }

    fn give_plain(&mut self, slot: usize, view: &View, blocks: &[Arc<Block>]) {
        let Selection {
            runs,
            through,
            left_out,
        } = self.select(slot, view, blocks, TURN);
        let parts: Vec<IoSlice<'_>> = runs
            .iter()
            .map(|(number, run)| IoSlice::new(&blocks[*number].bytes()[run.bytes.clone()]))
            .collect();
        let stream = &mut self.streams[slot];
        let written = if parts.is_empty() {
            Written::All
        } else {
            stream.write(&parts, self.now)
        };
        match written {
            Written::All => {
                for (number, run) in &runs {
                    stream.events_sent += run.events.len() as u64;
                    stream.told = blocks[*number].position(run.events.end - 1);
                }
                self.read_through(slot, through);
                self.note_left_out(slot, &left_out);
            }
            Written::Part(mut taken) => {
                for (number, run) in &runs {
                    let of_run = taken.min(run.bytes.len());
                    stream.note_cut_run(&blocks[*number], run, of_run);
                    taken -= of_run;
                    if taken == 0 {
                        break;
                    }
                }
                self.note_left_out(slot, &left_out);
                self.watch_for_stall(slot);
            }
            Written::Failed(error) => self.peer_failed(slot, &error),
        }
    }

    fn give_coded(&mut self, slot: usize, view: &Arc<View>, blocks: &[Arc<Block>]) {
        let stream = &self.streams[slot];
        let (coding, cursor) = (stream.coding, stream.cursor);
        let purges = self.pool.purge_count();
        let reading = self
            .coded_reading
            .take()
            .filter(|kept| kept.serves(view, coding, cursor, purges, stream.conflation.as_ref()));
        let reading = match reading {
            Some(kept) => kept,
            None => CodedReading {
                conflation: stream.conflation.clone(),
                ..CodedReading::new(
                    self.select(slot, view, blocks, CODED_TURN),
                    Arc::clone(view),
                    coding,
                    cursor,
                    purges,
                    blocks,
                    &mut self.coder,
                )
            },
        };
        let due = Due::new(&reading.bytes, &reading.pieces, coding);
        let stream = &mut self.streams[slot];
        let written = if due.bytes.is_empty() {
            Written::All
        } else {
            stream.write(&[IoSlice::new(due.bytes)], self.now)
        };
        match written {
            Written::All => {
                stream.note_all(&due);
                self.read_through(slot, reading.through);
                self.note_left_out(slot, &reading.left_out);
            }
            Written::Part(taken) => {
                stream.note_cut(&due, taken);
                self.note_left_out(slot, &reading.left_out);
                self.watch_for_stall(slot);
            }
            Written::Failed(error) => self.peer_failed(slot, &error),
        }
        self.coded_reading = Some(reading);
    }

    /// What the stream is to be given next.
    fn select(&self, slot: usize, view: &View, blocks: &[Arc<Block>], turn: usize) -> Selection {
        let stream = &self.streams[slot];
        let thinning = stream.conflation.as_deref().map(|conflation| Thinning {
            conflation,
            state: self.pool.log().state(),
            types: self.pool.types(),
        });
        let room = match thinning {
            Some(_) => turn.min(CONFLATED_TURN),
            None => turn,
        };
        let reading = Reading {
            view,
            cursor: stream.cursor,
            until: self.position,
            room,
            thinning,
        };
        select(&reading, blocks)
    }

    /// Counts what was left out as far as the stream has come. What lies behind its cursor is looked at
    /// again.
    fn note_left_out(&mut self, slot: usize, left_out: &[Position]) {
        let stream = &mut self.streams[slot];
        let passed = left_out.partition_point(|&position| position <= stream.cursor);
        stream.conflated += passed as u64;
        self.mailbox.counters.conflated.add(passed as u64);
    }

    /// The stream has been given its view up to here.
    fn read_through(&mut self, slot: usize, through: Position) {
        let position = self.position;
        let stream = &mut self.streams[slot];
        stream.cursor = through;
        if through >= position {
            stream.stage = Stage::Live;
        } else {
            self.queue_turn(slot);
        }
    }

    fn ask_pool(&mut self, slot: usize, scope: Scope) {
        let stream = &mut self.streams[slot];
        stream.stage = Stage::Waiting;
        let after = stream.cursor;
        match self.waiting.entry(scope) {
            Entry::Occupied(waiting) => waiting.into_mut().push(slot_of(slot)),
            Entry::Vacant(place) => {
                place.insert(vec![slot_of(slot)]);
                self.request(scope, after);
            }
        }
    }

    /// Has what follows a chunk read while the chunk is written, so that the stream need not wait for both in turn.
    fn read_ahead(&mut self, scope: Scope, chunk: &Chunk) {
        let after = chunk.block.through();
        if self.position.saturating_sub(after) <= WINDOW_REACH
            || self.waiting.contains_key(&scope)
            || self.waiting.len() >= SCOPES_READ_AHEAD
            || self.chunks.weight > READ_AHEAD_BESIDE
            || self.chunks.find(scope, after, chunk.purges).is_some()
        {
            return;
        }
        self.waiting.insert(scope, Vec::new());
        self.request(scope, after);
    }

    fn request(&self, scope: Scope, after: Position) {
        self.pool.request(Request {
            scope,
            after,
            until: self.position,
            mailbox: Arc::clone(&self.mailbox),
        });
    }

    /// Serves the streams that the pool has read for, and asks it for the others of that scope.
    pub(super) fn caught(&mut self, caught: Caught) {
        let Caught { scope, outcome } = caught;
        let waiting = self.waiting.remove(&scope).unwrap_or_default();
        let purges = self.pool.purge_count();
        // A slot may have been given to another stream since.
        let waiting = waiting
            .into_iter()
            .filter(|&slot| self.waits_for(slot as usize, scope));
        let (ready, rest): (Vec<u32>, Vec<u32>) = waiting.partition(|&slot| {
            let cursor = self.streams[slot as usize].cursor;
            outcome
                .as_ref()
                .map_or(true, |chunk| chunk.covers(cursor, purges))
        });
        if let Some(lowest) = rest
            .iter()
            .map(|&slot| self.streams[slot as usize].cursor)
            .min()
        {
            self.waiting.insert(scope, rest);
            self.request(scope, lowest);
        }
        match outcome {
            Ok(chunk) => {
                self.chunks.used = self.now;
                self.chunks.insert(scope, chunk);
                for slot in ready {
                    self.streams[slot as usize].stage = Stage::Behind;
                    self.queue_turn(slot as usize);
                }
            }
            Err(error) => {
                for slot in ready {
                    self.read_failed(slot as usize, &error);
                }
            }
        }
    }

    fn waits_for(&self, slot: usize, scope: Scope) -> bool {
        self.streams.get(slot).is_some_and(|stream| {
            stream.stage == Stage::Waiting && self.index.view(stream.group).scope() == scope
        })
    }

    /// Announces, once, that something after the stream's cursor has expired, and goes on behind it, or
    /// with a snapshot.
    fn tell_gap(&mut self, slot: usize, expired: Expired) {
        let stream = &self.streams[slot];
        if expired.removed_through <= stream.cursor.max(stream.announced) {
            return;
        }
        let snapshot = match stream.wants_snapshot.then(|| self.take_snapshot(slot)) {
            None => None,
            Some(Ok(snapshot)) => Some(snapshot),
            Some(Err(error)) => {
                // Without it the client would take what follows for the whole picture.
                tidings_log::seldom!(warn, %error, connection_id = %stream.ticket.connection, "a stream can't be given a snapshot");
                self.close(slot, ClosingReason::Disconnected);
                return;
            }
        };
        let stream = &mut self.streams[slot];
        let resume_after = match &snapshot {
            Some(snapshot) => snapshot.through(),
            None => expired.resume_after.max(stream.cursor),
        };
        let cursors = self.pool.cursors();
        let requested = cursors.text(stream.cursor);
        let resumed = cursors.text(resume_after);
        let gap = Gap {
            requested: requested.to_string(),
            resumed_at: resumed.to_string(),
            reason: GapReason::Expired,
            source: cursors
                .losses()
                .at(expired.removed_through)
                .and_then(|loss| cursors.missing_of(&loss).source),
        };
        self.mailbox.counters.gaps.note(gap.reason);
        let mut frame = Vec::new();
        if let Some(snapshot) = snapshot {
            preamble::write_gap_before_snapshot(&mut frame, &gap);
            stream.say(&frame, &mut self.coder);
            self.begin_snapshot(slot, snapshot);
            return;
        }
        preamble::write_gap(&mut frame, &resumed, &gap);
        stream.say(&frame, &mut self.coder);
        stream.cursor = resume_after;
        stream.told = resume_after;
        stream.announced = expired.removed_through;
        self.flush(slot);
    }
}

/// What was read and compressed last: after an interruption many streams of one view come back
/// with the same cursor.
pub(super) struct CodedReading {
    view: Arc<View>,
    coding: Coding,
    after: Position,
    purges: u64,
    through: Position,
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// What the streams that it was read for can do without.
    conflation: Option<Arc<Conflation>>,
    left_out: Vec<Position>,
}

impl CodedReading {
    fn new(
        selection: Selection,
        view: Arc<View>,
        coding: Coding,
        after: Position,
        purges: u64,
        blocks: &[Arc<Block>],
        coder: &mut Coder,
    ) -> Self {
        let mut plain = Vec::new();
        let mut plain_pieces = Vec::new();
        for (number, run) in &selection.runs {
            let start = plain.len();
            plain.extend_from_slice(&blocks[*number].bytes()[run.bytes.clone()]);
            let pieces = pieces_of(&blocks[*number], run).into_iter();
            plain_pieces.extend(pieces.map(|piece| Piece {
                end: start + piece.end,
                ..piece
            }));
        }
        let mut bytes = Vec::new();
        let mut pieces = Vec::new();
        code_pieces(
            coder,
            coding,
            &plain,
            &plain_pieces,
            &mut bytes,
            &mut pieces,
        );
        Self {
            view,
            coding,
            after,
            purges,
            through: selection.through,
            bytes,
            pieces,
            conflation: None,
            left_out: selection.left_out,
        }
    }

    fn serves(
        &self,
        view: &Arc<View>,
        coding: Coding,
        after: Position,
        purges: u64,
        conflation: Option<&Arc<Conflation>>,
    ) -> bool {
        Arc::ptr_eq(&self.view, view)
            && self.coding == coding
            && self.after == after
            && self.purges == purges
            && self.conflation.as_ref() == conflation
    }
}
