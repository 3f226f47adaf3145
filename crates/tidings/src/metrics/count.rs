//! Counters, gauges and histograms.
//!
//! All are relaxed atomics: a scrape may see one of two numbers that belong together and not the other yet. What the
//! stream engine counts for each write goes into plain numbers of its thread first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::declared::{Kind, Metric};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What it has come to.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more.
    pub fn increase(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn decrease(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, by the buckets that its metric declares.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends, in seconds.
    bounds: &'static [f64],
    /// One more than bounds: the last has no end.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// An empty one.
    ///
    /// # Panics
    ///
    /// Where the metric is declared as something else.
    #[must_use]
    pub fn new(metric: &Metric) -> Self {
        let Kind::Histogram(bounds) = metric.kind else {
            panic!("{} is declared as no histogram", metric.name);
        };
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Adds one observation.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Wraps after 584 years of waiting.
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What was observed.
    #[must_use]
    pub fn read(&self) -> Observed {
        let counts = self.counts.iter();
        Observed {
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            seconds: self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

/// What a histogram has observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// For each bucket, not summed up; the last is the one without an end.
    pub counts: Vec<u64>,
    /// The sum of all observations.
    pub seconds: f64,
}

impl Observed {
    /// Adds what another histogram of the same metric has observed.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            let both = self.counts.iter_mut().zip(&other.counts);
            both.for_each(|(own, other)| *own += other);
        }
        self.seconds += other.seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::declared;

    #[test]
    fn an_observation_goes_into_the_first_bucket_that_holds_it() {
        let metric = &declared::COMMIT_SECONDS;
        let Kind::Histogram(bounds) = metric.kind else {
            panic!("a histogram")
        };
        let histogram = Histogram::new(metric);
        // An upper end belongs to its bucket, as `le` says.
        histogram.observe(Duration::from_secs_f64(bounds[1]));
        histogram.observe(Duration::ZERO);
        histogram.observe(Duration::from_hours(1));
        let observed = histogram.read();
        assert_eq!((observed.counts[0], observed.counts[1]), (1, 1));
        assert_eq!(observed.counts.last(), Some(&1));
        assert!((observed.seconds - 3600.0 - bounds[1]).abs() < 1e-6);

        let mut sum = Observed::default();
        sum.merge(&observed);
        sum.merge(&observed);
        assert_eq!(sum.counts.iter().sum::<u64>(), 6);
    }
}
