//! What the server writes about itself: structured lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingConfig};

/// Sets up the process's log. A second call in one process changes nothing.
pub fn start(config: &LoggingConfig) {
    let filter = EnvFilter::builder().parse_lossy(&config.level);
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
