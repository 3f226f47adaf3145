//! Whether what streams are shown is live: whether the log can be appended to and, in a mirror, whether its
//! sources are followed.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tidings_log::Health;

use super::Follower;

/// Why what is shown may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Since when, in microseconds since the Unix epoch.
    pub since: i64,
    /// Why, for people.
    pub reason: String,
}

/// Puts together what is known, and tells the followers when it changes.
#[derive(Default)]
pub struct Liveness {
    known: Mutex<Known>,
    followers: OnceLock<Vec<Arc<dyn Follower>>>,
}

#[derive(Default)]
struct Known {
    log: Option<Stale>,
    sources: Option<Stale>,
}

impl Known {
    /// The log's trouble first: without it nothing that the sources bring can be shown.
    fn together(&self) -> Option<&Stale> {
        self.log.as_ref().or(self.sources.as_ref())
    }
}

impl Liveness {
    /// Names those who are told, once, and tells them how it is.
    pub fn follow(&self, followers: Vec<Arc<dyn Follower>>) {
        let known = self.known.lock();
        let _ = self.followers.set(followers);
        self.tell(known.together());
    }

    /// How the log is.
    pub fn log_is(&self, health: &Health) {
        let stale = match health {
            Health::Healthy => None,
            Health::Full { since, reason } | Health::Failed { since, reason } => Some(Stale {
                since: *since,
                reason: reason.clone(),
            }),
        };
        self.change(|known| known.log = stale);
    }

    /// How the sources are; `None` when all that are there are followed.
    pub fn sources_are(&self, stale: Option<Stale>) {
        self.change(|known| known.sources = stale);
    }

    /// Whether streams are told that what they show may be old.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.known.lock().together().is_some()
    }

    /// Why the sources are not followed, if they are not.
    #[must_use]
    pub fn sources(&self) -> Option<Stale> {
        self.known.lock().sources.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        let before = known.together().cloned();
        change(&mut known);
        if known.together() != before.as_ref() {
            self.tell(known.together());
        }
    }

    fn tell(&self, stale: Option<&Stale>) {
        for follower in self.each() {
            follower.liveness_changed(stale);
        }
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &Arc<dyn Follower>> {
        self.followers.get().into_iter().flatten()
    }
}

impl std::fmt::Debug for Liveness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.known.lock();
        formatter
            .debug_struct("Liveness")
            .field("log", &known.log)
            .field("sources", &known.sources)
            .finish_non_exhaustive()
    }
}
