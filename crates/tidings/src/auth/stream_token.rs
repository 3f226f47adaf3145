//! Stream tokens: secrets that live for seconds and open one stream each.
//!
//! Two stores behind one interface, in the order in which a deployment meets them:
//!
//! - [`memory`]: this process's own, for a single node.
//! - [`redis`]: one that nodes share, and other back ends too. [`record`] is what it writes there, [`link`] the
//!   connection it writes over, which says at once when Redis is away, and [`connect`] how that is made.

mod connect;
pub mod examine;
mod link;
mod memory;
pub mod record;
mod redis;

use std::fmt;
use std::sync::Arc;

use self::connect::Connector;
use self::link::Link;
pub use self::link::LinkKeeper;
use self::memory::MemoryStore;
use self::redis::{Kept, RedisStore};
use super::identity::Identity;
use crate::config::{Config, ConfigError, TokensKind};

/// No stream token can be handed out or looked up now; trying again later may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many stream tokens are waiting to be used.
    #[error("too many stream tokens are waiting to be used")]
    Full,
    /// The operating system gave no randomness.
    #[error("no randomness for a stream token")]
    NoRandomness,
    /// The store is away: not connected, or it does not answer.
    #[error("the store of stream tokens is away")]
    Away,
    /// The store is there and refuses; why is in the log.
    #[error("the store of stream tokens refuses")]
    Refused,
}

/// The store can't be asked for some time already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Since when, in microseconds since the Unix epoch.
    pub since: i64,
    /// Why, for people.
    pub reason: String,
}

/// Hands out stream tokens and takes them back, each once.
pub struct StreamTokens {
    store: Store,
}

enum Store {
    Memory(MemoryStore),
    Redis(RedisStore),
}

/// A token that was looked at and not taken.
pub struct Looked {
    identity: Arc<Identity>,
    /// What was seen in Redis. Taking takes that, and not what has come into its place since.
    kept: Option<Kept>,
}

impl Looked {
    /// Whom the token stands for.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}

impl fmt::Debug for StreamTokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StreamTokens")
    }
}

impl StreamTokens {
    /// The store that the configuration names, and for one in Redis the keeper of the connection to it, which
    /// must run for as long as tokens are asked for. Nothing is connected before that.
    ///
    /// # Errors
    /// A file with a password or certificates can't be read or does not hold what it should.
    pub fn from_config(config: &Config) -> Result<(Self, Option<LinkKeeper>), ConfigError> {
        let lifetime = config.stream.token_ttl;
        // The configuration has refused Redis without a URL.
        let (TokensKind::Redis, Some(url)) = (config.tokens.kind, &config.redis.url) else {
            let store = Store::Memory(MemoryStore::new(lifetime));
            return Ok((Self { store }, None));
        };
        let connector = Connector::new(&config.redis, url)?;
        let link = Arc::new(Link::new(url, config.redis.response_timeout));
        let keeper = LinkKeeper::new(Arc::clone(&link), connector, config.tokens.shared);
        let store = Store::Redis(RedisStore::new(link, config));
        Ok((Self { store }, Some(keeper)))
    }

    /// A new token that stands for `identity`: 32 random bytes in URL-safe base64.
    ///
    /// # Errors
    /// As many tokens as there is room for are waiting to be used, there is no randomness, or the store can't be
    /// asked.
    pub async fn mint(&self, identity: Identity) -> Result<String, Unavailable> {
        match &self.store {
            Store::Memory(store) => store.mint(identity),
            Store::Redis(store) => store.mint(&identity).await,
        }
    }

    /// Looks the token up without taking it; `None` where it does not exist, is used or is over.
    ///
    /// # Errors
    /// The store can't be asked, which says nothing about the token.
    pub async fn look(&self, token: &str) -> Result<Option<Looked>, Unavailable> {
        match &self.store {
            Store::Memory(store) => Ok(store.look(token).map(|identity| Looked {
                identity,
                kept: None,
            })),
            Store::Redis(store) => store.look(token).await,
        }
    }

    /// Takes the token that was `looked` at: of all calls with one token, however concurrent and on whatever node,
    /// at most one gets `true`.
    ///
    /// # Errors
    /// The store can't be asked. Whether the token is spent is then not known, and nobody has been given it.
    pub async fn take(&self, token: &str, looked: &Looked) -> Result<bool, Unavailable> {
        match (&self.store, &looked.kept) {
            (Store::Redis(store), Some(kept)) => store.take(token, kept).await,
            (Store::Redis(_), None) => Ok(false),
            (Store::Memory(store), _) => Ok(store.take(token).is_some()),
        }
    }

    /// Whether the store answers, where it is another server's.
    #[must_use]
    pub fn is_connected(&self) -> Option<bool> {
        match &self.store {
            Store::Memory(_) => None,
            Store::Redis(store) => Some(store.away().is_none()),
        }
    }

    /// Why tokens can't be handed out or taken now, if they can't.
    #[must_use]
    pub fn away(&self) -> Option<Outage> {
        match &self.store {
            Store::Memory(_) => None,
            Store::Redis(store) => store.away(),
        }
    }
}
