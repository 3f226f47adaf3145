//! The payloads of the built-in event types, as the existing pollers and back ends write them (see
//! `spec/events/`).
//!
//! Numbers that devices report as text stay text. The tests hold the field names against the examples.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_client::NewEvent;
use tidings_protocol::{DeviceId, EventType, TenantId};

/// A payload that knows the event it belongs to.
pub(crate) trait Payload: Serialize {
    /// The event's type, one of the built-in ones.
    const EVENT_TYPE: &'static str;
    /// The device that the event is about.
    fn device(&self) -> &DeviceId;

    /// The event, ready to publish.
    fn event(&self) -> NewEvent {
        let event_type: EventType = Self::EVENT_TYPE
            .parse()
            .expect("the built-in types are well-formed");
        let data: Box<RawValue> =
            serde_json::value::to_raw_value(self).expect("payloads have only text keys");
        NewEvent {
            event_type,
            device_id: Some(self.device().clone()),
            data,
            key: None,
            time: None,
        }
    }
}

macro_rules! payloads {
    ($($payload:ident: $event_type:literal,)+) => {
        $(impl Payload for $payload {
            const EVENT_TYPE: &'static str = $event_type;
            fn device(&self) -> &DeviceId {
                &self.device_id
            }
        })+
    };
}

payloads! {
    DeviceStatus: "device_status",
    MetricUpdate: "metric_update",
    AlertFired: "alert_fired",
    AlertResolved: "alert_resolved",
    ConfigPush: "config_push",
    FirmwareProgress: "firmware_progress",
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Whether a device answers, and what it says of itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceStatus {
    pub(crate) device_id: DeviceId,
    pub(crate) tenant_id: TenantId,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) routeros_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) major_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) board_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uptime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_load: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free_memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) firmware_version: Option<String>,
    pub(crate) last_seen: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
}

/// A measurement; exactly one of the last three is there, named by `type`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MetricUpdate {
    pub(crate) device_id: DeviceId,
    pub(crate) tenant_id: TenantId,
    pub(crate) collected_at: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
    #[serde(flatten)]
    pub(crate) metric: Metric,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    Health(Health),
    Interfaces(Vec<Interface>),
    Wireless(Vec<Wireless>),
}

impl Metric {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Health(_) => "health",
            Self::Interfaces(_) => "interfaces",
            Self::Wireless(_) => "wireless",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    pub(crate) cpu_load: String,
    pub(crate) free_memory: String,
    pub(crate) total_memory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free_disk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_disk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) running: bool,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Wireless {
    pub(crate) interface: &'static str,
    pub(crate) client_count: u32,
    pub(crate) avg_signal: i32,
    pub(crate) ccq: u32,
    pub(crate) frequency: u32,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AlertFired {
    pub(crate) event_type: &'static str,
    pub(crate) tenant_id: TenantId,
    pub(crate) device_id: DeviceId,
    pub(crate) alert_event_id: String,
    pub(crate) severity: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) current_value: f64,
    pub(crate) threshold: f64,
    pub(crate) message: String,
    pub(crate) is_flapping: bool,
    pub(crate) fired_at: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AlertResolved {
    pub(crate) event_type: &'static str,
    pub(crate) tenant_id: TenantId,
    pub(crate) device_id: DeviceId,
    pub(crate) alert_event_id: String,
    pub(crate) severity: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) message: String,
    pub(crate) resolved_at: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfigPush {
    pub(crate) event_type: &'static str,
    pub(crate) tenant_id: TenantId,
    pub(crate) device_id: DeviceId,
    pub(crate) push_operation_id: String,
    pub(crate) stage: &'static str,
    pub(crate) message: String,
    pub(crate) timestamp: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FirmwareProgress {
    pub(crate) event_type: &'static str,
    pub(crate) tenant_id: TenantId,
    pub(crate) device_id: DeviceId,
    pub(crate) job_id: String,
    pub(crate) stage: &'static str,
    pub(crate) target_version: String,
    pub(crate) message: String,
    pub(crate) timestamp: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) simulated: bool,
}

/// A time as payloads have it, RFC 3339 in whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// How long a device has been up, as routers write it: `3w2d4h11m`, and `42s` in the first minute.
pub(crate) fn uptime(seconds: u64) -> String {
    if seconds < 60 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    let mut text = String::new();
    for (unit, length, count) in [
        ('w', 7 * 24 * 60, u64::MAX),
        ('d', 24 * 60, 7),
        ('h', 60, 24),
        ('m', 1, 60),
    ] {
        let number = (minutes / length) % count;
        if number > 0 {
            text.push_str(&number.to_string());
            text.push(unit);
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The example payloads by event type and, for metrics, kind.
    pub(crate) fn examples() -> BTreeMap<String, Value> {
        let files = [
            (
                "device_status",
                include_str!("../../../../spec/events/device_status.json"),
            ),
            (
                "metric_update",
                include_str!("../../../../spec/events/metric_update.json"),
            ),
            (
                "alert_fired",
                include_str!("../../../../spec/events/alert_fired.json"),
            ),
            (
                "alert_resolved",
                include_str!("../../../../spec/events/alert_resolved.json"),
            ),
            (
                "config_push",
                include_str!("../../../../spec/events/config_push.json"),
            ),
            (
                "firmware_progress",
                include_str!("../../../../spec/events/firmware_progress.json"),
            ),
        ];
        let mut examples = BTreeMap::new();
        for (event_type, lines) in files {
            for line in lines.lines() {
                let example: Value = serde_json::from_str(line).unwrap();
                let kind = example["type"]
                    .as_str()
                    .map_or(String::new(), |kind| format!(".{kind}"));
                examples.insert(format!("{event_type}{kind}"), example);
            }
        }
        assert_eq!(examples.len(), 8);
        examples
    }

    /// Holds a payload against the example of its type: the same fields with the same JSON types, but for
    /// those named in `absent`, which it lacks, and `name`, `site` and `simulated`, which it may add.
    pub(crate) fn assert_like_example(event: &NewEvent, absent: &[&str]) {
        let payload: Value = serde_json::from_str(event.data.get()).unwrap();
        let kind = payload["type"]
            .as_str()
            .map_or(String::new(), |kind| format!(".{kind}"));
        let name = format!("{}{kind}", event.event_type);
        let examples = examples();
        let example = examples
            .get(&name)
            .unwrap_or_else(|| panic!("no example of {name}"));
        assert_like(&name, &payload, example, absent);
        let device = event.device_id.as_ref().unwrap().as_str();
        assert_eq!(payload["device_id"], device, "{name}");
    }

    fn assert_like(path: &str, payload: &Value, example: &Value, absent: &[&str]) {
        match (payload, example) {
            (Value::Object(payload), Value::Object(example)) => {
                for (field, value) in payload {
                    let path = format!("{path}.{field}");
                    match example.get(field) {
                        Some(example) => assert_like(&path, value, example, absent),
                        None => assert!(
                            ["name", "site", "simulated"].contains(&field.as_str()),
                            "{path} is in no example"
                        ),
                    }
                }
                for field in example.keys() {
                    assert!(
                        payload.contains_key(field) || absent.contains(&field.as_str()),
                        "{path}.{field} is missing"
                    );
                }
            }
            (Value::Array(payload), Value::Array(example)) => {
                for value in payload {
                    assert_like(path, value, &example[0], absent);
                }
            }
            (Value::Number(payload), Value::Number(example)) => {
                assert_eq!(payload.is_f64(), example.is_f64(), "{path}");
            }
            (payload, example) => assert_eq!(
                std::mem::discriminant(payload),
                std::mem::discriminant(example),
                "{path}: {payload} where the example has {example}"
            ),
        }
    }

    proptest! {
        #[test]
        fn an_uptime_says_its_minutes(seconds in 60_u64..10_000_000_000) {
            let mut minutes = 0;
            let mut number = 0;
            for character in uptime(seconds).chars() {
                if let Some(digit) = character.to_digit(10) {
                    number = number * 10 + u64::from(digit);
                    continue;
                }
                let unit = match character {
                    'w' => 7 * 24 * 60,
                    'd' => 24 * 60,
                    'h' => 60,
                    'm' => 1,
                    other => panic!("{other}"),
                };
                minutes += number * unit;
                number = 0;
            }
            prop_assert_eq!(minutes, seconds / 60);
        }
    }

    #[test]
    fn an_uptime_reads_as_routers_write_it() {
        assert_eq!(uptime(0), "0s");
        assert_eq!(uptime(59), "59s");
        assert_eq!(uptime(3600), "1h");
        assert_eq!(
            uptime(((((3 * 7 + 2) * 24) + 4) * 60 + 11) * 60 + 5),
            "3w2d4h11m"
        );
    }
}
