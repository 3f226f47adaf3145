//! `tidings tail`.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tidings_client::{Conflate, Event, StreamEvent, StreamOptions};
use tidings_protocol::{DeviceId, EventType};

use super::connect::ConnectArgs;
use super::summary::{summary, time_of, tone, visible};
use super::{Failure, Outcome, block_on, values};

#[derive(Debug, Args)]
#[command(after_help = "\
Resumes by itself after an interruption, without losing or repeating an event. Events go to standard output, what \
happens to the stream to standard error. Ctrl-C ends it.

Examples:
  tidings tail --since 10m
  tidings tail --types alert_fired,alert_resolved --json | jq -r .data.message
  tidings tail --tenant 11111111-1111-4111-8111-111111111111 --device core-1")]
pub(super) struct TailArgs {
    /// Begin with what was appended since then: RFC 3339, or a span back from now such as 10m
    #[arg(long, value_name = "TIME", value_parser = values::moment, conflicts_with_all = ["after", "snapshot"])]
    since: Option<String>,
    /// Begin with how things are: the last event of each device, metric, alert, push and job
    #[arg(long)]
    snapshot: bool,
    /// Be content with the latest of these types where the line is slow, comma-separated, or `default`
    #[arg(long, value_name = "TYPES", value_parser = values::conflate)]
    conflate: Option<Conflate>,
    /// Begin after this cursor (an event's id)
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Only these event types, comma-separated
    #[arg(long, value_delimiter = ',')]
    types: Vec<EventType>,
    /// Only these devices, comma-separated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    device: Vec<DeviceId>,
    /// One JSON object a line: id, type, data
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: TailArgs) -> Outcome {
    let client = args.connect.client()?;
    let tenant = args.connect.tenant();
    let options = StreamOptions {
        tenant,
        types: args.types,
        devices: args.device,
        since: args.since,
        // A super admin who names a tenant means that one.
        scope_tenant: tenant.is_some(),
        cursor: args.after,
        snapshot: args.snapshot,
        conflate: args.conflate.unwrap_or_default(),
        ..StreamOptions::default()
    };
    let terminal = io::stdout().is_terminal();
    let mut writer = Writer {
        json: args.json,
        colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        tenants: tenant.is_none(),
        names: HashMap::new(),
    };
    block_on(async {
        let mut stream = client.stream(options);
        let mut output = io::stdout().lock();
        let mut stop = std::pin::pin!(crate::shutdown::requested()?);
        loop {
            let next = tokio::select! {
                () = &mut stop => return Ok(ExitCode::SUCCESS),
                next = stream.next() => next,
            };
            let Some(next) = next else {
                return Err(Failure::new("the stream has ended"));
            };
            let written = match next? {
                StreamEvent::Event(event) => writer.write(&mut output, &event),
                StreamEvent::Snapshot(subject) => {
                    let event = Event {
                        id: subject.id,
                        event: subject.event_type,
                        data: subject.data.get().to_owned(),
                    };
                    writer.write(&mut output, &event)
                }
                StreamEvent::Moved { .. } => Ok(()),
                other => {
                    eprintln!("tidings: {}", said(&other));
                    Ok(())
                }
            };
            match written {
                // The reader has seen enough, as of `| head`.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                other => other?,
            }
        }
    })
}

/// How many devices' names are kept; those of further devices go by their ids.
const MOST_NAMES: usize = 100_000;

/// What happened to the stream.
fn said(event: &StreamEvent) -> String {
    match event {
        StreamEvent::Connected { connection_id } => {
            format!("following ({})", visible(connection_id))
        }
        StreamEvent::SnapshotEnd { cursor } => {
            format!(
                "that is how things are at {}; what follows happens now",
                visible(cursor)
            )
        }
        StreamEvent::Gap(gap) => format!(
            "gap: what came after {} can't be given ({:?}); it goes on after {}",
            visible(&gap.requested),
            gap.reason,
            visible(&gap.resumed_at)
        ),
        StreamEvent::Stale(stale) => format!(
            "stale: the server can't read or write its log{}{}; nothing newer is known",
            stale
                .since
                .as_ref()
                .map_or_else(String::new, |since| format!(" since {}", visible(since))),
            stale
                .reason
                .as_ref()
                .map_or_else(String::new, |reason| format!(" ({})", visible(reason))),
        ),
        StreamEvent::Fresh => "fresh: the server's log can be read and written again".to_owned(),
        StreamEvent::Closing(closing) => {
            format!("the server closes this stream: {}", closing.reason.as_str())
        }
        StreamEvent::Interrupted { cause, wait } => {
            let cause = cause.as_ref().map_or_else(
                || "the server has closed the stream".to_owned(),
                ToString::to_string,
            );
            format!("{cause}; trying again in {:.1} s", wait.as_secs_f64())
        }
        other => visible(&format!("{other:?}")),
    }
}

/// How events are written.
struct Writer {
    json: bool,
    colours: bool,
    /// The stream is of all tenants, so each line says whose it is.
    tenants: bool,
    /// The devices whose names are known from their status.
    names: HashMap<String, String>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    data: &'a RawValue,
}

impl Writer {
    fn write(&mut self, output: &mut impl Write, event: &Event) -> io::Result<()> {
        if self.json {
            let data: &RawValue = serde_json::from_str(&event.data).map_err(io::Error::other)?;
            let line = Line {
                id: &event.id,
                event_type: &event.event,
                data,
            };
            serde_json::to_writer(&mut *output, &line)?;
            writeln!(output)?;
        } else {
            writeln!(output, "{}", self.line(event))?;
        }
        output.flush()
    }

    fn line(&mut self, event: &Event) -> String {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let time = clock(time_of(&data));
        let event_type = visible(&event.event);
        let (colour, plain) = if self.colours {
            (tone(&event_type, &data).escape(), "\x1b[0m")
        } else {
            ("", "")
        };
        let device = shortened(&visible(self.device(&data)), 20);
        let tenant = if self.tenants {
            let tenant = data["tenant_id"].as_str().unwrap_or("-");
            format!("{:8}  ", shortened(&visible(tenant), 8))
        } else {
            String::new()
        };
        format!(
            "{time}  {colour}{event_type:17}{plain}  {tenant}{device:20}  {}",
            summary(&event_type, &data)
        )
    }

    /// The device's name where it is known, else its id.
    fn device<'a>(&'a mut self, data: &'a Value) -> &'a str {
        let Some(id) = data["device_id"].as_str() else {
            return "-";
        };
        if let Some(name) = data["name"].as_str().filter(|name| !name.is_empty())
            && (self.names.len() < MOST_NAMES || self.names.contains_key(id))
        {
            self.names.insert(id.to_owned(), name.to_owned());
        }
        self.names.get(id).map_or(id, String::as_str)
    }
}

/// The time of day in UTC, `18:00:05Z`; of events without a time, now.
fn clock(time: Option<&str>) -> String {
    let time = time
        .and_then(|time| time.parse::<Timestamp>().ok())
        .unwrap_or_else(Timestamp::now);
    let text = crate::agent::payload::seconds(time);
    text.split_once('T')
        .map_or_else(|| text.clone(), |(_, clock)| clock.to_owned())
}

pub(super) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "1j8.42".to_owned(),
            event: "device_status".to_owned(),
            data: r#"{"tenant_id":"11111111-1111-4111-8111-111111111111","device_id":"core-1","status":"offline","last_seen":"2026-11-23T19:00:05+01:00"}"#.to_owned(),
        }
    }

    fn written(style: &mut Writer) -> String {
        let mut output = Vec::new();
        style.write(&mut output, &event()).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_line_is_aligned_and_coloured_only_where_it_was_asked_for() {
        let mut style = Writer {
            json: false,
            colours: false,
            tenants: false,
            names: HashMap::new(),
        };
        assert_eq!(
            written(&mut style),
            "18:00:05Z  device_status      core-1                offline\n"
        );
        style.tenants = true;
        assert_eq!(
            written(&mut style),
            "18:00:05Z  device_status      1111111…  core-1                offline\n"
        );
        style.colours = true;
        assert!(written(&mut style).contains("\x1b[31mdevice_status    \x1b[0m"));
    }

    #[test]
    fn json_is_one_line_with_the_payload_as_it_was_published() {
        let mut style = Writer {
            json: true,
            colours: true,
            tenants: true,
            names: HashMap::new(),
        };
        let line = written(&mut style);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["id"], "1j8.42");
        assert_eq!(value["type"], "device_status");
        assert!(line.contains(&event().data));
    }

    #[test]
    fn a_device_goes_by_its_name_once_that_is_known() {
        let mut writer = Writer {
            json: false,
            colours: false,
            tenants: false,
            names: HashMap::new(),
        };
        let mut line = |data: &str| {
            let data = data.to_owned();
            writer.line(&Event { data, ..event() })
        };
        assert!(line(r#"{"device_id":"6a1d"}"#).contains("6a1d"));
        assert!(line(r#"{"device_id":"6a1d","name":"Core"}"#).contains("  Core  "));
        assert!(line(r#"{"device_id":"6a1d"}"#).contains("  Core  "));
        assert!(line("{}").contains("  -  "));
    }
}
