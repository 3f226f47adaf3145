//! The node's connection, and what is known of its health.

use std::sync::Arc;
use std::time::SystemTime;

use async_nats::{Client, ClientError, Event};
use tokio::sync::watch;

use super::options::{NatsOptions, pause_before};
use crate::config::ConfigError;
use crate::time;

/// Whether the NATS servers can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// A connection stands.
    Connected,
    /// There is none, and one is tried for.
    Away {
        /// Since when, in microseconds since the Unix epoch.
        since: i64,
        /// What the last attempt said; no secret is in it.
        reason: String,
    },
}

/// The node's connection to NATS. Clones share it; it lasts as long as the process and comes back by
/// itself, however long the servers are away.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    options: Arc<NatsOptions>,
    connectivity: watch::Receiver<Connectivity>,
}

impl Nats {
    /// Begins to connect, and returns at once: [`Self::connectivity`] says when a connection stands. Must
    /// be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When an address can't be one.
    pub async fn connect(options: NatsOptions) -> Result<Self, ConfigError> {
        let options = Arc::new(options);
        let (report, connectivity) = watch::channel(Connectivity::Away {
            since: time::unix_microseconds(SystemTime::now()),
            reason: "not connected yet".to_owned(),
        });
        let identity = Arc::clone(&options);
        let client = options
            .connect_options(move |nonce| {
                let options = Arc::clone(&identity);
                async move { options.authenticate(&nonce).await }
            })
            .retry_on_initial_connect()
            .reconnect_delay_callback(pause_before)
            .event_callback(move |event| {
                note(&report, &event);
                std::future::ready(())
            })
            .connect(options.urls.clone())
            .await
            .map_err(|error| ConfigError::new("nats.url", error.to_string()))?;
        Ok(Self {
            client,
            options,
            connectivity,
        })
    }

    /// The client. What is published through it while the servers are away waits, up to some thousand
    /// messages, and then keeps its callers waiting.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the connection was made with.
    #[must_use]
    pub fn options(&self) -> &Arc<NatsOptions> {
        &self.options
    }

    /// Whether the servers can be reached, and each change of it.
    #[must_use]
    pub fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.connectivity.clone()
    }

    /// Whether a connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connectivity.borrow() == Connectivity::Connected
    }
}

/// Turns what the client tells into what is known.
fn note(report: &watch::Sender<Connectivity>, event: &Event) {
    match event {
        Event::Connected => {
            let before = report.send_replace(Connectivity::Connected);
            if before != Connectivity::Connected {
                tracing::info!("nats_connected");
            }
        }
        Event::Disconnected | Event::Closed => away(report, "the connection was lost"),
        Event::ClientError(ClientError::Other(reason)) => away(report, reason),
        Event::ServerError(error) => {
            // Missing permissions, most of all. The server goes on, and so does the connection.
            tidings_log::seldom!(warn, %error, "nats_refused");
        }
        Event::SlowConsumer(subscription) => {
            tidings_log::seldom!(warn, subscription, "nats_messages_dropped");
        }
        Event::ClientError(_) | Event::LameDuckMode | Event::Draining => {
            tracing::debug!(%event, "nats_event");
        }
    }
}

fn away(report: &watch::Sender<Connectivity>, why: &str) {
    let now = time::unix_microseconds(SystemTime::now());
    report.send_if_modified(|state| match state {
        Connectivity::Connected => {
            tracing::warn!(reason = why, "nats_away");
            *state = Connectivity::Away {
                since: now,
                reason: why.to_owned(),
            };
            true
        }
        Connectivity::Away { reason, .. } if reason != why => {
            tracing::warn!(reason = why, "nats_away");
            why.clone_into(reason);
            true
        }
        Connectivity::Away { .. } => false,
    });
}
