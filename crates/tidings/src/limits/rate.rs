//! Rates: a bucket of credit for each of many keys.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::LimitReached;

/// Below this many buckets nothing is swept.
const LEAST_SWEEP: usize = 1_024;

/// At most this many keys are tracked. Beyond it further keys go unlimited until idle ones are swept:
/// memory must stay bounded, and whoever commands a million addresses is not stopped by a limit on each.
const MOST_BUCKETS: usize = 1 << 20;

/// Credit of one event or call, less what rounding may have lost of it.
const ONE: f64 = 1.0 - 1e-6;

/// So many in a time for each key: a bucket holds the credit of one `window`, refills evenly, and may be
/// overdrawn by what passes last.
pub(super) struct Rates<K> {
    which: &'static str,
    terms: RwLock<Terms<K>>,
    window: Duration,
    buckets: Mutex<Buckets<K>>,
}

/// How much there is for whom.
struct Terms<K> {
    /// The credit of a full bucket, 0 for no limit.
    limit: u64,
    /// The same for keys with a limit of their own.
    own: HashMap<K, u64>,
}

struct Buckets<K> {
    by_key: HashMap<K, Bucket>,
    /// Sweep when there are this many, and it is this late.
    sweep_at: usize,
    sweep_after: Option<Instant>,
}

/// A bucket that isn't there is full.
#[derive(Clone, Copy)]
struct Bucket {
    /// Negative while overdrawn.
    credit: f64,
    /// What it is filled up to.
    limit: u64,
    at: Instant,
}

impl<K> fmt::Debug for Rates<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.terms.read().limit;
        write!(formatter, "Rates({limit} in {:?})", self.window)
    }
}

impl<K: Hash + Eq> Rates<K> {
    pub(super) fn new(which: &'static str, limit: u64, window: Duration) -> Self {
        Self {
            which,
            terms: RwLock::new(Terms {
                limit,
                own: HashMap::new(),
            }),
            window,
            buckets: Mutex::new(Buckets {
                by_key: HashMap::new(),
                sweep_at: LEAST_SWEEP,
                sweep_after: None,
            }),
        }
    }

    /// Keys with a limit of their own.
    pub(super) fn with_own(self, own: HashMap<K, u64>) -> Self {
        self.terms.write().own = own;
        self
    }

    /// Takes over other limits. Credit that is left stays, as far as the new limit goes.
    pub(super) fn set(&self, limit: u64, own: HashMap<K, u64>) {
        *self.terms.write() = Terms { limit, own };
    }

    pub(super) fn limit_of(&self, key: &K) -> u64 {
        let terms = self.terms.read();
        terms.own.get(key).copied().unwrap_or(terms.limit)
    }

    /// Charges `cost` where there is credit for one, and otherwise says when there will be.
    pub(super) fn take(&self, key: K, cost: u32) -> Result<(), LimitReached> {
        let limit = self.limit_of(&key);
        self.take_within(key, cost, limit)
    }

    /// The same for a key whose limit the caller knows.
    pub(super) fn take_within(&self, key: K, cost: u32, limit: u64) -> Result<(), LimitReached> {
        if limit == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let credit = match buckets.by_key.get(&key) {
            Some(bucket) => self.credit(limit, *bucket, now),
            None => limit as f64,
        };
        self.enough(limit, credit)?;
        let bucket = Bucket {
            credit: credit - f64::from(cost),
            limit,
            at: now,
        };
        if buckets.by_key.len() >= buckets.sweep_at && !buckets.by_key.contains_key(&key) {
            if buckets.sweep_after.is_none_or(|after| now >= after) {
                self.sweep(&mut buckets, now);
            }
            if buckets.by_key.len() >= MOST_BUCKETS {
                return Ok(());
            }
        }
        buckets.by_key.insert(key, bucket);
        Ok(())
    }

    /// Whether there is credit, without charging any.
    pub(super) fn check(&self, key: &K) -> Result<(), LimitReached> {
        let limit = self.limit_of(key);
        if limit == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let buckets = self.buckets.lock();
        match buckets.by_key.get(key) {
            Some(bucket) => self.enough(limit, self.credit(limit, *bucket, now)),
            None => Ok(()),
        }
    }

    /// What the bucket has by now.
    fn credit(&self, limit: u64, bucket: Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.credit + passed * self.per_second(limit)).min(limit as f64)
    }

    fn per_second(&self, limit: u64) -> f64 {
        limit as f64 / self.window.as_secs_f64()
    }

    fn enough(&self, limit: u64, credit: f64) -> Result<(), LimitReached> {
        if credit >= ONE {
            return Ok(());
        }
        Err(LimitReached {
            which: self.which,
            limit,
            retry_after: Duration::from_secs_f64((1.0 - credit) / self.per_second(limit)),
        })
    }

    /// Forgets full buckets. It runs again only when there are twice as many as remained, so that each
    /// insertion pays a constant share of it, and at most once a second, also when all places are taken.
    fn sweep(&self, buckets: &mut Buckets<K>, now: Instant) {
        buckets.by_key.retain(|_, bucket| {
            let limit = bucket.limit;
            self.credit(limit, *bucket, now) < limit as f64
        });
        buckets.sweep_after = Some(now + Duration::from_secs(1));
        buckets.sweep_at = (2 * buckets.by_key.len()).clamp(LEAST_SWEEP, MOST_BUCKETS);
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.buckets.lock().by_key.len()
    }
}
