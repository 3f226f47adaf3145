//! Giving a stream the snapshot that it begins with, part by part.
//!
//! The snapshot shares the state's entries and lets go of them as it is given, so that it is nowhere a
//! second time; what is laid out for the wire is one part at a time.

use std::sync::Arc;

use tidings_log::{Log, StateEntries, StateEntry, StateError, StateSnapshot};
use tidings_protocol::Position;

use super::stream::Stage;
use super::thread::Thread;
use crate::cursors::Cursors;
use crate::fanout::view::EventFacts;
use crate::fanout::{TypeTable, View, snapshot};

/// A part is written when it has so many bytes. What of it the sink does not take waits in the record.
const PART: usize = 32 * 1024;

/// How many subjects are looked at for a part: a view that shows few must not hold up the others.
const LOOKED_AT: usize = 2048;

/// How many parts make up a turn.
const PARTS: usize = 4;

/// A snapshot that is being given.
#[derive(Debug)]
pub struct SnapshotReading {
    through: Position,
    left: StateEntries,
}

impl SnapshotReading {
    /// All of a snapshot is still to be given.
    #[must_use]
    pub fn new(snapshot: StateSnapshot) -> Self {
        Self {
            through: snapshot.through(),
            left: snapshot.into_entries(),
        }
    }

    /// The position that it is true at.
    #[must_use]
    pub fn through(&self) -> Position {
        self.through
    }

    /// Appends the next part to `wire`; whether it was the last.
    fn write_part(
        &mut self,
        wire: &mut Vec<u8>,
        view: &View,
        types: &TypeTable,
        log: &Log,
        cursors: &Cursors,
    ) -> bool {
        for _ in 0..LOOKED_AT {
            let Some(entry) = self.left.next() else {
                snapshot::write_snapshot_end(wire, &cursors.text(self.through));
                return true;
            };
            if shows(view, types, log, &entry) {
                snapshot::write_snapshot(wire, cursors.ids(), &entry);
                if wire.len() >= PART {
                    break;
                }
            }
        }
        false
    }
}

/// Whether a subject's last event belongs to a view, also if it was read before its tenant was purged.
#[must_use]
pub fn shows(view: &View, types: &TypeTable, log: &Log, entry: &StateEntry) -> bool {
    // Of whom was purged before the log was opened the state has nothing.
    let purged = log.purge_count() > 0 && log.is_purged(entry.tenant());
    !purged && view.allows(EventFacts::of(&entry.event(), types))
}

impl Thread {
    /// The state of what a stream shows, as it is now.
    pub(super) fn take_snapshot(&self, slot: usize) -> Result<SnapshotReading, StateError> {
        let scope = self.index.view(self.streams[slot].group).scope();
        let snapshot = self.pool.log().state().snapshot(scope)?;
        Ok(SnapshotReading::new(snapshot))
    }

    /// From now on the stream is given a snapshot, and then what comes after it.
    pub(super) fn begin_snapshot(&mut self, slot: usize, reading: SnapshotReading) {
        let stream = &mut self.streams[slot];
        stream.cursor = reading.through;
        stream.told = reading.through;
        stream.announced = reading.through;
        stream.snapshot = Some(Box::new(reading));
        stream.stage = Stage::Snapshot;
        self.queue_turn(slot);
    }

    /// Gives the stream as much of its snapshot as its sink and its turn go.
    pub(super) fn give_snapshot(&mut self, slot: usize) {
        let view = Arc::clone(self.index.view(self.streams[slot].group));
        let mut wire = Vec::with_capacity(PART * 9 / 8);
        for _ in 0..PARTS {
            let stream = &mut self.streams[slot];
            let Some(reading) = &mut stream.snapshot else {
                return;
            };
            wire.clear();
            let pool = &self.pool;
            let (types, log, cursors) = (pool.types(), pool.log(), pool.cursors());
            let ended = reading.write_part(&mut wire, &view, types, log, cursors);
            stream.say(&wire, &mut self.coder);
            if ended {
                stream.snapshot = None;
                stream.stage = Stage::Behind;
            }
            if !self.flush(slot) {
                return;
            }
            if ended {
                break;
            }
        }
        self.queue_turn(slot);
    }
}
