//! The record of one stream.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use tidings_protocol::Position;

use super::coding::{self, Coder, Coding, RunningChecksum};
use super::index::GroupId;
use super::sink::{Sink, Taken};
use super::snapshot::SnapshotReading;
use super::ticket::Ticket;
use super::wheel::Tick;
use crate::fanout::Conflation;

/// What a stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has been given everything up to the engine's position and follows it.
    Live,
    /// It is given a snapshot, part by part when its sink takes bytes, and reads on from there.
    Snapshot,
    /// It reads on from the window or the log when its sink takes bytes.
    Behind,
    /// The catch-up pool is reading for it.
    Waiting,
    /// Its last bytes are on their way; it ends at the peer's end, or at the tick.
    Closing(Tick),
}

/// One open stream. The engine thread that holds it owns it; nothing else refers to it.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and none excludes another"
)]
pub(super) struct Stream {
    pub(super) sink: Sink,
    pub(super) group: GroupId,
    /// Its place among the group's members.
    pub(super) place: u32,
    pub(super) stage: Stage,
    /// The sink has refused bytes and not asked for more since.
    pub(super) blocked: bool,
    /// Whether it was told that what is shown may be old, so that each change is told once.
    pub(super) told_stale: bool,
    /// It waits for its next turn among those that have more to read.
    pub(super) queued: bool,
    /// Everything of its view up to here has been given to the sink or lies in `unsent`. While the
    /// stream is live, the engine's position is meant instead and this one rests.
    pub(super) cursor: Position,
    /// It began after this position.
    pub(super) began: Position,
    /// While events wait in `unsent`: the last position before them.
    pub(super) whole: Position,
    /// It was told of everything that retention has removed up to here.
    pub(super) announced: Position,
    /// The last position that its client knows by an `id:`.
    pub(super) told: Position,
    /// The rest of what the sink took in part: less than one event, or the server's own words.
    pub(super) unsent: Unsent,
    /// How its bytes are coded; all members of its group agree.
    pub(super) coding: Coding,
    /// Of what it was sent, before it was coded; a gzip stream ends with it.
    pub(super) checksum: RunningChecksum,
    /// When the sink last took a byte.
    pub(super) last_write: Tick,
    /// The access token's end.
    pub(super) expires: Tick,
    /// The tick of its valid entry in the wheel.
    pub(super) scheduled: Tick,
    /// Bytes that the peer sent though a stream takes none.
    pub(super) discarded: u32,
    /// What is left of the snapshot that it is given.
    pub(super) snapshot: Option<Box<SnapshotReading>>,
    /// It gets a snapshot behind each gap.
    pub(super) wants_snapshot: bool,
    /// What it can do without while it is behind.
    pub(super) conflation: Option<Arc<Conflation>>,
    /// How many events it did without.
    pub(super) conflated: u64,
    pub(super) events_sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) opened: Instant,
    pub(super) ticket: Box<Ticket>,
}

/// The largest buffer, in bytes, that a thread keeps for the next words.
const LARGEST_SPARE: usize = 4096;

/// Bytes that wait for the sink.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    start: usize,
}

impl Unsent {
    /// One that is empty and grows in `buffer`.
    pub(super) fn within(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            bytes: buffer,
            start: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
    }
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// The sink took this many bytes and may take more.
    All,
    /// The sink took this many bytes, perhaps none or all, and will say when it takes more.
    Part(usize),
    /// The peer is gone.
    Failed(io::Error),
}

impl Stream {
    /// Gives bytes to the sink and notes the outcome in the record.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>], now: Tick) -> Written {
        loop {
            return match self.sink.write(parts) {
                Ok(Taken { bytes, full }) => {
                    self.bytes_sent += bytes as u64;
                    if bytes > 0 {
                        self.last_write = now;
                    }
                    if full {
                        self.blocked = true;
                        Written::Part(bytes)
                    } else {
                        Written::All
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    Written::Part(0)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Written::Failed(error),
            };
        }
    }

    /// Gives what is unsent to the sink. Idle streams keep no buffer: one that is done with is left in `spare`.
    pub(super) fn flush(&mut self, now: Tick, spare: &mut Vec<u8>) -> Written {
        if self.unsent.is_empty() {
            return Written::All;
        }
        let unsent = std::mem::take(&mut self.unsent);
        let written = self.write(&[IoSlice::new(unsent.rest())], now);
        self.unsent = unsent;
        let taken = match &written {
            Written::All => self.unsent.rest().len(),
            Written::Part(taken) => *taken,
            Written::Failed(_) => 0,
        };
        self.unsent.advance(taken);
        if self.unsent.is_empty() {
            self.whole = Position::MAX;
            let buffer = std::mem::take(&mut self.unsent).bytes;
            if buffer.capacity() <= LARGEST_SPARE {
                *spare = buffer;
            }
        }
        written
    }

    /// Appends words of the server's own to what waits for the sink.
    pub(super) fn say(&mut self, words: &[u8], coder: &mut Coder) {
        let checksum = coder.code(self.coding, words, &mut self.unsent.bytes);
        self.checksum.append(&checksum);
    }

    /// Appends what a coded stream ends with; nothing may be said afterwards.
    pub(super) fn end_coding(&mut self) {
        coding::write_end(self.coding, self.checksum, &mut self.unsent.bytes);
    }

    /// The position that all of its view was given to the sink up to, where live streams have been
    /// given everything up to `position`.
    pub(super) fn given(&self, position: Position) -> Position {
        let reached = match self.stage {
            Stage::Live => position,
            Stage::Snapshot | Stage::Behind | Stage::Waiting | Stage::Closing(_) => self.cursor,
        };
        reached.min(self.whole)
    }

    /// Whether it can be given more at once.
    pub(super) fn is_clear(&self) -> bool {
        !self.blocked && self.unsent.is_empty()
    }
}
