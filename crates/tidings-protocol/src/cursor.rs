//! Cursors: the text of an SSE `id:` field.
//!
//! A cursor over one log is `EPOCH.POSITION`: the log's epoch in base 36 and a position in it in
//! decimal. Clients read nothing into it; only servers take it apart.

use std::fmt;
use std::str::FromStr;

/// A place in the log: the first event has position 1, 0 stands before it.
pub type Position = u64;

/// Which log a position belongs to. A log that starts anew, so that its positions mean other
/// events than before, gets a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A position in one epoch of the log, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Which log.
    pub epoch: Epoch,
    /// The last position that was delivered.
    pub position: Position,
}

/// The text is no cursor that this server could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is the text of an id: field, such as 1j8.42")]
pub struct InvalidCursor;

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut text = [0_u8; 13];
        let mut start = text.len();
        let mut rest = self.0;
        loop {
            start -= 1;
            text[start] = DIGITS[usize::try_from(rest % 36).expect("below 36")];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        formatter.write_str(std::str::from_utf8(&text[start..]).expect("ASCII digits"))
    }
}

impl FromStr for Epoch {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
            && (text == "0" || !text.starts_with('0'));
        if !canonical {
            return Err(InvalidCursor);
        }
        u64::from_str_radix(text, 36)
            .map(Self)
            .map_err(|_| InvalidCursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.epoch, self.position)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    /// Reads exactly what [`Cursor`]'s `Display` writes: no sign, no leading zero, no white space,
    /// so that a position has one spelling.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, position) = text.split_once('.').ok_or(InvalidCursor)?;
        let canonical = !position.is_empty()
            && position.bytes().all(|byte| byte.is_ascii_digit())
            && (position == "0" || !position.starts_with('0'));
        if !canonical {
            return Err(InvalidCursor);
        }
        Ok(Self {
            epoch: epoch.parse()?,
            position: position.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_text_of_a_cursor_round_trips(epoch: u64, position: u64) {
            let cursor = Cursor { epoch: Epoch(epoch), position };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn whatever_is_read_as_a_cursor_is_written_the_same(text in "[0-9a-z+. -]{0,24}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn reading_a_cursor_never_panics(text in any::<String>()) {
            let _ = text.parse::<Cursor>();
        }
    }

    #[test]
    fn what_the_server_did_not_write_is_no_cursor() {
        for text in [
            "",
            "41",
            ".",
            "1j8.",
            ".41",
            "1j8.041",
            "1J8.41",
            "1j8.-1",
            "1j8.+1",
            " 1j8.41",
            "1j8.41 ",
            "01.1",
            "1j8.99999999999999999999",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text:?}");
        }
    }
}
