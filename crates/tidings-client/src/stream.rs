//! A stream that opens itself again.
//!
//! The place to resume at moves when an event is taken from the stream, not when its bytes arrive:
//! who stops between two events and starts again with [`EventStream::last_event_id`] gets the
//! second one.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde::Deserialize;
use tidings_protocol::api::{Closing, Gap, SubjectState};
use tidings_protocol::sse::{Decoder, Event, Frame};
use tidings_protocol::{DeviceId, EventType, TenantId};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::{Client, list};
use crate::error::ClientError;
use crate::request::Target;

/// How long the head of a stream may take to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// What a stream shows, where it begins and how patient it is.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Whose events; `None` is `GET /events/stream`, all tenants, for a `super_admin`.
    pub tenant: Option<TenantId>,
    /// Only these types; all where empty.
    pub types: Vec<EventType>,
    /// Only these devices; all where empty.
    pub devices: Vec<DeviceId>,
    /// Begin with the first event appended at or after this time, RFC 3339. A cursor wins.
    pub since: Option<String>,
    /// Only the tenant in the path, also for a `super_admin`.
    pub scope_tenant: bool,
    /// Begin with the last event of each living subject, and again behind each gap. A cursor wins; not
    /// together with `since`.
    pub snapshot: bool,
    /// Of which types the latest of each subject will do while the stream lags.
    pub conflate: Conflate,
    /// Begin after this cursor; without it and without `since`, with what comes.
    pub cursor: Option<String>,
    /// A line without a byte for so long counts as dead: two heartbeats and a little.
    pub silence: Duration,
    /// The first wait before opening again, until the server's `retry:` says otherwise.
    pub retry: Duration,
    /// The longest wait of one's own choosing; the server's `Retry-After` may be longer.
    pub longest_wait: Duration,
    /// Longest event that is accepted, in bytes.
    pub longest_event: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            tenant: None,
            types: Vec::new(),
            devices: Vec::new(),
            since: None,
            scope_tenant: false,
            snapshot: false,
            conflate: Conflate::Nothing,
            cursor: None,
            silence: Duration::from_secs(35),
            retry: Duration::from_secs(2),
            longest_wait: Duration::from_secs(30),
            longest_event: 32 << 20,
        }
    }
}

/// Of which types the latest event of each subject will do while a stream lags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Conflate {
    /// Of none: every event comes.
    #[default]
    Nothing,
    /// Of those that the server's configuration names.
    Default,
    /// Of these.
    Types(Vec<EventType>),
}

impl Conflate {
    fn parameter(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Default => Some("default".to_owned()),
            Self::Types(types) => list(types),
        }
    }
}

/// What comes out of a stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamEvent {
    /// The server has opened the stream, for the first time or again.
    Connected {
        /// The connection's name in the server's log, `sse-` and 12 hex digits.
        connection_id: String,
    },
    /// An event of the log, or one of the server's own that has no variant here.
    Event(Event),
    /// The last event of a subject, as part of a snapshot. A picture that was kept before is to be given
    /// up with the first.
    Snapshot(SubjectState),
    /// The snapshot is complete; what comes after this cursor follows.
    SnapshotEnd {
        /// Where all of it is true.
        cursor: String,
    },
    /// The stream stands at another place though no event of its view came.
    Moved {
        /// Where.
        cursor: String,
    },
    /// A stretch of the log can't be given; the stream goes on behind it.
    Gap(Gap),
    /// The server can't read or append its log for now; nothing newer is known.
    Stale(Stale),
    /// The end of [`Stale`](Self::Stale).
    Fresh,
    /// The server is about to end the stream; unless its reason is final it opens again.
    Closing(Closing),
    /// The stream is down and opens again after `wait`.
    Interrupted {
        /// What ended it; nothing where the server closed it without an error.
        cause: Option<ClientError>,
        /// How long until the next attempt.
        wait: Duration,
    },
}

/// The data of a `stale` event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Stale {
    /// Since when nothing newer is known, RFC 3339.
    #[serde(default)]
    pub since: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Incoming>, ClientError>> + Send>>;

enum Phase {
    /// Down until then.
    Waiting(Instant),
    /// A token is minted and the stream asked for. The future lives here, so that a caller which
    /// drops `next` half-way (in a `select!`) does not spend one token after another.
    Opening(Opening),
    Open(Line),
    /// Nothing more will come but, once, what ended it.
    Ended(Option<ClientError>),
}

/// An open response.
struct Line {
    body: Incoming,
    decoder: Decoder,
    /// When the line counts as dead.
    silent_at: Instant,
    announced: bool,
    /// The wait that a `closing` asked for.
    closing: Option<Duration>,
}

/// A stream of one view, see [`Client::stream`]. Dropping it closes the connection.
pub struct EventStream {
    client: Client,
    options: StreamOptions,
    phase: Phase,
    ready: VecDeque<(Option<String>, StreamEvent)>,
    frames: Vec<Frame>,
    last_event_id: Option<String>,
    backoff: Backoff,
    /// A 401 was answered with a fresh token already.
    refreshed: bool,
}

impl EventStream {
    pub(crate) fn new(client: Client, options: StreamOptions) -> Self {
        Self {
            backoff: Backoff::new(options.retry, options.longest_wait),
            last_event_id: options.cursor.clone(),
            phase: Phase::Waiting(Instant::now()),
            ready: VecDeque::new(),
            frames: Vec::new(),
            refreshed: false,
            client,
            options,
        }
    }

    /// The cursor of the last event (or move, or gap) that was taken: what to resume with.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// The next event. Can be dropped and called again at any time without losing anything.
    ///
    /// Ends with an error where the server's answer is final (401 after one try with a fresh
    /// token, 403, 410, 422 and the other refusals for what was asked), and with `None` after it.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, ClientError>> {
        loop {
            if let Some((id, event)) = self.ready.pop_front() {
                if id.is_some() {
                    self.last_event_id = id;
                }
                return Some(Ok(event));
            }
            match &mut self.phase {
                Phase::Ended(error) => return error.take().map(Err),
                Phase::Waiting(until) => {
                    tokio::time::sleep_until(*until).await;
                    self.phase = Phase::Opening(self.open());
                }
                Phase::Opening(opening) => match opening.as_mut().await {
                    Ok(response) => self.opened(response),
                    Err(error) => self.failed_to_open(error),
                },
                Phase::Open(line) => {
                    let frame = tokio::time::timeout_at(line.silent_at, line.body.frame()).await;
                    match frame {
                        Ok(Some(Ok(frame))) => {
                            // Trailers say nothing in an event stream.
                            if let Ok(bytes) = frame.into_data() {
                                self.received(&bytes);
                            }
                        }
                        Ok(Some(Err(error))) => {
                            let error = self.client.server().broken(error);
                            self.interrupted(Some(error));
                        }
                        Ok(None) => self.interrupted(None),
                        Err(_) => {
                            let error = self.client.server().silent(self.options.silence);
                            self.interrupted(Some(error));
                        }
                    }
                }
            }
        }
    }

    /// Mints a token and asks for the stream after the last event that was taken.
    fn open(&self) -> Opening {
        let client = self.client.clone();
        let path = match self.options.tenant {
            Some(tenant) => format!("/tenants/{tenant}/events/stream"),
            None => "/events/stream".to_owned(),
        };
        let since = match self.last_event_id {
            Some(_) => None,
            None => self.options.since.as_deref(),
        };
        let target = Target::new(path)
            .with("last_event_id", self.last_event_id.as_deref())
            .with("since", since)
            .with("types", list(&self.options.types).as_deref())
            .with("device_id", list(&self.options.devices).as_deref())
            .with("snapshot", self.options.snapshot.then_some("true"))
            .with("conflate", self.options.conflate.parameter().as_deref())
            .with("scope", self.options.scope_tenant.then_some("tenant"));
        Box::pin(async move {
            let grant = client.mint_stream_token().await?;
            let target = target.with("token", Some(&grant.token));
            let server = client.server();
            let response = server
                .send(Method::GET, target, None, None, HEAD_TIMEOUT)
                .await?;
            let event_stream = response
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            if event_stream {
                Ok(response)
            } else {
                Err(server.unexpected("the answer is no text/event-stream".to_owned()))
            }
        })
    }

    fn opened(&mut self, response: Response<Incoming>) {
        self.refreshed = false;
        let connection_id = response
            .headers()
            .get("x-connection-id")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let announced = connection_id.is_some();
        if let Some(connection_id) = connection_id {
            self.ready
                .push_back((None, StreamEvent::Connected { connection_id }));
        }
        self.phase = Phase::Open(Line {
            body: response.into_body(),
            decoder: Decoder::new(self.options.longest_event),
            silent_at: Instant::now() + self.options.silence,
            announced,
            closing: None,
        });
    }

    fn failed_to_open(&mut self, error: ClientError) {
        if error.status() == Some(401) && !self.refreshed {
            // The stream token may have been lost with the server that minted it, or the access
            // token have run out since it was fetched: once, without a wait.
            self.refreshed = true;
            self.phase = Phase::Waiting(Instant::now());
        } else if error.is_temporary() {
            self.interrupted(Some(error));
        } else {
            self.phase = Phase::Ended(Some(error));
        }
    }

    fn interrupted(&mut self, cause: Option<ClientError>) {
        let asked = match &self.phase {
            Phase::Open(line) => line.closing,
            _ => None,
        };
        // The server has spread the waits of its `closing` itself.
        let wait = asked.unwrap_or_else(|| {
            let retry_after = cause.as_ref().and_then(ClientError::retry_after);
            self.backoff.next(retry_after)
        });
        self.phase = Phase::Waiting(Instant::now() + wait);
        self.ready
            .push_back((None, StreamEvent::Interrupted { cause, wait }));
    }

    fn received(&mut self, bytes: &Bytes) {
        let Phase::Open(line) = &mut self.phase else {
            return;
        };
        line.silent_at = Instant::now() + self.options.silence;
        let fed = line.decoder.feed(bytes, &mut self.frames);
        for frame in self.frames.drain(..) {
            match frame {
                Frame::Retry(milliseconds) => {
                    self.backoff.set_base(Duration::from_millis(milliseconds));
                }
                Frame::Comment(text) => {
                    if let Some(id) = text.strip_prefix("connected ")
                        && !line.announced
                    {
                        line.announced = true;
                        let connection_id = id.to_owned();
                        self.ready
                            .push_back((None, StreamEvent::Connected { connection_id }));
                    }
                }
                Frame::Event(event) => {
                    self.backoff.reset();
                    let id = (!event.id.is_empty()).then(|| event.id.clone());
                    let event = interpret(event);
                    if let StreamEvent::Closing(closing) = &event {
                        line.closing = Some(Duration::from_millis(closing.retry));
                    }
                    self.ready.push_back((id, event));
                }
            }
        }
        if let Err(error) = fed {
            self.phase = Phase::Ended(Some(error.into()));
        }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EventStream")
            .field("options", &self.options)
            .field("last_event_id", &self.last_event_id)
            .finish_non_exhaustive()
    }
}

/// The server's own events by name. One whose data is not as expected stays a plain event, so that
/// nothing that was said is lost.
fn interpret(event: Event) -> StreamEvent {
    match event.event.as_str() {
        "cursor" => StreamEvent::Moved { cursor: event.id },
        "fresh" => StreamEvent::Fresh,
        "snapshot_end" => StreamEvent::SnapshotEnd { cursor: event.id },
        "snapshot" => match serde_json::from_str(&event.data) {
            Ok(subject) => StreamEvent::Snapshot(subject),
            Err(_) => StreamEvent::Event(event),
        },
        "gap" => match serde_json::from_str(&event.data) {
            Ok(gap) => StreamEvent::Gap(gap),
            Err(_) => StreamEvent::Event(event),
        },
        "stale" => match serde_json::from_str(&event.data) {
            Ok(stale) => StreamEvent::Stale(stale),
            Err(_) => StreamEvent::Event(event),
        },
        "closing" => match serde_json::from_str(&event.data) {
            Ok(closing) => StreamEvent::Closing(closing),
            Err(_) => StreamEvent::Event(event),
        },
        _ => StreamEvent::Event(event),
    }
}
