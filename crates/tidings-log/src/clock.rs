//! Time, as the log sees it. See [`RunClock`] for what happens when the wall clock jumps.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// The wall clock, in microseconds since the Unix epoch.
    pub wall: i64,
    /// Microseconds since some fixed moment, by a clock that is never set and goes on while the
    /// machine sleeps.
    pub elapsed: i64,
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Looks at both clocks.
    fn now(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        let boot = clock_gettime(ClockId::Boottime);
        Instant {
            wall,
            elapsed: boot.tv_sec * 1_000_000 + boot.tv_nsec / 1_000,
        }
    }
}
