//! Who publishes, and what they may.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use tidings_log::NewEvent;
use tidings_protocol::audit::{AuditEntry, AuditKind};
use tidings_protocol::{DeviceId, EventType, TenantId};

use crate::app::App;
use crate::audit;
use crate::auth::{Identity, Publisher, PublisherKeys};
use crate::config::Bound;
use crate::error::{Refusal, WRONG_TENANT};
use crate::stream::request::bearer;
use crate::time::unix_seconds;

/// A refusal of whoever shows an API key. It is told to the tenant's operators where it is for one tenant alone.
fn told_of_key(publisher: &Publisher) -> AuditEntry {
    let tenant_id = match &publisher.tenants {
        Bound::Only(tenants) if tenants.len() == 1 => tenants.first().copied(),
        _ => None,
    };
    AuditEntry {
        tenant_id,
        key_id: Some(publisher.id.to_string()),
        ..AuditEntry::new(AuditKind::PublishRefused)
    }
}

/// One who may publish to the tenant at hand.
#[derive(Debug)]
pub struct Author {
    /// Unique among all publishers: an API key's id or a user.
    pub name: String,
    who: Who,
    types: Option<HashSet<EventType>>,
    devices: Option<HashSet<DeviceId>>,
}

/// Whose credential it is.
#[derive(Debug)]
enum Who {
    /// An API key's.
    Key(Arc<Publisher>),
    /// An access token's.
    User(Box<Identity>),
}

impl Author {
    /// Finds out who publishes and whether they may publish to `tenant`.
    ///
    /// # Errors
    ///
    /// 401 without a good credential, 403 where it is not for this tenant or not for publishing, 429
    /// after too many bad ones.
    pub async fn identify(
        app: &App,
        headers: &HeaderMap,
        tenant: TenantId,
        address: IpAddr,
    ) -> Result<Self, Refusal> {
        let mut who = AuditEntry {
            tenant_id: Some(tenant),
            ..AuditEntry::new(AuditKind::PublishRefused)
        };
        let author = Self::found(app, headers, tenant, address, &mut who).await;
        author.inspect_err(|refusal| app.audit.refused_as(who, refusal, address))
    }

    /// Whoever it is is left in `who`, for the case that they are refused.
    async fn found(
        app: &App,
        headers: &HeaderMap,
        tenant: TenantId,
        address: IpAddr,
        who: &mut AuditEntry,
    ) -> Result<Self, Refusal> {
        app.limits.failures_exceeded(address)?;
        let credential = bearer(headers).ok_or_else(|| {
            Refusal::unauthorized(
                "publishing needs Authorization: Bearer with an access token or an API key",
            )
        })?;
        if PublisherKeys::is_key(credential) {
            let publisher = app.publisher_keys.verify(credential).map_err(|error| {
                app.limits.failure_recorded(address);
                Refusal::unauthorized(error.to_string())
            })?;
            *who = told_of_key(&publisher);
            Self::by_key(publisher, tenant)
        } else {
            let identity = app.authenticate(credential, address).await?;
            *who = audit::by_whom(AuditKind::PublishRefused, &identity);
            Self::by_access_token(app, identity, tenant)
        }
    }

    fn by_key(publisher: Arc<Publisher>, tenant: TenantId) -> Result<Self, Refusal> {
        if !publisher.tenants.allows(&tenant) {
            return Err(Refusal::forbidden(WRONG_TENANT));
        }
        let types = match &publisher.types {
            Bound::All => None,
            Bound::Only(types) => Some(types.iter().cloned().collect()),
        };
        Ok(Self {
            name: format!("key:{}", publisher.id),
            types,
            devices: None,
            who: Who::Key(publisher),
        })
    }

    fn by_access_token(app: &App, identity: Identity, tenant: TenantId) -> Result<Self, Refusal> {
        if !identity.super_admin {
            if identity.tenant != Some(tenant) {
                return Err(Refusal::forbidden(WRONG_TENANT));
            }
            let config = app.config();
            let roles = &config.auth.publisher_roles;
            if !roles.iter().any(|role| **role == *identity.role) {
                return Err(Refusal::forbidden(format!(
                    "the role {:?} may not publish; {} may",
                    identity.role,
                    roles.join(", ")
                )));
            }
        }
        let group = app.group_of(&identity, Some(tenant));
        Ok(Self {
            name: format!("user:{}", identity.user),
            types: identity
                .types
                .as_ref()
                .map(|types| types.iter().cloned().collect()),
            devices: identity
                .allowed_devices(group.as_deref().unwrap_or_default())
                .map(|devices| devices.iter().cloned().collect()),
            who: Who::User(Box::new(identity)),
        })
    }

    /// Looks again whether the credential is good: a body takes its time to come in.
    ///
    /// # Errors
    ///
    /// 401 where it was revoked, or is over, by now.
    pub fn check_again(&self, app: &App) -> Result<(), Refusal> {
        match &self.who {
            Who::Key(publisher) => app
                .publisher_keys
                .check(publisher)
                .map_err(|error| Refusal::unauthorized(error.to_string())),
            Who::User(identity) => {
                let now = unix_seconds(SystemTime::now());
                Ok(app.access_tokens.check(identity, now)?)
            }
        }
    }

    /// Counts a body that was published.
    pub fn published(&self, app: &App, tenant: TenantId, events: u32) {
        let author = match &self.who {
            Who::Key(key) => audit::Author::Key(&key.id),
            Who::User(identity) => audit::Author::User(&identity.user, identity.super_admin),
        };
        app.audit.published(tenant, author, events.into());
    }

    /// Notes that they were refused what they wanted to publish.
    pub fn refused(&self, app: &App, tenant: TenantId, refusal: &Refusal, address: IpAddr) {
        let who = match &self.who {
            Who::Key(key) => told_of_key(key),
            Who::User(identity) => AuditEntry {
                tenant_id: Some(tenant),
                ..audit::by_whom(AuditKind::PublishRefused, identity)
            },
        };
        app.audit.refused_as(who, refusal, address);
    }

    /// Charges what is published to the API key, if it is one.
    ///
    /// # Errors
    ///
    /// 429 over the key's rate.
    pub fn charge(&self, app: &App, events: u32) -> Result<(), Refusal> {
        if let Who::Key(key) = &self.who {
            app.limits.key_allowed(&key.id, key.publish_rate, events)?;
        }
        Ok(())
    }

    /// Checks that every event is of a type and device that the author may publish.
    ///
    /// # Errors
    ///
    /// 403, with the line and field of the first that is not.
    pub fn check(&self, events: &[NewEvent], lines: &[u64]) -> Result<(), Refusal> {
        for (event, line) in events.iter().zip(lines) {
            let type_allowed = self
                .types
                .as_ref()
                .is_none_or(|types| types.contains(&event.event_type));
            let device_allowed = self.devices.as_ref().is_none_or(|devices| {
                event
                    .device
                    .as_ref()
                    .is_some_and(|device| devices.contains(device))
            });
            let field = match (type_allowed, device_allowed) {
                (true, true) => continue,
                (false, _) => "type",
                (true, false) => "device_id",
            };
            let detail = format!("this publisher may not publish events of this {field}");
            return Err(Refusal::forbidden(detail).at_line(*line).at_field(field));
        }
        Ok(())
    }
}
