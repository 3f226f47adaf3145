//! The watchdog: a sign of life to the service manager, given only while the engines, the log and the threads that
//! answer requests all move. A manager that gets none for long enough starts the server anew.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use tidings_log::Health;
use tokio::runtime::Handle;

use super::Supervisor;
use crate::app::App;
use crate::shutdown::Stage;

/// What does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// No thread that answers requests came to a task.
    Requests,
    /// An engine thread did not wake.
    Engine,
    /// The log's writer did not come back for work.
    Log,
    /// The log has failed, which only a restart mends.
    LogFailed,
}

impl fmt::Display for Stuck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Requests => "no thread that answers requests moves",
            Self::Engine => "an engine thread does not move",
            Self::Log => "the log's writer does not move",
            Self::LogFailed => "the log has failed",
        })
    }
}

/// Whether everything has moved since it was looked at last. Each look gives everything a push, so that what has
/// nothing to do moves too.
pub struct Pulse {
    app: Arc<App>,
    runtime: Handle,
    /// Counted up by a task that each look starts.
    tasks: Arc<AtomicU64>,
    seen: Option<Counts>,
}

#[derive(Debug)]
struct Counts {
    tasks: u64,
    engines: Vec<u64>,
    log: u64,
}

impl Pulse {
    /// Of a server whose requests are answered on this runtime.
    #[must_use]
    pub fn of(app: &Arc<App>, runtime: Handle) -> Self {
        Self {
            app: Arc::clone(app),
            runtime,
            tasks: Arc::default(),
            seen: None,
        }
    }

    /// Looks, and pushes. The first look finds everything well.
    ///
    /// # Errors
    ///
    /// What has not moved since the last look.
    pub fn look(&mut self) -> Result<(), Stuck> {
        let counts = Counts {
            tasks: self.tasks.load(Ordering::Relaxed),
            engines: self.app.engines.pulse(),
            log: self.app.log.pulse(),
        };
        let tasks = Arc::clone(&self.tasks);
        self.runtime.spawn(async move {
            tasks.fetch_add(1, Ordering::Relaxed);
        });
        let moved = match &self.seen {
            // At the end threads are to stand still.
            Some(before) if self.app.life.stage() < Stage::Stopping => moved(before, &counts),
            _ => Ok(()),
        };
        self.seen = Some(counts);
        moved?;
        match self.app.log.health() {
            Health::Failed { .. } => Err(Stuck::LogFailed),
            Health::Healthy | Health::Full { .. } => Ok(()),
        }
    }
}

fn moved(before: &Counts, now: &Counts) -> Result<(), Stuck> {
    if before.tasks == now.tasks {
        return Err(Stuck::Requests);
    }
    let mut engines = before.engines.iter().zip(&now.engines);
    if engines.any(|(before, now)| before == now) {
        return Err(Stuck::Engine);
    }
    if before.log == now.log {
        return Err(Stuck::Log);
    }
    Ok(())
}

/// A thread that gives the signs of life. Dropping it ends them.
#[derive(Debug)]
pub struct Watchdog {
    _ends: Sender<()>,
}

impl Watchdog {
    /// Begins, where the manager wants signs of life: three in the time that it waits for one.
    #[must_use]
    pub fn start(supervisor: &Arc<Supervisor>, mut pulse: Pulse) -> Option<Self> {
        let every = supervisor.watchdog()? / 3;
        let supervisor = Arc::clone(supervisor);
        let (ends, ended) = channel();
        let spawned = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                let mut stuck = None;
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    let now = pulse.look().err();
                    match now {
                        None => supervisor.alive(),
                        Some(what) if stuck != now => {
                            tracing::error!("the service manager's watchdog is not fed: {what}");
                        }
                        Some(_) => {}
                    }
                    stuck = now;
                }
            });
        match spawned {
            Ok(_) => Some(Self { _ends: ends }),
            Err(error) => {
                tracing::error!(%error, "the watchdog can't be fed");
                None
            }
        }
    }
}
