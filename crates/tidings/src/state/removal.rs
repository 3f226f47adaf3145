//! The server's own event `removed`: `{"tenant_id","device_id"?,"subject","type"}`.

use sha2::{Digest as _, Sha256};
use tidings_log::{IdempotencyKey, NewEvent, NewSubject, StateEntry};
use tidings_protocol::EventType;

use crate::cursors::Origin;

/// On many nodes the same subject can be found overdue at once: the key makes one removal of it. A single
/// node's own log needs none.
fn once(entry: &StateEntry) -> Option<IdempotencyKey> {
    let origin = entry.event().origin.and_then(Origin::decode)?;
    let mut hash = Sha256::new();
    hash.update(b"removed\0");
    hash.update(entry.kind());
    hash.update([0]);
    hash.update(entry.key());
    hash.update([0]);
    hash.update(origin.own().to_string());
    let hash = hash.finalize();
    let (key, rest) = hash.split_first_chunk::<16>()?;
    Some(IdempotencyKey {
        key: *key,
        digest: rest.try_into().ok()?,
    })
}

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
        key: once(entry),
        subject: Some(NewSubject {
            kind: entry.kind().parse().ok()?,
            key: entry.key().parse().ok()?,
            ends: true,
        }),
        origin: None,
        data: serde_json::to_vec(&data).ok()?,
    })
}
