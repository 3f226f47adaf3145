//! Revocations: kept for longer than the access tokens live that they are about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use redb::{ReadableTable as _, TableDefinition, TableError};

use super::RegistryError;
use super::file::RegistryFile;
use crate::auth::Identity;
use crate::auth::revocation::{Revocation, Revoked, was_issued_by};
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

    /// Remembers a revocation and lets go of those that are too old to matter; durable when it returns. Of several
    /// about the same the latest stands, which is answered.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing is revoked then.
    pub fn add(&self, revocation: &Revocation) -> Result<Revocation, RegistryError> {
        let Revocation { whose, at } = revocation;
        let oldest = self.oldest(SystemTime::now());
        let mut stands = *at;
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                let key = whose.key();
                let known = table.get(&*key)?.map(|known| known.value());
                if known.is_none_or(|known| known < *at) {
                    table.insert(&*key, at)?;
                }
                table.retain(|_, kept| kept >= oldest)?;
                Ok(())
            },
            || {
                let mut known = self.known.write();
                let kept = known.entry(whose.clone()).or_insert(*at);
                *kept = (*kept).max(*at);
                stands = *kept;
                known.retain(|_, kept| *kept >= oldest);
            },
        )?;
        Ok(Revocation {
            whose: whose.clone(),
            at: stands,
        })
    }

    /// Whether a revocation ends the authority of `identity`.
    #[must_use]
    pub fn cover(&self, identity: &Identity) -> bool {
        let known = self.known.read();
        !known.is_empty()
            && Revoked::that_cover(identity)
                .filter_map(|covering| known.get(&covering))
                .any(|at| was_issued_by(identity, *at))
    }

    /// All that are kept, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Revocation> {
        let known = self.known.read();
        let one = |(whose, at): (&Revoked, &i64)| Revocation {
            whose: whose.clone(),
            at: *at,
        };
        known.iter().map(one).collect()
    }

    /// How long a revocation is kept; zero is for ever.
    #[must_use]
    pub fn kept_for(&self) -> Duration {
        self.kept_for
    }

    /// Since when revocations are kept, in microseconds since the Unix epoch.
    fn oldest(&self, now: SystemTime) -> i64 {
        if self.kept_for.is_zero() {
            return i64::MIN;
        }
        let kept_for = i64::try_from(self.kept_for.as_micros()).unwrap_or(i64::MAX);
        unix_microseconds(now).saturating_sub(kept_for)
    }
}
