//! What is durable and retained, as all threads see it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tidings_protocol::{Epoch, Position, TenantId};

use crate::clock::RunClock;
use crate::event::{Lost, Scope};
use crate::horizon::Horizon;
use crate::meta::Meta;
use crate::queue::Queue;
use crate::reading::Hints;
use crate::segment::{Files, Segment};
use crate::state::State;
use crate::tenant_caps::TenantCaps;
use crate::workshop::Workshop;
use crate::{Health, LogOptions};

/// What the handle, the writer and the upkeep thread share.
pub(crate) struct Shared {
    pub(crate) options: LogOptions,
    pub(crate) epoch: Epoch,
    pub(crate) files: Files,
    pub(crate) meta: Meta,
    pub(crate) clock: Arc<RunClock>,
    /// Folded on a thread of its own.
    pub(crate) state: State,
    pub(crate) view: RwLock<View>,
    pub(crate) horizon: Mutex<Horizon>,
    /// Where reads of all tenants ended.
    pub(crate) hints: Hints,
    /// From the handle to the writer.
    pub(crate) queue: Queue,
    /// Between the writer and the upkeep thread.
    pub(crate) workshop: Workshop,
    pub(crate) caps: TenantCaps,
    /// Retention runs on one thread at a time.
    pub(crate) retention: Mutex<()>,
    /// Dropping it lets another process have the folder.
    pub(crate) lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

/// The state that readers take a snapshot of. The writer moves `tail` and adds segments, the
/// upkeep thread removes them; nobody holds the lock while doing I/O.
pub(crate) struct View {
    /// Ascending; the last may be the active one.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    /// The last durable position.
    pub(crate) tail: Position,
    /// The last position of the last unlinked segment, and when it was appended.
    pub(crate) removed_through: Position,
    pub(crate) removed_at: i64,
    /// Each tenant's last position among the unlinked ones.
    pub(crate) removed: HashMap<TenantId, Position>,
    /// Each tenant's last position that its cap has taken, where it has taken any.
    pub(crate) trimmed: HashMap<TenantId, Position>,
    /// The greatest of `trimmed`.
    pub(crate) trimmed_through: Position,
    /// Ascending.
    pub(crate) lost: Arc<Vec<Lost>>,
    pub(crate) health: Health,
}

/// The view at one instant, for one scope.
pub(crate) struct Snapshot {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) tail: Position,
    pub(crate) lost: Arc<Vec<Lost>>,
    /// Nothing up to here is retained, of any tenant.
    pub(crate) horizon: Position,
    /// Nothing of the scope up to here is retained.
    pub(crate) scope_horizon: Position,
    /// The greatest position that any tenant's cap has taken.
    pub(crate) trimmed_through: Position,
    pub(crate) removed_at: i64,
}

impl Shared {
    pub(crate) fn snapshot(&self, scope: Scope) -> Snapshot {
        let expired = self.age_horizon();
        let view = self.view.read();
        let horizon = expired.max(view.removed_through);
        let trimmed = match scope {
            Scope::All => 0,
            Scope::Tenant(tenant) => view.trimmed.get(&tenant).copied().unwrap_or(0),
        };
        Snapshot {
            segments: Arc::clone(&view.segments),
            tail: view.tail,
            lost: Arc::clone(&view.lost),
            horizon,
            scope_horizon: horizon.max(trimmed),
            trimmed_through: view.trimmed_through,
            removed_at: view.removed_at,
        }
    }

    /// The view of who reads whatever is on disk, also what is hidden from readers because it expired or
    /// exceeds a tenant's cap.
    pub(crate) fn whole_snapshot(&self) -> Snapshot {
        let view = self.view.read();
        Snapshot {
            segments: Arc::clone(&view.segments),
            tail: view.tail,
            lost: Arc::clone(&view.lost),
            horizon: view.removed_through,
            scope_horizon: view.removed_through,
            trimmed_through: 0,
            removed_at: view.removed_at,
        }
    }

    /// What a tenant's cap has taken, for a reader of all tenants.
    pub(crate) fn trimmed(&self, tenant: TenantId) -> Position {
        self.view.read().trimmed.get(&tenant).copied().unwrap_or(0)
    }

    /// Adds lost stretches that were not known.
    pub(crate) fn add_lost(&self, found: &[Lost]) -> bool {
        let mut view = self.view.write();
        let mut lost = (*view.lost).clone();
        let before = lost.len();
        for stretch in found {
            let known = lost
                .iter()
                .any(|other| other.first <= stretch.first && stretch.last <= other.last);
            if !known {
                lost.push(*stretch);
            }
        }
        lost.sort_unstable();
        let grew = lost.len() > before;
        view.lost = Arc::new(lost);
        grew
    }
}

impl Snapshot {
    /// The first lost stretch behind a position, as far as it is retained and durable.
    pub(crate) fn lost_after(&self, after: Position) -> Option<Lost> {
        let after = after.max(self.scope_horizon);
        self.lost
            .iter()
            .find(|lost| lost.last > after && lost.first <= self.tail)
            .map(|lost| Lost {
                first: lost.first.max(after + 1),
                last: lost.last.min(self.tail),
            })
    }
}
