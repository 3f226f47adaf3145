//! How much each tenant has in the log, where that is capped.

use std::collections::HashMap;

use parking_lot::Mutex;
use tidings_protocol::TenantId;

/// For each tenant at least the bytes of its retained frames. Adding is the writer's; the upkeep
/// thread counts exactly when a tenant seems to exceed the cap.
pub(crate) struct TenantCaps {
    cap: Option<u64>,
    bytes: Mutex<HashMap<TenantId, u64>>,
}

impl TenantCaps {
    pub(crate) fn new(cap: u64) -> Self {
        Self {
            cap: (cap > 0).then_some(cap),
            bytes: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn cap(&self) -> Option<u64> {
        self.cap
    }

    /// Adds bytes to tenants' accounts; whether any exceeds the cap.
    pub(crate) fn add(&self, frames: impl Iterator<Item = (TenantId, u64)>) -> bool {
        let Some(cap) = self.cap else {
            return false;
        };
        let mut accounts = self.bytes.lock();
        let mut exceeded = false;
        for (tenant, bytes) in frames {
            let account = accounts.entry(tenant).or_default();
            *account += bytes;
            exceeded |= *account > cap;
        }
        exceeded
    }

    /// The tenants that seem to exceed the cap, with what is on their account.
    pub(crate) fn exceeding(&self) -> Vec<(TenantId, u64)> {
        let Some(cap) = self.cap else {
            return Vec::new();
        };
        self.bytes
            .lock()
            .iter()
            .filter(|(_, bytes)| **bytes > cap)
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
}
