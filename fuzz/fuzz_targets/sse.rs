//! An event stream as a client decodes it. The first byte says how long the pieces are that it comes in.
//!
//! Promises: where the network cuts changes nothing; what the server writes is read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings_protocol::sse::{Decoder, Frame, write_event};

/// The largest event that is read, in bytes.
const LIMIT: usize = 1 << 16;

fn decode(pieces: &mut dyn Iterator<Item = &[u8]>) -> Option<(Vec<Frame>, String)> {
    let mut decoder = Decoder::new(LIMIT);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.feed(piece, &mut frames).ok()?;
    }
    Some((frames, decoder.last_event_id().to_owned()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&length, stream)) = bytes.split_first() else {
        return;
    };
    if stream.len() <= LIMIT / 4 {
        let whole = decode(&mut std::iter::once(stream));
        let pieces = decode(&mut stream.chunks(usize::from(length).max(1)));
        assert_eq!(whole, pieces);
        assert!(whole.is_some(), "a stream within the limit is read");
    }

    // A payload on the wire, as the log holds it: one line.
    let data = String::from_utf8_lossy(stream).replace(['\r', '\n'], " ");
    if data.len() <= LIMIT / 4 {
        let mut wire = Vec::new();
        write_event(&mut wire, "1j8.42", "device_status", data.as_bytes());
        let (frames, id) = decode(&mut std::iter::once(&wire[..])).expect("within the limit");
        let [Frame::Event(event)] = &frames[..] else {
            panic!("one event was written: {frames:?}");
        };
        assert_eq!((&*event.id, &*event.event), ("1j8.42", "device_status"));
        assert_eq!((&event.data, &*id), (&data, "1j8.42"));
    }
});
