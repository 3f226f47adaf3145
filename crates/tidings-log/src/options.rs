//! How a log is to be kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How a log is to be kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The folder; it is made where it is missing.
    pub path: PathBuf,
    /// Events older than this are removed; zero keeps them for ever.
    pub retention: Duration,
    /// The segment files, preallocated space included, take at most so many bytes; 0 means no
    /// cap. Below 1 MiB the cap is 1 MiB.
    pub max_bytes: u64,
    /// A tenant's events take at most so many bytes; 0 means no cap.
    pub tenant_max_bytes: u64,
    /// For how long an idempotency key is remembered.
    pub key_window: Duration,
    /// At most so many keys are remembered (about 170 bytes of memory each).
    pub max_keys: usize,
    /// Who holds the folder, for whoever finds it locked, such as `pid 123, 127.0.0.1:8080`.
    pub owner: String,
    /// At most so many bytes of submitted bodies wait for the writer.
    pub queue_bytes: usize,
    /// Memory for index lists and large frames that were read lately, in bytes.
    pub cache_bytes: usize,
    /// How often retention runs, and how often a full disk is tried again.
    pub upkeep_interval: Duration,
    /// At most so many subjects of one kind for each tenant, as far as
    /// [`State::would_exceed`](crate::State::would_exceed) is asked before submitting.
    pub state_subjects_per_kind: usize,
    /// Subjects of these kinds are overdue
    /// ([`State::overdue`](crate::State::overdue)) when nothing was said of them for so long.
    pub state_max_age: BTreeMap<String, Duration>,
    /// How often what has changed of the state is made durable.
    pub state_checkpoint_interval: Duration,
}

impl LogOptions {
    /// The defaults for a log in `path`: 7 days, 10 GiB, no cap per tenant.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            retention: Duration::from_hours(7 * 24),
            max_bytes: 10 << 30,
            tenant_max_bytes: 0,
            key_window: Duration::from_mins(2),
            max_keys: 2_000_000,
            owner: String::new(),
            queue_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            upkeep_interval: Duration::from_secs(1),
            state_subjects_per_kind: 100_000,
            state_max_age: BTreeMap::new(),
            state_checkpoint_interval: Duration::from_secs(10),
        }
    }

    pub(crate) fn retention_micros(&self) -> Option<i64> {
        (!self.retention.is_zero())
            .then(|| i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX))
    }

    pub(crate) fn key_window_micros(&self) -> i64 {
        i64::try_from(self.key_window.as_micros()).unwrap_or(i64::MAX)
    }

    pub(crate) fn byte_cap(&self) -> Option<u64> {
        (self.max_bytes > 0).then(|| self.max_bytes.max(1 << 20))
    }

    /// The size of an ordinary segment: an eighth of the cap, so that the active and the prepared
    /// one leave most of it to history.
    pub(crate) fn segment_bytes(&self) -> u64 {
        const LARGEST: u64 = 64 << 20;
        const SMALLEST: u64 = 64 << 10;
        self.byte_cap()
            .map_or(LARGEST, |cap| (cap / 8).clamp(SMALLEST, LARGEST))
    }

    /// The largest frame: what a position within a segment can address, and no more than a
    /// quarter of the cap, so that one body does not push out everything else.
    pub(crate) fn max_frame_bytes(&self) -> u64 {
        const LARGEST: u64 = 256 << 20;
        self.byte_cap()
            .map_or(LARGEST, |cap| (cap / 4).min(LARGEST))
    }
}
