//! The state at one position.

use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use super::entry::StateEntry;
use super::table::{Table, TenantState};

/// The last event of each living subject of a scope, as of one position. Taking one costs next to
/// nothing, whatever its size: it shares what the state has.
#[derive(Clone, Debug)]
pub struct StateSnapshot {
    through: Position,
    /// By tenant.
    tenants: Vec<Arc<TenantState>>,
}

impl StateSnapshot {
    /// Of one tenant, or of all.
    pub(super) fn of(table: &Table, tenant: Option<TenantId>) -> Self {
        let tenants = match tenant {
            Some(tenant) => table.tenants.get(&tenant).into_iter().cloned().collect(),
            None => table.tenants.values().cloned().collect(),
        };
        Self {
            through: table.through,
            tenants,
        }
    }

    /// The position that it is true at: with the events after it, it is the state of later.
    #[must_use]
    pub fn through(&self) -> Position {
        self.through
    }

    /// How many subjects it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tenants.iter().map(|tenant| tenant.count()).sum()
    }

    /// Whether it has no subject.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The subjects' last events by tenant, kind and key.
    #[must_use]
    pub fn into_entries(mut self) -> StateEntries {
        // Not under the state's lock, where this would keep others waiting.
        self.tenants.sort_unstable_by_key(|tenant| {
            let first = &tenant.kinds[0].chunks[0].entries[0];
            first.tenant()
        });
        StateEntries {
            left: self.len(),
            tenants: self.tenants,
            tenant: 0,
            kind: 0,
            chunk: 0,
            place: 0,
        }
    }
}

/// The entries of a [`StateSnapshot`], by tenant, kind and key.
#[derive(Clone, Debug)]
pub struct StateEntries {
    tenants: Vec<Arc<TenantState>>,
    left: usize,
    tenant: usize,
    kind: usize,
    chunk: usize,
    place: usize,
}

impl Iterator for StateEntries {
    type Item = Arc<StateEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        // Neither tenants nor kinds nor chunks are empty, so each step down finds something.
        let kinds = &self.tenants.get(self.tenant)?.kinds;
        let chunks = &kinds[self.kind].chunks;
        let entries = &chunks[self.chunk].entries;
        let entry = Arc::clone(&entries[self.place]);
        self.left -= 1;
        self.place += 1;
        if self.place == entries.len() {
            self.place = 0;
            self.chunk += 1;
            if self.chunk == chunks.len() {
                self.chunk = 0;
                self.kind += 1;
                if self.kind == kinds.len() {
                    self.kind = 0;
                    self.tenant += 1;
                }
            }
        }
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for StateEntries {}
