//! `tidings streams`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tidings_client::{Client, StreamListOptions};
use tidings_protocol::operate::{StreamInfo, StreamView};

use super::connect::ConnectArgs;
use super::table::{seconds, size, table};
use super::{Failure, Outcome, block_on, print, revoke};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
For operators. A tenant's operator sees the streams of its tenant, but none of a super admin.

Examples:
  tidings streams
  tidings streams --user ada --json | jq .lag_seconds
  tidings streams close sse-1f0c9a7be210
  tidings streams revoke --user ada"
)]
pub(super) struct StreamsCommand {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Disconnect streams; whoever has a valid access token may come back at once
    Close {
        /// The connection ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Revoke the access tokens of a user, or without --user of all of the tenant's, that were issued up to now, and
    /// end the streams that they opened
    Revoke {
        /// The user; without a tenant, everybody of this id in all tenants
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only streams of this user
    #[arg(long)]
    user: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(command: StreamsCommand) -> Outcome {
    match command.action {
        Some(Action::Close { ids, connect }) => {
            let client = connect.client()?;
            block_on(async {
                for id in &ids {
                    client
                        .disconnect(id)
                        .await
                        .map_err(|error| Failure::new(format!("{id}: {error}")))?;
                }
                Ok(ExitCode::SUCCESS)
            })
        }
        Some(Action::Revoke { user, connect }) => match user {
            Some(user) => revoke::user(&user, &connect),
            None => revoke::tenant(&connect),
        },
        None => list(command.list),
    }
}

fn list(args: ListArgs) -> Outcome {
    let client = args.connect.client()?;
    let options = StreamListOptions {
        tenant: args.connect.tenant(),
        user: args.user,
        limit: Some(1000),
        after: None,
    };
    let streams = block_on(all(&client, options))?;
    if args.json {
        return print_lines(&streams);
    }
    if streams.is_empty() {
        return print("No stream is open.");
    }
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    let headings = [
        "STREAM", "USER", "ROLE", "SEES", "CURSOR", "LAG", "EVENTS", "BYTES", "OPENED", "FROM",
    ];
    print(&table(&headings, &rows))
}

async fn all(client: &Client, mut options: StreamListOptions) -> Result<Vec<StreamInfo>, Failure> {
    let mut streams = Vec::new();
    loop {
        let page = client.open_streams(&options).await?;
        streams.extend(page.streams);
        options.after = page.next;
        if options.after.is_none() {
            return Ok(streams);
        }
    }
}

/// Prints one JSON object a line, and nothing where there is none.
pub(super) fn print_lines<T: serde::Serialize>(items: &[T]) -> Outcome {
    if items.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(item)?);
        text.push('\n');
    }
    print(&text)
}

fn row(stream: &StreamInfo) -> Vec<String> {
    vec![
        stream.connection_id.clone(),
        stream.user_id.clone(),
        stream.role.clone(),
        sees(&stream.view),
        stream.cursor.clone(),
        lag(stream),
        stream.events.to_string(),
        size(stream.bytes),
        seconds(&stream.opened_at),
        stream.remote_address.clone(),
    ]
}

fn lag(stream: &StreamInfo) -> String {
    if stream.lag_events == 0 && stream.lag_exact {
        return "-".to_owned();
    }
    let more = if stream.lag_exact { "" } else { "+" };
    format!(
        "{}{more} events, {:.1} s",
        stream.lag_events, stream.lag_seconds
    )
}

/// A view in few words: the tenant, and how many of what it is bounded to.
fn sees(view: &StreamView) -> String {
    let tenant = view.tenant_id.as_deref();
    let mut words = vec![tenant.map_or_else(
        || "all tenants".to_owned(),
        |tenant| tenant.chars().take(8).collect(),
    )];
    let lists = [
        (&view.types_claim, "types"),
        (&view.devices_claim, "devices"),
        (&view.types_filter, "types asked for"),
        (&view.device_filter, "devices asked for"),
    ];
    for (list, what) in lists {
        if let Some(list) = list {
            words.push(match &list[..] {
                [one] => one.clone(),
                list => format!("{} {what}", list.len()),
            });
        }
    }
    if let Some(group) = &view.device_group {
        words.push(format!("group {group}"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_told_in_few_words() {
        let mut view = StreamView::default();
        assert_eq!(sees(&view), "all tenants");
        view.tenant_id = Some("11111111-1111-4111-8111-111111111111".to_owned());
        view.types_claim = Some(vec!["alert_fired".to_owned()]);
        view.devices_claim = Some(vec!["r1".to_owned(), "r2".to_owned()]);
        view.device_group = Some("north".to_owned());
        assert_eq!(sees(&view), "11111111, alert_fired, 2 devices, group north");
    }
}
