//! API keys that operators make, as they are stored and shared between nodes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_protocol::{EventType, TenantId};

use super::publisher_key::{KEY_PREFIX, Publisher};
use super::{NoRandomness, hexadecimal, random_text, sha256};
use crate::config::Bound;

/// How many digits the id of a made key has.
const ID_DIGITS: usize = 16;

/// An API key that an operator has made. Times are in microseconds since the Unix epoch.
///
/// A field that is not known could be a bound, so a key with one is not understood at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedKey {
    /// What people call it.
    pub name: String,
    /// The tenants that it may publish to; `None` for all.
    pub tenants: Option<Vec<TenantId>>,
    /// The event types that it may publish; `None` for all.
    pub types: Option<Vec<EventType>>,
    /// Events a second; `None` for what holds for all keys.
    pub publish_rate: Option<u32>,
    /// When it was made.
    pub created_at: i64,
    /// Who made it.
    pub created_by: String,
    /// That was a super admin, of whom a tenant's operator is not told.
    pub by_super_admin: bool,
    /// When it ends.
    pub expires_at: Option<i64>,
    /// When it was revoked, which is for good. Then it has no secrets.
    pub revoked_at: Option<i64>,
    /// The present one last, and before it that of before.
    pub secrets: Vec<KeySecret>,
}

/// One secret of a key, by its hash. A fast hash is enough, since a secret has 256 random bits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySecret {
    sha256: String,
    /// Until when it is good; `None` as long as the key is.
    pub good_until: Option<i64>,
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeySecret")
            .field("good_until", &self.good_until)
            .finish_non_exhaustive()
    }
}

impl KeySecret {
    /// Draws the secret of the key with this id: the whole key, to be shown once, and what is kept of it.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn draw(id: &str) -> Result<(String, Self), NoRandomness> {
        let secret = random_text()?;
        let kept = Self {
            sha256: hexadecimal(&sha256(secret.as_bytes())),
            good_until: None,
        };
        Ok((format!("{KEY_PREFIX}{id}_{secret}"), kept))
    }

    /// The hash.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        if self.sha256.len() != 64 {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(self.sha256.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(hash)
    }

    fn is_good(&self, now: i64) -> bool {
        self.good_until.is_none_or(|until| now < until)
    }
}

impl ManagedKey {
    /// A new id, which no other key has.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn new_id() -> Result<String, NoRandomness> {
        let drawn = random_text()?;
        Ok(hexadecimal(&sha256(drawn.as_bytes()))[..ID_DIGITS].to_owned())
    }

    /// Whether a text can be the id of such a key.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.len() == ID_DIGITS && text.bytes().all(digit)
    }

    /// Gives it a new secret; the one of before is good for `overlap` more, an older one no more.
    pub fn rotate(&mut self, secret: KeySecret, overlap: Duration, now: i64) {
        let overlap = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
        let before = self.secrets.pop().map(|before| KeySecret {
            good_until: Some(now.saturating_add(overlap)),
            ..before
        });
        self.secrets = before.into_iter().filter(|one| one.is_good(now)).collect();
        self.secrets.push(secret);
    }

    /// Ends it for good.
    pub fn revoke(&mut self, now: i64) {
        self.revoked_at.get_or_insert(now);
        self.secrets.clear();
    }

    /// Whether it is over at `now`, for whatever reason.
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|end| end <= now)
    }

    /// Until when the secret of before is good, if there is one.
    #[must_use]
    pub fn old_secret_until(&self, now: i64) -> Option<i64> {
        let old = self.secrets.iter().rev().nth(1)?;
        old.good_until.filter(|until| *until > now)
    }

    /// Whether it is of this tenant and no other.
    #[must_use]
    pub fn is_only_of(&self, tenant: TenantId) -> bool {
        self.tenants.as_deref() == Some(&[tenant])
    }

    /// The hashes of the secrets that are good at `now`.
    pub(super) fn good_hashes(&self, now: i64) -> impl Iterator<Item = [u8; 32]> {
        let good = self.secrets.iter().filter(move |one| one.is_good(now));
        good.filter_map(KeySecret::sha256)
    }

    /// Who shows it.
    #[must_use]
    pub fn publisher(&self, id: &str) -> Publisher {
        Publisher {
            id: id.into(),
            tenants: bound(self.tenants.as_deref()),
            types: bound(self.types.as_deref()),
            publish_rate: self.publish_rate,
        }
    }
}

fn bound<T: Clone>(items: Option<&[T]>) -> Bound<T> {
    items.map_or(Bound::All, |items| Bound::Only(Arc::from(items)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const HOUR: Duration = Duration::from_hours(1);

    pub(crate) fn key(tenants: Option<Vec<TenantId>>) -> ManagedKey {
        ManagedKey {
            name: "poller".to_owned(),
            tenants,
            types: None,
            publish_rate: None,
            created_at: 1,
            created_by: "ada".to_owned(),
            by_super_admin: false,
            expires_at: None,
            revoked_at: None,
            secrets: vec![KeySecret::draw("0").unwrap().1],
        }
    }

    fn good(key: &ManagedKey, now: i64) -> usize {
        key.good_hashes(now).count()
    }

    #[test]
    fn after_a_rotation_two_secrets_are_good_and_then_one() {
        let mut key = key(None);
        let hour = 3_600_000_000;
        let first: Vec<_> = key.good_hashes(0).collect();
        key.rotate(KeySecret::draw("0").unwrap().1, HOUR, 10);
        assert_eq!(good(&key, 10), 2);
        assert_eq!(key.old_secret_until(10), Some(hour + 10));
        assert!(key.good_hashes(hour + 9).any(|hash| hash == first[0]));
        assert!(!key.good_hashes(hour + 10).any(|hash| hash == first[0]));
        // A second rotation within the overlap ends what is two rotations old.
        key.rotate(KeySecret::draw("0").unwrap().1, HOUR, 20);
        assert_eq!(good(&key, 20), 2);
        assert!(!key.good_hashes(20).any(|hash| hash == first[0]));
        key.rotate(KeySecret::draw("0").unwrap().1, Duration::ZERO, 30);
        assert_eq!(good(&key, 30), 1);
    }

    #[test]
    fn a_revoked_key_stays_revoked_and_has_no_secret() {
        let mut key = key(None);
        key.revoke(5);
        key.revoke(9);
        assert_eq!((key.revoked_at, good(&key, 0)), (Some(5), 0));
        assert!(key.is_over(0));
    }

    #[test]
    fn what_is_stored_is_read_back_and_shows_no_hash_otherwise() {
        let key = key(Some(vec![TenantId::from_bytes([1; 16])]));
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<ManagedKey>(&text).unwrap(), key);
        let hash = hexadecimal(&key.good_hashes(0).next().unwrap());
        assert!(text.contains(&hash) && !format!("{key:?}").contains(&hash));
        let newer = text.replacen("\"name\"", "\"devices\":[],\"name\"", 1);
        assert!(
            serde_json::from_str::<ManagedKey>(&newer).is_err(),
            "a bound must not be overlooked"
        );
    }

    #[test]
    fn ids_are_drawn_as_they_are_recognised() {
        let id = ManagedKey::new_id().unwrap();
        assert!(ManagedKey::is_id(&id) && crate::config::is_publisher_id(&id));
        for other in [
            "",
            "poller-1",
            "0123456789abcdeg",
            "0123456789ABCDEF",
            "0123456789abcdef0",
        ] {
            assert!(!ManagedKey::is_id(other), "{other}");
        }
    }
}
