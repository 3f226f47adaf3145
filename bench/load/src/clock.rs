//! The clock that both ends of a latency are read from.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in microseconds.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The monotonic clock starts at 0 when the machine does and never is negative.
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1_000
}

/// Microseconds as seconds.
#[must_use]
pub fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// Seconds as microseconds.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "durations of a run: small and not negative"
)]
pub fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// The moment that lies `seconds` ahead, by [`now`].
#[must_use]
pub fn after(seconds: f64) -> u64 {
    now() + microseconds(seconds)
}
