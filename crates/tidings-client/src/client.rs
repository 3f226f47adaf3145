//! Requests that end: stream tokens, publishing, history, state.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tidings_protocol::api::{HistoryPage, PublishReceipt, StreamTokenGrant, TenantState};
use tidings_protocol::{DeviceId, EventType, TenantId};

use crate::access::AccessToken;
use crate::error::ClientError;
use crate::event::{NewEvent, write_line};
use crate::request::{Server, Target};
use crate::stream::{EventStream, StreamOptions};

pub(crate) const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// How long an answer may take: a publish waits for its sync, a history page for its reads.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One server and one identity. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    server: Server,
    access: AccessToken,
}

/// Which part of a tenant's history to read.
#[derive(Clone, Debug, Default)]
pub struct HistoryOptions {
    /// Only events after this cursor; the `next` of the page before.
    pub after: Option<String>,
    /// Only events appended at or after this time, RFC 3339.
    pub since: Option<String>,
    /// Only events appended before this time, RFC 3339.
    pub until: Option<String>,
    /// At most so many events, 1 to 1,000; the server's own default is 100.
    pub limit: Option<u16>,
    /// Only these types; all where empty.
    pub types: Vec<EventType>,
    /// Only these devices; all where empty.
    pub devices: Vec<DeviceId>,
}

/// Which part of a tenant's state to read.
#[derive(Clone, Debug, Default)]
pub struct StateOptions {
    /// Only these types; all where empty.
    pub types: Vec<EventType>,
    /// Only these devices; all where empty.
    pub devices: Vec<DeviceId>,
}

impl Client {
    /// A client of the server at `base_url`, such as `https://events.example.com` or, where the API is
    /// mounted elsewhere, `http://127.0.0.1:8080/api`. Over TLS the server's certificate must be of an
    /// authority that the system trusts. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidUrl`] and, of a URL with `https`, [`ClientError::NoTls`].
    pub fn new(base_url: &str, access: AccessToken) -> Result<Self, ClientError> {
        Self::trusting(base_url, access, None)
    }

    /// As [`new`](Self::new), and trusts the authorities in `ca_file`, a PEM file, beside the system's.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn trusting(
        base_url: &str,
        access: AccessToken,
        ca_file: Option<&Path>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            server: Server::new(base_url, ca_file)?,
            access,
        })
    }

    /// Trades the access token for a secret that opens one stream, within half a minute:
    /// `POST /auth/sse-token`.
    pub async fn mint_stream_token(&self) -> Result<StreamTokenGrant, ClientError> {
        self.ask(Method::POST, "/auth/sse-token".to_owned(), None)
            .await
    }

    /// A stream that opens when it is first read.
    #[must_use]
    pub fn stream(&self, options: StreamOptions) -> EventStream {
        EventStream::new(self.clone(), options)
    }

    /// Publishes events of one tenant, in order, whole or not at all; the answer comes when they
    /// are durable. A repeat after an error is safe where every event has a key.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with the problem's `line` counted from 1 in `events`. An empty
    /// slice is refused by the server, too.
    pub async fn publish(
        &self,
        tenant: TenantId,
        events: &[NewEvent],
    ) -> Result<PublishReceipt, ClientError> {
        let mut body = Vec::new();
        for event in events {
            write_line(&mut body, event)
                .map_err(|error| self.server.unexpected(error.to_string()))?;
        }
        let content_type = if events.len() == 1 { JSON } else { NDJSON };
        self.publish_body(tenant, content_type, body.into()).await
    }

    /// Publishes lines of NDJSON as they are.
    pub async fn publish_lines(
        &self,
        tenant: TenantId,
        lines: Bytes,
    ) -> Result<PublishReceipt, ClientError> {
        self.publish_body(tenant, NDJSON, lines).await
    }

    async fn publish_body(
        &self,
        tenant: TenantId,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<PublishReceipt, ClientError> {
        let path = format!("/tenants/{tenant}/events");
        self.ask(Method::POST, path, Some((content_type, body)))
            .await
    }

    /// One page of a tenant's history, oldest first. Its `next` is the `after` of the page behind
    /// it; a page with fewer events than its limit reached the end.
    pub async fn history(
        &self,
        tenant: TenantId,
        options: &HistoryOptions,
    ) -> Result<HistoryPage, ClientError> {
        let target = Target::new(format!("/tenants/{tenant}/events"))
            .with("after", options.after.as_deref())
            .with("since", options.since.as_deref())
            .with("until", options.until.as_deref())
            .with(
                "limit",
                options.limit.map(|limit| limit.to_string()).as_deref(),
            )
            .with("types", list(&options.types).as_deref())
            .with("device_id", list(&options.devices).as_deref());
        self.ask_for(Method::GET, target, None).await
    }

    /// The last event of each living subject of a tenant, and the cursor that it is true at. Whoever goes
    /// on from there, by stream or history, misses nothing.
    pub async fn state(
        &self,
        tenant: TenantId,
        options: &StateOptions,
    ) -> Result<TenantState, ClientError> {
        let access_token = self.access.get().await?;
        let target = Target::new(format!("/tenants/{tenant}/state"))
            .with("types", list(&options.types).as_deref())
            .with("device_id", list(&options.devices).as_deref());
        self.server
            .send_for(
                Method::GET,
                target,
                Some(&access_token),
                None,
                ANSWER_TIMEOUT,
            )
            .await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<T, ClientError> {
        self.ask_for(method, Target::new(path), body).await
    }

    pub(crate) async fn ask_for<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        target: Target,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<T, ClientError> {
        let access_token = self.access.get().await?;
        self.server
            .send_for(method, target, Some(&access_token), body, ANSWER_TIMEOUT)
            .await
    }

    pub(crate) fn access(&self) -> &AccessToken {
        &self.access
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// A comma-separated list, or nothing where it is empty.
pub(crate) fn list<T: ToString>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| {
        items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    })
}
