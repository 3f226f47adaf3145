//! `tidings keys`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use tidings_protocol::EventType;
use tidings_protocol::keys::{IssuedKey, KeyInfo, KeyRotation, NewKey};

use super::connect::ConnectArgs;
use super::streams::print_lines;
use super::table::{seconds, table};
use super::{Failure, Outcome, block_on, print, values};
use crate::time::{rfc3339, unix_microseconds};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
For operators. A key is shown once, on standard output, and kept as a hash. `tidings key` makes one for the \
configuration instead.

Examples:
  tidings keys
  tidings keys create poller-1 --types device_status,metric_update > poller-1.key
  tidings keys rotate 4f0c9a7be2103d58 --overlap 1d > poller-1.key
  tidings keys revoke 4f0c9a7be2103d58"
)]
pub(super) struct KeysCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key for a publisher of the tenant
    Create {
        /// What people call it
        name: String,
        /// It may publish to every tenant, instead of to --tenant
        #[arg(long)]
        all_tenants: bool,
        /// The event types that it may publish, comma-separated; all without it
        #[arg(long, value_delimiter = ',')]
        types: Option<Vec<EventType>>,
        /// How long it is good, such as 90d; for ever without it
        #[arg(long, value_name = "SPAN", value_parser = values::interval)]
        lifetime: Option<Duration>,
        /// The events that it may publish a second
        #[arg(long, value_name = "NUMBER")]
        rate: Option<u32>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Give a key a new secret
    Rotate {
        /// The key's id
        id: String,
        /// For how long the secret of before stays good
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = values::span)]
        overlap: Duration,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Revoke keys, for good
    Revoke {
        /// The keys' ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

pub(super) fn run(command: KeysCommand) -> Outcome {
    match command.action {
        None => list(command.json, &command.connect),
        Some(Action::Create {
            name,
            all_tenants,
            types,
            lifetime,
            rate,
            connect,
        }) => {
            let client = connect.client()?;
            let end = lifetime.map(|lifetime| SystemTime::now() + lifetime);
            let key = NewKey {
                name,
                tenants: if all_tenants {
                    None
                } else {
                    Some(vec![connect.required_tenant()?])
                },
                all_tenants,
                types,
                expires_at: end.map(|end| rfc3339(unix_microseconds(end))),
                publish_rate: rate,
            };
            let issued = block_on(async { Ok(client.create_key(&key).await?) })?;
            show(&issued)
        }
        Some(Action::Rotate {
            id,
            overlap,
            connect,
        }) => {
            let client = connect.client()?;
            let seconds = u32::try_from(overlap.as_secs()).unwrap_or(u32::MAX);
            let rotation = KeyRotation {
                overlap_seconds: Some(seconds),
            };
            let issued = block_on(async { Ok(client.rotate_key(&id, &rotation).await?) })?;
            show(&issued)
        }
        Some(Action::Revoke { ids, connect }) => {
            let client = connect.client()?;
            block_on(async {
                for id in &ids {
                    client
                        .revoke_key(id)
                        .await
                        .map_err(|error| Failure::new(format!("{id}: {error}")))?;
                }
                Ok(ExitCode::SUCCESS)
            })
        }
    }
}

fn show(issued: &IssuedKey) -> Outcome {
    let old = issued.info.old_secret_until.as_deref();
    let old = old.map_or_else(String::new, |until| {
        format!("; the one of before is good until {}", seconds(until))
    });
    eprintln!("tidings: the key {} is shown only now{old}", issued.info.id);
    print(&issued.key)
}

fn list(json: bool, connect: &ConnectArgs) -> Outcome {
    let client = connect.client()?;
    let keys = block_on(async { Ok(client.keys().await?) })?.keys;
    if json {
        return print_lines(&keys);
    }
    if keys.is_empty() {
        return print("There is no API key.");
    }
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let headings = [
        "KEY",
        "NAME",
        "TENANTS",
        "TYPES",
        "CREATED",
        "BY",
        "LAST USED",
        "STATE",
    ];
    print(&table(&headings, &rows))
}

fn row(key: &KeyInfo) -> Vec<String> {
    let time = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), seconds);
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        key.id.clone(),
        text(&key.name),
        few(key.tenants.as_deref(), "tenants"),
        few(key.types.as_deref(), "types"),
        time(&key.created_at),
        text(&key.created_by),
        time(&key.last_used_at),
        state(key),
    ]
}

fn few(items: Option<&[String]>, what: &str) -> String {
    match items {
        None => "all".to_owned(),
        Some([one]) => one.clone(),
        Some(items) => format!("{} {what}", items.len()),
    }
}

fn state(key: &KeyInfo) -> String {
    match (&key.revoked_at, &key.expires_at, &key.old_secret_until) {
        (Some(at), ..) => format!("revoked {}", seconds(at)),
        (None, Some(end), _) => format!("until {}", seconds(end)),
        (None, None, Some(until)) => format!("rotated, overlap until {}", seconds(until)),
        _ if key.configured => "configured".to_owned(),
        _ => "good".to_owned(),
    }
}
