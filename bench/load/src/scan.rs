//! As much of an event stream's syntax as counting and checking it needs.

use memchr::memmem::Finder;

use crate::payload::{Stamp, digits, stamp};

/// What a stream contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A published event.
    Event {
        /// The position in its `id:`, where the id is a cursor.
        position: Option<u64>,
        /// What the end of its data says.
        stamp: Stamp,
    },
    /// `event: cursor`.
    Cursor {
        /// The position in its `id:`.
        position: Option<u64>,
    },
    /// `event: closing`.
    Closing,
    /// `event: gap`.
    Gap,
    /// A comment line that says heartbeat.
    Heartbeat,
    /// Anything else that ends with a blank line.
    Other,
}

/// Finds the blank lines of streams.
#[derive(Debug)]
pub struct Scanner {
    blank_line: Finder<'static>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            blank_line: Finder::new(b"\n\n"),
        }
    }
}

impl Scanner {
    /// Calls `visit` for each complete piece of `input` and returns how many bytes these took.
    /// The rest must be given again with what follows it.
    pub fn scan(&self, input: &[u8], mut visit: impl FnMut(Piece)) -> usize {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            // A comment is over at the end of its line: a heartbeat has no blank line behind it.
            if rest.first() == Some(&b':') {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    return at;
                };
                if rest.starts_with(b": heartbeat") {
                    visit(Piece::Heartbeat);
                }
                at += end + 1;
                continue;
            }
            if rest.first() == Some(&b'\n') {
                at += 1;
                continue;
            }
            let Some(end) = self.blank_line.find(rest) else {
                return at;
            };
            visit(piece(&rest[..end]));
            at += end + 2;
        }
    }
}

fn piece(block: &[u8]) -> Piece {
    let (mut position, mut name) = (None, &b""[..]);
    let mut rest = block;
    // The data come last, and only their end is of interest.
    while !rest.starts_with(b"data:") {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        if let Some(id) = line.strip_prefix(b"id: ") {
            position = memchr::memchr(b'.', id).and_then(|dot| digits(&id[dot + 1..]));
        } else if let Some(event) = line.strip_prefix(b"event: ") {
            name = event;
        }
        if end == rest.len() {
            break;
        }
        rest = &rest[end + 1..];
    }
    match name {
        b"cursor" => Piece::Cursor { position },
        b"closing" => Piece::Closing,
        b"gap" => Piece::Gap,
        _ => stamp(block).map_or(Piece::Other, |stamp| Piece::Event { position, stamp }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Lane;

    fn pieces(input: &[u8]) -> (Vec<Piece>, usize) {
        let mut found = Vec::new();
        let taken = Scanner::default().scan(input, |piece| found.push(piece));
        (found, taken)
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_pieces() {
        let mut data = Vec::new();
        Lane::new(1, 1).write_data(&mut data, 250, 99);
        let mut input = b"retry: 2000\n: connected sse-1\nevent: cursor\nid: 1j8.41\ndata: {}\n\n: heartbeat\nid: 1j8.42\nevent: device_status\ndata: ".to_vec();
        input.extend_from_slice(&data);
        input.extend_from_slice(
            b"\n\n: heartbeat\n: heartbeat\nevent: closing\ndata: {\"reason\":\"draining\"}\n\n",
        );
        let expected = [
            Piece::Cursor { position: Some(41) },
            Piece::Heartbeat,
            Piece::Event {
                position: Some(42),
                stamp: Stamp {
                    sequence: 1,
                    sent: 99,
                },
            },
            Piece::Heartbeat,
            Piece::Heartbeat,
            Piece::Closing,
        ];
        assert_eq!(pieces(&input), (expected.to_vec(), input.len()));
        for cut in 0..input.len() {
            let (mut found, taken) = pieces(&input[..cut]);
            found.extend(pieces(&input[taken..]).0);
            assert_eq!(found, expected, "cut at {cut}");
        }
    }
}
