//! How a log is to be kept.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use tidings_protocol::TenantId;

use crate::event::EventRef;

/// What is different for one tenant; `None` is what holds for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantOptions {
    /// The tenant's events are read for so long; zero keeps them for ever.
    pub retention: Option<Duration>,
    /// The tenant's events take at most so many bytes; 0 means no cap.
    pub max_bytes: Option<u64>,
}

/// Events that stand where others are missing. What those said is not known, so the state forgets what they may have
/// said something of.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    /// Every event of this tenant is one.
    pub tenant: TenantId,
    /// Whether such an event (the first) makes a subject's last event before it (the second) doubtful.
    pub covers: fn(&EventRef<'_>, &EventRef<'_>) -> bool,
}

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
    /// Tenants for which something else holds.
    pub tenants: HashMap<TenantId, TenantOptions>,
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
    /// After which events the state is not known any more, if there are such.
    pub state_doubt: Option<Doubt>,
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
            tenants: HashMap::new(),
            key_window: Duration::from_mins(2),
            max_keys: 2_000_000,
            owner: String::new(),
            queue_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            upkeep_interval: Duration::from_secs(1),
            state_subjects_per_kind: 100_000,
            state_max_age: BTreeMap::new(),
            state_doubt: None,
            state_checkpoint_interval: Duration::from_secs(10),
        }
    }

    pub(crate) fn retention_micros(&self) -> Option<i64> {
        micros(self.retention)
    }

    /// The tenants whose retention is another than that of all, and what it is.
    pub(crate) fn own_retentions(&self) -> impl Iterator<Item = (TenantId, Option<i64>)> {
        let own = self
            .tenants
            .iter()
            .filter_map(|(tenant, options)| Some((*tenant, micros(options.retention?))));
        own.filter(|(_, retention)| *retention != self.retention_micros())
    }

    /// The retention by which segments are rolled and a leap of the clock is judged: that of all, or,
    /// where that is for ever, the longest that is not.
    pub(crate) fn guiding_retention(&self) -> Option<i64> {
        self.retention_micros()
            .or_else(|| self.own_retentions().filter_map(|(_, own)| own).max())
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

/// `None` is for ever.
fn micros(retention: Duration) -> Option<i64> {
    (!retention.is_zero()).then(|| i64::try_from(retention.as_micros()).unwrap_or(i64::MAX))
}
