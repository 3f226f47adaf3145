//! Whether the server is ready to be sent clients and publishers, and every reason why not.

use serde::Serialize;
use tidings_log::Health;

use crate::app::App;
use crate::time::rfc3339;

/// Why the server is not ready. The names are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonName {
    /// It was asked to end.
    Draining,
    /// A write or sync of the log failed; it needs a restart.
    LogFailed,
    /// The disk under the log is full. Streams are read as before.
    DiskFull,
    /// After a start: how things are is still being read.
    StateFolding,
    /// Other nodes know who was shut out, and this one has not heard it.
    NotInformed,
    /// This node is still copying its sources.
    CopyingSources,
    /// The sources can't be followed. Streams are read as before.
    BrokerAway,
    /// Stream tokens can't be handed out or taken.
    RedisAway,
    /// The keys of no issuer can be had, so no access token is good.
    JwksUnavailable,
    /// Connections are turned away.
    DescriptorsShort,
}

/// One reason why the server is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Its name.
    pub reason: ReasonName,
    /// Since when, RFC 3339.
    pub since: String,
    /// What it means, for people.
    pub detail: String,
}

impl Reason {
    fn new(reason: ReasonName, since: i64, detail: impl Into<String>) -> Self {
        Self {
            reason,
            since: rfc3339(since),
            detail: detail.into(),
        }
    }
}

/// All reasons why the server is not ready; none when it is. Answered from memory, under locks that are held for
/// moments.
#[must_use]
pub fn reasons(app: &App) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |name, since, detail: &str| reasons.push(Reason::new(name, since, detail));
    if let Some(since) = app.life.leaving_since() {
        add(ReasonName::Draining, since, "the server is stopping");
    }
    match app.log.health() {
        Health::Healthy => {}
        Health::Failed { since, reason } => {
            let detail =
                format!("the log has stopped after a failed write ({reason}); restart the server");
            add(ReasonName::LogFailed, since, &detail);
        }
        Health::Full { since, reason } => {
            let detail =
                format!("the disk under the log is full ({reason}); nothing can be published");
            add(ReasonName::DiskFull, since, &detail);
        }
    }
    if !app.log.state().health().ready {
        let detail = "how things are is still being read from the log";
        add(ReasonName::StateFolding, app.started_at, detail);
    }
    if let Some(detail) = app.uninformed() {
        add(ReasonName::NotInformed, app.started_at, detail);
    }
    if app.is_copying() {
        let detail = "this node is still copying its sources";
        add(ReasonName::CopyingSources, app.started_at, detail);
    }
    if let Some(stale) = app.liveness.sources() {
        let detail = format!("the sources are not followed: {}", stale.reason);
        add(ReasonName::BrokerAway, stale.since, &detail);
    }
    if let Some(outage) = app.stream_tokens.away() {
        add(ReasonName::RedisAway, outage.since, &outage.reason);
    }
    for outage in app.access_tokens.away() {
        add(ReasonName::JwksUnavailable, outage.since, &outage.reason);
    }
    if let Some(since) = app.descriptors.short_since() {
        let detail = "the process has no descriptors left for more connections";
        add(ReasonName::DescriptorsShort, since, detail);
    }
    reasons
}
