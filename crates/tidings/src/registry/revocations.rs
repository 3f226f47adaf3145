//! Revocations: kept for longer than the access tokens live that they are about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use redb::{ReadableTable as _, TableDefinition, TableError};
use tidings_protocol::TenantId;

use super::RegistryError;
use super::file::RegistryFile;
use crate::auth::Identity;
use crate::auth::revocation::{Revocation, Revoked};
use crate::time::unix_microseconds;

/// The key of what is revoked; when, in microseconds since the Unix epoch.
pub(super) const TABLE: TableDefinition<'_, &str, i64> = TableDefinition::new("revocations");

/// All revocations that are kept. Answers come from memory.
pub struct Revocations {
    file: Arc<RegistryFile>,
    /// How long one is kept; zero is for ever.
    kept_for: Duration,
    known: RwLock<Known>,
}

/// What is revoked, and when, in microseconds since the Unix epoch.
#[derive(Default)]
struct Known {
    at: HashMap<Revoked, i64>,
    /// How many there are of each tenant's users and tokens.
    of_tenants: HashMap<TenantId, usize>,
}

impl Known {
    fn insert(&mut self, whose: Revoked, at: i64) {
        if let Some(kept) = self.at.get_mut(&whose) {
            *kept = (*kept).max(at);
            return;
        }
        if let Some(tenant) = whose.counted_for() {
            *self.of_tenants.entry(tenant).or_default() += 1;
        }
        self.at.insert(whose, at);
    }

    fn remove(&mut self, whose: &Revoked) {
        if self.at.remove(whose).is_none() {
            return;
        }
        if let Some(tenant) = whose.counted_for()
            && let Some(count) = self.of_tenants.get_mut(&tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.of_tenants.remove(&tenant);
            }
        }
    }
}

impl Revocations {
    pub(super) fn load(
        file: &Arc<RegistryFile>,
        kept_for: Duration,
    ) -> Result<Self, RegistryError> {
        let mut known = Known::default();
        let mut wrong = None;
        file.read(|read| {
            let table = match read.open_table(TABLE) {
                // The file is older than revocations.
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                opened => opened?,
            };
            for entry in table.iter()? {
                let (key, at) = entry?;
                match key.value().parse() {
                    Ok(whose) => known.insert(whose, at.value()),
                    Err(error) => wrong = Some(format!("{:?}: {error}", key.value())),
                }
            }
            Ok(())
        })?;
        if let Some(what) = wrong {
            return Err(file.damaged(what));
        }
        Ok(Self {
            file: Arc::clone(file),
            kept_for,
            known: RwLock::new(known),
        })
    }

    /// Remembers revocations; durable when it returns. Of several about the same the latest stands. Gives those that are
    /// new.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing is revoked then.
    pub fn add(&self, revocations: &[Revocation]) -> Result<Vec<Revocation>, RegistryError> {
        let oldest = self.oldest(unix_microseconds(SystemTime::now()));
        let known = self.known.read();
        let is_new = |revocation: &&Revocation| {
            let at = known.at.get(&revocation.whose);
            revocation.at >= oldest && at.is_none_or(|at| *at < revocation.at)
        };
        let new: Vec<Revocation> = revocations.iter().filter(is_new).cloned().collect();
        drop(known);
        if new.is_empty() {
            return Ok(new);
        }
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                for Revocation { whose, at } in &new {
                    let key = whose.key();
                    let known = table.get(&*key)?.map(|known| known.value());
                    if known.is_none_or(|known| known < *at) {
                        table.insert(&*key, at)?;
                    }
                }
                Ok(())
            },
            || {
                let mut known = self.known.write();
                for Revocation { whose, at } in &new {
                    known.insert(whose.clone(), *at);
                }
            },
        )?;
        Ok(new)
    }

    /// Lets go of those that are too old to matter. It looks at all of them, so it is for now and then.
    ///
    /// # Errors
    ///
    /// When the disk refuses; all are kept then.
    pub fn sweep(&self) -> Result<(), RegistryError> {
        let oldest = self.oldest(unix_microseconds(SystemTime::now()));
        let known = self.known.read();
        let old = known.at.iter().filter(|(_, at)| **at < oldest);
        let old: Vec<Revoked> = old.map(|(whose, _)| whose.clone()).collect();
        drop(known);
        if old.is_empty() {
            return Ok(());
        }
        // What was revoked once more meanwhile stays.
        let is_old = |at: Option<i64>| at.is_some_and(|at| at < oldest);
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                for whose in &old {
                    let key = whose.key();
                    let at = table.get(&*key)?.map(|at| at.value());
                    if is_old(at) {
                        table.remove(&*key)?;
                    }
                }
                Ok(())
            },
            || {
                let mut known = self.known.write();
                for whose in &old {
                    if is_old(known.at.get(whose).copied()) {
                        known.remove(whose);
                    }
                }
            },
        )
    }

    /// Whether there is room for one more of a tenant's users and tokens, where that many may be kept. What is revoked
    /// already takes none, nor does a whole tenant.
    #[must_use]
    pub fn has_room(&self, whose: &Revoked, most: usize) -> bool {
        let Some(tenant) = whose.counted_for() else {
            return true;
        };
        let known = self.known.read();
        let count = known.of_tenants.get(&tenant).copied().unwrap_or(0);
        count < most || known.at.contains_key(whose)
    }

    /// Whether a revocation ends the authority of `identity`.
    #[must_use]
    pub fn cover(&self, identity: &Identity) -> bool {
        let known = self.known.read();
        !known.at.is_empty()
            && Revoked::that_cover(identity)
                .filter_map(|covering| known.at.get_key_value(&covering))
                .any(|(whose, at)| whose.ends(identity, *at))
    }

    /// Those that are kept at `now`, in microseconds since the Unix epoch, in no order.
    #[must_use]
    pub fn kept(&self, now: i64) -> Vec<Revocation> {
        let oldest = self.oldest(now);
        let known = self.known.read();
        known
            .at
            .iter()
            .filter(|(_, at)| **at >= oldest)
            .map(|(whose, at)| Revocation {
                whose: whose.clone(),
                at: *at,
            })
            .collect()
    }

    /// Since when revocations are kept, in microseconds since the Unix epoch.
    fn oldest(&self, now: i64) -> i64 {
        if self.kept_for.is_zero() {
            return i64::MIN;
        }
        let kept_for = i64::try_from(self.kept_for.as_micros()).unwrap_or(i64::MAX);
        now.saturating_sub(kept_for)
    }
}
