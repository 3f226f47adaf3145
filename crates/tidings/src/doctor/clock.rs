//! Clocks: this machine's against others', and whether it is set while one looks.

use std::time::{Duration, Instant, SystemTime};

use super::report::Finding;

/// By this much clocks of machines that are kept in time differ at most.
const UNNOTICED: f64 = 1.0;

/// From here on access tokens are refused that are good, or good that are over.
const HARMFUL: f64 = 30.0;

/// What a clock that nobody sets may seem to have been set by between two looks at both clocks.
const JITTER: Duration = Duration::from_millis(50);

/// A time before which this was not built: seconds since the Unix epoch, the beginning of 2026.
const BUILT: u64 = 1_767_225_600;

/// Both clocks at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    wall: SystemTime,
    even: Instant,
}

impl Watch {
    /// Looks at both.
    #[must_use]
    pub fn start() -> Self {
        Self {
            wall: SystemTime::now(),
            even: Instant::now(),
        }
    }

    /// By how much the wall clock was set since, forwards or back.
    fn set_by(self, wall: SystemTime, even: Instant) -> Duration {
        let evenly = even.saturating_duration_since(self.even);
        match wall.duration_since(self.wall + evenly) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        }
    }
}

/// Looks again, after everything else has taken its time.
#[must_use]
pub fn check(watch: Watch) -> Vec<Finding> {
    let (wall, even) = (SystemTime::now(), Instant::now());
    let set_by = watch.set_by(wall, even);
    let mut findings = Vec::new();
    let since_1970 = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if since_1970.as_secs() < BUILT {
        findings.push(Finding::problem(
            "clock",
            format!("it says {}", crate::time::rfc3339(crate::time::unix_microseconds(wall))),
            "set it, and keep it in time (systemd-timesyncd, chrony): access tokens are judged by it",
        ));
    } else if set_by > JITTER {
        findings.push(Finding::warning(
            "clock",
            format!("it was set by {set_by:?} while this ran"),
            "find out what sets it: a clock that is kept in time is slowed or hurried, not set",
        ));
    } else {
        findings.push(Finding::good("clock", "it goes evenly"));
    }
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    findings.extend(
        std::fs::read_to_string(source)
            .ok()
            .and_then(|name| slow(name.trim())),
    );
    findings
}

/// Clocks that are read by asking a device: a hundred times slower, and the server looks at the time often.
fn slow(source: &str) -> Option<Finding> {
    matches!(source, "hpet" | "acpi_pm" | "jiffies").then(|| {
        Finding::warning(
            "clock",
            format!("the kernel reads it from {source}, which is slow"),
            "see why it does not trust the processor's own (dmesg | grep -i clocksource)",
        )
    })
}

/// Judges by how many seconds another clock is ahead of this one's, or behind. `whose` is for people.
#[must_use]
pub fn against(whose: &str, ahead: f64) -> Finding {
    let what = if ahead.abs() < UNNOTICED {
        format!("it agrees with {whose}")
    } else {
        let way = if ahead > 0.0 { "ahead of" } else { "behind" };
        format!("{whose} is {:.1} s {way} this machine's", ahead.abs())
    };
    let advice = "keep both in time (systemd-timesyncd, chrony): access tokens and `since` are judged by clocks";
    if ahead.abs() >= HARMFUL {
        Finding::problem("clock", what, advice)
    } else if ahead.abs() > 2.0 * UNNOTICED {
        Finding::warning("clock", what, advice)
    } else {
        Finding::good("clock", what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_found_by_one_that_nobody_sets() {
        let watch = Watch::start();
        let second = Duration::from_secs(1);
        let (wall, even) = (watch.wall + 5 * second, watch.even + 5 * second);
        assert_eq!(watch.set_by(wall, even), Duration::ZERO);
        assert_eq!(watch.set_by(wall + 3 * second, even), 3 * second);
        assert_eq!(watch.set_by(wall - 3 * second, even), 3 * second);
    }

    #[test]
    fn clocks_that_differ_are_judged_by_what_it_does_to_tokens() {
        for (ahead, weight) in [
            (0.0, Weight::Good),
            (-1.9, Weight::Good),
            (2.1, Weight::Warning),
            (-29.0, Weight::Warning),
            (30.0, Weight::Problem),
            (-3600.0, Weight::Problem),
        ] {
            assert_eq!(against("Redis's", ahead).weight, weight, "{ahead}");
        }
        assert!(against("Redis's", -90.0).what.contains("90.0 s behind"));
    }

    #[test]
    fn a_slow_clock_is_said() {
        assert_eq!(slow("tsc"), None);
        assert_eq!(slow("kvm-clock"), None);
        assert_eq!(slow("hpet").unwrap().weight, Weight::Warning);
    }
}
