//! The open streams: `GET /streams`, `DELETE /streams/{connection_id}`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidings_log::{ReadError, ReadLimit};
use tidings_protocol::api::ClosingReason;
use tidings_protocol::audit::AuditKind;
use tidings_protocol::operate::{ConnectionRevoked, StreamInfo, StreamList};
use tidings_protocol::{Position, TenantId};

use super::part::{Caller, Known, Part, merge, parts};
use super::revoke::revoke;
use super::{PageRequest, fill_page, log_unreadable, reading, rfc3339_seconds, text_of};
use crate::app::App;
use crate::auth::Operator;
use crate::auth::revocation::Revoked;
use crate::cluster::{Node, Question};
use crate::engine::{ConnectionId, StreamFilter, StreamRecord};
use crate::error::Refusal;
use crate::fanout::view::EventFacts;
use crate::stream::request::Query;
use crate::time::{rfc3339, unix_microseconds};

/// How many events are looked at to count what one stream still has to be given.
const LAG_EXAMINED: usize = 10_000;

/// How many for all streams of a page together.
const PAGE_EXAMINED: usize = 500_000;

/// `GET /streams`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/streams",
    tag = "operators",
    summary = "List the open streams",
    description = "A super admin sees all; a tenant's operator those of its tenant, but none of a super admin.",
    params(crate::openapi::StreamListParameters),
    responses(
        (status = 200, description = "A page of the open streams.", body = StreamList),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    operator: Operator,
    RawQuery(query): RawQuery,
) -> Result<Json<StreamList>, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let page = PageRequest::read(&query)?;
    let tenant = query.tenant()?;
    if let Some(tenant) = tenant {
        operator.check_tenant(tenant)?;
    }
    let place = app.limits.read(operator.only_tenant())?;
    let _turn = place.turn().await;
    let user = query.get("user").map(ToOwned::to_owned);
    let caller = Caller::of(&operator);
    let filter = caller.streams(tenant, user.clone());
    let own = part(&app, filter, page.after, page.limit);
    let Some(cluster) = &app.cluster else {
        let own = own.await.map_err(|error| log_unreadable(&error))?;
        let next = own.next();
        let streams = own.streams.into_iter().map(|known| known.item).collect();
        return Ok(Json(StreamList {
            streams,
            next,
            nodes: Vec::new(),
        }));
    };
    let question = Question::Streams {
        caller,
        tenant,
        user,
        after: page.after.map(|name| name.to_string()),
        limit: page.limit,
    };
    let (own, others) = tokio::join!(own, cluster.ask(&question));
    let own = own.map_err(|error| log_unreadable(&error))?;
    let nodes = others.nodes(cluster.node());
    let (streams, next) = merge(&caller, parts(cluster, own, others), page.limit);
    Ok(Json(StreamList {
        streams,
        next,
        nodes,
    }))
}

/// This node's open streams behind `after`, at most `limit`, ascending by name.
///
/// # Errors
///
/// When the log can't be read.
pub(crate) async fn part(
    app: &Arc<App>,
    filter: StreamFilter,
    after: Option<ConnectionId>,
    limit: usize,
) -> Result<Part<StreamInfo>, ReadError> {
    let limit = limit.min(super::MAX_PAGE);
    // One more than asked for tells whether there is another page.
    let records = app.engines.list(&filter, after, limit + 1).await;
    reading(app, move |app| describe(app, records, limit)).await
}

fn describe(
    app: &App,
    records: Vec<StreamRecord>,
    limit: usize,
) -> Result<Part<StreamInfo>, ReadError> {
    let mut lags = Lags {
        app,
        tail: app.window.tail(),
        now: unix_microseconds(SystemTime::now()),
        left: PAGE_EXAMINED,
        last: None,
    };
    let mut failed = None;
    let (streams, next) = fill_page(
        records,
        limit,
        |record| record.connection,
        |record| {
            let lag = lags.of(&record).unwrap_or_else(|error| {
                failed = Some(error);
                Lag::default()
            });
            let weight = 512 + record.rules.weight();
            let known = Known {
                super_admin: record.rules.identity().super_admin,
                shows: record.rules.tenant(),
                item: describe_one(app, &record, lag),
            };
            (known, weight)
        },
    );
    match failed {
        Some(error) => Err(error),
        None => Ok(Part {
            streams,
            more: next.is_some(),
            complete_since: 0,
        }),
    }
}

fn describe_one(app: &App, record: &StreamRecord, lag: Lag) -> StreamInfo {
    let identity = record.rules.identity();
    StreamInfo {
        connection_id: record.connection.to_string(),
        user_id: identity.user.to_string(),
        tenant_id: text_of(identity.tenant),
        role: identity.role.to_string(),
        view: record.rules.described(),
        cursor: app.cursor(record.given).to_string(),
        lag_events: lag.events,
        lag_exact: lag.exact,
        lag_seconds: lag.seconds,
        events: record.events,
        bytes: record.bytes,
        conflated: record.conflated,
        opened_at: rfc3339(record.opened_at),
        expires_at: rfc3339_seconds(identity.expires_at),
        remote_address: record.address.to_string(),
        node: None,
    }
}

/// How far a stream is behind.
#[derive(Clone, Copy, Debug)]
struct Lag {
    events: u64,
    exact: bool,
    seconds: f64,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            events: 0,
            exact: true,
            seconds: 0.0,
        }
    }
}

/// Counts what streams still have to be given, for as long as that costs little.
struct Lags<'a> {
    app: &'a App,
    tail: Position,
    now: i64,
    /// How many events may still be looked at.
    left: usize,
    /// The last that was counted: streams that stall together have much in common.
    last: Option<(Arc<crate::fanout::View>, Position, Lag)>,
}

impl Lags<'_> {
    fn of(&mut self, record: &StreamRecord) -> Result<Lag, ReadError> {
        if record.given >= self.tail {
            return Ok(Lag::default());
        }
        if let Some((view, given, lag)) = &self.last
            && *given == record.given
            && **view == *record.view
        {
            return Ok(*lag);
        }
        let lag = self.count(record)?;
        self.last = Some((Arc::clone(&record.view), record.given, lag));
        Ok(lag)
    }

    fn count(&mut self, record: &StreamRecord) -> Result<Lag, ReadError> {
        let (mut events, mut oldest) = (0, None);
        let mut after = record.given;
        let mut budget = LAG_EXAMINED.min(self.left);
        self.left -= budget;
        while after < self.tail && budget > 0 {
            let limit = ReadLimit {
                events: budget,
                bytes: 4 * 1024 * 1024,
            };
            let before = budget;
            let scope = record.view.scope();
            let end = self.app.log.read(scope, after, limit, &mut |event| {
                budget = budget.saturating_sub(1);
                let facts = EventFacts::of(&event, &self.app.types);
                if event.position <= self.tail && record.view.allows(facts) {
                    events += 1;
                    oldest.get_or_insert(event.appended_at);
                }
            })?;
            if end.examined_through <= after && budget == before {
                break;
            }
            after = end.examined_through;
        }
        let seconds = oldest.map_or(0, |oldest: i64| (self.now - oldest).max(0));
        Ok(Lag {
            events,
            exact: after >= self.tail,
            seconds: seconds as f64 / 1e6,
        })
    }
}

/// `DELETE /streams/{connection_id}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/streams/{connection_id}",
    tag = "operators",
    summary = "End an open stream, and with `revoke` revoke what opened it",
    description = "Without `revoke` it only disconnects: whoever has a valid access token may come back at once. With it the access token that opened the stream is revoked, where it has an id (`jti`).",
    params(
        ("connection_id" = String, Path, description = "The stream's name.", example = "sse-1f0c9a7be210"),
        ("revoke" = Option<bool>, Query, description = "Revokes the access token that opened it, too."),
    ),
    responses(
        (status = 200, description = "With `revoke`: the stream is closed, and what became of its access token.", body = ConnectionRevoked),
        (status = 204, description = "The stream is closed."),
        crate::openapi::OperatorRefusals,
        crate::openapi::TooManyRevocations,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn disconnect(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(connection): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let connection: ConnectionId =
        connection
            .parse()
            .map_err(|error: crate::engine::InvalidConnectionId| {
                Refusal::parameter("connection_id", error.to_string())
            })?;
    if Query::parse(query.as_deref())?.flag("revoke")? {
        let revoked = revoke_of(&app, &operator, connection).await?;
        return Ok(Json(revoked).into_response());
    }
    close_everywhere(&app, &operator, connection).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Ends a stream, on whichever node it is.
async fn close_everywhere(
    app: &Arc<App>,
    operator: &Operator,
    connection: ConnectionId,
) -> Result<(), Refusal> {
    let caller = Caller::of(operator);
    let mut closed = close(app, &caller, connection).await;
    if let Some(cluster) = app.cluster.as_ref().filter(|_| closed == 0) {
        let question = Question::Close {
            caller,
            connection: connection.to_string(),
        };
        let others = cluster.ask::<usize>(&question).await;
        closed = others.answers.iter().map(|(_, closed)| closed).sum();
        if closed == 0 {
            return Err(nowhere(connection, &others.silent));
        }
    }
    if closed == 0 {
        return Err(nowhere(connection, &[]));
    }
    let what = AuditKind::StreamDisconnected;
    app.audit
        .changed(what, operator.identity(), None, connection);
    tracing::info!(
        target: "tidings::operate",
        connection_id = %connection,
        operator = %operator.identity().user,
        "stream_disconnected"
    );
    Ok(())
}

/// No node has the stream, of those that answer.
fn nowhere(connection: ConnectionId, silent: &[Node]) -> Refusal {
    if silent.is_empty() {
        return Refusal::new(
            StatusCode::NOT_FOUND,
            format!("there is no open stream {connection}"),
        );
    }
    let silent: Vec<&str> = silent.iter().map(|node| &*node.name).collect();
    Refusal::unavailable(
        format!(
            "no node that answers has the open stream {connection}; these don't answer: {}",
            silent.join(", ")
        ),
        Duration::from_secs(2),
    )
}

/// Who opened a stream, and with which access token, as one node tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opener {
    user: Arc<str>,
    tenant: Option<TenantId>,
    super_admin: bool,
    token_id: Option<Arc<str>>,
}

/// Who opened a stream of this node that the caller may know of.
pub(crate) async fn opener(app: &App, caller: &Caller, connection: ConnectionId) -> Option<Opener> {
    let filter = StreamFilter {
        connection: Some(connection),
        ..caller.streams(None, None)
    };
    let found = app.engines.list(&filter, None, 1).await;
    let identity = found.first()?.rules.identity();
    Some(Opener {
        user: Arc::clone(&identity.user),
        tenant: identity.tenant,
        super_admin: identity.super_admin,
        token_id: identity.token_id.clone(),
    })
}

/// Revokes the access token that opened a stream, where it can be meant; ends the stream in any case.
async fn revoke_of(
    app: &Arc<App>,
    operator: &Operator,
    connection: ConnectionId,
) -> Result<ConnectionRevoked, Refusal> {
    let caller = Caller::of(operator);
    let mut found = opener(app, &caller, connection).await;
    let mut silent = Vec::new();
    if let Some(cluster) = app.cluster.as_ref().filter(|_| found.is_none()) {
        let question = Question::Opener {
            caller,
            connection: connection.to_string(),
        };
        let others = cluster.ask::<Option<Opener>>(&question).await;
        found = others.answers.into_iter().find_map(|(_, found)| found);
        silent = others.silent;
    }
    let opener = found.ok_or_else(|| nowhere(connection, &silent))?;
    let mut answer = ConnectionRevoked {
        revoked_at: None,
        token_id: opener.token_id.as_deref().map(str::to_owned),
        user_id: opener.user.to_string(),
        tenant_id: text_of(opener.tenant),
        streams_closed: 1,
        nodes: Vec::new(),
    };
    let Some(token_id) = opener.token_id else {
        close_everywhere(app, operator, connection).await?;
        return Ok(answer);
    };
    // Ids of tokens are the issuers' own: another tenant's may have the same.
    let whose = match opener.tenant.filter(|_| !opener.super_admin) {
        Some(tenant) => Revoked::TokenOf(tenant, token_id),
        None => Revoked::Token(token_id),
    };
    let Json(revoked) = revoke(app, operator, whose).await?;
    answer.revoked_at = Some(revoked.revoked_at);
    answer.streams_closed = revoked.streams_closed;
    answer.nodes = revoked.nodes;
    Ok(answer)
}

/// Ends a stream of this node that the caller may know of; how many that were.
pub(crate) async fn close(app: &App, caller: &Caller, connection: ConnectionId) -> usize {
    let filter = StreamFilter {
        connection: Some(connection),
        ..caller.streams(None, None)
    };
    let reason = ClosingReason::Disconnected;
    app.engines.close_streams(&filter, reason).await
}
