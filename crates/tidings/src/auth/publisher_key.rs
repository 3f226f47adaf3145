//! API keys of publishers: `tdk_<id>_<secret>`.
//!
//! Those of the configuration, and those that operators make, which the registry has. Of either SHA-256 of the secret
//! is kept only. A fast hash is enough, since a secret has 256 random
//! bits and can't be guessed from its hash as a password can.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::RwLock;
use secrecy::SecretString;
use tidings_protocol::{EventType, TenantId};

use super::{NoRandomness, hexadecimal, random_text, sha256};
use crate::config::{Bound, PublisherConfig, is_publisher_id};
use crate::registry::Registry;
use crate::time::unix_microseconds;

/// What every API key begins with; other credentials are access tokens.
pub const KEY_PREFIX: &str = "tdk_";

/// The longest secret that is looked at, in bytes; generated ones have 43.
const MAX_SECRET_LENGTH: usize = 256;

/// A publisher that showed its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// Its id.
    pub id: Arc<str>,
    /// The tenants that it may publish to.
    pub tenants: Bound<TenantId>,
    /// The event types that it may publish.
    pub types: Bound<EventType>,
    /// Events a second, where it has a limit of its own.
    pub publish_rate: Option<u32>,
}

impl Publisher {
    /// Whether it may publish events of this type to this tenant.
    #[must_use]
    pub fn may_publish(&self, tenant: TenantId, event_type: &EventType) -> bool {
        self.tenants.allows(&tenant) && self.types.allows(event_type)
    }
}

/// Why an API key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublisherKeyError {
    /// It is none that there is: another form, an unknown id or a wrong secret, it is not said which.
    #[error("the API key is not known")]
    Unknown,
    /// It is over.
    #[error("the API key has expired")]
    Expired,
}

/// All publishers and their keys.
pub struct PublisherKeys {
    /// Those of the configuration; swapped whole.
    configured: RwLock<Arc<HashMap<Arc<str>, Known>>>,
    /// Has those that operators make.
    registry: Option<Arc<Registry>>,
}

struct Known {
    secret_sha256: [u8; 32],
    publisher: Arc<Publisher>,
}

impl fmt::Debug for PublisherKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configured = self.configured.read();
        formatter.debug_set().entries(configured.keys()).finish()
    }
}

impl PublisherKeys {
    /// The publishers of a configuration, whose ids differ.
    #[must_use]
    pub fn from_config(publishers: &[PublisherConfig]) -> Self {
        Self {
            configured: RwLock::new(Arc::new(Self::known(publishers))),
            registry: None,
        }
    }

    /// From now on takes the keys that are in this registry too.
    #[must_use]
    pub fn and_those_of(mut self, registry: Arc<Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// From now on these are the publishers of the configuration.
    pub fn replace(&self, publishers: &[PublisherConfig]) {
        *self.configured.write() = Arc::new(Self::known(publishers));
    }

    /// The publishers of the configuration.
    #[must_use]
    pub fn configured(&self) -> Vec<Arc<Publisher>> {
        let configured = self.configured.read();
        let publishers = configured.values();
        publishers
            .map(|known| Arc::clone(&known.publisher))
            .collect()
    }

    fn known(publishers: &[PublisherConfig]) -> HashMap<Arc<str>, Known> {
        publishers
            .iter()
            .map(|config| {
                let publisher = Publisher {
                    id: Arc::clone(&config.id),
                    tenants: config.tenants.clone(),
                    types: config.types.clone(),
                    publish_rate: None,
                };
                let known = Known {
                    secret_sha256: config.secret_sha256,
                    publisher: Arc::new(publisher),
                };
                (Arc::clone(&config.id), known)
            })
            .collect()
    }

    /// Whether a credential has the form of an API key, so that it should be verified here and not as an
    /// access token. No JWT begins like that: its first byte is that of base64 of `{`.
    #[must_use]
    pub fn is_key(credential: &str) -> bool {
        credential.starts_with(KEY_PREFIX)
    }

    /// The publisher whose key this is. Secrets are compared in constant time, and the time does not tell
    /// whether the id exists.
    pub fn verify(&self, key: &str) -> Result<Arc<Publisher>, PublisherKeyError> {
        let (id, secret) = key
            .strip_prefix(KEY_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .filter(|(id, secret)| {
                is_publisher_id(id) && (1..=MAX_SECRET_LENGTH).contains(&secret.len())
            })
            .ok_or(PublisherKeyError::Unknown)?;
        let shown = sha256(secret.as_bytes());
        let configured = Arc::clone(&self.configured.read());
        if let Some(known) = configured.get(id) {
            return if verify_slices_are_equal(&shown, &known.secret_sha256).is_ok() {
                Ok(Arc::clone(&known.publisher))
            } else {
                Err(PublisherKeyError::Unknown)
            };
        }
        self.made(id, &shown)
    }

    /// Whether a publisher that has shown its key still has one.
    pub fn check(&self, publisher: &Publisher) -> Result<(), PublisherKeyError> {
        if self.configured.read().contains_key(&publisher.id) {
            return Ok(());
        }
        let now = unix_microseconds(SystemTime::now());
        let registry = self.registry.as_ref();
        let known = registry.and_then(|registry| registry.keys().get(&publisher.id));
        match known {
            Some((key, _)) if key.revoked_at.is_some() => Err(PublisherKeyError::Unknown),
            Some((key, _)) if key.is_over(now) => Err(PublisherKeyError::Expired),
            Some(_) => Ok(()),
            None => Err(PublisherKeyError::Unknown),
        }
    }

    /// The publisher of a key that an operator has made.
    fn made(&self, id: &str, shown: &[u8; 32]) -> Result<Arc<Publisher>, PublisherKeyError> {
        let now = unix_microseconds(SystemTime::now());
        let keys = self.registry.as_ref().map(|registry| registry.keys());
        let found = keys.and_then(|keys| Some((keys, keys.get(id)?)));
        let Some((keys, (key, publisher))) = found else {
            let _ = verify_slices_are_equal(shown, &[0; 32]);
            return Err(PublisherKeyError::Unknown);
        };
        let mut is_one = false;
        for hash in key.good_hashes(now) {
            is_one |= verify_slices_are_equal(shown, &hash).is_ok();
        }
        match is_one {
            true if key.is_over(now) => Err(PublisherKeyError::Expired),
            true => {
                keys.note_use(id, now);
                Ok(publisher)
            }
            false => Err(PublisherKeyError::Unknown),
        }
    }
}

/// A generated key: the text, to be shown once, and what the configuration keeps of it.
#[derive(Debug)]
pub struct NewPublisherKey {
    /// The whole key, `tdk_<id>_<secret>`.
    pub key: SecretString,
    /// What the configuration keeps.
    pub config: PublisherConfig,
}

/// Why no key can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The id can't be a publisher's.
    #[error("a publisher's id has 1 to 64 letters, digits, dots and hyphens")]
    BadId,
    /// No randomness for the secret.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl NewPublisherKey {
    /// Draws a key for a publisher.
    ///
    /// # Errors
    /// The id is not `[A-Za-z0-9.-]{1,64}`, or there is no randomness.
    pub fn generate(
        id: &str,
        tenants: Bound<TenantId>,
        types: Bound<EventType>,
    ) -> Result<Self, GenerateError> {
        if !is_publisher_id(id) {
            return Err(GenerateError::BadId);
        }
        let secret = random_text()?;
        Ok(Self {
            config: PublisherConfig {
                id: id.into(),
                secret_sha256: sha256(secret.as_bytes()),
                tenants,
                types,
            },
            key: format!("{KEY_PREFIX}{id}_{secret}").into(),
        })
    }

    /// The entry for the configuration file, in TOML. It holds the hash, not the key.
    #[must_use]
    pub fn toml(&self) -> String {
        let config = &self.config;
        format!(
            "[[auth.publishers]]\nid = \"{}\"\nsecret_sha256 = \"{}\"\ntenants = {}\ntypes = {}\n",
            config.id,
            hexadecimal(&config.secret_sha256),
            bound_toml(&config.tenants),
            bound_toml(&config.types),
        )
    }
}

fn bound_toml<T: fmt::Display>(bound: &Bound<T>) -> String {
    match bound {
        Bound::All => "\"*\"".to_owned(),
        Bound::Only(items) => {
            let items: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const ONE: TenantId = TenantId::from_bytes([1; 16]);
    const TWO: TenantId = TenantId::from_bytes([2; 16]);

    fn event_type(name: &str) -> EventType {
        name.parse().unwrap()
    }

    fn generated(id: &str) -> NewPublisherKey {
        let types = Bound::Only([event_type("device_status")].into());
        NewPublisherKey::generate(id, Bound::Only([ONE].into()), types).unwrap()
    }

    #[test]
    fn a_generated_key_is_known_by_its_hash_alone() {
        let new = generated("poller-1");
        let keys = PublisherKeys::from_config(std::slice::from_ref(&new.config));
        let key = new.key.expose_secret();
        assert!(PublisherKeys::is_key(key));
        let publisher = keys.verify(key).unwrap();
        assert_eq!(&*publisher.id, "poller-1");
        assert!(publisher.may_publish(ONE, &event_type("device_status")));
        assert!(!publisher.may_publish(TWO, &event_type("device_status")));
        assert!(!publisher.may_publish(ONE, &event_type("alert_fired")));
    }

    #[test]
    fn no_other_key_is_known() {
        let (one, two) = (generated("one"), generated("two"));
        let keys = PublisherKeys::from_config(&[one.config.clone(), two.config.clone()]);
        let key = one.key.expose_secret();
        let secret = key.strip_prefix("tdk_one_").unwrap();
        let others = [
            format!("tdk_two_{secret}"),
            format!("tdk_three_{secret}"),
            format!("{key}x"),
            key[..key.len() - 1].to_owned(),
            key.to_uppercase(),
            "tdk_one_".to_owned(),
            "tdk_one".to_owned(),
            "tdk_".to_owned(),
            String::new(),
            secret.to_owned(),
            hexadecimal(&one.config.secret_sha256),
            format!("tdk_one_{}", hexadecimal(&one.config.secret_sha256)),
        ];
        for other in others {
            assert_eq!(
                keys.verify(&other),
                Err(PublisherKeyError::Unknown),
                "{other}"
            );
        }
    }

    #[test]
    fn the_entry_for_the_file_is_read_back_as_it_was_made() {
        let new = generated("poller-1");
        let settings = crate::config::Settings::gather(
            &[],
            Some((std::path::Path::new("t.toml"), &new.toml())),
            &[],
            &[],
        );
        let loaded = crate::config::resolve(settings.unwrap()).unwrap();
        assert_eq!(loaded.config.auth.publishers, [new.config]);
    }

    #[test]
    fn an_underscore_ends_the_id() {
        for id in ["", "a_b", "a b", "ä", &"a".repeat(65)] {
            let made = NewPublisherKey::generate(id, Bound::All, Bound::All);
            assert_eq!(made.err(), Some(GenerateError::BadId), "{id}");
        }
    }

    #[test]
    fn neither_key_nor_hash_is_in_debug_output() {
        let new = generated("poller-1");
        let keys = PublisherKeys::from_config(std::slice::from_ref(&new.config));
        let shown = format!("{new:?} {keys:?}");
        let secret = new
            .key
            .expose_secret()
            .strip_prefix("tdk_poller-1_")
            .unwrap();
        assert!(!shown.contains(secret));
        assert!(!shown.contains(&hexadecimal(&new.config.secret_sha256)));
        assert!(!shown.contains(&format!("{:?}", new.config.secret_sha256)));
        assert!(!new.toml().contains(secret));
    }
}
