//! A subject in the bucket.
//!
//! | part | holds |
//! | --- | --- |
//! | key | `{tenant}.{kind}.{hash of the subject's key}`, so that a tenant can be taken out by its subjects |
//! | `Tidings` | what it says of an event of the stream ([`message`]) |
//! | `Tidings-Event` | the event's subject in the stream: tenant, type, device |
//! | `Tidings-At` | the event's place in the stream (`EPOCH.POSITION`), and when it was stored there (microseconds since 1970) |
//! | payload | the event's data |

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tidings_log::{EventRef, NewEvent, NewSubject, StateEntry};
use tidings_protocol::{Cursor, TenantId};

use super::PREFIX;
use crate::cursors::Origin;
use crate::jetstream::message::{self, KnownTypes};

const EVENT: &str = "Tidings-Event";
const AT: &str = "Tidings-At";

/// The last event of a living subject, with where it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its place in the stream.
    pub at: Cursor,
    /// When the stream took it, in microseconds since the Unix epoch.
    pub time: i64,
    /// The event; it has a subject.
    pub event: NewEvent,
}

impl Entry {
    /// An event of a mirror's log; `None` where it is of no subject, or no mirror's.
    #[must_use]
    pub fn of(event: &EventRef<'_>) -> Option<Self> {
        let subject = event.subject?;
        let origin = event.origin.and_then(Origin::decode)?;
        Some(Self {
            tenant: event.tenant,
            at: origin.own(),
            time: origin.time,
            event: NewEvent {
                event_type: event.event_type.parse().ok()?,
                device: event.device.map(str::parse).transpose().ok()?,
                time: event.time,
                key: None,
                subject: Some(NewSubject {
                    kind: subject.kind.parse().ok()?,
                    key: subject.key.parse().ok()?,
                    ends: subject.ends,
                }),
                origin: None,
                data: event.data.to_vec(),
            },
        })
    }

    /// The last event of a subject, as the state has it.
    #[must_use]
    pub fn of_state(entry: &StateEntry) -> Option<Self> {
        Self::of(&entry.event())
    }

    /// Whether the subject ends with it.
    #[must_use]
    pub fn ends(&self) -> bool {
        let subject = self.event.subject.as_ref();
        subject.is_some_and(|subject| subject.ends)
    }

    /// Under which subject of NATS it stands.
    #[must_use]
    pub fn subject(&self) -> String {
        let (kind, key) = match &self.event.subject {
            Some(subject) => (subject.kind.as_str(), subject.key.as_str()),
            None => ("-", ""),
        };
        let hash = Sha256::digest(key.as_bytes());
        let hash = URL_SAFE_NO_PAD.encode(hash);
        format!("{PREFIX}{}.{kind}.{hash}", self.tenant)
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(message::HEADER, message::header(&self.event).as_str());
        headers.insert(EVENT, message::subject(self.tenant, &self.event).as_str());
        headers.insert(AT, format!("{} {}", self.at, self.time).as_str());
        headers
    }

    /// Reads what stands in the bucket; `None` where that is no living subject of ours.
    #[must_use]
    pub fn read(types: &KnownTypes, headers: Option<&HeaderMap>, payload: &[u8]) -> Option<Self> {
        let text = |name: &str| headers?.get(name).map(|value| value.as_str().to_owned());
        let (at, time) = text(AT)?.split_once(' ').and_then(|(at, time)| {
            let at = at.parse().ok()?;
            Some((at, time.parse().ok()?))
        })?;
        let (tenant, event) = message::decode(types, &text(EVENT)?, headers, payload).ok()?;
        let entry = Self {
            tenant,
            at,
            time,
            event,
        };
        (entry.event.subject.is_some() && !entry.ends()).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_protocol::Epoch;

    use super::*;

    proptest! {
        #[test]
        fn a_subject_reads_back_as_it_was_written(
            key in "\\PC{1,60}",
            device in prop::option::of("[A-Za-z0-9_.:-]{2,60}"),
            numbers in (any::<u64>(), any::<u64>(), any::<i64>(), any::<Option<i64>>()),
        ) {
            let parsed = (key.parse(), device.map(|device| device.parse()).transpose());
            let (Ok(key), Ok(device)) = parsed else {
                return Ok(());
            };
            let entry = Entry {
                tenant: TenantId::from_bytes([7; 16]),
                at: Cursor { epoch: Epoch(numbers.0), position: numbers.1 },
                time: numbers.2,
                event: NewEvent {
                    event_type: "alert_fired".parse().unwrap(),
                    device,
                    time: numbers.3,
                    key: None,
                    subject: Some(NewSubject { kind: "alert_fired".parse().unwrap(), key, ends: false }),
                    origin: None,
                    data: b"{\"n\":1}".to_vec(),
                },
            };
            let types = KnownTypes::new(&[]);
            let read = Entry::read(&types, Some(&entry.headers()), &entry.event.data);
            prop_assert_eq!(read, Some(entry.clone()));
            let subject = entry.subject();
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'));
            prop_assert_eq!(subject.split('.').count(), 5);
        }
    }

    #[test]
    fn what_is_no_subject_of_ours_is_passed_over() {
        let types = KnownTypes::new(&[]);
        assert_eq!(Entry::read(&types, None, b"{}"), None);
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        assert_eq!(Entry::read(&types, Some(&headers), b""), None);
    }
}
