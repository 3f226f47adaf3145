//! Every metric, declared once: its name, kind and labels, and what it says.
//!
//! The doc comments here are what operators read in `docs/metrics.md` and in the scrape, so they are written for
//! them. Names are those of Prometheus: base units, `_total` for what only grows.

use std::fmt::Write as _;

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observed durations, by these upper ends in seconds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// What Prometheus calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    doc: &'static [&'static str],
}

impl Metric {
    /// What it says, on one line.
    #[must_use]
    pub fn help(&self) -> String {
        joined(self.doc)
    }
}

/// Metrics that are read together.
#[derive(Debug)]
pub struct Group {
    /// What they are about.
    pub title: &'static str,
    doc: &'static [&'static str],
    /// In the order in which they are read.
    pub metrics: &'static [&'static Metric],
}

/// From a tenth of a millisecond, about a sync of a good disk, to what somebody waits for in vain.
const LATENCIES: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

use Kind::{Counter, Gauge, Histogram};

macro_rules! metrics {
    ($(
        $(#[doc = $group_doc:literal])+
        $title:literal {
            $(
                $(#[doc = $doc:literal])+
                $name:ident = $kind:expr, $text:literal, [$($label:literal),*];
            )*
        }
    )*) => {
        $($(
            $(#[doc = $doc])+
            pub static $name: Metric = Metric {
                name: $text,
                kind: $kind,
                labels: &[$($label),*],
                doc: &[$($doc),+],
            };
        )*)*

        /// All there are.
        pub static GROUPS: &[Group] = &[$(Group {
            title: $title,
            doc: &[$($group_doc),+],
            metrics: &[$(&$name),*],
        }),*];
    };
}

metrics! {
    /// The server itself.
    "Server" {
        /// 1 where the server can open streams and take publishes, 0 otherwise; `/readyz` says why.
        READY = Gauge, "tidings_ready", [];
        /// 1 while open streams are told that what they show may be old (`stale`).
        STALE = Gauge, "tidings_stale", [];
        /// 1; its label says which version runs.
        BUILD_INFO = Gauge, "tidings_build_info", ["version"];
    }

    /// Who may call: issuers of access tokens, and the audit log.
    "Access" {
        /// Issuers whose keys can't be relied on, since they could not be fetched for too long or never; their tokens
        /// are answered `503`.
        ISSUERS_AWAY = Gauge, "tidings_issuers_away", [];
        /// Keys of issuers (JWKS) that are known.
        ISSUER_KEYS = Gauge, "tidings_issuer_keys", [];
        /// Seconds since the keys of an issuer were last fetched, or read from their file, by its number in the
        /// configuration: 0 is that of `auth.jwt`, where that has a JWKS, and the others follow in their order. Without a
        /// value while they never were.
        ISSUER_KEYS_AGE = Gauge, "tidings_issuer_keys_age_seconds", ["issuer"];
        /// For how many seconds keys stay good that can't be fetched anew (`auth.jwks.keep`).
        ISSUER_KEYS_KEEP = Gauge, "tidings_issuer_keys_keep_seconds", [];
        /// How often issuers' keys were fetched, with either end.
        ISSUER_FETCHES = Counter, "tidings_issuer_key_fetches_total", [];
        /// How often that failed.
        ISSUER_FETCH_FAILURES = Counter, "tidings_issuer_key_fetch_failures_total", [];
        /// Entries that the audit log has lost, since the disk did not keep up.
        AUDIT_DROPPED = Counter, "tidings_audit_dropped_entries_total", [];
        /// Reloads of the configuration (SIGHUP), by result: `applied`, or `refused`, after which the one before stays.
        RELOADS = Counter, "tidings_config_reloads_total", ["result"];
        /// Lines of the log that were left out, since they would have repeated what was said within the last ten seconds.
        LINES_WITHHELD = Counter, "tidings_log_lines_withheld_total", [];
    }

    /// Streams: who watches, how they come and go, and what they are given.
    "Streams" {
        /// Open streams, by how they are carried (`http1`, `http2`) and compressed.
        STREAMS = Gauge, "tidings_streams", ["transport", "coding"];
        /// Streams that were opened, by what they began with: `tail`, `cursor` (a client that came back), `since` or
        /// `snapshot`.
        STREAMS_OPENED = Counter, "tidings_streams_opened_total", ["begin"];
        /// Streams that have ended, by reason: that of `closing`, or `client_left`, `connection_lost`, `client_talked`,
        /// `server_stopped`. `stalled` are clients that took nothing for `stream.stall_timeout`.
        STREAMS_CLOSED = Counter, "tidings_streams_closed_total", ["reason"];
        /// Requests for a stream that were refused, by reason.
        STREAM_REFUSALS = Counter, "tidings_stream_refusals_total", ["reason"];
        /// From a request for a stream until an engine has it.
        STREAM_OPEN_SECONDS = Histogram(LATENCIES), "tidings_stream_open_seconds", [];
        /// Requests for a stream token, by result.
        STREAM_TOKENS = Counter, "tidings_stream_tokens_total", ["result"];
        /// Events that were given to streams: one event for ten streams counts ten.
        DELIVERIES = Counter, "tidings_deliveries_total", [];
        /// Bytes that were given to streams' connections, as they are coded.
        SENT_BYTES = Counter, "tidings_stream_sent_bytes_total", [];
        /// From when the log was given an event until it was written to the last stream that follows the tail. Observed
        /// once for each batch of commits that an engine hands out, for the oldest event in it.
        PUBLISH_TO_WRITE = Histogram(LATENCIES), "tidings_publish_to_write_seconds", [];
        /// Signs of life that were sent for want of events.
        HEARTBEATS = Counter, "tidings_heartbeats_total", [];
    }

    /// Streams that are behind, and what they do without.
    "Lag" {
        /// Streams that are behind the tail: they read the window or the log. Counted anew within a few seconds.
        LAGGING = Gauge, "tidings_streams_lagging", [];
        /// How many events, of all tenants, the farthest stream is behind the tail. Measured anew within a few seconds.
        LAG_MAX = Gauge, "tidings_stream_lag_max_events", [];
        /// How often a stream that followed the tail had to leave it, since its connection took no more.
        LAPSES = Counter, "tidings_stream_lapses_total", [];
        /// How often an engine was so late that all of its streams had to read the log.
        OVERTAKEN = Counter, "tidings_engine_overtaken_total", [];
        /// Reads of the log for streams that are behind: how long each took.
        CATCH_UP_SECONDS = Histogram(LATENCIES), "tidings_catch_up_read_seconds", [];
        /// Reads of the log that wait for their turn.
        CATCH_UP_WAITING = Gauge, "tidings_catch_up_waiting", [];
        /// Gaps that streams were told of, by reason.
        GAPS = Counter, "tidings_gaps_total", ["reason"];
        /// Events that streams did without since they had asked for that (`conflate`).
        CONFLATED = Counter, "tidings_conflated_events_total", [];
    }

    /// Publishing over HTTP.
    "Publishing" {
        /// Publishes, by result: `ok`, or why nothing was stored.
        PUBLISHES = Counter, "tidings_publishes_total", ["result"];
        /// From the last byte of a publish until it was durable.
        PUBLISH_SECONDS = Histogram(LATENCIES), "tidings_publish_seconds", [];
        /// Events that were newly stored.
        PUBLISHED_EVENTS = Counter, "tidings_published_events_total", [];
        /// Events that had been stored before under the same key.
        PUBLISHED_DUPLICATES = Counter, "tidings_published_duplicates_total", [];
        /// Bytes of the bodies that were stored.
        PUBLISHED_BYTES = Counter, "tidings_published_bytes_total", [];
    }

    /// The log, and the state that is folded from it.
    "Log" {
        /// Group commits: how long writing and syncing took.
        COMMIT_SECONDS = Histogram(LATENCIES), "tidings_commit_seconds", [];
        /// Events that became durable, published here or copied.
        APPENDED_EVENTS = Counter, "tidings_log_appended_events_total", [];
        /// Bytes that were written for them.
        APPENDED_BYTES = Counter, "tidings_log_appended_bytes_total", [];
        /// How the log is: 1 for the state that holds, of `healthy`, `full` (no room) and `failed` (until a restart).
        LOG_HEALTH = Gauge, "tidings_log_health", ["state"];
        /// Bytes of the log's files, with what is reserved.
        LOG_BYTES = Gauge, "tidings_log_bytes", [];
        /// What they may take (`log.max_bytes`); 0 is no limit.
        LOG_LIMIT = Gauge, "tidings_log_limit_bytes", [];
        /// What is left on the file system of the log.
        LOG_DISK_FREE = Gauge, "tidings_log_disk_free_bytes", [];
        /// Files of events.
        LOG_SEGMENTS = Gauge, "tidings_log_segments", [];
        /// Events in them.
        LOG_EVENTS = Gauge, "tidings_log_events", [];
        /// When the oldest of them was appended, in seconds since 1970; without a value while there is none.
        LOG_OLDEST = Gauge, "tidings_log_oldest_timestamp_seconds", [];
        /// When the last backup of the log was finished, in seconds since 1970, also by an earlier process; without a
        /// value where none was ever made.
        BACKUP_LAST_SUCCESS = Gauge, "tidings_backup_last_success_timestamp_seconds", [];
        /// The position of the newest event.
        LOG_TAIL = Gauge, "tidings_log_tail_position", [];
        /// Subjects of which the state has the last event.
        STATE_SUBJECTS = Gauge, "tidings_state_subjects", [];
        /// Events that are durable and not folded into the state yet.
        STATE_BEHIND = Gauge, "tidings_state_behind_events", [];
        /// 1 while the state can't be folded or written, which keeps retention from making room.
        STATE_FAILING = Gauge, "tidings_state_failing", [];
    }

    /// What other servers keep for this one. Without a value where there is none of the kind.
    "Brokers" {
        /// 1 while there is a connection to NATS.
        NATS_CONNECTED = Gauge, "tidings_nats_connected", [];
        /// Messages of a source stream that are not copied yet, as far as known.
        SOURCE_LAG = Gauge, "tidings_source_lag_messages", ["stream"];
        /// 1 while a source stream is followed.
        SOURCE_CURRENT = Gauge, "tidings_source_current", ["stream"];
        /// Events that were read of a source stream, since it was begun with.
        SOURCE_EVENTS = Counter, "tidings_source_events_total", ["stream"];
        /// Messages of a source stream that are no events, by reason.
        SOURCE_SKIPPED = Counter, "tidings_source_skipped_total", ["stream", "reason"];
        /// Consumers that were made to read a source stream: each after the first is an interruption.
        SOURCE_CONSUMERS = Counter, "tidings_source_consumers_total", ["stream"];
        /// Bytes of publishes that wait for JetStream.
        BROKER_PENDING = Gauge, "tidings_broker_pending_bytes", [];
        /// 1 while Redis, which keeps stream tokens, answers.
        REDIS_CONNECTED = Gauge, "tidings_redis_connected", [];
    }

    /// The busiest tenants, `metrics.tenants` of them (none by default), and all others together as `other`. A tenant
    /// keeps its name until another is clearly busier.
    "Tenants" {
        /// Open streams of the tenant's users.
        TENANT_STREAMS = Gauge, "tidings_tenant_streams", ["tenant"];
        /// Events that were newly stored for it.
        TENANT_EVENTS = Counter, "tidings_tenant_published_events_total", ["tenant"];
        /// Bytes of the bodies that were stored for it.
        TENANT_BYTES = Counter, "tidings_tenant_published_bytes_total", ["tenant"];
    }

    /// Traces (`traces.endpoint`). Without a value where nothing is traced.
    "Traces" {
        /// Spans that were recorded. Those that are neither exported nor failed wait, or had no room to.
        SPANS = Counter, "tidings_trace_spans_total", [];
        /// Spans that the collector took.
        SPANS_EXPORTED = Counter, "tidings_trace_spans_exported_total", [];
        /// Spans that the collector did not take.
        SPANS_FAILED = Counter, "tidings_trace_spans_failed_total", [];
    }

    /// The process, as the kernel sees it.
    "Process" {
        /// When the server started, in seconds since 1970.
        STARTED = Gauge, "tidings_process_start_time_seconds", [];
        /// Processor time.
        CPU_SECONDS = Counter, "tidings_process_cpu_seconds_total", [];
        /// Memory that is resident.
        RESIDENT_BYTES = Gauge, "tidings_process_resident_memory_bytes", [];
        /// Threads.
        THREADS = Gauge, "tidings_process_threads", [];
        /// Open descriptors; each stream takes one.
        OPEN_DESCRIPTORS = Gauge, "tidings_process_open_descriptors", [];
        /// How many it may open.
        DESCRIPTOR_LIMIT = Gauge, "tidings_process_descriptor_limit", [];
        /// What the kernel holds for TCP sockets, of all processes of the machine.
        TCP_MEMORY = Gauge, "tidings_kernel_tcp_memory_bytes", [];
    }
}

fn joined(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// `docs/metrics.md`, generated from the declarations.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from the declarations in crates/tidings/src/metrics/declared.rs; change them there. -->\n\n\
         What `GET /metrics` on `admin_listen` tells, in the text format of Prometheus or that of OpenMetrics, as the \
         request's `Accept` likes better. [Watch](observe.md) says how to use them. Every name is there in every scrape; one \
         that has no value just now has no sample. Counters begin at zero with the process.\n",
    );
    for group in GROUPS {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| metric | kind | labels | says |\n| --- | --- | --- | --- |\n",
            group.title,
            joined(group.doc),
        );
        for metric in group.metrics {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                metric.name,
                metric.kind.name(),
                labels.join(", "),
                metric.help(),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions_of_prometheus() {
        let mut seen = HashSet::new();
        for metric in GROUPS.iter().flat_map(|group| group.metrics) {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(name.starts_with("tidings_"), "{name}");
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(name.bytes().all(plain), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}: `_total` is for counters, and all of them"
            );
            assert!(!name.contains("milli") && !name.contains("_kb"), "{name}");
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(name.ends_with("_seconds"), "{name}");
                assert!(bounds.is_sorted() && bounds[0] > 0.0, "{name}");
            }
            assert!(metric.help().ends_with('.'), "{name}");
            for label in metric.labels {
                let allowed = [
                    "version",
                    "transport",
                    "coding",
                    "issuer",
                    "begin",
                    "reason",
                    "result",
                    "state",
                    "stream",
                    "tenant",
                ];
                assert!(allowed.contains(label), "{name}: is {label} bounded?");
            }
        }
    }
}
