//! Operators: who may look at and end streams, keep device groups, and look after tenants.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Extensions;
use http::request::Parts;
use tidings_protocol::TenantId;
use tidings_protocol::audit::AuditKind;

use super::Identity;
use crate::app::App;
use crate::engine::StreamFilter;
use crate::error::{Refusal, WRONG_TENANT};
use crate::stream::request::bearer;

/// One who may operate: a super admin, or one who has the operator's role in its own tenant. As an
/// extractor it takes an access token in `Authorization: Bearer` only, never a cookie.
#[derive(Clone, Debug)]
pub struct Operator {
    identity: Identity,
}

impl Operator {
    /// The operator that `identity` is, if it is one.
    #[must_use]
    pub fn of(identity: Identity, operator_role: &str) -> Option<Self> {
        let operates =
            identity.super_admin || (*identity.role == *operator_role && identity.tenant.is_some());
        operates.then_some(Self { identity })
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The only tenant that it operates; `None` for a super admin, who operates all.
    #[must_use]
    pub fn only_tenant(&self) -> Option<TenantId> {
        self.identity.tenant.filter(|_| !self.identity.super_admin)
    }

    /// Refuses a tenant that is not this operator's.
    ///
    /// # Errors
    ///
    /// 403.
    pub fn check_tenant(&self, tenant: TenantId) -> Result<(), Refusal> {
        match self.only_tenant() {
            Some(own) if own != tenant => Err(Refusal::forbidden(WRONG_TENANT)),
            _ => Ok(()),
        }
    }

    /// Refuses who is not a super admin.
    ///
    /// # Errors
    ///
    /// 403.
    pub fn require_super_admin(&self) -> Result<(), Refusal> {
        if self.identity.super_admin {
            Ok(())
        } else {
            Err(Refusal::forbidden("only a super admin may do this"))
        }
    }

    /// Refuses who is limited to devices: what it may see must not be its own to change.
    ///
    /// # Errors
    ///
    /// 403.
    pub fn require_all_devices(&self) -> Result<(), Refusal> {
        if self.identity.devices.is_none() && self.identity.device_group.is_none() {
            return Ok(());
        }
        Err(Refusal::forbidden(
            "an access token that is limited to devices can't be used for this",
        ))
    }

    /// Refuses who is limited to event types, where all that there is of something is to be changed.
    ///
    /// # Errors
    ///
    /// 403.
    pub fn require_all_types(&self) -> Result<(), Refusal> {
        if self.identity.types.is_none() {
            return Ok(());
        }
        Err(Refusal::forbidden(
            "an access token that is limited to event types can't be used for this",
        ))
    }

    /// Which streams it may know of: all, or those of its tenant that are not a super admin's.
    #[must_use]
    pub fn visible_streams(&self) -> StreamFilter {
        StreamFilter {
            tenant: self.only_tenant(),
            without_super_admins: !self.identity.super_admin,
            ..StreamFilter::default()
        }
    }
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Refusal;

    /// 401 without a good access token, 403 for who is no operator, 410 for a purged tenant, 429 after too many
    /// bad ones.
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let address = address_in(&parts.extensions);
        let caller = parts.extensions.get().cloned().unwrap_or_default();
        Self::identify(parts, app, address, &caller).await
    }
}

/// Who calls, as far as it is known yet. For what wraps the handlers, which see the call after it.
#[derive(Clone, Default)]
struct Caller(Arc<OnceLock<Identity>>);

fn address_in(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<SocketAddr>();
    peer.map_or([0, 0, 0, 0].into(), SocketAddr::ip)
}

/// Writes into the audit log what operators' calls were refused, be it for who calls or for what is asked.
pub async fn audit_refusals(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = address_in(request.extensions());
    let caller = Caller::default();
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    if let Some(refusal) = response.extensions().get::<Arc<Refusal>>() {
        let what = AuditKind::OperationRefused;
        app.audit
            .refused(what, refusal, caller.0.get(), None, address);
    }
    response
}

impl Operator {
    /// Who calls, if it is an operator; whoever it is is left in `caller`.
    async fn identify(
        parts: &mut Parts,
        app: &Arc<App>,
        address: IpAddr,
        caller: &Caller,
    ) -> Result<Self, Refusal> {
        app.limits.failures_exceeded(address)?;
        let token = bearer(&parts.headers).ok_or_else(|| {
            Refusal::unauthorized("operating needs Authorization: Bearer with an access token")
        })?;
        let identity = app.authenticate(token, address).await?;
        let _ = caller.0.set(identity.clone());
        let config = app.config();
        let roles = &config.auth;
        let operator = Self::of(identity, &roles.operator_role).ok_or_else(|| {
            Refusal::forbidden(format!(
                "this is for operators: the roles {} and {}",
                roles.super_admin_role, roles.operator_role
            ))
        })?;
        if let Some(tenant) = operator.only_tenant() {
            app.check_living(tenant)?;
        }
        // Of another's tenant not even this is told; the handler refuses it.
        if let Some(tenant) = tenant_in_path(parts, app).await
            && operator.check_tenant(tenant).is_ok()
        {
            app.check_living(tenant)?;
        }
        Ok(operator)
    }
}

/// The tenant that the path is about, where it is about one.
async fn tenant_in_path(parts: &mut Parts, app: &Arc<App>) -> Option<TenantId> {
    let parameters = RawPathParams::from_request_parts(parts, app).await.ok()?;
    let (_, text) = parameters.iter().find(|(name, _)| *name == "tenant_id")?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: &str, tenant: Option<u8>) -> Identity {
        Identity {
            user: "ada".into(),
            tenant: tenant.map(|number| TenantId::from_bytes([number; 16])),
            role: role.into(),
            super_admin: role == "super_admin",
            expires_at: 100,
            issued_at: None,
            token_id: None,
            devices: None,
            types: None,
            device_group: None,
        }
    }

    #[test]
    fn a_tenants_operator_operates_its_own_tenant_and_nothing_else() {
        let operator = Operator::of(identity("tenant_operator", Some(1)), "tenant_operator");
        let operator = operator.expect("an operator");
        assert!(operator.check_tenant(TenantId::from_bytes([1; 16])).is_ok());
        assert!(
            operator
                .check_tenant(TenantId::from_bytes([2; 16]))
                .is_err()
        );
        assert!(operator.require_super_admin().is_err());
        let visible = operator.visible_streams();
        assert_eq!(visible.tenant, Some(TenantId::from_bytes([1; 16])));
        assert!(visible.without_super_admins);
    }

    #[test]
    fn a_super_admin_operates_every_tenant_also_with_one_of_its_own() {
        for own in [None, Some(1)] {
            let operator = Operator::of(identity("super_admin", own), "tenant_operator");
            let operator = operator.expect("an operator");
            assert!(operator.check_tenant(TenantId::from_bytes([2; 16])).is_ok());
            assert!(operator.require_super_admin().is_ok());
            assert_eq!(operator.visible_streams().tenant, None);
        }
    }

    #[test]
    fn others_are_no_operators() {
        for role in ["viewer", "publisher", "Tenant_operator", ""] {
            assert!(Operator::of(identity(role, Some(1)), "tenant_operator").is_none());
        }
    }

    #[test]
    fn who_is_limited_to_devices_is_told_from_who_is_not() {
        let mut bounded = identity("tenant_operator", Some(1));
        let requires = |identity: &Identity| {
            let operator = Operator::of(identity.clone(), "tenant_operator");
            operator.expect("an operator").require_all_devices().is_ok()
        };
        assert!(requires(&bounded));
        bounded.device_group = Some("core".into());
        assert!(!requires(&bounded));
        bounded.device_group = None;
        bounded.devices = Some(Arc::from([]));
        assert!(!requires(&bounded));
    }
}
