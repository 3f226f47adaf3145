//! The vectors of `spec/vectors/`, which other implementations are tested with, against this one.

use std::fmt::Debug;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidings_protocol::sse::{Decoder, Event, Frame, write_event, write_event_without_id};
use tidings_protocol::{Cursor, Epoch};

fn read<T: DeserializeOwned>(name: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A list that holds something: an emptied file must not pass for one whose cases all hold.
fn filled<T: Debug>(cases: Vec<T>) -> Vec<T> {
    assert!(!cases.is_empty());
    cases
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
    Repeat { text: String, times: usize },
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Repeat { text, times } => text.repeat(*times).into_bytes(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Piece(Piece),
    Pieces(Vec<Piece>),
}

impl Text {
    fn text(&self) -> String {
        let bytes = match self {
            Self::Plain(text) => return text.clone(),
            Self::Piece(piece) => piece.bytes(),
            Self::Pieces(pieces) => pieces.iter().flat_map(Piece::bytes).collect(),
        };
        String::from_utf8(bytes).unwrap()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Expected {
    Event {
        id: String,
        event: String,
        data: Text,
    },
    Retry(u64),
    Comment(String),
}

impl Expected {
    fn frame(&self) -> Frame {
        match self {
            Self::Event { id, event, data } => Frame::Event(Event {
                id: id.clone(),
                event: event.clone(),
                data: data.text(),
            }),
            Self::Retry(milliseconds) => Frame::Retry(*milliseconds),
            Self::Comment(text) => Frame::Comment(text.clone()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecodingCase {
    name: String,
    input: Vec<Piece>,
    frames: Vec<Expected>,
    last_event_id: String,
    limit: Option<usize>,
    #[serde(default)]
    too_long: bool,
}

#[derive(Debug, Deserialize)]
struct Decoding {
    cases: Vec<DecodingCase>,
}

/// What a decoder makes of a case, fed in these pieces.
fn check<'a>(case: &DecodingCase, cut: &str, pieces: impl Iterator<Item = &'a [u8]>) {
    let mut decoder = Decoder::new(case.limit.unwrap_or(16 << 20));
    let mut frames = Vec::new();
    let mut too_long = false;
    for piece in pieces {
        if decoder.feed(piece, &mut frames).is_err() {
            too_long = true;
            break;
        }
    }
    let expected: Vec<Frame> = case.frames.iter().map(Expected::frame).collect();
    let name = &case.name;
    // Some frames are megabytes; a comparison that fails says where, not all of it.
    assert_eq!(frames.len(), expected.len(), "{name} ({cut}): {expected:?}");
    for (number, (found, expected)) in frames.iter().zip(&expected).enumerate() {
        assert!(found == expected, "{name} ({cut}), frame {number}");
    }
    assert_eq!(too_long, case.too_long, "{name} ({cut})");
    if !too_long {
        assert_eq!(
            decoder.last_event_id(),
            case.last_event_id,
            "{name} ({cut})"
        );
    }
}

#[test]
fn event_streams_are_read_as_the_vectors_say() {
    for case in filled(read::<Decoding>("sse-decoding.json").cases) {
        let pieces: Vec<Vec<u8>> = case.input.iter().map(Piece::bytes).collect();
        check(&case, "as given", pieces.iter().map(Vec::as_slice));
        let whole = pieces.concat();
        check(&case, "in one piece", std::iter::once(whole.as_slice()));
        check(&case, "byte by byte", whole.chunks(1));
        check(&case, "seven at a time", whole.chunks(7));
    }
}

#[derive(Debug, Deserialize)]
struct EncodingCase {
    id: Option<String>,
    event: String,
    data: String,
    wire: String,
}

#[derive(Debug, Deserialize)]
struct Encoding {
    cases: Vec<EncodingCase>,
}

#[test]
fn events_are_written_as_the_vectors_say() {
    for case in filled(read::<Encoding>("sse-encoding.json").cases) {
        let mut wire = Vec::new();
        match &case.id {
            Some(id) => write_event(
                &mut wire,
                id.parse::<Cursor>().unwrap(),
                &case.event,
                case.data.as_bytes(),
            ),
            None => write_event_without_id(&mut wire, &case.event, case.data.as_bytes()),
        }
        assert_eq!(String::from_utf8(wire).unwrap(), case.wire);
    }
}

#[derive(Debug, Deserialize)]
struct ValidCursor {
    text: String,
    epoch: String,
    position: String,
}

#[derive(Debug, Deserialize)]
struct InvalidText {
    text: String,
    because: String,
}

#[derive(Debug, Deserialize)]
struct Cursors {
    valid: Vec<ValidCursor>,
    invalid: Vec<InvalidText>,
}

#[test]
fn cursors_are_read_and_written_as_the_vectors_say() {
    let cursors: Cursors = read("cursors.json");
    for case in filled(cursors.valid) {
        let cursor = Cursor {
            epoch: Epoch(case.epoch.parse().unwrap()),
            position: case.position.parse().unwrap(),
        };
        assert_eq!(case.text.parse(), Ok(cursor), "{}", case.text);
        assert_eq!(cursor.to_string(), case.text);
    }
    for case in filled(cursors.invalid) {
        let read = case.text.parse::<Cursor>();
        assert!(read.is_err(), "{:?} is none: {}", case.text, case.because);
    }
}
