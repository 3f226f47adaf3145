//! How the process ends: the orders to, and how far it has come since.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::SystemTime;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::time::unix_microseconds;

/// SIGTERM and SIGINT. They are watched from [`Orders::watch`] on, not from the first question, so that one that
/// comes while the server starts is neither lost nor taken as the order to die.
#[derive(Debug)]
pub struct Orders {
    terminate: Signal,
    interrupt: Signal,
}

impl Orders {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When the signals can't be watched. Outside of a Tokio runtime it panics.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next order to end. Several that come at once can be one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for the first order to end, for those who end at once.
///
/// # Errors
///
/// As [`Orders::watch`].
pub fn requested() -> io::Result<impl Future<Output = ()>> {
    let mut orders = Orders::watch()?;
    Ok(async move { orders.next().await })
}

/// How far a server is on its way out. Each stage follows the one before it; there is no way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// It was not asked to end.
    Serving,
    /// It says that it is not ready and does everything as before, until load balancers have seen that.
    Leaving,
    /// Streams leave, and no new one opens; all else is answered as before.
    Draining,
    /// No new connections; what is under way ends.
    Stopping,
}

const STAGES: [Stage; 4] = [
    Stage::Serving,
    Stage::Leaving,
    Stage::Draining,
    Stage::Stopping,
];

/// The stage that a server is in. Written by who ends it, read by all who serve.
#[derive(Debug, Default)]
pub struct Life {
    stage: AtomicU8,
    /// When it was asked to end, in microseconds since the Unix epoch.
    leaving_since: AtomicI64,
}

impl Life {
    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        STAGES[usize::from(self.stage.load(Ordering::Acquire))]
    }

    /// Since when it is on its way out, in microseconds since the Unix epoch, if it is.
    #[must_use]
    pub fn leaving_since(&self) -> Option<i64> {
        (self.stage() > Stage::Serving).then(|| self.leaving_since.load(Ordering::Relaxed))
    }

    /// Whether no stream opens here any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stage() >= Stage::Draining
    }

    /// Goes on to a stage, which is behind the one that it is in.
    pub fn enter(&self, stage: Stage) {
        if self.stage() == Stage::Serving {
            let now = unix_microseconds(SystemTime::now());
            self.leaving_since.store(now, Ordering::Relaxed);
        }
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_one_way_and_knows_since_when_it_ends() {
        let life = Life::default();
        assert_eq!((life.stage(), life.leaving_since()), (Stage::Serving, None));
        life.enter(Stage::Leaving);
        let since = life.leaving_since().unwrap();
        assert!(since > 0 && !life.is_draining());
        life.enter(Stage::Draining);
        life.enter(Stage::Leaving);
        assert_eq!(life.stage(), Stage::Draining);
        assert_eq!(life.leaving_since(), Some(since));
        assert!(life.is_draining());
    }
}
