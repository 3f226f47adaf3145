//! Which event comes next: of several sources the oldest, as far as they are known.
//!
//! While sources are being caught up with, one is waited for before another goes on, so that nodes that begin
//! at different times merge alike, or nearly so. Nothing depends on it: cursors hold whatever the order.

use std::collections::VecDeque;

use crate::jetstream::SourceMessage;

/// The sources' events that were not copied yet.
#[derive(Debug)]
pub(super) struct Merge {
    lanes: Vec<Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<SourceMessage>,
    /// What is to be noted when the messages are gone.
    through: Option<u64>,
    /// Nothing more is known to come, or it is not known whether: the others don't wait for it.
    at_end: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Copy this event of this source.
    Copy(usize, SourceMessage),
    /// Note that everything of this source up to this sequence is done with.
    Note(usize, u64),
    /// More of some source must come first.
    Wait,
}

impl Merge {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            lanes: (0..sources).map(|_| Lane::default()).collect(),
        }
    }

    /// Whether a source has nothing left here, so that more of it can be taken.
    pub(super) fn wants(&self, source: usize) -> bool {
        let lane = &self.lanes[source];
        lane.messages.is_empty() && lane.through.is_none()
    }

    /// Takes what a source has brought. `at_end`: it had nothing more then.
    pub(super) fn put(
        &mut self,
        source: usize,
        messages: Vec<SourceMessage>,
        through: u64,
        at_end: bool,
    ) {
        let lane = &mut self.lanes[source];
        debug_assert!(lane.messages.is_empty() && lane.through.is_none());
        lane.messages = messages.into();
        lane.through = Some(through);
        lane.at_end = at_end;
    }

    /// Whether a source had nothing more when it last brought something.
    pub(super) fn is_at_end(&self, source: usize) -> bool {
        self.lanes[source].at_end
    }

    /// Whether the others are to wait for a source.
    pub(super) fn set_at_end(&mut self, source: usize, at_end: bool) {
        self.lanes[source].at_end = at_end;
    }

    pub(super) fn next(&mut self) -> Next {
        for (source, lane) in self.lanes.iter_mut().enumerate() {
            if lane.messages.is_empty()
                && let Some(through) = lane.through.take()
            {
                return Next::Note(source, through);
            }
        }
        let unknown = |lane: &Lane| lane.messages.is_empty() && !lane.at_end;
        if self.lanes.iter().any(unknown) {
            return Next::Wait;
        }
        let heads = self.lanes.iter_mut().enumerate();
        let oldest = heads
            .filter_map(|(source, lane)| {
                let at = lane.messages.front()?.stored_at;
                Some((at, source, lane))
            })
            .min_by_key(|(at, source, _)| (*at, *source));
        match oldest.and_then(|(_, source, lane)| Some((source, lane.messages.pop_front()?))) {
            Some((source, message)) => Next::Copy(source, message),
            None => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidings_log::NewEvent;
    use tidings_protocol::TenantId;

    use super::*;

    fn message(sequence: u64, stored_at: i64) -> SourceMessage {
        SourceMessage {
            sequence,
            stored_at,
            tenant: TenantId::from_bytes([1; 16]),
            event: NewEvent {
                event_type: "device_status".parse().unwrap(),
                device: None,
                time: None,
                key: None,
                subject: None,
                origin: None,
                data: Vec::new(),
            },
        }
    }

    fn drain(merge: &mut Merge) -> Vec<(usize, u64, bool)> {
        let mut steps = Vec::new();
        loop {
            match merge.next() {
                Next::Copy(source, message) => steps.push((source, message.sequence, true)),
                Next::Note(source, through) => steps.push((source, through, false)),
                Next::Wait => return steps,
            }
        }
    }

    #[test]
    fn the_oldest_goes_first_and_a_source_that_is_behind_is_waited_for() {
        let mut merge = Merge::new(2);
        merge.put(0, vec![message(1, 10), message(2, 30)], 2, false);
        assert_eq!(drain(&mut merge), []);
        assert!(merge.wants(1) && !merge.wants(0));
        merge.put(1, vec![message(1, 20)], 5, false);
        // What comes of the second after 20 can be older than 30.
        assert_eq!(
            drain(&mut merge),
            [(0, 1, true), (1, 1, true), (1, 5, false)]
        );
        merge.put(1, Vec::new(), 6, true);
        let rest = [(1, 6, false), (0, 2, true), (0, 2, false)];
        assert_eq!(drain(&mut merge), rest);
    }

    #[test]
    fn nobody_waits_for_a_source_at_its_end() {
        let mut merge = Merge::new(3);
        merge.set_at_end(1, true);
        merge.set_at_end(2, true);
        merge.put(0, vec![message(7, 10)], 7, true);
        assert_eq!(drain(&mut merge), [(0, 7, true), (0, 7, false)]);
        // One that comes back is waited for again.
        merge.set_at_end(1, false);
        merge.put(0, vec![message(8, 10)], 8, true);
        assert_eq!(drain(&mut merge), []);
    }
}
