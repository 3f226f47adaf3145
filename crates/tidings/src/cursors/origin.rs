//! Where an event of a mirror comes from, as the log keeps it beside the payload.

use smallvec::SmallVec;
use tidings_log::MAX_ORIGIN;
use tidings_protocol::merged::MAX_SOURCES;
use tidings_protocol::{Cursor, Epoch};

/// How far each source has been delivered, in the configured order of the sources.
pub type Reached = SmallVec<[Cursor; 3]>;

/// Where an event of a mirror comes from.
///
/// In the log it is: the source (1 byte), the time (8 bytes, little endian), and for each source its epoch
/// and position, as numbers of 7 bits a byte, the lowest first, where the highest bit says that more follow
/// (LEB128). Of nine sources that is at most 189 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which source; below the length of `reached`.
    pub source: usize,
    /// When the source took it, in microseconds since the Unix epoch; never less than of the event before
    /// it in this mirror.
    pub time: i64,
    /// How far each source had been delivered when this event was, itself included. Counted are events, not
    /// what of a source was passed over, so that all nodes say the same of an event's own source.
    pub reached: Reached,
}

impl Origin {
    /// The place of the event in its own source.
    #[must_use]
    pub fn own(&self) -> Cursor {
        self.reached[self.source]
    }

    /// As the log keeps it.
    ///
    /// # Panics
    ///
    /// With more sources than a cursor can speak of, which configuration rules out.
    #[must_use]
    pub fn encode(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(9 + self.reached.len() * 12);
        bytes.push(u8::try_from(self.source).expect("few sources"));
        bytes.extend_from_slice(&self.time.to_le_bytes());
        for place in &self.reached {
            put(&mut bytes, place.epoch.0);
            put(&mut bytes, place.position);
        }
        assert!(bytes.len() <= MAX_ORIGIN, "few sources");
        bytes.into_boxed_slice()
    }

    /// Reads what the log has kept; `None` where it is no origin.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&source, rest) = bytes.split_first()?;
        let (time, mut rest) = rest.split_first_chunk::<8>()?;
        let mut reached = Reached::new();
        while !rest.is_empty() {
            let epoch = Epoch(take(&mut rest)?);
            let position = take(&mut rest)?;
            reached.push(Cursor { epoch, position });
        }
        let source = usize::from(source);
        (source < reached.len() && reached.len() <= MAX_SOURCES).then_some(Self {
            source,
            time: i64::from_le_bytes(*time),
            reached,
        })
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_origin_reads_back_as_it_was_written(
            time: i64,
            places in prop::collection::vec((any::<u64>(), any::<u64>()), 1..=MAX_SOURCES),
            source in any::<prop::sample::Index>(),
        ) {
            let source = source.index(places.len());
            let reached = places
                .into_iter()
                .map(|(epoch, position)| Cursor { epoch: Epoch(epoch), position })
                .collect();
            let origin = Origin { source, time, reached };
            prop_assert_eq!(Origin::decode(&origin.encode()), Some(origin));
        }

        #[test]
        fn reading_an_origin_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Origin::decode(&bytes);
        }
    }
}
