//! The audience of an event: `GET /tenants/{tenant_id}/events/{cursor}/audience`.
//!
//! A stream knows from where to where it was given its view, so what became of an event on its way to it
//! follows from the event's position and facts; nothing is noted for each delivery.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use tidings_log::{ReadError, ReadLimit, Scope};
use tidings_protocol::cursor::InvalidCursor;
use tidings_protocol::operate::{Audience, AudienceEvent, AudienceStream, Outcome};
use tidings_protocol::{Position, TenantId};

use super::part::{Caller, Known, Part, merge, parts};
use super::{PageRequest, fill_page, log_unreadable, reading, text_of};
use crate::app::App;
use crate::auth::Operator;
use crate::cluster::Question;
use crate::cursors::{Resolution, appended_at};
use crate::engine::{ConnectionId, EndedStream, StreamFilter, StreamRecord};
use crate::error::Refusal;
use crate::fanout::rules::Withheld;
use crate::fanout::view::{EventFacts, visible_type};
use crate::fanout::{Conflation, Rules, TypeId, TypeTable, ViewRequest};
use crate::stream::request::{Query, read_tenant};
use crate::time::rfc3339;

/// `GET /tenants/{tenant_id}/events/{cursor}/audience`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/events/{cursor}/audience",
    tag = "operators",
    summary = "Tell which streams were shown an event, and what kept it from the others",
    description = "Of the open streams and of those that ended within a day, so far as they are remembered.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("cursor" = String, Path, description = "The event's id.", example = "1j8.42"),
        crate::openapi::AudienceParameters,
    ),
    responses(
        (status = 200, description = "A page of the streams.", body = Audience),
        crate::openapi::OperatorRefusals,
        crate::openapi::NoEvent,
    ),
    security(("access_token" = []))
)]
pub async fn audience(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path((tenant, cursor)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<Audience>, Refusal> {
    let tenant = read_tenant(&tenant)?;
    operator.check_tenant(tenant)?;
    let page = PageRequest::read(&Query::parse(query.as_deref())?)?;
    if !app.cursors.is_cursor(&cursor) {
        return Err(Refusal::parameter("cursor", InvalidCursor.to_string()));
    }
    let place = app.limits.read(operator.only_tenant())?;
    let _turn = place.turn().await;
    let asked = cursor.clone();
    let found = reading(&app, move |app| match app.cursors.position_of(&asked)? {
        Some(position) if position <= app.window.tail() => find_event(app, tenant, position),
        _ => Ok(Found::Nothing),
    })
    .await;
    let event = match found.map_err(|error| log_unreadable(&error))? {
        Found::Event(event) => event,
        Found::Expired => return Err(expired()),
        Found::Nothing => return Err(unknown()),
    };
    let own = Arc::new(operator.identity().clone());
    let own_view = app.rules(own, Some(tenant), ViewRequest::default())?;
    if own_view.why_not(event.facts(tenant), &app.types).is_some() {
        return Err(unknown());
    }

    let caller = Caller::of(&operator);
    let shown = AudienceEvent {
        id: cursor,
        event_type: event.name.clone(),
        device_id: event.device.clone(),
        time: rfc3339(event.appended_at),
    };
    let asked = AskedEvent {
        cursor: shown.id.clone(),
        kind: event.visible_name.clone(),
        device: event.device.clone(),
    };
    let own = part(&app, &caller, tenant, &event, page.after, page.limit);
    let Some(cluster) = &app.cluster else {
        let own = own.await;
        let next = own.next();
        return Ok(Json(Audience {
            event: shown,
            complete_since: rfc3339(own.complete_since),
            streams: own.streams.into_iter().map(|known| known.item).collect(),
            next,
            nodes: Vec::new(),
        }));
    };
    let question = Question::Audience {
        caller,
        tenant,
        event: asked,
        after: page.after.map(|name| name.to_string()),
        limit: page.limit,
    };
    let (own, others) = tokio::join!(own, cluster.ask(&question));
    let nodes = others.nodes(cluster.node());
    let parts = parts(cluster, own, others);
    let complete_since = parts.iter().map(|(_, part)| part.complete_since).max();
    let (streams, next) = merge(&caller, parts, page.limit);
    Ok(Json(Audience {
        event: shown,
        streams,
        complete_since: rfc3339(complete_since.unwrap_or_default()),
        next,
        nodes,
    }))
}

/// An event as one node names it to another.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct AskedEvent {
    /// Its cursor.
    pub cursor: String,
    /// The type that rules judge it by.
    pub kind: String,
    /// Its device.
    pub device: Option<String>,
}

/// What became of another node's event on its way to this node's streams behind `after`, at most `limit`.
///
/// # Errors
///
/// When the log can't be read, or can't say where the event is.
pub(crate) async fn part_for(
    app: &Arc<App>,
    caller: &Caller,
    tenant: TenantId,
    asked: AskedEvent,
    after: Option<ConnectionId>,
    limit: usize,
) -> Result<Part<AudienceStream>, Refusal> {
    let position = locate(app, asked.cursor).await?;
    let event = Event {
        position,
        kind: app.types.number(&asked.kind),
        name: String::new(),
        visible_name: asked.kind,
        device: asked.device,
        appended_at: 0,
    };
    Ok(part(app, caller, tenant, &event, after, limit).await)
}

/// What became of an event on its way to this node's streams behind `after`, at most `limit`, ascending by name.
async fn part(
    app: &Arc<App>,
    caller: &Caller,
    tenant: TenantId,
    event: &Event,
    after: Option<ConnectionId>,
    limit: usize,
) -> Part<AudienceStream> {
    let limit = limit.min(super::MAX_PAGE);
    let filter = StreamFilter {
        or_all_tenants: true,
        ..caller.streams(Some(tenant), None)
    };
    // The open ones first: a stream that ends in between is then met twice, not missed.
    let open = app.engines.list(&filter, after, limit + 1).await;
    let (ended, complete_since) = app.engines.ended().find(|stream| {
        filter.selects(stream.connection, &stream.rules)
            && after.is_none_or(|after| stream.connection > after)
    });
    let facts = event.facts(tenant);
    let (streams, next) = fill_page(
        merged(open, ended),
        limit,
        |sighting| sighting.connection,
        |sighting| {
            let outcome = outcome(&sighting, event.position, facts, &app.types);
            let known = Known {
                item: describe(&sighting, outcome),
                super_admin: sighting.rules.identity().super_admin,
                shows: sighting.rules.tenant(),
            };
            (known, 512)
        },
    );
    Part {
        streams,
        more: next.is_some(),
        complete_since,
    }
}

/// What is known of the event.
struct Event {
    position: Position,
    name: String,
    /// The type that rules judge it by.
    visible_name: String,
    /// Its number.
    kind: TypeId,
    device: Option<String>,
    appended_at: i64,
}

impl Event {
    fn facts(&self, tenant: TenantId) -> EventFacts<'_> {
        EventFacts {
            tenant,
            kind: self.kind,
            device: self.device.as_deref(),
        }
    }
}

enum Found {
    Event(Event),
    Expired,
    /// It is none of the tenant's.
    Nothing,
}

/// Where in this node's log an event is that another node has found in its own; behind everything where this node
/// does not have it yet.
async fn locate(app: &Arc<App>, cursor: String) -> Result<Position, Refusal> {
    let located = reading(app, move |app| {
        if let Some(position) = app.cursors.position_of(&cursor)? {
            return Ok(Some(position));
        }
        let tail = || app.window.tail();
        let resolved = app.cursors.resolve(Scope::All, &cursor, tail)?;
        // Where it has gone from this node alone, nobody can say what stood before it.
        Ok(matches!(resolved, Resolution::Ahead(_)).then_some(Position::MAX))
    });
    let located = located.await.map_err(|error| log_unreadable(&error))?;
    located.ok_or_else(unknown)
}

fn find_event(app: &App, tenant: TenantId, position: Position) -> Result<Found, ReadError> {
    let Some(before) = position.checked_sub(1) else {
        return Ok(Found::Nothing);
    };
    let limit = ReadLimit {
        events: 1,
        bytes: 1,
    };
    let mut found = None;
    let end = app
        .log
        .read(Scope::Tenant(tenant), before, limit, &mut |event| {
            if event.position == position {
                found = Some(Event {
                    position,
                    name: event.event_type.to_owned(),
                    visible_name: visible_type(&event).to_owned(),
                    kind: app.types.number(visible_type(&event)),
                    device: event.device.map(str::to_owned),
                    appended_at: appended_at(&event),
                });
            }
        })?;
    if let Some(event) = found {
        return Ok(Found::Event(event));
    }
    let removed = end
        .expired
        .is_some_and(|expired| position <= expired.removed_through);
    let damaged = end
        .lost
        .is_some_and(|lost| (lost.first..=lost.last).contains(&position));
    Ok(if removed || damaged {
        Found::Expired
    } else {
        Found::Nothing
    })
}

/// A stream, open or over.
struct Sighting {
    connection: ConnectionId,
    rules: Rules,
    address: std::net::IpAddr,
    opened_at: i64,
    after: Position,
    given: Position,
    /// What it did without while it lagged, if it did.
    conflated: Option<Arc<Conflation>>,
    /// When it ended, and why.
    ended: Option<(i64, &'static str)>,
}

impl From<StreamRecord> for Sighting {
    fn from(stream: StreamRecord) -> Self {
        Self {
            connection: stream.connection,
            rules: stream.rules,
            address: stream.address,
            opened_at: stream.opened_at,
            after: stream.after,
            given: stream.given,
            conflated: stream.conflation.filter(|_| stream.conflated > 0),
            ended: None,
        }
    }
}

impl From<EndedStream> for Sighting {
    fn from(stream: EndedStream) -> Self {
        Self {
            connection: stream.connection,
            rules: stream.rules,
            address: stream.address,
            opened_at: stream.opened_at,
            after: stream.after,
            given: stream.given,
            conflated: stream.conflated,
            ended: Some((stream.closed_at, stream.because)),
        }
    }
}

/// All of them, ascending by name; of a stream that was met twice, the later word.
fn merged(open: Vec<StreamRecord>, ended: Vec<EndedStream>) -> Vec<Sighting> {
    let sightings = open
        .into_iter()
        .map(Sighting::from)
        .chain(ended.into_iter().map(Sighting::from));
    let by_name: BTreeMap<ConnectionId, Sighting> = sightings
        .map(|sighting| (sighting.connection, sighting))
        .collect();
    by_name.into_values().collect()
}

/// What became of the event on its way to the stream. A rule that keeps it out comes before the place
/// where the stream stood, since with the rule no place would have done.
fn outcome(
    stream: &Sighting,
    position: Position,
    event: EventFacts<'_>,
    types: &TypeTable,
) -> Outcome {
    match stream.rules.why_not(event, types) {
        Some(Withheld::TypesClaim) => return Outcome::TypesClaim,
        Some(Withheld::DevicesClaim) => return Outcome::DevicesClaim,
        Some(Withheld::DeviceGroup) => return Outcome::DeviceGroup,
        Some(Withheld::TypesFilter) => return Outcome::TypesFilter,
        Some(Withheld::DeviceFilter) => return Outcome::DeviceFilter,
        // Streams of other tenants are not asked about.
        Some(Withheld::OtherTenant) | None => {}
    }
    if position <= stream.after {
        Outcome::OpenedAfter
    } else if position <= stream.given {
        match &stream.conflated {
            Some(conflation) if conflation.is_of(event.kind) => Outcome::PossiblyConflated,
            _ => Outcome::Sent,
        }
    } else if stream.ended.is_some() {
        Outcome::ClosedBefore
    } else {
        Outcome::NotYet
    }
}

fn describe(stream: &Sighting, outcome: Outcome) -> AudienceStream {
    let identity = stream.rules.identity();
    AudienceStream {
        connection_id: stream.connection.to_string(),
        user_id: identity.user.to_string(),
        tenant_id: text_of(identity.tenant),
        role: identity.role.to_string(),
        outcome,
        remote_address: stream.address.to_string(),
        opened_at: rfc3339(stream.opened_at),
        closed_at: stream.ended.map(|(at, _)| rfc3339(at)),
        closed_because: stream.ended.map(|(_, because)| because.to_owned()),
        node: None,
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "the tenant has no event with this cursor",
    )
}

fn expired() -> Refusal {
    Refusal::new(
        StatusCode::GONE,
        "the event has expired; what it was, and so whom it was for, is not known any more",
    )
}
