//! When the process is asked to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. The signals are watched from this call on, not from the first poll, so
/// that one which comes while the server starts is not lost on the way or taken as the order to die.
///
/// # Errors
///
/// When the signals can't be watched. Outside of a Tokio runtime it panics.
pub fn requested() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
