//! What may be under way at once, of all clients together: without a bound, overload would grow in memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of something that can be under way at once.
pub(super) struct Budget {
    taken: AtomicU64,
    /// 0 for no limit.
    most: AtomicU64,
}

impl fmt::Debug for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [taken, most] = [&self.taken, &self.most].map(|count| count.load(Ordering::Relaxed));
        write!(formatter, "Budget({taken} of {most})")
    }
}

impl Budget {
    pub(super) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU64::new(0),
            most: AtomicU64::new(most),
        })
    }

    /// Changes the limit. What is taken stays.
    pub(super) fn set(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A share of this size; `None` where that is more than is left.
    pub(super) fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let mut share = self.none();
        share.grow(amount).then_some(share)
    }

    /// A share of nothing, which can grow.
    pub(super) fn none(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            amount: 0,
        }
    }
}

/// Of a budget; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Share {
    /// Takes more. False, with nothing taken, where there is not so much left.
    #[must_use]
    pub fn grow(&mut self, amount: u64) -> bool {
        let most = self.budget.most.load(Ordering::Relaxed);
        let taken = self.budget.taken.fetch_add(amount, Ordering::Relaxed);
        if most != 0 && taken + amount > most {
            self.budget.taken.fetch_sub(amount, Ordering::Relaxed);
            return false;
        }
        self.amount += amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_no_more_than_it_has_and_takes_back_what_is_dropped() {
        let budget = Budget::new(10);
        let mut first = budget.take(4).unwrap();
        assert!(budget.take(7).is_none());
        assert!(first.grow(6) && !first.grow(1));
        assert!(budget.take(1).is_none());
        budget.set(12);
        let second = budget.take(2).unwrap();
        drop(first);
        assert!(budget.take(11).is_none());
        assert!(budget.take(10).is_some());
        budget.set(0);
        assert!(budget.take(1 << 40).is_some());
        drop(second);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }
}
