//! The server's small durable facts: which tenants were purged, whose access tokens are revoked, which devices
//! make up which group, and the API keys that operators have made.
//!
//! One file of redb beside the log, `registry.redb` (`file`), and for each kind of fact a module that owns one
//! table of it. Everything is held in memory too, since it is asked on every request and seldom changed: what is
//! asked never waits for the disk; what is changed is durable before the change can be seen.
//!
//! Changes wait for the disk: call them where blocking is allowed.

mod file;
mod groups;
mod keys;
mod purged;
mod revocations;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use groups::{DeviceGroup, DeviceGroups};
pub use keys::ManagedKeys;
pub use purged::{Purge, PurgedTenants};
pub use revocations::Revocations;

use tidings_protocol::TenantId;

use crate::auth::ManagedKey;
use crate::auth::revocation::Revocation;
use file::RegistryFile;

/// The name of the file in the log's folder.
pub const FILE_NAME: &str = "registry.redb";

/// The registry's file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It can't be opened or made.
    #[error("{} can't be opened: {what}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or the store says.
        what: String,
    },
    /// It holds something that this version did not write.
    #[error(
        "{} is damaged: {what}. It holds the device groups, API keys, revocations and which tenants were purged, so the server does not \
         start without it. Restore it from a backup; or move it away to begin with none, in which case groups must \
         be put again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the store says.
        what: String,
    },
    /// It was written by a newer version of this program.
    #[error(
        "{} has format {found}; this version reads formats up to {supported}: use a newer version of Tidings",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this version can read.
        supported: u64,
    },
    /// A change could not be made durable; nothing has changed.
    #[error("{} can't be written: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system or the store says.
        what: String,
    },
}

/// The small durable facts of one server.
pub struct Registry {
    file: Arc<RegistryFile>,
    groups: DeviceGroups,
    keys: ManagedKeys,
    purged: PurgedTenants,
    revocations: Revocations,
}

impl Registry {
    /// Opens the registry in a folder, or makes it. The folder must exist and be this process's own: the log's
    /// lock sees to that. Revocations are kept for `revocations_kept`, or for ever where that is zero.
    ///
    /// # Errors
    ///
    /// When the file is damaged, is another version's, or the system refuses.
    pub fn open(folder: &Path, revocations_kept: Duration) -> Result<Self, RegistryError> {
        let file = Arc::new(RegistryFile::open(folder)?);
        Ok(Self {
            groups: DeviceGroups::load(&file)?,
            keys: ManagedKeys::load(&file)?,
            purged: PurgedTenants::load(&file)?,
            revocations: Revocations::load(&file, revocations_kept)?,
            file,
        })
    }

    /// The same as a copy of what is true elsewhere: what can't be written is obeyed all the same.
    #[must_use]
    pub fn into_copy(self) -> Self {
        self.file.become_copy();
        self
    }

    /// The device groups.
    #[must_use]
    pub fn groups(&self) -> &DeviceGroups {
        &self.groups
    }

    /// The API keys that operators have made.
    #[must_use]
    pub fn keys(&self) -> &ManagedKeys {
        &self.keys
    }

    /// The purged tenants.
    #[must_use]
    pub fn purged(&self) -> &PurgedTenants {
        &self.purged
    }

    /// Whose access tokens are revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// What the file says now, as the content of a file, for a backup.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub fn export(&self) -> Result<Vec<u8>, RegistryError> {
        self.file.export()
    }

    /// Takes over what must not be forgotten with a restore of an older backup: what became of API keys, who was purged, with
    /// all that was its, and which access tokens were revoked. Nothing else is.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub fn take_over(
        &self,
        purged: &[(TenantId, Purge)],
        revocations: &[Revocation],
        keys: &[(Arc<str>, Arc<ManagedKey>)],
    ) -> Result<(), RegistryError> {
        for (id, key) in keys {
            let taken = |_: Option<&ManagedKey>| Ok::<_, Infallible>(Some((**key).clone()));
            let Ok(()) = self.keys.change(id, taken)?;
        }
        for (tenant, purge) in purged {
            self.purged.add(*tenant, purge.at, &purge.by)?;
            self.groups.remove_tenant(*tenant)?;
            self.keys.remove_tenant(*tenant)?;
        }
        self.revocations.add(revocations)?;
        self.wipe_removed()
    }

    /// Writes the file anew, so that nothing of what was removed stands on the disk any more: the store only
    /// marks the room of removed entries as free.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the present file stays as it is.
    pub fn wipe_removed(&self) -> Result<(), RegistryError> {
        self.file.rewrite()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Registry")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
