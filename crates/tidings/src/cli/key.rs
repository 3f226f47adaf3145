//! `tidings key`.

use clap::Args;
use secrecy::ExposeSecret as _;
use tidings_protocol::{EventType, TenantId};

use super::{Failure, Outcome, print};
use crate::auth::NewPublisherKey;
use crate::config::Bound;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints the key, which nobody can show again, and the entry for the server's configuration, which holds its hash \
only.

Example:
  tidings key poller-1 --tenant 11111111-1111-4111-8111-111111111111 --types device_status,metric_update")]
pub(super) struct KeyArgs {
    /// The publisher's name: up to 64 letters, digits, dots and hyphens
    id: String,
    /// The tenants that it may publish to, comma-separated
    #[arg(
        long,
        value_name = "UUID",
        value_delimiter = ',',
        required_unless_present = "all_tenants"
    )]
    tenant: Vec<TenantId>,
    /// It may publish to every tenant
    #[arg(long, conflicts_with = "tenant")]
    all_tenants: bool,
    /// The event types that it may publish, comma-separated; all without it
    #[arg(long, value_delimiter = ',')]
    types: Option<Vec<EventType>>,
}

pub(super) fn run(args: KeyArgs) -> Outcome {
    let tenants = if args.all_tenants {
        Bound::All
    } else {
        Bound::Only(args.tenant.into())
    };
    let types = args
        .types
        .map_or(Bound::All, |types| Bound::Only(types.into()));
    let made = NewPublisherKey::generate(&args.id, tenants, types).map_err(Failure::new)?;
    eprintln!(
        "tidings: the key is shown only now; the entry below it belongs into the configuration"
    );
    print(&format!("{}\n\n{}", made.key.expose_secret(), made.toml()))
}
