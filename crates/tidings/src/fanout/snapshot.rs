//! Snapshots in their wire form: the last event of each living subject.

use std::io::Write as _;

use tidings_log::StateEntry;

use crate::cursors::{CursorText, EventIds};

/// Appends a subject's last event as JSON: `{"type","id","data"}`, where `id` is the event's cursor.
///
/// Nothing of it needs escaping: a type is letters, digits and `_`, a cursor likewise with dots and tildes, and the
/// payload is JSON without line breaks since it was published.
pub fn write_subject(wire: &mut Vec<u8>, ids: &EventIds, entry: &StateEntry) {
    let event = entry.event();
    let id = ids.id(&event);
    wire.reserve(event.data.len() + event.event_type.len() + 64);
    // Writing to a Vec can't fail.
    let _ = write!(
        wire,
        "{{\"type\":\"{}\",\"id\":\"{id}\",\"data\":",
        event.event_type
    );
    wire.extend_from_slice(event.data);
    wire.push(b'}');
}

/// Appends the `snapshot` event of a subject. It has no id: only the whole snapshot is true at a cursor.
pub fn write_snapshot(wire: &mut Vec<u8>, ids: &EventIds, entry: &StateEntry) {
    wire.extend_from_slice(b"event: snapshot\ndata: ");
    write_subject(wire, ids, entry);
    wire.extend_from_slice(b"\n\n");
}

/// Appends the `snapshot_end` event, which names the cursor that the snapshot is true at.
pub fn write_snapshot_end(wire: &mut Vec<u8>, cursor: &CursorText) {
    let _ = write!(wire, "event: snapshot_end\nid: {cursor}\ndata: {{}}\n\n");
}
