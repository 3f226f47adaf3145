//! `tidings token`.

use std::time::{Duration, SystemTime};

use clap::Args;
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::{Outcome, SettingsArgs, print, values};
use crate::auth::{AccessTokens, NewAccessToken};
use crate::time::unix_seconds;

#[derive(Debug, Args)]
#[command(after_help = "\
Signs with the configured secret (auth.jwt.secret or auth.jwt.secret_file). In production, whoever logs users in \
mints access tokens; this command is for development.

Examples:
  export TIDINGS_TOKEN=$(tidings token)
  tidings token --tenant 11111111-1111-4111-8111-111111111111 --role publisher --lifetime 8h")]
pub(super) struct TokenArgs {
    /// The user's tenant; without it the token is a super admin's
    #[arg(long, value_name = "UUID", env = "TIDINGS_TENANT")]
    tenant: Option<TenantId>,
    /// The user's role; `viewer` with a tenant, else that of a super admin
    #[arg(long)]
    role: Option<String>,
    /// The user's id
    #[arg(long, default_value = "developer")]
    user: String,
    /// How long the token is valid
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = values::interval)]
    lifetime: Duration,
    /// Only these event types, comma-separated
    #[arg(long, value_delimiter = ',')]
    types: Option<Vec<EventType>>,
    /// Only these devices, comma-separated
    #[arg(long, value_delimiter = ',')]
    devices: Option<Vec<DeviceId>>,
    /// Only this device group
    #[arg(long)]
    device_group: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: TokenArgs) -> Outcome {
    let config = args.settings.load()?.config;
    config.require_jwt_key()?;
    let tokens = AccessTokens::from_config(&config.auth)?;
    let role = args.role.unwrap_or_else(|| match args.tenant {
        Some(_) => "viewer".to_owned(),
        None => config.auth.super_admin_role.clone(),
    });
    let token = NewAccessToken {
        user: args.user,
        tenant: args.tenant,
        role,
        lifetime: args.lifetime,
        types: args.types,
        devices: args.devices,
        device_group: args.device_group,
    };
    let text = tokens.mint(&token, unix_seconds(SystemTime::now()))?;
    let whose = token.tenant.map_or_else(
        || "all tenants".to_owned(),
        |tenant| format!("tenant {tenant}"),
    );
    eprintln!(
        "tidings: for development: user {}, role {}, {whose}, valid for {} s",
        token.user,
        token.role,
        token.lifetime.as_secs()
    );
    print(&text)
}
