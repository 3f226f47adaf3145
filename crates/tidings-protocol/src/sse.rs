//! Server-sent events: the encoder and an incremental decoder.
//!
//! Source: WHATWG HTML, section 9.2 "Server-sent events"; the decoder follows 9.2.6
//! "Interpreting an event stream".

use std::fmt::Display;
use std::io::Write as _;

use crate::cursor::{Epoch, Position};

/// Appends one event with an `id:` to `wire`.
///
/// `event` must hold no line break (an [`EventType`](crate::EventType) or one of the server's own
/// names never does); `id`, mostly a [`Cursor`](crate::Cursor), likewise. `data` must hold none either: payloads are minified where they are published.
///
/// # Panics
///
/// In debug builds, when `event` or `data` holds a line break.
pub fn write_event(wire: &mut Vec<u8>, id: impl Display, event: &str, data: &[u8]) {
    // Writing to a Vec can't fail.
    let _ = writeln!(wire, "id: {id}");
    write_event_without_id(wire, event, data);
}

/// Writes events of one epoch: as [`write_event`] does, for those who write millions.
#[derive(Clone, Debug)]
pub struct EventWriter {
    /// `id: EPOCH.`
    prefix: Vec<u8>,
}

impl EventWriter {
    /// A writer of events of this epoch.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            prefix: format!("id: {epoch}.").into_bytes(),
        }
    }

    /// Appends one event to `wire`.
    ///
    /// # Panics
    ///
    /// In debug builds, when `event` or `data` holds a line break.
    pub fn write(&self, wire: &mut Vec<u8>, position: Position, event: &str, data: &[u8]) {
        wire.reserve(self.prefix.len() + event.len() + data.len() + 40);
        wire.extend_from_slice(&self.prefix);
        wire.extend_from_slice(itoa::Buffer::new().format(position).as_bytes());
        wire.push(b'\n');
        write_event_without_id(wire, event, data);
    }
}

/// Appends one event that has no `id:` and so leaves the client's last event id as it is.
///
/// # Panics
///
/// In debug builds, when `event` or `data` holds a line break.
pub fn write_event_without_id(wire: &mut Vec<u8>, event: &str, data: &[u8]) {
    debug_assert!(
        !event.bytes().any(is_line_break),
        "a line break in the event name"
    );
    debug_assert!(
        !data.iter().copied().any(is_line_break),
        "a line break in the data"
    );
    wire.reserve(event.len() + data.len() + 18);
    wire.extend_from_slice(b"event: ");
    wire.extend_from_slice(event.as_bytes());
    wire.extend_from_slice(b"\ndata: ");
    wire.extend_from_slice(data);
    wire.extend_from_slice(b"\n\n");
}

/// The comment that a stream gets after an idle interval. It is one line, with no blank line
/// behind it: some clients make an empty event of a comment followed by a blank line.
pub const HEARTBEAT: &[u8] = b": heartbeat\n";

const fn is_line_break(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// What a [`Decoder`] finds in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An event that a browser would dispatch.
    Event(Event),
    /// A `retry:` field: the reconnection time, in milliseconds.
    Retry(u64),
    /// A comment line, without its colon and one leading space.
    Comment(String),
}

/// One dispatched event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The last event id as it stands when the event is dispatched; empty before the first.
    pub id: String,
    /// The `event:` field, or `message`.
    pub event: String,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// An incremental decoder of one event stream: bytes in, frames out, cut wherever the network
/// cuts them.
#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    data: String,
    data_seen: bool,
    event: String,
    id_buffer: String,
    last_event_id: String,
    after_carriage_return: bool,
    at_start: bool,
    limit: usize,
}

/// A line or an event was longer than the decoder's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes")]
pub struct TooLong {
    /// The limit, in bytes.
    pub limit: usize,
}

impl Decoder {
    /// A decoder that gives up on an event of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            data: String::new(),
            data_seen: false,
            event: String::new(),
            id_buffer: String::new(),
            last_event_id: String::new(),
            after_carriage_return: false,
            at_start: true,
            limit,
        }
    }

    /// The id of the last block that was complete: what a client shows when it resumes. An `id:`
    /// line whose block was cut off does not count, or its event would be lost.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Reads the next bytes of the stream and appends what they complete to `frames`.
    ///
    /// # Errors
    ///
    /// [`TooLong`], after which the decoder is of no further use.
    pub fn feed(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            // A line feed right after a carriage return belongs to that line's end.
            if self.after_carriage_return {
                self.after_carriage_return = false;
                if first == b'\n' {
                    rest = &rest[1..];
                    continue;
                }
            }
            let Some(end) = rest.iter().copied().position(is_line_break) else {
                self.line.extend_from_slice(rest);
                return self.check_length();
            };
            self.line.extend_from_slice(&rest[..end]);
            self.check_length()?;
            self.after_carriage_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.take_line(&line, frames);
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn check_length(&self) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], frames: &mut Vec<Frame>) {
        let line = match line.strip_prefix(b"\xEF\xBB\xBF") {
            Some(rest) if self.at_start => rest,
            _ => line,
        };
        self.at_start = false;
        if line.is_empty() {
            self.dispatch(frames);
            return;
        }
        // Invalid bytes become replacement characters, as "UTF-8 decode" has it.
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => frames.push(Frame::Comment(value.to_owned())),
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.data_seen {
                    self.data.push('\n');
                }
                self.data_seen = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id_buffer),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(milliseconds) = value.parse() {
                    frames.push(Frame::Retry(milliseconds));
                }
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, frames: &mut Vec<Frame>) {
        self.id_buffer.clone_into(&mut self.last_event_id);
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.data_seen) {
            return;
        }
        frames.push(Frame::Event(Event {
            id: self.last_event_id.clone(),
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data,
        }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cursor::{Cursor, Epoch};

    fn decode(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = Decoder::new(1 << 20);
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.feed(piece, &mut frames).unwrap();
        }
        frames
    }

    fn event(id: &str, event: &str, data: &str) -> Frame {
        Frame::Event(Event {
            id: id.into(),
            event: event.into(),
            data: data.into(),
        })
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(
            decode(&[b"data: YHOO\ndata: +2\ndata: 10\n\n"]),
            [event("", "message", "YHOO\n+2\n10")]
        );
        assert_eq!(
            decode(&[b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"]),
            [
                Frame::Comment("test stream".into()),
                event("1", "message", "first event"),
                event("", "message", "second event"),
            ]
        );
        assert_eq!(
            decode(&[b"data\n\ndata\ndata\n\ndata:"]),
            [event("", "message", ""), event("", "message", "\n")]
        );
        assert_eq!(
            decode(&[b"data:test\n\ndata: test\n\n"]),
            [event("", "message", "test"), event("", "message", "test")]
        );
    }

    /// A cut between `id:` and the blank line must not move the place that a client resumes at:
    /// the event was never shown, and would be lost.
    #[test]
    fn the_id_of_a_block_that_was_cut_off_does_not_count() {
        let mut decoder = Decoder::new(1024);
        let mut frames = Vec::new();
        decoder
            .feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n", &mut frames)
            .unwrap();
        assert_eq!(decoder.last_event_id(), "1");
        decoder.feed(b"\n", &mut frames).unwrap();
        assert_eq!(decoder.last_event_id(), "2");
    }

    #[test]
    fn an_event_above_the_limit_is_refused_rather_than_kept() {
        let mut decoder = Decoder::new(16);
        let error = decoder.feed(&[b'x'; 17], &mut Vec::new());
        assert_eq!(error, Err(TooLong { limit: 16 }));
    }

    proptest! {
        /// Wherever the network cuts, with whichever line ends, the frames are the same.
        #[test]
        fn cuts_and_line_ends_do_not_matter(
            blocks in proptest::collection::vec(("[a-z]{0,4}", "[ -~äλ😀]{0,12}"), 0..6),
            line_end in prop_oneof![Just("\n"), Just("\r"), Just("\r\n")],
            cut in 1_usize..7,
            byte_order_mark: bool,
        ) {
            let mut text = String::new();
            if byte_order_mark {
                text.push('\u{feff}');
            }
            let mut expected = Vec::new();
            for (name, data) in &blocks {
                for line in [format!("event: {name}"), format!("data: {data}"), String::new()] {
                    text.push_str(&line);
                    text.push_str(line_end);
                }
                expected.push(event("", if name.is_empty() { "message" } else { name }, data));
            }
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            prop_assert_eq!(decode(&pieces), expected);
        }

        #[test]
        fn what_is_encoded_is_decoded(epoch: u64, position: u64, data in "[^\r\n]*", cut in 1_usize..9) {
            let cursor = Cursor { epoch: Epoch(epoch), position };
            let mut wire = Vec::new();
            write_event(&mut wire, cursor, "device_status", data.as_bytes());
            let pieces: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(decode(&pieces), [event(&cursor.to_string(), "device_status", &data)]);
            let mut same = Vec::new();
            EventWriter::new(cursor.epoch).write(&mut same, position, "device_status", data.as_bytes());
            prop_assert_eq!(same, wire);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(64);
            let _ = decoder.feed(&bytes, &mut Vec::new());
        }
    }
}
