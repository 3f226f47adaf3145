//! Access tokens: the JWT (RFC 7519) of a user's login, verified with its issuer's keys.
//!
//! RFC 8725 is followed where it applies: the algorithms are an allow-list, each is tied to keys of its
//! kind, `none` does not exist here, and nothing of a token is used before its signature is verified, but for two names
//! that select what it is verified with: `iss` the issuer, `kid` the key among those that this issuer publishes.
//! What else a header says of keys (`jwk`, `jku`, `x5c`, `x5u`) is not looked at.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::identity::Identity;
use super::issuer::{Issuer, Roles, Times};
use super::jwks::{JwksSource, SourceOptions, SourceStatus};
use super::stream_token::Outage;
use super::verified::{Digest, VerifiedTokens};
use super::verifying_key::{KeySettings, VerifyingKeys};
use crate::config::{AuthConfig, Bound, ConfigError, IssuerConfig};
use crate::registry::Registry;

/// The longest access token, in bytes. Lists of devices make tokens long, but not this long.
pub const MAX_ACCESS_TOKEN_LENGTH: usize = 64 * 1024;

/// How often a token may have its issuer's keys fetched before it is refused: a fetch that is under way when it comes
/// may have begun before its key was published.
const FETCHES: usize = 2;

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
    /// It would outlive its revocation.
    #[error(
        "the access token lives longer than it would be remembered that it was revoked (auth.revocations_kept)"
    )]
    LivesTooLong,
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
    #[error("this is not an access token: its claim `{claim}` is not `access`")]
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
    /// It names a key that its issuer does not publish.
    #[error("the access token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// Its issuer's keys can't be had, so that nothing can be said of it.
    #[error("the keys of the access token's issuer can't be had at the moment")]
    KeysUnavailable,
    /// None of its roles counts here.
    #[error("the access token's claim `{claim}` names no role that counts here")]
    NoRole {
        /// The claim's configured name.
        claim: Arc<str>,
    },
    /// Its issuer speaks for other tenants only.
    #[error("the access token's issuer may not speak for its tenant")]
    ForeignTenant,
}

/// Verifies access tokens. What it verifies them with can be replaced while it is used.
#[derive(Debug)]
pub struct AccessTokens {
    /// Swapped whole.
    issuers: RwLock<Arc<Issuers>>,
    verified: Arc<VerifiedTokens>,
    /// Says which of them were revoked, where tokens can be.
    registry: Option<Arc<Registry>>,
    /// Where the tasks run that keep issuers' keys, once they do.
    keeping: Mutex<Option<(TaskTracker, CancellationToken)>>,
}

/// All issuers of one configuration.
#[derive(Debug)]
pub(super) struct Issuers {
    /// The one that is configured directly, where it has keys. Its tokens need not say who issued them.
    pub(super) own: Option<Issuer>,
    /// Those that tokens name.
    further: Vec<Issuer>,
    warnings: Vec<String>,
}

/// The part of a JOSE header that decides anything.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    kid: Option<String>,
}

/// A token that is shown, taken apart, of which nothing is verified.
pub(super) struct Presented<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<&'t str>,
    /// What is signed.
    pub(super) message: &'t [u8],
    pub(super) signature: &'t str,
    payload: &'t str,
}

impl AccessTokens {
    /// Reads the configured keys.
    ///
    /// # Errors
    /// No key is configured, a key file can't be read or holds no usable key, or an algorithm is listed that
    /// no key suits.
    pub fn from_config(config: &AuthConfig) -> Result<Self, ConfigError> {
        let verified = Arc::default();
        Ok(Self {
            issuers: RwLock::new(Arc::new(Issuers::from_config(config, &verified, None)?)),
            verified,
            registry: None,
            keeping: Mutex::new(None),
        })
    }

    /// From now on refuses tokens that this registry knows as revoked.
    #[must_use]
    pub fn obeying(mut self, registry: Arc<Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Keeps the keys that issuers publish up to date, in tasks of their own that end with `stopping`.
    pub fn keep_up(&self, tasks: &TaskTracker, stopping: &CancellationToken) {
        *self.keeping.lock() = Some((tasks.clone(), stopping.clone()));
        self.start_sources();
    }

    /// Verifies with what this configuration says from now on, whole or not at all. Keys that were fetched from where
    /// they still are to be fetched from stay known meanwhile.
    ///
    /// # Errors
    /// As [`from_config`](Self::from_config); what there is stays then.
    pub fn replace(&self, config: &AuthConfig) -> Result<(), ConfigError> {
        let present = self.issuers();
        let issuers = Issuers::from_config(config, &self.verified, Some(&present))?;
        *self.issuers.write() = Arc::new(issuers);
        self.verified.forget();
        self.start_sources();
        Ok(())
    }

    fn start_sources(&self) {
        if let Some((tasks, stopping)) = &*self.keeping.lock() {
            for source in self.issuers().sources() {
                source.start(tasks, stopping);
            }
        }
    }

    /// What an operator should know about the keys, a sentence each: a short secret.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.issuers().warnings.clone()
    }

    /// How the keys that issuers publish are known.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceStatus> {
        let issuers = self.issuers();
        issuers.sources().map(|source| source.status()).collect()
    }

    /// Why no access token at all can be verified, if none can: a sentence for each issuer.
    #[must_use]
    pub fn away(&self) -> Vec<Outage> {
        let issuers = self.issuers();
        let all = issuers.own.iter().chain(&issuers.further);
        let mut away = Vec::new();
        for issuer in all {
            let why = issuer.jwks.as_ref().and_then(|source| source.status().away);
            match why {
                Some(why) if issuer.keys.is_empty() => away.push(why),
                _ => return Vec::new(),
            }
        }
        away
    }

    pub(super) fn issuers(&self) -> Arc<Issuers> {
        Arc::clone(&self.issuers.read())
    }

    /// The user whom `jwt` speaks of, at `now` in Unix seconds. Where it names a key that is not known, its issuer's
    /// keys are fetched, if that was not done a moment ago.
    pub async fn authenticate(&self, jwt: &str, now: i64) -> Result<Identity, AccessTokenError> {
        for _ in 0..FETCHES {
            match self.verify(jwt, now) {
                Err(AccessTokenError::UnknownKey) => {}
                known => return known,
            }
            let Some(source) = self.source_for(jwt) else {
                return Err(AccessTokenError::UnknownKey);
            };
            if !source.ask().await {
                break;
            }
        }
        match self.verify(jwt, now) {
            // The key may be there, where nobody can look.
            Err(AccessTokenError::UnknownKey)
                if self.source_for(jwt).is_some_and(|source| source.is_away()) =>
            {
                Err(AccessTokenError::KeysUnavailable)
            }
            known => known,
        }
    }

    /// The user whom `jwt` speaks of, at `now` in Unix seconds, by the keys that are known.
    pub fn verify(&self, jwt: &str, now: i64) -> Result<Identity, AccessTokenError> {
        let identity = self.identity_of(jwt, now)?;
        self.check(&identity, now)?;
        Ok(identity)
    }

    /// Whether the authority of somebody who has shown a token is neither over nor revoked, at `now` in Unix seconds.
    pub fn check(&self, identity: &Identity, now: i64) -> Result<(), AccessTokenError> {
        if identity.expired(now) {
            return Err(AccessTokenError::Expired);
        }
        let registry = self.registry.as_ref();
        if registry.is_some_and(|registry| registry.revocations().cover(identity)) {
            return Err(AccessTokenError::Revoked);
        }
        Ok(())
    }

    fn identity_of(&self, jwt: &str, now: i64) -> Result<Identity, AccessTokenError> {
        let digest = Digest::of(jwt);
        // Before the keys are looked at: what is verified with keys that go meanwhile is not remembered.
        let age = self.verified.age();
        let issuers = self.issuers();
        // Where keys are too old to be relied on, so is what was verified with them; then each token is looked at anew.
        if !issuers.is_stale()
            && let Some(identity) = self.verified.find(&digest)
        {
            return Ok(identity);
        }
        Presented::with(jwt, |token| {
            let issuer = issuers.of(&token)?;
            issuer.check_signature(&token)?;
            let identity = issuer.identity(&token.claims()?, now)?;
            self.verified.remember(digest, &identity, age);
            Ok(identity)
        })
    }

    /// Where the keys are published that a token may be signed with.
    fn source_for(&self, jwt: &str) -> Option<Arc<JwksSource>> {
        let issuers = self.issuers();
        Presented::with(jwt, |token| Ok(issuers.of(&token)?.jwks.clone()))
            .ok()
            .flatten()
    }
}

impl Presented<'_> {
    /// Takes a token apart.
    fn with<T>(
        jwt: &str,
        look: impl FnOnce(Presented<'_>) -> Result<T, AccessTokenError>,
    ) -> Result<T, AccessTokenError> {
        if jwt.len() > MAX_ACCESS_TOKEN_LENGTH {
            return Err(AccessTokenError::TooLong);
        }
        let malformed = AccessTokenError::Malformed;
        let (message, signature) = jwt.rsplit_once('.').ok_or(malformed.clone())?;
        let (header, payload) = message.split_once('.').ok_or(malformed.clone())?;
        let header: Header = decode(header).ok_or(malformed)?;
        let algorithm = header
            .alg
            .parse()
            .map_err(|_| AccessTokenError::WrongAlgorithm)?;
        let token = Presented {
            algorithm,
            key_id: header.kid.as_deref(),
            message: message.as_bytes(),
            signature,
            payload,
        };
        if header.crit.is_some() {
            return Err(AccessTokenError::UnknownExtension);
        }
        look(token)
    }

    fn claims(&self) -> Result<Claims, AccessTokenError> {
        decode(self.payload)
            .map(Claims)
            .ok_or(AccessTokenError::Malformed)
    }
}

impl Issuers {
    fn from_config(
        config: &AuthConfig,
        verified: &Arc<VerifiedTokens>,
        present: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let jwt = &config.jwt;
        jwt.require_key()?;
        let mut warnings = Vec::new();
        let mut keys = |settings: &KeySettings<'_>| {
            let read = VerifyingKeys::from_config(settings)?;
            warnings.extend(read.warnings);
            Ok::<_, ConfigError>(read.keys)
        };
        let source = |options: Option<SourceOptions>| {
            let made = options.map(|options| {
                let same = present.and_then(|present| present.source(&options));
                same.map_or_else(|| JwksSource::new(options, verified).map(Arc::new), Ok)
            });
            made.transpose()
        };
        // Also without a key: that no key suits an algorithm is told in any case.
        let own_keys = keys(&KeySettings::own(jwt))?;
        let own = Issuer {
            name: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            algorithms: jwt.algorithms.clone(),
            keys: own_keys,
            jwks: source(SourceOptions::new(
                "auth.jwt",
                jwt.jwks_file.as_ref(),
                jwt.jwks_url.as_ref(),
                &jwt.algorithms,
                &config.jwks,
            ))?,
            claims: jwt.claims.clone(),
            roles: Roles::new(&jwt.roles, config),
            tenants: Bound::All,
            times: Times::of(config),
        };
        let mut further = Vec::with_capacity(jwt.issuers.len());
        for (index, issuer) in jwt.issuers.iter().enumerate() {
            let IssuerConfig {
                issuer: name,
                audience,
                algorithms,
                jwks_file,
                jwks_url,
                claims,
                roles,
                tenants,
                ..
            } = issuer;
            let algorithms = algorithms.clone().unwrap_or_default();
            further.push(Issuer {
                name: Some(name.clone()),
                audience: audience.clone(),
                keys: keys(&KeySettings::further(issuer, index))?,
                jwks: source(SourceOptions::new(
                    &format!("auth.jwt.issuers[{index}]"),
                    jwks_file.as_ref(),
                    jwks_url.as_ref(),
                    &algorithms,
                    &config.jwks,
                ))?,
                algorithms,
                claims: jwt.claims.with(claims),
                roles: Roles::new(roles.as_ref().unwrap_or(&jwt.roles), config),
                tenants: tenants.clone(),
                times: Times::of(config),
            });
        }
        Ok(Self {
            own: jwt.has_own_key().then_some(own),
            further,
            warnings,
        })
    }

    /// Whose a token says that it is. Where only one issuer is configured, it need not say.
    fn of(&self, token: &Presented<'_>) -> Result<&Issuer, AccessTokenError> {
        if !self.further.is_empty() {
            let claims = token.claims()?;
            let named = claims.any("iss").and_then(Value::as_str);
            let mut further = self.further.iter();
            if let Some(issuer) = further.find(|issuer| issuer.name.as_deref() == named) {
                return Ok(issuer);
            }
        }
        self.own.as_ref().ok_or(AccessTokenError::WrongIssuer)
    }

    fn sources(&self) -> impl Iterator<Item = &Arc<JwksSource>> {
        let all = self.own.iter().chain(&self.further);
        all.filter_map(|issuer| issuer.jwks.as_ref())
    }

    /// Whether some issuer's keys could not be fetched for too long.
    fn is_stale(&self) -> bool {
        self.sources().any(|source| source.is_stale())
    }

    fn source(&self, options: &SourceOptions) -> Option<Arc<JwksSource>> {
        self.sources()
            .find(|source| source.options() == options)
            .cloned()
    }
}

pub(super) fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests;
