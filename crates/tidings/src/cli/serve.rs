//! `tidings serve`.

use std::process::ExitCode;

use clap::Args;

use super::{Outcome, SettingsArgs, block_on};
use crate::server::{Listeners, Server};

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
    let loaded = args.settings.load()?;
    loaded.config.require_jwt_key()?;
    crate::logging::start(&loaded.config.logging);
    let listeners = Listeners::bind(&loaded.config)?;
    block_on(async {
        let stop = crate::shutdown::requested()?;
        let server = Server::start(loaded.config, listeners).await?;
        stop.await;
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
