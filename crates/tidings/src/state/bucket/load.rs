//! A node that begins: it reads the bucket for what the stream does not tell it any more.

use async_nats::Client;
use tidings_log::{Log, NewEvent, StateError};
use tidings_protocol::{Cursor, TenantId};

use super::entry::Entry;
use super::{CURSOR, STREAM};
use crate::cursors::Origin;
use crate::jetstream::api::{self, ApiError};
use crate::jetstream::message::KnownTypes;
use crate::jetstream::pull::{Broken, Pull};

/// The bucket can't be read at the moment.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The broker does not answer, or refuses.
    #[error("the bucket with the state can't be read: {0}")]
    Refused(#[from] ApiError),
    /// It has stopped in between.
    #[error("the bucket with the state can't be read to its end: {0}")]
    Broken(#[from] Broken),
    /// What was read can't be kept.
    #[error("the state can't be kept: {0}")]
    State(#[from] StateError),
    /// The thread that keeps it has ended.
    #[error("the state can't be kept: its thread has ended")]
    Ended,
}

/// What the bucket knows of a stream up to some place.
#[derive(Debug)]
pub enum Known {
    /// There is no bucket.
    Nothing,
    /// It has not come so far.
    Part,
    /// These subjects live there, as far as they are older than the place.
    All(Vec<(TenantId, NewEvent)>),
}

/// Reads the bucket.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The connection.
    pub client: Client,
    /// The types of the deployment.
    pub types: KnownTypes,
    /// What the consumer is described as.
    pub description: String,
}

impl Loader {
    /// Gives the state each subject whose last event stands in the stream before `first`, from where on a node
    /// reads the stream itself.
    ///
    /// # Errors
    ///
    /// When the bucket can't be read or the state can't be kept; doing it again does no harm.
    pub async fn restore(&self, first: Cursor, log: &Log) -> Result<(), LoadError> {
        let Some((entries, cursor)) = self.read().await? else {
            return Ok(());
        };
        let gone = entries.into_iter().filter(|entry| entry.at < first);
        let events: Vec<(TenantId, NewEvent)> = gone.map(as_event).collect();
        let subjects = events.len();
        let log = log.clone();
        let restoring = tokio::task::spawn_blocking(move || log.state().restore(events));
        restoring.await.map_err(|_| LoadError::Ended)??;
        if cursor.is_some_and(|cursor| is_short_of(cursor, first)) {
            tracing::warn!(
                cursor = cursor.map(|cursor| cursor.to_string()),
                %first,
                "the bucket with the state ends before the stream begins; what was said between is not known"
            );
        }
        tracing::info!(subjects, "state_restored");
        Ok(())
    }

    /// What is known of each subject whose last event stands in the stream before `first`, to a node that did not read
    /// what the stream had before that.
    ///
    /// # Errors
    ///
    /// When the bucket can't be read.
    pub async fn known_before(&self, first: Cursor) -> Result<Known, LoadError> {
        let Some((entries, cursor)) = self.read().await? else {
            return Ok(Known::Nothing);
        };
        let reaches =
            |cursor: Cursor| cursor.epoch == first.epoch && cursor.position + 1 >= first.position;
        if !cursor.is_some_and(reaches) {
            return Ok(Known::Part);
        }
        let gone = entries.into_iter().filter(|entry| entry.at < first);
        Ok(Known::All(gone.map(as_event).collect()))
    }

    /// Every living subject in the bucket, and its cursor; `None` where there is no bucket.
    async fn read(&self) -> Result<Option<(Vec<Entry>, Option<Cursor>)>, LoadError> {
        // First, so that what is read is at least as new.
        let cursor = match api::last_message(&self.client, STREAM, CURSOR).await {
            Ok(message) => Some(message.payload),
            Err(ApiError::NoMessage) => None,
            Err(ApiError::NoStream) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut pull = Pull::open(&self.client, STREAM, 1, &self.description).await?;
        let mut pending = pull.pending_at_start();
        let mut entries = Vec::new();
        while pending > 0 {
            pull.top_up().await?;
            let Some((message, place)) = pull.next().await? else {
                continue;
            };
            entries.extend(Entry::read(
                &self.types,
                message.headers.as_ref(),
                &message.payload,
            ));
            pending = place.pending;
        }
        pull.close().await;
        Ok(Some((entries, cursor.as_deref().and_then(read_cursor))))
    }
}

/// Something between may be missing: of one incarnation only, since between two nothing is known to be.
fn is_short_of(cursor: Cursor, first: Cursor) -> bool {
    cursor.epoch == first.epoch && cursor.position + 1 < first.position
}

/// The cursor of the bucket, as it is written there.
pub(super) fn read_cursor(payload: &[u8]) -> Option<Cursor> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

fn as_event(entry: Entry) -> (TenantId, NewEvent) {
    let origin = Origin {
        source: 0,
        time: entry.time,
        reached: [entry.at].into_iter().collect(),
    };
    let event = NewEvent {
        origin: Some(origin.encode()),
        ..entry.event
    };
    (entry.tenant, event)
}
