//! `tidings audit`.

use std::process::ExitCode;

use clap::Args;
use tidings_client::AuditOptions;
use tidings_protocol::audit::AuditEntry;

use super::connect::ConnectArgs;
use super::streams::print_lines;
use super::table::{seconds, table};
use super::{Outcome, block_on, print, values};

/// How many entries are asked for at once.
const PAGE: u16 = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "\
For operators. A super admin is told everything, a tenant's operator what is of its tenant. Of several nodes each has \
an audit log of its own: name one with --url.

Examples:
  tidings audit --since 1h
  tidings audit --json --since 30d > audit.ndjson
  tidings audit --json | jq 'select(.what == \"stream_refused\")'")]
pub(super) struct AuditArgs {
    /// Begin here: a time (RFC 3339), or a span that reaches back from now
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = values::moment)]
    since: String,
    /// End before this time
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    until: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: AuditArgs) -> Outcome {
    let client = args.connect.client()?;
    let mut options = AuditOptions {
        tenant: args.connect.tenant(),
        after: None,
        since: Some(args.since),
        until: args.until,
        limit: Some(PAGE),
    };
    loop {
        let page = block_on(async { Ok(client.audit(&options).await?) })?;
        let Some(last) = page.last() else {
            return Ok(ExitCode::SUCCESS);
        };
        if args.json {
            print_lines(&page)?;
        } else {
            let rows: Vec<Vec<String>> = page.iter().map(row).collect();
            print(&table(
                &["TIME", "WHAT", "WHO", "FROM", "TENANT", "DETAILS"],
                &rows,
            ))?;
        }
        options.after = Some(last.id);
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let what = serde_json::to_value(entry.what).unwrap_or_default();
    let key = entry.key_id.as_ref().map(|id| format!("key {id}"));
    let who = key.or_else(|| entry.user_id.clone());
    let tenant = entry.tenant_id.map(|tenant| tenant.to_string());
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        seconds(&entry.time),
        what.as_str().unwrap_or_default().to_owned(),
        text(who),
        text(entry.address.clone()),
        text(tenant.map(|tenant| tenant.chars().take(8).collect())),
        details(entry),
    ]
}

fn details(entry: &AuditEntry) -> String {
    let numbers = [
        (entry.status.map(u64::from), "status"),
        (entry.count, "count"),
        (entry.events, "events"),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(number, name)| Some(format!("{name} {}", number?)));
    let texts = [&entry.target, &entry.connection_id, &entry.reason];
    let texts = texts.into_iter().flatten().cloned();
    let all: Vec<String> = numbers.chain(texts).collect();
    all.join(", ")
}
