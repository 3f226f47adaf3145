//! Subjects: what an event is the latest state of.
//!
//! A subject is found while the payload is read anyway ([`super::payload`]) and is stored with the
//! event. Its key is made of the values of the fields that name it. Whatever the values, two
//! subjects with different values have different keys: `~` and `/` within a value are written `~0`
//! and `~1` (RFC 6901, section 3), values are joined by `/`, and a value of a field that stands in for
//! another one follows `~`, the field's name and a colon.

use std::borrow::Cow;
use std::fmt::Write as _;

use smallvec::SmallVec;
use tidings_log::NewSubject;
use tidings_protocol::{DeviceId, EventType, SubjectKey, TenantId};

use super::json_text;
use crate::config::{SubjectConfig, SubjectEnd};

/// The rules of a deployment.
#[derive(Debug)]
pub struct Subjects(Vec<SubjectRule>);

/// What names the subject of a type's events, and what ends it.
#[derive(Debug)]
pub struct SubjectRule {
    event_type: EventType,
    kind: EventType,
    parts: Vec<Vec<Field>>,
    ends: End,
    /// The members of the payload that are asked for, apart from tenant and device.
    members: Vec<Box<str>>,
}

/// Where a value is found.
#[derive(Clone, Debug)]
enum Field {
    /// The event's device, which the payload may leave to the envelope.
    Device,
    Tenant,
    /// A member of the payload, by its place among those asked for.
    Member(usize),
}

#[derive(Debug)]
enum End {
    Never,
    Always,
    At(Field, Vec<Box<str>>),
}

/// The texts of the members that a rule asks for, by their places; a name can come twice.
pub type Members<'a> = SmallVec<[(usize, &'a str); 4]>;

/// The value is of no kind that can name something, or is given twice in different ways.
struct Unclear;

impl Subjects {
    /// The rules of a configuration.
    #[must_use]
    pub fn new(rules: &[SubjectConfig]) -> Self {
        let rules = rules.iter().filter(|rule| !rule.fields.is_empty());
        Self(rules.map(SubjectRule::new).collect())
    }

    /// The rule of a type.
    #[must_use]
    pub fn of(&self, event_type: &EventType) -> Option<&SubjectRule> {
        self.0.iter().find(|rule| rule.event_type == *event_type)
    }
}

impl SubjectRule {
    fn new(config: &SubjectConfig) -> Self {
        let mut members: Vec<Box<str>> = Vec::new();
        let mut field = |name: &str| match name {
            "device_id" => Field::Device,
            "tenant_id" => Field::Tenant,
            name => Field::Member(
                members
                    .iter()
                    .position(|member| **member == *name)
                    .unwrap_or_else(|| {
                        members.push(name.into());
                        members.len() - 1
                    }),
            ),
        };
        let parts = config
            .fields
            .iter()
            .map(|part| part.iter().map(|name| field(name)).collect())
            .collect();
        let ends = match &config.ends {
            SubjectEnd::Never => End::Never,
            SubjectEnd::Always => End::Always,
            SubjectEnd::At {
                field: name,
                values,
            } => End::At(field(name), values.clone()),
        };
        Self {
            event_type: config.event_type.clone(),
            kind: config.kind.clone(),
            parts,
            ends,
            members,
        }
    }

    /// The place of a member that is asked for.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| **member == *name)
    }

    /// The subject of an event, from what was found in its payload. None where a field is missing, or
    /// unclear.
    #[must_use]
    pub fn subject(
        &self,
        tenant: TenantId,
        device: Option<&DeviceId>,
        members: &[(usize, &str)],
    ) -> Option<NewSubject> {
        let payload = PayloadFields {
            tenant,
            device,
            members,
        };
        Some(NewSubject {
            kind: self.kind.clone(),
            key: self.key(&payload).ok()??,
            ends: self.ends(&payload).ok()?,
        })
    }

    fn key(&self, payload: &PayloadFields<'_>) -> Result<Option<SubjectKey>, Unclear> {
        if let ([part], Some(device)) = (&*self.parts, payload.device)
            && matches!(part[0], Field::Device)
        {
            // Device ids have nothing to escape.
            return Ok(Some(SubjectKey::from(device)));
        }
        let mut key = String::with_capacity(64);
        for (number, part) in self.parts.iter().enumerate() {
            if number > 0 {
                key.push('/');
            }
            if !self.append_part(&mut key, part, payload)? {
                return Ok(None);
            }
        }
        // One that is too long names nothing; the event is stored all the same.
        Ok(key.parse().ok())
    }

    /// Appends the first of the alternatives that is there; whether one is.
    fn append_part(
        &self,
        key: &mut String,
        part: &[Field],
        payload: &PayloadFields<'_>,
    ) -> Result<bool, Unclear> {
        for (number, field) in part.iter().enumerate() {
            let Some(value) = payload.read(field)? else {
                continue;
            };
            if number > 0 {
                let name = match field {
                    Field::Device => "device_id",
                    Field::Tenant => "tenant_id",
                    Field::Member(place) => &self.members[*place],
                };
                // Writing to a String can't fail.
                let _ = write!(key, "~{name}:");
            }
            for character in value.chars() {
                match character {
                    '~' => key.push_str("~0"),
                    '/' => key.push_str("~1"),
                    plain => key.push(plain),
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn ends(&self, payload: &PayloadFields<'_>) -> Result<bool, Unclear> {
        Ok(match &self.ends {
            End::Never => false,
            End::Always => true,
            End::At(field, values) => payload
                .read(field)?
                .is_some_and(|value| values.iter().any(|last| **last == *value)),
        })
    }
}

/// What the fields of a rule are read from.
struct PayloadFields<'a> {
    tenant: TenantId,
    device: Option<&'a DeviceId>,
    members: &'a [(usize, &'a str)],
}

impl PayloadFields<'_> {
    /// The value of a field; `null` and an empty text are none.
    fn read(&self, field: &Field) -> Result<Option<Cow<'_, str>>, Unclear> {
        let place = match field {
            Field::Device => return Ok(self.device.map(|device| device.as_str().into())),
            Field::Tenant => return Ok(Some(self.tenant.to_string().into())),
            Field::Member(place) => *place,
        };
        let mut values = self.members.iter().filter(|(of, _)| *of == place);
        let Some((_, first)) = values.next() else {
            return Ok(None);
        };
        let value = scalar(first)?;
        for (_, again) in values {
            if scalar(again)? != value {
                return Err(Unclear);
            }
        }
        Ok(value)
    }
}

/// Text, or a number or truth value as it is written.
fn scalar(value: &str) -> Result<Option<Cow<'_, str>>, Unclear> {
    match value.as_bytes().first() {
        Some(b'"') => {
            let text = json_text::read(value).ok_or(Unclear)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') | None => Err(Unclear),
        Some(_) => Ok(Some(value.into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{self, Sources};
    use crate::ingest::payload;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";

    fn rules(subjects: &str) -> Subjects {
        let loaded = config::load(&Sources {
            flags: vec![
                ("event_types".to_owned(), "door_state,door_gone".to_owned()),
                ("subjects".to_owned(), subjects.to_owned()),
            ],
            ..Sources::default()
        });
        Subjects::new(&loaded.unwrap().config.subjects)
    }

    /// Kind, key and end of the subject of a payload, written as `kind key` or `kind key ends`.
    fn found(
        rules: &Subjects,
        event_type: &str,
        device: Option<&str>,
        data: &str,
    ) -> Option<String> {
        let device = device.map(|device| device.parse().unwrap());
        let rule = rules.of(&event_type.parse().unwrap());
        let admitted = payload::admit(data, TENANT.parse().unwrap(), device, rule).unwrap();
        admitted.subject.map(|subject| {
            let end = if subject.ends { " ends" } else { "" };
            format!("{} {}{end}", subject.kind, subject.key)
        })
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn the_built_in_types_have_the_subjects_of_the_protocol() {
        let rules = rules("{}");
        let found = |event_type: &str, device: Option<&str>, data: &Value| {
            found(&rules, event_type, device, &data.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        for (event_type, device, data, expected) in [
            (
                "device_status",
                Some("r1"),
                json!({}),
                some("device_status r1"),
            ),
            (
                "device_status",
                None,
                json!({"device_id": "r1"}),
                some("device_status r1"),
            ),
            ("device_status", None, json!({"status": "online"}), None),
            (
                "metric_update",
                Some("r1"),
                json!({"type": "health"}),
                some("metric_update r1/health"),
            ),
            ("metric_update", Some("r1"), json!({}), None),
            ("metric_update", None, json!({"type": "health"}), None),
            (
                "alert_fired",
                Some("r1"),
                json!({"alert_event_id": "a/1"}),
                some("alert_fired a~11"),
            ),
            (
                "alert_resolved",
                None,
                json!({"alert_event_id": "a/1"}),
                some("alert_fired a~11 ends"),
            ),
            (
                "alert_fired",
                Some("r1"),
                json!({"alert_event_id": 7}),
                some("alert_fired 7"),
            ),
            (
                "config_push",
                Some("r1"),
                json!({"push_operation_id": "p"}),
                some("config_push p"),
            ),
            (
                "config_push",
                Some("r1"),
                json!({"push_operation_id": null, "stage": "pushing"}),
                some("config_push ~device_id:r1"),
            ),
            (
                "config_push",
                Some("r1"),
                json!({"stage": "failed"}),
                some("config_push ~device_id:r1 ends"),
            ),
            ("config_push", None, json!({"stage": "failed"}), None),
            (
                "firmware_progress",
                None,
                json!({"job_id": "j", "stage": "completed"}),
                some("firmware_progress j ends"),
            ),
            (
                "firmware_progress",
                None,
                json!({"job_id": "j", "stage": "rebooting"}),
                some("firmware_progress j"),
            ),
            ("firmware_progress", None, json!({"job_id": {"a": 1}}), None),
            (
                "firmware_progress",
                None,
                json!({"job_id": "j".repeat(513)}),
                None,
            ),
        ] {
            assert_eq!(
                found(event_type, device, &data),
                expected,
                "{event_type} {data}"
            );
        }
    }

    #[test]
    fn a_name_that_comes_twice_must_mean_one_subject() {
        let rules = rules("{}");
        let found = |data: &str| found(&rules, "firmware_progress", None, data);
        assert_eq!(
            found(r#"{"job_id":"j","job\u005fid":"\u006a"}"#).as_deref(),
            Some("firmware_progress j")
        );
        assert_eq!(found(r#"{"job_id":"j","job_id":"k"}"#), None);
        assert_eq!(found(r#"{"job_id":"j","job_id":null}"#), None);
        assert_eq!(
            found(r#"{"job_id":"j","stage":"completed","stage":"rebooting"}"#),
            None
        );
    }

    #[test]
    fn rules_can_be_added_and_replaced() {
        let rules = rules(
            r#"{ door_state = { fields = ["tenant_id", "door|device_id"], final_field = "open", final_values = ["false"] },
                 door_gone = { fields = ["door"], kind = "door_state", ends = true },
                 device_status = { fields = [] } }"#,
        );
        assert_eq!(
            found(&rules, "door_state", Some("r1"), r#"{"open":true}"#),
            Some(format!("door_state {TENANT}/~device_id:r1"))
        );
        assert_eq!(
            found(&rules, "door_state", None, r#"{"open":false,"door":3}"#),
            Some(format!("door_state {TENANT}/3 ends"))
        );
        assert_eq!(
            found(&rules, "door_gone", None, r#"{"door":"3"}"#).as_deref(),
            Some("door_state 3 ends")
        );
        assert_eq!(found(&rules, "device_status", Some("r1"), "{}"), None);
        assert!(found(&rules, "metric_update", Some("r1"), r#"{"type":"health"}"#).is_some());
    }

    fn any_value() -> impl Strategy<Value = Option<String>> {
        prop::option::of("[a~/:01_device]{0,6}|~device_id:r1|r1")
    }

    proptest! {
        /// Two pushes, and two metrics, share a key only if they are the same subject.
        #[test]
        fn different_subjects_have_different_keys(
            push in (any_value(), prop::bool::ANY),
            other_push in (any_value(), prop::bool::ANY),
            metric in any_value(),
            other_metric in any_value(),
        ) {
            let rules = rules("{}");
            let push_key = |(operation, device): &(Option<String>, bool)| {
                let device = device.then_some("r1");
                let data = json!({"push_operation_id": operation}).to_string();
                found(&rules, "config_push", device, &data)
            };
            let named = |(operation, device): &(Option<String>, bool)| {
                match operation.as_deref() {
                    Some("") | None => device.then_some((true, "r1".to_owned())),
                    Some(operation) => Some((false, operation.to_owned())),
                }
            };
            prop_assert_eq!(named(&push).is_some(), push_key(&push).is_some());
            prop_assert_eq!(named(&push) == named(&other_push), push_key(&push) == push_key(&other_push));
            let rules = self::rules(r#"{ metric_update = { fields = ["a", "b"] } }"#);
            let metric_key = |first: &Option<String>, second: &Option<String>| {
                found(&rules, "metric_update", None, &json!({"a": first, "b": second}).to_string())
            };
            let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            let pair = |first, second| there(first).zip(there(second));
            prop_assert_eq!(
                pair(&metric, &other_metric) == pair(&other_metric, &metric),
                metric_key(&metric, &other_metric) == metric_key(&other_metric, &metric)
            );
        }
    }
}
