//! Stream tokens in this process's memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Unavailable;
use crate::auth::identity::Identity;
use crate::auth::{random_text, sha256};

/// How much memory unused stream tokens may take, in bytes: about half a million of usual ones.
const CAPACITY: usize = 256 << 20;

/// What a token takes beside its identity: its hash twice, times, and the slack of the map.
const OVERHEAD: usize = 160;

/// SHA-256 of a token. Kept instead of it, so that neither a memory dump nor the time that a look-up takes
/// says anything about a token.
type Hash = [u8; 32];

pub(super) struct MemoryStore {
    lifetime: Duration,
    capacity: usize,
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    by_hash: HashMap<Hash, Waiting>,
    /// In the order of minting, which is that of expiry since all live equally long. Tokens that were
    /// taken are still in it until their time comes or there are too many of them.
    by_expiry: VecDeque<(Instant, Hash)>,
    /// The sum of the weights of `by_hash`.
    weight: usize,
}

struct Waiting {
    identity: Arc<Identity>,
    expires: Instant,
    weight: usize,
}

impl MemoryStore {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self::with_capacity(lifetime, CAPACITY)
    }

    fn with_capacity(lifetime: Duration, capacity: usize) -> Self {
        Self {
            lifetime,
            capacity,
            tokens: Mutex::default(),
        }
    }

    pub(super) fn mint(&self, identity: Identity) -> Result<String, Unavailable> {
        let token = random_text().map_err(|_| Unavailable::NoRandomness)?;
        let hash = sha256(token.as_bytes());
        let weight = OVERHEAD + identity.weight();
        let now = Instant::now();
        let mut tokens = self.tokens.lock();
        tokens.sweep(now);
        if tokens.weight + weight > self.capacity {
            return Err(Unavailable::Full);
        }
        let expires = now + self.lifetime;
        let identity = Arc::new(identity);
        tokens.weight += weight;
        tokens.by_expiry.push_back((expires, hash));
        tokens.by_hash.insert(
            hash,
            Waiting {
                identity,
                expires,
                weight,
            },
        );
        Ok(token)
    }

    pub(super) fn look(&self, token: &str) -> Option<Arc<Identity>> {
        let hash = sha256(token.as_bytes());
        let now = Instant::now();
        let tokens = self.tokens.lock();
        let waiting = tokens.by_hash.get(&hash)?;
        (now < waiting.expires).then(|| Arc::clone(&waiting.identity))
    }

    pub(super) fn take(&self, token: &str) -> Option<Arc<Identity>> {
        let hash = sha256(token.as_bytes());
        let now = Instant::now();
        let waiting = self.tokens.lock().remove(&hash)?;
        (now < waiting.expires).then_some(waiting.identity)
    }
}

impl Tokens {
    fn remove(&mut self, hash: &Hash) -> Option<Waiting> {
        let waiting = self.by_hash.remove(hash)?;
        self.weight -= waiting.weight;
        Some(waiting)
    }

    /// Drops what is over: from the front of the queue only, so that a mint costs what it adds.
    fn sweep(&mut self, now: Instant) {
        while let Some((expires, hash)) = self.by_expiry.front().copied() {
            if now < expires {
                break;
            }
            self.by_expiry.pop_front();
            self.remove(&hash);
        }
        // Where nearly all tokens are used at once, as they should be, the queue would hold a lifetime's
        // worth of used ones. Going through it when it has doubled costs each mint a constant share.
        if self.by_expiry.len() > 2 * self.by_hash.len() + 1_024 {
            let by_hash = &self.by_hash;
            self.by_expiry
                .retain(|(_, hash)| by_hash.contains_key(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(30);

    fn identity(user: &str) -> Identity {
        Identity {
            user: user.into(),
            tenant: None,
            role: "super_admin".into(),
            super_admin: true,
            expires_at: 1_000,
            issued_at: None,
            token_id: None,
            devices: None,
            types: None,
            device_group: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_can_be_looked_at_often_and_taken_once() {
        let tokens = MemoryStore::new(LIFETIME);
        let token = tokens.mint(identity("ada")).unwrap();
        for _ in 0..3 {
            assert_eq!(&*tokens.look(&token).unwrap().user, "ada");
        }
        assert_eq!(&*tokens.take(&token).unwrap().user, "ada");
        assert_eq!(tokens.take(&token), None);
        assert_eq!(tokens.look(&token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_over_when_its_lifetime_is() {
        let tokens = MemoryStore::new(LIFETIME);
        let token = tokens.mint(identity("ada")).unwrap();
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert!(tokens.look(&token).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(tokens.look(&token), None);
        assert_eq!(tokens.take(&token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_43_url_safe_characters_and_differ() {
        let tokens = MemoryStore::new(LIFETIME);
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let token = tokens.mint(identity("ada")).unwrap();
            assert_eq!(token.len(), 43);
            assert!(
                token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
            assert!(seen.insert(token));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_refuses_until_tokens_are_used_or_over() {
        let room = OVERHEAD + identity("ada").weight();
        let store = MemoryStore::with_capacity(LIFETIME, 2 * room);
        let first = store.mint(identity("ada")).unwrap();
        store.mint(identity("bob")).unwrap();
        assert_eq!(store.mint(identity("eve")), Err(Unavailable::Full));
        store.take(&first).unwrap();
        let third = store.mint(identity("eve")).unwrap();
        assert_eq!(store.mint(identity("eve")), Err(Unavailable::Full));
        tokio::time::advance(LIFETIME).await;
        store.mint(identity("eve")).unwrap();
        assert_eq!(store.look(&third), None);
        assert_eq!(store.tokens.lock().weight, room);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_or_over_leaves_nothing_behind() {
        let store = MemoryStore::new(LIFETIME);
        for _ in 0..10_000 {
            let token = store.mint(identity("ada")).unwrap();
            store.take(&token).unwrap();
            assert!(store.tokens.lock().by_expiry.len() <= 1_026);
        }
        for _ in 0..100 {
            store.mint(identity("ada")).unwrap();
        }
        tokio::time::advance(LIFETIME).await;
        store.mint(identity("ada")).unwrap();
        let tokens = store.tokens.lock();
        assert_eq!((tokens.by_hash.len(), tokens.by_expiry.len()), (1, 1));
    }

    #[test]
    fn of_a_thousand_concurrent_takes_one_wins() {
        let store = MemoryStore::new(LIFETIME);
        for _ in 0..3 {
            let token = store.mint(identity("ada")).unwrap();
            let start = Barrier::new(1_000);
            let take = || {
                start.wait();
                store.take(&token).is_some()
            };
            let winners = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..1_000)
                    .map(|_| {
                        let thread = std::thread::Builder::new().stack_size(128 * 1024);
                        thread.spawn_scoped(scope, take).unwrap()
                    })
                    .collect();
                let results = takers.into_iter().map(|taker| taker.join().unwrap());
                results.filter(|won| *won).count()
            });
            assert_eq!(winners, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_is_kept() {
        let tokens = MemoryStore::new(LIFETIME);
        let token = tokens.mint(identity("ada")).unwrap();
        let inner = tokens.tokens.lock();
        assert!(inner.by_hash.contains_key(&sha256(token.as_bytes())));
        assert_eq!(inner.by_hash.len(), 1);
    }
}
