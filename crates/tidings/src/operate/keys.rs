//! Publishers' API keys: `/keys`.
//!
//! A change is one function from the key as it is to the key as it becomes, so that it is the same where a node stands
//! alone and where nodes share a bucket and change it by compare-and-set. From its answer on the node obeys it; other
//! nodes do within a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;
use tidings_protocol::audit::AuditKind;
use tidings_protocol::keys::{IssuedKey, KeyInfo, KeyList, KeyRotation, NewKey};
use tidings_protocol::operate::NodeAnswer;
use tidings_protocol::{EventType, TenantId};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::app::App;
use crate::auth::{KeySecret, ManagedKey, Operator, Publisher};
use crate::cluster::{BucketError, Question};
use crate::config::Bound;
use crate::error::Refusal;
use crate::ingest::receive::receive;
use crate::registry::RegistryError;
use crate::time::{parse_rfc3339, rfc3339, unix_microseconds};

/// The largest body of a change, in bytes: a thousand tenants and as many types fit.
const MAX_BODY: usize = 256 * 1024;

/// The longest name, in characters.
const MAX_NAME: usize = 64;

/// How long the secret of before a rotation is good where nothing is said, and at most.
const OVERLAP: Duration = Duration::from_hours(1);
const LONGEST_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// How often it is written when keys were last used.
const STORE_USES_EVERY: Duration = Duration::from_secs(30);

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotChanged {
    /// There is no such key, or none that the operator may know of.
    Unknown,
    /// It is revoked.
    Revoked,
}

/// A change could not be made.
enum Failure {
    Not(NotChanged),
    Registry(RegistryError),
    Cluster(BucketError),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Not(NotChanged::Unknown) => unknown(),
            Failure::Not(NotChanged::Revoked) => Self::new(
                StatusCode::CONFLICT,
                "the key was revoked, which is for good; make another",
            ),
            Failure::Cluster(error) => error.into(),
            Failure::Registry(error) => {
                tracing::error!(%error, "an API key can't be changed");
                Self::unavailable(
                    "the change can't be stored at the moment; the key is as it was",
                    Duration::from_secs(5),
                )
            }
        }
    }
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such API key")
}

/// Which keys an operator may know of and change: a super admin all, another those of its tenant alone.
fn may_know(operator: &Operator, key: &ManagedKey) -> bool {
    let own = operator.only_tenant();
    own.is_none_or(|own| key.is_only_of(own))
}

/// `GET /keys`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/keys",
    tag = "keys",
    summary = "List the API keys of publishers, without their secrets",
    description = "A super admin sees all, those of the configuration among them; a tenant's operator those that are for its tenant alone.",
    responses(
        (status = 200, description = "The keys, those that were revoked among them.", body = KeyList),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    operator: Operator,
) -> Result<Json<KeyList>, Refusal> {
    operator.require_all_devices()?;
    let (uses, nodes) = uses_of_all(&app).await;
    let now = unix_microseconds(SystemTime::now());
    let used = |id: &str| uses.get(id).copied().map(rfc3339);
    let own = operator.only_tenant();
    let configured = app.publisher_keys.configured();
    let configured = configured
        .iter()
        .filter(|publisher| match (own, &publisher.tenants) {
            (None, _) => true,
            (Some(own), Bound::Only(tenants)) => **tenants == [own],
            (Some(_), Bound::All) => false,
        })
        .map(|publisher| describe_configured(publisher));
    let made = app.registry.keys().all();
    let made = made
        .iter()
        .filter(|(_, key)| may_know(&operator, key))
        .map(|(id, key)| describe(id, key, &operator, used(id), now));
    let mut keys: Vec<KeyInfo> = configured.chain(made).collect();
    keys.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    Ok(Json(KeyList { keys, nodes }))
}

fn describe_configured(publisher: &Publisher) -> KeyInfo {
    KeyInfo {
        id: publisher.id.to_string(),
        name: None,
        configured: true,
        tenants: texts(&publisher.tenants),
        types: texts(&publisher.types),
        publish_rate: None,
        created_at: None,
        created_by: None,
        expires_at: None,
        old_secret_until: None,
        last_used_at: None,
        revoked_at: None,
    }
}

fn texts<T: ToString>(bound: &Bound<T>) -> Option<Vec<String>> {
    match bound {
        Bound::All => None,
        Bound::Only(items) => Some(items.iter().map(ToString::to_string).collect()),
    }
}

fn describe(
    id: &str,
    key: &ManagedKey,
    operator: &Operator,
    last_used_at: Option<String>,
    now: i64,
) -> KeyInfo {
    let publisher = key.publisher(id);
    // Of super admins a tenant's operator is told nothing.
    let may_know_who = !key.by_super_admin || operator.only_tenant().is_none();
    KeyInfo {
        id: id.to_owned(),
        name: Some(key.name.clone()),
        configured: false,
        tenants: texts(&publisher.tenants),
        types: texts(&publisher.types),
        publish_rate: key.publish_rate,
        created_at: Some(rfc3339(key.created_at)),
        created_by: may_know_who.then(|| key.created_by.clone()),
        expires_at: key.expires_at.map(rfc3339),
        old_secret_until: key.old_secret_until(now).map(rfc3339),
        last_used_at,
        revoked_at: key.revoked_at.map(rfc3339),
    }
}

/// When keys were last used, on whichever node.
async fn uses_of_all(app: &App) -> (HashMap<String, i64>, Vec<NodeAnswer>) {
    let mut uses = own_uses(app);
    let Some(cluster) = &app.cluster else {
        return (uses, Vec::new());
    };
    let others = cluster
        .ask::<HashMap<String, i64>>(&Question::KeyUses)
        .await;
    for (id, at) in others.answers.iter().flat_map(|(_, uses)| uses) {
        let known = uses.entry(id.clone()).or_insert(*at);
        *known = (*known).max(*at);
    }
    (uses, others.nodes(cluster.node()))
}

/// When keys were last used on this node.
pub(crate) fn own_uses(app: &App) -> HashMap<String, i64> {
    let uses = app.registry.keys().uses();
    uses.into_iter()
        .map(|(id, at)| (id.to_string(), at))
        .collect()
}

/// `POST /keys`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "keys",
    summary = "Make an API key for a publisher",
    description = "The key is in the answer and never shown again. A super admin makes keys for any tenants; a tenant's operator for its own.",
    request_body(content = NewKey, content_type = "application/json"),
    responses(
        (status = 201, description = "The key is durable, and good from now on.", body = IssuedKey),
        crate::openapi::KeyRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn create(
    State(app): State<Arc<App>>,
    operator: Operator,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    operator.require_all_devices()?;
    let asked: NewKey = read_body(&app, &headers, body).await?;
    let now = unix_microseconds(SystemTime::now());
    let mut key = checked(&app, &operator, asked, now)?;
    let tenants = key.tenants.clone().unwrap_or_default();
    let limit = app.config().limits.publisher_keys;
    for tenant in &tenants {
        app.check_living(*tenant)?;
        make_room(&app, *tenant, limit).await?;
    }
    let no_randomness = |_| Refusal::unavailable("no key can be drawn", Duration::from_secs(5));
    let id = ManagedKey::new_id().map_err(no_randomness)?;
    let (text, secret) = KeySecret::draw(&id).map_err(no_randomness)?;
    key.secrets.push(secret);
    let made = key.clone();
    change(&app, &id, move |_| Ok(Some(made.clone()))).await?;
    audited(&app, &operator, AuditKind::KeyCreated, &id, &key);
    tracing::info!(
        target: "tidings::operate",
        key_id = id,
        tenants = tenants.len(),
        operator = %operator.identity().user,
        "key_created"
    );
    let info = describe(&id, &key, &operator, None, now);
    Ok(issued(StatusCode::CREATED, text, info))
}

/// What is asked for, as it may be had.
fn checked(app: &App, operator: &Operator, asked: NewKey, now: i64) -> Result<ManagedKey, Refusal> {
    let wrong = |field: &str, detail: &str| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail).at_field(field)
    };
    let characters = asked.name.chars().count();
    if !(1..=MAX_NAME).contains(&characters) || asked.name.chars().any(char::is_control) {
        return Err(wrong(
            "name",
            "a key's name has 1 to 64 characters, none of them a control character",
        ));
    }
    let tenants = match (operator.only_tenant(), asked.tenants, asked.all_tenants) {
        (Some(own), None, false) => Some(vec![own]),
        (Some(own), Some(tenants), false) if tenants == [own] => Some(tenants),
        (Some(_), ..) => return Err(Refusal::forbidden(crate::error::WRONG_TENANT)),
        (None, None, true) => None,
        (None, Some(tenants), false) if !tenants.is_empty() => Some(sorted(tenants)),
        (None, ..) => {
            return Err(wrong(
                "tenants",
                "say which tenants it may publish to, or all_tenants",
            ));
        }
    };
    let types = asked.types.map(sorted);
    if let Some(unknown) = types
        .iter()
        .flatten()
        .find(|asked| !app.known_types.contains(asked))
    {
        return Err(wrong("types", &format!("{unknown} is no event type here")));
    }
    if !has_types(operator, types.as_deref()) {
        return Err(Refusal::forbidden(
            "an access token that is limited to types makes keys for those only; name them",
        )
        .at_field("types"));
    }
    let publish_rate = asked.publish_rate.filter(|rate| *rate > 0);
    // A key's own rate holds instead of the configured one, so a tenant's operator would lift what binds the tenant.
    let most = app.config().limits.publish_rate_per_key;
    if operator.only_tenant().is_some()
        && most != 0
        && publish_rate.is_some_and(|rate| u64::from(rate) > most)
    {
        return Err(Refusal::forbidden(format!(
            "a tenant's operator gives a key at most {most} events a second (limits.publish_rate_per_key)"
        ))
        .at_field("publish_rate"));
    }
    let expires_at = match asked.expires_at.as_deref() {
        None => None,
        Some(text) => Some(
            parse_rfc3339(text)
                .filter(|end| *end > now)
                .ok_or_else(|| wrong("expires_at", "must be an RFC 3339 time that is to come"))?,
        ),
    };
    Ok(ManagedKey {
        name: asked.name,
        tenants,
        types,
        publish_rate,
        created_at: now,
        created_by: operator.identity().user.to_string(),
        by_super_admin: operator.only_tenant().is_none(),
        expires_at,
        revoked_at: None,
        secrets: Vec::new(),
    })
}

/// Whether an operator has all types that a key is for: nobody gives what they don't have, by a new secret no more than by
/// a new key.
fn has_types(operator: &Operator, types: Option<&[EventType]>) -> bool {
    let Some(own) = &operator.identity().types else {
        return true;
    };
    types.is_some_and(|types| types.iter().all(|one| own.contains(one)))
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}

/// Refuses a further key where the tenant has as many as it may. Of those that were revoked the oldest goes first:
/// that it was is remembered for as long as there is room.
async fn make_room(app: &Arc<App>, tenant: TenantId, limit: usize) -> Result<(), Refusal> {
    let theirs = |key: &ManagedKey| {
        let tenants = key.tenants.as_deref();
        tenants.is_some_and(|tenants| tenants.contains(&tenant))
    };
    let keys = app.registry.keys().all();
    let keys: Vec<_> = keys.into_iter().filter(|(_, key)| theirs(key)).collect();
    if keys.len() < limit {
        return Ok(());
    }
    let revoked = keys
        .iter()
        .filter_map(|(id, key)| Some((key.revoked_at?, id)));
    let Some((_, oldest)) = revoked.min() else {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("the tenant has its {limit} API keys; revoke one (limits.publisher_keys)"),
        ));
    };
    change(app, oldest, |_| Ok(None)).await
}

/// `POST /keys/{id}/rotate`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    post,
    path = "/keys/{id}/rotate",
    tag = "keys",
    summary = "Give an API key a new secret",
    description = "The secret of before stays good for an overlap. The new key is in the answer and never shown again.",
    params(("id" = String, Path, description = "The key's id.")),
    request_body(content = KeyRotation, content_type = "application/json"),
    responses(
        (status = 200, description = "The new secret is durable, and good from now on.", body = IssuedKey),
        crate::openapi::KeyRefusals,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn rotate(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    operator.require_all_devices()?;
    let asked: KeyRotation = read_body(&app, &headers, body).await?;
    let overlap = asked
        .overlap_seconds
        .map_or(OVERLAP, |seconds| Duration::from_secs(u64::from(seconds)));
    if overlap > LONGEST_OVERLAP {
        let detail = "an overlap is at most 30 days, 2592000 seconds";
        return Err(
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail).at_field("overlap_seconds")
        );
    }
    may_change(&app, &operator, &id)?;
    let now = unix_microseconds(SystemTime::now());
    let (text, secret) = KeySecret::draw(&id)
        .map_err(|_| Refusal::unavailable("no key can be drawn", Duration::from_secs(5)))?;
    change(&app, &id, move |known| {
        let mut key = known.ok_or(NotChanged::Unknown)?.clone();
        if key.revoked_at.is_some() {
            return Err(NotChanged::Revoked);
        }
        key.rotate(secret.clone(), overlap, now);
        Ok(Some(key))
    })
    .await?;
    tracing::info!(
        target: "tidings::operate",
        key_id = id,
        overlap_seconds = overlap.as_secs(),
        operator = %operator.identity().user,
        "key_rotated"
    );
    let (key, _) = app.registry.keys().get(&id).ok_or_else(unknown)?;
    audited(&app, &operator, AuditKind::KeyRotated, &id, &key);
    let used = own_uses(&app).get(&id).copied().map(rfc3339);
    let info = describe(&id, &key, &operator, used, now);
    Ok(issued(StatusCode::OK, text, info))
}

/// `DELETE /keys/{id}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "keys",
    summary = "Revoke an API key, for good",
    params(("id" = String, Path, description = "The key's id.")),
    responses(
        (status = 204, description = "This is durable: the key is refused."),
        crate::openapi::KeyRefusals,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn revoke(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    operator.require_all_devices()?;
    may_change(&app, &operator, &id)?;
    let now = unix_microseconds(SystemTime::now());
    change(&app, &id, move |known| {
        let mut key = known.ok_or(NotChanged::Unknown)?.clone();
        key.revoke(now);
        Ok(Some(key))
    })
    .await?;
    if let Some((key, _)) = app.registry.keys().get(&id) {
        audited(&app, &operator, AuditKind::KeyRevoked, &id, &key);
    }
    tracing::info!(
        target: "tidings::operate",
        key_id = id,
        operator = %operator.identity().user,
        "key_revoked"
    );
    Ok(StatusCode::NO_CONTENT)
}

fn audited(app: &App, operator: &Operator, what: AuditKind, id: &str, key: &ManagedKey) {
    let tenant = match key.tenants.as_deref() {
        Some([tenant]) => Some(*tenant),
        _ => None,
    };
    let target = format!("key {id} ({})", key.name);
    app.audit.changed(what, operator.identity(), tenant, target);
}

/// Refuses what the operator may not know of, which is answered like what is not there, what is for more than the operator
/// itself has, and what stands in the configuration.
fn may_change(app: &App, operator: &Operator, id: &str) -> Result<(), Refusal> {
    let known = app.registry.keys().get(id);
    if let Some((key, _)) = known.filter(|(key, _)| may_know(operator, key)) {
        if has_types(operator, key.types.as_deref()) {
            return Ok(());
        }
        return Err(Refusal::forbidden(
            "the key is for event types that this access token is not; it can be changed with one that has them all",
        ));
    }
    let configured = app.publisher_keys.configured();
    if operator.only_tenant().is_none() && configured.iter().any(|one| &*one.id == id) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "this key stands in the server's configuration (auth.publishers), and is changed there",
        ));
    }
    Err(unknown())
}

/// Makes a key what `decide` makes of it, on all nodes where there are several, also when the caller goes away.
async fn change(
    app: &Arc<App>,
    id: &str,
    decide: impl Fn(Option<&ManagedKey>) -> Result<Option<ManagedKey>, NotChanged>
    + Send
    + Sync
    + 'static,
) -> Result<(), Refusal> {
    let (shared, id) = (Arc::clone(app), id.to_owned());
    let work = app
        .operations
        .spawn(async move { commit(&shared, &id, decide).await });
    let done = work.await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        .map_err(Refusal::from)
}

async fn commit(
    app: &Arc<App>,
    id: &str,
    decide: impl Fn(Option<&ManagedKey>) -> Result<Option<ManagedKey>, NotChanged>
    + Send
    + Sync
    + 'static,
) -> Result<(), Failure> {
    if let Some(cluster) = &app.cluster {
        let changed = cluster.change_key(id, decide).await;
        return changed.map_err(Failure::Cluster)?.map_err(Failure::Not);
    }
    let (registry, id) = (Arc::clone(&app.registry), id.to_owned());
    let changed = blocking(move || registry.keys().change(&id, decide)).await;
    changed.map_err(Failure::Registry)?.map_err(Failure::Not)
}

/// Makes this node obey what a key is by now; `None` where it is no more.
///
/// # Errors
///
/// When the registry can't be written; the key stays as it was.
pub(crate) async fn obey(
    app: &Arc<App>,
    id: &str,
    key: Option<ManagedKey>,
) -> Result<(), RegistryError> {
    let (registry, id) = (Arc::clone(&app.registry), id.to_owned());
    let obeyed = blocking(move || {
        let becomes = |_: Option<&ManagedKey>| Ok::<_, std::convert::Infallible>(key);
        registry.keys().change(&id, becomes)
    });
    let Ok(()) = obeyed.await?;
    Ok(())
}

/// Writes when keys were last used, now and then and at the end.
pub(crate) async fn keep_uses(app: Arc<App>, stopping: CancellationToken) {
    loop {
        let ends = tokio::select! {
            () = tokio::time::sleep(STORE_USES_EVERY) => false,
            () = stopping.cancelled() => true,
        };
        let registry = Arc::clone(&app.registry);
        if let Err(error) = blocking(move || registry.keys().store_uses()).await {
            tracing::warn!(%error, "when API keys were last used can't be written");
        }
        if ends {
            return;
        }
    }
}

fn issued(status: StatusCode, key: String, info: KeyInfo) -> Response {
    let mut response = (status, Json(IssuedKey { key, info })).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads a body of JSON; none at all is an empty object.
async fn read_body<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    let (body, _room) = receive(app, body, MAX_BODY).await?;
    if body.is_empty() {
        return serde_json::from_str("{}").map_err(|error| {
            Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("the body is empty: {error}"),
            )
        });
    }
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
        ));
    }
    serde_json::from_slice(&body).map_err(|error| {
        let line = u64::try_from(error.line()).unwrap_or(1);
        let (status, what) = if error.is_data() {
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body is not as it should be",
            )
        } else {
            (StatusCode::BAD_REQUEST, "the body is no JSON")
        };
        Refusal::new(status, format!("{what}: {error}")).at_line(line)
    })
}
