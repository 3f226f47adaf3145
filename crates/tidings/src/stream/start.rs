//! Which position a stream, or a page of the history, begins after, and what it can't have.

use tidings_log::{Log, ReadError, Resume, Scope};
use tidings_protocol::api::{Gap, GapReason};
use tidings_protocol::{Cursor, Position};

use super::request::StartRequest;
use crate::time;

/// How much of a requested cursor is echoed, in bytes.
const MAX_ECHO: usize = 128;

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What comes after this position is shown.
    pub after: Position,
    /// What was asked for and can't be had.
    pub gap: Option<Gap>,
    /// The gap tells of everything that retention has removed up to here.
    pub announced: Position,
}

impl Start {
    /// Begins at the cursor of a snapshot instead: what came before is in the snapshot.
    pub fn begin_at(&mut self, cursor: Cursor) {
        self.after = cursor.position;
        self.announced = cursor.position;
        if let Some(gap) = &mut self.gap {
            gap.resumed_at = cursor.to_string();
        }
    }
}

/// Resolves what was asked for, against what is retained of `scope` now. `tail` is the last
/// position that was fixed before the caller was authorised.
///
/// # Errors
///
/// When the log can't be read.
pub fn resolve(
    log: &Log,
    scope: Scope,
    request: &StartRequest,
    tail: Position,
) -> Result<Start, ReadError> {
    Ok(match request {
        StartRequest::Tail => Start {
            after: tail,
            gap: None,
            announced: tail,
        },
        StartRequest::Since(time) => {
            let after = log.position_before(*time)?;
            retained(log, scope, after, || time::rfc3339(*time))
        }
        StartRequest::Cursor(text) => {
            let from_now = |reason| Start {
                after: tail,
                gap: Some(gap(log, text, tail, reason)),
                announced: tail,
            };
            match text.parse::<Cursor>() {
                Err(_) => from_now(GapReason::Malformed),
                Ok(cursor) if cursor.epoch != log.epoch() => from_now(GapReason::UnknownEpoch),
                Ok(cursor) if cursor.position > tail => from_now(GapReason::AheadOfLog),
                Ok(cursor) => retained(log, scope, cursor.position, || text.clone()),
            }
        }
    })
}

fn retained(log: &Log, scope: Scope, after: Position, requested: impl FnOnce() -> String) -> Start {
    match log.resume_point(scope, after) {
        Resume::Exact => Start {
            after,
            gap: None,
            announced: after,
        },
        Resume::Expired(expired) => {
            let after = expired.resume_after.max(after);
            Start {
                after,
                gap: Some(gap(log, &requested(), after, GapReason::Expired)),
                announced: expired.removed_through,
            }
        }
    }
}

/// Says that `requested` can't be had and what it goes on after.
#[must_use]
pub fn gap(log: &Log, requested: &str, resumed_at: Position, reason: GapReason) -> Gap {
    let mut end = requested.len().min(MAX_ECHO);
    while !requested.is_char_boundary(end) {
        end -= 1;
    }
    Gap {
        requested: requested[..end].to_owned(),
        resumed_at: Cursor {
            epoch: log.epoch(),
            position: resumed_at,
        }
        .to_string(),
        reason,
        source: None,
    }
}
