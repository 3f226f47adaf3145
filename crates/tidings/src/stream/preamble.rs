//! The server's own frames, and what a stream begins with.

use std::io::Write as _;
use std::time::Duration;

use tidings_protocol::api::Gap;
use tidings_protocol::sse;

use crate::cursors::CursorText;
use crate::engine::ConnectionId;

/// Appends a `cursor` event: where the stream stands.
pub fn write_cursor(wire: &mut Vec<u8>, cursor: &CursorText) {
    // Writing to a Vec can't fail.
    let _ = write!(wire, "event: cursor\nid: {cursor}\ndata: {{}}\n\n");
}

/// Appends a `gap` event: what can't be given, and where the stream goes on.
///
/// # Panics
///
/// Never: a gap is a plain struct.
pub fn write_gap(wire: &mut Vec<u8>, resumed_at: &CursorText, gap: &Gap) {
    let data = serde_json::to_vec(gap).expect("a plain struct");
    sse::write_event(wire, resumed_at, "gap", &data);
}

/// Appends a `gap` event behind which a snapshot follows. It has no id: a client that loses the stream
/// before it has the whole snapshot comes back with the cursor that it had, and is told and given the
/// same again.
///
/// # Panics
///
/// Never: a gap is a plain struct.
pub fn write_gap_before_snapshot(wire: &mut Vec<u8>, gap: &Gap) {
    let data = serde_json::to_vec(gap).expect("a plain struct");
    sse::write_event_without_id(wire, "gap", &data);
}

/// Appends what comes before a stream's first event: the reconnection time, the connection's name,
/// the gaps if there are any, and where the stream stands, which a snapshot says itself.
pub fn write_opening(
    wire: &mut Vec<u8>,
    retry: Duration,
    connection: ConnectionId,
    gaps: &[Gap],
    cursor: &CursorText,
    snapshot_follows: bool,
) {
    // Writing to a Vec can't fail.
    let _ = write!(
        wire,
        "retry: {}\n: connected {connection}\n",
        jittered(retry)
    );
    for gap in gaps {
        if snapshot_follows {
            write_gap_before_snapshot(wire, gap);
        } else {
            write_gap(wire, cursor, gap);
        }
    }
    if !snapshot_follows {
        write_cursor(wire, cursor);
    }
}

/// A reconnection time in milliseconds, drawn from ¾ to 1¼ of the configured one, so that streams
/// that end together do not come back together.
#[must_use]
pub fn jittered(retry: Duration) -> u64 {
    let milliseconds = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX / 8);
    rand::random_range(milliseconds * 3 / 4..=milliseconds * 5 / 4)
}
