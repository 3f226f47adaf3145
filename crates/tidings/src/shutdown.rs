//! When the process is asked to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the process to end, watched from when this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Watches SIGTERM and SIGINT. Made before a server starts, so that a signal that comes early
    /// is not lost.
    ///
    /// # Errors
    ///
    /// When the signals can't be watched.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for SIGTERM or SIGINT, for what has nothing to set up before.
///
/// # Errors
///
/// When the signals can't be watched.
pub async fn requested() -> io::Result<()> {
    Signals::watch()?.received().await;
    Ok(())
}
