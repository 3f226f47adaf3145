//! One issuer of access tokens: its keys, the names of its claims, and what its word counts for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde_json::Value;
use tidings_protocol::TenantId;

use super::access_token::{AccessTokenError, Presented};
use super::claims::{self, Claims, bounded_text, malformed, seconds};
use super::identity::Identity;
use super::jwks::JwksSource;
use super::verifying_key::VerifyingKey;
use crate::config::{AuthConfig, Bound, ClaimNames};

/// What the `type` claim of an access token says where it is present.
pub(super) const ACCESS: &str = "access";

/// The most roles of a list that are looked at.
const MOST_ROLES: usize = 1_024;

/// Who issues access tokens, and how they are read.
#[derive(Debug)]
pub(super) struct Issuer {
    /// What `iss` must be.
    pub(super) name: Option<String>,
    /// What `aud` must be or contain.
    pub(super) audience: Option<String>,
    /// The accepted algorithms; none for those of the keys.
    pub(super) algorithms: Vec<Algorithm>,
    /// The keys of the configuration.
    pub(super) keys: Vec<VerifyingKey>,
    /// The keys that it publishes.
    pub(super) jwks: Option<Arc<JwksSource>>,
    pub(super) claims: ClaimNames,
    pub(super) roles: Roles,
    /// The tenants that it may speak for.
    pub(super) tenants: Bound<TenantId>,
    pub(super) times: Times,
}

/// What an issuer's word counts for where it speaks of times, in seconds.
#[derive(Debug)]
pub(super) struct Times {
    /// How far its clock may be ahead.
    leeway: i64,
    /// The longest that a token may live: as long as it is remembered that it was revoked. `None` where that is for ever.
    longest_life: Option<i64>,
    /// How far its clock was seen ahead of ours: what it says of when a token was issued is read by our clock, since that is
    /// compared with the time of revocations.
    ahead: AtomicI64,
}

impl Times {
    pub(super) fn of(config: &AuthConfig) -> Self {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX >> 1);
        let kept = config.revocations_kept;
        Self {
            leeway: seconds(config.jwt.leeway),
            longest_life: (!kept.is_zero()).then(|| seconds(kept)),
            ahead: AtomicI64::new(0),
        }
    }
}

/// What an issuer's roles are called here, and which of several counts.
#[derive(Clone, Debug)]
pub(super) struct Roles {
    /// Theirs to ours; empty where they are the same.
    named: BTreeMap<String, String>,
    pub(super) super_admin: Arc<str>,
    operator: String,
    publishers: Vec<String>,
}

impl Roles {
    pub(super) fn new(named: &BTreeMap<String, String>, config: &AuthConfig) -> Self {
        Self {
            named: named.clone(),
            super_admin: config.super_admin_role.as_str().into(),
            operator: config.operator_role.clone(),
            publishers: config.publisher_roles.clone(),
        }
    }

    /// What the issuer calls one of our roles.
    pub(super) fn theirs<'a>(&'a self, ours: &'a str) -> &'a str {
        let named = self.named.iter();
        let mut named = named.filter(|(theirs, name)| *theirs != "*" && *name == ours);
        named.next().map_or(ours, |(theirs, _)| theirs.as_str())
    }

    /// Ours for one of the issuer's.
    fn ours<'a>(&'a self, theirs: &'a str) -> Option<&'a str> {
        if self.named.is_empty() {
            return Some(theirs);
        }
        let named = self.named.get(theirs).or_else(|| self.named.get("*"));
        named.map(String::as_str)
    }

    /// The smaller, the more a role may.
    fn rank(&self, role: &str) -> u8 {
        if *role == *self.super_admin {
            0
        } else if role == self.operator {
            1
        } else if self.publishers.iter().any(|one| one == role) {
            2
        } else {
            3
        }
    }
}

impl Issuer {
    /// Whether one of the keys signed it.
    pub(super) fn check_signature(&self, token: &Presented<'_>) -> Result<(), AccessTokenError> {
        let algorithm = token.algorithm;
        let published = self.jwks.as_ref().map(|source| source.keys());
        let of_set = published.iter().flatten().flat_map(|keys| keys.iter());
        let configured = self.algorithms.is_empty() || self.algorithms.contains(&algorithm);
        // A JWKS never holds a secret, whatever it says.
        let can_be_published = self.jwks.is_some() && algorithm.family() != AlgorithmFamily::Hmac;
        let accepted = |key: &&VerifyingKey| key.accepts(algorithm);
        if !configured || !(can_be_published || self.keys.iter().any(|key| accepted(&key))) {
            return Err(AccessTokenError::WrongAlgorithm);
        }
        let named = |key: &&VerifyingKey| match (token.key_id, key.id()) {
            (Some(asked), Some(id)) => asked == id,
            _ => true,
        };
        let mut candidates = self.keys.iter().chain(of_set.clone().filter(named));
        if candidates.any(|key| key.verifies(algorithm, token.message, token.signature)) {
            return Ok(());
        }
        match (&published, token.key_id) {
            (Some(None), _) if can_be_published => Err(AccessTokenError::KeysUnavailable),
            (Some(Some(keys)), Some(asked))
                if can_be_published && !keys.iter().any(|key| key.id() == Some(asked)) =>
            {
                Err(AccessTokenError::UnknownKey)
            }
            // Keys without names can have been replaced.
            (Some(Some(keys)), None)
                if can_be_published && keys.iter().any(|key| key.id().is_none()) =>
            {
                Err(AccessTokenError::UnknownKey)
            }
            _ if self.keys.iter().chain(of_set).any(|key| accepted(&key)) => {
                Err(AccessTokenError::BadSignature)
            }
            _ => Err(AccessTokenError::WrongAlgorithm),
        }
    }

    /// The user whom these claims speak of, at `now` in Unix seconds. Their signature is verified.
    pub(super) fn identity(&self, claims: &Claims, now: i64) -> Result<Identity, AccessTokenError> {
        self.check_times(claims, now)?;
        self.check_origin(claims)?;
        let mut identity = self.read(claims)?;
        if let Some(issued) = &mut identity.issued_at {
            // Whatever a token says, it was not issued after it was seen.
            let ahead = self.times.ahead.fetch_max(*issued - now, Ordering::Relaxed);
            *issued -= ahead.max(*issued - now);
        }
        Ok(identity)
    }

    /// Leeway is for those who issue: a clock ahead of ours must not make fresh tokens useless. The end of
    /// authority is not negotiable.
    fn check_times(&self, claims: &Claims, now: i64) -> Result<(), AccessTokenError> {
        let names = &self.claims;
        let expires = seconds(&names.expires, claims.required(&names.expires)?)?;
        if now >= expires {
            return Err(AccessTokenError::Expired);
        }
        for name in [&names.not_before, &names.issued_at] {
            if let Some(value) = claims.present(name)
                && seconds(name, value)? > now.saturating_add(self.times.leeway)
            {
                return Err(AccessTokenError::NotYetValid);
            }
        }
        // Else it would be good again when nobody remembers that it was revoked.
        if let Some(longest) = self.times.longest_life {
            let issued = claims.present(&names.issued_at);
            let issued = issued.map_or(Ok(now), |value| seconds(&names.issued_at, value))?;
            if expires.saturating_sub(issued.min(now)) > longest {
                return Err(AccessTokenError::LivesTooLong);
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
        if let Some(name) = &self.name
            && claims.required("iss")? != name.as_str()
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

    fn read(&self, claims: &Claims) -> Result<Identity, AccessTokenError> {
        let names = &self.claims;
        let user = claims::user(&names.user, claims.required(&names.user)?)?;
        let role = self.role(claims)?;
        let super_admin = role == self.roles.super_admin;
        let tenant = self.tenant(claims, super_admin)?;
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

    /// The role that counts: of several the one that may most.
    fn role(&self, claims: &Claims) -> Result<Arc<str>, AccessTokenError> {
        let name = &self.claims.role;
        let value = claims.required(name)?;
        let theirs = match value {
            Value::Array(roles) if roles.len() <= MOST_ROLES => {
                let read = roles.iter().map(|role| bounded_text(name, role));
                read.collect::<Result<Vec<_>, _>>()?
            }
            one => vec![bounded_text(name, one)?],
        };
        let ours = theirs.iter().filter_map(|role| self.roles.ours(role));
        // Who speaks for some tenants only has nobody who sees all.
        let allowed = ours
            .filter(|role| matches!(self.tenants, Bound::All) || **role != *self.roles.super_admin);
        let most = allowed.min_by_key(|role| self.roles.rank(role));
        most.map(Arc::from).ok_or_else(|| AccessTokenError::NoRole {
            claim: name.as_str().into(),
        })
    }

    fn tenant(
        &self,
        claims: &Claims,
        super_admin: bool,
    ) -> Result<Option<TenantId>, AccessTokenError> {
        let name = &self.claims.tenant;
        match (claims.any(name), &self.tenants) {
            (None | Some(Value::Null), _) if super_admin => Ok(None),
            (None, Bound::Only(tenants)) if tenants.len() == 1 => Ok(tenants.first().copied()),
            (None, _) => Err(AccessTokenError::MissingClaim {
                claim: name.as_str().into(),
            }),
            (Some(value), bound) => {
                let tenant = value.as_str().and_then(|text| text.parse().ok());
                let tenant =
                    tenant.ok_or_else(|| malformed(name, "a tenant's id, which is a UUID"))?;
                if bound.allows(&tenant) {
                    Ok(Some(tenant))
                } else {
                    Err(AccessTokenError::ForeignTenant)
                }
            }
        }
    }
}
