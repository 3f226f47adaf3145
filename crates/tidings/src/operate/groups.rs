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
use tidings_protocol::operate::{DeviceGroup, DeviceGroupList, DeviceGroupSummary};
use tidings_protocol::{DeviceId, TenantId};

use crate::app::App;
use crate::auth::{Operator, is_bounded_text};
use crate::engine::StreamFilter;
use crate::error::Refusal;
use crate::ingest::publish::receive;
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

/// What becomes of a group.
enum Change {
    Put(Vec<DeviceId>),
    Remove,
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
}

/// Makes a change and closes the streams that the group bounds, also when the caller goes away.
async fn change(
    app: &Arc<App>,
    tenant: TenantId,
    name: &str,
    change: Change,
) -> Result<usize, Refusal> {
    let (shared, group): (_, Arc<str>) = (Arc::clone(app), name.into());
    let work = app.operations.spawn(async move {
        let _turn = shared.group_changes.one_at_a_time.lock().await;
        let (keeper, named) = (Arc::clone(&shared), Arc::clone(&group));
        let stored =
            tokio::task::spawn_blocking(move || store(&keeper, tenant, &named, &change)).await;
        let is_another =
            stored.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if !is_another {
            return Ok(0);
        }
        let bounded = StreamFilter {
            tenant: Some(tenant),
            device_group: Some(group),
            ..StreamFilter::default()
        };
        let reason = ClosingReason::ViewChanged;
        Ok(shared.engines.close_streams(&bounded, reason).await)
    });
    let done = work
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    done.map_err(|failure| match failure {
        Failure::TooMany(limit) => Refusal::new(
            StatusCode::CONFLICT,
            format!("the tenant has its {limit} device groups; remove one (limits.device_groups)"),
        ),
        Failure::Unknown => unknown(name),
        Failure::Gone => Refusal::gone(),
        Failure::Registry(error) => {
            tracing::error!(%error, "a device group can't be changed");
            Refusal::unavailable(
                "the change can't be stored at the moment; the group is as it was",
                Duration::from_secs(5),
            )
        }
    })
}

/// Stores a change. Whether the group has other members than before.
fn store(app: &App, tenant: TenantId, name: &str, change: &Change) -> Result<bool, Failure> {
    // A purge removes groups in its turn, so that none is stored behind it.
    if app.registry.purged().contains(tenant) {
        return Err(Failure::Gone);
    }
    let groups = app.registry.groups();
    let stored = match change {
        Change::Put(devices) => {
            let limit = app.config.limits.device_groups;
            if groups.get(tenant, name).is_none() && groups.list(tenant).len() >= limit {
                return Err(Failure::TooMany(limit));
            }
            groups.put(tenant, name, devices)
        }
        Change::Remove => match groups.remove(tenant, name) {
            Ok(false) => return Err(Failure::Unknown),
            removed => removed,
        },
    };
    stored.map_err(Failure::Registry)
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
    let body = receive(body, MAX_BODY).await?;
    let NewGroup { devices } = read_group(&body)?;
    let limit = app.config.limits.devices_per_group;
    if devices.len() > limit {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("a device group has at most {limit} devices (limits.devices_per_group)"),
        )
        .at_field("devices"));
    }
    let count = devices.len();
    let closed = change(&app, tenant, &name, Change::Put(devices)).await?;
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
    let closed = change(&app, tenant, &name, Change::Remove).await?;
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
