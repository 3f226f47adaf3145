//! Reading `nats.fleet`: which subjects of which streams stand for which events.

use std::fmt;
use std::sync::Arc;

use tidings_protocol::EventType;
use toml::{Table, Value};

use super::error::ConfigError;
use super::key::{Class, Fault, Kind};
use super::kinds::{is_stream_name, parsed};

pub(super) const FLEET: Kind<Vec<FleetStream>> = Kind {
    name: "tables of subjects by stream",
    class: Class::Value,
    read: read_fleet,
};

/// A stream that others publish to, and what its subjects mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetStream {
    /// The stream's name, such as `DEVICE_EVENTS`.
    pub name: Arc<str>,
    /// Its subjects, the more particular ones first: the first that fits counts. Others are ignored.
    pub subjects: Vec<FleetSubject>,
}

/// Subjects of one form, and the type of the events that are published under them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSubject {
    /// The parts of the subject, which dots separate.
    pub parts: Vec<SubjectPart>,
    /// What events under it are.
    pub event_type: EventType,
}

/// A part of a subject; in the order of how much it leaves open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectPart {
    /// Exactly this.
    Plain(Box<str>),
    /// The tenant's id, `{tenant}`.
    Tenant,
    /// The device's id, percent-encoded where needed, `{device}`.
    Device,
    /// Anything, `{kind}` or `*`.
    Any,
    /// One or more parts of any kind, `>`; the last.
    Rest,
}

impl fmt::Display for FleetSubject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                formatter.write_str(".")?;
            }
            formatter.write_str(match part {
                SubjectPart::Plain(text) => text,
                SubjectPart::Tenant => "{tenant}",
                SubjectPart::Device => "{device}",
                SubjectPart::Any => "*",
                SubjectPart::Rest => ">",
            })?;
        }
        Ok(())
    }
}

/// The streams and subjects of the protocol.
const BUILT_IN: &[(&str, &[(&str, &str)])] = &[
    (
        "DEVICE_EVENTS",
        &[
            ("device.status.{device}", "device_status"),
            ("device.metrics.{kind}.{device}", "metric_update"),
            ("config.push.{tenant}.{device}", "config_push"),
            ("config.push.rollback.>", "config_push"),
            ("config.push.alert.>", "config_push"),
        ],
    ),
    (
        "ALERT_EVENTS",
        &[
            ("alert.fired.{tenant}", "alert_fired"),
            ("alert.resolved.{tenant}", "alert_resolved"),
        ],
    ),
    (
        "OPERATION_EVENTS",
        &[("firmware.progress.{tenant}.{device}", "firmware_progress")],
    ),
];

fn built_in() -> Vec<FleetStream> {
    BUILT_IN
        .iter()
        .map(|(name, subjects)| {
            let subjects = subjects.iter().map(|(subject, event_type)| FleetSubject {
                parts: parts(subject).expect("a subject of the protocol"),
                event_type: event_type.parse().expect("a built-in type"),
            });
            stream(name, subjects.collect())
        })
        .collect()
}

fn stream(name: &str, mut subjects: Vec<FleetSubject>) -> FleetStream {
    // `config.push.rollback.>` comes before `config.push.{tenant}.{device}`.
    subjects.sort_by(|one, other| one.parts.cmp(&other.parts));
    FleetStream {
        name: name.into(),
        subjects,
    }
}

fn read_fleet(value: &Value) -> Result<Vec<FleetStream>, Fault> {
    let tables = value
        .as_table()
        .ok_or("these are tables by stream, such as [nats.fleet.DEVICE_EVENTS]")?;
    if tables.is_empty() {
        return Ok(built_in());
    }
    tables
        .iter()
        .map(|(name, value)| {
            let at = |mut fault: Fault| {
                fault.within.insert_str(0, &format!(".{name}"));
                fault
            };
            if !is_stream_name(name) {
                return Err(at("a stream's name has 1 to 255 letters, digits, _ and -".into()));
            }
            let table = value
                .as_table()
                .ok_or_else(|| at("this is a table of subjects and event types, such as \"device.status.{device}\" = \"device_status\"".into()))?;
            read_subjects(table)
                .map(|subjects| stream(name, subjects))
                .map_err(at)
        })
        .collect()
}

fn read_subjects(table: &Table) -> Result<Vec<FleetSubject>, Fault> {
    table
        .iter()
        .map(|(subject, value)| {
            let at = |problem: String| Fault {
                within: format!(".\"{subject}\""),
                problem,
            };
            Ok(FleetSubject {
                parts: parts(subject).map_err(at)?,
                event_type: parsed::<EventType>(value).map_err(at)?,
            })
        })
        .collect()
}

fn parts(subject: &str) -> Result<Vec<SubjectPart>, String> {
    let texts: Vec<&str> = subject.split('.').collect();
    let mut parts = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let part = match *text {
            "{tenant}" => SubjectPart::Tenant,
            "{device}" => SubjectPart::Device,
            "{kind}" | "*" => SubjectPart::Any,
            ">" if index + 1 == texts.len() => SubjectPart::Rest,
            ">" => return Err("> stands for all that follows, so it comes last".to_owned()),
            plain
                if !plain.is_empty()
                    && plain
                        .bytes()
                        .all(|byte| byte.is_ascii_graphic() && !b"{}*>".contains(&byte)) =>
            {
                SubjectPart::Plain(plain.into())
            }
            _ => {
                return Err(format!(
                    "{text:?} is no part of a subject: it is plain text, {{tenant}}, {{device}}, {{kind}}, * or a last >"
                ));
            }
        };
        if matches!(part, SubjectPart::Tenant | SubjectPart::Device) && parts.contains(&part) {
            return Err(format!("{text} comes twice"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Types that there are not, and subjects that two tables claim in the same form.
pub(super) fn contradictions(streams: &[FleetStream], known: &[EventType]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for stream in streams {
        for (index, subject) in stream.subjects.iter().enumerate() {
            let key = format!("nats.fleet.{}.\"{subject}\"", stream.name);
            if !known.contains(&subject.event_type) {
                let problem = format!(
                    "{} is no event type here; add it to event_types",
                    subject.event_type
                );
                errors.push(ConfigError::new(key, problem));
            } else if stream.subjects[..index]
                .iter()
                .any(|other| other.parts == subject.parts)
            {
                errors.push(ConfigError::new(key, "this form of subject comes twice"));
            }
        }
    }
    errors
}
