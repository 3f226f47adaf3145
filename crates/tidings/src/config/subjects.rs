//! Reading `subjects`: for each event type, what its events are the latest state of.

use std::time::Duration;

use tidings_protocol::EventType;
use toml::{Table, Value};

use super::error::ConfigError;
use super::key::{Class, Fault, Kind};
use super::kinds::{parse_duration, text};
use super::values::{SubjectConfig, SubjectEnd};

pub(super) const SUBJECTS: Kind<Vec<SubjectConfig>> = Kind {
    name: "table of event types",
    class: Class::Value,
    read: read_subjects,
};

/// How many fields a rule may have, and how many others may stand in for one.
const MAX_FIELDS: usize = 4;

/// Longest name of a field, in bytes.
const MAX_NAME: usize = 64;

/// How long a push or a job that never says how it ended is kept.
const UNFINISHED: Duration = Duration::from_hours(7 * 24);

/// The rules of the built-in types.
fn built_in() -> Vec<SubjectConfig> {
    let rule = |event_type: &str, kind: &str, fields: &[&[&str]], ends, max_age| SubjectConfig {
        event_type: event_type.parse().expect("a built-in type"),
        kind: kind.parse().expect("a built-in type"),
        fields: fields
            .iter()
            .map(|alternatives| alternatives.iter().map(|&name| name.into()).collect())
            .collect(),
        ends,
        max_age,
    };
    let stage = |values: &[&str]| SubjectEnd::At {
        field: "stage".into(),
        values: values.iter().map(|&value| value.into()).collect(),
    };
    let alert: &[&[&str]] = &[&["alert_event_id"]];
    let push: &[&[&str]] = &[&["push_operation_id", "device_id"]];
    let pushed = stage(&["committed", "reverted", "failed"]);
    let flashed = stage(&["completed", "failed"]);
    let (status, metric) = ("device_status", "metric_update");
    vec![
        rule(status, status, &[&["device_id"]], SubjectEnd::Never, None),
        rule(
            metric,
            metric,
            &[&["device_id"], &["type"]],
            SubjectEnd::Never,
            None,
        ),
        rule("alert_fired", "alert_fired", alert, SubjectEnd::Never, None),
        rule(
            "alert_resolved",
            "alert_fired",
            alert,
            SubjectEnd::Always,
            None,
        ),
        rule("config_push", "config_push", push, pushed, Some(UNFINISHED)),
        rule(
            "firmware_progress",
            "firmware_progress",
            &[&["job_id"]],
            flashed,
            Some(UNFINISHED),
        ),
    ]
}

/// The built-in rules, with those of the table in their place or beside them.
fn read_subjects(value: &Value) -> Result<Vec<SubjectConfig>, Fault> {
    let table = value.as_table().ok_or(
        "this is a table of event types, such as { door_state = { fields = [\"door_id\"] } }",
    )?;
    let mut rules = built_in();
    for (name, value) in table {
        let at = |mut fault: Fault| {
            fault.within.insert_str(0, &format!(".{name}"));
            fault
        };
        let event_type: EventType =
            name.parse()
                .map_err(|error: tidings_protocol::event::InvalidEventType| {
                    at(error.to_string().into())
                })?;
        let table = value
            .as_table()
            .ok_or_else(|| at("this is a table with fields".into()))?;
        let rule = read_rule(&event_type, table).map_err(at)?;
        match rules.iter_mut().find(|rule| rule.event_type == event_type) {
            Some(place) => *place = rule,
            None => rules.push(rule),
        }
    }
    Ok(rules)
}

fn read_rule(event_type: &EventType, table: &Table) -> Result<SubjectConfig, Fault> {
    const KEYS: [&str; 6] = [
        "fields",
        "kind",
        "ends",
        "final_field",
        "final_values",
        "max_age",
    ];
    if let Some(name) = table.keys().find(|name| !KEYS.contains(&name.as_str())) {
        let nearest = KEYS
            .iter()
            .min_by_key(|key| strsim::damerau_levenshtein(name, key))
            .expect("there are keys");
        return Err(fault(
            name,
            format!("there is no such key; did you mean {nearest}?"),
        ));
    }
    let fields = table
        .get("fields")
        .ok_or_else(|| fault("fields", "this is missing"))?;
    let kind = match table.get("kind") {
        None => event_type.clone(),
        Some(value) => text(value)
            .and_then(|name| {
                name.parse()
                    .map_err(|error: tidings_protocol::event::InvalidEventType| error.to_string())
            })
            .map_err(|problem| fault("kind", problem))?,
    };
    let max_age = match table.get("max_age") {
        None => None,
        Some(_) if kind != *event_type => {
            return Err(fault(
                "max_age",
                format!("set it in subjects.{kind}, which keeps these subjects"),
            ));
        }
        Some(value) => {
            let age = parse_duration(value).map_err(|problem| fault("max_age", problem))?;
            (!age.is_zero()).then_some(age)
        }
    };
    Ok(SubjectConfig {
        event_type: event_type.clone(),
        kind,
        fields: list(fields, alternatives).map_err(|problem| fault("fields", problem))?,
        ends: read_end(table)?,
        max_age,
    })
}

fn read_end(table: &Table) -> Result<SubjectEnd, Fault> {
    let always = match table.get("ends") {
        None => false,
        Some(value) => value
            .as_bool()
            .ok_or_else(|| fault("ends", "this is true or false"))?,
    };
    match (always, table.get("final_field"), table.get("final_values")) {
        (false, None, None) => Ok(SubjectEnd::Never),
        (true, None, None) => Ok(SubjectEnd::Always),
        (true, _, _) => Err(fault(
            "ends",
            "final_field and final_values say when; set them or this",
        )),
        (false, Some(_), None) => Err(fault("final_values", "this is missing beside final_field")),
        (false, None, Some(_)) => Err(fault("final_field", "this is missing beside final_values")),
        (false, Some(field), Some(values)) => {
            let field = text(field)
                .and_then(name)
                .map_err(|problem| fault("final_field", problem))?;
            let read = |item: &Value| text(item).map(Into::into);
            let values = values
                .as_array()
                .ok_or_else(|| "this is a list of texts".to_owned())
                .and_then(|items| items.iter().map(read).collect());
            let values = values.map_err(|problem: String| fault("final_values", problem))?;
            Ok(SubjectEnd::At { field, values })
        }
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items = value
        .as_array()
        .filter(|items| items.len() <= MAX_FIELDS)
        .ok_or_else(|| format!("this is a list of up to {MAX_FIELDS} names"))?;
    items.iter().map(read).collect()
}

/// `push_operation_id|device_id`: the first that is there counts.
fn alternatives(value: &Value) -> Result<Vec<Box<str>>, String> {
    let names: Vec<Box<str>> = text(value)?
        .split('|')
        .map(name)
        .collect::<Result<_, _>>()?;
    if names.len() > MAX_FIELDS {
        return Err(format!(
            "at most {MAX_FIELDS} fields can stand in for each other"
        ));
    }
    Ok(names)
}

/// A field that a key may name. It has no colon and does not begin with a digit, so that a key can say
/// without doubt which field it was taken from.
fn name(text: &str) -> Result<Box<str>, String> {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if begins && text.len() <= MAX_NAME && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err(format!(
            "{text:?}: a field is a letter or _ followed by up to 63 letters, digits and _.-"
        ))
    }
}

fn fault(key: &str, problem: impl Into<String>) -> Fault {
    Fault {
        within: format!(".{key}"),
        problem: problem.into(),
    }
}

/// Rules of types that there are not.
pub(super) fn contradictions(rules: &[SubjectConfig], known: &[EventType]) -> Vec<ConfigError> {
    let unknown = |at: String, name: &EventType| {
        ConfigError::new(
            at,
            format!("{name} is no event type here; add it to event_types"),
        )
    };
    let mut errors = Vec::new();
    for rule in rules {
        let at = format!("subjects.{}", rule.event_type);
        if !known.contains(&rule.event_type) {
            errors.push(unknown(at, &rule.event_type));
        } else if !known.contains(&rule.kind) {
            errors.push(unknown(format!("{at}.kind"), &rule.kind));
        }
    }
    errors
}
