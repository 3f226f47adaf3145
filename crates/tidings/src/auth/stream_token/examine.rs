//! A look at the Redis that a server would keep its stream tokens in, with the same login and the same tries.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::redis::{Cmd, Value, from_redis_value};

use super::connect::{Connector, bounded};
use super::link::{Link, LinkKeeper};
use crate::config::Config;

/// What was found. What the user may not ask is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examined {
    /// Its version.
    pub version: Option<String>,
    /// What it does when it is full, its `maxmemory-policy`.
    pub policy: Option<String>,
    /// By how many seconds its clock is ahead of ours.
    pub clock_ahead: Option<f64>,
}

/// Connects, tries all that tokens need, and asks what else is of interest.
///
/// # Errors
/// What is wrong, for people: a file, the connection, or a right that is missing.
pub async fn examine(config: &Config) -> Result<Examined, String> {
    let Some(url) = &config.redis.url else {
        return Err("redis.url is not set".to_owned());
    };
    let timeout = config.redis.response_timeout;
    let connector = Connector::new(&config.redis, url).map_err(|error| error.to_string())?;
    let link = Arc::new(Link::new(url, timeout));
    let keeper = LinkKeeper::new(link, connector, config.tokens.shared);
    let connected = keeper.connect().await;
    let mut connection = connected.map_err(|error| {
        format!(
            "Redis at {}: {}",
            url.servers,
            super::link::explained(&error)
        )
    })?;
    let mut ask = async |command: &Cmd| bounded(timeout, connection.send(command)).await.ok();
    let server = ask(::redis::cmd("INFO").arg("server")).await;
    let memory = ask(::redis::cmd("INFO").arg("memory")).await;
    let time = ask(&::redis::cmd("TIME")).await;
    Ok(Examined {
        version: server.and_then(|answer| field(answer, "redis_version")),
        policy: memory.and_then(|answer| field(answer, "maxmemory_policy")),
        clock_ahead: time.and_then(ahead),
    })
}

/// A line of `INFO`. A cluster answers for each of its nodes, which is not looked into.
fn field(answer: Value, name: &str) -> Option<String> {
    let text: String = from_redis_value(answer).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// `TIME` is seconds since the Unix epoch, and microseconds.
fn ahead(answer: Value) -> Option<f64> {
    let (seconds, microseconds): (f64, f64) = from_redis_value(answer).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(seconds + microseconds / 1e6 - now.as_secs_f64())
}
