//! What the server counts and measures, and how Prometheus gets it.
//!
//! - [`declared`]: every metric, declared once: its name, kind, labels and what it says.
//! - [`count`]: counters, gauges and histograms: relaxed atomics, for which nobody waits.
//! - [`outcome`]: what becomes of requests, as labels have it.
//! - `appended`: how many events of each tenant came into the log.
//! - [`tenants`]: the busiest tenants, where series of their own are wanted.
//! - [`exposition`]: how a scrape is written.
//! - [`scrape`]: puts one together. Parts with a state of their own are asked for it then.
//! - `process`: what the kernel says of this process.
//!
//! **The number of series is bounded by the configuration.** No label is a user, a device, an address, a path or
//! anything else that a caller chooses; tenants are named only up to `metrics.tenants` of them. Whoever reads
//! metrics learns nothing of a tenant beyond that.

mod appended;
pub mod count;
pub mod declared;
pub mod exposition;
pub mod outcome;
mod process;
pub mod scrape;
pub mod tenants;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tidings_log::Commit;
use tidings_protocol::TenantId;
use tidings_protocol::api::GapReason;

use crate::admin::last_backup::LastBackup;
use crate::config::Config;
use crate::mirror::MirrorCounters;
use crate::nats::Nats;
use appended::Appended;
use count::{Counter, Histogram};
use outcome::{Begin, Outcomes};
use tenants::BusyTenants;

/// What is counted where no part of the server has a state that could be asked.
pub struct Metrics {
    /// Group commits of the log.
    pub commits: Commits,
    /// Publishes.
    pub publishes: Publishes,
    /// Attempts to open a stream.
    pub openings: Openings,
    /// Requests for stream tokens.
    pub stream_tokens: Outcomes,
    /// Reloads of the configuration.
    pub reloads: Reloads,
    /// What came into the log of each tenant, for operators who ask; no series are made of it.
    pub appended: Appended,
    /// The last backup of the log.
    pub last_backup: LastBackup,
    /// The busiest tenants.
    pub tenants: BusyTenants,
    /// Set at the start, where the log is a copy.
    pub broker: OnceLock<BrokerParts>,
    started: SystemTime,
    /// Scrapes are made one after the other: each looks at the disk.
    scraping: tokio::sync::Mutex<()>,
}

/// What is asked about the broker.
pub struct BrokerParts {
    /// The node's connection.
    pub nats: Nats,
    /// What the sources have met.
    pub sources: MirrorCounters,
}

/// Reloads of the configuration.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Taken over.
    pub applied: Counter,
    /// Refused whole, so that the one before stays.
    pub refused: Counter,
}

/// Group commits.
pub struct Commits {
    seconds: Histogram,
    events: Counter,
    bytes: Counter,
}

impl Commits {
    /// Notes a commit, which made so many events durable. Called on the log's writer thread.
    pub fn note(&self, commit: &Commit) {
        self.seconds.observe(commit.took);
        self.bytes.add(commit.bytes);
        self.events.add(commit.events);
    }
}

/// Publishes.
pub struct Publishes {
    outcomes: Outcomes,
    seconds: Histogram,
    events: Counter,
    duplicates: Counter,
    bytes: Counter,
}

/// A body that was stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredBody {
    /// Events that are newly stored.
    pub accepted: u64,
    /// Events that had been stored before.
    pub duplicates: u64,
    /// The bytes of the body.
    pub bytes: u64,
    /// How long it took from its last byte until it was durable.
    pub took: Duration,
}

/// Attempts to open a stream.
pub struct Openings {
    begun: [Counter; Begin::ALL.len()],
    refusals: Outcomes,
    seconds: Histogram,
    gaps: GapCounts,
}

impl Openings {
    /// Notes a stream that is handed to an engine, so long after its request came.
    pub fn opened(&self, begin: Begin, took: Duration) {
        self.begun[begin as usize].add(1);
        self.seconds.observe(took);
    }

    /// Notes a refusal with this status.
    pub fn refused(&self, status: u16) {
        self.refusals.note(status);
    }

    /// Notes a gap that a stream begins with.
    pub fn gap(&self, reason: GapReason) {
        self.gaps.note(reason);
    }
}

/// Gaps by their reason.
#[derive(Debug, Default)]
pub struct GapCounts([Counter; 4]);

impl GapCounts {
    const REASONS: [(GapReason, &str); 4] = [
        (GapReason::Expired, "expired"),
        (GapReason::UnknownEpoch, "unknown_epoch"),
        (GapReason::AheadOfLog, "ahead_of_log"),
        (GapReason::Malformed, "malformed"),
    ];

    /// Counts one.
    pub fn note(&self, reason: GapReason) {
        let place = Self::REASONS.iter().position(|(known, _)| *known == reason);
        if let Some(place) = place {
            self.0[place].add(1);
        }
    }

    fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(Counter::get);
        Self::REASONS.iter().map(|(_, name)| *name).zip(counts)
    }
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            commits: Commits {
                seconds: Histogram::new(&declared::COMMIT_SECONDS),
                events: Counter::default(),
                bytes: Counter::default(),
            },
            publishes: Publishes {
                outcomes: Outcomes::default(),
                seconds: Histogram::new(&declared::PUBLISH_SECONDS),
                events: Counter::default(),
                duplicates: Counter::default(),
                bytes: Counter::default(),
            },
            openings: Openings {
                begun: Default::default(),
                refusals: Outcomes::default(),
                seconds: Histogram::new(&declared::STREAM_OPEN_SECONDS),
                gaps: GapCounts::default(),
            },
            stream_tokens: Outcomes::default(),
            reloads: Reloads::default(),
            appended: Appended::default(),
            last_backup: LastBackup::of(config),
            tenants: BusyTenants::new(config.metrics.tenants),
            broker: OnceLock::new(),
            started: SystemTime::now(),
            scraping: tokio::sync::Mutex::default(),
        })
    }

    /// Notes a body that was stored for a tenant.
    pub fn stored(&self, tenant: TenantId, body: StoredBody) {
        let publishes = &self.publishes;
        publishes.outcomes.note(200);
        publishes.seconds.observe(body.took);
        publishes.events.add(body.accepted);
        publishes.duplicates.add(body.duplicates);
        publishes.bytes.add(body.bytes);
        self.tenants.add(tenant, body.accepted, body.bytes);
    }

    /// Notes a publish that was refused with this status.
    pub fn not_stored(&self, status: u16) {
        self.publishes.outcomes.note(status);
    }
}
