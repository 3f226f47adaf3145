//! The JSON bodies about publishers' API keys.

use serde::{Deserialize, Serialize};

use crate::event::EventType;
use crate::operate::NodeAnswer;
use crate::tenant::TenantId;

/// The body of `POST /keys`: an API key to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewKey {
    /// What people call it: 1 to 64 characters without control characters.
    #[cfg_attr(feature = "openapi", schema(example = "poller-1"))]
    pub name: String,
    /// The tenants that it may publish to. A tenant's operator can leave it out, or name its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<uuid::Uuid>>))]
    pub tenants: Option<Vec<TenantId>>,
    /// It may publish to all tenants; a super admin's to say.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all_tenants: bool,
    /// The event types that it may publish; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub types: Option<Vec<EventType>>,
    /// When it ends, RFC 3339; without it never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The events that it may publish a second, instead of `limits.publish_rate_per_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_rate: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The body of `POST /keys/{id}/rotate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyRotation {
    /// For how long the secret of before stays good, in seconds; an hour where nothing is said, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 2_592_000))]
    pub overlap_seconds: Option<u32>,
}

/// An API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyInfo {
    /// Its id, which stands in the key.
    pub id: String,
    /// What people call it; null for one of the configuration.
    pub name: Option<String>,
    /// Whether it stands in the server's configuration, and can't be changed here.
    pub configured: bool,
    /// The tenants that it may publish to; null for all.
    pub tenants: Option<Vec<String>>,
    /// The event types that it may publish; null for all.
    pub types: Option<Vec<String>>,
    /// The events that it may publish a second, where it has a limit of its own.
    pub publish_rate: Option<u32>,
    /// When it was made, RFC 3339; null for one of the configuration.
    pub created_at: Option<String>,
    /// Who made it; null where that is not known, or not the caller's to know.
    pub created_by: Option<String>,
    /// When it ends, RFC 3339.
    pub expires_at: Option<String>,
    /// Until when the secret of before its last rotation is good, RFC 3339; null where there is none.
    pub old_secret_until: Option<String>,
    /// When it was last used, to the minute, RFC 3339; null where it was not, or that is not known.
    pub last_used_at: Option<String>,
    /// When it was revoked, RFC 3339.
    pub revoked_at: Option<String>,
}

/// The answer of `GET /keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyList {
    /// Ascending by id.
    pub keys: Vec<KeyInfo>,
    /// The nodes that were asked when each key was last used, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// The answer of `POST /keys` and `POST /keys/{id}/rotate`: the one time that the secret is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IssuedKey {
    /// The whole key, as a publisher shows it.
    pub key: String,
    /// What there is to know of it.
    pub info: KeyInfo,
}

impl std::fmt::Debug for IssuedKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("IssuedKey")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
