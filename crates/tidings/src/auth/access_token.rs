//! Access tokens: the JWT (RFC 7519) of a user's login, verified with the deployment's keys.
//!
//! RFC 8725 is followed where it applies: the algorithms are an allow-list, each is tied to keys of its
//! kind, `none` does not exist here, and nothing of a token is used before its signature is verified.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::claims::{self, Claims, bounded_text, malformed, seconds};
use super::identity::Identity;
use super::verified::{Digest, VerifiedTokens};
use super::verifying_key::VerifyingKeys;
use super::{NoRandomness, random_text};
use crate::config::{AuthConfig, ClaimNames, ConfigError};
use crate::registry::Registry;

/// The longest access token, in bytes. Lists of devices make tokens long, but not this long.
pub const MAX_ACCESS_TOKEN_LENGTH: usize = 64 * 1024;

/// What the `type` claim of an access token says where it is present.
const ACCESS: &str = "access";

/// Why an access token is refused. The sentences can be shown to the caller: they name claims, never
/// their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    /// It is longer than [`MAX_ACCESS_TOKEN_LENGTH`].
    #[error("the access token is too long")]
    TooLong,
    /// It has not the form of a signed JWT.
    #[error("the access token is not a JWT")]
    Malformed,
    /// Its header names an algorithm that is not accepted here.
    #[error("the access token is signed with an algorithm that is not accepted here")]
    WrongAlgorithm,
    /// Its header asks for an extension (`crit`, RFC 7515, section 4.1.11) that is not known here.
    #[error("the access token needs an extension that is not supported")]
    UnknownExtension,
    /// No key of this deployment made its signature.
    #[error("the access token's signature is wrong")]
    BadSignature,
    /// It is over.
    #[error("the access token has expired")]
    Expired,
    /// It was revoked.
    #[error("the access token was revoked")]
    Revoked,
    /// It is not valid yet, or was issued in the future.
    #[error("the access token is not valid yet")]
    NotYetValid,
    /// A claim that every access token needs is not there.
    #[error("the access token lacks the claim `{claim}`")]
    MissingClaim {
        /// The claim's configured name.
        claim: Arc<str>,
    },
    /// A claim is there but can't be read.
    #[error("the access token's claim `{claim}` is not {expected}")]
    MalformedClaim {
        /// The claim's configured name.
        claim: Arc<str>,
        /// What it should be.
        expected: &'static str,
    },
    /// It is another kind of token, such as a refresh token.
    #[error("this is not an access token: its claim `{claim}` is not `{ACCESS}`")]
    WrongKind {
        /// The claim's configured name.
        claim: Arc<str>,
    },
    /// It was issued by another.
    #[error("the access token is from another issuer")]
    WrongIssuer,
    /// It was issued for another.
    #[error("the access token is for another audience")]
    WrongAudience,
}

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

/// Verifies access tokens, and mints them where the deployment's key is a shared secret. What it does that with can
/// be replaced while it is used.
#[derive(Debug)]
pub struct AccessTokens {
    /// Swapped whole.
    verifier: RwLock<Arc<Verifier>>,
    /// Says which of them were revoked, where tokens can be.
    registry: Option<Arc<Registry>>,
}

/// What one configuration says of access tokens.
#[derive(Debug)]
struct Verifier {
    keys: VerifyingKeys,
    claims: ClaimNames,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: i64,
    super_admin_role: Arc<str>,
    /// By these keys and rules, and forgotten with them.
    verified: VerifiedTokens,
}

/// The part of a JOSE header that decides anything. What else it says (`kid`, `jwk`, `x5c`, …) is not used:
/// keys come from the configuration only.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<Value>,
}

impl AccessTokens {
    /// Reads the configured keys.
    ///
    /// # Errors
    /// No key is configured, a key file can't be read or holds no usable key, or an algorithm is listed that
    /// no key suits.
    pub fn from_config(config: &AuthConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            verifier: RwLock::new(Arc::new(Verifier::from_config(config)?)),
            registry: None,
        })
    }

    /// Verifies with what this configuration says from now on, whole or not at all.
    ///
    /// # Errors
    /// As [`from_config`](Self::from_config); what there is stays then.
    pub fn replace(&self, config: &AuthConfig) -> Result<(), ConfigError> {
        let verifier = Arc::new(Verifier::from_config(config)?);
        *self.verifier.write() = verifier;
        Ok(())
    }

    fn verifier(&self) -> Arc<Verifier> {
        Arc::clone(&self.verifier.read())
    }

    /// From now on refuses tokens that this registry knows as revoked.
    #[must_use]
    pub fn obeying(mut self, registry: Arc<Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// What an operator should know about the keys, a sentence each: a short secret.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.verifier().keys.warnings.clone()
    }

    /// The user whom `jwt` speaks of, at `now` in Unix seconds.
    pub fn verify(&self, jwt: &str, now: i64) -> Result<Identity, AccessTokenError> {
        let identity = self.verifier().identity_of(jwt, now)?;
        let registry = self.registry.as_ref();
        if registry.is_some_and(|registry| registry.revocations().cover(&identity)) {
            return Err(AccessTokenError::Revoked);
        }
        Ok(identity)
    }

    /// A new access token, valid from `now` (Unix seconds), that [`verify`](Self::verify) accepts.
    pub fn mint(&self, token: &NewAccessToken, now: i64) -> Result<String, MintError> {
        self.verifier().mint(token, now)
    }
}

impl Verifier {
    fn from_config(config: &AuthConfig) -> Result<Self, ConfigError> {
        let jwt = &config.jwt;
        jwt.require_key()?;
        Ok(Self {
            keys: VerifyingKeys::from_config(jwt)?,
            claims: jwt.claims.clone(),
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            leeway: i64::try_from(jwt.leeway.as_secs()).unwrap_or(i64::MAX >> 1),
            super_admin_role: config.super_admin_role.as_str().into(),
            verified: VerifiedTokens::default(),
        })
    }

    fn identity_of(&self, jwt: &str, now: i64) -> Result<Identity, AccessTokenError> {
        let digest = Digest::of(jwt);
        if let Some(identity) = self.verified.find(&digest) {
            return if identity.expired(now) {
                Err(AccessTokenError::Expired)
            } else {
                Ok(identity)
            };
        }
        let claims = self.verified_claims(jwt)?;
        self.check_times(&claims, now)?;
        self.check_origin(&claims)?;
        let identity = self.identity(&claims)?;
        self.verified.remember(digest, &identity);
        Ok(identity)
    }

    /// The claims of a token that one of the keys signed.
    fn verified_claims(&self, jwt: &str) -> Result<Claims, AccessTokenError> {
        if jwt.len() > MAX_ACCESS_TOKEN_LENGTH {
            return Err(AccessTokenError::TooLong);
        }
        let malformed = AccessTokenError::Malformed;
        let (message, signature) = jwt.rsplit_once('.').ok_or(malformed.clone())?;
        let (header, payload) = message.split_once('.').ok_or(malformed.clone())?;
        let header: Header = decode(header).ok_or(malformed.clone())?;
        let algorithm = header
            .alg
            .parse::<Algorithm>()
            .ok()
            .filter(|algorithm| self.keys.algorithms.contains(algorithm))
            .ok_or(AccessTokenError::WrongAlgorithm)?;
        if header.crit.is_some() {
            return Err(AccessTokenError::UnknownExtension);
        }
        let signed = self
            .keys
            .keys
            .iter()
            .any(|key| key.verifies(algorithm, message.as_bytes(), signature));
        if !signed {
            return Err(AccessTokenError::BadSignature);
        }
        decode(payload).map(Claims).ok_or(malformed)
    }

    /// Leeway is for those who issue: a clock ahead of ours must not make fresh tokens useless. The end of
    /// authority is not negotiable.
    fn check_times(&self, claims: &Claims, now: i64) -> Result<(), AccessTokenError> {
        let names = &self.claims;
        if now >= seconds(&names.expires, claims.required(&names.expires)?)? {
            return Err(AccessTokenError::Expired);
        }
        for name in [&names.not_before, &names.issued_at] {
            if let Some(value) = claims.present(name)
                && seconds(name, value)? > now.saturating_add(self.leeway)
            {
                return Err(AccessTokenError::NotYetValid);
            }
        }
        Ok(())
    }

    /// What the token is, who issued it and for whom.
    fn check_origin(&self, claims: &Claims) -> Result<(), AccessTokenError> {
        let kind = &self.claims.kind;
        if claims.any(kind).is_some_and(|value| value != ACCESS) {
            return Err(AccessTokenError::WrongKind {
                claim: kind.as_str().into(),
            });
        }
        if let Some(issuer) = &self.issuer
            && claims.required("iss")? != issuer.as_str()
        {
            return Err(AccessTokenError::WrongIssuer);
        }
        if let Some(audience) = &self.audience {
            let meant = match claims.required("aud")? {
                Value::Array(audiences) => audiences.iter().any(|one| one == audience.as_str()),
                one => one == audience.as_str(),
            };
            if !meant {
                return Err(AccessTokenError::WrongAudience);
            }
        }
        Ok(())
    }

    fn identity(&self, claims: &Claims) -> Result<Identity, AccessTokenError> {
        let names = &self.claims;
        let user = claims::user(&names.user, claims.required(&names.user)?)?;
        let role = bounded_text(&names.role, claims.required(&names.role)?)?;
        let super_admin = role == self.super_admin_role;
        let tenant =
            match claims.any(&names.tenant) {
                None | Some(Value::Null) if super_admin => None,
                None => {
                    return Err(AccessTokenError::MissingClaim {
                        claim: names.tenant.as_str().into(),
                    });
                }
                Some(value) => {
                    let tenant = value.as_str().and_then(|text| text.parse().ok());
                    Some(tenant.ok_or_else(|| {
                        malformed(&names.tenant, "a tenant's id, which is a UUID")
                    })?)
                }
            };
        let optional_seconds = |name: &str| {
            claims
                .present(name)
                .map(|value| seconds(name, value))
                .transpose()
        };
        // A null here is refused rather than taken for absent, which would lift the bound.
        let devices = claims
            .any(&names.devices)
            .map(|value| claims::list(&names.devices, value, "a list of device ids"))
            .transpose()?;
        let types = claims
            .any(&names.types)
            .map(|value| claims::list(&names.types, value, "a list of event types"))
            .transpose()?;
        let device_group = claims
            .any(&names.device_group)
            .map(|value| bounded_text(&names.device_group, value))
            .transpose()?;
        let token_id = claims
            .present(&names.token_id)
            .map(|value| bounded_text(&names.token_id, value))
            .transpose()?;
        Ok(Identity {
            user,
            tenant,
            role,
            super_admin,
            expires_at: seconds(&names.expires, claims.required(&names.expires)?)?,
            issued_at: optional_seconds(&names.issued_at)?,
            token_id,
            devices,
            types,
            device_group,
        })
    }

    fn mint(&self, token: &NewAccessToken, now: i64) -> Result<String, MintError> {
        let (key, algorithm) = self
            .keys
            .keys
            .iter()
            .find_map(|key| {
                let suits = |algorithm: &&Algorithm| key.suits(**algorithm);
                Some((key.signing()?, *self.keys.algorithms.iter().find(suits)?))
            })
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
        if token.tenant.is_none() && token.role != *self.super_admin_role {
            return Err(MintError::NoTenant(Arc::clone(&self.super_admin_role)));
        }
        let claims = self.new_claims(token, now)?;
        let message = format!(
            "{}.{}",
            encode(&json!({"alg": format!("{algorithm:?}"), "typ": "JWT"})),
            encode(&Value::Object(claims)),
        );
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm)
            .map_err(|_| MintError::Signing)?;
        Ok(format!("{message}.{signature}"))
    }

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
        if let Some(issuer) = &self.issuer {
            claims.insert("iss".to_owned(), json!(issuer));
        }
        if let Some(audience) = &self.audience {
            claims.insert("aud".to_owned(), json!(audience));
        }
        for (name, value) in [
            (&names.user, json!(token.user)),
            (&names.tenant, json!(token.tenant)),
            (&names.role, json!(token.role)),
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

fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests;
