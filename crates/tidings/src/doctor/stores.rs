//! What the server keeps elsewhere: stream tokens in Redis, the log in NATS JetStream.

use std::time::Duration;

use super::clock;
use super::report::Finding;
use crate::auth::stream_token::examine::{Examined, examine};
use crate::config::{Config, ConfigError, LogKind, LogLayout, TokensKind};
use crate::jetstream::api::{self, ApiError};
use crate::nats::{Connectivity, Nats, NatsOptions};

/// How long NATS has to be reached.
const REACHED: Duration = Duration::from_secs(8);

/// What the log needs at least; older servers lack parts of JetStream.
const NATS_AT_LEAST: (u32, u32) = (2, 9);

/// Asks those that the configuration names.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.tokens.kind == TokensKind::Redis {
        match examine(config).await {
            Ok(found) => findings.extend(redis(&found)),
            Err(what) => findings.push(Finding::problem(
                "redis",
                what,
                "until this is mended browsers open no streams: see redis.url, the firewall, and the rights in docs/redis.md",
            )),
        }
    }
    if config.log.kind == LogKind::JetStream {
        match nats(config).await {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::problem(
                "nats",
                error.to_string(),
                "mend the setting that it names (docs/nats.md)",
            )),
        }
    }
    findings
}

fn redis(found: &Examined) -> Vec<Finding> {
    let version = found
        .version
        .as_deref()
        .unwrap_or("of a version that it does not tell this user");
    let mut findings = vec![Finding::good(
        "redis",
        format!("Redis {version} is there, and tokens can be kept and taken"),
    )];
    if let Some(policy) = found
        .policy
        .as_deref()
        .filter(|policy| policy.starts_with("allkeys"))
    {
        findings.push(Finding::warning(
            "redis",
            format!("when it is full it throws away whatever it likes (maxmemory-policy {policy})"),
            "set maxmemory-policy to noeviction or volatile-ttl, so that tokens are refused rather than lost",
        ));
    }
    if let Some(ahead) = found.clock_ahead {
        findings.push(clock::against("Redis's clock", ahead));
    }
    findings
}

async fn nats(config: &Config) -> Result<Vec<Finding>, ConfigError> {
    let nats = Nats::connect(NatsOptions::from_config(&config.nats, "doctor")?).await?;
    let mut connectivity = nats.connectivity();
    let connected = connectivity.wait_for(|state| *state == Connectivity::Connected);
    if tokio::time::timeout(REACHED, connected).await.is_err() {
        let reason = match &*nats.connectivity().borrow() {
            Connectivity::Away { reason, .. } => reason.clone(),
            Connectivity::Connected => String::new(),
        };
        return Ok(vec![Finding::problem(
            "nats",
            format!("no connection to {}: {reason}", config.nats.url.join(", ")),
            "without it nothing is published and streams are stale: see nats.url, the firewall, and who the server is to NATS (docs/nats.md)",
        )]);
    }
    let server = nats.client().server_info();
    let mut findings = vec![version(&server.version)];
    if server.max_payload < config.limits.event_bytes {
        findings.push(Finding::warning(
            "nats",
            format!(
                "its messages have at most {} bytes, and limits.event_bytes is {}",
                server.max_payload, config.limits.event_bytes
            ),
            "events that are larger are refused by it: raise its max_payload, or lower limits.event_bytes",
        ));
    }
    let streams = match config.log.layout {
        LogLayout::Own => vec![config.nats.stream.clone()],
        LogLayout::Fleet => {
            let fleet = config.nats.fleet.iter();
            fleet.map(|stream| stream.name.to_string()).collect()
        }
    };
    for stream in streams {
        let found = api::stream_info(nats.client(), &stream).await;
        let replicas = found
            .as_ref()
            .ok()
            .and_then(|info| info.config["num_replicas"].as_u64());
        let made_here = config.log.layout == LogLayout::Own;
        findings.push(stream_finding(
            &stream,
            found.map(|_| ()),
            replicas,
            made_here,
            server.cluster.is_some(),
        ));
    }
    Ok(findings)
}

/// Judges the version that a server says it has.
fn version(text: &str) -> Finding {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    let what = format!("NATS {text} is there");
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < NATS_AT_LEAST => {
            Finding::problem("nats", what, "use nats-server 2.9 or later")
        }
        _ => Finding::good("nats", what),
    }
}

/// Judges one stream. `made_here`: the server makes it where it is missing.
fn stream_finding(
    stream: &str,
    found: Result<(), ApiError>,
    replicas: Option<u64>,
    made_here: bool,
    is_cluster: bool,
) -> Finding {
    match (found, replicas) {
        (Ok(()), Some(1)) if is_cluster => Finding::warning(
            "nats",
            format!("the stream {stream} is kept on one server of the cluster"),
            "when that one is lost, so are the events: set nats.replicas to 3 (of a fleet's stream: nats stream edit --replicas 3)",
        ),
        (Ok(()), _) => Finding::good("nats", format!("the stream {stream} is there")),
        (Err(ApiError::NoStream), _) if made_here => {
            Finding::good("nats", format!("the stream {stream} will be made"))
        }
        (Err(ApiError::NoStream), _) => Finding::warning(
            "nats",
            format!("the stream {stream} does not exist"),
            "nothing comes from it until somebody makes it: see nats.fleet",
        ),
        (Err(ApiError::Unanswered(what)), _) => Finding::problem(
            "nats",
            format!("JetStream does not answer for the stream {stream}: {what}"),
            "turn JetStream on, see that a majority of its servers runs, and give the user the rights in docs/nats.md",
        ),
        (Err(error), _) => Finding::problem(
            "nats",
            format!("the stream {stream}: {error}"),
            "see docs/nats.md for what the user must be allowed",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn an_old_broker_is_a_problem() {
        assert_eq!(version("2.9.10").weight, Weight::Good);
        assert_eq!(version("2.8.4").weight, Weight::Problem);
        assert_eq!(version("3.0.0-beta").weight, Weight::Good);
        assert_eq!(version("").weight, Weight::Good);
    }

    #[test]
    fn a_stream_is_judged_by_whose_it_is() {
        let judged = |found, replicas, made_here, cluster| {
            stream_finding("S", found, replicas, made_here, cluster).weight
        };
        assert_eq!(judged(Ok(()), Some(3), true, true), Weight::Good);
        assert_eq!(judged(Ok(()), Some(1), true, true), Weight::Warning);
        assert_eq!(judged(Ok(()), Some(1), true, false), Weight::Good);
        assert_eq!(
            judged(Err(ApiError::NoStream), None, true, false),
            Weight::Good
        );
        assert_eq!(
            judged(Err(ApiError::NoStream), None, false, false),
            Weight::Warning
        );
        let silent = Err(ApiError::Unanswered(String::new()));
        assert_eq!(judged(silent, None, true, false), Weight::Problem);
    }

    #[test]
    fn a_redis_that_throws_tokens_away_is_said() {
        let mut found = Examined {
            version: Some("7.0.15".to_owned()),
            policy: Some("noeviction".to_owned()),
            clock_ahead: Some(0.1),
        };
        assert!(
            redis(&found)
                .iter()
                .all(|finding| finding.weight == Weight::Good)
        );
        found.policy = Some("allkeys-lru".to_owned());
        assert!(
            redis(&found)
                .iter()
                .any(|finding| finding.weight == Weight::Warning)
        );
    }
}
