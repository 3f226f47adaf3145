//! Messages that others publish, as events: the layout `fleet`.
//!
//! What a message means follows from its subject, whose it is from its payload. What subject and payload
//! both say must agree. The payload is treated as a published one is, so that a reader can't tell how an
//! event came in.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use tidings_log::NewEvent;
use tidings_protocol::{DeviceId, TenantId};

use super::message::{Malformed, percent_decoded};
use crate::config::{Config, FleetStream, FleetSubject, SubjectPart};
use crate::ingest::payload;
use crate::ingest::subject::Subjects;

/// Reads the messages of one stream.
#[derive(Debug)]
pub struct FleetDecoder {
    stream: FleetStream,
    subjects: Arc<Subjects>,
    /// The largest event, in bytes: of all tenants, and of those that have another limit.
    event_bytes: usize,
    own_event_bytes: HashMap<TenantId, usize>,
}

/// What a subject says beside the event's type.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named<'a> {
    tenant: Option<&'a str>,
    device: Option<&'a str>,
}

impl FleetDecoder {
    /// The reader of a stream's messages under a configuration.
    #[must_use]
    pub fn new(stream: FleetStream, config: &Config) -> Self {
        let own = config.tenants.iter();
        Self {
            stream,
            subjects: Arc::new(Subjects::new(&config.subjects)),
            event_bytes: config.limits.event_bytes,
            own_event_bytes: own
                .filter_map(|(tenant, own)| Some((*tenant, own.event_bytes?)))
                .collect(),
        }
    }

    /// The event that a message is; `None` where its subject is none of those that are read.
    ///
    /// # Errors
    ///
    /// Says why it is none, although its subject says so.
    pub fn decode(
        &self,
        subject: &str,
        payload: &[u8],
    ) -> Result<Option<(TenantId, NewEvent)>, Malformed> {
        let fitting = |form| Some((form, fit(form, subject)?));
        let Some((form, named)) = self.stream.subjects.iter().find_map(fitting) else {
            return Ok(None);
        };
        self.read(form, &named, payload).map(Some)
    }

    fn read(
        &self,
        form: &FleetSubject,
        named: &Named<'_>,
        payload: &[u8],
    ) -> Result<(TenantId, NewEvent), Malformed> {
        let data: &RawValue = serde_json::from_slice(payload).map_err(|_| Malformed::Payload)?;
        let tenant = payload::named_tenant(data).map_err(|error| match error.field {
            "data" => Malformed::Payload,
            _ => Malformed::NoTenant,
        })?;
        if named.tenant.is_some_and(|text| text.parse() != Ok(tenant)) {
            return Err(Malformed::OtherTenant);
        }
        let limit = self
            .own_event_bytes
            .get(&tenant)
            .unwrap_or(&self.event_bytes);
        if payload.len() > *limit {
            return Err(Malformed::TooLarge);
        }
        let device = named
            .device
            .map(|text| {
                let text = percent_decoded(text).ok_or(Malformed::OtherDevice)?;
                text.parse::<DeviceId>().map_err(|_| Malformed::OtherDevice)
            })
            .transpose()?;
        let rule = self.subjects.of(&form.event_type);
        let admitted =
            payload::admit(data, tenant, device, rule).map_err(|error| match error.field {
                "data.tenant_id" => Malformed::OtherTenant,
                "data.device_id" => Malformed::OtherDevice,
                _ => Malformed::Payload,
            })?;
        Ok((
            tenant,
            NewEvent {
                event_type: form.event_type.clone(),
                device: admitted.device,
                time: None,
                key: None,
                origin: None,
                subject: admitted.subject,
                data: admitted.bytes,
            },
        ))
    }
}

/// What a subject of this form says; `None` for one of another form.
fn fit<'a>(form: &FleetSubject, subject: &'a str) -> Option<Named<'a>> {
    let mut named = Named::default();
    let mut texts = subject.split('.');
    for part in &form.parts {
        let text = texts.next()?;
        match part {
            SubjectPart::Plain(plain) if **plain == *text => {}
            SubjectPart::Plain(_) => return None,
            SubjectPart::Tenant => named.tenant = Some(text),
            SubjectPart::Device => named.device = Some(text),
            SubjectPart::Any => {}
            SubjectPart::Rest => return Some(named),
        }
    }
    texts.next().is_none().then_some(named)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{self, Sources};

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const OTHER: &str = "22222222-2222-4222-8222-222222222222";

    /// The decoders of the protocol's three streams.
    fn decoders() -> Vec<FleetDecoder> {
        let flags = [
            ("log.kind", "jetstream"),
            ("log.layout", "fleet"),
            ("nats.url", "nats://127.0.0.1"),
            ("limits.event_bytes", "4KiB"),
        ];
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let loaded = config::load(&Sources {
            flags: flags.map(own).to_vec(),
            ..Sources::default()
        });
        let config = loaded.unwrap().config;
        let streams = config.nats.fleet.iter().cloned();
        streams
            .map(|stream| FleetDecoder::new(stream, &config))
            .collect()
    }

    /// What the three streams make of a message: type, tenant, device and data, or why not.
    fn read(
        subject: &str,
        payload: &str,
    ) -> Result<Option<(String, Option<String>, Value)>, Malformed> {
        for decoder in decoders() {
            if let Some((tenant, event)) = decoder.decode(subject, payload.as_bytes())? {
                assert_eq!(tenant.to_string(), TENANT);
                assert_eq!(event.key, None);
                let device = event.device.map(|device| device.to_string());
                let data = serde_json::from_slice(&event.data).unwrap();
                return Ok(Some((event.event_type.to_string(), device, data)));
            }
        }
        Ok(None)
    }

    #[test]
    fn subjects_are_events_as_the_protocols_table_has_them() {
        let payload = json!({ "tenant_id": TENANT }).to_string();
        let r1 = Some("r1");
        for (subject, expected) in [
            ("device.status.r1", Some(("device_status", r1))),
            ("device.status.r%2E1", Some(("device_status", Some("r.1")))),
            ("device.metrics.health.r1", Some(("metric_update", r1))),
            (
                &*format!("config.push.{TENANT}.r1"),
                Some(("config_push", r1)),
            ),
            ("config.push.rollback.r1", Some(("config_push", None))),
            ("config.push.rollback.a.b.c", Some(("config_push", None))),
            ("config.push.alert.x", Some(("config_push", None))),
            (
                &*format!("alert.fired.{TENANT}"),
                Some(("alert_fired", None)),
            ),
            (
                &*format!("alert.resolved.{TENANT}"),
                Some(("alert_resolved", None)),
            ),
            (
                &*format!("firmware.progress.{TENANT}.r1"),
                Some(("firmware_progress", r1)),
            ),
            ("device.status.r1.more", None),
            ("device.status", None),
            ("device.metrics.r1", None),
            ("config.push.rollback", None),
            ("config.changed.r1", None),
            ("alert.fired", None),
        ] {
            let read = read(subject, &payload).unwrap();
            let found = read
                .as_ref()
                .map(|(event_type, device, _)| (&**event_type, device.as_deref()));
            assert_eq!(found, expected, "{subject}");
        }
    }

    #[test]
    fn what_subject_and_payload_say_must_agree() {
        let with = |fields: Value| {
            let mut payload = json!({ "tenant_id": TENANT });
            for (name, value) in fields.as_object().unwrap() {
                payload[name] = value.clone();
            }
            payload.to_string()
        };
        let large = with(json!({ "text": "x".repeat(5_000) }));
        let repeated = format!(r#"{{"tenant_id":"{TENANT}","tenant_id":"{OTHER}"}}"#);
        for (subject, payload, reason) in [
            ("device.status.r1", "{".to_owned(), Malformed::Payload),
            ("device.status.r1", "[]".to_owned(), Malformed::Payload),
            ("device.status.r1", "null".to_owned(), Malformed::Payload),
            ("device.status.r1", "{} {}".to_owned(), Malformed::Payload),
            ("device.status.r1", "{}".to_owned(), Malformed::NoTenant),
            (
                "device.status.r1",
                with(json!({"tenant_id": null})),
                Malformed::NoTenant,
            ),
            (
                "device.status.r1",
                with(json!({"tenant_id": "x"})),
                Malformed::NoTenant,
            ),
            (
                "device.status.r1",
                with(json!({"tenant_id": 7})),
                Malformed::NoTenant,
            ),
            ("device.status.r1", repeated, Malformed::OtherTenant),
            (
                "device.status.r1",
                with(json!({"device_id": "r2"})),
                Malformed::OtherDevice,
            ),
            (
                "device.status.r1",
                with(json!({"device_id": null})),
                Malformed::OtherDevice,
            ),
            (
                "device.status.r%ZZ",
                with(json!({})),
                Malformed::OtherDevice,
            ),
            ("device.status.-", with(json!({})), Malformed::OtherDevice),
            ("device.status.r1", large, Malformed::TooLarge),
            (
                &format!("alert.fired.{OTHER}"),
                with(json!({})),
                Malformed::OtherTenant,
            ),
            ("alert.fired.x", with(json!({})), Malformed::OtherTenant),
        ] {
            assert_eq!(read(subject, &payload), Err(reason), "{subject} {payload}");
        }
    }

    #[test]
    fn a_payload_becomes_what_a_published_one_becomes() {
        let decoder = &decoders()[0];
        let payload = format!("{{\n \"tenant_id\": \"{TENANT}\",\r\n \"type\": \"health\"\n}}");
        let (_, event) = decoder
            .decode("device.metrics.health.r1", payload.as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(
            String::from_utf8(event.data).unwrap(),
            format!(r#"{{"device_id":"r1","tenant_id":"{TENANT}","type":"health"}}"#)
        );
        let subject = event.subject.unwrap();
        assert_eq!(
            (subject.kind.as_str(), subject.key.as_str(), subject.ends),
            ("metric_update", "r1/health", false)
        );
    }

    proptest! {
        /// Whatever somebody publishes, it is read, ignored or counted, and what is read is whose it says.
        #[test]
        fn any_message_is_read_ignored_or_counted(
            subject in "(device|config|alert|firmware)(\\.(status|push|fired|progress|rollback|r1|%2e|[a-z]{0,3})){0,4}",
            payload in prop_oneof![
                any::<String>(),
                "\\{\"(tenant_id|a)\":(\"11111111-1111-4111-8111-111111111111\"|1)\\}",
            ],
        ) {
            if let Ok(Some((event_type, _, data))) = read(&subject, &payload) {
                prop_assert_eq!(&data["tenant_id"], TENANT);
                prop_assert!(!event_type.is_empty());
            }
        }
    }
}
