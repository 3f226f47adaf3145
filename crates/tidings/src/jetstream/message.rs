//! An event as a message of the layout `own`, both ways.
//!
//! | part | holds |
//! | --- | --- |
//! | subject | `tidings.{tenant}.{type}.{device}`; a dot in a device's id is `%2E`, and `-` stands for no device |
//! | `Nats-Msg-Id` | what makes a repetition recognisable: 32 hex digits |
//! | `Tidings` | `1`, then fields with a space before each: `digest=` of what was published under a key (32 hex digits), `time=` of the publisher (microseconds since 1970), `kind=` and `key=` of its subject (the key percent-encoded), `ends` where the subject ends with it |
//! | payload | the event's data, as it goes to readers |

use std::fmt::Write as _;
use std::sync::Arc;

use async_nats::HeaderMap;
use sha2::{Digest as _, Sha256};
use tidings_log::{NewEvent, NewSubject};
use tidings_protocol::event::REMOVED;
use tidings_protocol::{DeviceId, EventType, SubjectKey, TenantId};

/// What the subjects of the stream begin with.
const PREFIX: &str = "tidings.";

/// All subjects of the stream.
pub const ALL_SUBJECTS: &str = "tidings.*.*.*";

/// The header by which the broker recognises a repetition.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The header with what neither subject nor payload says.
pub const HEADER: &str = "Tidings";

/// The version of that header.
const VERSION: &str = "1";

/// Why a message is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Malformed {
    /// The subject has another form, or names something that can't be.
    #[error("its subject is not one of ours")]
    Subject,
    /// There is no header of ours, or a newer one.
    #[error("it has no header of ours")]
    Header,
    /// The payload is not UTF-8, no JSON object, or has line breaks.
    #[error("its payload is no JSON object")]
    Payload,
    /// The payload names no tenant.
    #[error("its payload names no tenant")]
    NoTenant,
    /// Subject and payload name different tenants.
    #[error("its subject and its payload name different tenants")]
    OtherTenant,
    /// Subject and payload name different devices, or one that can't be.
    #[error("its subject and its payload name different devices")]
    OtherDevice,
    /// The event is larger than its tenant may have.
    #[error("it is too large")]
    TooLarge,
}

impl Malformed {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Subject,
        Self::Header,
        Self::Payload,
        Self::NoTenant,
        Self::OtherTenant,
        Self::OtherDevice,
        Self::TooLarge,
    ];

    /// The reason in a word, for counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Header => "header",
            Self::Payload => "payload",
            Self::NoTenant => "no_tenant",
            Self::OtherTenant => "other_tenant",
            Self::OtherDevice => "other_device",
            Self::TooLarge => "too_large",
        }
    }
}

/// The subject of an event.
#[must_use]
pub fn subject(tenant: TenantId, event: &NewEvent) -> String {
    let device = event.device.as_ref().map_or("-", DeviceId::as_str);
    let mut subject = String::with_capacity(128);
    // Writing to a String can't fail.
    let _ = write!(subject, "{PREFIX}{tenant}.{}.", event.event_type);
    encode(device, &mut subject, |byte| byte != b'.');
    subject
}

/// The message id of an event: of its key where it has one, else of itself alone.
#[must_use]
pub fn message_id(tenant: TenantId, event: &NewEvent) -> String {
    let id: [u8; 16] = match event.key {
        Some(key) => {
            let mut hash = Sha256::new();
            hash.update(tenant.as_bytes());
            hash.update(key.key);
            let mut short = [0; 16];
            short.copy_from_slice(&hash.finalize()[..16]);
            short
        }
        // So that a repetition after a fault of the broker is recognised.
        None => rand::random(),
    };
    hex(&id)
}

/// What the header says of an event that neither its subject nor its payload says.
#[must_use]
pub fn header(event: &NewEvent) -> String {
    let mut value = String::with_capacity(64);
    value.push_str(VERSION);
    if let Some(key) = event.key {
        value.push_str(" digest=");
        value.push_str(&hex(&key.digest));
    }
    if let Some(time) = event.time {
        let _ = write!(value, " time={time}");
    }
    if let Some(subject) = &event.subject {
        let _ = write!(value, " kind={} key=", subject.kind);
        encode(subject.key.as_str(), &mut value, |byte| {
            byte.is_ascii_graphic() && byte != b'%'
        });
        if subject.ends {
            value.push_str(" ends");
        }
    }
    value
}

/// The headers of an event.
#[must_use]
pub fn headers(event: &NewEvent, message_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, message_id);
    headers.insert(HEADER, header(event).as_str());
    headers
}

/// About how many bytes an event takes as a message, beside its payload; never less than it does.
#[must_use]
pub fn overhead(event: &NewEvent) -> usize {
    // The names of headers and fields, ids, digest, time and line ends; a key can be three times itself.
    let subject = event.subject.as_ref().map_or(0, |subject| {
        subject.kind.as_str().len() + 3 * subject.key.as_str().len()
    });
    240 + subject
}

/// The digest in the text of a message's headers, as the broker gives it; `None` where there is none.
#[must_use]
pub fn digest(headers: &str) -> Option<[u8; 16]> {
    let line = headers
        .lines()
        .find_map(|line| line.strip_prefix(HEADER)?.strip_prefix(':'))?;
    line.split(' ')
        .find_map(|field| field.strip_prefix("digest="))
        .and_then(unhex)
}

/// Reads a message as an event. The event has no key: whether it is a repetition, the broker has decided.
///
/// # Errors
///
/// Says what is wrong; such a message was not written by a publish endpoint.
pub fn decode(
    types: &KnownTypes,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &[u8],
) -> Result<(TenantId, NewEvent), Malformed> {
    let (tenant, event_type, device) = read_subject(types, subject)?;
    let header = headers
        .and_then(|headers| headers.get(HEADER))
        .ok_or(Malformed::Header)?;
    let (time, subject) = read_header(types, header.as_str())?;
    let plain = payload.first() == Some(&b'{')
        && payload.last() == Some(&b'}')
        && memchr::memchr2(b'\n', b'\r', payload).is_none()
        && std::str::from_utf8(payload).is_ok();
    if !plain {
        return Err(Malformed::Payload);
    }
    Ok((
        tenant,
        NewEvent {
            event_type,
            device,
            time,
            key: None,
            origin: None,
            subject,
            data: payload.to_vec(),
        },
    ))
}

/// The event types that were met, so that each is allocated once.
#[derive(Clone, Debug)]
pub struct KnownTypes(Arc<[EventType]>);

impl KnownTypes {
    /// The types of a deployment; others are read as well, at a higher price.
    #[must_use]
    pub fn new(types: &[EventType]) -> Self {
        let removed = EventType::removed();
        Self(types.iter().chain([&removed]).cloned().collect())
    }

    /// The type of this name.
    fn get(&self, name: &str) -> Option<EventType> {
        let known = self.0.iter().find(|known| known.as_str() == name);
        known.cloned().or_else(|| name.parse().ok())
    }
}

fn read_subject(
    types: &KnownTypes,
    subject: &str,
) -> Result<(TenantId, EventType, Option<DeviceId>), Malformed> {
    let read = || {
        let mut parts = subject.strip_prefix(PREFIX)?.splitn(3, '.');
        let tenant: TenantId = parts.next()?.parse().ok()?;
        let event_type = types.get(parts.next()?)?;
        let device = match parts.next()? {
            "-" => None,
            encoded => Some(percent_decoded(encoded)?.parse().ok()?),
        };
        Some((tenant, event_type, device))
    };
    read().ok_or(Malformed::Subject)
}

fn read_header(
    types: &KnownTypes,
    header: &str,
) -> Result<(Option<i64>, Option<NewSubject>), Malformed> {
    let mut fields = header.split(' ');
    if fields.next() != Some(VERSION) {
        return Err(Malformed::Header);
    }
    let (mut time, mut kind, mut key, mut ends) = (None, None, None, false);
    for field in fields {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match name {
            "time" => time = Some(value.parse().map_err(|_| Malformed::Header)?),
            "kind" => kind = Some(types.get(value).ok_or(Malformed::Header)?),
            "key" => {
                let decoded = percent_decoded(value).ok_or(Malformed::Header)?;
                let read: SubjectKey = decoded.parse().map_err(|_| Malformed::Header)?;
                key = Some(read);
            }
            "ends" => ends = true,
            // The digest, and what later versions may add.
            _ => {}
        }
    }
    let subject = match (kind, key) {
        // Nothing is the state of a removal.
        (Some(kind), Some(key)) if kind.as_str() != REMOVED => Some(NewSubject { kind, key, ends }),
        (None, None) => None,
        _ => return Err(Malformed::Header),
    };
    Ok((time, subject))
}

/// Appends `text` with each byte that is not `plain` as `%XX` (RFC 3986, section 2.1).
fn encode(text: &str, into: &mut String, plain: impl Fn(u8) -> bool) {
    for character in text.chars() {
        let mut buffer = [0; 4];
        for &byte in character.encode_utf8(&mut buffer).as_bytes() {
            if byte.is_ascii() && plain(byte) {
                into.push(char::from(byte));
            } else {
                let _ = write!(into, "%{byte:02X}");
            }
        }
    }
}

/// Resolves `%XX`; `None` where that is cut off, no number, or no UTF-8.
#[must_use]
pub fn percent_decoded(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok().map(Into::into)
}

fn hex(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(32);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 32)
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_log::IdempotencyKey;

    use super::*;

    fn types() -> KnownTypes {
        KnownTypes::new(&["device_status".parse().unwrap()])
    }

    fn any_event() -> impl Strategy<Value = NewEvent> {
        let subject = (
            "[a-z][a-z0-9]{0,5}x",
            "\\PC{1,40}|[\\r\\n %=.]{1,8}",
            any::<bool>(),
        )
            .prop_map(|(kind, key, ends)| NewSubject {
                kind: kind.parse().unwrap(),
                key: key.parse().unwrap(),
                ends,
            });
        (
            "[a-z][a-z0-9_]{0,9}x|device_status",
            proptest::option::of("[A-Za-z0-9_.:-]{2,30}"),
            any::<Option<i64>>(),
            any::<Option<([u8; 16], [u8; 16])>>(),
            proptest::option::of(subject),
        )
            .prop_map(|(event_type, device, time, key, subject)| NewEvent {
                event_type: event_type.parse().unwrap(),
                device: device.map(|device| device.parse().unwrap()),
                time,
                key: key.map(|(key, digest)| IdempotencyKey { key, digest }),
                origin: None,
                subject,
                data: b"{\"a\":1}".to_vec(),
            })
    }

    /// The headers as they stand in a message.
    fn as_text(headers: &HeaderMap) -> String {
        let mut text = "NATS/1.0\r\n".to_owned();
        for (name, values) in headers.iter() {
            for value in values {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        text + "\r\n"
    }

    proptest! {
        /// What a node publishes, every node reads as it was.
        #[test]
        fn an_event_survives_the_way_through_a_message(event in any_event(), tenant: [u8; 16]) {
            let tenant = TenantId::from_bytes(tenant);
            let id = message_id(tenant, &event);
            let (subject, headers) = (subject(tenant, &event), headers(&event, &id));
            prop_assert_eq!(subject.split('.').count(), 4, "{}", subject);
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte)));
            let text = as_text(&headers);
            prop_assert!(text.len() + subject.len() <= overhead(&event) + 300);
            prop_assert_eq!(text.lines().count(), 4, "a value can't break a line");
            prop_assert_eq!(digest(&text), event.key.map(|key| key.digest));
            let (read_tenant, read) = decode(&types(), &subject, Some(&headers), &event.data).unwrap();
            prop_assert_eq!(read_tenant, tenant);
            prop_assert_eq!(read, NewEvent { key: None, ..event });
        }

        /// Equal keys of one tenant have one id; others do not.
        #[test]
        fn an_id_is_of_tenant_and_key(mut event in any_event(), key: [u8; 16]) {
            let (one, other) = (TenantId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
            event.key = Some(IdempotencyKey { key, digest: [0; 16] });
            let id = message_id(one, &event);
            prop_assert_eq!(id.len(), 32);
            event.time = Some(7);
            prop_assert_eq!(&id, &message_id(one, &event));
            prop_assert_ne!(&id, &message_id(other, &event));
            event.key = None;
            prop_assert_ne!(message_id(one, &event), message_id(one, &event));
        }

        #[test]
        fn no_message_of_a_stranger_breaks_the_reader(
            subject in "(tidings\\.)?[a-z0-9.%-]{0,60}",
            header in proptest::option::of("\\PC{0,40}"),
            payload: Vec<u8>,
        ) {
            let headers = header.map(|header| {
                let mut headers = HeaderMap::new();
                headers.insert(HEADER, header.as_str());
                headers
            });
            let _ = decode(&types(), &subject, headers.as_ref(), &payload);
        }
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        let tenant = "11111111-1111-4111-8111-111111111111";
        let good = format!("tidings.{tenant}.device_status.r%2E1");
        let mut ours = HeaderMap::new();
        ours.insert(HEADER, "1");
        let read = |subject: &str, headers: Option<&HeaderMap>, payload: &str| {
            decode(&types(), subject, headers, payload.as_bytes())
                .map(|(_, event)| event.device.unwrap().to_string())
        };
        assert_eq!(read(&good, Some(&ours), "{}"), Ok("r.1".to_owned()));
        for subject in [
            "tidings.x.device_status.r1".to_owned(),
            format!("tidings.{tenant}.Device.r1"),
            format!("tidings.{tenant}.device_status"),
            format!("tidings.{tenant}.device_status.a.b%"),
            format!("tidings.{tenant}.cursor.-"),
            format!("other.{tenant}.device_status.-"),
        ] {
            assert_eq!(
                read(&subject, Some(&ours), "{}"),
                Err(Malformed::Subject),
                "{subject}"
            );
        }
        assert_eq!(read(&good, None, "{}"), Err(Malformed::Header));
        for header in [
            "",
            "2",
            "1 time=x",
            "1 kind=device_status",
            "1 kind=A key=b",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, header);
            assert_eq!(
                read(&good, Some(&headers), "{}"),
                Err(Malformed::Header),
                "{header}"
            );
        }
        for payload in ["", "[]", "{\n}", "{} "] {
            assert_eq!(
                read(&good, Some(&ours), payload),
                Err(Malformed::Payload),
                "{payload}"
            );
        }
    }
}
