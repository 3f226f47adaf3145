//! Events on their way to a server.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_protocol::{DeviceId, EventType};

/// One event to publish: the envelope of `POST /tenants/{tenant_id}/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewEvent {
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The device that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// The payload, a JSON object.
    pub data: Box<RawValue>,
    /// Makes a repeat safe: within two minutes the same key stores nothing twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it happened, RFC 3339; informative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

impl NewEvent {
    /// An event with this payload, without device, key or time.
    ///
    /// # Errors
    ///
    /// Where `data` can't be written as JSON (a map with keys that are no text).
    pub fn new(event_type: EventType, data: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            event_type,
            device_id: None,
            data: serde_json::value::to_raw_value(data)?,
            key: None,
            time: None,
        })
    }

    /// The event with a device.
    #[must_use]
    pub fn with_device(mut self, device: DeviceId) -> Self {
        self.device_id = Some(device);
        self
    }

    /// The event with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// Appends `event` as one line of NDJSON. A payload may have been written over several lines;
/// between its tokens line breaks mean nothing, and inside its strings JSON has none.
pub(crate) fn write_line(body: &mut Vec<u8>, event: &NewEvent) -> Result<(), serde_json::Error> {
    let start = body.len();
    serde_json::to_writer(&mut *body, event)?;
    for byte in &mut body[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    body.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_of_several_lines_is_one_line_of_ndjson() {
        let event: NewEvent = serde_json::from_str(
            "{\"type\":\"device_status\",\"data\":{\r\n \"status\": \"on\\nline\"\n}}",
        )
        .unwrap();
        let mut body = Vec::new();
        write_line(&mut body, &event).unwrap();
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["data"]["status"], "on\nline");
    }
}
