//! Devices taken away: `DELETE /tenants/{tenant_id}/devices/{device}`.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use tidings_log::Scope;
use tidings_protocol::DeviceId;
use tidings_protocol::audit::AuditKind;

use crate::app::App;
use crate::auth::Operator;
use crate::error::Refusal;
use crate::ingest::store::{is_in_state, store};
use crate::state::current;
use crate::state::removal::removed;
use crate::stream::request::read_tenant;

/// `DELETE /tenants/{tenant_id}/devices/{device}`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/tenants/{tenant_id}/devices/{device}",
    tag = "operators",
    summary = "Take a device out of the state",
    description = "Appends a `removed` event for each living subject of the device, all or none: its status, its metrics, its alerts, pushes and jobs. What it published stays in the history as long as everything else.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        ("device" = String, Path, description = "The device's id."),
    ),
    responses(
        (status = 204, description = "The device has no living subject any more; streams were told."),
        crate::openapi::OperatorRefusals,
        crate::openapi::NothingThere,
    ),
    security(("access_token" = []))
)]
pub async fn remove(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path((tenant, device)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let tenant = read_tenant(&tenant)?;
    operator.check_tenant(tenant)?;
    operator.require_all_devices()?;
    // Subjects of every type go.
    operator.require_all_types()?;
    if app.store.is_read_only() {
        return Err(Refusal::read_only());
    }
    let device: DeviceId =
        device
            .parse()
            .map_err(|error: tidings_protocol::event::InvalidDeviceId| {
                Refusal::parameter("device", error.to_string())
            })?;
    app.check_serving()?;
    let snapshot = current(&app, Scope::Tenant(tenant)).await?;
    let name = device.clone();
    let find = move || {
        let entries = snapshot.into_entries();
        let of_device = entries.filter(|entry| entry.device() == Some(name.as_str()));
        of_device.filter_map(|entry| removed(&entry)).collect()
    };
    let found: Result<Vec<_>, _> = tokio::task::spawn_blocking(find).await;
    let events = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let subjects = events.len();
    if subjects == 0 {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("the state knows nothing of a device {device}"),
        ));
    }
    let stored = store(&app, tenant, events).await?;
    // Who removes a device and then looks must not find it.
    if !is_in_state(&app, &stored).await {
        tracing::warn!(tenant_id = %tenant, "this node's state is late with a removed device");
    }
    let what = AuditKind::DeviceRemoved;
    app.audit
        .changed(what, operator.identity(), Some(tenant), &device);
    tracing::info!(
        target: "tidings::operate",
        tenant_id = %tenant,
        device_id = %device,
        subjects,
        operator = %operator.identity().user,
        "device_removed"
    );
    Ok(StatusCode::NO_CONTENT)
}
