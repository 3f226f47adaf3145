//! Cursors, over one source and over several.
//!
//! Promise: a place has one spelling, so whatever is read as a cursor is written the same. Beside them the
//! origins that a copy keeps with its events, which are read again as what they were.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::cursors::Origin;
use tidings_fuzz::input;
use tidings_protocol::cursor::Cursor;
use tidings_protocol::merged::{MAX_SOURCES, MergedCursor};

fuzz_target!(|bytes: &[u8]| {
    // Only the log hands these back, so that one value may have several spellings.
    if let Some(origin) = Origin::decode(bytes) {
        assert_eq!(Origin::decode(&origin.encode()).as_ref(), Some(&origin));
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
