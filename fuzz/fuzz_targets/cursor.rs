//! Cursors, over one source and over several.
//!
//! Promise: a place has one spelling, so whatever is read as a cursor is written the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::cursors::Origin;
use tidings_fuzz::input;
use tidings_protocol::cursor::Cursor;
use tidings_protocol::merged::{MAX_SOURCES, MergedCursor};

fuzz_target!(|bytes: &[u8]| {
    if let Some(origin) = Origin::decode(bytes) {
        assert_eq!(*origin.encode(), *bytes);
    }
    let Some(text) = input::text(bytes) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    if let Ok(cursor) = text.parse::<MergedCursor>() {
        assert_eq!(cursor.to_string(), text);
        assert!(cursor.source < cursor.reached.len());
        assert!(cursor.reached.len() <= MAX_SOURCES);
    }
});
