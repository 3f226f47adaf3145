//! How much each tenant has in the log, where that is capped.

use std::collections::HashMap;

use parking_lot::Mutex;
use tidings_protocol::TenantId;

use crate::LogOptions;

/// For each tenant with a cap at least the bytes of its retained frames. Adding is the writer's; the
/// upkeep thread counts exactly when a tenant seems to exceed its cap.
pub(crate) struct TenantCaps {
    /// Of all tenants; `None` for no cap.
    cap: Option<u64>,
    /// Of tenants with one of their own.
    own: HashMap<TenantId, Option<u64>>,
    bytes: Mutex<HashMap<TenantId, u64>>,
}

impl TenantCaps {
    pub(crate) fn new(options: &LogOptions) -> Self {
        let some = |cap: u64| (cap > 0).then_some(cap);
        let own = options.tenants.iter();
        Self {
            cap: some(options.tenant_max_bytes),
            own: own
                .filter_map(|(tenant, options)| Some((*tenant, some(options.max_bytes?))))
                .collect(),
            bytes: Mutex::new(HashMap::new()),
        }
    }

    /// Whether any tenant has a cap.
    pub(crate) fn any(&self) -> bool {
        self.cap.is_some() || self.own.values().any(Option::is_some)
    }

    /// A tenant's cap, if it has one.
    pub(crate) fn of(&self, tenant: TenantId) -> Option<u64> {
        self.own.get(&tenant).copied().unwrap_or(self.cap)
    }

    /// Adds bytes to tenants' accounts; whether any exceeds its cap.
    pub(crate) fn add(&self, frames: impl Iterator<Item = (TenantId, u64)>) -> bool {
        if !self.any() {
            return false;
        }
        let mut accounts = self.bytes.lock();
        let mut exceeded = false;
        for (tenant, bytes) in frames {
            if let Some(cap) = self.of(tenant) {
                let account = accounts.entry(tenant).or_default();
                *account += bytes;
                exceeded |= *account > cap;
            }
        }
        exceeded
    }

    /// The tenants that seem to exceed their caps, with what is on their account.
    pub(crate) fn exceeding(&self) -> Vec<(TenantId, u64)> {
        if !self.any() {
            return Vec::new();
        }
        self.bytes
            .lock()
            .iter()
            .filter(|(tenant, bytes)| self.of(**tenant).is_some_and(|cap| **bytes > cap))
            .map(|(tenant, bytes)| (*tenant, *bytes))
            .collect()
    }

    /// Sets an account that was `before` to `now`, keeping what was added meanwhile.
    pub(crate) fn settle(&self, tenant: TenantId, before: u64, now: u64) {
        let mut accounts = self.bytes.lock();
        if let Some(account) = accounts.get_mut(&tenant) {
            *account = (*account - before) + now;
        }
    }

    /// Closes the account of a tenant that was purged.
    pub(crate) fn forget(&self, tenant: TenantId) {
        self.bytes.lock().remove(&tenant);
    }
}
