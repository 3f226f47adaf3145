//! Bodies of which each is stored only if those before it are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ties bodies together that are submitted one after the other without waiting: where one is not stored for lack
/// of room, those behind it are not either, so that what is stored of them is always the first ones. That a
/// body's tenant was purged breaks nothing.
///
/// A broken chain stays so; who goes on begins another.
#[derive(Clone, Debug, Default)]
pub struct Chain(Arc<AtomicBool>);

impl Chain {
    /// Whether a body of it was not stored.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set_broken(&self) {
        self.0.store(true, Ordering::Release);
    }
}
