//! `tidings state`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use clap::Args;
use serde_json::Value;
use tidings_client::StateOptions;
use tidings_protocol::api::TenantState;
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::connect::ConnectArgs;
use super::summary::{summary, time_of, tone, visible};
use super::tail::shortened;
use super::{Outcome, block_on, print};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidings state --types alert_fired            Alerts that are not resolved
  tidings state --device core-1
  tidings state --json | jq .cursor            Where it is true; `tidings tail --after` goes on from there")]
pub(super) struct StateArgs {
    /// The tenant; by default the one that `--tenant` or the access token names
    #[arg(value_name = "TENANT")]
    of: Option<TenantId>,
    /// Only these event types, comma-separated
    #[arg(long, value_delimiter = ',')]
    types: Vec<EventType>,
    /// Only these devices, comma-separated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    device: Vec<DeviceId>,
    /// The server's answer, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: StateArgs) -> Outcome {
    let client = args.connect.client()?;
    let tenant = match args.of {
        Some(tenant) => tenant,
        None => args.connect.required_tenant()?,
    };
    let options = StateOptions {
        types: args.types,
        devices: args.device,
    };
    let state = block_on(async { Ok(client.state(tenant, &options).await?) })?;
    if args.json {
        return print(&serde_json::to_string(&state)?);
    }
    let colours = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&table(&state, colours))
}

fn table(state: &TenantState, colours: bool) -> String {
    let mut table = format!("{:17}  {:20}  {:20}  LAST\n", "TYPE", "DEVICE", "TIME");
    for subject in &state.subjects {
        let data: Value = serde_json::from_str(subject.data.get()).unwrap_or_default();
        let event_type = visible(&subject.event_type);
        let (colour, plain) = if colours {
            (tone(&event_type, &data).escape(), "\x1b[0m")
        } else {
            ("", "")
        };
        let device = shortened(&visible(data["device_id"].as_str().unwrap_or("-")), 20);
        let time = shortened(&visible(time_of(&data).unwrap_or("-")), 20);
        // Writing to a String can't fail.
        let _ = writeln!(
            table,
            "{colour}{event_type:17}{plain}  {device:20}  {time:20}  {}",
            summary(&event_type, &data)
        );
    }
    let count = state.subjects.len();
    let _ = writeln!(table, "{count} subjects at {}", visible(&state.cursor));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_subject_and_says_where_it_is_true() {
        let state: TenantState = serde_json::from_str(
            r#"{"cursor":"1j8.42","subjects":[
                {"type":"device_status","id":"1j8.41","data":{"device_id":"core-1","status":"offline","last_seen":"2026-11-23T18:00:05Z"}},
                {"type":"alert_fired","id":"1j8.7","data":{"severity":"critical","message":"hot\u001b[2J"}}]}"#,
        )
        .unwrap();
        assert_eq!(
            table(&state, false),
            "TYPE               DEVICE                TIME                  LAST\n\
             device_status      core-1                2026-11-23T18:00:05Z  offline\n\
             alert_fired        -                     -                     critical, hot\u{fffd}[2J\n\
             2 subjects at 1j8.42\n"
        );
        assert!(table(&state, true).contains("\x1b[31mdevice_status    \x1b[0m"));
    }
}
