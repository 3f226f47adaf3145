//! Every setting, declared once: its type, its default and what it is for.
//!
//! The doc comments here are what operators read in `docs/configuration.md`, so they are written for
//! them. Defaults are texts as a variable would hold them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidings_protocol::event::BUILT_IN_TYPES;
use tidings_protocol::{EventType, TenantId};

use super::access::{JwksConfig, JwtConfig};
use super::edge::{self, ProxiesConfig, TlsConfig};
use super::error::{ConfigError, ConfigErrors};
use super::fleet;
use super::key::section;
use super::kinds;
use super::nats::NatsConfig;
use super::publishers::PUBLISHERS;
use super::redis::{self, RedisConfig, TokensConfig};
use super::subjects::{self, SUBJECTS};
use super::tenants::TENANTS;
use super::values::{
    LogFormat, LogKind, LogLayout, PublisherConfig, SubjectConfig, TenantConfig, TenantSettings,
};
use super::watching::{MetricsConfig, TracesConfig};
use crate::engine::Coding;

section! {
    /// Where the server listens and what it takes.
    Config in "" {
        /// The address and port of the API, for browsers, clients and publishers. Port 0 lets the system
        /// choose. Empty (`""`) where TLS alone is served (`tls.listen`).
        listen: Option<SocketAddr> = kinds::OPTIONAL_ADDRESS, "127.0.0.1:8080";
        /// The address and port of health checks and metrics. Keep it away from the public.
        admin_listen: SocketAddr = kinds::ADDRESS, "127.0.0.1:8081";
        /// The path prefixes under which the API answers, for example `["/", "/api"]`.
        mount: Vec<String> = kinds::MOUNTS, r#"["/"]"#;
        /// Event types of this deployment, beside the six built in (`device_status`, `alert_fired`,
        /// `alert_resolved`, `config_push`, `firmware_progress`, `metric_update`).
        event_types: Vec<EventType> = kinds::EVENT_TYPES, "[]";
        /// Tenants for which something else holds than for all: a table for each, by its id, as in
        /// `[tenants."11111111-1111-4111-8111-111111111111"]`. Its keys, of which what is left out is as for all:
        /// `name` (text, what operators call it), `retention` (a duration instead of `log.retention`), `max_bytes`
        /// (a size instead of `log.tenant_max_bytes`), `publish_rate` (a number instead of `limits.publish_rate`),
        /// `streams` (a number instead of `limits.streams_per_tenant`), `event_bytes` (a size instead of
        /// `limits.event_bytes`).
        tenants: BTreeMap<TenantId, TenantConfig> = TENANTS, "{}", live;
        /// What events are the latest state of, by event type: `[subjects.door_state]` with `fields`, the fields
        /// of the payload that name the subject together (`["site", "door_id"]`; of `"door_id|device_id"` the
        /// first that is there; `[]` for no subject). `kind` is the type under which the state keeps the subject,
        /// the event's own if left out. A subject ends with an event that has one of `final_values` in
        /// `final_field`, with every event of the type where `ends = true`, and after `max_age` without one. The
        /// built-in types have rules, which a rule given here replaces; they are in the protocol.
        subjects: Vec<SubjectConfig> = SUBJECTS, "{}";
    }
    sections {
        /// TLS.
        tls: TlsConfig;
        /// Proxies in front.
        proxies: ProxiesConfig;
        /// Who may do what.
        auth: AuthConfig;
        /// Which web pages may call.
        cors: CorsConfig;
        /// Stream tokens.
        tokens: TokensConfig;
        /// Redis.
        redis: RedisConfig;
        /// The event log.
        log: LogConfig;
        /// The NATS servers.
        nats: NatsConfig;
        /// This node among others.
        node: NodeConfig;
        /// Streams on the wire.
        stream: StreamConfig;
        /// Limits; 0 means no limit where a key says nothing else.
        limits: LimitsConfig;
        /// The audit log.
        audit: AuditConfig;
        /// How the server stops.
        shutdown: ShutdownConfig;
        /// What the server writes about itself.
        logging: LoggingConfig;
        /// Metrics.
        metrics: MetricsConfig;
        /// Traces.
        traces: TracesConfig;
    }
}

section! {
    /// Who may do what.
    AuthConfig in "auth." {
        /// The roles whose access tokens may publish to their own tenant.
        publisher_roles: Vec<String> = kinds::NAMES, r#"["publisher"]"#, live;
        /// The role that sees and may operate all tenants; its access tokens need no tenant.
        super_admin_role: String = kinds::TEXT, "super_admin";
        /// The role that may operate its own tenant.
        operator_role: String = kinds::TEXT, "tenant_operator", live;
        /// The cookie that may carry the access token when a stream token is asked for.
        cookie: String = kinds::COOKIE, "access_token", live;
        /// For how long it is remembered whose access tokens were revoked; 0 is for ever. An access token that lives
        /// longer (from `iat`, or where that is missing from now, to `exp`) is refused: it would be good again.
        revocations_kept: Duration = kinds::RETENTION, "30d";
        /// Publishers that show an API key instead of an access token. Each is a table with `id`,
        /// `secret_sha256` (64 hexadecimal digits: SHA-256 of the part of the key behind `tdk_<id>_`),
        /// `tenants` (a list of tenant ids, or `"*"`) and `types` (a list of event types; without it all).
        publishers: Vec<PublisherConfig> = PUBLISHERS, "[]", live;
    }
    sections {
        /// How access tokens are verified.
        jwt: JwtConfig;
        /// How issuers' keys are kept up to date.
        jwks: JwksConfig;
    }
}

section! {
    /// Which web pages may call.
    CorsConfig in "cors." {
        /// The origins whose pages may call the API, exactly as browsers send them, such as
        /// `https://console.example.com`; with credentials too. `*` allows every origin, but without credentials.
        origins: Vec<String> = kinds::ORIGINS, "[]", live;
    }
}

section! {
    /// The event log.
    LogConfig in "log." {
        /// Where the log is: `embedded` in the folder `log.path`, or `jetstream` in the streams of NATS servers
        /// (`nats.url`), which any number of nodes share; each then keeps a copy of what is retained in `log.path`.
        kind: LogKind = kinds::LOG_KIND, "embedded";
        /// Which streams of JetStream are the log: `own`, one stream that is made where it does not exist and that
        /// the publish endpoint writes; or `fleet`, the existing streams of `nats.fleet`, which are only read.
        layout: LogLayout = kinds::LOG_LAYOUT, "own";
        /// The folder of the log; it is created where it does not exist.
        path: PathBuf = kinds::PATH, "./tidings-data";
        /// The folder in which backups may be made while the server runs (`tidings log backup`): where whoever reaches
        /// `admin_listen` may have it write. Without it, a backup can be made of a server that is stopped only.
        backup_path: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// How long events are kept; 0 means until there are too many.
        retention: Duration = kinds::RETENTION, "7d";
        /// How large the log may grow before the oldest events go; 0 means no limit.
        max_bytes: u64 = kinds::SIZE, "10GiB";
        /// How much of the log one tenant may take before its oldest events go; 0 means no limit.
        tenant_max_bytes: u64 = kinds::SIZE, "0";
        /// Within which time a purged tenant's events are to be gone from the disk. They are hidden at once and
        /// taken out of the files as fast as the disk allows; when that takes longer than this, the server logs an
        /// error, and goes on.
        purge_within: Duration = kinds::duration::<1_000, 2_592_000_000>(), "1h";
    }
}

section! {
    /// Streams on the wire.
    StreamConfig in "stream." {
        /// After how much silence a heartbeat is sent. Proxies close what is silent for longer than they
        /// like, often 60 s.
        heartbeat: Duration = kinds::duration::<100, 3_600_000>(), "15s";
        /// How long a stream token can be used.
        token_ttl: Duration = kinds::duration::<1_000, 3_600_000>(), "30s";
        /// After how long without an acknowledgement from the other side a stream is closed.
        stall_timeout: Duration = kinds::duration::<100, 3_600_000>(), "30s";
        /// How long clients wait before they reconnect, about; each is told a slightly different time.
        retry: Duration = kinds::duration::<1, 3_600_000>(), "2s";
        /// How much the kernel may hold for one stream.
        send_buffer: usize = kinds::size::<4_096, 67_108_864>(), "64KiB";
        /// How streams may be compressed, best first, of `zstd` and `gzip`; each gets the one that its
        /// `Accept-Encoding` likes best. Empty: not at all. It saves bandwidth for processor time.
        compression: Vec<Coding> = kinds::CODINGS, "[]", live;
        /// The types of which a stream that asks for `conflate=default` gets the latest of each subject only, while
        /// it lags.
        conflate: Vec<EventType> = kinds::EVENT_TYPES, r#"["metric_update"]"#, live;
        /// How many streams that have ended are remembered, at most for a day, so that the audience of an
        /// event can be told.
        ended_streams: usize = kinds::count::<0, 1_000_000>(), "10000";
        /// How much of the newest part of the log is kept in memory for all streams together.
        window_bytes: usize = kinds::size::<1_048_576, 68_719_476_736>(), "64MiB";
    }
}

section! {
    /// Limits. Those that count streams, calls and failures are off by default: behind a proxy all
    /// clients can share one address, and when a server comes back all of them return at once, so that any
    /// number that protects one deployment shuts another out. Tokens can't be guessed; these limits spare
    /// resources.
    LimitsConfig in "limits." {
        /// Open streams in all; 0 means no limit.
        streams: u64 = kinds::COUNT, "0", live;
        /// Open streams of one tenant; 0 means no limit.
        streams_per_tenant: u64 = kinds::COUNT, "0", live;
        /// Open streams of one user; 0 means no limit.
        streams_per_user: u64 = kinds::COUNT, "0", live;
        /// Open streams from one address (of IPv6, from one /64 network); 0 means no limit.
        streams_per_address: u64 = kinds::COUNT, "0", live;
        /// Stream tokens handed out to one address, a minute; 0 means no limit.
        mints_per_address: u64 = kinds::COUNT, "0", live;
        /// Refused credentials from one address, a minute; 0 means no limit.
        failures_per_address: u64 = kinds::COUNT, "0", live;
        /// Events published for one tenant, a second; 0 means no limit. A body passes whole as soon as the
        /// tenant has any credit, and what it takes beyond that is paid off before the next one passes.
        publish_rate: u64 = kinds::COUNT, "0", live;
        /// Events published with one API key, a second, unless the key has a limit of its own; 0 means no limit.
        publish_rate_per_key: u64 = kinds::COUNT, "0", live;
        /// The most API keys of one tenant, those that were revoked and are still remembered among them.
        publisher_keys: usize = kinds::count::<1, 100_000>(), "1000", live;
        /// The most users and tokens of one tenant of which it is remembered that they were revoked, each for
        /// `auth.revocations_kept`. A further revocation is refused with 409; the whole tenant can always be revoked.
        revocations: usize = kinds::count::<1, 10_000_000>(), "10000", live;
        /// Requests that are being answered at once, streams that are being opened among them and open ones not; those
        /// that read something of a tenant's until their answers are written. 0 means no limit. What comes beyond is
        /// answered 503 at once rather than kept waiting.
        requests: u64 = kinds::COUNT, "8192", live;
        /// Requests of one tenant at once that read the history, the state, the audit log or lists, until their answers are
        /// written; 0 means no limit. Two of them read the log at a time. What comes beyond is answered 429.
        reads_per_tenant: u64 = kinds::COUNT, "512", live;
        /// How much memory the bodies may take together that are being received and checked; 0 means no limit. A
        /// publish beyond it is answered 503. It must have room for one body of `limits.body_bytes`.
        bodies_in_memory: u64 = kinds::SIZE, "256MiB", live;
        /// How much memory large answers, such as pages of the history, may take together until they are written, and
        /// those of one tenant a quarter of it; 0 means no limit. What does not fit is answered 503.
        answers_in_memory: u64 = kinds::SIZE, "256MiB", live;
        /// How long a client may take nothing of an answer before it is cut off: over HTTP/1 with its connection, over
        /// HTTP/2 with its request alone unless nothing of the connection is taken. It must take 1 KiB a second too,
        /// after that time. For streams `stream.stall_timeout` holds instead.
        unread_time: Duration = kinds::duration::<100, 3_600_000>(), "30s", live;
        /// How long a connection over HTTP/2 may be without a request and without a stream before it is ended. (One over
        /// HTTP/1 may for ten seconds.)
        idle_time: Duration = kinds::duration::<100, 3_600_000>(), "2m", live;
        /// The largest body of a publish.
        body_bytes: usize = kinds::size::<1_024, 1_073_741_824>(), "16MiB", live;
        /// How long the body of a request may take to arrive.
        body_time: Duration = kinds::duration::<100, 3_600_000>(), "60s", live;
        /// How much of the body of a request must arrive a second, on average since its beginning; the first five
        /// seconds are free. 0 means no limit. Who sends less is refused long before `limits.body_time`, which can
        /// then be as long as the largest bodies of honest, slow publishers take.
        body_rate: u64 = kinds::SIZE, "1KiB", live;
        /// The largest event, as it is published.
        event_bytes: usize = kinds::EVENT_BYTES, "1MiB", live;
        /// The most events in one body.
        body_lines: usize = kinds::count::<1, 10_000_000>(), "100000", live;
        /// The subjects of one event type that a tenant may have at a time: devices, metrics, open alerts. An event
        /// of a further one is refused.
        subjects_per_type: usize = kinds::count::<1, 100_000_000>(), "100000";
        /// The most device groups of one tenant.
        device_groups: usize = kinds::count::<1, 100_000>(), "1000", live;
        /// The most devices in one device group.
        devices_per_group: usize = kinds::count::<1, 100_000>(), "10000", live;
    }
}

section! {
    /// This node among the others that share a log in JetStream.
    NodeConfig in "node." {
        /// What the node is called where operators meet several, and in the NATS servers' lists of connections.
        /// Without it the name of the machine. Nodes of one name are told apart by an id.
        name: Option<String> = kinds::OPTIONAL_TEXT, "";
    }
}

section! {
    /// The audit log: who opened, who was refused and why, who published, who changed what. It lies beside the log, in
    /// the folder `audit`.
    AuditConfig in "audit." {
        /// Whether there is one.
        enabled: bool = kinds::BOOL, "true";
        /// How much disk it takes before its oldest entries go; a quarter is kept for changes.
        max_bytes: usize = kinds::size::<1_048_576, 1_099_511_627_776>(), "64MiB";
    }
}

section! {
    /// How the server stops.
    ShutdownConfig in "shutdown." {
        /// How long after SIGTERM or SIGINT everything goes on as before while `/readyz` is 503 already, so that load
        /// balancers notice and send nobody here any more.
        delay: Duration = kinds::duration::<0, 3_600_000>(), "0", live;
        /// Over which time the open streams are then led elsewhere, evenly. Few streams take less. The other nodes
        /// meet about streams / `drain` new ones a second: for 50,000 streams a minute is not too much.
        drain: Duration = kinds::duration::<0, 3_600_000>(), "5s", live;
        /// How long requests under way have to end after that before they are cut off.
        grace: Duration = kinds::duration::<0, 3_600_000>(), "3s", live;
    }
}

section! {
    /// What the server writes about itself, to standard error.
    LoggingConfig in "logging." {
        /// `error`, `warn`, `info`, `debug`, `trace` or `off`, also by module: `info,tidings::auth=debug`.
        level: String = kinds::LOG_LEVEL, "info", live;
        /// `pretty`, `json`, or `auto`: pretty on a terminal, JSON otherwise.
        format: LogFormat = kinds::LOG_FORMAT, "auto";
    }
}

impl Config {
    /// All event types that can be published here: the built-in ones, then this deployment's own.
    #[must_use]
    pub fn known_types(&self) -> Vec<EventType> {
        let mut types: Vec<EventType> = BUILT_IN_TYPES
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        for event_type in &self.event_types {
            if !types.contains(event_type) {
                types.push(event_type.clone());
            }
        }
        types
    }

    /// What this node is called.
    #[must_use]
    pub fn node_name(&self) -> String {
        let named = self.node.name.clone();
        named
            .or_else(|| sysinfo::System::host_name().ok())
            .unwrap_or_else(|| "unnamed".to_owned())
    }

    /// What holds for a tenant, where something of its own is set.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> TenantSettings<'_> {
        let own = self.tenants.get(&tenant);
        TenantSettings {
            name: own.and_then(|own| own.name.as_deref()),
            retention: own
                .and_then(|own| own.retention)
                .unwrap_or(self.log.retention),
            max_bytes: own
                .and_then(|own| own.max_bytes)
                .unwrap_or(self.log.tenant_max_bytes),
            publish_rate: own
                .and_then(|own| own.publish_rate)
                .unwrap_or(self.limits.publish_rate),
            streams: own
                .and_then(|own| own.streams)
                .unwrap_or(self.limits.streams_per_tenant),
            event_bytes: own
                .and_then(|own| own.event_bytes)
                .unwrap_or(self.limits.event_bytes),
        }
    }

    /// What a server needs beside well-formed settings: a key to verify access tokens with. There is no
    /// default.
    pub fn require_jwt_key(&self) -> Result<(), ConfigError> {
        self.auth.jwt.require_key()
    }

    /// Takes over from what runs the values that hold for the life of the process: those whose declarations lack
    /// `live`.
    pub fn keep_fixed(&mut self, running: &Self) {
        self.keep_fixed_keys(running);
    }

    /// Whether the values agree with each other, as they do after they were read.
    ///
    /// # Errors
    /// Every contradiction.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let errors = self.contradictions();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors::new(errors))
        }
    }

    /// What is wrong between values that are each good by themselves.
    pub(super) fn contradictions(&self) -> Vec<ConfigError> {
        let mut errors = edge::contradictions(self);
        if self.limits.event_bytes > self.limits.body_bytes {
            errors.push(ConfigError::new(
                "limits.event_bytes",
                "an event can't be larger than limits.body_bytes; lower this or raise that",
            ));
        }
        if self.limits.bodies_in_memory != 0
            && self.limits.bodies_in_memory < self.limits.body_bytes as u64
        {
            errors.push(ConfigError::new(
                "limits.bodies_in_memory",
                "this has no room for one body of limits.body_bytes; raise this or lower that",
            ));
        }
        for (tenant, own) in &self.tenants {
            if own
                .event_bytes
                .is_some_and(|bytes| bytes > self.limits.body_bytes)
            {
                errors.push(ConfigError::new(
                    format!("tenants.{tenant}.event_bytes"),
                    "an event can't be larger than limits.body_bytes; lower this or raise that",
                ));
            }
        }
        errors.extend(self.auth.jwt.contradictions(&self.auth.jwks));
        errors.extend(redis::contradictions(&self.tokens, &self.redis));
        let known = self.known_types();
        errors.extend(subjects::contradictions(&self.subjects, &known));
        errors.extend(self.nats.contradictions(&self.log));
        if self.log.layout == LogLayout::Fleet {
            errors.extend(fleet::contradictions(&self.nats.fleet, &known));
        }
        for event_type in self
            .stream
            .conflate
            .iter()
            .filter(|kind| !known.contains(kind))
        {
            let problem = format!("{event_type} is no event type here; add it to event_types");
            errors.push(ConfigError::new("stream.conflate", problem));
        }
        errors
    }
}
