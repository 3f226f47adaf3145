//! What a stream behind the tail is given next, of the blocks at hand.

use std::sync::Arc;

use tidings_log::State;
use tidings_protocol::Position;

use super::coding::Checksum;
use super::deliver::Piece;
use crate::fanout::block::Run;
use crate::fanout::{Block, Conflation, TypeTable, View};

/// How many runs of events go into one write.
const MAX_PARTS: usize = 64;

/// How many events are looked up in the state in one turn, of a stream that may be given less.
const MAX_LOOKUPS: usize = 1024;

/// What a view has in some blocks.
pub(super) struct Selection {
    /// Indexes of blocks, and runs in them.
    pub(super) runs: Vec<(usize, Run)>,
    /// Everything of the view up to here is in the runs, or was left out.
    pub(super) through: Position,
    /// The events that were left out since a later one supersedes them; ascending.
    pub(super) left_out: Vec<Position>,
}

/// What a stream reads.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) view: &'a View,
    /// What comes after this position...
    pub(super) cursor: Position,
    /// ...up to this one. It is what live streams were given: a stream that got more here would get it
    /// twice.
    pub(super) until: Position,
    /// At most about so many bytes.
    pub(super) room: usize,
    /// What it can do without.
    pub(super) thinning: Option<Thinning<'a>>,
}

/// Leaves out what is superseded.
#[derive(Clone, Copy)]
pub(super) struct Thinning<'a> {
    pub(super) conflation: &'a Conflation,
    pub(super) state: &'a State,
    pub(super) types: &'a TypeTable,
}

/// Selects what is to be read, bounded by the room, [`MAX_PARTS`] and [`MAX_LOOKUPS`].
pub(super) fn select(reading: &Reading<'_>, blocks: &[Arc<Block>]) -> Selection {
    let mut selection = Selection {
        runs: Vec::new(),
        through: reading.cursor,
        left_out: Vec::new(),
    };
    let mut room = reading.room;
    let mut lookups = MAX_LOOKUPS;
    for (number, block) in blocks.iter().enumerate() {
        let mut next = block.first_after(selection.through);
        while let Some(run) = block.next_run(reading.view, next, room) {
            if block.position(run.events.end - 1) > reading.until {
                // Blocks end where the engine has handed out, so this is a chunk that overlaps the
                // tail; the rest comes live.
                break;
            }
            let first = selection.runs.len();
            next = match &reading.thinning {
                None => {
                    let end = run.events.end;
                    selection.runs.push((number, run));
                    end
                }
                Some(thinning) => thinning.thin(&mut selection, number, block, &run, &mut lookups),
            };
            selection.through = block.position(next - 1);
            let taken = selection.runs[first..]
                .iter()
                .map(|(_, run)| run.bytes.len());
            room = room.saturating_sub(taken.sum());
            if room == 0 || lookups == 0 || selection.runs.len() >= MAX_PARTS {
                return selection;
            }
        }
        selection.through = block.through().min(reading.until);
    }
    selection
}

impl Thinning<'_> {
    /// Adds what of a run is not superseded. Gives the first event that was not looked at.
    fn thin(
        &self,
        selection: &mut Selection,
        number: usize,
        block: &Block,
        run: &Run,
        lookups: &mut usize,
    ) -> usize {
        let mut start = run.events.start;
        let mut index = start;
        while index < run.events.end && *lookups > 0 && selection.runs.len() < MAX_PARTS {
            if self.conflation.is_of(block.facts(index).kind) {
                *lookups -= 1;
                if self
                    .conflation
                    .supersedes(block, index, self.state, self.types)
                {
                    push(&mut selection.runs, number, block, start..index);
                    selection.left_out.push(block.position(index));
                    start = index + 1;
                }
            }
            index += 1;
        }
        push(&mut selection.runs, number, block, start..index);
        index
    }
}

fn push(
    runs: &mut Vec<(usize, Run)>,
    number: usize,
    block: &Block,
    events: std::ops::Range<usize>,
) {
    if events.is_empty() {
        return;
    }
    let bytes = block.extent(events.start).start..block.extent(events.end - 1).end;
    runs.push((number, Run { events, bytes }));
}

/// The events of a run as pieces; their ends count from the run's begin.
pub(super) fn pieces_of(block: &Block, run: &Run) -> Vec<Piece> {
    run.events
        .clone()
        .map(|event| Piece {
            position: block.position(event),
            end: block.extent(event).end - run.bytes.start,
            events: 1,
            checksum: Checksum::EMPTY,
        })
        .collect()
}
