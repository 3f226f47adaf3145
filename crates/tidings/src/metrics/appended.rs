//! How many events of each tenant came into the log since the process started.
//!
//! What is retained says nothing of how much is published: where retention takes as much as comes, it stands still.
//! These counts only grow. They are by tenant, so they are no metrics; operators are told of them.

use std::collections::HashMap;

use parking_lot::Mutex;
use tidings_log::EventRef;
use tidings_protocol::TenantId;

/// Counts by tenant. Added to once a commit, by the log's writer.
#[derive(Debug, Default)]
pub struct Appended {
    counts: Mutex<HashMap<TenantId, u64>>,
}

impl Appended {
    /// Counts the events of a commit.
    pub fn add(&self, events: &[EventRef<'_>]) {
        let mut counts = self.counts.lock();
        for run in events.chunk_by(|one, next| one.tenant == next.tenant) {
            *counts.entry(run[0].tenant).or_default() += run.len() as u64;
        }
    }

    /// How many events of a tenant have come.
    #[must_use]
    pub fn of(&self, tenant: TenantId) -> u64 {
        self.counts.lock().get(&tenant).copied().unwrap_or(0)
    }

    /// Lets go of a tenant that was purged.
    pub fn forget(&self, tenant: TenantId) {
        self.counts.lock().remove(&tenant);
    }
}
