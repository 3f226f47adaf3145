//! One published event, checked field by field.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tidings_log::{IdempotencyKey, NewEvent};
use tidings_protocol::event::InvalidEventType;
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::subject::Subjects;
use super::{json_text, payload};
use crate::time;

/// Longest key, in bytes.
const MAX_KEY: usize = 256;

/// What is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEvent {
    /// It is not even JSON.
    pub syntax: bool,
    /// The field, where one is to blame.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// Under which terms events are read.
#[derive(Debug)]
pub struct Terms<'a> {
    /// The tenant they are published to.
    pub tenant: TenantId,
    /// The types that there are.
    pub known_types: &'a [EventType],
    /// The largest event, in bytes.
    pub event_bytes: usize,
    /// What their events are the latest state of.
    pub subjects: &'a Subjects,
    /// Who publishes; keys are unique within that.
    pub publisher: &'a str,
    /// The `Idempotency-Key` header, for events without a key of their own.
    pub request_key: Option<&'a str>,
}

/// The members of an event, not yet looked into.
#[derive(Default)]
struct Envelope<'a> {
    event_type: Option<&'a RawValue>,
    device_id: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
    stranger: Option<String>,
    repeated: Option<&'static str>,
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event, a JSON object with \"type\" and \"data\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            let value: &'de RawValue = members.next_value()?;
            let (place, name) = match name.as_ref() {
                "type" => (&mut envelope.event_type, "type"),
                "device_id" => (&mut envelope.device_id, "device_id"),
                "data" => (&mut envelope.data, "data"),
                "key" => (&mut envelope.key, "key"),
                "time" => (&mut envelope.time, "time"),
                other => {
                    envelope.stranger.get_or_insert_with(|| other.to_owned());
                    continue;
                }
            };
            if place.replace(value).is_some() {
                envelope.repeated = Some(name);
            }
        }
        Ok(envelope)
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

/// Reads the event on `line` (from 1) of a body.
///
/// # Errors
///
/// Names the first field that is wrong.
pub fn read(text: &str, line: u64, terms: &Terms<'_>) -> Result<NewEvent, InvalidEvent> {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| InvalidEvent {
        syntax: !error.is_data(),
        field: None,
        detail: if error.is_data() {
            "an event is a JSON object such as {\"type\":\"device_status\",\"device_id\":\"r1\",\"data\":{…}}".to_owned()
        } else {
            format!("not JSON: {error}")
        },
    })?;
    if let Some(stranger) = envelope.stranger {
        return Err(wrong(
            &stranger,
            "is no field of an event; there are type, device_id, data, key and time",
        ));
    }
    if let Some(repeated) = envelope.repeated {
        return Err(wrong(repeated, "is given more than once"));
    }
    let event_type = read_type(envelope.event_type, terms.known_types)?;
    let device = text_of(envelope.device_id, "device_id")?
        .map(|text| {
            text.parse::<DeviceId>()
                .map_err(|error| wrong("device_id", &error.to_string()))
        })
        .transpose()?;
    let time = text_of(envelope.time, "time")?
        .map(|text| {
            time::parse_rfc3339(&text).ok_or_else(|| {
                wrong(
                    "time",
                    "must be an RFC 3339 time such as 2026-11-23T18:00:00Z",
                )
            })
        })
        .transpose()?;
    let key = read_key(envelope.key, line, terms.request_key)?;
    let data = envelope
        .data
        .ok_or_else(|| wrong("data", "is missing; it must be a JSON object"))?;
    let payload = payload::admit(
        data.get(),
        terms.tenant,
        device,
        terms.subjects.of(&event_type),
    )
    .map_err(|error| wrong(error.field, &error.detail))?;
    let mut event = NewEvent {
        event_type,
        device: payload.device,
        time,
        key: None,
        subject: payload.subject,
        origin: None,
        data: payload.bytes,
    };
    event.key = key.map(|key| idempotency_key(terms, &key, &event));
    Ok(event)
}

fn wrong(field: &str, detail: &str) -> InvalidEvent {
    InvalidEvent {
        syntax: false,
        field: Some(field.to_owned()),
        detail: format!("{field} {detail}"),
    }
}

fn read_type(
    value: Option<&RawValue>,
    known_types: &[EventType],
) -> Result<EventType, InvalidEvent> {
    let name = text_of(value, "type")?
        .ok_or_else(|| wrong("type", "is missing; it names the event's type"))?;
    if let Some(known) = known_types.iter().find(|known| known.as_str() == name) {
        return Ok(known.clone());
    }
    if let Err(error @ InvalidEventType::Reserved) = name.parse::<EventType>() {
        return Err(wrong("type", &format!("is refused: {error}")));
    }
    let names: Vec<&str> = known_types.iter().map(EventType::as_str).collect();
    Err(wrong(
        "type",
        &format!("is none that there is here; there are {}", names.join(", ")),
    ))
}

fn read_key(
    value: Option<&RawValue>,
    line: u64,
    request_key: Option<&str>,
) -> Result<Option<String>, InvalidEvent> {
    let Some(key) = text_of(value, "key")? else {
        return Ok(request_key.map(|key| format!("{key}:{line}")));
    };
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(wrong("key", "must be 1 to 256 bytes of text"));
    }
    Ok(Some(key.into_owned()))
}

/// The text of an optional string; `null` counts as absent.
fn text_of<'a>(
    value: Option<&'a RawValue>,
    field: &str,
) -> Result<Option<Cow<'a, str>>, InvalidEvent> {
    let Some(value) = value.filter(|value| value.get() != "null") else {
        return Ok(None);
    };
    let text = json_text::read(value.get()).ok_or_else(|| wrong(field, "must be a string"))?;
    Ok(Some(text))
}

/// Hashes of who published under which key, and of what: two publishes are the same where both
/// agree. Fields are separated by their lengths, so that none can pass for another.
fn idempotency_key(terms: &Terms<'_>, key: &str, event: &NewEvent) -> IdempotencyKey {
    let hash = |fields: &[&[u8]]| -> [u8; 16] {
        let mut hash = Sha256::new();
        for field in fields {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hash.finalize()[..16]);
        short
    };
    let device = event.device.as_ref().map_or("", DeviceId::as_str);
    let time = event.time.map(i64::to_le_bytes).unwrap_or_default();
    IdempotencyKey {
        key: hash(&[
            terms.tenant.as_bytes(),
            terms.publisher.as_bytes(),
            key.as_bytes(),
        ]),
        digest: hash(&[
            event.event_type.as_str().as_bytes(),
            device.as_bytes(),
            &time,
            &event.data,
        ]),
    }
}
