//! One event in one line, for people.

use serde_json::Value;

/// How an event is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Notice,
    Warning,
    Bad,
}

impl Tone {
    /// The colour's escape sequence (ECMA-48, SGR).
    pub(super) fn escape(self) -> &'static str {
        match self {
            Self::Plain => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Notice => "\x1b[36m",
            Self::Warning => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

pub(super) fn tone(event_type: &str, data: &Value) -> Tone {
    match event_type {
        "device_status" if data["status"] == "offline" => Tone::Bad,
        "device_status" | "alert_resolved" => Tone::Good,
        "alert_fired" if data["severity"] == "critical" => Tone::Bad,
        "alert_fired" => Tone::Warning,
        "config_push" | "firmware_progress"
            if matches!(data["stage"].as_str(), Some("failed" | "reverted")) =>
        {
            Tone::Bad
        }
        "config_push" | "firmware_progress" => Tone::Notice,
        _ => Tone::Plain,
    }
}

/// What the payload says, in a few words; its JSON where nothing is known of the type.
pub(super) fn summary(event_type: &str, data: &Value) -> String {
    let parts = match event_type {
        "device_status" => vec![
            text(&data["status"]),
            text(&data["name"]),
            text(&data["site"]),
            unit("CPU ", &data["cpu_load"], " %"),
            unit("up ", &data["uptime"], ""),
        ],
        "alert_fired" | "alert_resolved" => vec![text(&data["severity"]), text(&data["message"])],
        "config_push" | "firmware_progress" => vec![text(&data["stage"]), text(&data["message"])],
        "metric_update" => metric(data),
        "removed" => vec![text(&data["subject"])],
        _ => Vec::new(),
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        visible(&data.to_string())
    } else {
        visible(&parts.join(", "))
    }
}

/// When it happened by the payload's own account, as RFC 3339.
pub(super) fn time_of(data: &Value) -> Option<&str> {
    [
        "last_seen",
        "collected_at",
        "fired_at",
        "resolved_at",
        "timestamp",
    ]
    .into_iter()
    .find_map(|field| data[field].as_str())
    .filter(|time| crate::time::parse_rfc3339(time).is_some())
}

/// Payloads are anyone's text: an escape sequence in one must not reach the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

fn metric(data: &Value) -> Vec<Option<String>> {
    if let Some(interfaces) = data["interfaces"].as_array() {
        let up = interfaces
            .iter()
            .filter(|one| one["running"] == true)
            .count();
        return vec![Some(format!("{up} of {} interfaces up", interfaces.len()))];
    }
    if let Some(wireless) = data["wireless"].as_array() {
        let clients: u64 = wireless
            .iter()
            .filter_map(|one| one["client_count"].as_u64())
            .sum();
        return vec![Some(format!("{clients} wireless clients"))];
    }
    let health = &data["health"];
    vec![
        text(&data["type"]),
        unit("CPU ", &health["cpu_load"], " %"),
        memory(health),
        unit("", &health["temperature"], " °C"),
    ]
}

fn memory(health: &Value) -> Option<String> {
    let number = |field: &str| text(&health[field])?.parse::<f64>().ok();
    let (free, total) = (number("free_memory")?, number("total_memory")?);
    (total > 0.0).then(|| format!("memory {:.0} % free", free / total * 100.0))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn unit(before: &str, value: &Value, after: &str) -> Option<String> {
    Some(format!("{before}{}{after}", text(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::payload::tests::examples;

    #[test]
    fn every_example_has_words_of_its_own() {
        let lines: Vec<String> = examples()
            .iter()
            .map(|(name, data)| summary(name.split('.').next().unwrap(), data))
            .collect();
        assert_eq!(
            lines,
            [
                "critical, cpu_load is 97 (> 90) for 5 min",
                "critical, cpu_load is back to 41",
                "pushing, Pushing configuration to core-router-1",
                "online, CPU 7 %, up 3w2d4h11m",
                "rebooting, Rebooting core-router-1",
                "health, CPU 7 %, memory 88 % free, 41 °C",
                "1 of 2 interfaces up",
                "23 wireless clients",
            ]
        );
    }

    #[test]
    fn a_payload_can_not_steer_the_terminal() {
        let data = serde_json::json!({"message": "\u{1b}[2Jgone\u{7}\r\n"});
        let line = summary("alert_fired", &data);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.contains("[2Jgone"));
        let other = summary("of_its_own", &serde_json::json!({"a": "\u{9b}31m"}));
        assert!(!other.chars().any(char::is_control), "{other:?}");
    }
}
