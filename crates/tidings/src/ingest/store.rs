//! Where admitted events are stored: in this server's log, or in the stream that the log is a copy of.

use std::time::Duration;

use tidings_log::{AppendError, Busy, Log, NewEvent};
use tidings_protocol::{Cursor, Epoch, Position, TenantId};
use tokio::sync::oneshot;

use crate::app::App;
use crate::cursors::CursorText;
use crate::error::Refusal;
use crate::jetstream::{PublishError, Publisher};

/// How long a copy may take to have what was stored in its source.
const COPYING: Duration = Duration::from_secs(5);

/// Where events are stored.
#[derive(Debug)]
pub enum Store {
    /// In the log itself.
    Log(Log),
    /// In the stream `own` of JetStream, from which they come into the log of every node.
    Stream(Publisher),
    /// Nowhere: others publish to the sources.
    ReadOnly,
}

/// What became of a body that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Events that are newly stored.
    pub accepted: u64,
    /// Events that had been stored before under the same key.
    pub duplicates: u64,
    /// Cursor of the body's first event, whether new or stored before.
    pub first: CursorText,
    /// Cursor of the body's last event.
    pub last: CursorText,
    place: Place,
}

/// Where the last event of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Log(Position),
    Stream(Cursor),
}

/// Events were not stored, or not all.
#[derive(Debug)]
pub enum NotStored {
    /// Too much waits for the log's writer.
    Busy(Busy),
    /// What the log's writer says.
    Log(AppendError),
    /// What became of them on their way to JetStream.
    Stream(PublishError),
    /// Nothing can be stored here.
    ReadOnly,
}

impl NotStored {
    /// The event whose key was used for another event, if that is why: its number in the body, from 0.
    #[must_use]
    pub fn key_conflict(&self) -> Option<usize> {
        match self {
            Self::Log(AppendError::KeyConflict { index })
            | Self::Stream(PublishError::KeyConflict { index }) => Some(*index),
            _ => None,
        }
    }
}

impl Store {
    /// Whether anything can be stored here at all.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly)
    }
}

/// Stores events and waits until they are durable.
///
/// # Errors
///
/// When they could not be stored. In JetStream the first of them may be, as the error says.
pub async fn store(
    app: &App,
    tenant: TenantId,
    events: Vec<NewEvent>,
) -> Result<Stored, NotStored> {
    match &app.store {
        Store::Log(log) => in_log(app, log, tenant, events).await,
        Store::Stream(publisher) => in_stream(app, publisher, tenant, events).await,
        Store::ReadOnly => Err(NotStored::ReadOnly),
    }
}

async fn in_log(
    app: &App,
    log: &Log,
    tenant: TenantId,
    events: Vec<NewEvent>,
) -> Result<Stored, NotStored> {
    let (answer, answered) = oneshot::channel();
    let submitted = log.submit(
        tenant,
        events,
        Box::new(move |outcome| {
            // The publisher may have hung up; its events are stored all the same.
            let _ = answer.send(outcome);
        }),
    );
    submitted.map_err(NotStored::Busy)?;
    let appended = match answered.await {
        Ok(outcome) => outcome.map_err(NotStored::Log)?,
        Err(_) => return Err(NotStored::Log(AppendError::Closed)),
    };
    Ok(Stored {
        accepted: appended.accepted,
        duplicates: appended.duplicates,
        first: app.cursor(appended.first),
        last: app.cursor(appended.last),
        place: Place::Log(appended.last),
    })
}

async fn in_stream(
    app: &App,
    publisher: &Publisher,
    tenant: TenantId,
    events: Vec<NewEvent>,
) -> Result<Stored, NotStored> {
    let published = publisher
        .publish(tenant, events)
        .await
        .map_err(NotStored::Stream)?;
    let epoch = epoch_of_source(app).await;
    let cursor = |position| Cursor { epoch, position };
    Ok(Stored {
        accepted: published.accepted,
        duplicates: published.duplicates,
        first: cursor(published.first).into(),
        last: cursor(published.last).into(),
        place: Place::Stream(cursor(published.last)),
    })
}

/// What cursors call the stream that is published to: known as soon as this node has met it, which it has
/// unless the stream was made a moment ago.
async fn epoch_of_source(app: &App) -> Epoch {
    let Some(sources) = app.cursors.sources() else {
        return app.log.epoch();
    };
    let met = tokio::time::timeout(COPYING, sources.met(0)).await;
    met.unwrap_or(Epoch(0))
}

/// Waits until the state of this node knows of what was stored; whether it does within a decent time.
pub async fn is_in_state(app: &App, stored: &Stored) -> bool {
    let position = match stored.place {
        Place::Log(position) => position,
        Place::Stream(cursor) => {
            let places = [cursor];
            let copied = app.cursors.wait_for(&places);
            if tokio::time::timeout(COPYING, copied).await.is_err() {
                return false;
            }
            app.log.tail()
        }
    };
    let log = app.log.clone();
    let folding = tokio::task::spawn_blocking(move || log.state().wait_through(position, COPYING));
    folding.await.unwrap_or(false)
}

impl From<NotStored> for Refusal {
    fn from(error: NotStored) -> Self {
        match error {
            NotStored::Busy(busy) => Self::unavailable(busy.to_string(), Duration::from_secs(1)),
            NotStored::Log(error) => error.into(),
            NotStored::Stream(error) => error.into(),
            NotStored::ReadOnly => Self::read_only(),
        }
    }
}
