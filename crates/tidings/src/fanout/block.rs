//! Blocks: consecutive events of the log in their wire form.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tidings_log::{EventRef, Subject};
use tidings_protocol::{Position, TenantId};

use super::types::{TypeId, TypeTable};
use super::view::{EventFacts, View, visible_type};
use crate::cursors::EventIds;

/// Above this size a block is closed and the next begun, so that what a reader pins stays small.
pub(super) const FULL: usize = 256 * 1024;

/// What is known of one event of a block.
#[derive(Clone, Copy, Debug)]
struct BlockEvent {
    position: Position,
    tenant: TenantId,
    /// Where its device's name stands, and behind it its subject's key.
    names_start: u32,
    /// Where its bytes end; they begin where those of the event before end.
    end: u32,
    /// [`SAME`] where the key is the device's name.
    subject_length: u16,
    kind: TypeId,
    /// 0 where the event has no device.
    device_length: u8,
    /// Among the block's; [`NO_SUBJECT`] where the event has none.
    subject_kind: u8,
}

/// The subject's key is the device's name, as with most statuses, and is not stored twice.
const SAME: u16 = u16::MAX;

/// The event has no subject, or one of the 256th kind that the block meets: nothing tells then that it was
/// superseded, so it is sent.
const NO_SUBJECT: u8 = u8::MAX;

/// Events of the log in their wire form, all that there are in `(after, through]` of a scope.
#[derive(Debug)]
pub struct Block {
    after: Position,
    through: Position,
    /// The tenant of all events, if they have one in common.
    only_tenant: Option<TenantId>,
    /// When the log was given the oldest of them, where they have only just become durable.
    submitted: Option<Instant>,
    bytes: Box<[u8]>,
    /// Of devices and subjects.
    names: Box<str>,
    subject_kinds: Box<[Box<str>]>,
    events: Box<[BlockEvent]>,
}

/// A run of a block's events that stand side by side on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Indexes of the events.
    pub events: Range<usize>,
    /// Their bytes in the block.
    pub bytes: Range<usize>,
}

impl Block {
    /// The position that the block begins after.
    #[must_use]
    pub fn after(&self) -> Position {
        self.after
    }

    /// The last position that the block speaks for.
    #[must_use]
    pub fn through(&self) -> Position {
        self.through
    }

    /// Says when the log was given the oldest event.
    #[must_use]
    pub fn submitted_at(self, submitted: Option<Instant>) -> Self {
        Self { submitted, ..self }
    }

    /// When the log was given the oldest event, where they have only just become durable.
    #[must_use]
    pub fn submitted(&self) -> Option<Instant> {
        self.submitted
    }

    /// What the block takes in memory, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + self.bytes.len()
            + self.names.len()
            + self.events.len() * size_of::<BlockEvent>()
    }

    /// How many events the block holds.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// The position of the event at `index`.
    #[must_use]
    pub fn position(&self, index: usize) -> Position {
        self.events[index].position
    }

    /// What decides who may see the event at `index`.
    #[must_use]
    pub fn facts(&self, index: usize) -> EventFacts<'_> {
        let event = &self.events[index];
        let device = (event.device_length > 0).then(|| {
            let start = event.names_start as usize;
            &self.names[start..start + usize::from(event.device_length)]
        });
        EventFacts {
            tenant: event.tenant,
            kind: event.kind,
            device,
        }
    }

    /// What the event at `index` is the latest state of, or was when it was published.
    #[must_use]
    pub fn subject(&self, index: usize) -> Option<(&str, &str)> {
        let event = &self.events[index];
        let kind = self.subject_kinds.get(usize::from(event.subject_kind))?;
        let start = event.names_start as usize;
        let behind = start + usize::from(event.device_length);
        let key = if event.subject_length == SAME {
            start..behind
        } else {
            behind..behind + usize::from(event.subject_length)
        };
        Some((kind, &self.names[key]))
    }

    /// The bytes of the block.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where in the bytes the event at `index` stands.
    #[must_use]
    pub fn extent(&self, index: usize) -> Range<usize> {
        let start = if index == 0 {
            0
        } else {
            self.events[index - 1].end as usize
        };
        start..self.events[index].end as usize
    }

    /// The index of the event that the byte at `offset` belongs to; the number of events for one behind them.
    #[must_use]
    pub fn event_at(&self, offset: usize) -> usize {
        self.events
            .partition_point(|event| event.end as usize <= offset)
    }

    /// The index of the first event after `position`.
    #[must_use]
    pub fn first_after(&self, position: Position) -> usize {
        self.events
            .partition_point(|event| event.position <= position)
    }

    /// The next run of events that belong to `view`, at or behind the event at `from`, of at most
    /// `limit` bytes but at least one event.
    #[must_use]
    pub fn next_run(&self, view: &View, from: usize, limit: usize) -> Option<Run> {
        let count = self.events.len();
        let whole = view.is_whole_scope()
            && match view.scope() {
                tidings_log::Scope::All => true,
                tidings_log::Scope::Tenant(tenant) => self.only_tenant == Some(tenant),
            };
        let first = if whole {
            from
        } else {
            (from..count).find(|&index| view.allows(self.facts(index)))?
        };
        if first >= count {
            return None;
        }
        let start = self.extent(first).start;
        let within = |index: usize| self.events[index].end as usize - start <= limit;
        let end = if whole {
            // Ends ascend, so the last that fits is found without looking at each.
            let fitting = self.events[first..]
                .partition_point(|event| (event.end as usize).saturating_sub(start) <= limit);
            first + fitting.max(1)
        } else {
            (first + 1..count)
                .find(|&index| !within(index) || !view.allows(self.facts(index)))
                .unwrap_or(count)
        };
        Some(Run {
            events: first..end,
            bytes: start..self.events[end - 1].end as usize,
        })
    }
}

/// Encodes events into a [`Block`].
#[derive(Debug)]
pub struct BlockBuilder {
    ids: Arc<EventIds>,
    after: Position,
    /// The types of the events so far, a handful: asking the table for each event would cost more
    /// than all else here.
    types_seen: Vec<(Box<str>, TypeId)>,
    bytes: Vec<u8>,
    names: String,
    subject_kinds: Vec<Box<str>>,
    events: Vec<BlockEvent>,
}

impl BlockBuilder {
    /// An empty block that begins after a position.
    #[must_use]
    pub fn new(ids: &Arc<EventIds>, after: Position) -> Self {
        Self {
            ids: Arc::clone(ids),
            after,
            types_seen: Vec::new(),
            bytes: Vec::new(),
            names: String::new(),
            subject_kinds: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The same with room for so many bytes, where it is known that they come.
    #[must_use]
    pub fn with_capacity(ids: &Arc<EventIds>, after: Position, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ..Self::new(ids, after)
        }
    }

    /// Whether it holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether the block has reached its size.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Adds an event, which must lie behind those added before.
    ///
    /// # Panics
    ///
    /// When the block outgrows 4 GiB, which [`Self::is_full`] is there to prevent.
    pub fn push(&mut self, event: &EventRef<'_>, types: &TypeTable) {
        self.ids.write(&mut self.bytes, event);
        let kind = self.kind(visible_type(event), types);
        let device = event.device.unwrap_or_default();
        let names_start = u32::try_from(self.names.len()).expect("a block stays far below 4 GiB");
        self.names.push_str(device);
        let (subject_kind, subject_length) = match event.subject {
            Some(subject) => self.subject(subject, device),
            None => (NO_SUBJECT, 0),
        };
        self.events.push(BlockEvent {
            position: event.position,
            tenant: event.tenant,
            names_start,
            end: u32::try_from(self.bytes.len()).expect("a block stays far below 4 GiB"),
            subject_length,
            kind,
            device_length: u8::try_from(device.len()).expect("a device id has at most 128 bytes"),
            subject_kind,
        });
    }

    /// Notes a subject behind its event's device. Gives the place of its kind and the length of its key.
    fn subject(&mut self, subject: Subject<'_>, device: &str) -> (u8, u16) {
        let place = self
            .subject_kinds
            .iter()
            .position(|kind| **kind == *subject.kind)
            .unwrap_or_else(|| {
                self.subject_kinds.push(subject.kind.into());
                self.subject_kinds.len() - 1
            });
        let kind = u8::try_from(place).unwrap_or(NO_SUBJECT);
        if subject.key == device {
            return (kind, SAME);
        }
        self.names.push_str(subject.key);
        let length = u16::try_from(subject.key.len()).expect("a key has at most 512 bytes");
        (kind, length)
    }

    fn kind(&mut self, name: &str, types: &TypeTable) -> TypeId {
        if let Some((_, number)) = self.types_seen.iter().find(|(seen, _)| **seen == *name) {
            return *number;
        }
        let number = types.number(name);
        self.types_seen.push((name.into(), number));
        number
    }

    /// The block, which speaks for all positions up to `through`.
    #[must_use]
    pub fn finish(self, through: Position) -> Block {
        let first = self.events.first().map(|event| event.tenant);
        let only_tenant =
            first.filter(|tenant| self.events.iter().all(|event| event.tenant == *tenant));
        Block {
            after: self.after,
            through,
            only_tenant,
            submitted: None,
            bytes: self.bytes.into_boxed_slice(),
            names: self.names.into_boxed_str(),
            subject_kinds: self
                .subject_kinds
                .into_iter()
                .take(NO_SUBJECT.into())
                .collect(),
            events: self.events.into_boxed_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tidings_log::Subject;
    use tidings_protocol::{DeviceId, Epoch, EventType};

    use super::*;
    use crate::auth::Identity;
    use crate::fanout::ViewRequest;

    const TYPES: [&str; 3] = ["device_status", "metric_update", "alert_fired"];

    #[derive(Clone, Debug)]
    struct Sample {
        tenant: u8,
        kind: usize,
        device: Option<u8>,
        size: usize,
        ends: Ends,
    }

    /// Whether an event takes a subject away, and under which name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Ends {
        No,
        /// By an event of its own type that ends a subject of this kind.
        ByItself(usize),
        /// By the server's own event, which is judged as the subject's events are.
        Removed,
    }

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn device(number: u8) -> DeviceId {
        format!("device-{number}").parse().unwrap()
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let sample = (
            0_u8..3,
            0_usize..3,
            proptest::option::of(0_u8..4),
            2_usize..200,
            prop_oneof![
                2 => Just(Ends::No),
                1 => (0_usize..3).prop_map(Ends::ByItself),
                1 => Just(Ends::Removed),
            ],
        )
            .prop_map(|(tenant, kind, device, size, ends)| Sample {
                tenant,
                kind,
                device,
                size,
                ends,
            });
        proptest::collection::vec(sample, 0..60)
    }

    /// Kind and key; statuses are about their device.
    fn subject_of(sample: &Sample) -> Option<(String, String)> {
        match sample.ends {
            Ends::No if sample.kind == 0 => sample
                .device
                .map(|number| (TYPES[0].to_owned(), device(number).to_string())),
            Ends::No => None,
            Ends::ByItself(kind) => Some((TYPES[kind].to_owned(), "s".to_owned())),
            Ends::Removed => Some((TYPES[sample.kind].to_owned(), "s".to_owned())),
        }
    }

    /// The block, and of each event what the history judges it by, apart from the device.
    fn encode(samples: &[Sample], types: &TypeTable) -> (Block, Vec<EventFacts<'static>>) {
        let mut judged = Vec::new();
        let mut builder = BlockBuilder::new(&Arc::new(EventIds::of_log(Epoch(7))), 100);
        for (position, sample) in (101..).zip(samples) {
            let id = sample.device.map(device);
            let data = vec![b'x'; sample.size];
            let event_type = match sample.ends {
                Ends::No | Ends::ByItself(_) => TYPES[sample.kind],
                Ends::Removed => "removed",
            };
            let subject = subject_of(sample);
            let event = EventRef {
                position,
                appended_at: 0,
                time: None,
                tenant: tenant(sample.tenant),
                event_type,
                device: id.as_ref().map(DeviceId::as_str),
                subject: subject.as_ref().map(|(kind, key)| Subject {
                    kind,
                    key,
                    ends: sample.ends != Ends::No,
                }),
                origin: None,
                data: &data,
            };
            builder.push(&event, types);
            judged.push(EventFacts {
                device: None,
                ..EventFacts::of(&event, types)
            });
        }
        (builder.finish(100 + samples.len() as u64), judged)
    }

    /// Types and devices, of the claims or of the filters.
    type Rules = (Option<Vec<usize>>, Option<Vec<u8>>);

    /// The rule of who sees what, written again in the plainest way.
    fn may_see(sample: &Sample, scope: Option<u8>, rules: &[Rules; 2]) -> bool {
        scope.is_none_or(|tenant| tenant == sample.tenant)
            && rules.iter().all(|(types, devices)| {
                types
                    .as_ref()
                    .is_none_or(|types| types.contains(&sample.kind))
                    && devices.as_ref().is_none_or(|devices| {
                        sample
                            .device
                            .is_some_and(|device| devices.contains(&device))
                    })
            })
    }

    fn rules() -> impl Strategy<Value = Rules> {
        (
            proptest::option::of(proptest::collection::vec(0_usize..3, 0..3)),
            proptest::option::of(proptest::collection::vec(0_u8..5, 0..3)),
        )
    }

    proptest! {
        /// Live delivery and replay select by runs; together they are exactly what the claims and
        /// the filters allow, in order, byte for byte, whatever the limits of a write.
        #[test]
        fn runs_are_exactly_what_the_view_allows(
            samples in samples(),
            scope in proptest::option::of(0_u8..3),
            claims in rules(),
            // A group may be named, and what is named may exist.
            group in proptest::option::of(proptest::option::of(proptest::collection::vec(0_u8..5, 0..4))),
            filters in rules(),
            limit in 1_usize..600,
        ) {
            let types = TypeTable::default();
            let (block, judged) = encode(&samples, &types);
            let identity = Identity {
                user: "u".into(),
                tenant: scope.map(tenant),
                role: "viewer".into(),
                super_admin: scope.is_none(),
                expires_at: i64::MAX,
                issued_at: None,
                token_id: None,
                devices: claims.1.as_ref().map(|list| list.iter().map(|&number| device(number)).collect()),
                types: claims.0.as_ref().map(|list| {
                    list.iter().map(|&kind| TYPES[kind].parse::<EventType>().unwrap()).collect::<Arc<[_]>>()
                }),
                device_group: group.is_some().then(|| "core".into()),
            };
            let members: Option<Vec<DeviceId>> =
                group.clone().flatten().map(|list| list.into_iter().map(device).collect());
            let request = ViewRequest {
                types: filters.0.as_ref().map(|list| list.iter().map(|&kind| TYPES[kind].to_owned()).collect()),
                devices: filters.1.as_ref().map(|list| list.iter().map(|&number| device(number)).collect()),
            };
            let rules = crate::fanout::Rules::new(
                Arc::new(identity),
                scope.map(tenant),
                members.map(Arc::from),
                request,
            );
            let view = rules.view(&types);

            for (index, judged) in judged.into_iter().enumerate() {
                prop_assert_eq!(EventFacts { device: None, ..block.facts(index) }, judged);
            }
            for (index, sample) in samples.iter().enumerate() {
                let kept = block.subject(index).map(|(kind, key)| (kind.to_owned(), key.to_owned()));
                prop_assert_eq!(kept, subject_of(sample));
            }
            let mut seen = Vec::new();
            let mut wire = Vec::new();
            let mut next = 0;
            while let Some(run) = block.next_run(&view, next, limit) {
                prop_assert!(run.events.len() == 1 || run.bytes.len() <= limit);
                wire.extend_from_slice(&block.bytes()[run.bytes.clone()]);
                seen.extend(run.events.clone());
                next = run.events.end;
            }
            let of_group = group.map(Option::unwrap_or_default);
            let claimed_devices = match (claims.1, of_group) {
                (listed, None) => listed,
                (listed, Some(members)) => Some([listed.unwrap_or_default(), members].concat()),
            };
            let rules = [(claims.0, claimed_devices), filters];
            let expected: Vec<usize> = (0..samples.len())
                .filter(|&index| may_see(&samples[index], scope, &rules))
                .collect();
            prop_assert_eq!(&seen, &expected);
            let expected_wire: Vec<u8> =
                expected.iter().flat_map(|&index| block.bytes()[block.extent(index)].to_vec()).collect();
            prop_assert_eq!(wire, expected_wire);
        }
    }
}
