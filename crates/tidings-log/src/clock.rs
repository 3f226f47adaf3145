//! Time, as the log sees it. What happens when the wall clock jumps is said at `RunClock`, below.

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
        // In this order: should the machine fall asleep between the two looks, the pair makes what
        // is stored seem younger, not older.
        let boot = clock_gettime(ClockId::Boottime);
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        Instant {
            wall,
            elapsed: boot.tv_sec * 1_000_000 + boot.tv_nsec / 1_000,
        }
    }
}

/// How long the wall clock must stand by a leap at the start before retention follows it.
pub(crate) const LEAP_GRACE: i64 = 600 * 1_000_000;
/// A log that was away for longer than this, and than its retention, is taken to have a wrong
/// clock until [`LEAP_GRACE`] has passed.
pub(crate) const LEAP_DOUBT: i64 = 30 * 24 * 3_600 * 1_000_000;

/// The time by which events age, in microseconds: *run time*.
///
/// Two times are written with every frame. Its append time is the wall clock's, held so that it
/// never decreases; `since` goes by it. Its run time serves retention and idempotency keys: it
/// goes on evenly with a clock that nobody sets, so that a wall clock that is set ahead while the
/// log runs expires nothing, and one that is set back keeps nothing too long. While the log is closed
/// only the wall clock can tell how much time passes, so at opening run time advances by what the
/// wall clock advanced since the last known pair of both times.
///
/// A machine can come up with a clock that is years ahead. So a leap at opening by more than both
/// 30 days and the retention is not followed at first. If the wall clock still stands by it
/// after ten minutes, everything from before the opening is taken to have expired, as it is
/// configured to; if it was corrected meanwhile, the leap is forgotten. Either is logged.
pub(crate) struct RunClock {
    source: std::sync::Arc<dyn Clock>,
    retention: Option<i64>,
    guiding: Option<i64>,
    base_run: i64,
    base_elapsed: i64,
    aging: parking_lot::Mutex<Aging>,
}

struct Aging {
    doubt: Option<Doubt>,
    /// How long the log was away, where a leap was doubted and then believed.
    missed: Option<i64>,
    /// Frames with a lesser run time have expired by the retention of all; never decreases.
    cutoff: i64,
}

struct Doubt {
    known_wall: i64,
}

/// A wall time and the run time that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownTime {
    pub(crate) wall: i64,
    pub(crate) run: i64,
}

impl RunClock {
    /// `retention` is that of all, `guiding` the one by which leaps are judged, `known` the latest pair
    /// that the log knows of, `cutoff` the greatest it has used.
    pub(crate) fn open(
        source: std::sync::Arc<dyn Clock>,
        retention: Option<i64>,
        guiding: Option<i64>,
        known: Option<KnownTime>,
        cutoff: i64,
    ) -> Self {
        let now = source.now();
        let (base_run, doubt) = match known {
            None => (now.wall, None),
            Some(known) => {
                let leap = now.wall.saturating_sub(known.wall).max(0);
                if guiding.is_some_and(|retention| leap > retention.max(LEAP_DOUBT)) {
                    tracing::warn!(
                        days = leap / (24 * 3_600 * 1_000_000),
                        "the clock is far ahead of the log's last entry; retention waits ten minutes before it believes that"
                    );
                    // One past the last frame's, so that the frames of this run can be told apart.
                    (
                        known.run.saturating_add(1),
                        Some(Doubt {
                            known_wall: known.wall,
                        }),
                    )
                } else {
                    (known.run.saturating_add(leap), None)
                }
            }
        };
        Self {
            source,
            retention,
            guiding,
            base_run,
            base_elapsed: now.elapsed,
            aging: parking_lot::Mutex::new(Aging {
                doubt,
                missed: None,
                cutoff,
            }),
        }
    }

    /// The present pair of times.
    pub(crate) fn now(&self) -> KnownTime {
        let now = self.source.now();
        KnownTime {
            wall: now.wall,
            run: self.base_run.saturating_add(self.since_open(now)),
        }
    }

    fn since_open(&self, now: Instant) -> i64 {
        now.elapsed.saturating_sub(self.base_elapsed).max(0)
    }

    /// Frames whose run time is less than this have expired by the retention of all. Never decreases.
    pub(crate) fn cutoff(&self) -> i64 {
        self.cutoff_for(self.retention)
    }

    /// The same by another retention; `None` is for ever.
    pub(crate) fn cutoff_for(&self, retention: Option<i64>) -> i64 {
        let Some(asked) = retention else {
            return i64::MIN;
        };
        let now = self.source.now();
        let since_open = self.since_open(now);
        let run = self.base_run.saturating_add(since_open);
        let mut aging = self.aging.lock();
        self.settle_doubt(&mut aging, now, since_open);
        // What was appended before a leap that was believed is older than its run time says.
        let leapt = aging.missed.map_or(i64::MIN, |away| {
            self.base_run
                .min(run.saturating_add(away).saturating_sub(asked))
        });
        let by_age = run.saturating_sub(asked).max(leapt);
        if retention == self.retention {
            aging.cutoff = aging.cutoff.max(by_age);
            return aging.cutoff;
        }
        match self.retention {
            // What is too old for all is too old for who keeps less.
            Some(all) if asked < all => by_age.max(aging.cutoff),
            _ => by_age,
        }
    }

    fn settle_doubt(&self, aging: &mut Aging, now: Instant, since_open: i64) {
        if since_open < LEAP_GRACE {
            return;
        }
        let (Some(doubt), Some(guiding)) = (aging.doubt.take(), self.guiding) else {
            return;
        };
        let away = now.wall.saturating_sub(doubt.known_wall) - since_open;
        if away >= guiding {
            tracing::warn!(
                "the clock stands by its leap: what was appended before this start has expired"
            );
            aging.missed = Some(away);
        } else {
            tracing::warn!("the clock was corrected; nothing expired by its leap");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    const HOUR: i64 = 3_600 * 1_000_000;
    const YEAR: i64 = 365 * 24 * HOUR;

    #[derive(Default)]
    struct ManualClock {
        wall: AtomicI64,
        elapsed: AtomicI64,
    }

    impl ManualClock {
        fn pass(&self, micros: i64) {
            self.wall.fetch_add(micros, Ordering::SeqCst);
            self.elapsed.fetch_add(micros, Ordering::SeqCst);
        }

        fn set_ahead(&self, micros: i64) {
            self.wall.fetch_add(micros, Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            Instant {
                wall: self.wall.load(Ordering::SeqCst),
                elapsed: self.elapsed.load(Ordering::SeqCst),
            }
        }
    }

    fn open(clock: &Arc<ManualClock>, known: Option<KnownTime>) -> RunClock {
        RunClock::open(
            clock.clone(),
            Some(24 * HOUR),
            Some(24 * HOUR),
            known,
            i64::MIN,
        )
    }

    #[test]
    fn a_wall_clock_set_ahead_or_back_while_the_log_runs_ages_nothing() {
        let clock = Arc::new(ManualClock::default());
        let run = open(&clock, None);
        clock.pass(HOUR);
        clock.set_ahead(YEAR);
        assert_eq!(run.cutoff(), HOUR - 24 * HOUR);
        clock.set_ahead(-2 * YEAR);
        clock.pass(HOUR);
        assert_eq!(run.cutoff(), 2 * HOUR - 24 * HOUR);
    }

    #[test]
    fn the_time_that_the_log_was_closed_counts() {
        let clock = Arc::new(ManualClock::default());
        clock.pass(10 * HOUR);
        let run = open(
            &clock,
            Some(KnownTime {
                wall: 4 * HOUR,
                run: 3 * HOUR,
            }),
        );
        assert_eq!(run.now().run, 9 * HOUR);
    }

    #[test]
    fn a_leap_at_the_start_is_believed_only_when_the_clock_stands_by_it() {
        let clock = Arc::new(ManualClock::default());
        clock.pass(YEAR);
        let run = open(
            &clock,
            Some(KnownTime {
                wall: HOUR,
                run: HOUR,
            }),
        );
        let opened = run.now().run;
        assert!(run.cutoff() <= HOUR - 23 * HOUR, "nothing expires at once");
        clock.pass(LEAP_GRACE);
        assert_eq!(
            run.cutoff(),
            opened,
            "what was appended before has expired, and no more"
        );
        clock.pass(HOUR);
        assert_eq!(run.cutoff(), opened);
    }

    #[test]
    fn a_leap_that_is_believed_expires_only_what_it_makes_too_old() {
        let clock = Arc::new(ManualClock::default());
        clock.pass(YEAR);
        let run = open(
            &clock,
            Some(KnownTime {
                wall: HOUR,
                run: HOUR,
            }),
        );
        let opened = run.now().run;
        assert!(run.cutoff_for(Some(2 * YEAR)) < HOUR - YEAR);
        clock.pass(LEAP_GRACE);
        // An hour's less than a year has passed since the last entry, at the opening.
        let away = YEAR - HOUR;
        let now = run.now().run;
        assert_eq!(run.cutoff_for(Some(2 * YEAR)), now + away - 2 * YEAR);
        assert_eq!(run.cutoff_for(Some(HOUR)), opened);
        assert_eq!(run.cutoff_for(None), i64::MIN);
    }

    #[test]
    fn a_leap_at_the_start_that_is_corrected_expires_nothing() {
        let clock = Arc::new(ManualClock::default());
        clock.pass(YEAR);
        let run = open(
            &clock,
            Some(KnownTime {
                wall: HOUR,
                run: HOUR,
            }),
        );
        clock.set_ahead(2 * HOUR - YEAR);
        clock.pass(LEAP_GRACE);
        assert_eq!(run.cutoff(), run.now().run - 24 * HOUR);
    }
}
