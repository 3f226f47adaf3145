//! Tenants: `GET /tenants`, and the end of one, `DELETE /tenants/{tenant_id}`.
//!
//! A purge goes in this order, and each step that is done stays done: a tombstone in the registry, from
//! which on every call for the tenant is refused; its streams closed; the log hides its events for good;
//! what was kept of them in memory is let go; its device groups go. Then the log takes the events out of
//! its files by itself. A start goes on with what was cut off ([`take_up`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use tidings_log::{Log, ReadError, TenantUsage};
use tidings_protocol::TenantId;
use tidings_protocol::api::ClosingReason;
use tidings_protocol::audit::AuditKind;
use tidings_protocol::operate::{
    TenantInfo, TenantList, TenantPurge, TenantPurged, TenantSettings,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{blocking, log_unreadable, reading};
use crate::app::App;
use crate::auth::Operator;
use crate::cluster::Shared;
use crate::config::Config;
use crate::cursors::losses::LOSSES;
use crate::engine::StreamFilter;
use crate::error::Refusal;
use crate::registry::{Purge, Registry, RegistryError};
use crate::stream::request::{Query, read_tenant};
use crate::time::{rfc3339, unix_microseconds};

/// How many tenants a page lists where nothing is said.
const DEFAULT_PAGE: usize = 100;

/// How many tenants a page lists at most.
const MAX_PAGE: usize = 1000;

/// How long a step that failed waits before it is tried again, and how often the files are looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// Purges that are under way.
#[derive(Debug, Default)]
pub struct Purges {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Purges {
    /// Lets go of what is under way, which the next start takes up, and waits for the step at hand.
    pub async fn finish(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Brings log and registry to agree on who was purged, before anything is served: a purge can have been
/// cut off between the two, or one of them been restored from a backup.
///
/// # Errors
///
/// What could not be stored, as a sentence.
pub fn take_up(log: &Log, registry: &Registry) -> Result<(), String> {
    let in_log: BTreeSet<TenantId> = log.purged().into_iter().collect();
    for (tenant, _) in registry.purged().list() {
        if !in_log.contains(&tenant) {
            log.purge(tenant).map_err(|error| error.to_string())?;
        }
        forget_settings(registry, tenant).map_err(|error| error.to_string())?;
    }
    for tenant in in_log {
        if !registry.purged().contains(tenant) {
            let now = unix_microseconds(SystemTime::now());
            let added = registry.purged().add(tenant, now, "");
            added.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Forgets its device groups, and the API keys that are for it alone.
fn forget_settings(registry: &Registry, tenant: TenantId) -> Result<(), RegistryError> {
    let had_keys = registry.keys().remove_tenant(tenant)?;
    if registry.groups().list(tenant).is_empty() {
        return if had_keys {
            registry.wipe_removed()
        } else {
            Ok(())
        };
    }
    registry.groups().remove_tenant(tenant)?;
    registry.wipe_removed()
}

/// `GET /tenants`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants",
    tag = "operators",
    summary = "List the tenants: what is retained of each, and what holds for it",
    description = "A super admin sees all, also those that were purged; a tenant's operator its own.",
    params(crate::openapi::TenantListParameters),
    responses(
        (status = 200, description = "A page of the tenants that have events, open streams or settings of their own.", body = TenantList),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    operator: Operator,
    RawQuery(query): RawQuery,
) -> Result<Json<TenantList>, Refusal> {
    let query = Query::parse(query.as_deref())?;
    let after = query.given("after").map(str::parse).transpose().map_err(
        |error: tidings_protocol::tenant::InvalidTenantId| {
            Refusal::parameter("after", error.to_string())
        },
    )?;
    let limit = match query.get("limit").map(str::parse) {
        None => DEFAULT_PAGE,
        Some(Ok(limit)) if (1..=MAX_PAGE).contains(&limit) => limit,
        Some(_) => {
            let detail = format!("must be a number from 1 to {MAX_PAGE}");
            return Err(Refusal::parameter("limit", detail));
        }
    };
    let only = operator.only_tenant();
    let place = app.limits.read(only)?;
    let _turn = place.turn().await;
    let listed = reading(&app, move |app| page(app, only, after, limit)).await;
    listed.map(Json).map_err(|error| log_unreadable(&error))
}

fn page(
    app: &App,
    only: Option<TenantId>,
    after: Option<TenantId>,
    limit: usize,
) -> Result<TenantList, ReadError> {
    let streams = app.limits.tenant_streams();
    let usages = match only {
        Some(tenant) => vec![app.log.tenant(tenant)?],
        None => app.log.tenants()?,
    };
    let usages: std::collections::HashMap<TenantId, TenantUsage> = usages
        .into_iter()
        // No tenant's: where a source has lost events.
        .filter(|usage| usage.tenant != LOSSES)
        .map(|usage| (usage.tenant, usage))
        .collect();
    let config = app.config();
    let mut known: BTreeSet<TenantId> = match only {
        Some(tenant) => BTreeSet::from([tenant]),
        None => usages
            .keys()
            .chain(streams.keys())
            .chain(config.tenants.keys())
            .copied()
            .chain(app.registry.purged().list().into_iter().map(|(id, _)| id))
            .collect(),
    };
    if let Some(after) = after {
        known = known.split_off(&after);
        known.remove(&after);
    }
    let mut tenants: Vec<TenantInfo> = Vec::new();
    let mut next = None;
    for tenant in known {
        if tenants.len() == limit {
            next = tenants.last().map(|last| last.id.clone());
            break;
        }
        let open = streams.get(&tenant).copied().unwrap_or(0);
        tenants.push(describe(app, &config, tenant, usages.get(&tenant), open));
    }
    Ok(TenantList { tenants, next })
}

fn describe(
    app: &App,
    config: &Config,
    tenant: TenantId,
    usage: Option<&TenantUsage>,
    streams: u64,
) -> TenantInfo {
    let settings = config.tenant(tenant);
    let purged = app.registry.purged().get(tenant).map(|purge| TenantPurged {
        at: rfc3339(purge.at),
        by: purge.by,
        on_disk: app.log.is_on_disk(tenant).unwrap_or(true),
    });
    TenantInfo {
        id: tenant.to_string(),
        name: settings.name.map(str::to_owned),
        events: usage.map_or(0, |usage| usage.events),
        bytes: usage.map_or(0, |usage| usage.bytes),
        oldest_at: usage.and_then(|usage| usage.oldest_at).map(rfc3339),
        appended: app.metrics.appended.of(tenant),
        appended_since: rfc3339(app.started_at),
        streams,
        settings: TenantSettings {
            retention_seconds: settings.retention.as_secs_f64(),
            max_bytes: settings.max_bytes,
            publish_rate: settings.publish_rate,
            streams: settings.streams,
            event_bytes: settings.event_bytes as u64,
        },
        purged,
    }
}

/// `DELETE /tenants/{tenant_id}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/tenants/{tenant_id}",
    tag = "operators",
    summary = "Purge a tenant, for good",
    description = "Refused and hidden at once on every path, its streams closed with `deleted`; gone from the disk within `log.purge_within`. Its id is never used again.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("confirm" = uuid::Uuid, Query, description = "The same id once more."),
    ),
    responses(
        (status = 200, description = "The tenant is refused and hidden on every path.", body = TenantPurge),
        crate::openapi::PurgeRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn purge(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(tenant): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TenantPurge>, Refusal> {
    operator.require_super_admin()?;
    let tenant = read_tenant(&tenant)?;
    let query = Query::parse(query.as_deref())?;
    let confirmed = query.get("confirm").and_then(|text| text.parse().ok());
    if confirmed != Some(tenant) {
        let detail = "a purge can't be undone: give the tenant's id once more, as confirm";
        return Err(Refusal::parameter("confirm", detail));
    }
    let by = Arc::clone(&operator.identity().user);
    let shared = Arc::clone(&app);
    // It goes on when the caller leaves.
    let work = app
        .purges
        .tasks
        .spawn(async move { begin(&shared, tenant, &by).await });
    let purged = work
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let what = AuditKind::TenantPurged;
    app.audit
        .changed(what, operator.identity(), Some(tenant), tenant);
    Ok(Json(purged))
}

/// Everything up to that the tenant is hidden on every path, on all nodes where there are several.
async fn begin(app: &Arc<App>, tenant: TenantId, by: &Arc<str>) -> Result<TenantPurge, Refusal> {
    let purge = Purge {
        at: unix_microseconds(SystemTime::now()),
        by: by.to_string(),
    };
    let (purged, nodes) = match &app.cluster {
        None => {
            let purged = obey(app, tenant, purge).await.map_err(|error| {
                tracing::error!(%error, %tenant, "a tenant can't be purged");
                Refusal::unavailable(
                    "the purge can't be stored at the moment; the tenant is as it was",
                    Duration::from_secs(5),
                )
            })?;
            (purged, Vec::new())
        }
        Some(cluster) => {
            let changed = cluster.purge(tenant, &purge).await?;
            let others = cluster
                .gather_obeyed(Shared::Registry, changed.revision)
                .await;
            let closed: usize = others.answers.iter().map(|(_, closed)| closed).sum();
            let purged = Purged {
                at: app
                    .registry
                    .purged()
                    .get(tenant)
                    .map_or(purge.at, |stands| stands.at),
                closed: changed.outcome.closed + closed,
                hidden: changed.outcome.failed.map_or(Ok(()), Err),
            };
            (purged, others.nodes(cluster.node()))
        }
    };
    purged.hidden.map_err(|error| {
        tracing::error!(error, %tenant, "a purged tenant can't be hidden yet; trying again");
        Refusal::unavailable(
            "the tenant is refused from now on, but its events can't be hidden from streams of all tenants yet; \
             the server keeps trying",
            Duration::from_secs(5),
        )
    })?;
    tracing::info!(
        target: "tidings::operate",
        tenant_id = %tenant,
        closed = purged.closed,
        operator = %by,
        "tenant_purged"
    );
    Ok(TenantPurge {
        tenant_id: tenant.to_string(),
        purged_at: rfc3339(purged.at),
        streams_closed: purged.closed as u64,
        gone_within_seconds: app.config().log.purge_within.as_secs_f64(),
        nodes,
    })
}

/// What came of a purge on this node.
pub(crate) struct Purged {
    /// When the tenant was purged, in microseconds since the Unix epoch.
    pub(crate) at: i64,
    /// How many streams were closed by it.
    pub(crate) closed: usize,
    /// Why its events can't be hidden yet, if they can't.
    pub(crate) hidden: Result<(), String>,
}

/// Makes this node obey a purge: the registry knows of it, streams are closed, events hidden. What remains to be
/// done goes on behind it.
///
/// # Errors
///
/// When the registry can't be written; the tenant is as it was.
pub(crate) async fn obey(
    app: &Arc<App>,
    tenant: TenantId,
    purge: Purge,
) -> Result<Purged, RegistryError> {
    let keeper = Arc::clone(app);
    let entombed = blocking(move || keeper.registry.purged().add(tenant, purge.at, &purge.by));
    let tombstone = entombed.await?;
    let only_its_own = StreamFilter {
        tenant: Some(tenant),
        ..StreamFilter::default()
    };
    let reason = ClosingReason::Deleted;
    let closed = app.engines.close_streams(&only_its_own, reason).await;
    let hidden = hide(app, tenant).await;
    // When every engine has answered once more, none is handing out what it took from memory before.
    app.engines.close_streams(&only_its_own, reason).await;
    let (finisher, done) = (Arc::clone(app), hidden.is_ok());
    app.purges
        .tasks
        .spawn(async move { finish(&finisher, tenant, done).await });
    if let Some(cluster) = app.cluster.clone() {
        let stopping = app.purges.stopping.clone();
        app.purges
            .tasks
            .spawn(async move { cluster.purge_source(tenant, &stopping).await });
    }
    Ok(Purged {
        at: tombstone.at,
        closed,
        hidden,
    })
}

/// Hides the tenant's events in the log and lets go of what is kept of them elsewhere.
async fn hide(app: &Arc<App>, tenant: TenantId) -> Result<(), String> {
    let _no_group_changes = app.group_changes.turn().await;
    let keeper = Arc::clone(app);
    blocking(move || {
        keeper
            .log
            .purge(tenant)
            .map_err(|error| error.to_string())?;
        keeper.window.forget();
        keeper.metrics.tenants.forget(tenant);
        keeper.metrics.appended.forget(tenant);
        forget_settings(&keeper.registry, tenant).map_err(|error| error.to_string())
    })
    .await
}

/// Tries again what failed, and watches until the log's files are rid of the tenant.
async fn finish(app: &Arc<App>, tenant: TenantId, mut hidden: bool) {
    let begun = Instant::now();
    let mut late = false;
    loop {
        if hidden && app.log.is_on_disk(tenant) == Some(false) {
            tracing::info!(
                target: "tidings::operate",
                tenant_id = %tenant,
                seconds = begun.elapsed().as_secs_f64(),
                "tenant_gone"
            );
            return;
        }
        if !late && begun.elapsed() >= app.config().log.purge_within {
            late = true;
            tracing::error!(
                tenant_id = %tenant,
                "a purged tenant is still on the disk, longer than log.purge_within allows; the removal goes on"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = app.purges.stopping.cancelled() => return,
        }
        if !hidden {
            hidden = hide(app, tenant).await.is_ok();
        }
    }
}

/// Watches over the purges that a start has found unfinished. Within a Tokio runtime.
pub fn watch_unfinished(app: &Arc<App>) {
    for tenant in app.log.purged() {
        if app.log.is_on_disk(tenant) == Some(true) {
            let watcher = Arc::clone(app);
            let watching = async move { finish(&watcher, tenant, true).await };
            app.purges.tasks.spawn(watching);
        }
    }
}
