//! What an engine thread counts of its own work.
//!
//! The thread alone writes, whoever scrapes reads. What is counted for each write goes into plain numbers
//! ([`Tally`]) first, so that the way of a delivery has no atomic in it.

use super::coding::Coding;
use super::lifecycle::End;
use super::sink::Sink;
use super::stream::Stage;
use super::thread::Thread;
use super::wheel::Tick;
use crate::metrics::GapCounts;
use crate::metrics::count::{Counter, Gauge, Histogram};
use crate::metrics::declared;

/// How a stream is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection of its own, over HTTP/1.
    Http1,
    /// One stream of a connection, over HTTP/2.
    Http2,
}

impl Transport {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The word in the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }

    pub(super) const fn of(sink: &Sink) -> Self {
        match sink {
            Sink::Socket(_) | Sink::Tls(_) => Self::Http1,
            Sink::Body(_) => Self::Http2,
        }
    }
}

/// The counts of one engine thread.
#[derive(Debug)]
pub struct EngineCounters {
    /// By transport and coding.
    open: [[Gauge; Coding::ALL.len()]; Transport::ALL.len()],
    /// By the place of the end in [`End::ALL`].
    closed: [Counter; End::ALL.len()],
    /// Events that streams were given.
    pub deliveries: Counter,
    /// Bytes that connections took.
    pub bytes: Counter,
    /// Signs of life.
    pub heartbeats: Counter,
    /// Streams that had to leave the tail.
    pub lapses: Counter,
    /// How often the window had left the thread behind.
    pub overtaken: Counter,
    /// Events that conflation left out.
    pub conflated: Counter,
    /// Gaps that open streams were told of.
    pub gaps: GapCounts,
    /// Streams that are behind, as of the last survey.
    pub lagging: Gauge,
    /// How far the farthest is, in positions, as of the last survey.
    pub farthest: Gauge,
    /// From when the log was given events until the last stream had them.
    pub publish_to_write: Histogram,
}

impl Default for EngineCounters {
    fn default() -> Self {
        Self {
            open: Default::default(),
            closed: Default::default(),
            deliveries: Counter::default(),
            bytes: Counter::default(),
            heartbeats: Counter::default(),
            lapses: Counter::default(),
            overtaken: Counter::default(),
            conflated: Counter::default(),
            gaps: GapCounts::default(),
            lagging: Gauge::default(),
            farthest: Gauge::default(),
            publish_to_write: Histogram::new(&declared::PUBLISH_TO_WRITE),
        }
    }
}

impl EngineCounters {
    /// How many streams are open of one kind.
    #[must_use]
    pub fn open(&self, transport: Transport, coding: Coding) -> &Gauge {
        &self.open[transport as usize][coding as usize]
    }

    /// How many streams have ended, by reason.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reasons = End::ALL.iter().map(|end| end.as_str());
        reasons.zip(self.closed.iter().map(Counter::get))
    }

    pub(super) fn count_end(&self, end: End) {
        if let Some(place) = End::ALL.iter().position(|known| *known == end) {
            self.closed[place].add(1);
        }
    }
}

/// What was given to streams and is not in the counters yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Tally {
    /// Adds what has come to a stream since its record had these numbers.
    pub(super) fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// How many slots are looked at in a tick, to find out who lags.
const SURVEYED: usize = 1024;

/// A look at all streams, a part of them in each tick.
#[derive(Debug, Default)]
pub(super) struct Survey {
    at: Tick,
    next: usize,
    lagging: u64,
    farthest: u64,
}

impl Thread {
    /// Puts the tally into the counters. Called once in each turn of the loop.
    pub(super) fn publish_counts(&mut self) {
        let counters = &self.mailbox.counters;
        if self.tally.bytes > 0 || self.tally.events > 0 {
            counters.deliveries.add(self.tally.events);
            counters.bytes.add(self.tally.bytes);
            self.tally = Tally::default();
        }
        self.survey();
    }

    fn survey(&mut self) {
        if self.streams.is_empty() {
            // It sleeps now, perhaps for long.
            self.survey = Survey::default();
            self.mailbox.counters.lagging.set(0);
            self.mailbox.counters.farthest.set(0);
            return;
        }
        if self.survey.at == self.now {
            return;
        }
        let tail = self.window.tail();
        let behind = (self.survey.next + SURVEYED).min(self.streams.capacity());
        for slot in self.survey.next..behind {
            let Some(stream) = self.streams.get(slot) else {
                continue;
            };
            match stream.stage {
                Stage::Closing(_) => continue,
                Stage::Live => {}
                Stage::Snapshot | Stage::Behind | Stage::Waiting => self.survey.lagging += 1,
            }
            let lag = tail.saturating_sub(stream.given(self.position));
            self.survey.farthest = self.survey.farthest.max(lag);
        }
        self.survey.at = self.now;
        self.survey.next = behind;
        if behind >= self.streams.capacity() {
            self.mailbox.counters.lagging.set(self.survey.lagging);
            self.mailbox.counters.farthest.set(self.survey.farthest);
            self.survey = Survey {
                at: self.now,
                ..Survey::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_transport_and_a_coding_is_its_place() {
        for (place, transport) in Transport::ALL.into_iter().enumerate() {
            assert_eq!(transport as usize, place);
        }
        for (place, coding) in Coding::ALL.into_iter().enumerate() {
            assert_eq!(coding as usize, place);
        }
    }

    #[test]
    fn every_end_is_counted_under_its_own_reason() {
        let counters = EngineCounters::default();
        for end in End::ALL {
            counters.count_end(end);
        }
        let mut reasons = std::collections::HashSet::new();
        for (reason, count) in counters.closed() {
            assert_eq!(count, 1, "{reason}");
            assert!(reasons.insert(reason), "{reason}");
        }
        assert_eq!(reasons.len(), End::ALL.len());
    }
}
