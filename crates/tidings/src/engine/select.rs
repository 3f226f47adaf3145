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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;
    use tidings_log::{
        EventRef, Health, Listener, Log, LogOptions, NewEvent, NewSubject, ReadLimit, Scope,
    };
    use tidings_protocol::{DeviceId, TenantId};

    use super::*;
    use crate::auth::Identity;
    use crate::cursors::EventIds;
    use crate::fanout::{BlockBuilder, ViewRequest};

    /// The last is not conflated.
    const TYPES: [&str; 3] = ["metric_update", "radio_update", "device_status"];

    struct NoListener;

    impl Listener for NoListener {
        fn committed(&mut self, _: &[EventRef<'_>]) {}
        fn health_changed(&mut self, _: &Health) {}
    }

    #[derive(Clone, Copy, Debug)]
    struct Sample {
        tenant: u8,
        event_type: usize,
        /// Its subject's, which can be of another kind than its type.
        kind: usize,
        key: Option<u8>,
        device: Option<u8>,
        ends: bool,
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let kind = prop_oneof![4 => Just(None), 1 => (0_usize..3).prop_map(Some)];
        let key = prop::option::weighted(0.9, 0_u8..3);
        let device = prop::option::weighted(0.8, 0_u8..2);
        (
            0_u8..2,
            0_usize..3,
            kind,
            key,
            device,
            prop::bool::weighted(0.1),
        )
            .prop_map(|(tenant, event_type, kind, key, device, ends)| Sample {
                tenant,
                event_type,
                kind: kind.unwrap_or(event_type),
                key,
                device,
                ends,
            })
    }

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn device(number: u8) -> DeviceId {
        format!("r{number}").parse().unwrap()
    }

    fn new_event(sample: &Sample) -> NewEvent {
        NewEvent {
            event_type: TYPES[sample.event_type].parse().unwrap(),
            device: sample.device.map(device),
            time: None,
            key: None,
            subject: sample.key.map(|key| NewSubject {
                kind: TYPES[sample.kind].parse().unwrap(),
                key: format!("key-{key}").parse().unwrap(),
                ends: sample.ends,
            }),
            origin: None,
            data: br#"{"some":"payload"}"#.to_vec(),
        }
    }

    /// A log that holds the samples, and its state, true at all of them.
    fn log_of(samples: &[Sample]) -> (Log, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::new(folder.path()), Box::new(NoListener)).unwrap();
        let (answer, answered) = std::sync::mpsc::channel();
        for sample in samples {
            let answer = answer.clone();
            let events = vec![new_event(sample)];
            let tell = Box::new(move |outcome| answer.send(outcome).unwrap());
            log.submit(tenant(sample.tenant), events, tell).unwrap();
        }
        for _ in samples {
            answered.recv().unwrap().unwrap();
        }
        let tail = log.tail();
        assert!(log.state().wait_through(tail, Duration::from_mins(1)));
        (log, folder)
    }

    /// The log in blocks of so many events.
    fn blocks_of(log: &Log, size: usize, types: &TypeTable) -> Vec<Arc<Block>> {
        let ids = Arc::new(EventIds::of_log(log.epoch()));
        let mut blocks = Vec::new();
        let mut after = 0;
        while after < log.tail() {
            let mut builder = BlockBuilder::new(&ids, after);
            let limit = ReadLimit {
                events: size,
                bytes: usize::MAX,
            };
            let mut visit = |event: EventRef<'_>| builder.push(&event, types);
            let end = log.read(Scope::All, after, limit, &mut visit).unwrap();
            after = end.examined_through;
            blocks.push(Arc::new(builder.finish(after)));
        }
        blocks
    }

    fn view(
        scope: Option<u8>,
        only: Option<usize>,
        devices: Option<u8>,
        types: &TypeTable,
    ) -> View {
        let identity = Identity {
            user: "u".into(),
            tenant: scope.map(tenant),
            role: "viewer".into(),
            super_admin: scope.is_none(),
            expires_at: i64::MAX,
            issued_at: None,
            token_id: None,
            devices: devices.map(|number| [device(number)].into()),
            types: None,
            device_group: None,
        };
        let request = ViewRequest {
            types: only.map(|kind| vec![TYPES[kind].to_owned()]),
            devices: None,
        };
        View::new(&identity, scope.map(tenant), &request, types)
    }

    /// What the window or the log would bring for a cursor.
    fn behind(blocks: &[Arc<Block>], cursor: Position) -> &[Arc<Block>] {
        &blocks[blocks.partition_point(|block| block.through() <= cursor)..]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the log, the view, and where writes end: what is left out is of a conflated type and
        /// has a successor in the view that is given; the rest comes whole, in order, once.
        #[test]
        fn what_is_left_out_has_a_later_one_and_nothing_else_is_lost(
            samples in prop::collection::vec(sample(), 1..120),
            size in 1_usize..40,
            room in 1_usize..2_000,
            scope in prop::option::of(0_u8..2),
            only in prop::option::of(0_usize..3),
            devices in prop::option::of(0_u8..2),
        ) {
            let types = TypeTable::default();
            let (log, _folder) = log_of(&samples);
            let blocks = blocks_of(&log, size, &types);
            let view = view(scope, only, devices, &types);
            let conflation = Conflation::new(&types, TYPES[..2].iter().copied());
            let (mut given, mut left_out) = (Vec::new(), Vec::new());
            let mut cursor = 0;
            while cursor < log.tail() {
                let reading = Reading {
                    view: &view,
                    cursor,
                    until: log.tail(),
                    room,
                    thinning: Some(Thinning { conflation: &conflation, state: log.state(), types: &types }),
                };
                let ahead = behind(&blocks, cursor);
                let selection = select(&reading, ahead);
                prop_assert!(selection.through > cursor, "each turn gets on");
                for (number, run) in &selection.runs {
                    given.extend(run.events.clone().map(|event| ahead[*number].position(event)));
                }
                left_out.extend(selection.left_out);
                cursor = selection.through;
            }
            // The plain selection is proven elsewhere; what conflation made of it is judged by the samples.
            let plain = Reading { view: &view, cursor: 0, until: log.tail(), room: usize::MAX, thinning: None };
            let mut of_view = BTreeSet::new();
            let mut after = 0;
            while after < log.tail() {
                let ahead = behind(&blocks, after);
                let selection = select(&Reading { cursor: after, ..plain }, ahead);
                for (number, run) in &selection.runs {
                    of_view.extend(run.events.clone().map(|event| ahead[*number].position(event)));
                }
                after = selection.through;
            }
            let sample_at = |position: Position| samples[usize::try_from(position).unwrap() - 1];
            let mut both: Vec<Position> = given.iter().chain(&left_out).copied().collect();
            both.sort_unstable();
            prop_assert!(given.is_sorted_by(|one, other| one < other));
            prop_assert!(both.iter().eq(&of_view), "{:?} is not {:?}", both, of_view);
            let mut last = BTreeMap::new();
            for &position in &of_view {
                let Sample { tenant, event_type, kind, key, device, .. } = sample_at(position);
                last.insert((tenant, event_type, kind, key, device), position);
            }
            for position in left_out {
                let Sample { tenant, event_type, kind, key, device, .. } = sample_at(position);
                prop_assert!(event_type < 2 && key.is_some());
                prop_assert!(last[&(tenant, event_type, kind, key, device)] > position);
            }
            for position in last.into_values() {
                prop_assert!(given.binary_search(&position).is_ok(), "the last of its subject: {}", position);
            }
        }
    }
}
