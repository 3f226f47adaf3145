//! What the handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings_log::{Health, Log};
use tidings_protocol::{Cursor, EventType, Position};
use tokio::sync::Semaphore;

use crate::auth::{AccessTokens, PublisherKeys, StreamTokens};
use crate::config::Config;
use crate::engine::Engines;
use crate::error::Refusal;
use crate::fanout::{TypeTable, Window};
use crate::ingest::subject::Subjects;
use crate::limits::Limits;
use crate::registry::Registry;

/// How many pages of the history are read at once.
pub const HISTORY_READERS: usize = 4;

/// How many requests wait for the state at once, each on a thread.
pub const STATE_READERS: usize = 16;

/// The server's parts, each of which looks after its own state.
pub struct App {
    /// The resolved configuration.
    pub config: Config,
    /// The event types that there are here.
    pub known_types: Vec<EventType>,
    /// What their events are the latest state of.
    pub subjects: Subjects,
    /// The log.
    pub log: Log,
    /// Its newest part, encoded.
    pub window: Arc<Window>,
    /// Event types as numbers.
    pub types: Arc<TypeTable>,
    /// The open streams.
    pub engines: Arc<Engines>,
    /// Verifies access tokens.
    pub access_tokens: AccessTokens,
    /// Stream tokens that were not used yet.
    pub stream_tokens: StreamTokens,
    /// API keys of publishers.
    pub publisher_keys: PublisherKeys,
    /// Purged tenants and device groups.
    pub registry: Registry,
    /// Counts and rates.
    pub limits: Limits,
    /// Permits to read pages of the history.
    pub history_readers: Semaphore,
    /// Permits to wait for the state.
    pub state_readers: Semaphore,
    /// Set once the server is on its way out.
    pub draining: AtomicBool,
}

impl App {
    /// The cursor of a position of this log.
    #[must_use]
    pub fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            epoch: self.log.epoch(),
            position,
        }
    }

    /// Why the server can't open streams now, if it can't.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("the server is stopping".to_owned());
        }
        match self.log.health() {
            Health::Failed { reason, .. } => {
                tracing::debug!(reason, "not ready");
                Some("the log has stopped after a failed write; restart the server".to_owned())
            }
            // With a full disk streams are read as before; they are told that nothing new comes.
            Health::Healthy | Health::Full { .. } => None,
        }
    }

    /// Refuses what this server can't do now.
    ///
    /// # Errors
    ///
    /// 503.
    pub fn check_serving(&self) -> Result<(), Refusal> {
        match self.unready() {
            None => Ok(()),
            Some(reason) => Err(Refusal::unavailable(reason, Duration::from_secs(2))),
        }
    }
}
