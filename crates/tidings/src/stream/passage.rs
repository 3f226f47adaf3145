//! What a stream is given under ids of its own, before it follows the log like all others.
//!
//! A cursor from another node can lead to a place that this node's order of the sources does not have (see
//! [`crate::cursors::resolve`]). The way from there is short as a rule. Where it is not, the stream is given
//! as much as is decent, and ends: its client comes back with the last id, nearer to the place.

use tidings_log::{ReadError, ReadLimit};
use tidings_protocol::{Position, sse};

use super::preamble;
use crate::app::App;
use crate::cursors::{Loss, Passage};
use crate::fanout::View;
use crate::fanout::view::EventFacts;

/// How many bytes are given this way at most; one event may exceed it.
const MOST_BYTES: usize = 256 * 1024;

/// How much of the log is looked at for it at most, in events.
const MOST_EXAMINED: usize = 200_000;

const CHUNK: ReadLimit = ReadLimit {
    events: 4096,
    bytes: 1024 * 1024,
};

/// How a passage was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Whole; the stream goes on after this position.
    Whole(Position),
    /// In part: the stream ends with it.
    Part,
}

/// Appends what a view has of a passage behind `after` to `wire`.
///
/// # Errors
///
/// When the log can't be read.
pub fn write(
    app: &App,
    view: &View,
    after: Position,
    passage: &mut Passage,
    wire: &mut Vec<u8>,
) -> Result<Given, ReadError> {
    let begin = wire.len();
    let mut examined = 0;
    let mut position = after;
    while position < passage.until {
        if examined >= MOST_EXAMINED {
            // Where nothing was given, the client has to learn that there is progress.
            preamble::write_cursor(wire, &passage.at(app.cursors.ids()));
            return Ok(Given::Part);
        }
        let mut full = false;
        let until = passage.until;
        let end = app.log.read(view.scope(), position, CHUNK, &mut |event| {
            examined += 1;
            if full || event.position > until {
                return;
            }
            if wire.len() - begin >= MOST_BYTES {
                full = true;
                return;
            }
            let Some(id) = passage.admit(&event, app.cursors.ids()) else {
                return;
            };
            if Loss::of(&event).is_some() {
                // The stream was told when it opened.
                return;
            }
            if view.allows(EventFacts::of(&event, &app.types)) {
                sse::write_event(wire, id, event.event_type, event.data);
            }
        })?;
        if full {
            return Ok(Given::Part);
        }
        if end.examined_through <= position {
            break;
        }
        position = end.examined_through;
    }
    Ok(Given::Whole(passage.until))
}
