//! What was asked for, and whether it was reached.

use crate::results::{Results, Spread};
use crate::server::Kind;

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// Tidings' own figure.
    Own,
    /// Tidings' over another's, of the same round.
    Over(Kind),
    /// Tidings' figure over TLS.
    OwnOverTls,
    /// Tidings' figure over TLS, over the same in the clear, of the same round.
    TlsOverClear,
    /// How it grew from the scenario's first case, over how the floor's did.
    Growth,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) scenario: &'static str,
    /// The beginning of the case's name; empty for every case.
    case: &'static str,
    pub(crate) text: &'static str,
    metric: &'static str,
    measure: Measure,
    limit: Limit,
}

/// A budget beside what was reached.
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) text: &'static str,
    pub(crate) asked: String,
    pub(crate) reached: Spread,
    pub(crate) met: bool,
}

const fn budget(
    scenario: &'static str,
    case: &'static str,
    text: &'static str,
    metric: &'static str,
    measure: Measure,
    limit: Limit,
) -> Budget {
    Budget {
        scenario,
        case,
        text,
        metric,
        measure,
        limit,
    }
}

use Limit::{AtLeast, AtMost};
use Measure::{Growth, Over, Own, OwnOverTls, TlsOverClear};

#[rustfmt::skip]
pub(crate) const BUDGETS: [Budget; 31] = [
    budget("cpu-per-delivery", "", "CPU per delivery ÷ floor", "delivery_cpu_us", Over(Kind::Floor), AtMost(1.15)),
    budget("latency", "", "latency p50 ÷ floor", "delivery_p50_ms", Over(Kind::Floor), AtMost(1.2)),
    budget("latency", "", "latency p99 ÷ floor", "delivery_p99_ms", Over(Kind::Floor), AtMost(1.2)),
    budget("streams", "", "growth of CPU per delivery ÷ floor's", "delivery_cpu_us", Growth, AtMost(1.2)),
    budget("burst", "", "deliveries per CPU second ÷ floor", "deliveries_per_cpu_s", Over(Kind::Floor), AtLeast(0.6)),
    budget("idle", "", "bytes a stream, the first 1,000", "first_1000_bytes_per_stream", Own, AtMost(3072.0)),
    budget("idle", "", "bytes a stream, 1,000 to 10,000", "growth_1000_to_10000_bytes_per_stream", Own, AtMost(1536.0)),
    budget("idle", "", "bytes a stream, 1,000 to 18,000", "growth_1000_to_18000_bytes_per_stream", Own, AtMost(2560.0)),
    budget("idle", "", "CPU per heartbeat ÷ floor", "heartbeat_cpu_us", Over(Kind::Floor), AtMost(1.3)),
    budget("open", "", "CPU µs per token and open", "token_and_open_cpu_us", Own, AtMost(150.0)),
    budget("open", "", "tokens and opens/s", "tokens_and_opens_per_s", Own, AtLeast(5000.0)),
    budget("resume", "", "seconds until all have caught up", "caught_up_after_s", Own, AtMost(3.0)),
    budget("resume", "", "p99 of live streams, during ÷ before", "live_p99_during_over_before", Own, AtMost(2.0)),
    budget("stalled", "", "p99 of the others, with ÷ without", "p99_with_over_without", Own, AtMost(1.25)),
    budget("stalled", "", "bytes of the kernel's buffers for each that never reads", "kernel_buffers_bytes_per_stalled", Own, AtMost(262_144.0)),
    budget("stalled", "", "bytes of the server's own for each that never reads", "memory_bytes_per_stalled", Own, AtMost(8_192.0)),
    budget("stalled", "", "closed of the 1,000 that never read", "stalled_closed", Own, AtLeast(1_000.0)),
    budget("tenants", "", "growth of CPU per delivery ÷ floor's", "delivery_cpu_us", Growth, AtMost(1.2)),
    budget("fleet", "", "growth of CPU per delivery ÷ floor's", "delivery_cpu_us", Growth, AtMost(1.2)),
    budget("tls", "", "CPU per delivery, TLS ÷ clear", "delivery_cpu_us", TlsOverClear, AtMost(1.3)),
    budget("tls", "", "bytes a stream over TLS, 1,000 to 5,000", "growth_1000_to_5000_bytes_per_stream", OwnOverTls, AtMost(9216.0)),
    budget("publish", "64 ", "events/s", "events_per_s", Own, AtLeast(15_000.0)),
    budget("publish", "1 publisher", "events/s ÷ bare append and sync", "events_per_s", Over(Kind::Append), AtLeast(0.7)),
    budget("publish", "8 ", "events/s ÷ bare append and sync", "events_per_s", Over(Kind::Append), AtLeast(0.7)),
    budget("replay", "", "events/s of a large tenant", "large_tenant_events_per_s", Own, AtLeast(1e6)),
    budget("replay", "", "events/s of a tenant with 0.1 % of the log", "small_tenant_events_per_s", Own, AtLeast(1e6)),
    budget("replay", "", "events/s of all tenants", "whole_log_events_per_s", Own, AtLeast(1e6)),
    budget("replay", "", "ms to ready on this log", "ready_again_ms", Own, AtMost(500.0)),
    budget("jetstream", "128 ", "events/s ÷ the bare client of NATS", "events_per_s", Over(Kind::Raw), AtLeast(0.7)),
    budget("jetstream", "up to", "what the broker sends per event, most ÷ fewest streams", "broker_bytes_out_growth", Own, AtMost(1.1)),
    budget("jetstream", "up to", "the broker's connections and consumers, most − fewest streams", "broker_clients_growth", Own, AtMost(0.0)),
];

impl Budget {
    /// The verdict for each case that it concerns and that was measured.
    pub(crate) fn verdicts(&self, results: &Results) -> Vec<Verdict> {
        let concerned = results
            .cases
            .iter()
            .filter(|case| case.name.starts_with(self.case));
        concerned
            .filter_map(|case| {
                let values = match self.measure {
                    Own => case.values(Kind::Tidings, self.metric),
                    Over(kind) => case.ratios(Kind::Tidings, self.metric, kind),
                    OwnOverTls => case.values(Kind::TidingsTls, self.metric),
                    TlsOverClear => case.ratios(Kind::TidingsTls, self.metric, Kind::Tidings),
                    Growth => {
                        let first = results
                            .cases
                            .first()
                            .filter(|first| first.name != case.name)?;
                        let here = case.ratios(Kind::Tidings, self.metric, Kind::Floor);
                        let there = first.ratios(Kind::Tidings, self.metric, Kind::Floor);
                        here.iter()
                            .zip(&there)
                            .map(|(here, there)| here / there)
                            .collect()
                    }
                };
                let reached = Spread::of(values)?;
                let (asked, met) = match self.limit {
                    AtMost(limit) => (format!("≤ {limit}"), reached.median <= limit),
                    AtLeast(limit) => (format!("≥ {limit}"), reached.median >= limit),
                };
                Some(Verdict {
                    case: case.name.clone(),
                    text: self.text,
                    asked,
                    reached,
                    met,
                })
            })
            .collect()
    }
}
