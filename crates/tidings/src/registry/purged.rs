//! Purged tenants: whose ids are never used again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use redb::{ReadableTable as _, TableDefinition};
use tidings_protocol::TenantId;

use super::RegistryError;
use super::file::RegistryFile;

/// A tenant's 16 bytes; when it was purged, in microseconds since the Unix epoch, and by whom.
pub(super) const TABLE: TableDefinition<'_, [u8; 16], (i64, &str)> =
    TableDefinition::new("purged_tenants");

/// What is remembered of a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// When, in microseconds since the Unix epoch.
    pub at: i64,
    /// The user who asked for it.
    pub by: String,
}

/// All purged tenants. Answers come from memory.
pub struct PurgedTenants {
    file: Arc<RegistryFile>,
    tenants: RwLock<HashMap<TenantId, Purge>>,
}

impl PurgedTenants {
    pub(super) fn load(file: &Arc<RegistryFile>) -> Result<Self, RegistryError> {
        let tenants = file.read(|read| {
            let mut tenants = HashMap::new();
            for entry in read.open_table(TABLE)?.iter()? {
                let (tenant, value) = entry?;
                let (at, by) = value.value();
                let by = by.to_owned();
                tenants.insert(TenantId::from_bytes(tenant.value()), Purge { at, by });
            }
            Ok(tenants)
        })?;
        Ok(Self {
            file: Arc::clone(file),
            tenants: RwLock::new(tenants),
        })
    }

    /// Remembers that a tenant was purged; durable when it returns. The first purge of a tenant is the one that
    /// is remembered; it is answered.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the tenant is not purged then.
    pub fn add(&self, tenant: TenantId, at: i64, by: &str) -> Result<Purge, RegistryError> {
        let mut purge = Purge {
            at,
            by: by.to_owned(),
        };
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                let known = table.get(tenant.as_bytes())?.is_some();
                if !known {
                    table.insert(tenant.as_bytes(), (at, by))?;
                }
                Ok(())
            },
            || {
                let mut tenants = self.tenants.write();
                purge = tenants.entry(tenant).or_insert(purge.clone()).clone();
            },
        )?;
        Ok(purge)
    }

    /// Whether a tenant was purged.
    #[must_use]
    pub fn contains(&self, tenant: TenantId) -> bool {
        self.tenants.read().contains_key(&tenant)
    }

    /// When and by whom a tenant was purged, where it was.
    #[must_use]
    pub fn get(&self, tenant: TenantId) -> Option<Purge> {
        self.tenants.read().get(&tenant).cloned()
    }

    /// All of them, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<(TenantId, Purge)> {
        let tenants = self.tenants.read();
        tenants
            .iter()
            .map(|(tenant, purge)| (*tenant, purge.clone()))
            .collect()
    }
}
