//! Cursors over several sources.
//!
//! Where what is shown comes from several logs, a place is one [`Cursor`] for each of them: its epoch
//! and how far it has been delivered. The text is `SOURCE~CURSOR~CURSOR…`: which of them the event
//! with this id is from, counted from 0, then a cursor for each, in their configured order. A source
//! that does not exist yet is `0.0`.

use std::fmt;
use std::str::FromStr;

use crate::cursor::{Cursor, Epoch, InvalidCursor};

/// The most sources that a cursor speaks of.
pub const MAX_SOURCES: usize = 9;

/// How far each of several sources has been delivered, and which of them brought the last event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MergedCursor {
    /// Which source the last event is from; below the length of `reached`.
    pub source: usize,
    /// The last delivered place of each source; never empty.
    pub reached: Vec<Cursor>,
}

impl Cursor {
    /// The place before everything of a source that does not exist yet.
    pub const NOWHERE: Self = Self {
        epoch: Epoch(0),
        position: 0,
    };
}

impl fmt::Display for MergedCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.source)?;
        self.reached
            .iter()
            .try_for_each(|cursor| write!(formatter, "~{cursor}"))
    }
}

impl FromStr for MergedCursor {
    type Err = InvalidCursor;

    /// Reads exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, places) = text.split_once('~').ok_or(InvalidCursor)?;
        let [digit @ b'0'..=b'9'] = source.as_bytes() else {
            return Err(InvalidCursor);
        };
        let source = usize::from(digit - b'0');
        let reached = places
            .split('~')
            .map(str::parse)
            .collect::<Result<Vec<Cursor>, _>>()?;
        if source >= reached.len() || reached.len() > MAX_SOURCES {
            return Err(InvalidCursor);
        }
        Ok(Self { source, reached })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_text_of_a_merged_cursor_round_trips(
            places in prop::collection::vec((any::<u64>(), any::<u64>()), 1..=MAX_SOURCES),
            source in any::<prop::sample::Index>(),
        ) {
            let source = source.index(places.len());
            let reached = places
                .into_iter()
                .map(|(epoch, position)| Cursor { epoch: Epoch(epoch), position })
                .collect();
            let cursor = MergedCursor { source, reached };
            prop_assert_eq!(cursor.to_string().parse::<MergedCursor>(), Ok(cursor));
        }

        #[test]
        fn whatever_is_read_as_a_merged_cursor_is_written_the_same(text in "[0-9a-z~. -]{0,24}") {
            if let Ok(cursor) = text.parse::<MergedCursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn reading_a_merged_cursor_never_panics(text in any::<String>()) {
            let _ = text.parse::<MergedCursor>();
        }
    }

    #[test]
    fn what_the_server_did_not_write_is_no_merged_cursor() {
        for text in [
            "",
            "41",
            "0",
            "0~",
            "~a.1",
            "1~a.1",
            "00~a.1",
            "0~a.1~",
            "0~a.01",
            "0~a.1 ",
            "-~a.1",
            "0~0.0~0.0~0.0~0.0~0.0~0.0~0.0~0.0~0.0~0.0",
        ] {
            assert_eq!(text.parse::<MergedCursor>(), Err(InvalidCursor), "{text:?}");
        }
    }
}
