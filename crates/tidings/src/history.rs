//! The history: `GET /tenants/{tenant_id}/events`, pages of what is retained.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, RawQuery, State};
use http::HeaderMap;
use serde_json::value::RawValue;
use tidings_log::{EventRef, ReadEnd, ReadError, ReadLimit};
use tidings_protocol::api::{GapReason, HistoryEvent, HistoryPage};
use tidings_protocol::audit::AuditKind;
use tidings_protocol::{Position, TenantId};

use crate::app::App;
use crate::auth::Identity;
use crate::cursors::{CursorText, Loss, Passage, appended_at};
use crate::error::{Refusal, WRONG_TENANT};
use crate::fanout::View;
use crate::fanout::view::EventFacts;
use crate::limits::ReadPlace;
use crate::stream::request::{Query, StartRequest, bearer, read_tenant};
use crate::stream::start::{self, Start};
use crate::time;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// How much of the log one page looks at before it is given as it is, with a `next` to go on from:
/// a filter that matches little must not make one request read everything.
const MAX_EXAMINED: usize = 200_000;

/// A page ends above this size, in bytes, whatever its limit.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// What a page is asked for.
struct PageRequest {
    view: View,
    /// What comes behind it is not shown.
    tail: Position,
    start: Start,
    until: Option<i64>,
    limit: usize,
}

/// `GET /tenants/{tenant_id}/events`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/events",
    tag = "events",
    summary = "Read a tenant's retained events, page by page",
    description = "Ascending by position; begins with the oldest retained event unless `after` or `since` is given.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        crate::openapi::HistoryParameters,
    ),
    responses(
        (status = 200, description = "A page, ascending; `next` is the `after` of the next one.", body = HistoryPage),
        crate::openapi::ReadRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn history(
    State(app): State<Arc<App>>,
    Path(tenant): Path<String>,
    Extension(peer): Extension<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<(Extension<Arc<ReadPlace>>, Json<HistoryPage>), Refusal> {
    let tenant = read_tenant(&tenant)?;
    let query = Query::parse(query.as_deref())?;
    let asked = query.view(&app.known_types)?;
    let until = query.time("until")?;
    let limit = read_limit(&query)?;
    let start = match (query.get("after"), query.time("since")?) {
        (Some(cursor), _) => StartRequest::Cursor(cursor.to_owned()),
        (None, Some(since)) => StartRequest::Since(since),
        // From the oldest that is retained; that older events are gone is no gap here.
        (None, None) => StartRequest::Since(i64::MIN),
    };
    let identity = authorise(&app, &headers, peer, tenant).await?;
    let place = app.limits.read(identity.reads_for())?;
    // Before the rules are looked at: what a page shows was there while they stood.
    let tail = app.window.tail();
    let rules = app.rules(Arc::new(identity), Some(tenant), asked)?;
    let view = rules.view(&app.types);
    let from_oldest = start == StartRequest::Since(i64::MIN);
    let mut start = start::settle(&app, view.scope(), &start).await?;
    if from_oldest {
        start.gaps.clear();
    }
    let request = PageRequest {
        view,
        tail,
        start,
        until,
        limit,
    };
    let turn = place.turn().await;
    let permit = app.history_readers.acquire().await;
    let reader = Arc::clone(&app);
    let page = tokio::task::spawn_blocking(move || read_page(&reader, &request)).await;
    drop((permit, turn));
    // What was read before a purge is not shown after it.
    app.check_living(tenant)?;
    match page {
        Ok(Ok(page)) => Ok((Extension(Arc::new(place)), Json(page))),
        Ok(Err(error)) => {
            tidings_log::seldom!(error, %error, "the log can't be read for a page of the history");
            Err(Refusal::unavailable(
                "the log can't be read at the moment",
                std::time::Duration::from_secs(2),
            ))
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Finds out who reads, and whether they may read of this tenant.
///
/// # Errors
///
/// 401 without a good access token, 403 with another tenant's, 429 after too many bad ones.
pub async fn authorise(
    app: &App,
    headers: &HeaderMap,
    peer: SocketAddr,
    tenant: TenantId,
) -> Result<Identity, Refusal> {
    let refused = |refusal: &Refusal, who: Option<&Identity>| {
        let what = AuditKind::ReadRefused;
        app.audit
            .refused(what, refusal, who, Some(tenant), peer.ip());
    };
    let identity = identify(app, headers, peer).await;
    let identity = identity.inspect_err(|refusal| refused(refusal, None))?;
    if identity.super_admin || identity.tenant == Some(tenant) {
        return Ok(identity);
    }
    let refusal = Refusal::forbidden(WRONG_TENANT);
    refused(&refusal, Some(&identity));
    Err(refusal)
}

async fn identify(app: &App, headers: &HeaderMap, peer: SocketAddr) -> Result<Identity, Refusal> {
    app.limits.failures_exceeded(peer.ip())?;
    let token = bearer(headers).ok_or_else(|| {
        Refusal::unauthorized("reading needs Authorization: Bearer with an access token")
    })?;
    app.authenticate(token, peer.ip()).await
}

fn read_limit(query: &Query) -> Result<usize, Refusal> {
    let Some(text) = query.get("limit") else {
        return Ok(DEFAULT_LIMIT);
    };
    match text.parse() {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(Refusal::parameter(
            "limit",
            format!("must be a number from 1 to {MAX_LIMIT}"),
        )),
    }
}

/// Reads a page. Looks only at the tenant's own events.
fn read_page(app: &App, request: &PageRequest) -> Result<HistoryPage, ReadError> {
    let tail = request.tail;
    let Start {
        after,
        passage,
        gaps,
        ..
    } = request.start.clone();
    let mut gap = gaps.into_iter().next();
    let mut page = Page {
        app,
        request,
        events: Vec::new(),
        bytes: 0,
        next: after,
        passage,
        full: false,
    };
    let mut examined = 0;
    while !page.full && page.next < tail && examined < MAX_EXAMINED {
        let before = page.next;
        // One that lies in the passage was told with it.
        let told = page.passage.as_ref().map_or(0, |passage| passage.until);
        let loss = app.cursors.losses().first_after(before.max(told));
        let loss = loss.filter(|loss| loss.position <= tail);
        let shown = loss.map_or(tail, |loss| loss.position - 1);
        let limit = ReadLimit {
            events: 4096,
            bytes: 1024 * 1024,
        };
        let end = app
            .log
            .read(request.view.scope(), before, limit, &mut |event| {
                examined += 1;
                if event.position <= shown {
                    page.offer(&event);
                }
            })?;
        if page.full {
            break;
        }
        let lost = loss
            .filter(|loss| loss.position <= end.examined_through)
            .map(|loss| Missing {
                after: loss.position - 1,
                resume_after: loss.position,
                source: app.cursors.missing_of(&loss).source,
            });
        let missing = missing(&end, before).into_iter().chain(lost);
        match missing.min_by_key(|missing| missing.after) {
            // First the events before what is missing; the gap begins the next page.
            Some(missing) if missing.after > before => {
                page.next = missing.after.min(tail);
                break;
            }
            Some(missing) => {
                page.next = missing.resume_after.max(page.next).min(tail);
                let requested = app.cursor(before).to_string();
                gap.get_or_insert_with(|| {
                    let resumed_at = app.cursor(page.next);
                    start::gap(&requested, &resumed_at, GapReason::Expired, missing.source)
                });
            }
            None => page.next = end.examined_through.min(tail).max(page.next),
        }
        if page.next == before {
            break;
        }
    }
    Ok(HistoryPage {
        next: page.cursor().to_string(),
        events: page.events,
        gap,
    })
}

/// Events that a read could not visit.
struct Missing {
    /// They come after this position.
    after: Position,
    /// The history goes on after this one.
    resume_after: Position,
    /// Of which source, where one is to blame.
    source: Option<String>,
}

/// What is damaged on disk, or was removed by retention while the page was read.
fn missing(end: &ReadEnd, before: Position) -> Option<Missing> {
    if let Some(expired) = end
        .expired
        .filter(|expired| expired.removed_through > before)
    {
        return Some(Missing {
            after: before,
            resume_after: expired.resume_after,
            source: None,
        });
    }
    end.lost.map(|lost| Missing {
        after: lost.first - 1,
        resume_after: lost.last,
        source: None,
    })
}

/// A page being filled.
struct Page<'a> {
    app: &'a App,
    request: &'a PageRequest,
    events: Vec<HistoryEvent>,
    bytes: usize,
    /// Everything of the view up to here is in the page.
    next: Position,
    /// The way from the cursor that was asked for.
    passage: Option<Passage>,
    full: bool,
}

impl Page<'_> {
    /// The cursor of what comes after the page.
    fn cursor(&self) -> CursorText {
        match &self.passage {
            Some(passage) if self.next < passage.until => passage.at(self.app.cursors.ids()),
            _ => self.app.cursor(self.next),
        }
    }

    fn offer(&mut self, event: &EventRef<'_>) {
        if self.full || Loss::of(event).is_some() {
            return;
        }
        if self.events.len() >= self.request.limit
            || self.bytes >= MAX_PAGE_BYTES
            || self
                .request
                .until
                .is_some_and(|until| appended_at(event) >= until)
        {
            self.full = true;
            return;
        }
        self.next = event.position;
        let ids = self.app.cursors.ids();
        let id = match &mut self.passage {
            Some(passage) if event.position <= passage.until => passage.admit(event, ids),
            _ => Some(ids.id(event)),
        };
        let Some(id) = id else {
            return;
        };
        let facts = EventFacts::of(event, &self.app.types);
        if self.request.view.allows(facts) {
            self.bytes += event.data.len();
            self.events.push(HistoryEvent {
                id: id.to_string(),
                event_type: event.event_type.to_owned(),
                device_id: event.device.map(str::to_owned),
                time: time::rfc3339(appended_at(event)),
                data: raw(event.data),
            });
        }
    }
}

/// A payload as JSON; it was checked when it was published.
fn raw(data: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(data).into_owned();
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
