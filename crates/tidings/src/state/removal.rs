//! The server's own event `removed`: `{"tenant_id","device_id"?,"subject","type"}`.

use tidings_log::{NewEvent, NewSubject, StateEntry};
use tidings_protocol::EventType;

/// The event that takes a subject away. It is of the device of the subject's last event, so that it is seen
/// by those who saw that. `None` for a subject whose names are none, which the log does not hold.
#[must_use]
pub fn removed(entry: &StateEntry) -> Option<NewEvent> {
    let mut data = serde_json::Map::new();
    let mut put = |name: &str, value: &str| data.insert(name.to_owned(), value.into());
    put("tenant_id", &entry.tenant().to_string());
    if let Some(device) = entry.device() {
        put("device_id", device);
    }
    put("subject", entry.key());
    put("type", entry.kind());
    Some(NewEvent {
        event_type: EventType::removed(),
        device: entry.device().map(str::parse).transpose().ok()?,
        time: None,
        key: None,
        subject: Some(NewSubject {
            kind: entry.kind().parse().ok()?,
            key: entry.key().parse().ok()?,
            ends: true,
        }),
        origin: None,
        data: serde_json::to_vec(&data).ok()?,
    })
}
