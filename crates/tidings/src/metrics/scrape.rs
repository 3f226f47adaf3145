//! A scrape: what was counted, and what the parts of the server say when they are asked.
//!
//! Nothing here waits for an engine thread or a broker, so that it answers while they are busy or away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tidings_log::{Health, Usage};
use tidings_protocol::TenantId;

use super::count::Observed;
use super::declared as of;
use super::exposition::{Exposition, Format};
use super::outcome::Begin;
use super::process::Process;
use super::{BrokerParts, Metrics};
use crate::app::App;
use crate::auth::SourceStatus;
use crate::engine::{Coding, EngineCounters, Transport};
use crate::ingest::store::Store;
use crate::readiness;

/// What all tenants without a name are called together.
const OTHER_TENANTS: &str = "other";

/// Of so many issuers at most the age of their keys is told.
const MOST_ISSUERS: usize = 64;

/// What is read from files and the kernel.
struct Disk {
    usage: Usage,
    free: Option<u64>,
    process: Process,
}

/// Writes all metrics.
pub async fn scrape(app: &Arc<App>, format: Format) -> String {
    let _one_at_a_time = app.metrics.scraping.lock().await;
    let for_disk = Arc::clone(app);
    let disk = tokio::task::spawn_blocking(move || Disk {
        usage: for_disk.log.usage(),
        free: free_bytes(&for_disk),
        process: Process::read(),
    });
    let disk = match disk.await {
        Ok(disk) => disk,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let mut scrape = Exposition::new(format);
    server(app, &mut scrape);
    access(app, &mut scrape);
    streams(app, &mut scrape);
    lag(app, &mut scrape);
    publishing(&app.metrics, &mut scrape);
    log(app, &disk, &mut scrape);
    brokers(app, &mut scrape);
    tenants(app, &mut scrape);
    traces(app, &mut scrape);
    process(&app.metrics, &disk.process, &mut scrape);
    scrape.finish()
}

fn free_bytes(app: &App) -> Option<u64> {
    let free = rustix::fs::statvfs(&app.config().log.path).ok()?;
    // What anybody may take, without what is kept for root.
    Some(free.f_bavail * free.f_frsize)
}

fn server(app: &App, scrape: &mut Exposition) {
    scrape.one(&of::READY, readiness::reasons(app).is_empty());
    scrape.one(&of::STALE, app.liveness.is_stale());
    let mut build = scrape.metric(&of::BUILD_INFO);
    build.sample(&[env!("CARGO_PKG_VERSION")], 1_u64);
    let reloads = &app.metrics.reloads;
    let results = [
        ("applied", reloads.applied.get()),
        ("refused", reloads.refused.get()),
    ];
    by_one_label(scrape, &of::RELOADS, results);
    scrape.one(&of::LINES_WITHHELD, tidings_log::lines_withheld());
}

fn access(app: &App, scrape: &mut Exposition) {
    let issuers = app.access_tokens.sources();
    let away = issuers.iter().filter(|issuer| issuer.away.is_some());
    scrape.one(&of::ISSUERS_AWAY, away.count() as u64);
    let sum = |count: fn(&SourceStatus) -> u64| issuers.iter().map(count).sum::<u64>();
    scrape.one(&of::ISSUER_KEYS, sum(|issuer| issuer.keys as u64));
    let mut ages = scrape.metric(&of::ISSUER_KEYS_AGE);
    for (number, issuer) in issuers.iter().take(MOST_ISSUERS).enumerate() {
        if let Some(age) = issuer.age {
            ages.sample(&[&number.to_string()], age.as_secs_f64());
        }
    }
    let keep = app.config().auth.jwks.keep;
    scrape.one(&of::ISSUER_KEYS_KEEP, keep.as_secs_f64());
    scrape.one(&of::ISSUER_FETCHES, sum(|issuer| issuer.fetches));
    scrape.one(&of::ISSUER_FETCH_FAILURES, sum(|issuer| issuer.failures));
    scrape.one(&of::AUDIT_DROPPED, app.audit.dropped());
}

fn streams(app: &App, scrape: &mut Exposition) {
    let openings = &app.metrics.openings;
    let mut open = scrape.metric(&of::STREAMS);
    for transport in Transport::ALL {
        for coding in Coding::ALL {
            let count = sum(app, |engine| engine.open(transport, coding).get());
            open.sample(&[transport.as_str(), coding.as_str()], count);
        }
    }
    let mut opened = scrape.metric(&of::STREAMS_OPENED);
    for begin in Begin::ALL {
        opened.sample(&[begin.as_str()], openings.begun[begin as usize].get());
    }
    let mut closed: Vec<(&str, u64)> = Vec::new();
    for engine in app.engines.counters() {
        for (place, (reason, count)) in engine.closed().enumerate() {
            match closed.get_mut(place) {
                Some((_, sum)) => *sum += count,
                None => closed.push((reason, count)),
            }
        }
    }
    by_one_label(scrape, &of::STREAMS_CLOSED, closed);
    by_one_label(scrape, &of::STREAM_REFUSALS, openings.refusals.refusals());
    let mut seconds = scrape.metric(&of::STREAM_OPEN_SECONDS);
    seconds.observed(&openings.seconds.read());
    by_one_label(scrape, &of::STREAM_TOKENS, app.metrics.stream_tokens.read());
    scrape.one(&of::DELIVERIES, sum(app, |engine| engine.deliveries.get()));
    scrape.one(&of::SENT_BYTES, sum(app, |engine| engine.bytes.get()));
    let mut written = Observed::default();
    for engine in app.engines.counters() {
        written.merge(&engine.publish_to_write.read());
    }
    scrape.metric(&of::PUBLISH_TO_WRITE).observed(&written);
    scrape.one(&of::HEARTBEATS, sum(app, |engine| engine.heartbeats.get()));
}

fn lag(app: &App, scrape: &mut Exposition) {
    scrape.one(&of::LAGGING, sum(app, |engine| engine.lagging.get()));
    let farthest = app.engines.counters().map(|engine| engine.farthest.get());
    scrape.one(&of::LAG_MAX, farthest.max().unwrap_or(0));
    scrape.one(&of::LAPSES, sum(app, |engine| engine.lapses.get()));
    scrape.one(&of::OVERTAKEN, sum(app, |engine| engine.overtaken.get()));
    let pool = app.engines.pool();
    scrape
        .metric(&of::CATCH_UP_SECONDS)
        .observed(&pool.read_seconds());
    scrape.one(&of::CATCH_UP_WAITING, pool.waiting());
    let mut gaps: Vec<(&str, u64)> = app.metrics.openings.gaps.read().collect();
    for engine in app.engines.counters() {
        let both = gaps.iter_mut().zip(engine.gaps.read());
        both.for_each(|((_, sum), (_, count))| *sum += count);
    }
    by_one_label(scrape, &of::GAPS, gaps);
    scrape.one(&of::CONFLATED, sum(app, |engine| engine.conflated.get()));
}

fn publishing(metrics: &Metrics, scrape: &mut Exposition) {
    let publishes = &metrics.publishes;
    by_one_label(scrape, &of::PUBLISHES, publishes.outcomes.read());
    let mut seconds = scrape.metric(&of::PUBLISH_SECONDS);
    seconds.observed(&publishes.seconds.read());
    scrape.one(&of::PUBLISHED_EVENTS, publishes.events.get());
    scrape.one(&of::PUBLISHED_DUPLICATES, publishes.duplicates.get());
    scrape.one(&of::PUBLISHED_BYTES, publishes.bytes.get());
}

fn log(app: &App, disk: &Disk, scrape: &mut Exposition) {
    let commits = &app.metrics.commits;
    scrape
        .metric(&of::COMMIT_SECONDS)
        .observed(&commits.seconds.read());
    scrape.one(&of::APPENDED_EVENTS, commits.events.get());
    scrape.one(&of::APPENDED_BYTES, commits.bytes.get());
    let health = app.log.health();
    let mut states = scrape.metric(&of::LOG_HEALTH);
    states.sample(&["healthy"], matches!(health, Health::Healthy));
    states.sample(&["full"], matches!(health, Health::Full { .. }));
    states.sample(&["failed"], matches!(health, Health::Failed { .. }));
    scrape.one(&of::LOG_BYTES, disk.usage.bytes);
    scrape.one(&of::LOG_LIMIT, app.config().log.max_bytes);
    scrape.one_if_known(&of::LOG_DISK_FREE, disk.free);
    scrape.one(&of::LOG_SEGMENTS, disk.usage.segments);
    scrape.one(&of::LOG_EVENTS, disk.usage.events);
    let oldest = disk.usage.oldest_at;
    scrape.one_if_known(&of::LOG_OLDEST, oldest.map(|micros| micros as f64 / 1e6));
    scrape.one_if_known(&of::BACKUP_LAST_SUCCESS, app.metrics.last_backup.at());
    let tail = app.log.tail();
    scrape.one(&of::LOG_TAIL, tail);
    let state = app.log.state().health();
    scrape.one(&of::STATE_SUBJECTS, state.subjects);
    scrape.one(&of::STATE_BEHIND, tail.saturating_sub(state.folded));
    scrape.one(&of::STATE_FAILING, state.error.is_some());
}

fn brokers(app: &App, scrape: &mut Exposition) {
    if let Some(parts) = app.metrics.broker.get() {
        scrape.one(&of::NATS_CONNECTED, parts.nats.is_connected());
        sources(app, parts, scrape);
    }
    if let Store::Stream(publisher) = &app.store {
        scrape.one(&of::BROKER_PENDING, publisher.pending_bytes());
    }
    scrape.one_if_known(&of::REDIS_CONNECTED, app.stream_tokens.is_connected());
}

fn sources(app: &App, parts: &BrokerParts, scrape: &mut Exposition) {
    let Some(sources) = app.cursors.sources() else {
        return;
    };
    let (names, standings) = (sources.names(), sources.standings());
    let mut lag = scrape.metric(&of::SOURCE_LAG);
    for (name, standing) in names.iter().zip(&standings) {
        lag.sample(&[name], standing.last.saturating_sub(standing.copied));
    }
    let mut current = scrape.metric(&of::SOURCE_CURRENT);
    for (name, standing) in names.iter().zip(&standings) {
        current.sample(&[name], standing.current);
    }
    let counters = parts.sources.read();
    let mut events = scrape.metric(&of::SOURCE_EVENTS);
    for (name, counters) in names.iter().zip(&counters) {
        events.sample(&[name], counters.events());
    }
    let mut skipped = scrape.metric(&of::SOURCE_SKIPPED);
    for (name, counters) in names.iter().zip(&counters) {
        skipped.sample(&[name, "other_subject"], counters.ignored());
        for (reason, count) in counters.malformed() {
            skipped.sample(&[name, reason], count);
        }
    }
    let mut consumers = scrape.metric(&of::SOURCE_CONSUMERS);
    for (name, counters) in names.iter().zip(&counters) {
        consumers.sample(&[name], counters.consumers());
    }
}

fn tenants(app: &App, scrape: &mut Exposition) {
    let Some((mut named, others)) = app.metrics.tenants.read() else {
        return;
    };
    named.sort_unstable_by_key(|(tenant, _)| *tenant);
    let streams: HashMap<TenantId, u64> = app.limits.tenant_streams();
    let of_named = |tenant: &TenantId| streams.get(tenant).copied().unwrap_or(0);
    let mut open = scrape.metric(&of::TENANT_STREAMS);
    let mut left: u64 = streams.values().sum();
    for (tenant, _) in &named {
        let count = of_named(tenant);
        left -= count;
        open.sample(&[&tenant.to_string()], count);
    }
    open.sample(&[OTHER_TENANTS], left);
    let mut events = scrape.metric(&of::TENANT_EVENTS);
    for (tenant, published) in &named {
        events.sample(&[&tenant.to_string()], published.events);
    }
    events.sample(&[OTHER_TENANTS], others.events);
    let mut bytes = scrape.metric(&of::TENANT_BYTES);
    for (tenant, published) in &named {
        bytes.sample(&[&tenant.to_string()], published.bytes);
    }
    bytes.sample(&[OTHER_TENANTS], others.bytes);
}

fn traces(app: &App, scrape: &mut Exposition) {
    if let Some(traces) = &app.traces {
        let counts = traces.counts();
        scrape.one(&of::SPANS, counts.recorded.get());
        scrape.one(&of::SPANS_EXPORTED, counts.exported.get());
        scrape.one(&of::SPANS_FAILED, counts.failed.get());
    }
}

fn process(metrics: &Metrics, process: &Process, scrape: &mut Exposition) {
    let started = metrics.started.duration_since(UNIX_EPOCH);
    scrape.one(&of::STARTED, started.unwrap_or_default().as_secs_f64());
    scrape.one_if_known(&of::CPU_SECONDS, process.cpu_seconds);
    scrape.one_if_known(&of::RESIDENT_BYTES, process.resident_bytes);
    scrape.one_if_known(&of::THREADS, process.threads);
    scrape.one_if_known(&of::OPEN_DESCRIPTORS, process.open_descriptors);
    scrape.one_if_known(&of::DESCRIPTOR_LIMIT, process.descriptor_limit);
    scrape.one_if_known(&of::TCP_MEMORY, process.tcp_memory_bytes);
}

/// A number that each engine counts for itself.
fn sum(app: &App, count: impl Fn(&EngineCounters) -> u64) -> u64 {
    app.engines.counters().map(count).sum()
}

fn by_one_label(
    scrape: &mut Exposition,
    metric: &'static of::Metric,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) {
    let mut samples = scrape.metric(metric);
    for (label, count) in counts {
        samples.sample(&[label], count);
    }
}
