//! Descriptors: each open stream takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this many a server is likely to run out before anything else does.
pub(crate) const COMFORTABLE: u64 = 65_536;

/// What the process keeps for itself: log, listeners, engines, connections that are no streams.
pub(crate) const RESERVED: u64 = 512;

/// Raises the process's limit as far as it may itself, and says when that is little.
pub fn raise_limit() {
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
    if let Some(limit) = effective.filter(|&limit| limit < COMFORTABLE) {
        tracing::warn!(
            limit,
            streams = limit.saturating_sub(RESERVED),
            "few descriptors: about so many streams fit; raise the limit (LimitNOFILE= of systemd, ulimit -n)"
        );
    }
}
