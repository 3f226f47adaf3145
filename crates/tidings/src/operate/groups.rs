//! Device groups: `/tenants/{tenant_id}/device-groups`, and the end of the streams that a changed group
//! bounds.
//!
//! A change is answered when no stream is given anything by the members of before. Three things see to
//! that, in this order: the registry holds the new members, then every open stream that the group bounds
//! is closed, then the answer. A stream that was authorised before the change and comes to its engine
//! after it is found there by [`still_the_same`], since it was asked for after the registry had changed.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode, header};
use tidings_protocol::api::ClosingReason;
use tidings_protocol::audit::AuditKind;
use tidings_protocol::operate::{DeviceGroup, DeviceGroupList, DeviceGroupSummary};
use tidings_protocol::{DeviceId, TenantId};

use super::blocking;
use crate::app::App;
use crate::auth::{Operator, is_bounded_text};
use crate::cluster::BucketError;
use crate::engine::StreamFilter;
use crate::error::Refusal;
use crate::ingest::receive::receive;
use crate::registry::{self, Registry, RegistryError};
use crate::stream::request::read_tenant;

/// The largest body of a change, in bytes: ten thousand devices with the longest names fit twice.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// Changes of groups, one at a time: a repeat must not be answered while the first is still closing
/// streams.
#[derive(Debug, Default)]
pub struct GroupChanges {
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl GroupChanges {
    /// Keeps changes away until it is dropped.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.one_at_a_time.lock().await
    }
}

/// Whether the group that bounds a view has, at this moment, the members that the view was made with.
#[must_use]
pub fn still_the_same(
    registry: &Registry,
    tenant: TenantId,
    name: &str,
    members: Option<&registry::DeviceGroup>,
) -> bool {
    registry.groups().get(tenant, name).as_ref() == members
}

/// A change could not be made.
enum Failure {
    /// The tenant has as many groups as it may.
    TooMany(usize),
    /// There is no such group.
    Unknown,
    /// The tenant was purged meanwhile.
    Gone,
    Registry(RegistryError),
    Cluster(BucketError),
}

/// What came of a change on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Obeyed {
    /// How many streams were closed by it.
    pub(crate) closed: usize,
}

/// Gives a group these devices, or with `None` removes it, and closes the streams that it bounds, also when the
/// caller goes away.
async fn change(
    app: &Arc<App>,
    tenant: TenantId,
    name: &str,
    devices: Option<Vec<DeviceId>>,
) -> Result<usize, Refusal> {
    let (shared, group) = (Arc::clone(app), name.to_owned());
    let work = app
        .operations
        .spawn(async move { commit(&shared, tenant, &group, devices).await });
    let done = work
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    done.map(|obeyed| obeyed.closed)
        .map_err(|failure| match failure {
            Failure::TooMany(limit) => Refusal::new(
                StatusCode::CONFLICT,
                format!(
                    "the tenant has its {limit} device groups; remove one (limits.device_groups)"
                ),
            ),
            Failure::Unknown => unknown(name),
            Failure::Gone => Refusal::gone(),
            Failure::Cluster(error) => error.into(),
            Failure::Registry(error) => {
                tracing::error!(%error, "a device group can't be changed");
                Refusal::unavailable(
                    "the change can't be stored at the moment; the group is as it was",
                    Duration::from_secs(5),
                )
            }
        })
}

/// Makes a change hold, on all nodes where there are several.
async fn commit(
    app: &Arc<App>,
    tenant: TenantId,
    name: &str,
    devices: Option<Vec<DeviceId>>,
) -> Result<Obeyed, Failure> {
    if let Some(cluster) = &app.cluster {
        check(app, tenant, name, devices.is_some())?;
        let changed = cluster.set_group(tenant, name, devices.as_deref()).await;
        let changed = changed.map_err(Failure::Cluster)?;
        if devices.is_none() && !changed.is_new {
            return Err(Failure::Unknown);
        }
        return Ok(Obeyed {
            closed: changed.outcome.closed,
        });
    }
    let _turn = app.group_changes.turn().await;
    check(app, tenant, name, devices.is_some())?;
    if devices.is_none() && app.registry.groups().get(tenant, name).is_none() {
        return Err(Failure::Unknown);
    }
    let obeyed = obey_in_turn(app, tenant, name, devices).await;
    obeyed.map_err(Failure::Registry)
}

fn check(app: &App, tenant: TenantId, name: &str, is_put: bool) -> Result<(), Failure> {
    // A purge removes groups in its turn, so that none is stored behind it.
    if app.registry.purged().contains(tenant) {
        return Err(Failure::Gone);
    }
    let groups = app.registry.groups();
    let limit = app.config().limits.device_groups;
    if is_put && groups.get(tenant, name).is_none() && groups.list(tenant).len() >= limit {
        return Err(Failure::TooMany(limit));
    }
    Ok(())
}

/// Makes this node obey a group that is what it is by now, or with `None` is no more: the registry holds it, and
/// then the streams that it bounds are closed, where it is another than before.
///
/// # Errors
///
/// When the registry can't be written; the group stays as it was.
pub(crate) async fn obey(
    app: &Arc<App>,
    tenant: TenantId,
    name: &str,
    devices: Option<Vec<DeviceId>>,
) -> Result<Obeyed, RegistryError> {
    let _turn = app.group_changes.turn().await;
    obey_in_turn(app, tenant, name, devices).await
}

async fn obey_in_turn(
    app: &Arc<App>,
    tenant: TenantId,
    name: &str,
    devices: Option<Vec<DeviceId>>,
) -> Result<Obeyed, RegistryError> {
    let (registry, group) = (Arc::clone(&app.registry), name.to_owned());
    let stored = blocking(move || match devices {
        Some(devices) => registry.groups().put(tenant, &group, &devices),
        None => registry.groups().remove(tenant, &group),
    });
    if !stored.await? {
        return Ok(Obeyed::default());
    }
    let bounded = StreamFilter {
        tenant: Some(tenant),
        device_group: Some(name.into()),
        ..StreamFilter::default()
    };
    let reason = ClosingReason::ViewChanged;
    let closed = app.engines.close_streams(&bounded, reason).await;
    Ok(Obeyed { closed })
}

/// `PUT /tenants/{tenant_id}/device-groups/{name}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    put,
    path = "/tenants/{tenant_id}/device-groups/{name}",
    tag = "operators",
    summary = "Say which devices make up a group",
    description = "Replaces the group. Streams that it bounds are closed with `view_changed` before the answer, unless it has the same devices as before.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("name" = String, Path, description = "The group's name, as access tokens name it."),
    ),
    request_body(content = DeviceGroup, content_type = "application/json"),
    responses(
        (status = 204, description = "The group is durable, and no stream shows what it showed before."),
        crate::openapi::GroupRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn put(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path((tenant, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let tenant = read_path(&operator, &tenant, &name)?;
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if !json {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
        ));
    }
    let (body, _room) = receive(&app, body, MAX_BODY).await?;
    let NewGroup { devices } = read_group(&body)?;
    let limit = app.config().limits.devices_per_group;
    if devices.len() > limit {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("a device group has at most {limit} devices (limits.devices_per_group)"),
        )
        .at_field("devices"));
    }
    let count = devices.len();
    let closed = change(&app, tenant, &name, Some(devices)).await?;
    let what = AuditKind::GroupPut;
    app.audit
        .changed(what, operator.identity(), Some(tenant), &name);
    tracing::info!(
        target: "tidings::operate",
        tenant_id = %tenant,
        group = name,
        devices = count,
        closed,
        operator = %operator.identity().user,
        "device_group_put"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// A group as it is put: a misspelt field must not make it empty.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    devices: Vec<DeviceId>,
}

fn read_group(body: &[u8]) -> Result<NewGroup, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let line = u64::try_from(error.line()).unwrap_or(1);
        if error.is_data() {
            let detail = format!("the body is {{\"devices\":[…]}}: {error}");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
                .at_line(line)
                .at_field("devices")
        } else {
            let detail = format!("the body is no JSON: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, detail).at_line(line)
        }
    })
}

/// `GET /tenants/{tenant_id}/device-groups/{name}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/device-groups/{name}",
    tag = "operators",
    summary = "Show the devices of a group",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("name" = String, Path, description = "The group's name."),
    ),
    responses(
        (status = 200, description = "Its devices, ascending, each once.", body = DeviceGroup),
        crate::openapi::OperatorRefusals,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn get(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<DeviceGroup>, Refusal> {
    let tenant = read_path(&operator, &tenant, &name)?;
    let group = app.registry.groups().get(tenant, &name);
    let devices = group.ok_or_else(|| unknown(&name))?.to_vec();
    Ok(Json(DeviceGroup { devices }))
}

/// `GET /tenants/{tenant_id}/device-groups`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/device-groups",
    tag = "operators",
    summary = "List a tenant's device groups",
    params(("tenant_id" = uuid::Uuid, Path, description = "The tenant.")),
    responses(
        (status = 200, description = "Their names, ascending, and how many devices each has.", body = DeviceGroupList),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(tenant): Path<String>,
) -> Result<Json<DeviceGroupList>, Refusal> {
    let tenant = read_tenant(&tenant)?;
    operator.check_tenant(tenant)?;
    operator.require_all_devices()?;
    let groups = app.registry.groups().list(tenant);
    let summary = |(name, devices): (String, registry::DeviceGroup)| DeviceGroupSummary {
        name,
        devices: devices.len() as u64,
    };
    Ok(Json(DeviceGroupList {
        groups: groups.into_iter().map(summary).collect(),
    }))
}

/// `DELETE /tenants/{tenant_id}/device-groups/{name}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/tenants/{tenant_id}/device-groups/{name}",
    tag = "operators",
    summary = "Remove a device group",
    description = "Streams that it bounds are closed with `view_changed` before the answer; from then on the claim shows nothing of its own.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("name" = String, Path, description = "The group's name."),
    ),
    responses(
        (status = 204, description = "The group is gone, and no stream shows what it showed."),
        crate::openapi::OperatorRefusals,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn remove(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let tenant = read_path(&operator, &tenant, &name)?;
    let closed = change(&app, tenant, &name, None).await?;
    let what = AuditKind::GroupRemoved;
    app.audit
        .changed(what, operator.identity(), Some(tenant), &name);
    tracing::info!(
        target: "tidings::operate",
        tenant_id = %tenant,
        group = name,
        closed,
        operator = %operator.identity().user,
        "device_group_removed"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// The tenant of a path that this operator may keep groups of; the name must be one that a claim can have.
fn read_path(operator: &Operator, tenant: &str, name: &str) -> Result<TenantId, Refusal> {
    let tenant = read_tenant(tenant)?;
    operator.check_tenant(tenant)?;
    operator.require_all_devices()?;
    if !is_bounded_text(name) {
        return Err(Refusal::parameter(
            "name",
            "a group's name is text of 1 to 256 bytes without control characters",
        ));
    }
    Ok(tenant)
}

fn unknown(name: &str) -> Refusal {
    let detail = format!("there is no device group {name:?}");
    Refusal::new(StatusCode::NOT_FOUND, detail)
}
