//! A histogram of microseconds with a relative error below 1 %, in the manner of `HdrHistogram`.

/// Buckets per power of two.
const SUB_BUCKETS: u64 = 128;

/// Counts of values; recording one costs a few instructions.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            // Up to 2^40 µs, twelve days.
            counts: vec![0; index(1 << 40) + 1],
            total: 0,
            max: 0,
        }
    }
}

/// Exact below [`SUB_BUCKETS`], then that many buckets for each doubling.
fn index(value: u64) -> usize {
    let shift = u64::from(
        (value / SUB_BUCKETS)
            .checked_ilog2()
            .map_or(0, |log| log + 1),
    );
    let index = shift * SUB_BUCKETS / 2 + (value >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The largest value that falls into a bucket.
fn highest(index: usize) -> u64 {
    let (index, half) = (index as u64, SUB_BUCKETS / 2);
    if index < SUB_BUCKETS {
        return index;
    }
    let shift = index / half - 1;
    ((index - shift * half + 1) << shift) - 1
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let last = self.counts.len() - 1;
        self.counts[index(value).min(last)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share of all values do not exceed; `share` from 0 to 1.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > 0 && seen as f64 >= share * self.total as f64 {
                return highest(index).min(self.max);
            }
        }
        self.max
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.max = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_that_is_less_than_one_in_sixty_four_above_it() {
        let within = |value: u64| {
            let top = highest(index(value));
            assert!(top >= value, "{value} in a bucket up to {top}");
            assert!(
                (top - value) as f64 <= value as f64 / 63.0,
                "{value} in a bucket up to {top}"
            );
        };
        (0..40).map(|bit| 1 << bit).for_each(within);
        (0..100_000).for_each(within);
        for value in 1..100_000 {
            let step = index(value) - index(value - 1);
            assert!(step <= 1, "no bucket is skipped at {value}");
        }
    }

    #[test]
    fn quantiles_of_a_known_series() {
        let mut histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record(value);
        }
        assert_eq!(histogram.total(), 1000);
        assert_eq!(histogram.max(), 1000);
        assert!((500..=508).contains(&histogram.quantile(0.5)));
        assert!((990..=1000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 1000);
    }
}
