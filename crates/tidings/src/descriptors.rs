//! Descriptors: each connection takes one, and so do the log's files, the broker's connections and the admin
//! listener's. The public listener turns connections away before it takes the last of them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::time::unix_microseconds;

/// Below this many a server is likely to run out before anything else does.
pub(crate) const COMFORTABLE: u64 = 65_536;

/// What the process keeps for itself at most.
const RESERVED: u64 = 512;

/// How many connections are told at a time that they are one too many, at most.
const PLACES_TO_REFUSE: u64 = 64;

/// How many descriptors there are, and how many of them are for connections.
///
/// Nothing is counted: the kernel gives the lowest number that is free (POSIX), so the number of a new descriptor
/// is at most as many as are open.
#[derive(Debug)]
pub struct Descriptors {
    /// `u64::MAX` where there is no limit.
    limit: u64,
    /// Since when connections are turned away, in microseconds since the Unix epoch; 0 while they are not.
    short_since: AtomicI64,
}

impl Descriptors {
    /// Raises the process's limit as far as it may itself, and says when that is little.
    #[must_use]
    pub fn raised() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let mut effective = current;
        if current != maximum {
            match setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: maximum,
                    maximum,
                },
            ) {
                Ok(()) => effective = maximum,
                Err(error) => tracing::warn!(%error, "the limit on descriptors can't be raised"),
            }
        }
        // No limit at all is `None`.
        let descriptors = Self::new(effective.unwrap_or(u64::MAX));
        if descriptors.limit < COMFORTABLE {
            tracing::warn!(
                limit = descriptors.limit,
                streams = descriptors.for_connections(),
                "few descriptors: about so many streams fit; raise the limit (LimitNOFILE= of systemd, ulimit -n)"
            );
        }
        descriptors
    }

    fn new(limit: u64) -> Self {
        Self {
            limit,
            short_since: AtomicI64::new(0),
        }
    }

    /// What the process keeps for itself: a quarter where there are few.
    fn reserve(&self) -> u64 {
        RESERVED.min(self.limit / 4)
    }

    /// How many connections a limit leaves room for.
    pub(crate) fn room(limit: u64) -> u64 {
        Self::new(limit).for_connections()
    }

    /// Connections get descriptors below this number.
    fn for_connections(&self) -> u64 {
        self.limit - self.reserve()
    }

    /// How many connections may be told at a time that there is no room for them.
    #[must_use]
    pub fn places_to_refuse(&self) -> usize {
        let places = PLACES_TO_REFUSE.min(self.reserve() / 4);
        usize::try_from(places).unwrap_or(0)
    }

    /// Whether a connection that was accepted as this descriptor can stay.
    pub fn admit(&self, descriptor: RawFd) -> bool {
        let admitted =
            u64::try_from(descriptor).is_ok_and(|number| number < self.for_connections());
        let was_short = self.short_since.load(Ordering::Relaxed) != 0;
        if admitted && was_short {
            self.short_since.store(0, Ordering::Relaxed);
            tracing::info!("descriptors_left");
        } else if !admitted && !was_short {
            let now = unix_microseconds(SystemTime::now());
            self.short_since.store(now, Ordering::Relaxed);
            tracing::warn!(
                limit = self.limit,
                "descriptors_short: connections are answered 503; raise the limit (LimitNOFILE= of systemd, ulimit -n)"
            );
        }
        admitted
    }

    /// Since when connections are turned away, in microseconds since the Unix epoch, if they are.
    #[must_use]
    pub fn short_since(&self) -> Option<i64> {
        Some(self.short_since.load(Ordering::Relaxed)).filter(|&since| since != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_however_few_there_are() {
        let few = Descriptors::new(256);
        assert!(few.admit(191) && !few.admit(192));
        assert!(few.short_since().is_some());
        assert!(few.admit(7), "one was closed");
        assert_eq!(few.short_since(), None);
        assert_eq!(few.places_to_refuse(), 16);
        let many = Descriptors::new(1 << 20);
        assert!(many.admit((1 << 20) - 513) && !many.admit((1 << 20) - 512));
        assert_eq!(many.places_to_refuse(), 64);
        assert!(Descriptors::new(u64::MAX).admit(RawFd::MAX));
    }
}
