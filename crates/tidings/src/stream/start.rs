//! Which place a stream, or a page of the history, begins at, and what it can't have.

use std::sync::Arc;
use std::time::Duration;

use tidings_log::{ReadError, Scope};
use tidings_protocol::api::{Gap, GapReason};
use tidings_protocol::{Cursor, Position};

use super::request::StartRequest;
use crate::app::App;
use crate::cursors::{CursorText, Cursors, Passage, Place, Resolution};
use crate::error::Refusal;
use crate::time;

/// How much of a requested cursor is echoed, in bytes.
const MAX_ECHO: usize = 128;

/// How long a node that has not copied yet what a cursor names may take to.
const COPYING_PATIENCE: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What comes after this position is shown.
    pub after: Position,
    /// Up to its end, under ids of its own.
    pub passage: Option<Passage>,
    /// The cursor of this place.
    pub at: CursorText,
    /// What was asked for and can't be had.
    pub gaps: Vec<Gap>,
    /// The gaps tell of everything that retention has removed up to here.
    pub announced: Position,
}

/// What a request for a place comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// It is here.
    Start(Start),
    /// It is beyond what this node has copied of its sources.
    Ahead(Vec<Cursor>),
}

impl Start {
    /// Begins at a snapshot instead: what came before is in the snapshot.
    pub fn begin_at(&mut self, position: Position, cursor: CursorText) {
        self.after = position;
        self.passage = None;
        self.announced = position;
        for gap in &mut self.gaps {
            gap.resumed_at = cursor.to_string();
        }
        self.at = cursor;
    }

    fn from_now(cursors: &Cursors, tail: Position) -> Self {
        Self {
            after: tail,
            passage: None,
            at: cursors.text(tail),
            gaps: Vec::new(),
            announced: tail,
        }
    }

    /// From now, since what was asked for leads nowhere.
    fn astray(cursors: &Cursors, tail: Position, asked: &str, reason: GapReason) -> Self {
        let mut start = Self::from_now(cursors, tail);
        start.gaps.push(gap(asked, &start.at, reason, None));
        start
    }

    fn at(place: Place, asked: impl Fn() -> String) -> Self {
        let Place {
            after,
            passage,
            at,
            missing,
            announced,
        } = place;
        let gaps = missing
            .into_iter()
            .map(|missing| gap(&asked(), &at, missing.reason, missing.source))
            .collect();
        Self {
            after,
            passage,
            at,
            gaps,
            announced,
        }
    }
}

/// Resolves what was asked for, against what is retained of `scope` now. `tail` looks how far the window
/// reaches.
///
/// # Errors
///
/// When the log can't be read.
pub fn resolve(
    cursors: &Cursors,
    scope: Scope,
    request: &StartRequest,
    tail: impl Fn() -> Position,
) -> Result<Resolved, ReadError> {
    Ok(Resolved::Start(match request {
        StartRequest::Tail => Start::from_now(cursors, tail()),
        StartRequest::Since(time) => {
            Start::at(cursors.since(scope, *time)?, || time::rfc3339(*time))
        }
        StartRequest::Cursor(text) => match cursors.resolve(scope, text, &tail)? {
            Resolution::Found(place) => Start::at(place, || text.clone()),
            Resolution::Unknown(reason) => Start::astray(cursors, tail(), text, reason),
            Resolution::Ahead(places) => return Ok(Resolved::Ahead(places)),
        },
    }))
}

/// [`resolve`] off the threads that serve others, and again when the node has copied what the cursor names.
///
/// # Errors
///
/// 503 when the log can't be read, or the node is too far behind the cursor.
pub async fn settle(
    app: &Arc<App>,
    scope: Scope,
    request: &StartRequest,
) -> Result<Start, Refusal> {
    let first = resolve_off(app, scope, request).await?;
    let places = match first {
        Resolved::Start(start) => return Ok(start),
        Resolved::Ahead(places) => places,
    };
    let copied = tokio::time::timeout(COPYING_PATIENCE, app.cursors.wait_for(&places)).await;
    if copied.is_ok()
        && let Resolved::Start(start) = resolve_off(app, scope, request).await?
    {
        return Ok(start);
    }
    match (app.cursors.verdict(&places).await, request) {
        (Some(reason), StartRequest::Cursor(text)) => {
            let tail = app.window.tail();
            Ok(Start::astray(&app.cursors, tail, text, reason))
        }
        _ => Err(Refusal::unavailable(
            "this node has not copied yet what the cursor names; try again, or another node",
            Duration::from_secs(1),
        )),
    }
}

async fn resolve_off(
    app: &Arc<App>,
    scope: Scope,
    request: &StartRequest,
) -> Result<Resolved, Refusal> {
    let resolved = if app.cursors.sources().is_none() || *request == StartRequest::Tail {
        resolve(&app.cursors, scope, request, || app.window.tail())
    } else {
        let _permit = app.opening_readers.acquire().await;
        let (app, request) = (Arc::clone(app), request.clone());
        let resolving = tokio::task::spawn_blocking(move || {
            resolve(&app.cursors, scope, &request, || app.window.tail())
        });
        match resolving.await {
            Ok(resolved) => resolved,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    };
    resolved.map_err(|error| super::open::log_unavailable(&error))
}

/// Says that `requested` can't be had and what it goes on after.
#[must_use]
pub fn gap(
    requested: &str,
    resumed_at: &CursorText,
    reason: GapReason,
    source: Option<String>,
) -> Gap {
    let mut end = requested.len().min(MAX_ECHO);
    while !requested.is_char_boundary(end) {
        end -= 1;
    }
    Gap {
        requested: requested[..end].to_owned(),
        resumed_at: resumed_at.to_string(),
        reason,
        source,
    }
}
