//! Access tokens made here, with a shared secret: for development.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::access_token::{AccessTokens, encode};
use super::issuer::{ACCESS, Issuer};
use super::verifying_key::VerifyingKey;
use super::{NoRandomness, claims, random_text};

/// Why an access token can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Only public keys are configured; they verify but do not sign.
    #[error(
        "this configuration can only verify access tokens; to mint them set auth.jwt.secret or auth.jwt.secret_file"
    )]
    NoSecret,
    /// The user or role could not be read back.
    #[error("a user and a role are text of 1 to 256 bytes without control characters")]
    BadText,
    /// Without a tenant the role must be the super admin's.
    #[error("a user without a tenant must have the role {0}")]
    NoTenant(Arc<str>),
    /// No randomness for the token's id.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The signature could not be made.
    #[error("the access token can't be signed")]
    Signing,
}

/// What a new access token shall say.
#[derive(Clone, Debug)]
pub struct NewAccessToken {
    /// The user's id.
    pub user: String,
    /// The user's tenant; only a super admin may have none.
    pub tenant: Option<TenantId>,
    /// The user's role.
    pub role: String,
    /// How long it is valid, in whole seconds.
    pub lifetime: Duration,
    /// The only event types that the user may see.
    pub types: Option<Vec<EventType>>,
    /// The only devices that the user may see.
    pub devices: Option<Vec<DeviceId>>,
    /// The device group that the user may see.
    pub device_group: Option<String>,
}

impl AccessTokens {
    /// A new access token, valid from `now` (Unix seconds), that [`verify`](Self::verify) accepts.
    pub fn mint(&self, token: &NewAccessToken, now: i64) -> Result<String, MintError> {
        let issuers = self.issuers();
        let issuer = issuers.own.as_ref().ok_or(MintError::NoSecret)?;
        let (key, algorithm) = issuer
            .keys
            .iter()
            .find_map(VerifyingKey::signing)
            .ok_or(MintError::NoSecret)?;
        let texts = [
            Some(&token.user),
            Some(&token.role),
            token.device_group.as_ref(),
        ];
        if !texts
            .into_iter()
            .flatten()
            .all(|text| claims::is_bounded_text(text))
        {
            return Err(MintError::BadText);
        }
        if token.tenant.is_none() && token.role != *issuer.roles.super_admin {
            return Err(MintError::NoTenant(Arc::clone(&issuer.roles.super_admin)));
        }
        let claims = issuer.new_claims(token, now)?;
        let message = format!(
            "{}.{}",
            encode(&json!({"alg": format!("{algorithm:?}"), "typ": "JWT"})),
            encode(&Value::Object(claims)),
        );
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm)
            .map_err(|_| MintError::Signing)?;
        Ok(format!("{message}.{signature}"))
    }
}

impl Issuer {
    fn new_claims(
        &self,
        token: &NewAccessToken,
        now: i64,
    ) -> Result<Map<String, Value>, MintError> {
        let names = &self.claims;
        let lifetime = i64::try_from(token.lifetime.as_secs()).unwrap_or(i64::MAX);
        let optional = [
            (&names.types, token.types.as_ref().map(|types| json!(types))),
            (
                &names.devices,
                token.devices.as_ref().map(|devices| json!(devices)),
            ),
            (
                &names.device_group,
                token.device_group.as_ref().map(|group| json!(group)),
            ),
        ];
        let mut claims = Map::new();
        if let Some(issuer) = &self.name {
            claims.insert("iss".to_owned(), json!(issuer));
        }
        if let Some(audience) = &self.audience {
            claims.insert("aud".to_owned(), json!(audience));
        }
        for (name, value) in [
            (&names.user, json!(token.user)),
            (&names.tenant, json!(token.tenant)),
            (&names.role, json!(self.roles.theirs(&token.role))),
            (&names.kind, json!(ACCESS)),
            (&names.token_id, json!(random_text()?)),
            (&names.issued_at, json!(now)),
            (
                &names.expires,
                json!(now.saturating_add(lifetime).min(1 << 52)),
            ),
        ] {
            claims::write(&mut claims, name, value);
        }
        for (name, value) in optional {
            if let Some(value) = value {
                claims::write(&mut claims, name, value);
            }
        }
        Ok(claims)
    }
}
