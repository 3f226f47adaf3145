//! Access tokens that were verified a while ago: a publisher shows the same one with every request.
//!
//! What is remembered is what the token said; whether it is over is asked again each time. It is
//! found by the token's hash, so that no token lies here and no comparison tells how much of a guess
//! was right.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use super::Identity;

/// How many tokens a generation holds. There are two.
const GENERATION: usize = 2_048;

/// An identity that weighs more, for its long lists, is read from its token each time.
const HEAVY: usize = 4 * 1024;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// The tokens that were seen last.
#[derive(Default)]
pub(super) struct VerifiedTokens {
    generations: Mutex<Generations>,
}

/// What was used since the younger one began is kept when the older one is dropped.
#[derive(Default)]
struct Generations {
    younger: HashMap<Digest, Identity>,
    older: HashMap<Digest, Identity>,
    /// How often everything was forgotten.
    age: u64,
}

impl VerifiedTokens {
    pub(super) fn find(&self, token: &Digest) -> Option<Identity> {
        let mut generations = self.generations.lock();
        if let Some(identity) = generations.younger.get(token) {
            return Some(identity.clone());
        }
        let identity = generations.older.remove(token)?;
        generations.insert(*token, identity.clone());
        Some(identity)
    }

    /// Of which age what is verified from now on is.
    pub(super) fn age(&self) -> u64 {
        self.generations.lock().age
    }

    /// Remembers a token that was verified at this age, if that has not ended meanwhile.
    pub(super) fn remember(&self, token: Digest, identity: &Identity, age: u64) {
        if identity.weight() > HEAVY {
            return;
        }
        let mut generations = self.generations.lock();
        if generations.age == age {
            generations.insert(token, identity.clone());
        }
    }

    /// Forgets all tokens, since the keys that they were verified with may be good no more. An age ends.
    pub(super) fn forget(&self) {
        let mut generations = self.generations.lock();
        *generations = Generations {
            age: generations.age + 1,
            ..Generations::default()
        };
    }
}

impl Generations {
    fn insert(&mut self, token: Digest, identity: Identity) {
        if self.younger.len() >= GENERATION {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(token, identity);
    }
}

impl std::fmt::Debug for VerifiedTokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifiedTokens")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: usize, devices: usize) -> Identity {
        Identity {
            user: format!("user-{number}").into(),
            tenant: None,
            role: "super_admin".into(),
            super_admin: true,
            expires_at: i64::MAX,
            issued_at: None,
            token_id: None,
            devices: (devices > 0).then(|| {
                (0..devices)
                    .map(|device| format!("r{device}").parse().unwrap())
                    .collect()
            }),
            types: None,
            device_group: None,
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let tokens = VerifiedTokens::default();
        let digest = |number: usize| Digest::of(&number.to_string());
        for number in 0..10 * GENERATION {
            tokens.remember(digest(number), &identity(number, 0), 0);
            assert_eq!(&*tokens.find(&digest(0)).unwrap().user, "user-0");
        }
        let generations = tokens.generations.lock();
        assert!(generations.younger.len() + generations.older.len() <= 2 * GENERATION);
        assert!(!generations.younger.contains_key(&digest(1)));
    }

    #[test]
    fn a_long_list_of_devices_is_not_kept() {
        let tokens = VerifiedTokens::default();
        tokens.remember(Digest::of("long"), &identity(1, 1_000), 0);
        assert!(tokens.find(&Digest::of("long")).is_none());
    }

    #[test]
    fn what_was_verified_with_keys_that_went_meanwhile_is_not_remembered() {
        let tokens = VerifiedTokens::default();
        let before = tokens.age();
        tokens.remember(Digest::of("known"), &identity(1, 0), before);
        tokens.forget();
        assert!(tokens.find(&Digest::of("known")).is_none());
        tokens.remember(Digest::of("late"), &identity(1, 0), before);
        assert!(tokens.find(&Digest::of("late")).is_none());
        tokens.remember(Digest::of("new"), &identity(1, 0), tokens.age());
        assert!(tokens.find(&Digest::of("new")).is_some());
    }
}
