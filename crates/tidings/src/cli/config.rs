//! `tidings config`.

use clap::{Args, Subcommand};

use super::{Outcome, SettingsArgs, print};
use crate::auth::AccessTokens;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidings config check --config tidings.toml
  TIDINGS_STREAM__HEARTBEAT=5s tidings config show
  tidings config default > tidings.toml")]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say whether a server could start with this configuration, and all that is wrong with it otherwise
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Show the effective values and where each came from; secrets are masked
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Print a configuration file with every key at its default
    Default,
    /// Describe every key, as Markdown
    Reference,
}

pub(super) fn run(command: ConfigCommand) -> Outcome {
    match command.action {
        Action::Check { settings } => {
            let loaded = settings.load()?;
            let locate = |error| loaded.settings.locate(error);
            loaded.config.require_jwt_key().map_err(locate)?;
            // Key files are read here, as the server would.
            let tokens = AccessTokens::from_config(&loaded.config.auth).map_err(locate)?;
            for warning in tokens.warnings() {
                eprintln!("tidings: {warning}");
            }
            print("The configuration is good.")
        }
        Action::Show { settings, json } => {
            let settings = settings.load()?.settings;
            if json {
                print(&serde_json::to_string_pretty(&settings.json())?)
            } else {
                print(&settings.table())
            }
        }
        Action::Default => print(&crate::config::default_toml()),
        Action::Reference => print(&crate::config::configuration_reference()),
    }
}
