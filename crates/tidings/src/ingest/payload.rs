//! Payloads: the `data` of an event.
//!
//! A payload goes to every reader as the publisher wrote it, but for two things: it names its
//! tenant and device, and it has no line break.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use tidings_log::NewSubject;
use tidings_protocol::event::InvalidDeviceId;
use tidings_protocol::{DeviceId, TenantId};

use super::json_text;
use super::subject::{Members, SubjectRule};

/// What a payload says of itself.
#[derive(Debug, Default)]
struct Identity<'a> {
    empty: bool,
    /// The raw values of every `tenant_id` member: JSON lets a name come twice, and readers differ
    /// in which one they take.
    tenants: SmallVec<[&'a RawValue; 1]>,
    devices: SmallVec<[&'a RawValue; 1]>,
    /// What the rule of the event's type asks for.
    members: Members<'a>,
}

/// A payload can't be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPayload {
    /// The field, as `data.device_id`.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// A payload as it is stored, and the device that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// A JSON object without line breaks, with `tenant_id`, and with `device_id` where there is one.
    pub bytes: Vec<u8>,
    /// The event's device.
    pub device: Option<DeviceId>,
    /// What the event is the latest state of.
    pub subject: Option<NewSubject>,
}

struct IdentityVisitor<'a> {
    rule: Option<&'a SubjectRule>,
}

impl<'de> Visitor<'de> for IdentityVisitor<'_> {
    type Value = Identity<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut identity = Identity {
            empty: true,
            ..Identity::default()
        };
        while let Some(name) = members.next_key::<Name<'de>>()? {
            identity.empty = false;
            match name.0.as_ref() {
                "tenant_id" => identity.tenants.push(members.next_value()?),
                "device_id" => identity.devices.push(members.next_value()?),
                other => match self.rule.and_then(|rule| rule.place(other)) {
                    Some(place) => identity.members.push((place, members.next_value()?)),
                    None => {
                        members.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        Ok(identity)
    }
}

/// A member's name, with its escapes resolved: `"tenant\u005fid"` is `tenant_id` to every reader.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Checks a payload against the tenant it is published to and the device of its envelope, and
/// makes it what is stored. The rule is that of the event's type, if it has one.
///
/// # Errors
///
/// When it is no object, or names another tenant or device.
pub fn admit(
    data: &RawValue,
    tenant: TenantId,
    device: Option<DeviceId>,
    rule: Option<&SubjectRule>,
) -> Result<Payload, InvalidPayload> {
    let text = data.get();
    let identity = serde_json::Deserializer::from_str(text)
        .deserialize_any(IdentityVisitor { rule })
        .map_err(|_| invalid("data", "must be a JSON object"))?;
    check_tenant(&identity, tenant)?;
    let device = check_device(&identity, device)?;
    let missing_device = device.as_ref().filter(|_| identity.devices.is_empty());
    let bytes = store(
        text,
        identity.empty,
        tenant,
        identity.tenants.is_empty(),
        missing_device,
    );
    let subject = rule.and_then(|rule| rule.subject(tenant, device.as_ref(), &identity.members));
    Ok(Payload {
        bytes,
        device,
        subject,
    })
}

/// The tenant that a payload names, where nothing else says whose it is. [`admit`] then sees to it that it
/// names no other beside it.
///
/// # Errors
///
/// When it is no object, names none, or names something that is no tenant.
pub fn named_tenant(data: &RawValue) -> Result<TenantId, InvalidPayload> {
    let identity = serde_json::Deserializer::from_str(data.get())
        .deserialize_any(IdentityVisitor { rule: None })
        .map_err(|_| invalid("data", "must be a JSON object"))?;
    identity
        .tenants
        .first()
        .and_then(|value| json_text::read(value)?.parse().ok())
        .ok_or_else(|| invalid("data.tenant_id", "must be the id of a tenant"))
}

fn check_tenant(identity: &Identity<'_>, tenant: TenantId) -> Result<(), InvalidPayload> {
    let agrees =
        |value: &&RawValue| json_text::read(value).is_some_and(|named| named.parse() == Ok(tenant));
    if identity.tenants.iter().all(agrees) {
        return Ok(());
    }
    Err(invalid(
        "data.tenant_id",
        &format!("must be the tenant that the event is published to, {tenant}, or be left out"),
    ))
}

/// The event's device, from the envelope or the payload; both must agree.
fn check_device(
    identity: &Identity<'_>,
    envelope: Option<DeviceId>,
) -> Result<Option<DeviceId>, InvalidPayload> {
    let mut expected = envelope.map(Some);
    for value in &identity.devices {
        // `null` says that there is no device, which is another thing than not to say.
        let named = match value.get() {
            "null" => None,
            _ => Some(
                json_text::read(value)
                    .ok_or_else(|| invalid("data.device_id", "must be a string"))?,
            ),
        };
        match &expected {
            Some(expected) if expected.as_ref().map(DeviceId::as_str) == named.as_deref() => {}
            Some(_) => {
                return Err(invalid(
                    "data.device_id",
                    "must be the event's device_id, or be left out",
                ));
            }
            None => {
                let device = named.map(|named| named.parse()).transpose();
                expected = Some(device.map_err(|error: InvalidDeviceId| {
                    invalid("data.device_id", &error.to_string())
                })?);
            }
        }
    }
    Ok(expected.flatten())
}

fn invalid(field: &'static str, detail: &str) -> InvalidPayload {
    InvalidPayload {
        field,
        detail: detail.to_owned(),
    }
}

fn store(
    text: &str,
    empty: bool,
    tenant: TenantId,
    missing_tenant: bool,
    missing_device: Option<&DeviceId>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 128);
    bytes.push(b'{');
    let mut put = |name: &str, value: &dyn fmt::Display| {
        if bytes.len() > 1 {
            bytes.push(b',');
        }
        write!(bytes, "\"{name}\":\"{value}\"").expect("a Vec takes all");
    };
    if missing_tenant {
        put("tenant_id", &tenant);
    }
    if let Some(device) = missing_device {
        put("device_id", device);
    }
    if bytes.len() > 1 && !empty {
        bytes.push(b',');
    }
    let rest = text
        .trim_start()
        .strip_prefix('{')
        .expect("an object was read from it");
    if memchr::memchr2(b'\n', b'\r', rest.as_bytes()).is_some() {
        minify(rest, &mut bytes);
    } else {
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// Appends JSON text without the white space between its tokens (RFC 8259, section 2). Within
/// strings a line break can't stand as such, so no string changes.
fn minify(text: &str, bytes: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    for &byte in text.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        bytes.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";

    fn admitted(
        data: &str,
        device: Option<&str>,
    ) -> Result<(String, Option<String>), &'static str> {
        let raw: &RawValue = serde_json::from_str(data).unwrap();
        admit(
            raw,
            TENANT.parse().unwrap(),
            device.map(|device| device.parse().unwrap()),
            None,
        )
        .map(|payload| {
            let device = payload.device.map(|device| device.to_string());
            (String::from_utf8(payload.bytes).unwrap(), device)
        })
        .map_err(|error| error.field)
    }

    #[test]
    fn what_a_payload_lacks_is_put_in_front() {
        let (bytes, device) = admitted(r#"{"status":"online"}"#, Some("r1")).unwrap();
        assert_eq!(
            bytes,
            format!(r#"{{"tenant_id":"{TENANT}","device_id":"r1","status":"online"}}"#)
        );
        assert_eq!(device.as_deref(), Some("r1"));
        assert_eq!(
            admitted("{}", None).unwrap().0,
            format!(r#"{{"tenant_id":"{TENANT}"}}"#)
        );
        assert_eq!(
            admitted("{ }", None).unwrap().0,
            format!(r#"{{"tenant_id":"{TENANT}" }}"#)
        );
    }

    #[test]
    fn a_whole_payload_stays_as_the_publisher_wrote_it() {
        let data = format!(
            r#"{{ "b": 1.0e5 , "tenant_id" : "{TENANT}", "device_id":"r1", "a":"é\u00e9"}}"#
        );
        let (bytes, device) = admitted(&data, None).unwrap();
        assert_eq!(bytes, data);
        assert_eq!(device.as_deref(), Some("r1"));
    }

    #[test]
    fn a_line_break_is_taken_out_between_tokens_only() {
        let data =
            format!("{{\n  \"tenant_id\": \"{TENANT}\",\r\n  \"text\": \"a \\n \\\" b\\\\\"\n}}");
        let (bytes, _) = admitted(&data, None).unwrap();
        assert_eq!(
            bytes,
            format!(r#"{{"tenant_id":"{TENANT}","text":"a \n \" b\\"}}"#)
        );
    }

    #[test]
    fn a_disagreement_is_refused_however_it_is_spelt() {
        let other = "22222222-2222-4222-8222-222222222222";
        for (data, device, field) in [
            (
                format!(r#"{{"tenant_id":"{other}"}}"#),
                None,
                "data.tenant_id",
            ),
            (
                format!(r#"{{"tenant_id":"{TENANT}","tenant_id":"{other}"}}"#),
                None,
                "data.tenant_id",
            ),
            (
                format!(r#"{{"tenant\u005fid":"{other}"}}"#),
                None,
                "data.tenant_id",
            ),
            (r#"{"tenant_id":null}"#.into(), None, "data.tenant_id"),
            (r#"{"tenant_id":7}"#.into(), None, "data.tenant_id"),
            (r#"{"device_id":"r2"}"#.into(), Some("r1"), "data.device_id"),
            (
                r#"{"device_id":"r1","device_id":"r2"}"#.into(),
                None,
                "data.device_id",
            ),
            (
                r#"{"device_id":null,"device_id":"r2"}"#.into(),
                None,
                "data.device_id",
            ),
            (
                r#"{"device_id":"r2","device_id":null}"#.into(),
                None,
                "data.device_id",
            ),
            (r#"{"device_id":null}"#.into(), Some("r1"), "data.device_id"),
            (r#"{"device_id":7}"#.into(), None, "data.device_id"),
            (r#"{"device_id":"-"}"#.into(), None, "data.device_id"),
            ("[]".into(), None, "data"),
            ("null".into(), None, "data"),
            ("\"{}\"".into(), None, "data"),
        ] {
            assert_eq!(admitted(&data, device), Err(field), "{data}");
        }
        assert_eq!(admitted(r#"{"device_id":null}"#, None).unwrap().1, None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[a-z\"\\\\\n]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever the payload, what is stored is one line, means the same, and names its tenant.
        #[test]
        fn a_stored_payload_means_what_was_published(
            members in proptest::collection::hash_map("[a-z ]{0,6}", any_json(), 0..5),
            pretty: bool,
        ) {
            let object = Value::Object(members.into_iter().collect());
            let text = if pretty {
                serde_json::to_string_pretty(&object).unwrap()
            } else {
                object.to_string()
            };
            let (bytes, _) = admitted(&text, Some("r1")).unwrap();
            prop_assert!(!bytes.contains(['\n', '\r']));
            let mut expected = object;
            expected["tenant_id"] = TENANT.into();
            expected["device_id"] = "r1".into();
            prop_assert_eq!(serde_json::from_str::<Value>(&bytes).unwrap(), expected);
        }
    }
}
