//! Fan-out: gives each durable event its wire form once and tells the engines how far the log reaches.
//!
//! - [`types`]: event type names as small numbers.
//! - [`view`]: what a stream may see. The one place that decides it, on every path.
//! - [`rules`]: what bounds a view, to explain its verdicts.
//! - [`block`]: consecutive events in their wire form, with what is needed to select among them.
//! - [`snapshot`]: the last event of each subject in its wire form.
//! - [`conflation`]: which events a stream that lags can do without.
//! - [`window`]: the newest blocks, bounded by bytes.
//!
//! Data flows from the log's writer ([`FanOut`] is its listener) through the window to the
//! engines, which are only told that there is more and fetch it themselves.

pub mod block;
pub mod conflation;
pub mod rules;
pub mod snapshot;
pub mod types;
pub mod view;
pub mod window;

use std::sync::Arc;

use tidings_log::{EventRef, Health, Listener};

use crate::cursors::EventIds;

use block::FULL;
pub use block::{Block, BlockBuilder};
pub use conflation::Conflation;
pub use rules::Rules;
pub use types::{TypeId, TypeSet, TypeTable};
pub use view::{View, ViewRequest};
pub use window::Window;

/// Who is told that the log reaches further, or that its health has changed. Called on the log's
/// writer thread: an implementation only leaves a note and wakes its own thread.
pub trait Follower: Send + Sync {
    /// The window holds more than before.
    fn tail_moved(&self);
    /// The log can or can't be appended to.
    fn health_changed(&self, health: &Health);
}

/// The log's listener: encodes what became durable and passes the word on.
pub struct FanOut {
    window: Arc<Window>,
    types: Arc<TypeTable>,
    /// Set once, as soon as the log is open; nothing is committed before.
    ids: Arc<std::sync::OnceLock<Arc<EventIds>>>,
    followers: Arc<std::sync::OnceLock<Vec<Arc<dyn Follower>>>>,
}

impl FanOut {
    /// A fan-out into `window`. How events are named and the followers become known only after the log
    /// is open, and so after its listener exists; both are set before the first append.
    #[must_use]
    pub fn new(
        window: Arc<Window>,
        types: Arc<TypeTable>,
        ids: Arc<std::sync::OnceLock<Arc<EventIds>>>,
        followers: Arc<std::sync::OnceLock<Vec<Arc<dyn Follower>>>>,
    ) -> Self {
        Self {
            window,
            types,
            ids,
            followers,
        }
    }

    fn each_follower(&self, tell: impl Fn(&dyn Follower)) {
        for follower in self.followers.get().into_iter().flatten() {
            tell(follower.as_ref());
        }
    }
}

/// About what an event takes on the wire beside its payload.
const FRAMING: usize = 64;

impl Listener for FanOut {
    fn committed(&mut self, events: &[EventRef<'_>]) {
        let (Some(first), Some(ids)) = (events.first(), self.ids.get()) else {
            return;
        };
        let bytes = events.iter().map(|event| event.data.len() + FRAMING);
        let mut builder =
            BlockBuilder::with_capacity(ids, first.position - 1, bytes.sum::<usize>().min(FULL));
        for event in events {
            builder.push(event, &self.types);
            if builder.is_full() {
                self.window.push(builder.finish(event.position));
                builder = BlockBuilder::new(ids, event.position);
            }
        }
        if let Some(last) = events.last()
            && !builder.is_empty()
        {
            self.window.push(builder.finish(last.position));
        }
        self.each_follower(|follower| follower.tail_moved());
    }

    fn health_changed(&mut self, health: &Health) {
        self.each_follower(|follower| follower.health_changed(health));
    }
}
