//! Fan-out: gives each durable event its wire form once and tells the engines how far the log reaches.
//!
//! - [`types`]: event type names as small numbers.
//! - [`view`]: what a stream may see. The one place that decides it, on every path.
//! - [`rules`]: what bounds a view, to explain its verdicts.
//! - [`block`]: consecutive events in their wire form, with what is needed to select among them.
//! - [`snapshot`]: the last event of each subject in its wire form.
//! - [`conflation`]: which events a stream that lags can do without.
//! - [`window`]: the newest blocks, bounded by bytes.
//! - [`liveness`]: whether what is shown is live.
//!
//! Data flows from the log's writer ([`FanOut`] is its listener) through the window to the
//! engines, which are only told that there is more and fetch it themselves.

pub mod block;
pub mod conflation;
pub mod liveness;
pub mod rules;
pub mod snapshot;
pub mod types;
pub mod view;
pub mod window;

use std::sync::Arc;
use std::time::Instant;

use tidings_log::{Commit, EventRef, Health, Listener};

use crate::cursors::{EventIds, Losses};
use crate::metrics::Metrics;

use block::FULL;
pub use block::{Block, BlockBuilder};
pub use conflation::Conflation;
pub use liveness::{Liveness, Stale};
pub use rules::Rules;
pub use types::{TypeId, TypeSet, TypeTable};
pub use view::{View, ViewRequest};
pub use window::Window;

/// Who is told that the log reaches further, or whether what is shown is live. Called mostly on the log's
/// writer thread: an implementation only leaves a note and wakes its own thread.
pub trait Follower: Send + Sync {
    /// The window holds more than before.
    fn tail_moved(&self);
    /// What is shown may be old, or is live again (`None`).
    fn liveness_changed(&self, stale: Option<&Stale>);
}

/// The log's listener: encodes what became durable and passes the word on.
pub struct FanOut {
    window: Arc<Window>,
    types: Arc<TypeTable>,
    /// Set once, as soon as the log is open; nothing is committed before.
    ids: Arc<std::sync::OnceLock<Arc<EventIds>>>,
    losses: Arc<Losses>,
    liveness: Arc<Liveness>,
    metrics: Arc<Metrics>,
    /// When the log was given the oldest event of the commit at hand.
    submitted: Option<Instant>,
}

impl FanOut {
    /// A fan-out into `window`. How events are named and the followers become known only after the log
    /// is open, and so after its listener exists; both are set before the first append.
    #[must_use]
    pub fn new(
        window: Arc<Window>,
        types: Arc<TypeTable>,
        ids: Arc<std::sync::OnceLock<Arc<EventIds>>>,
        losses: Arc<Losses>,
        liveness: Arc<Liveness>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            window,
            types,
            ids,
            losses,
            liveness,
            metrics,
            submitted: None,
        }
    }
}

/// About what an event takes on the wire beside its payload.
const FRAMING: usize = 64;

impl Listener for FanOut {
    fn commit_measured(&mut self, commit: &Commit) {
        self.metrics.commits.note(commit);
        self.submitted = Some(commit.submitted);
    }

    fn committed(&mut self, events: &[EventRef<'_>]) {
        let (Some(first), Some(ids)) = (events.first(), self.ids.get()) else {
            return;
        };
        self.metrics.appended.add(events);
        let bytes = events.iter().map(|event| event.data.len() + FRAMING);
        let mut builder =
            BlockBuilder::with_capacity(ids, first.position - 1, bytes.sum::<usize>().min(FULL));
        let mut pushed = first.position - 1;
        for event in events {
            // Known before the window's tail is behind it.
            if !self.losses.note(event) {
                builder.push(event, &self.types);
            }
            if builder.is_full() {
                let block = builder.finish(event.position);
                self.window.push(block.submitted_at(self.submitted));
                builder = BlockBuilder::new(ids, event.position);
                pushed = event.position;
            }
        }
        if let Some(last) = events.last()
            && last.position > pushed
        {
            let block = builder.finish(last.position);
            self.window.push(block.submitted_at(self.submitted));
        }
        for follower in self.liveness.each() {
            follower.tail_moved();
        }
    }

    fn health_changed(&mut self, health: &Health) {
        self.liveness.log_is(health);
    }
}
