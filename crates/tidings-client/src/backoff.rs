//! How long to wait before a stream is opened again.

use std::time::Duration;

/// Doubling steps with full jitter: each wait is drawn evenly from nothing to the step, so that
/// clients which lost the same server do not come back together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    limit: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new(base: Duration, limit: Duration) -> Self {
        Self {
            base,
            limit: limit.max(base),
            attempts: 0,
        }
    }

    /// The server's `retry:` takes the place of the first step.
    pub(crate) fn set_base(&mut self, base: Duration) {
        self.base = base.min(self.limit);
    }

    /// The line works again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait. `retry_after` is the least that the server asked for; the jitter comes on
    /// top of it.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let step = self
            .base
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(self.limit);
        self.attempts = self.attempts.saturating_add(1);
        retry_after.unwrap_or_default() + step.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_at_least_what_the_server_asked_and_the_jitter_is_bounded(
            base in 1_u64..10_000,
            limit in 1_u64..60_000,
            retry_after in proptest::option::of(0_u64..100),
            attempts in 1_usize..80,
        ) {
            let limit = Duration::from_millis(limit.max(base));
            let mut backoff = Backoff::new(Duration::from_millis(base), limit);
            let retry_after = retry_after.map(Duration::from_secs);
            for _ in 0..attempts {
                let wait = backoff.next(retry_after);
                prop_assert!(wait >= retry_after.unwrap_or_default());
                prop_assert!(wait <= retry_after.unwrap_or_default() + limit);
            }
            backoff.reset();
            prop_assert!(backoff.next(None) <= Duration::from_millis(base));
        }
    }
}
