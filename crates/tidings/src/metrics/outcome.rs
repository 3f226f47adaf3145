//! What becomes of requests, as labels have it.

use super::count::Counter;
use crate::stream::request::StartRequest;

/// What a request can come to: its word, and the status that it is answered with. A status that is not here is `other`.
const OUTCOMES: [(&str, u16); 14] = [
    ("ok", 200),
    ("malformed", 400),
    ("unauthenticated", 401),
    ("forbidden", 403),
    ("read_only", 405),
    ("slow_body", 408),
    ("tenant_purged", 410),
    ("too_large", 413),
    ("media_type", 415),
    ("invalid", 422),
    ("limited", 429),
    ("error", 500),
    ("unavailable", 503),
    ("full", 507),
];

const OTHER: &str = "other";

/// Counts of what requests of one kind came to.
#[derive(Debug, Default)]
pub struct Outcomes {
    known: [Counter; OUTCOMES.len()],
    other: Counter,
}

impl Outcomes {
    /// Counts a request that is answered with this status.
    pub fn note(&self, status: u16) {
        match OUTCOMES.iter().position(|(_, known)| *known == status) {
            Some(place) => self.known[place].add(1),
            None => self.other.add(1),
        }
    }

    /// How many came to what.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = OUTCOMES.iter().map(|(name, _)| *name);
        let known = names.zip(self.known.iter().map(Counter::get));
        known.chain(std::iter::once((OTHER, self.other.get())))
    }

    /// How many were refused, and why.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.read().filter(|(name, _)| *name != "ok")
    }
}

/// What a stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// What happens from now on.
    Tail,
    /// What comes after a cursor.
    Cursor,
    /// What was appended since a time.
    Since,
    /// How things are.
    Snapshot,
}

impl Begin {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Tail, Self::Cursor, Self::Since, Self::Snapshot];

    /// What a stream begins with that asked for this.
    #[must_use]
    pub fn of(start: &StartRequest, snapshot: bool) -> Self {
        match start {
            _ if snapshot => Self::Snapshot,
            StartRequest::Tail => Self::Tail,
            StartRequest::Cursor(_) => Self::Cursor,
            StartRequest::Since(_) => Self::Since,
        }
    }

    /// The word in the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Cursor => "cursor",
            Self::Since => "since",
            Self::Snapshot => "snapshot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_counted_once_and_unknown_ones_together() {
        let outcomes = Outcomes::default();
        for status in 100..600 {
            outcomes.note(status);
        }
        let read: Vec<_> = outcomes.read().collect();
        assert_eq!(read.iter().map(|(_, count)| count).sum::<u64>(), 500);
        assert_eq!(read.last(), Some(&("other", 500 - OUTCOMES.len() as u64)));
        assert!(outcomes.refusals().all(|(name, _)| name != "ok"));
    }

    #[test]
    fn the_number_of_a_beginning_is_its_place() {
        for (place, begin) in Begin::ALL.into_iter().enumerate() {
            assert_eq!(begin as usize, place);
        }
    }
}
