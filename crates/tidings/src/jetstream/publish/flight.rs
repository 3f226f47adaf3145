//! The messages that were sent and are not all acknowledged, in the order in which they were sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tidings_protocol::TenantId;
use tokio::time::Instant;

/// How many messages may be on their way, however slow the broker.
const SURE_MESSAGES: usize = 2_048;

/// How many may be while it answers quickly. A broker works in turns of several milliseconds, in which it stores a thousand
/// messages and answers none: what is on its way must outlast some of them.
const MESSAGES: usize = 16_384;

/// It answers quickly while no answer is due for longer than this: well before one is overdue.
const QUICK: Duration = Duration::from_millis(250);

/// How many bytes may be on their way, unless one message has more.
const BYTES: usize = 8 << 20;

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) body: u64,
    pub(super) index: usize,
    pub(super) tenant: TenantId,
    pub(super) bytes: usize,
    pub(super) sent_at: Instant,
}

/// The window of messages on their way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// The number of the first place.
    base: u64,
    places: VecDeque<(Flight, Landing)>,
    bytes: usize,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// Nothing.
    Open,
    /// It was stored now.
    Stored,
    /// It was answered with something else, so it took no new place in the stream.
    Answered,
}

/// What is left when nothing more is waited for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Events to send again, by tenant, in order: body and index.
    pub(super) again: HashMap<TenantId, VecDeque<(u64, usize)>>,
    /// All events that are not known to be stored: body and index.
    pub(super) unanswered: Vec<(u64, usize)>,
    /// Bodies with an event that is not stored although a later one of its tenant is.
    pub(super) torn: HashSet<u64>,
}

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether another message may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < BYTES
            && (self.places.len() < SURE_MESSAGES
                || self.places.len() < MESSAGES
                    && self
                        .oldest()
                        .is_some_and(|sent_at| sent_at.elapsed() < QUICK))
    }

    /// When the oldest message that is not answered was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.places.front().map(|(flight, _)| flight.sent_at)
    }

    /// Adds a message; gives its number.
    pub(super) fn push(&mut self, flight: Flight) -> u64 {
        self.bytes += flight.bytes;
        self.places.push_back((flight, Landing::Open));
        self.base + self.places.len() as u64 - 1
    }

    /// Notes what became of a message; gives it back the first time, while it is waited for.
    pub(super) fn land(&mut self, number: u64, landing: Landing) -> Option<Flight> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let (flight, known) = self.places.get_mut(index)?;
        if *known != Landing::Open {
            return None;
        }
        *known = landing;
        let flight = *flight;
        while let Some((first, Landing::Stored | Landing::Answered)) = self.places.front() {
            self.bytes -= first.bytes;
            self.places.pop_front();
            self.base += 1;
        }
        Some(flight)
    }

    /// Gives up waiting. Whoever was not answered is lost; of those `refused` by the broker for now, it is
    /// known.
    pub(super) fn give_up(&mut self, refused: &HashSet<(u64, usize)>) -> Lost {
        let mut lost = Lost::default();
        for (flight, landing) in &self.places {
            let event = (flight.body, flight.index);
            let again = lost.again.entry(flight.tenant).or_default();
            match landing {
                Landing::Open => again.push_back(event),
                Landing::Answered if refused.contains(&event) => again.push_back(event),
                Landing::Stored => lost.torn.extend(again.iter().map(|(body, _)| *body)),
                Landing::Answered => {}
            }
        }
        lost.unanswered = lost.again.values().flatten().copied().collect();
        for events in lost.again.values_mut() {
            events.retain(|(body, _)| !lost.torn.contains(body));
        }
        lost.again.retain(|_, events| !events.is_empty());
        self.base += self.places.len() as u64;
        self.places.clear();
        self.bytes = 0;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantId = TenantId::from_bytes([1; 16]);
    const OTHER: TenantId = TenantId::from_bytes([2; 16]);

    fn flights(sent: &[(TenantId, u64, usize)]) -> Flights {
        let mut flights = Flights::default();
        for (number, (tenant, body, index)) in sent.iter().enumerate() {
            let flight = Flight {
                body: *body,
                index: *index,
                tenant: *tenant,
                bytes: 100,
                sent_at: Instant::now(),
            };
            assert_eq!(flights.push(flight), number as u64);
        }
        flights
    }

    #[test]
    fn what_was_not_answered_is_sent_again_in_order() {
        let mut flights = flights(&[(ONE, 0, 0), (ONE, 0, 1), (OTHER, 1, 0), (ONE, 2, 0)]);
        assert!(flights.land(0, Landing::Stored).is_some());
        assert!(flights.land(0, Landing::Stored).is_none());
        let lost = flights.give_up(&HashSet::new());
        assert_eq!(lost.torn, HashSet::new());
        assert_eq!(lost.again[&ONE], [(0, 1), (2, 0)]);
        assert_eq!(lost.again[&OTHER], [(1, 0)]);
        assert!(flights.is_empty());
        assert!(flights.land(1, Landing::Stored).is_none(), "too late");
    }

    #[test]
    fn an_event_before_one_that_is_stored_is_not_sent_again() {
        // The first of body 0 is lost and its second is stored; body 2 comes after both.
        let mut flights = flights(&[(ONE, 0, 0), (ONE, 0, 1), (OTHER, 1, 0), (ONE, 2, 0)]);
        flights.land(1, Landing::Stored);
        let lost = flights.give_up(&HashSet::new());
        assert_eq!(lost.torn, HashSet::from([0]));
        assert_eq!(lost.again[&ONE], [(2, 0)]);
        assert_eq!(
            lost.again[&OTHER],
            [(1, 0)],
            "tenants have nothing to do with each other"
        );
    }

    #[test]
    fn a_duplicate_tears_nothing_and_what_was_refused_for_now_is_sent_again() {
        let mut flights = flights(&[(ONE, 0, 0), (ONE, 0, 1), (ONE, 0, 2)]);
        flights.land(1, Landing::Answered);
        flights.land(2, Landing::Answered);
        let lost = flights.give_up(&HashSet::from([(0, 2)]));
        assert_eq!(lost.torn, HashSet::new());
        assert_eq!(lost.again[&ONE], [(0, 0), (0, 2)]);
    }

    #[test]
    fn the_window_is_bounded_in_number_and_bytes() {
        let mut flights = Flights::default();
        let flight = Flight {
            body: 0,
            index: 0,
            tenant: ONE,
            bytes: BYTES / 4,
            sent_at: Instant::now(),
        };
        for number in 0..4 {
            assert!(flights.has_room());
            assert_eq!(flights.push(flight), number);
        }
        assert!(!flights.has_room());
        flights.land(3, Landing::Stored);
        assert!(!flights.has_room(), "the oldest is still on its way");
        flights.land(0, Landing::Stored);
        assert!(flights.has_room());
    }

    /// So many that wait long would be overdue one after the other, though the broker stores them all.
    #[test]
    fn the_window_is_wide_only_while_answers_come_quickly() {
        let now = Instant::now() + Duration::from_hours(1);
        let flight = |sent_at| Flight {
            body: 0,
            index: 0,
            tenant: ONE,
            bytes: 1,
            sent_at,
        };
        let filled = |sent_at| {
            let mut flights = Flights::default();
            while flights.has_room() {
                flights.push(flight(sent_at));
            }
            flights.places.len()
        };
        assert_eq!(filled(now), MESSAGES);
        let long_ago = Instant::now().checked_sub(QUICK).unwrap();
        assert_eq!(filled(long_ago), SURE_MESSAGES);
    }
}
