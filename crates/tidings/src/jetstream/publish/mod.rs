//! Publishing into the stream of the layout `own`: durable, pipelined, in order.
//!
//! One task ([`worker`]) has a connection of its own and sends the events of all bodies, one behind the
//! other, up to a window of unacknowledged ones. A body is answered when all of its events are acknowledged,
//! so when a majority of the stream's servers has them.
//!
//! **Order.** While nothing goes wrong, what is sent in order is stored in order. When something does (an
//! acknowledgement is overdue or says that there is no leader, the connection is lost), nothing more is sent
//! until it is known, as far as it can be, what was stored. What was not is sent again under its message id,
//! each tenant's events one by one. An event is *not* sent again where a later one of its tenant is stored
//! already: it would come out of order. Its body is answered with [`PublishError::Unavailable`], which says how many
//! leading events are stored, and its publisher decides.

mod acknowledgement;
mod bodies;
mod body;
mod flight;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use tidings_log::NewEvent;
use tidings_protocol::TenantId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::message;
use crate::nats::Nats;
use body::Submission;
use worker::Worker;

/// How many bodies wait for the worker.
const QUEUED_BODIES: usize = 1_024;

/// How many bytes of bodies wait or are on their way; in units of 1 KiB.
const QUEUED_KIBIBYTES: usize = 64 << 10;

/// What became of a body whose events are all stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Events that are newly stored.
    pub accepted: u64,
    /// Events that had been stored before under the same key.
    pub duplicates: u64,
    /// Sequence of the body's first event in the stream, whether new or stored before.
    pub first: u64,
    /// Sequence of the body's last event, whether new or stored before.
    pub last: u64,
}

/// A body was not stored, or not whole. Repeating it with its keys is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too much waits already; nothing of this body is stored.
    #[error("too many events wait for NATS")]
    Busy,
    /// An event's key was used before with other content. Other events of the body are stored.
    #[error("the key of event {index} was used before with other content")]
    KeyConflict {
        /// Which event of the body, from 0.
        index: usize,
    },
    /// An event is larger than the broker takes in one message; nothing of the body is stored.
    #[error("event {index} takes {bytes} bytes as a message, and NATS takes at most {limit}")]
    TooLarge {
        /// Which event of the body, from 0.
        index: usize,
        /// Bytes that it would take, about.
        bytes: usize,
        /// Bytes that a message may take (`max_payload` of the NATS server, or the stream's limit).
        limit: usize,
    },
    /// The broker has no room.
    #[error("JetStream has no room: {reason}; the first {stored} events are stored")]
    Full {
        /// How many leading events of the body are stored.
        stored: u64,
        /// What the broker says.
        reason: String,
    },
    /// The broker can't be reached, has no leader, or did not answer in time.
    #[error(
        "JetStream can't store events at the moment: {reason}; the first {stored} events are stored"
    )]
    Unavailable {
        /// How many leading events of the body are stored. Later ones may be, too.
        stored: u64,
        /// Why.
        reason: String,
    },
    /// The body has no events.
    #[error("the body has no events")]
    Empty,
    /// The publisher was stopped.
    #[error("the server is stopping")]
    Closed,
}

/// Publishes into one stream. Cheap to share; ends with [`Publisher::stop`] or when dropped.
#[derive(Debug)]
pub struct Publisher {
    nats: Nats,
    submissions: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Starts the worker, which connects by itself. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(nats: &Nats, stream: &str) -> Self {
        let (submissions, received) = mpsc::channel(QUEUED_BODIES);
        let stop = CancellationToken::new();
        let worker = Worker::new(nats.clone(), stream.to_owned(), received);
        let task = tokio::spawn(worker.run(stop.clone()));
        Self {
            nats: nats.clone(),
            submissions,
            room: Arc::new(Semaphore::new(QUEUED_KIBIBYTES)),
            stop,
            task,
        }
    }

    /// Stores a body, and returns when its fate is known: at the latest after about 15 s. The events are
    /// stored in their order, and behind those of bodies of the tenant that were given before. If the
    /// caller gives up, they are stored all the same.
    ///
    /// # Errors
    ///
    /// See [`PublishError`], which says what is stored nevertheless.
    pub async fn publish(
        &self,
        tenant: TenantId,
        events: Vec<NewEvent>,
    ) -> Result<Published, PublishError> {
        if events.is_empty() {
            return Err(PublishError::Empty);
        }
        self.check_sizes(&events)?;
        check_keys(&events)?;
        let bytes: usize = events
            .iter()
            .map(|event| event.data.len() + message::overhead(event))
            .sum();
        // One that is larger than all the room takes all of it.
        let units = bytes.div_ceil(1_024).clamp(1, QUEUED_KIBIBYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(units)
            .map_err(|_| PublishError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let submission = Submission {
            tenant,
            events,
            answer,
            room,
        };
        self.submissions
            .try_send(submission)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => PublishError::Busy,
                mpsc::error::TrySendError::Closed(_) => PublishError::Closed,
            })?;
        answered.await.unwrap_or(Err(PublishError::Closed))
    }

    /// How many bytes of bodies wait or are on their way, in whole kibibytes.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        (QUEUED_KIBIBYTES - self.room.available_permits()) << 10
    }

    /// Refuses events that the broker would refuse, before any of their body is sent.
    fn check_sizes(&self, events: &[NewEvent]) -> Result<(), PublishError> {
        let limit = self.nats.client().max_payload();
        for (index, event) in events.iter().enumerate() {
            let bytes = event.data.len() + message::overhead(event);
            if bytes > limit {
                return Err(PublishError::TooLarge {
                    index,
                    bytes,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Ends the worker; what it has not stored is answered with [`PublishError::Closed`].
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the publisher has panicked");
        }
    }
}

/// Refuses a body that contradicts itself, before any of it is sent.
fn check_keys(events: &[NewEvent]) -> Result<(), PublishError> {
    let mut seen = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        if let Some(key) = event.key
            && *seen.entry(key.key).or_insert(key.digest) != key.digest
        {
            return Err(PublishError::KeyConflict { index });
        }
    }
    Ok(())
}
