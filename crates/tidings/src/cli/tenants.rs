//! `tidings tenants`.

use std::time::Duration;

use clap::{Args, Subcommand};
use tidings_client::Client;
use tidings_protocol::TenantId;
use tidings_protocol::operate::TenantInfo;

use super::connect::ConnectArgs;
use super::streams::print_lines;
use super::table::{seconds, size, table};
use super::{Failure, Outcome, block_on, print};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
For operators. A super admin sees all tenants, a tenant's operator its own.

Examples:
  tidings tenants
  tidings tenants --json | jq 'select(.bytes > 1000000000) | .id'
  tidings tenants purge 11111111-1111-4111-8111-111111111111 \\
      --confirm 11111111-1111-4111-8111-111111111111"
)]
pub(super) struct TenantsCommand {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// End a tenant for good: refused and hidden at once, then gone from the disk. Can't be undone
    Purge {
        /// The tenant
        #[arg(value_name = "ID")]
        id: TenantId,
        /// The same id once more
        #[arg(long, value_name = "ID")]
        confirm: TenantId,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(command: TenantsCommand) -> Outcome {
    match command.action {
        Some(Action::Purge {
            id,
            confirm,
            connect,
        }) => purge(&connect, id, confirm),
        None => list(&command.list),
    }
}

fn purge(connect: &ConnectArgs, id: TenantId, confirm: TenantId) -> Outcome {
    let client = connect.client()?;
    let purge = block_on(async { Ok(client.purge_tenant(id, confirm).await?) })?;
    print(&format!(
        "{} is refused and hidden since {}; {} streams were closed. Gone from the disk within {} s: \
         `tidings tenants` tells.",
        purge.tenant_id,
        seconds(&purge.purged_at),
        purge.streams_closed,
        purge.gone_within_seconds
    ))
}

fn list(args: &ListArgs) -> Outcome {
    let client = args.connect.client()?;
    let tenants = block_on(all(&client))?;
    if args.json {
        return print_lines(&tenants);
    }
    if tenants.is_empty() {
        return print("There is no tenant.");
    }
    let rows: Vec<Vec<String>> = tenants.iter().map(row).collect();
    let headings = [
        "TENANT",
        "NAME",
        "EVENTS",
        "BYTES",
        "OLDEST",
        "STREAMS",
        "RETENTION",
        "PURGED",
    ];
    print(&table(&headings, &rows))
}

async fn all(client: &Client) -> Result<Vec<TenantInfo>, Failure> {
    let mut tenants = Vec::new();
    let mut after = None;
    loop {
        let page = client.tenants(after.as_deref(), Some(1000)).await?;
        tenants.extend(page.tenants);
        after = page.next;
        if after.is_none() {
            return Ok(tenants);
        }
    }
}

fn row(tenant: &TenantInfo) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        tenant.id.clone(),
        tenant.name.clone().unwrap_or_else(dash),
        tenant.events.to_string(),
        size(tenant.bytes),
        tenant.oldest_at.as_deref().map_or_else(dash, seconds),
        tenant.streams.to_string(),
        retention(tenant.settings.retention_seconds),
        tenant.purged.as_ref().map_or_else(dash, |purged| {
            let left = if purged.on_disk {
                ", still on the disk"
            } else {
                ""
            };
            format!("{}{left}", seconds(&purged.at))
        }),
    ]
}

/// In the largest unit that divides it.
fn retention(span: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Ok(span) = Duration::try_from_secs_f64(span) else {
        return "?".to_owned();
    };
    if span.is_zero() {
        return "for ever".to_owned();
    }
    let whole = UNITS
        .into_iter()
        .find(|(unit, _)| span.subsec_nanos() == 0 && span.as_secs().is_multiple_of(*unit));
    whole.map_or_else(
        || format!("{} s", span.as_secs_f64()),
        |(unit, name)| format!("{}{name}", span.as_secs() / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_told_in_its_largest_unit() {
        for (span, text) in [
            (0.0, "for ever"),
            (604_800.0, "7d"),
            (5_400.0, "90m"),
            (3_600.0, "1h"),
            (61.0, "61s"),
            (0.5, "0.5 s"),
            (-1.0, "?"),
        ] {
            assert_eq!(retention(span), text);
        }
    }
}
