//! The lines of the audit log.

use serde::{Deserialize, Serialize};

use crate::tenant::TenantId;

/// What an entry of the audit log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AuditKind {
    /// A stream was opened.
    StreamOpened,
    /// A stream was refused.
    StreamRefused,
    /// A stream token was refused.
    TokenRefused,
    /// Reading the history or the state was refused.
    ReadRefused,
    /// A publish was refused.
    PublishRefused,
    /// An operator's call was refused.
    OperationRefused,
    /// More refusals than are told one by one; `count` says how many.
    MoreRefused,
    /// Somebody published: `count` bodies with `events` events since the last such entry.
    Published,
    /// Access tokens were revoked.
    AccessRevoked,
    /// A stream was disconnected.
    StreamDisconnected,
    /// An API key was made.
    KeyCreated,
    /// An API key was given a new secret.
    KeyRotated,
    /// An API key was revoked.
    KeyRevoked,
    /// A tenant was purged.
    TenantPurged,
    /// A device group was put.
    GroupPut,
    /// A device group was removed.
    GroupRemoved,
    /// A device was removed.
    DeviceRemoved,
    /// The server was started.
    Started,
    /// Entries were lost, since the disk did not keep up; `count` says how many.
    EntriesDropped,
}

impl AuditKind {
    /// Whether it tells of a change that somebody made, of which more is kept than of others.
    #[must_use]
    pub const fn is_change(self) -> bool {
        matches!(
            self,
            Self::AccessRevoked
                | Self::StreamDisconnected
                | Self::KeyCreated
                | Self::KeyRotated
                | Self::KeyRevoked
                | Self::TenantPurged
                | Self::GroupPut
                | Self::GroupRemoved
                | Self::DeviceRemoved
                | Self::Started
        )
    }
}

/// One line of the audit log. What is absent is not known or does not apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number, which grows from entry to entry of a node: the `after` that goes on behind it.
    pub id: u64,
    /// When, RFC 3339.
    pub time: String,
    /// What happened.
    pub what: AuditKind,
    /// The node that it happened on.
    pub node: String,
    /// The tenant of whoever did it or was refused; where that is not known, the tenant that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<uuid::Uuid>))]
    pub tenant_id: Option<TenantId>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The user's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The user is a super admin.
    #[serde(default, skip_serializing_if = "is_false")]
    pub super_admin: bool,
    /// The id of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<String>,
    /// What was changed: a user, a token's id, a tenant, a group, a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The status that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many events were published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl AuditEntry {
    /// An entry that says no more than what happened; the log numbers it.
    #[must_use]
    pub fn new(what: AuditKind) -> Self {
        Self {
            id: 0,
            time: String::new(),
            what,
            node: String::new(),
            tenant_id: None,
            user_id: None,
            role: None,
            super_admin: false,
            key_id: None,
            address: None,
            connection_id: None,
            target: None,
            status: None,
            reason: None,
            count: None,
            events: None,
        }
    }
}
