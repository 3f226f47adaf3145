//! What the server writes about itself: structured lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingConfig};

/// Sets up the process's log. A second call in one process changes nothing.
pub fn start(config: &LoggingConfig) {
    let filter = EnvFilter::builder().parse_lossy(filter(&config.level));
    let terminal = std::io::stderr().is_terminal();
    let pretty = match config.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Colours only on a terminal, and not where the user asked for none.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let set = if pretty {
        builder.with_ansi(colours).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // Another subscriber is there already, as in tests.
    drop(set);
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
