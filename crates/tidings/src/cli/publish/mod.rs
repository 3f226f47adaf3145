//! `tidings publish`.

mod input;
mod sender;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::value::RawValue;
use tidings_client::NewEvent;
use tidings_protocol::{DeviceId, EventType};

use super::connect::ConnectArgs;
use super::{Failure, Outcome, block_on, print};
use input::Source;
use sender::Sender;

#[derive(Debug, Args)]
#[command(after_help = "\
A line of the input is {\"type\":…,\"device_id\":…,\"data\":{…},\"key\":…,\"time\":…}; all but type and data can be \
left out. It stops at the first line that is refused: all lines before it are stored, it and those behind it are \
not. With --key-prefix (or keys in the lines) the same command can be repeated within two minutes without \
storing anything twice, and is tried again by itself while the server is away.

Examples:
  tidings publish --type device_status --device core-1 --data '{\"status\":\"online\"}'
  tidings publish events.ndjson --key-prefix import-7
  tail -F events.ndjson | tidings publish")]
pub(super) struct PublishArgs {
    /// A file of NDJSON, one event a line; standard input without it or for -
    #[arg(conflicts_with = "event_type")]
    file: Option<PathBuf>,
    /// Publish one event of this type
    #[arg(long = "type", value_name = "TYPE", requires = "data")]
    event_type: Option<EventType>,
    /// The one event's device
    #[arg(long, value_name = "ID", requires = "event_type")]
    device: Option<DeviceId>,
    /// The one event's payload, a JSON object
    #[arg(long, value_name = "JSON", requires = "event_type")]
    data: Option<String>,
    /// The one event's key, which makes a repeat safe
    #[arg(long, requires = "event_type")]
    key: Option<String>,
    /// Give each line without a key the key PREFIX-NUMBER, by its number in the input
    #[arg(long, value_name = "PREFIX", conflicts_with = "event_type")]
    key_prefix: Option<String>,
    /// How many events go in one body
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: PublishArgs) -> Outcome {
    let client = args.connect.client()?;
    let tenant = args.connect.required_tenant()?;
    if let (Some(event_type), Some(data)) = (args.event_type, args.data) {
        let data: Box<RawValue> = serde_json::from_str(&data)
            .map_err(|error| Failure::new(format_args!("--data is no JSON: {error}")))?;
        let event = NewEvent {
            event_type,
            device_id: args.device,
            data,
            key: args.key,
            time: None,
        };
        let receipt = block_on(async { Ok(client.publish(tenant, &[event]).await?) })?;
        let what = if receipt.duplicates > 0 {
            "was stored before"
        } else {
            "accepted"
        };
        return print(&format!("{what}: {}", receipt.last));
    }
    let source = Source::open(args.file.as_deref())?;
    let sender = Sender::new(client, tenant, source.progress());
    let (summary, failure) = block_on(async {
        let batches = input::batches(source, usize::from(args.batch), args.key_prefix);
        Ok(sender.send_all(batches).await)
    })?;
    match failure {
        None => print(&summary.to_string()),
        Some(failure) => {
            // What is stored stays stored, so it is said in any case.
            eprintln!("tidings: {summary}");
            eprintln!("tidings: {failure}");
            Ok(ExitCode::FAILURE)
        }
    }
}
