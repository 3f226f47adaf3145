//! Access tokens revoked: `DELETE /users/{user_id}/streams`, `DELETE /tenants/{tenant_id}/streams`,
//! `DELETE /tokens/{token_id}/streams`.
//!
//! As with device groups the registry knows first, then the open streams are closed, then it is answered. From
//! the first on no access token that is meant is taken on any path, and a stream on its way to its engine finds
//! the revocation there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use tidings_protocol::TenantId;
use tidings_protocol::api::ClosingReason;
use tidings_protocol::audit::AuditKind;
use tidings_protocol::operate::{AccessRevoked, NodeAnswer};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::app::App;
use crate::auth::revocation::{Revocation, Revoked};
use crate::auth::{Operator, is_bounded_text};
use crate::cluster::Shared;
use crate::engine::StreamFilter;
use crate::error::Refusal;
use crate::registry::RegistryError;
use crate::stream::request::{Query, read_tenant};
use crate::time::{rfc3339, unix_microseconds};

/// How often revocations that are too old to matter are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// `DELETE /users/{user_id}/streams`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/users/{user_id}/streams",
    tag = "operators",
    summary = "Revoke a user's access tokens issued up to now, and end the streams that they opened",
    description = "A super admin revokes those of everybody with this user id, or with `tenant` of that tenant's; a tenant's operator those of its tenant's, but none of a super admin.",
    params(
        ("user_id" = String, Path, description = "The user, as access tokens name it."),
        ("tenant" = Option<uuid::Uuid>, Query, description = "Only this tenant's user."),
    ),
    responses(
        (status = 200, description = "The access tokens are refused on every path, and their streams are closed.", body = AccessRevoked),
        crate::openapi::OperatorRefusals,
        crate::openapi::TooManyRevocations,
    ),
    security(("access_token" = []))
)]
pub async fn user(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(user): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<AccessRevoked>, Refusal> {
    if !is_bounded_text(&user) {
        return Err(Refusal::parameter(
            "user_id",
            "a user id is text of 1 to 256 bytes without control characters",
        ));
    }
    let user = Arc::from(user);
    let whose = match whose_tenant(&operator, query.as_deref())? {
        Some(tenant) => Revoked::UserOf(tenant, user),
        None => Revoked::User(user),
    };
    revoke(&app, &operator, whose).await
}

/// The only tenant that is meant, if not all are.
fn whose_tenant(operator: &Operator, query: Option<&str>) -> Result<Option<TenantId>, Refusal> {
    let query = Query::parse(query)?;
    let Some(asked) = query.tenant()? else {
        return Ok(operator.only_tenant());
    };
    operator.check_tenant(asked)?;
    Ok(Some(asked))
}

/// `DELETE /tokens/{token_id}/streams`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/tokens/{token_id}/streams",
    tag = "operators",
    summary = "Revoke the access token with this id (`jti`), and end the streams that it opened",
    description = "Whenever it was issued. A super admin revokes it whosever it is, or with `tenant` where it is of that tenant; a tenant's operator where it is of its tenant and no super admin's.",
    params(
        ("token_id" = String, Path, description = "The id, as the access token has it."),
        ("tenant" = Option<uuid::Uuid>, Query, description = "Only this tenant's."),
    ),
    responses(
        (status = 200, description = "The access token is refused on every path, and its streams are closed.", body = AccessRevoked),
        crate::openapi::OperatorRefusals,
        crate::openapi::TooManyRevocations,
    ),
    security(("access_token" = []))
)]
pub async fn token(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<AccessRevoked>, Refusal> {
    if !is_bounded_text(&token) {
        return Err(Refusal::parameter(
            "token_id",
            "a token's id is text of 1 to 256 bytes without control characters",
        ));
    }
    let token = Arc::from(token);
    let whose = match whose_tenant(&operator, query.as_deref())? {
        Some(tenant) => Revoked::TokenOf(tenant, token),
        None => Revoked::Token(token),
    };
    revoke(&app, &operator, whose).await
}

/// `DELETE /tenants/{tenant_id}/streams`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    delete,
    path = "/tenants/{tenant_id}/streams",
    tag = "operators",
    summary = "Revoke the access tokens of all of a tenant's users issued up to now, and end the streams that they opened",
    description = "Those of super admins stay good.",
    params(("tenant_id" = uuid::Uuid, Path, description = "The tenant.")),
    responses(
        (status = 200, description = "The access tokens are refused on every path, and their streams are closed.", body = AccessRevoked),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn tenant(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(tenant): Path<String>,
) -> Result<Json<AccessRevoked>, Refusal> {
    let tenant: TenantId = read_tenant(&tenant)?;
    operator.check_tenant(tenant)?;
    revoke(&app, &operator, Revoked::Tenant(tenant)).await
}

/// Revokes, also when the caller goes away meanwhile.
pub(super) async fn revoke(
    app: &Arc<App>,
    operator: &Operator,
    whose: Revoked,
) -> Result<Json<AccessRevoked>, Refusal> {
    let most = app.config().limits.revocations;
    if !app.registry.revocations().has_room(&whose, most) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!(
                "nothing was revoked: the tenant has its {most} revocations of users and tokens (limits.revocations); revoke \
                 the whole tenant instead (DELETE /tenants/{{tenant_id}}/streams)"
            ),
        ));
    }
    let revocation = Revocation {
        at: unix_microseconds(SystemTime::now()),
        whose,
    };
    let shared = Arc::clone(app);
    let asked = revocation.clone();
    let work = app
        .operations
        .spawn(async move { commit(&shared, &asked).await });
    let done = work
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let (closed, nodes) = done?;
    audited(app, operator, &revocation.whose);
    let (user_id, token_id, tenant_id) = match &revocation.whose {
        Revoked::User(user) => (Some(user), None, None),
        Revoked::UserOf(tenant, user) => (Some(user), None, Some(tenant)),
        Revoked::Tenant(tenant) => (None, None, Some(tenant)),
        Revoked::Token(token) => (None, Some(token), None),
        Revoked::TokenOf(tenant, token) => (None, Some(token), Some(tenant)),
    };
    tracing::info!(
        target: "tidings::operate",
        user_id = user_id.map(tracing::field::display),
        token_id = token_id.map(tracing::field::display),
        tenant_id = tenant_id.map(tracing::field::display),
        closed,
        operator = %operator.identity().user,
        "access_revoked"
    );
    Ok(Json(AccessRevoked {
        revoked_at: rfc3339(revocation.at),
        streams_closed: closed as u64,
        nodes,
    }))
}

fn audited(app: &App, operator: &Operator, whose: &Revoked) {
    let (tenant, target) = match whose {
        Revoked::User(user) => (None, format!("user {user}")),
        Revoked::UserOf(tenant, user) => (Some(*tenant), format!("user {user}")),
        Revoked::Tenant(tenant) => (Some(*tenant), format!("tenant {tenant}")),
        Revoked::Token(token) => (None, format!("token {token}")),
        Revoked::TokenOf(tenant, token) => (Some(*tenant), format!("token {token}")),
    };
    let what = AuditKind::AccessRevoked;
    app.audit.changed(what, operator.identity(), tenant, target);
}

/// Makes a revocation hold, on all nodes where there are several: how many streams were closed, and which nodes have
/// said that they obey.
async fn commit(
    app: &Arc<App>,
    revocation: &Revocation,
) -> Result<(usize, Vec<NodeAnswer>), Refusal> {
    let Some(cluster) = &app.cluster else {
        let closed = obey(app, std::slice::from_ref(revocation)).await;
        let closed = closed.map_err(|error| {
            tracing::error!(%error, "access tokens can't be revoked");
            Refusal::unavailable(
                "the revocation can't be stored at the moment; nothing is revoked",
                Duration::from_secs(5),
            )
        })?;
        return Ok((closed, Vec::new()));
    };
    let changed = cluster.revoke(revocation).await?;
    let others = cluster
        .gather_obeyed(Shared::Revocations, changed.revision)
        .await;
    let closed: usize = others.answers.iter().map(|(_, closed)| closed).sum();
    Ok((
        changed.outcome.closed + closed,
        others.nodes(cluster.node()),
    ))
}

/// Forgets revocations that are too old to matter, now and then.
pub(crate) async fn sweep(app: Arc<App>, stopping: CancellationToken) {
    loop {
        let registry = Arc::clone(&app.registry);
        if let Err(error) = blocking(move || registry.revocations().sweep()).await {
            tracing::warn!(%error, "revocations that are too old to matter can't be forgotten");
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// Stores revocations and closes the streams that those end which are new; how many that were.
///
/// # Errors
///
/// When the disk refuses; nothing is revoked then.
pub(crate) async fn obey(
    app: &Arc<App>,
    revocations: &[Revocation],
) -> Result<usize, RegistryError> {
    let (registry, asked) = (Arc::clone(&app.registry), revocations.to_vec());
    let new = blocking(move || registry.revocations().add(&asked)).await?;
    let mut closed = 0;
    for revocation in new {
        let ended = StreamFilter {
            revoked: Some(Arc::new(revocation)),
            ..StreamFilter::default()
        };
        let reason = ClosingReason::Revoked;
        closed += app.engines.close_streams(&ended, reason).await;
    }
    Ok(closed)
}
