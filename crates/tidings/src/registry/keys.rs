//! API keys that operators make, and when each was last used.
//!
//! That a key was revoked is kept, so that no node that was away brings it back. Uses are counted to the minute and
//! written by [`store_uses`](ManagedKeys::store_uses), however many there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError};
use tidings_protocol::TenantId;

use super::RegistryError;
use super::file::RegistryFile;
use crate::auth::{ManagedKey, Publisher};

/// A key's id; the key in JSON.
pub(super) const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("publisher_keys");

/// A key's id; when it was last used, in microseconds since the Unix epoch.
pub(super) const USES: TableDefinition<'_, &str, i64> = TableDefinition::new("publisher_key_uses");

/// Uses are told to the minute, in microseconds.
const MINUTE: i64 = 60_000_000;

/// All API keys that operators have made. Answers come from memory.
pub struct ManagedKeys {
    file: Arc<RegistryFile>,
    known: RwLock<HashMap<Arc<str>, Known>>,
    /// One change at a time, from what it is based on to its end.
    changing: Mutex<()>,
}

struct Known {
    key: Arc<ManagedKey>,
    publisher: Arc<Publisher>,
    last_used: AtomicI64,
    /// What of that is written.
    written: AtomicI64,
}

impl Known {
    fn new(id: &str, key: ManagedKey, last_used: i64) -> Self {
        Self {
            publisher: Arc::new(key.publisher(id)),
            key: Arc::new(key),
            last_used: AtomicI64::new(last_used),
            written: AtomicI64::new(last_used),
        }
    }
}

impl ManagedKeys {
    pub(super) fn load(file: &Arc<RegistryFile>) -> Result<Self, RegistryError> {
        let mut known = HashMap::new();
        let mut wrong = None;
        file.read(|read| {
            let uses = uses(read)?;
            let table = match read.open_table(TABLE) {
                // The file is older than such keys.
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                opened => opened?,
            };
            for entry in table.iter()? {
                let (id, value) = entry?;
                let id = id.value();
                match serde_json::from_slice::<ManagedKey>(value.value()) {
                    Ok(key) => {
                        let last_used = uses.get(id).copied().unwrap_or(0);
                        known.insert(Arc::from(id), Known::new(id, key, last_used));
                    }
                    Err(error) => wrong = Some(format!("the API key {id}: {error}")),
                }
            }
            Ok(())
        })?;
        if let Some(what) = wrong {
            return Err(file.damaged(what));
        }
        Ok(Self {
            file: Arc::clone(file),
            known: RwLock::new(known),
            changing: Mutex::new(()),
        })
    }

    /// A key, and who shows it.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<(Arc<ManagedKey>, Arc<Publisher>)> {
        let known = self.known.read();
        let known = known.get(id)?;
        Some((Arc::clone(&known.key), Arc::clone(&known.publisher)))
    }

    /// All of them, ascending by id.
    #[must_use]
    pub fn all(&self) -> Vec<(Arc<str>, Arc<ManagedKey>)> {
        let known = self.known.read();
        let mut all: Vec<_> = known
            .iter()
            .map(|(id, known)| (Arc::clone(id), Arc::clone(&known.key)))
            .collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Makes a key what `decide` makes of it; `None` for no key. Durable when it returns. What `decide` refuses changes
    /// nothing. One that was revoked stays so.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the key stays as it was then.
    pub fn change<E>(
        &self,
        id: &str,
        decide: impl FnOnce(Option<&ManagedKey>) -> Result<Option<ManagedKey>, E>,
    ) -> Result<Result<(), E>, RegistryError> {
        let _turn = self.changing.lock();
        let before = self.get(id).map(|(key, _)| key);
        let after = match decide(before.as_deref()) {
            Ok(after) => after,
            Err(refused) => return Ok(Err(refused)),
        };
        if before.as_deref() == after.as_ref() {
            return Ok(Ok(()));
        }
        let was_revoked = before.is_some_and(|before| before.revoked_at.is_some());
        if was_revoked
            && after
                .as_ref()
                .is_some_and(|after| after.revoked_at.is_none())
        {
            return Ok(Ok(()));
        }
        self.store(&[(Arc::from(id), after)])?;
        Ok(Ok(()))
    }

    /// Forgets the keys that are of this tenant and no other; durable when it returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the keys stay.
    pub fn remove_tenant(&self, tenant: TenantId) -> Result<bool, RegistryError> {
        let _turn = self.changing.lock();
        let theirs: Vec<_> = self
            .all()
            .into_iter()
            .filter(|(_, key)| key.is_only_of(tenant))
            .map(|(id, _)| (id, None))
            .collect();
        if theirs.is_empty() {
            return Ok(false);
        }
        self.store(&theirs)?;
        Ok(true)
    }

    fn store(&self, changed: &[(Arc<str>, Option<ManagedKey>)]) -> Result<(), RegistryError> {
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                let mut uses = write.open_table(USES)?;
                for (id, key) in changed {
                    if let Some(key) = key {
                        let json = serde_json::to_vec(key).expect("a plain struct");
                        table.insert(&**id, &*json)?;
                    } else {
                        table.remove(&**id)?;
                        uses.remove(&**id)?;
                    }
                }
                Ok(())
            },
            || {
                let mut known = self.known.write();
                for (id, key) in changed {
                    let before = known.remove(id);
                    if let Some(key) = key {
                        let used = before.map_or(0, |before| before.last_used.into_inner());
                        let mut one = Known::new(id, key.clone(), used);
                        // What was not written yet is written with the next.
                        *one.written.get_mut() = 0;
                        known.insert(Arc::clone(id), one);
                    }
                }
            },
        )
    }

    /// Notes that a key was used at `now`, in microseconds since the Unix epoch.
    pub fn note_use(&self, id: &str, now: i64) {
        let known = self.known.read();
        if let Some(known) = known.get(id)
            && now - known.last_used.load(Ordering::Relaxed) >= MINUTE
        {
            known.last_used.store(now - now % MINUTE, Ordering::Relaxed);
        }
    }

    /// When keys were last used, of those that were, in microseconds since the Unix epoch.
    #[must_use]
    pub fn uses(&self) -> HashMap<Arc<str>, i64> {
        let known = self.known.read();
        let uses = known
            .iter()
            .map(|(id, known)| (Arc::clone(id), known.last_used.load(Ordering::Relaxed)));
        uses.filter(|(_, at)| *at > 0).collect()
    }

    /// Writes the uses that are not written yet, in one transaction.
    ///
    /// # Errors
    ///
    /// When the disk refuses; they are written the next time.
    pub fn store_uses(&self) -> Result<(), RegistryError> {
        let fresh: Vec<(Arc<str>, i64)> = {
            let known = self.known.read();
            let one = |(id, known): (&Arc<str>, &Known)| {
                let used = known.last_used.load(Ordering::Relaxed);
                (used > known.written.load(Ordering::Relaxed)).then(|| (Arc::clone(id), used))
            };
            known.iter().filter_map(one).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        self.file.write(
            |write| {
                let mut uses = write.open_table(USES)?;
                for (id, at) in &fresh {
                    uses.insert(&**id, at)?;
                }
                Ok(())
            },
            || {
                let known = self.known.read();
                for (id, at) in &fresh {
                    if let Some(known) = known.get(id) {
                        known.written.store(*at, Ordering::Relaxed);
                    }
                }
            },
        )
    }
}

fn uses(read: &ReadTransaction) -> Result<HashMap<String, i64>, redb::Error> {
    let table = match read.open_table(USES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
        opened => opened?,
    };
    let mut uses = HashMap::new();
    for entry in table.iter()? {
        let (id, at) = entry?;
        uses.insert(id.value().to_owned(), at.value());
    }
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::super::Registry;
    use super::*;
    use crate::auth::managed_key::tests::key;

    const ONE: TenantId = TenantId::from_bytes([1; 16]);
    const TWO: TenantId = TenantId::from_bytes([2; 16]);

    fn open(folder: &std::path::Path) -> Registry {
        Registry::open(folder, Duration::ZERO).unwrap()
    }

    fn put(keys: &ManagedKeys, id: &str, key: &ManagedKey) {
        let Ok(()) = keys
            .change(id, |_| Ok::<_, Infallible>(Some(key.clone())))
            .unwrap();
    }

    #[test]
    fn a_key_and_its_last_use_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path());
        let made = key(Some(vec![ONE]));
        put(registry.keys(), "a", &made);
        registry.keys().note_use("a", 10 * MINUTE + 5);
        registry.keys().note_use("a", 10 * MINUTE + 7);
        registry.keys().note_use("unknown", 5 * MINUTE);
        registry.keys().store_uses().unwrap();
        // A change of the key does not lose when it was used.
        let renamed = ManagedKey {
            name: "other".to_owned(),
            ..made
        };
        put(registry.keys(), "a", &renamed);
        registry.wipe_removed().unwrap();
        drop(registry);
        let registry = open(folder.path());
        assert_eq!(*registry.keys().get("a").unwrap().0, renamed);
        let uses: Vec<_> = registry.keys().uses().into_iter().collect();
        assert_eq!(uses, [(Arc::from("a"), 10 * MINUTE)]);
    }

    #[test]
    fn a_revoked_key_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path());
        let living = key(Some(vec![ONE]));
        let mut revoked = living.clone();
        revoked.revoke(5);
        put(registry.keys(), "a", &revoked);
        put(registry.keys(), "a", &living);
        assert_eq!(*registry.keys().get("a").unwrap().0, revoked);
    }

    #[test]
    fn a_purge_takes_the_keys_that_are_of_the_tenant_alone() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path());
        let keys = registry.keys();
        for (id, tenants) in [
            ("a", Some(vec![ONE])),
            ("b", Some(vec![ONE, TWO])),
            ("c", None),
        ] {
            put(keys, id, &key(tenants));
        }
        assert!(keys.remove_tenant(ONE).unwrap());
        assert!(!keys.remove_tenant(ONE).unwrap());
        let left: Vec<String> = keys.all().iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(left, ["b", "c"]);
    }
}
