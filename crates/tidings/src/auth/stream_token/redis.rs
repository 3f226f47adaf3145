//! Stream tokens in Redis, for nodes that take each other's.
//!
//! **Which of two keys decides.** A token stands under our own key, under the shared one, or under both: ours then
//! says all that the stream must obey, and the shared one, which other back ends take too, decides who has it. So
//! there is one key for each token whose taking is the taking, and every back end agrees on it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::redis::{Cmd, Value};

use super::link::{Failure, Link};
use super::{Looked, Outage, Unavailable, record};
use crate::auth::identity::Identity;
use crate::auth::random_text;
use crate::config::Config;
use crate::time::unix_seconds;

/// How much longer than the shared key a token's own record lives, so that the shared one is never alone.
const RECORD_OUTLIVES: Duration = Duration::from_secs(5);

/// Stream tokens in Redis.
pub(super) struct RedisStore {
    link: Arc<Link>,
    lifetime: Duration,
    /// How long a stream may live whose token is another back end's; `None` where none is taken.
    shared: Option<Duration>,
    super_admin_role: Arc<str>,
}

/// What was seen of a token: the value of the key that decides, and which that is.
pub(super) struct Kept {
    value: Vec<u8>,
    decides: Decides,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decides {
    /// Our own key.
    Own,
    /// The shared key, of a token that has a record under our own too.
    SharedOfOurs,
    /// The shared key, which is all that there is.
    SharedOfOthers,
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away => Self::Away,
            Failure::Refused => Self::Refused,
        }
    }
}

impl RedisStore {
    pub(super) fn new(link: Arc<Link>, config: &Config) -> Self {
        Self {
            link,
            lifetime: config.stream.token_ttl,
            shared: config
                .tokens
                .shared
                .then_some(config.tokens.shared_max_lifetime),
            super_admin_role: config.auth.super_admin_role.as_str().into(),
        }
    }

    pub(super) fn away(&self) -> Option<Outage> {
        self.link.away()
    }

    pub(super) async fn mint(&self, identity: &Identity) -> Result<String, Unavailable> {
        let token = random_text().map_err(|_| Unavailable::NoRandomness)?;
        let shared = self.shared.is_some() && record::fits_shared(identity);
        let own = record::write_own(identity, shared);
        let own_lifetime = if shared {
            self.lifetime + RECORD_OUTLIVES
        } else {
            self.lifetime
        };
        self.put(&record::own_key(&token), &own, own_lifetime)
            .await?;
        if shared {
            let value = record::write_shared(identity);
            self.put(&record::shared_key(&token), &value, self.lifetime)
                .await?;
        }
        Ok(token)
    }

    pub(super) async fn look(&self, token: &str) -> Result<Option<Looked>, Unavailable> {
        let own_key = record::own_key(token);
        let (own, shared) = if self.shared.is_some() {
            let shared_key = record::shared_key(token);
            tokio::try_join!(self.get(&own_key), self.get(&shared_key))?
        } else {
            (self.get(&own_key).await?, None)
        };
        let Some(own) = own else {
            return Ok(shared.and_then(|value| self.of_others(value)));
        };
        let Some((identity, is_shared)) = record::read_own(&own) else {
            unreadable("our own");
            return Ok(None);
        };
        if !is_shared {
            return Ok(Some(looked(identity, own, Decides::Own)));
        }
        // A node that shares nothing itself still goes by where this token is decided.
        let shared = match shared {
            None if self.shared.is_none() => self.get(&record::shared_key(token)).await?,
            shared => shared,
        };
        Ok(shared
            .filter(|value| record::is_shared_form_of(value, &identity))
            .map(|value| looked(identity, value, Decides::SharedOfOurs)))
    }

    pub(super) async fn take(&self, token: &str, kept: &Kept) -> Result<bool, Unavailable> {
        let own_key = record::own_key(token);
        let shared_key = record::shared_key(token);
        if kept.decides == Decides::Own {
            if self.shared.is_some() {
                // Nobody but us knows the token, so nothing should be here. If something is, it goes before the
                // token is taken: as long as our own key is there, that one decides, and afterwards nothing is left.
                self.link.ask(&delete(&shared_key)).await?;
            }
            return self.take_key(&own_key, kept).await;
        }
        let won = self.take_key(&shared_key, kept).await?;
        if won && kept.decides == Decides::SharedOfOurs {
            // Without the shared key it opens nothing; if it stays, it is over in seconds.
            let _ = self.link.ask(&delete(&own_key)).await;
        }
        Ok(won)
    }

    /// Takes a key, which must hold what was seen there.
    async fn take_key(&self, key: &str, kept: &Kept) -> Result<bool, Unavailable> {
        let taken = bytes(self.link.get_and_delete(key).await?);
        Ok(taken.is_some_and(|value| value == kept.value))
    }

    fn of_others(&self, value: Vec<u8>) -> Option<Looked> {
        let most = i64::try_from(self.shared?.as_secs()).unwrap_or(i64::MAX);
        let expires_at = unix_seconds(SystemTime::now()).saturating_add(most);
        let identity = record::read_shared(&value, &self.super_admin_role, expires_at);
        if identity.is_none() {
            unreadable("another back end's");
        }
        Some(looked(identity?, value, Decides::SharedOfOthers))
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Unavailable> {
        let mut command = ::redis::cmd("GET");
        command.arg(key);
        Ok(bytes(self.link.ask(&command).await?))
    }

    async fn put(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), Unavailable> {
        let milliseconds = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let mut command = ::redis::cmd("SET");
        command.arg(key).arg(value).arg("PX").arg(milliseconds);
        self.link.ask(&command).await?;
        Ok(())
    }
}

fn looked(identity: Identity, value: Vec<u8>, decides: Decides) -> Looked {
    Looked {
        identity: Arc::new(identity),
        kept: Some(Kept { value, decides }),
    }
}

fn delete(key: &str) -> Cmd {
    let mut command = ::redis::cmd("DEL");
    command.arg(key);
    command
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// A token whose record says what this version does not know is no token here.
fn unreadable(layout: &str) {
    tidings_log::seldom!(warn, layout, "stream_token_unreadable");
}
