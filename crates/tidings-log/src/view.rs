//! What is durable and retained, as all threads see it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use tidings_protocol::{Position, TenantId};

use crate::clock::RunClock;
use crate::event::{Lost, Scope};
use crate::horizon::{Ages, Horizons};
use crate::lineage::Lineage;
use crate::meta::{Meta, MetaState};
use crate::purge::Purging;
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
    /// The log's epoch, and what it descends from.
    pub(crate) lineage: Lineage,
    pub(crate) files: Files,
    pub(crate) meta: Meta,
    pub(crate) clock: Arc<RunClock>,
    /// Folded on a thread of its own.
    pub(crate) state: State,
    pub(crate) view: RwLock<View>,
    pub(crate) horizons: Horizons,
    /// Where reads of all tenants ended.
    pub(crate) hints: Hints,
    /// From the handle to the writer.
    pub(crate) queue: Queue,
    /// Between the writer and the upkeep thread.
    pub(crate) workshop: Workshop,
    pub(crate) caps: TenantCaps,
    /// Retention runs on one thread at a time.
    pub(crate) retention: Mutex<()>,
    /// Purged tenants whose events may still be on the disk.
    pub(crate) purging: Mutex<Purging>,
    /// How many tenants were purged since the log was opened.
    pub(crate) purges: AtomicU64,
    /// One backup at a time.
    pub(crate) backing_up: Mutex<()>,
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
    /// The last of them that was somebody's event, and not a purged tenant's.
    pub(crate) taken_through: Position,
    pub(crate) removed_at: i64,
    /// Each tenant's last position among the unlinked ones.
    pub(crate) removed: HashMap<TenantId, Position>,
    /// Each tenant's last position that its cap has taken, where it has taken any.
    pub(crate) trimmed: HashMap<TenantId, Position>,
    /// The greatest of `trimmed`.
    pub(crate) trimmed_through: Position,
    /// Tenants of whom nothing is shown any more.
    pub(crate) purged: HashSet<TenantId>,
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
    /// Behind this every event is retained, whosever it is.
    pub(crate) hidden_through: Position,
    /// The last position that retention has taken from anybody: by age, by bytes or by a cap.
    pub(crate) taken_through: Position,
    pub(crate) ages: Ages,
    /// What is too old or too much is shown all the same.
    pub(crate) with_old: bool,
    pub(crate) removed_at: i64,
}

impl View {
    /// What a log that was just opened shows.
    pub(crate) fn opened(
        segments: Vec<Arc<Segment>>,
        tail: Position,
        lost: Vec<Lost>,
        state: &MetaState,
    ) -> Self {
        Self {
            segments: Arc::new(segments),
            tail,
            removed_through: state.removed_through,
            taken_through: state.taken_through,
            removed_at: state.removed_at,
            removed: state.removed.clone(),
            trimmed: HashMap::new(),
            trimmed_through: 0,
            purged: state.purged.keys().copied().collect(),
            lost: Arc::new(lost),
            health: Health::Healthy,
        }
    }
}

impl Shared {
    pub(crate) fn snapshot(&self, scope: Scope) -> Snapshot {
        let ages = self.ages();
        let view = self.view.read();
        let horizon = ages.floor().max(view.removed_through);
        let scope_horizon = match scope {
            Scope::All => horizon,
            Scope::Tenant(tenant) => {
                let own = self.hidden_from(&view, &ages, tenant);
                own.max(view.removed_through).min(view.tail)
            }
        };
        let hidden_through = if view.purged.is_empty() {
            ages.ceiling().max(view.trimmed_through)
        } else {
            Position::MAX
        };
        Snapshot {
            segments: Arc::clone(&view.segments),
            tail: view.tail,
            lost: Arc::clone(&view.lost),
            horizon,
            scope_horizon,
            hidden_through,
            taken_through: ages
                .taken()
                .max(view.taken_through)
                .max(view.trimmed_through),
            removed_at: view.removed_at,
            ages,
            with_old: false,
        }
    }

    /// The view of who reads whatever is on disk, also what is hidden from readers because it expired or
    /// exceeds a tenant's cap; but nothing of a purged tenant.
    pub(crate) fn whole_snapshot(&self) -> Snapshot {
        let view = self.view.read();
        Snapshot {
            segments: Arc::clone(&view.segments),
            tail: view.tail,
            lost: Arc::clone(&view.lost),
            horizon: view.removed_through,
            scope_horizon: view.removed_through,
            hidden_through: if view.purged.is_empty() {
                0
            } else {
                Position::MAX
            },
            taken_through: view.taken_through,
            ages: self.horizons.ageless(),
            with_old: true,
            removed_at: view.removed_at,
        }
    }

    /// The last position of which a tenant's events are not shown: for their age, the tenant's cap, or
    /// because it was purged, also since the snapshot was taken.
    pub(crate) fn hidden(&self, snapshot: &Snapshot, tenant: TenantId) -> Position {
        let view = self.view.read();
        if snapshot.with_old {
            return if view.purged.contains(&tenant) {
                Position::MAX
            } else {
                0
            };
        }
        self.hidden_from(&view, &snapshot.ages, tenant)
    }

    fn hidden_from(&self, view: &View, ages: &Ages, tenant: TenantId) -> Position {
        if view.purged.contains(&tenant) {
            return Position::MAX;
        }
        let trimmed = view.trimmed.get(&tenant).copied().unwrap_or(0);
        self.horizons.of(ages, tenant).max(trimmed)
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
