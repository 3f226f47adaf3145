//! Tenants: the organisations whose fleets are watched.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identifier of a tenant, a UUID (RFC 9562), written in lower case with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Uuid);

/// The text was no UUID in its hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant id is a UUID such as 11111111-1111-4111-8111-111111111111")]
pub struct InvalidTenantId;

impl TenantId {
    /// The tenant with these 16 bytes, in network order.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes of the UUID, in network order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    /// Reads the hyphenated form, in either case. The other spellings that UUID libraries take
    /// (braces, `urn:uuid:`, no hyphens) are refused, so that a tenant has one name in a URL.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 36 {
            return Err(InvalidTenantId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidTenantId)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_spelling() {
        let tenant: TenantId = "ABCDEF00-1111-4111-8111-111111111111".parse().unwrap();
        assert_eq!(tenant.to_string(), "abcdef00-1111-4111-8111-111111111111");
        for other in [
            "",
            "abcdef001111411181111111111111111",
            "{abcdef00-1111-4111-8111-111111111111}",
            "urn:uuid:abcdef00-1111-4111-8111-111111111111",
            "not-a-tenant",
        ] {
            assert_eq!(other.parse::<TenantId>(), Err(InvalidTenantId), "{other}");
        }
    }
}
