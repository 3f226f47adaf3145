//! Revocations: kept for longer than the access tokens live that they are about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use redb::{ReadableTable as _, TableDefinition, TableError};

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
    known: RwLock<HashMap<Revoked, i64>>,
}

impl Revocations {
    pub(super) fn load(
        file: &Arc<RegistryFile>,
        kept_for: Duration,
    ) -> Result<Self, RegistryError> {
        let mut known = HashMap::new();
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
                    Ok(whose) => {
                        known.insert(whose, at.value());
                    }
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

    /// Remembers revocations and lets go of those that are too old to matter; durable when it returns. Of several
    /// about the same the latest stands. Gives those that are new.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing is revoked then.
    pub fn add(&self, revocations: &[Revocation]) -> Result<Vec<Revocation>, RegistryError> {
        let oldest = self.oldest(unix_microseconds(SystemTime::now()));
        let known = self.known.read();
        let is_new = |revocation: &&Revocation| {
            let at = known.get(&revocation.whose);
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
                table.retain(|_, kept| kept >= oldest)?;
                Ok(())
            },
            || {
                let mut known = self.known.write();
                for Revocation { whose, at } in &new {
                    let kept = known.entry(whose.clone()).or_insert(*at);
                    *kept = (*kept).max(*at);
                }
                known.retain(|_, kept| *kept >= oldest);
            },
        )?;
        Ok(new)
    }

    /// Whether a revocation ends the authority of `identity`.
    #[must_use]
    pub fn cover(&self, identity: &Identity) -> bool {
        let known = self.known.read();
        !known.is_empty()
            && Revoked::that_cover(identity)
                .filter_map(|covering| known.get_key_value(&covering))
                .any(|(whose, at)| whose.ends(identity, *at))
    }

    /// Those that are kept at `now`, in microseconds since the Unix epoch, in no order.
    #[must_use]
    pub fn kept(&self, now: i64) -> Vec<Revocation> {
        let oldest = self.oldest(now);
        let known = self.known.read();
        known
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
