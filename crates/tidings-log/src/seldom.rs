//! What would be said again and again is said now and then.
//!
//! A disk that is full, a connection that is refused: what goes wrong once goes wrong with every attempt, and under
//! load there are thousands. The first is told at once, the others are counted, and the next one that is told says
//! how many they were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often one place in the code says the same.
const EVERY: Duration = Duration::from_secs(10);

/// What all of them have left out.
static WITHHELD: AtomicU64 = AtomicU64::new(0);

/// Lets one through, and then none for ten seconds. [`seldom!`](crate::seldom) has one for each place in the code.
#[derive(Debug)]
pub struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    /// Since then.
    withheld: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

impl Seldom {
    /// One that lets the next through.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                last: None,
                withheld: 0,
            }),
        }
    }

    /// Whether it may be said now, and if so how often it was not since the last time.
    pub fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let early = |last: Instant| now.saturating_duration_since(last) < EVERY;
        if state.last.is_some_and(early) {
            state.withheld += 1;
            WITHHELD.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.withheld))
    }
}

/// How many lines were left out in this process.
#[must_use]
pub fn lines_withheld() -> u64 {
    WITHHELD.load(Ordering::Relaxed)
}

/// Writes a line of the log like `tracing`'s macro of this name, but from each place in the code only once in ten
/// seconds; `withheld` says how many were left out before it. For what can go wrong with every attempt.
///
/// ```
/// let error = "no room";
/// tidings_log::seldom!(warn, error, "an attempt has failed");
/// ```
#[macro_export]
macro_rules! seldom {
    ($level:ident, $($what:tt)+) => {{
        static TURNS: $crate::Seldom = $crate::Seldom::new();
        if let Some(withheld) = TURNS.turn() {
            let withheld = (withheld > 0).then_some(withheld);
            $crate::tracing::$level!(withheld, $($what)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_next_says_how_many_were_left_out() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.turn_at(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(seldom.turn_at(start + EVERY / 2), None);
        }
        assert_eq!(seldom.turn_at(start + EVERY), Some(1000));
        assert_eq!(seldom.turn_at(start + 2 * EVERY), Some(0));
        assert!(lines_withheld() >= 1000);
    }

    #[test]
    fn each_place_in_the_code_has_its_own_turn() {
        let place = || {
            static TURNS: Seldom = Seldom::new();
            TURNS.turn().is_some()
        };
        assert!(place());
        assert!(!place());
        let other = || {
            static TURNS: Seldom = Seldom::new();
            TURNS.turn().is_some()
        };
        assert!(other());
    }
}
