//! What all nodes hold alike: who was purged, which devices make up which group, whose access tokens are revoked.
//!
//! Two buckets. `TIDINGS_REGISTRY` has a key `purged.{tenant}` for each purged tenant, which stays for ever,
//! `group.{tenant}.{name}` for each device group, its name in URL-safe base64, `key.{id}` for each API key that an operator
//! has made, also when it was revoked, and `format`. In
//! `TIDINGS_REVOCATIONS` there is one for each [`Revoked`], which goes when no access token can be old enough to
//! be meant by it. Values are JSON.
//!
//! A node takes over what the buckets say into its own registry, where everybody asks, and obeys it by the same
//! functions by which a node that stands alone obeys its operators ([`crate::operate`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidings_protocol::{DeviceId, TenantId};

use super::bucket::{Bucket, BucketError, Decision, Entry, Follower, Outcome};
use crate::app::App;
use crate::auth::revocation::{Revocation, Revoked};
use crate::auth::{ManagedKey, is_bounded_text};
use crate::operate::{groups, keys, revoke, tenants};
use crate::registry::Purge;
use crate::time::unix_microseconds;

pub(super) const REGISTRY: &str = "TIDINGS_REGISTRY";
pub(super) const REVOCATIONS: &str = "TIDINGS_REVOCATIONS";

/// The key that says that a registry is complete, and its value, the version of keys and values.
const FORMAT: &str = "format";
const VERSION: &[u8] = b"1";

/// A key of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Format,
    Purged(TenantId),
    Group(TenantId, String),
    Key(String),
}

impl Fact {
    pub(super) fn key(&self) -> String {
        match self {
            Self::Format => FORMAT.to_owned(),
            Self::Purged(tenant) => format!("purged.{tenant}"),
            Self::Group(tenant, name) => {
                format!("group.{tenant}.{}", URL_SAFE_NO_PAD.encode(name))
            }
            Self::Key(id) => format!("key.{id}"),
        }
    }

    /// `None` for what another version of this program wrote.
    fn read(key: &str) -> Option<Self> {
        match *key.split('.').collect::<Vec<_>>() {
            [FORMAT] => Some(Self::Format),
            ["purged", tenant] => Some(Self::Purged(tenant.parse().ok()?)),
            ["group", tenant, name] => {
                let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
                let is_name = is_bounded_text(&name);
                Some(Self::Group(tenant.parse().ok()?, name)).filter(|_| is_name)
            }
            ["key", id] => Some(Self::Key(id.to_owned())).filter(|_| ManagedKey::is_id(id)),
            _ => None,
        }
    }
}

/// The value of a purged tenant.
#[derive(Serialize, Deserialize)]
struct PurgeValue {
    at: i64,
    by: String,
}

/// The value of a device group.
#[derive(Serialize, Deserialize)]
struct GroupValue {
    devices: Vec<DeviceId>,
}

/// The value of a revocation.
#[derive(Serialize, Deserialize)]
struct RevocationValue {
    at: i64,
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("a plain struct").into()
}

/// The devices as they are compared and stored: ascending, each once.
pub(super) fn group_value(devices: &[DeviceId]) -> Bytes {
    let mut devices = devices.to_vec();
    devices.sort_unstable();
    devices.dedup();
    json(&GroupValue { devices })
}

pub(super) fn purge_value(purge: &Purge) -> Bytes {
    json(&PurgeValue {
        at: purge.at,
        by: purge.by.clone(),
    })
}

/// A tenant is purged once: the first purge stands.
pub(super) fn purge_once(purge: &Purge) -> impl Fn(Option<&Bytes>) -> Decision {
    let value = purge_value(purge);
    move |known| match known {
        Some(_) => Decision::Keep,
        None => Decision::Put(value.clone()),
    }
}

/// Of several revocations about the same the latest stands.
pub(super) fn revoke_later(at: i64) -> impl Fn(Option<&Bytes>) -> Decision {
    move |known| {
        let known = known.and_then(|value| serde_json::from_slice::<RevocationValue>(value).ok());
        match known {
            Some(known) if known.at >= at => Decision::Keep,
            _ => Decision::Put(json(&RevocationValue { at })),
        }
    }
}

/// Puts what is not there yet and leaves alone what is.
fn put_if_missing(value: Bytes) -> impl Fn(Option<&Bytes>) -> Decision {
    move |known| match known {
        Some(_) => Decision::Keep,
        None => Decision::Put(value.clone()),
    }
}

/// What one node says of a key where another may say something else: that it was revoked stands, and else what is there.
fn key_unless_revoked(key: &ManagedKey) -> impl Fn(Option<&Bytes>) -> Decision {
    let (value, is_revoked) = (json(key), key.revoked_at.is_some());
    move |known| {
        let known = known.map(|value| serde_json::from_slice::<ManagedKey>(value));
        match known {
            None => Decision::Put(value.clone()),
            Some(Ok(known)) if is_revoked && known.revoked_at.is_none() => {
                Decision::Put(value.clone())
            }
            Some(_) => Decision::Keep,
        }
    }
}

/// What `decide` makes of a key; the reason where it refuses is left in `refused`.
pub(super) fn key_decision<E: Copy>(
    decide: impl Fn(Option<&ManagedKey>) -> Result<Option<ManagedKey>, E>,
    refused: &std::sync::OnceLock<E>,
) -> impl Fn(Option<&Bytes>) -> Decision {
    move |known| {
        let read = known.and_then(|value| serde_json::from_slice(value).ok());
        match decide(read.as_ref()) {
            Ok(Some(key)) if read.as_ref() == Some(&key) => Decision::Keep,
            Ok(Some(key)) => Decision::Put(json(&key)),
            Ok(None) => Decision::Delete,
            Err(why) => {
                let _ = refused.set(why);
                Decision::Keep
            }
        }
    }
}

/// Obeys the registry's bucket.
pub(super) struct RegistryFollower<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) bucket: &'a Bucket,
}

impl RegistryFollower<'_> {
    async fn obey(&self, fact: Fact, value: Option<&Bytes>) -> Outcome {
        match (fact, value) {
            (Fact::Format, Some(version)) if &**version != VERSION => {
                tracing::error!(
                    version = %String::from_utf8_lossy(version),
                    "the registry in NATS is of a newer version of Tidings, of which this one may understand too little"
                );
                Outcome::default()
            }
            (Fact::Purged(tenant), Some(value)) => match serde_json::from_slice(value) {
                Ok(PurgeValue { at, by }) => self.purge(tenant, Purge { at, by }).await,
                Err(error) => unreadable(&error),
            },
            (Fact::Group(tenant, name), Some(value)) => match serde_json::from_slice(value) {
                Ok(GroupValue { devices }) => self.group(tenant, &name, Some(devices)).await,
                Err(error) => unreadable(&error),
            },
            (Fact::Group(tenant, name), None) => self.group(tenant, &name, None).await,
            (Fact::Key(id), Some(value)) => match serde_json::from_slice(value) {
                Ok(key) => self.key(&id, Some(key)).await,
                // It may have a bound that this version does not know; so it is no key here.
                Err(error) => {
                    let gone = self.key(&id, None).await;
                    Outcome {
                        failed: unreadable(&error).failed,
                        ..gone
                    }
                }
            },
            (Fact::Key(id), None) => self.key(&id, None).await,
            (Fact::Format, _) | (Fact::Purged(_), None) => Outcome::default(),
        }
    }

    async fn purge(&self, tenant: TenantId, purge: Purge) -> Outcome {
        if self.app.registry.purged().contains(tenant) {
            return Outcome::default();
        }
        match tenants::obey(self.app, tenant, purge).await {
            Ok(purged) => Outcome {
                closed: purged.closed,
                failed: purged.hidden.err(),
            },
            Err(error) => Outcome {
                closed: 0,
                failed: Some(error.to_string()),
            },
        }
    }

    async fn key(&self, id: &str, key: Option<ManagedKey>) -> Outcome {
        // As with groups: a key of nobody but purged tenants is of no use, and must not stay.
        let purged = self.app.registry.purged();
        let is_of_purged = |key: &ManagedKey| {
            let tenants = key.tenants.as_deref();
            tenants.is_some_and(|tenants| tenants.iter().all(|one| purged.contains(*one)))
        };
        if key.as_ref().is_some_and(is_of_purged) {
            let name = Fact::Key(id.to_owned()).key();
            if let Err(error) = self.bucket.store(&name, |_| Decision::Delete).await {
                tracing::warn!(%error, key_id = id, "an API key of a purged tenant stays in NATS");
            }
            return Outcome::default();
        }
        match keys::obey(self.app, id, key).await {
            Ok(()) => Outcome::default(),
            Err(error) => Outcome {
                closed: 0,
                failed: Some(error.to_string()),
            },
        }
    }

    /// Brings the bucket the keys that only this node knows, or of which only this node knows that they were revoked.
    async fn tell_keys(
        &self,
        there: &HashSet<String>,
        is_missing_gone: bool,
    ) -> Result<(), BucketError> {
        for (id, key) in self.app.registry.keys().all() {
            let name = Fact::Key(id.to_string()).key();
            let is_there = there.contains(&name);
            if !is_there && is_missing_gone && key.revoked_at.is_none() {
                told(self.key(&id, None).await);
            } else if !is_there || key.revoked_at.is_some() {
                self.bucket.store(&name, key_unless_revoked(&key)).await?;
            }
        }
        Ok(())
    }

    async fn group(&self, tenant: TenantId, name: &str, devices: Option<Vec<DeviceId>>) -> Outcome {
        // A change that raced a purge: nobody asks for it, and it must not stay.
        if devices.is_some() && self.app.registry.purged().contains(tenant) {
            let key = Fact::Group(tenant, name.to_owned()).key();
            if let Err(error) = self.bucket.store(&key, |_| Decision::Delete).await {
                tracing::warn!(%error, tenant_id = %tenant, "a group of a purged tenant stays in NATS");
            }
            return Outcome::default();
        }
        match groups::obey(self.app, tenant, name, devices).await {
            Ok(obeyed) => Outcome {
                closed: obeyed.closed,
                failed: None,
            },
            Err(error) => Outcome {
                closed: 0,
                failed: Some(error.to_string()),
            },
        }
    }
}

impl Follower for RegistryFollower<'_> {
    async fn take_all(&self, entries: Vec<Entry>, is_another: bool) -> Result<(), BucketError> {
        let mut there = HashSet::new();
        for Entry { key, value, .. } in entries {
            if value.is_some() {
                there.insert(key.clone());
            }
            match Fact::read(&key) {
                Some(fact) => told(self.obey(fact, value.as_ref()).await),
                None => unknown(&key),
            };
        }
        let registry = &self.app.registry;
        // Purges are never taken back, so those that only this node knows are told.
        for (tenant, purge) in registry.purged().list() {
            let key = Fact::Purged(tenant).key();
            if !there.contains(&key) {
                self.bucket.store(&key, purge_once(&purge)).await?;
            }
        }
        let is_complete = there.contains(FORMAT);
        for (tenant, name, devices) in registry.groups().all() {
            let key = Fact::Group(tenant, name.clone()).key();
            if there.contains(&key) {
                continue;
            }
            if is_complete && !is_another {
                // It was removed while this node did not listen.
                told(self.group(tenant, &name, None).await);
            } else {
                // A bucket that was never complete, or has the place of one that is lost, gets what this node has.
                let value = put_if_missing(group_value(&devices));
                self.bucket.store(&key, value).await?;
            }
        }
        self.tell_keys(&there, is_complete && !is_another).await?;
        if !is_complete {
            let version = put_if_missing(Bytes::from_static(VERSION));
            self.bucket.store(FORMAT, version).await?;
        }
        Ok(())
    }

    async fn take(&self, entry: Entry) -> Outcome {
        match Fact::read(&entry.key) {
            Some(fact) => told(self.obey(fact, entry.value.as_ref()).await),
            None => unknown(&entry.key),
        }
    }
}

/// Obeys the bucket of revocations.
pub(super) struct RevocationFollower<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) bucket: &'a Bucket,
}

impl Follower for RevocationFollower<'_> {
    async fn take_all(&self, entries: Vec<Entry>, _is_another: bool) -> Result<(), BucketError> {
        let revocations: Vec<Revocation> = entries.iter().filter_map(revocation).collect();
        told(self.obey(&revocations).await);
        // A revocation is never taken back, so those that only this node knows are told.
        let there: HashSet<&Revoked> = revocations.iter().map(|one| &one.whose).collect();
        let now = unix_microseconds(SystemTime::now());
        for Revocation { whose, at } in self.app.registry.revocations().kept(now) {
            if !there.contains(&whose) {
                self.bucket.store(&whose.key(), revoke_later(at)).await?;
            }
        }
        Ok(())
    }

    async fn take(&self, entry: Entry) -> Outcome {
        match revocation(&entry) {
            Some(revocation) => told(self.obey(&[revocation]).await),
            None => Outcome::default(),
        }
    }
}

impl RevocationFollower<'_> {
    async fn obey(&self, revocations: &[Revocation]) -> Outcome {
        match revoke::obey(self.app, revocations).await {
            Ok(closed) => Outcome {
                closed,
                failed: None,
            },
            Err(error) => Outcome {
                closed: 0,
                failed: Some(error.to_string()),
            },
        }
    }
}

fn revocation(entry: &Entry) -> Option<Revocation> {
    let value = entry.value.as_ref()?;
    let whose: Result<Revoked, _> = entry.key.parse();
    let read = whose.ok().zip(serde_json::from_slice(value).ok());
    let Some((whose, RevocationValue { at })) = read else {
        unknown(&entry.key);
        return None;
    };
    Some(Revocation { whose, at })
}

fn unknown(key: &str) -> Outcome {
    tracing::warn!(
        key,
        "NATS holds what this version of Tidings does not understand"
    );
    Outcome::default()
}

fn unreadable(error: &serde_json::Error) -> Outcome {
    Outcome {
        closed: 0,
        failed: Some(format!("it can't be read: {error}")),
    }
}

fn told(outcome: Outcome) -> Outcome {
    if let Some(failed) = &outcome.failed {
        tracing::error!(
            failed,
            "a change of what all nodes share is not obeyed as it should be"
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    #[test]
    fn keys_round_trip_and_have_the_characters_of_a_bucket() {
        for fact in [
            Fact::Format,
            Fact::Purged(tenant(1)),
            Fact::Group(tenant(2), "north side".to_owned()),
            Fact::Group(tenant(2), "*.> \u{e9}".repeat(32)),
            Fact::Key("0123456789abcdef".to_owned()),
        ] {
            let key = fact.key();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert!(key.bytes().all(plain), "{key}");
            assert_eq!(Fact::read(&key), Some(fact));
        }
        for key in [
            "",
            "purged",
            "purged.x",
            "group.x.y",
            "group",
            "other",
            "key",
            "key.x",
        ] {
            assert_eq!(Fact::read(key), None, "{key}");
        }
    }

    #[test]
    fn the_first_purge_and_the_latest_revocation_stand() {
        let purge = Purge {
            at: 5,
            by: "root".to_owned(),
        };
        let put = purge_once(&purge);
        assert_eq!(put(None), Decision::Put(purge_value(&purge)));
        assert_eq!(put(Some(&purge_value(&purge))), Decision::Keep);
        let at = |at: i64| json(&RevocationValue { at });
        assert_eq!(revoke_later(5)(None), Decision::Put(at(5)));
        assert_eq!(revoke_later(5)(Some(&at(4))), Decision::Put(at(5)));
        assert_eq!(revoke_later(5)(Some(&at(5))), Decision::Keep);
        assert_eq!(revoke_later(5)(Some(&at(6))), Decision::Keep);
    }

    #[test]
    fn a_group_is_the_same_whatever_the_order_it_was_given_in() {
        let devices = |names: &[&str]| -> Vec<DeviceId> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        assert_eq!(
            group_value(&devices(&["b", "a", "b"])),
            group_value(&devices(&["a", "b"]))
        );
    }
}
