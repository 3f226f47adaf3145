//! What the server writes about itself: structured lines on standard error.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingConfig};

/// Changes the level of the log that was set up.
type SetLevel = Box<dyn Fn(EnvFilter) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Sets up the process's log. A second call in one process changes nothing.
pub fn start(config: &LoggingConfig) {
    let filter = EnvFilter::builder().parse_lossy(filter(&config.level));
    let terminal = std::io::stderr().is_terminal();
    let pretty = match config.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // Colours only on a terminal, and not where the user asked for none.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Where another subscriber is there already, as in tests, that one stays.
    if pretty {
        let builder = builder.with_ansi(colours).with_env_filter(filter);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            keep(move |filter| handle.reload(filter));
        }
    } else {
        let builder = builder
            .json()
            .flatten_event(true)
            .with_env_filter(filter)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            keep(move |filter| handle.reload(filter));
        }
    }
}

fn keep<E: std::fmt::Display>(set: impl Fn(EnvFilter) -> Result<(), E> + Send + Sync + 'static) {
    let set = move |filter| {
        if let Err(error) = set(filter) {
            tracing::error!(%error, "the level of the log can't be changed");
        }
    };
    // It is set up once.
    let _ = SET_LEVEL.set(Box::new(set));
}

/// From now on writes what this level asks for. Without a log of ours that is nothing.
pub fn set_level(level: &str) {
    if let Some(set) = SET_LEVEL.get() {
        set(EnvFilter::builder().parse_lossy(filter(level)));
    }
}

/// The client of NATS writes a line for each attempt to connect; what matters of it, [`crate::nats`] says. Who
/// asks for its lines gets them.
fn filter(level: &str) -> String {
    if level.contains("async_nats") {
        level.to_owned()
    } else {
        format!("{level},async_nats=off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_nats_is_silent_unless_it_is_asked_for() {
        assert_eq!(filter("info"), "info,async_nats=off");
        assert_eq!(filter("warn,async_nats=debug"), "warn,async_nats=debug");
    }
}
