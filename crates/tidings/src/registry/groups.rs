//! Device groups: for a tenant, names of lists of its devices. A claim of an access token may name one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use redb::{ReadableTable as _, TableDefinition};
use tidings_protocol::{DeviceId, TenantId};

use super::RegistryError;
use super::file::RegistryFile;

/// A tenant's 16 bytes and a group's name; its devices.
pub(super) const TABLE: TableDefinition<'_, ([u8; 16], &str), Vec<&str>> =
    TableDefinition::new("device_groups");

/// A group's devices: ascending, each once. Shared with the views that it bounds.
pub type DeviceGroup = Arc<[DeviceId]>;

/// All device groups. Answers come from memory.
pub struct DeviceGroups {
    file: Arc<RegistryFile>,
    groups: RwLock<HashMap<TenantId, BTreeMap<String, DeviceGroup>>>,
}

impl DeviceGroups {
    pub(super) fn load(file: &Arc<RegistryFile>) -> Result<Self, RegistryError> {
        let mut groups: HashMap<TenantId, BTreeMap<String, DeviceGroup>> = HashMap::new();
        let mut wrong = None;
        file.read(|read| {
            for entry in read.open_table(TABLE)?.iter()? {
                let (key, value) = entry?;
                let (tenant, name) = key.value();
                let devices: Result<DeviceGroup, _> =
                    value.value().into_iter().map(str::parse).collect();
                let Ok(devices) = devices else {
                    wrong = Some(format!("the group `{name}` holds what is no device id"));
                    continue;
                };
                groups
                    .entry(TenantId::from_bytes(tenant))
                    .or_default()
                    .insert(name.to_owned(), devices);
            }
            Ok(())
        })?;
        if let Some(what) = wrong {
            return Err(file.damaged(what));
        }
        Ok(Self {
            file: Arc::clone(file),
            groups: RwLock::new(groups),
        })
    }

    /// Makes `devices` the group of this name; durable when it returns. Answers whether the group is now another
    /// than before: who watches through it must be told then. A group that is new counts as changed, also when it
    /// is empty.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the group stays as it was.
    pub fn put(
        &self,
        tenant: TenantId,
        name: &str,
        devices: &[DeviceId],
    ) -> Result<bool, RegistryError> {
        let mut sorted = devices.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let group: DeviceGroup = sorted.into();
        if self.get(tenant, name).as_ref() == Some(&group) {
            return Ok(false);
        }
        let mut changed = true;
        self.file.write(
            |write| {
                let texts: Vec<&str> = group.iter().map(DeviceId::as_str).collect();
                write
                    .open_table(TABLE)?
                    .insert((*tenant.as_bytes(), name), texts)?;
                Ok(())
            },
            || {
                let mut groups = self.groups.write();
                let before = groups
                    .entry(tenant)
                    .or_default()
                    .insert(name.to_owned(), Arc::clone(&group));
                changed = before.is_none_or(|before| before != group);
            },
        )?;
        Ok(changed)
    }

    /// The devices of a group; `None` where there is no such group.
    #[must_use]
    pub fn get(&self, tenant: TenantId, name: &str) -> Option<DeviceGroup> {
        self.groups.read().get(&tenant)?.get(name).cloned()
    }

    /// Removes a group; whether it was there. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the group stays.
    pub fn remove(&self, tenant: TenantId, name: &str) -> Result<bool, RegistryError> {
        if self.get(tenant, name).is_none() {
            return Ok(false);
        }
        let mut was_there = false;
        self.file.write(
            |write| {
                write
                    .open_table(TABLE)?
                    .remove((*tenant.as_bytes(), name))?;
                Ok(())
            },
            || {
                let mut groups = self.groups.write();
                if let Some(of_tenant) = groups.get_mut(&tenant) {
                    was_there = of_tenant.remove(name).is_some();
                    if of_tenant.is_empty() {
                        groups.remove(&tenant);
                    }
                }
            },
        )?;
        Ok(was_there)
    }

    /// A tenant's groups by name.
    #[must_use]
    pub fn list(&self, tenant: TenantId) -> Vec<(String, DeviceGroup)> {
        let groups = self.groups.read();
        let of_tenant = groups.get(&tenant).into_iter().flatten();
        of_tenant
            .map(|(name, devices)| (name.clone(), Arc::clone(devices)))
            .collect()
    }

    /// All groups of all tenants: whose, its name, its devices.
    #[must_use]
    pub fn all(&self) -> Vec<(TenantId, String, DeviceGroup)> {
        let groups = self.groups.read();
        let of_tenant = |(tenant, named): (&TenantId, &BTreeMap<String, DeviceGroup>)| {
            let tenant = *tenant;
            let one = move |(name, devices): (&String, &DeviceGroup)| {
                (tenant, name.clone(), Arc::clone(devices))
            };
            named.iter().map(one).collect::<Vec<_>>()
        };
        groups.iter().flat_map(of_tenant).collect()
    }

    /// Removes all groups of a tenant; durable when it returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the groups stay.
    pub fn remove_tenant(&self, tenant: TenantId) -> Result<(), RegistryError> {
        self.file.write(
            |write| {
                let mut table = write.open_table(TABLE)?;
                table.retain(|(owner, _), _| owner != *tenant.as_bytes())?;
                Ok(())
            },
            || {
                self.groups.write().remove(&tenant);
            },
        )
    }
}
