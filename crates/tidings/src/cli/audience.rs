//! `tidings audience`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use tidings_client::Client;
use tidings_protocol::TenantId;
use tidings_protocol::operate::{Audience, AudienceStream, Outcome as Shown};

use super::connect::ConnectArgs;
use super::streams::print_lines;
use super::summary::visible;
use super::table::{seconds, table};
use super::{Failure, Outcome, block_on, print};

#[derive(Debug, Args)]
#[command(after_help = "\
For operators. Tells which open and lately ended streams were shown an event, and what kept it from the others.

Examples:
  tidings audience 1j8.42
  tidings audience 1j8.42 --json | jq -r 'select(.outcome == \"sent\").user_id'")]
pub(super) struct AudienceArgs {
    /// The event's id, as `tidings tail --json` shows it
    cursor: String,
    /// One JSON object a line, for each stream
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: &AudienceArgs) -> Outcome {
    let client = args.connect.client()?;
    let tenant = args.connect.required_tenant()?;
    let audience = block_on(whole(&client, tenant, &args.cursor))?;
    if args.json {
        return print_lines(&audience.streams);
    }
    print(&described(&audience))
}

async fn whole(client: &Client, tenant: TenantId, cursor: &str) -> Result<Audience, Failure> {
    let mut audience = client.audience(tenant, cursor, None, Some(1000)).await?;
    while let Some(after) = audience.next.take() {
        let page = client
            .audience(tenant, cursor, Some(&after), Some(1000))
            .await?;
        audience.streams.extend(page.streams);
        audience.next = page.next;
    }
    Ok(audience)
}

fn described(audience: &Audience) -> String {
    let event = &audience.event;
    let device = event.device_id.as_deref().unwrap_or("no device");
    let mut text = format!(
        "{} {}, {}, {}\n\n",
        visible(&event.id),
        visible(&event.event_type),
        visible(device),
        seconds(&event.time)
    );
    let mut streams: Vec<&AudienceStream> = audience.streams.iter().collect();
    // Who was shown it comes first.
    streams.sort_by_key(|stream| (stream.outcome != Shown::Sent, stream.outcome.as_str()));
    if !streams.is_empty() {
        let rows: Vec<Vec<String>> = streams.iter().map(|stream| row(stream)).collect();
        let headings = [
            "OUTCOME", "STREAM", "USER", "ROLE", "OPENED", "CLOSED", "BECAUSE", "FROM",
        ];
        text.push_str(&table(&headings, &rows));
        text.push('\n');
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for stream in &streams {
        *counts.entry(stream.outcome.as_str()).or_default() += 1;
    }
    let sent = counts.remove(Shown::Sent.as_str()).unwrap_or_default();
    let _ = write!(text, "Sent to {sent} of {} streams", streams.len());
    for (outcome, count) in counts {
        let _ = write!(text, ", {count} {outcome}");
    }
    let _ = writeln!(
        text,
        ". Streams that ended before {} may be missing.",
        seconds(&audience.complete_since)
    );
    text
}

fn row(stream: &AudienceStream) -> Vec<String> {
    let closed = stream.closed_at.as_deref();
    vec![
        stream.outcome.as_str().to_owned(),
        stream.connection_id.clone(),
        stream.user_id.clone(),
        stream.role.clone(),
        seconds(&stream.opened_at),
        closed.map_or_else(|| "-".to_owned(), seconds),
        stream.closed_because.clone().unwrap_or("-".to_owned()),
        stream.remote_address.clone(),
    ]
}
