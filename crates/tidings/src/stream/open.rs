//! The checks that a stream passes, in the order of the protocol, and its handing over.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tidings_log::StateSnapshot;
use tidings_protocol::api::{Closing, ClosingReason};
use tidings_protocol::audit::{AuditEntry, AuditKind};
use tidings_protocol::sse;

use super::passage::{self, Given};
use super::preamble;
use super::request::{Credential, PARAMETERS, StartRequest, StreamRequest};
use super::start::{self, Start};
use crate::app::App;
use crate::audit;
use crate::auth::{Identity, Looked};
use crate::connection::HandOver;
use crate::cors;
use crate::engine::{
    self, Coding, ConnectionId, OpenStream, Recheck, SnapshotReading, StreamSink, Ticket, coding,
};
use crate::error::{INVALID_STREAM_TOKEN, Refusal, WRONG_TENANT};
use crate::fanout::{Conflation, View};
use crate::front::Unhurried;
use crate::metrics::outcome::Begin;
use crate::operate::groups::still_the_same;
use crate::state;
use crate::time::{unix_microseconds, unix_seconds};
use crate::traces::Traced;

/// The header that names a stream to its client.
pub const CONNECTION_ID: &str = "x-connection-id";

/// `GET /tenants/{tenant_id}/events/stream`.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/events/stream",
    tag = "streams",
    summary = "Watch a tenant's events as they happen",
    description = "A stream of server-sent events. A super_admin sees all tenants unless `scope=tenant`.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        crate::openapi::StreamParameters,
    ),
    responses(
        (status = 200, description = "The stream.", content_type = "text/event-stream", body = String),
        crate::openapi::StreamRefusals,
    ),
    security(("stream_token" = []), ("access_token" = []))
)]
pub async fn tenant_stream(
    State(app): State<Arc<App>>,
    Path(tenant): Path<String>,
    request: Request,
) -> Response {
    answer(app, Some(tenant), request).await
}

/// `GET /events/stream`.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "streams",
    summary = "Watch the events of all tenants as they happen (super_admin)",
    params(crate::openapi::StreamParameters),
    responses(
        (status = 200, description = "The stream.", content_type = "text/event-stream", body = String),
        crate::openapi::StreamRefusals,
    ),
    security(("stream_token" = []), ("access_token" = []))
)]
pub async fn all_tenants_stream(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(app, None, request).await
}

async fn answer(app: Arc<App>, tenant: Option<String>, request: Request) -> Response {
    // A GET's body, if there is one, is of no interest.
    let (request, _) = request.into_parts();
    let attempt = Attempt::new(&app, &request);
    let mut traced = Traced::default();
    match attempt.run(tenant.as_deref(), &request, &mut traced).await {
        Ok(response) => response,
        Err(refusal) => {
            traced.end(refusal.status());
            app.metrics.openings.refused(refusal.status());
            let asked = tenant.as_deref().and_then(|tenant| tenant.parse().ok());
            let (who, address) = (attempt.who.get().map(|who| &**who), attempt.address);
            app.audit
                .refused(AuditKind::StreamRefused, &refusal, who, asked, address);
            // The detail of a wrong parameter may quote it, and what is sent in the wrong place may be a token.
            let parameter = refusal.problem().parameter.as_deref();
            tracing::info!(
                target: "tidings::stream",
                address = %attempt.address,
                status = refusal.status(),
                parameter = parameter.map(loggable),
                detail = parameter.is_none().then(|| refusal.detail()),
                "stream_refused"
            );
            refusal.into_response()
        }
    }
}

/// A parameter's name, as the log may have it: one of those that a client has thought of itself is as good as a value.
fn loggable(parameter: &str) -> &str {
    if PARAMETERS.contains(&parameter) {
        parameter
    } else {
        "another"
    }
}

/// One try to open a stream.
struct Attempt<'a> {
    app: &'a Arc<App>,
    began: Instant,
    address: IpAddr,
    /// A `HEAD` request passes the same checks but takes nothing.
    head_only: bool,
    /// Whose the credential is, once that is known.
    who: OnceLock<Arc<Identity>>,
}

/// A credential that was looked at, and whom it stands for.
enum Shown<'t> {
    AccessToken(Arc<Identity>),
    /// The token and what it was found to be; not taken yet.
    StreamToken(&'t str, Looked),
}

impl Shown<'_> {
    fn identity(&self) -> &Arc<Identity> {
        match self {
            Self::AccessToken(identity) => identity,
            Self::StreamToken(_, looked) => looked.identity(),
        }
    }
}

/// What a stream is given first, and how.
struct Beginning {
    start: Start,
    /// The way to the start, on the wire.
    passage: Vec<u8>,
    /// True where the start is.
    snapshot: Option<StateSnapshot>,
    wants_snapshot: bool,
    conflation: Option<Arc<Conflation>>,
}

/// A stream that has passed all checks.
struct Granted {
    stream: OpenStream,
    headers: HeaderMap,
}

impl<'a> Attempt<'a> {
    fn new(app: &'a Arc<App>, request: &Parts) -> Self {
        let peer = request.extensions.get::<SocketAddr>();
        Self {
            app,
            began: Instant::now(),
            address: peer.map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip),
            head_only: request.method == Method::HEAD,
            who: OnceLock::new(),
        }
    }

    async fn run(
        &self,
        tenant: Option<&str>,
        request: &Parts,
        traced: &mut Traced,
    ) -> Result<Response, Refusal> {
        let app = self.app;
        let arrival = app.arrival();
        let config = app.config();
        let parameters = StreamRequest::parse(
            tenant,
            request.uri.query(),
            &request.headers,
            &app.known_types,
            &config.stream.conflate,
        )?;
        app.check_opening()?;
        if parameters.snapshot {
            state::check_ready(app)?;
        }
        let (shown, sees_all) = self.authorise(&parameters).await?;
        let identity = Arc::clone(shown.identity());
        if self.head_only {
            return Ok((StatusCode::OK, stream_headers(None)).into_response());
        }
        *traced = app.traced("open_stream", &request.headers, arrival);
        traced.mark("authorised");
        let shown_tenant = if sees_all { None } else { parameters.tenant };
        traced.tenant(shown_tenant);
        let rules = app.rules(Arc::clone(&identity), shown_tenant, parameters.view.clone())?;
        let view = rules.view(&app.types);
        // What is acknowledged after the client has seen the head is behind the tail that is fixed here.
        let mut start = start::settle(app, view.scope(), &parameters.start).await?;
        let from_cursor = matches!(parameters.start, StartRequest::Cursor(_));
        let snapshot = if parameters.snapshot && (!from_cursor || !start.gaps.is_empty()) {
            let snapshot = state::snapshot(app, view.scope())?;
            start.begin_at(snapshot.through(), app.cursor(snapshot.through()));
            Some(snapshot)
        } else {
            None
        };
        let passage = self.passage(&view, &mut start).await?;
        traced.mark("start_found");
        traced.count("tidings.gaps", start.gaps.len() as u64);
        let beginning = Beginning {
            start,
            passage,
            snapshot,
            wants_snapshot: parameters.snapshot,
            conflation: conflation(app, &parameters),
        };
        // A super admin's streams are no tenant's, whatever its access token says.
        let counted_for = identity.tenant.filter(|_| !identity.super_admin);
        let place = app
            .limits
            .reserve(counted_for, &identity.user, self.address)?;
        // From here on a request that is cancelled gives its place back by dropping it.
        if !self.take(&shown).await? {
            return Err(Refusal::unauthorized(INVALID_STREAM_TOKEN));
        }

        let connection = ConnectionId::random();
        traced.set("tidings.connection_id", || connection.to_string());
        let ticket = Ticket {
            connection,
            identity,
            rules,
            tenant: parameters.tenant,
            address: self.address,
            opened_at: unix_microseconds(SystemTime::now()),
            place: Some(place),
        };
        let begin = Begin::of(&parameters.start, beginning.snapshot.is_some());
        app.audit.note(opened(&ticket));
        traced.set("tidings.begin", || begin.as_str());
        // From here on an engine has the stream, or it is over at once.
        traced.end(200);
        let ends = beginning.start.passage.is_some();
        let granted = self.grant(&request.headers, view, beginning, ticket);
        if ends {
            return Ok(short_stream(app, granted));
        }
        app.metrics.openings.opened(begin, self.began.elapsed());
        hand_over(app, request, granted).await
    }

    /// Who asks, and whether the stream sees all tenants. Takes nothing, except a token at a tenant it is not for.
    async fn authorise<'r>(
        &self,
        parameters: &'r StreamRequest,
    ) -> Result<(Shown<'r>, bool), Refusal> {
        let app = self.app;
        app.limits.failures_exceeded(self.address)?;
        let shown = self.look_up(&parameters.credential).await?;
        let _ = self.who.set(Arc::clone(shown.identity()));
        let sees_all = self.check_tenant(parameters, &shown).await?;
        let identity = shown.identity();
        if let Some(tenant) = parameters.tenant {
            app.check_living(tenant)?;
        }
        if identity.expires_at <= unix_seconds(SystemTime::now()) {
            return Err(Refusal::unauthorized(
                "the access token behind this stream has expired",
            ));
        }
        if app.registry.revocations().cover(identity) {
            return Err(Refusal::unauthorized(
                "the access token behind this stream was revoked",
            ));
        }
        Ok((shown, sees_all))
    }

    /// Reads the way to the start, and moves the start to its end if it has one: where it is too long it
    /// stays in the start, and the stream is to end with it.
    async fn passage(&self, view: &View, start: &mut Start) -> Result<Vec<u8>, Refusal> {
        let Some(mut passage) = start.passage.take() else {
            return Ok(Vec::new());
        };
        let _permit = self.app.opening_readers.acquire().await;
        let (app, view, after) = (Arc::clone(self.app), view.clone(), start.after);
        let reading = tokio::task::spawn_blocking(move || {
            let mut wire = Vec::new();
            passage::write(&app, &view, after, &mut passage, &mut wire)
                .map(|given| (wire, given, passage))
        });
        let (wire, given, passage) = match reading.await {
            Ok(read) => read.map_err(|error| log_unavailable(&error))?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        match given {
            Given::Whole(position) => start.after = position,
            Given::Part => start.passage = Some(passage),
        }
        Ok(wire)
    }

    async fn look_up<'t>(&self, credential: &'t Credential) -> Result<Shown<'t>, Refusal> {
        match credential {
            Credential::StreamToken(token) => {
                let found = self
                    .app
                    .stream_tokens
                    .look(token)
                    .await
                    .map_err(tokens_unavailable)?;
                let looked = found
                    .ok_or_else(|| self.failure(Refusal::unauthorized(INVALID_STREAM_TOKEN)))?;
                Ok(Shown::StreamToken(token, looked))
            }
            Credential::AccessToken(token) => {
                let identity = self.app.authenticate(token, self.address).await?;
                Ok(Shown::AccessToken(Arc::new(identity)))
            }
        }
    }

    /// Counts a failed attempt against the address.
    fn failure(&self, refusal: Refusal) -> Refusal {
        self.app.limits.failure_recorded(self.address);
        refusal
    }

    /// Whether the stream sees all tenants. A token that is shown at a tenant it is not for is
    /// spent by that.
    async fn check_tenant(
        &self,
        parameters: &StreamRequest,
        shown: &Shown<'_>,
    ) -> Result<bool, Refusal> {
        let identity = shown.identity();
        if identity.super_admin {
            return Ok(!parameters.tenant_only);
        }
        if parameters.tenant.is_some() && identity.tenant == parameters.tenant {
            return Ok(false);
        }
        if !self.head_only {
            self.take(shown).await?;
        }
        Err(Refusal::forbidden(WRONG_TENANT))
    }

    /// Takes the stream token that was shown, if it was one; false where another has it.
    async fn take(&self, shown: &Shown<'_>) -> Result<bool, Refusal> {
        match shown {
            Shown::AccessToken(_) => Ok(true),
            Shown::StreamToken(token, looked) => self
                .app
                .stream_tokens
                .take(token, looked)
                .await
                .map_err(tokens_unavailable),
        }
    }

    fn grant(
        &self,
        request: &HeaderMap,
        view: View,
        beginning: Beginning,
        ticket: Ticket,
    ) -> Granted {
        let app = self.app;
        let config = app.config();
        let start = &beginning.start;
        let ends = start.passage.is_some();
        let mut headers = stream_headers(Some(ticket.connection));
        let offered: &[Coding] = if ends {
            &[]
        } else {
            &config.stream.compression
        };
        let coding = negotiate(offered, request, &mut headers);
        cors::allow(&config.cors, request, &mut headers);
        for gap in &start.gaps {
            app.metrics.openings.gap(gap.reason);
        }
        let mut preamble = Vec::new();
        preamble::write_opening(
            &mut preamble,
            config.stream.retry,
            ticket.connection,
            &start.gaps,
            &start.at,
            beginning.snapshot.is_some(),
        );
        preamble.extend_from_slice(&beginning.passage);
        tracing::info!(
            target: "tidings::stream",
            connection_id = %ticket.connection,
            tenant_id = ticket.tenant.map(tracing::field::display),
            user_id = %ticket.identity.user,
            role = %ticket.identity.role,
            address = %ticket.address,
            cursor = %start.at,
            snapshot = beginning.snapshot.as_ref().map(StateSnapshot::len),
            gap = start.gaps.first().map(|gap| tracing::field::debug(gap.reason)),
            "stream_requested"
        );
        let (sink, _) = engine::body();
        let stream = OpenStream {
            // Replaced by the hand-over, which alone knows where the bytes go.
            sink: StreamSink::Body(sink),
            view,
            after: start.after,
            announced: start.announced,
            coding,
            head: Vec::new(),
            preamble,
            snapshot: beginning.snapshot.map(SnapshotReading::new),
            wants_snapshot: beginning.wants_snapshot,
            conflation: beginning.conflation,
            recheck: Some(self.recheck(&ticket)),
            ticket,
        };
        Granted { stream, headers }
    }
}

impl Attempt<'_> {
    /// What the engine asks again when it takes the stream over.
    fn recheck(&self, ticket: &Ticket) -> Recheck {
        let identity = Arc::clone(&ticket.identity);
        let tenant = ticket.rules.tenant();
        let group = ticket.rules.group();
        let members = ticket.rules.group_members().cloned();
        let registry = Arc::clone(&self.app.registry);
        Recheck::new(move || {
            if registry.revocations().cover(&identity) {
                return Some(ClosingReason::Revoked);
            }
            if tenant.is_some_and(|tenant| registry.purged().contains(tenant)) {
                return Some(ClosingReason::Deleted);
            }
            let changed = group.is_some_and(|(tenant, name)| {
                !still_the_same(&registry, tenant, &name, members.as_ref())
            });
            changed.then_some(ClosingReason::ViewChanged)
        })
    }
}

/// What is told of a stream that was opened.
fn opened(ticket: &Ticket) -> AuditEntry {
    let entry = audit::by_whom(AuditKind::StreamOpened, &ticket.identity);
    AuditEntry {
        tenant_id: entry.tenant_id.or(ticket.tenant),
        address: Some(ticket.address.to_string()),
        connection_id: Some(ticket.connection.to_string()),
        ..entry
    }
}

/// What a stream can do without that asked for that.
fn conflation(app: &App, parameters: &StreamRequest) -> Option<Arc<Conflation>> {
    let names = parameters.conflate.as_ref()?;
    let names = names.iter().map(String::as_str);
    Some(Arc::new(Conflation::new(&app.types, names)))
}

/// Gives the stream to an engine: with the connection's socket over HTTP/1, with a body that hyper
/// writes over HTTP/2.
async fn hand_over(app: &App, request: &Parts, granted: Granted) -> Result<Response, Refusal> {
    let Granted {
        mut stream,
        headers,
    } = granted;
    let hand_over = request.extensions.get::<HandOver>();
    if let (Some(connection), true) = (hand_over, request.version < Version::HTTP_2) {
        stream.head = http1_head(&headers);
        connection.give(stream);
        // The connection's driver takes the socket back from hyper and drops this future.
        return std::future::pending().await;
    }
    let (sink, body) = engine::body();
    stream.sink = StreamSink::Body(sink);
    app.engines.open(stream).await;
    let mut response = (StatusCode::OK, headers, axum::body::Body::new(body)).into_response();
    response.extensions_mut().insert(Unhurried);
    Ok(response)
}

/// A stream that ends with what it begins with, and whose client comes back for more.
fn short_stream(app: &App, granted: Granted) -> Response {
    let Granted { stream, headers } = granted;
    // No engine takes it over, so what it was authorised by is looked at again here.
    let ended = stream.recheck.and_then(Recheck::ask);
    let mut wire = match ended {
        Some(_) => Vec::new(),
        None => stream.preamble,
    };
    let closing = Closing {
        reason: ended.unwrap_or(ClosingReason::Disconnected),
        retry: preamble::jittered(app.config().stream.retry),
        conflated: 0,
    };
    let data = serde_json::to_vec(&closing).expect("a plain struct");
    sse::write_event_without_id(&mut wire, "closing", &data);
    (StatusCode::OK, headers, wire).into_response()
}

/// Chooses how the stream's bytes are coded, and says so in the response.
fn negotiate(offered: &[Coding], request: &HeaderMap, response: &mut HeaderMap) -> Coding {
    if offered.is_empty() {
        return Coding::Identity;
    }
    response.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let accepted: Vec<&str> = request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let coding = coding::negotiate(offered, &accepted.join(","));
    if let Some(name) = coding.name() {
        response.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    coding
}

fn stream_headers(connection: Option<ConnectionId>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, content_type);
    let caching = HeaderValue::from_static("no-store, no-transform");
    headers.insert(header::CACHE_CONTROL, caching);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(connection) = connection {
        let name = HeaderValue::try_from(connection.to_string()).expect("plain ASCII");
        headers.insert(CONNECTION_ID, name);
    }
    headers
}

/// The head of a response whose body ends with the connection (RFC 9112, section 6.3), so that the
/// same bytes serve HTTP/1.0 proxies.
fn http1_head(headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    for (name, value) in headers {
        head.extend_from_slice(title_case(name.as_str()).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    head.extend_from_slice(format!("Date: {date}\r\nConnection: close\r\n\r\n").as_bytes());
    head
}

/// `content-type` as `Content-Type`: what old proxies and people expect to read.
fn title_case(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|letter| {
            let written = if upper {
                letter.to_ascii_uppercase()
            } else {
                letter
            };
            upper = letter == '-';
            written
        })
        .collect()
}

/// The log can't be read.
pub(super) fn log_unavailable(error: &tidings_log::ReadError) -> Refusal {
    tidings_log::seldom!(error, %error, "the log can't be read");
    Refusal::unavailable(
        "the log can't be read at the moment",
        Duration::from_secs(2),
    )
}

fn tokens_unavailable(_: crate::auth::Unavailable) -> Refusal {
    Refusal::unavailable(
        "stream tokens can't be checked at the moment",
        Duration::from_secs(2),
    )
}
