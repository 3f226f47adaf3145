//! Finding places in a mirror's log: it knows of each event how far every source had been delivered, and
//! that only grows from one event to the next.

use tidings_log::{EventRef, Log, ReadError, ReadLimit, Scope};
use tidings_protocol::Position;

use super::origin::Origin;

/// How far before the end a search looks first: most of those who come back were here a moment ago.
const NEAR_TAIL: [Position; 3] = [16, 512, 16_384];

/// The first event after a position.
///
/// # Errors
///
/// When the log can't be read.
pub(super) fn next_event(
    log: &Log,
    after: Position,
) -> Result<Option<(Position, Origin)>, ReadError> {
    let limit = ReadLimit {
        events: 1,
        bytes: 1,
    };
    let mut after = after;
    loop {
        let mut found = None;
        let end = log.read(Scope::All, after, limit, &mut |event| {
            found = placed(&event);
        })?;
        if found.is_some() || end.reached_tail || end.examined_through <= after {
            return Ok(found);
        }
        // A damaged stretch, or an event that is no mirror's.
        after = end.examined_through;
    }
}

/// The last event up to a position.
///
/// # Errors
///
/// When the log can't be read.
pub(super) fn last_event(
    log: &Log,
    through: Position,
) -> Result<Option<(Position, Origin)>, ReadError> {
    let mut stretch = 1;
    let mut until = through;
    while until > 0 {
        let from = until.saturating_sub(stretch);
        let mut found = None;
        let mut after = from;
        while after < until {
            let limit = ReadLimit {
                events: usize::try_from(until - after).unwrap_or(usize::MAX),
                bytes: usize::MAX,
            };
            let end = log.read(Scope::All, after, limit, &mut |event| {
                if event.position <= until {
                    found = placed(&event).or(found.take());
                }
            })?;
            if end.examined_through <= after {
                break;
            }
            after = end.examined_through;
        }
        if found.is_some() {
            return Ok(found);
        }
        until = from;
        stretch *= 16;
    }
    Ok(None)
}

/// The position to begin after, so that the first event shown is the first that `is_behind` holds of; the
/// tail where there is none. `is_behind` must hold of every event behind one that it holds of.
///
/// # Errors
///
/// When the log can't be read.
pub(super) fn before_first(
    log: &Log,
    tail: Position,
    is_behind: impl Fn(&Origin) -> bool,
) -> Result<Position, ReadError> {
    // Looked for is the least position whose next event it holds of, or which has none: it is not
    // below `low`, and `high` is such a one.
    let (mut low, mut high) = (0, tail);
    let mut near = NEAR_TAIL.iter();
    while low < high {
        let middle = match near.next() {
            Some(back) if low == 0 => high.saturating_sub(*back),
            _ => low.midpoint(high),
        };
        match next_event(log, middle)? {
            Some((position, origin)) if position <= tail && !is_behind(&origin) => {
                low = position;
            }
            _ => high = middle,
        }
    }
    Ok(match next_event(log, low)? {
        Some((position, _)) if position <= tail => low,
        _ => tail,
    })
}

fn placed(event: &EventRef<'_>) -> Option<(Position, Origin)> {
    let origin = event.origin.and_then(Origin::decode)?;
    Some((event.position, origin))
}
