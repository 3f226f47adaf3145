//! The publish endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body as RequestBody;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use smallvec::SmallVec;
use tidings_log::{NewEvent, NewSubject, Subject};
use tidings_protocol::TenantId;
use tidings_protocol::api::PublishReceipt;

use super::body::{self, Body, Layout};
use super::envelope::Terms;
use super::publisher::Author;
use super::receive::receive;
use super::store::{Stored, store};
use crate::app::App;
use crate::error::Refusal;
use crate::metrics::StoredBody;
use crate::stream::request::read_tenant;
use crate::traces::Traced;

/// The header that makes a whole request safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /tenants/{tenant_id}/events`.
///
/// # Errors
///
/// As the protocol has it; nothing is stored unless 200 is answered.
#[utoipa::path(
    post,
    path = "/tenants/{tenant_id}/events",
    tag = "events",
    summary = "Publish events, durably, all or none",
    description = "The body is stored whole or not at all, and answered when it is durable.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("Idempotency-Key" = Option<String>, Header, description = "A key for events without their own, extended by the line's number. The same key with another event is refused for two minutes."),
    ),
    request_body(content(
        (crate::openapi::PublishedEvent = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "Stored, and safe from the loss of the process.", body = PublishReceipt),
        crate::openapi::PublishRefusals,
    ),
    security(("access_token" = []), ("api_key" = []))
)]
pub async fn publish(
    State(app): State<Arc<App>>,
    Path(tenant): Path<String>,
    Extension(peer): Extension<SocketAddr>,
    request: Request,
) -> Result<Response, Refusal> {
    let (Parts { headers, .. }, body) = request.into_parts();
    take_in(&app, &tenant, peer, headers, body).await
}

/// What [`publish`] does, for a caller that has the parts of the request at hand.
///
/// Headers and body are pieces of the connection's buffer: it can be read into again when they are gone, so
/// neither is kept while the log is waited for.
///
/// # Errors
///
/// Those of [`publish`].
pub async fn take_in(
    app: &App,
    tenant: &str,
    peer: SocketAddr,
    headers: HeaderMap,
    body: RequestBody,
) -> Result<Response, Refusal> {
    let mut traced = Traced::default();
    let admitted = admit(app, tenant, peer, headers, body, &mut traced).await;
    traced.end(admitted.as_ref().map_or_else(Refusal::status, |_| 200));
    match &admitted {
        Ok((tenant, stored, body)) => app.metrics.stored(
            *tenant,
            StoredBody {
                accepted: stored.accepted,
                duplicates: stored.duplicates,
                bytes: body.bytes,
                took: body.received.elapsed(),
            },
        ),
        Err(refusal) => app.metrics.not_stored(refusal.status()),
    }
    admitted.map(|(_, stored, _)| receipt(&stored))
}

/// A body that came in whole.
struct Received {
    bytes: u64,
    received: Instant,
}

/// Checks a publish and stores it.
async fn admit(
    app: &App,
    tenant: &str,
    peer: SocketAddr,
    headers: HeaderMap,
    body: RequestBody,
    traced: &mut Traced,
) -> Result<(TenantId, Stored, Received), Refusal> {
    let arrival = app.arrival();
    let tenant = read_tenant(tenant)?;
    let author = Author::identify(app, &headers, tenant, peer.ip()).await?;
    *traced = app.traced("publish", &headers, arrival);
    traced.tenant(Some(tenant));
    if app.store.is_read_only() {
        return Err(Refusal::read_only());
    }
    app.check_living(tenant)?;
    let layout = Layout::of(&headers)?;
    let request_key = request_key(&headers)?;
    drop(headers);
    let config = app.config();
    let (bytes, room) = receive(app, body, config.limits.body_bytes).await?;
    let received = Received {
        bytes: bytes.len() as u64,
        received: Instant::now(),
    };
    traced.mark("received");
    traced.count("tidings.body_bytes", received.bytes);
    let terms = Terms {
        tenant,
        known_types: &app.known_types,
        event_bytes: config.tenant(tenant).event_bytes,
        subjects: &app.subjects,
        publisher: &author.name,
        request_key: request_key.as_deref(),
    };
    let Body { events, lines } = body::read(layout, &bytes, &terms, &config.limits)?;
    // What is kept of it from here on waits in the log's queue, which has a bound of its own.
    drop((bytes, room));
    let refused = |refusal: &Refusal| author.refused(app, tenant, refusal, peer.ip());
    author.check_again(app).inspect_err(refused)?;
    author.check(&events, &lines).inspect_err(refused)?;
    let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
    check_subjects(app, tenant, &events).inspect_err(refused)?;
    author.charge(app, count).inspect_err(refused)?;
    let allowed = app.limits.publish_allowed(tenant, count);
    allowed.map_err(Refusal::from).inspect_err(refused)?;
    traced.mark("admitted");
    traced.count("tidings.events", count.into());
    let stored = store(app, tenant, events).await;
    let stored = stored.map_err(|error| match error.key_conflict() {
        Some(index) => {
            let line = lines.get(index).copied().unwrap_or(1);
            Refusal::from(error).at_line(line)
        }
        None => error.into(),
    })?;
    author.published(app, tenant, count);
    traced.count("tidings.duplicates", stored.duplicates);
    Ok((tenant, stored, received))
}

fn request_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=200).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::parameter(
            "Idempotency-Key",
            "must be 1 to 200 visible characters",
        )),
    }
}

/// Refuses a body that would bring the tenant over its subjects of a type.
fn check_subjects(app: &App, tenant: TenantId, events: &[NewEvent]) -> Result<(), Refusal> {
    let subjects: SmallVec<[Subject<'_>; 8]> = events
        .iter()
        .filter_map(|event| event.subject.as_ref().map(NewSubject::as_ref))
        .collect();
    match app.log.state().would_exceed(tenant, &subjects) {
        None => Ok(()),
        Some(kind) => Err(Refusal::too_many(
            format!(
                "the tenant has its {} subjects of {kind} (limits.subjects_per_type); remove a device or end some",
                app.config().limits.subjects_per_type
            ),
            Duration::from_mins(1),
        )),
    }
}

fn receipt(stored: &Stored) -> Response {
    use axum::response::IntoResponse as _;
    let first = stored.first.to_string();
    let last = if stored.last == stored.first {
        first.clone()
    } else {
        stored.last.to_string()
    };
    Json(PublishReceipt {
        accepted: stored.accepted,
        duplicates: stored.duplicates,
        first,
        last,
    })
    .into_response()
}
