//! `tidings serve`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Outcome, SettingsArgs, block_on};
use crate::config;
use crate::reload::Reloading;
use crate::server::{Listeners, Server};
use crate::shutdown::Orders;
use crate::supervisor::Supervisor;
use crate::supervisor::watchdog::{Pulse, Watchdog};

#[derive(Debug, Args)]
#[command(after_help = "\
Every key can be set in the file, as a variable (TIDINGS_STREAM__HEARTBEAT=5s) or with --set, in rising order; \
`tidings config reference` describes them.

Examples:
  TIDINGS_AUTH__JWT__SECRET_FILE=/etc/tidings/secret tidings serve --listen 0.0.0.0:8080
  tidings serve --config tidings.toml --set stream.heartbeat=5s")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(args: &ServeArgs) -> Outcome {
    let sources = args.settings.sources();
    let loaded = config::load(&sources).map_err(Failure::new)?;
    loaded.config.require_jwt_key()?;
    crate::logging::start(&loaded.config.logging);
    let listeners = Listeners::take(&loaded.config)?;
    let supervisor = Arc::new(Supervisor::of_process());
    block_on(async {
        let mut orders = Orders::watch()?;
        let mut hangups = signal(SignalKind::hangup())?;
        let server = Server::start(loaded.config, listeners).await?;
        let pulse = Pulse::of(server.app(), Handle::current());
        let _watchdog = Watchdog::start(&supervisor, pulse);
        supervisor.ready(&format!("serving on {}", server.address()));
        let mut reloading = Reloading::new(&server, sources, loaded.settings);
        loop {
            tokio::select! {
                () = orders.next() => break,
                _ = hangups.recv() => reloading.obey(&supervisor),
            }
        }
        supervisor.stopping(server.stop_takes());
        server.stop(&mut orders).await;
        Ok(ExitCode::SUCCESS)
    })
}
