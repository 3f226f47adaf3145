//! Event types and device identifiers.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The event types that every deployment has.
pub const BUILT_IN_TYPES: [&str; 6] = [
    "device_status",
    "alert_fired",
    "alert_resolved",
    "config_push",
    "firmware_progress",
    "metric_update",
];

/// The server's own event that takes a subject away; see [`EventType::removed`].
pub const REMOVED: &str = "removed";

/// The word that something can't be had; see [`EventType::gap`].
pub const GAP: &str = "gap";

/// The event names that the server sends of itself; nobody can publish them.
pub const RESERVED_TYPES: [&str; 9] = [
    "snapshot",
    "snapshot_end",
    "cursor",
    GAP,
    REMOVED,
    "stale",
    "fresh",
    "closing",
    "unknown",
];

/// Longest event type, in bytes.
pub const MAX_TYPE_LENGTH: usize = 64;
/// Longest device identifier, in bytes.
pub const MAX_DEVICE_LENGTH: usize = 128;
/// Longest key of a subject, in bytes.
pub const MAX_SUBJECT_KEY: usize = 512;

/// The name of an event's type, `[a-z][a-z0-9_]{0,63}` and none of [`RESERVED_TYPES`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Arc<str>);

/// The text can't be an event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventType {
    /// The text has another form than `[a-z][a-z0-9_]{0,63}`.
    #[error(
        "an event type is a lower-case letter followed by up to 63 lower-case letters, digits or underscores"
    )]
    Form,
    /// The name belongs to the server.
    #[error("this event type is the server's own and can't be published")]
    Reserved,
}

impl EventType {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type of the event with which the server takes a subject away. No text parses to it, so
    /// that nobody else can publish one.
    #[must_use]
    pub fn removed() -> Self {
        Self(REMOVED.into())
    }

    /// The type under which a log that is a copy keeps the place of what it could not copy. No text parses to
    /// it, so that nobody else can publish one.
    #[must_use]
    pub fn gap() -> Self {
        Self(GAP.into())
    }
}

impl FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let well_formed = (1..=MAX_TYPE_LENGTH).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
        if !well_formed {
            return Err(InvalidEventType::Form);
        }
        if RESERVED_TYPES.contains(&text) {
            return Err(InvalidEventType::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for EventType {
    type Error = InvalidEventType;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EventType> for String {
    fn from(event_type: EventType) -> Self {
        event_type.0.as_ref().to_owned()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The identifier of a device, `[A-Za-z0-9_.:-]{1,128}` and not `-` alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

/// The text can't be a device identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device id is 1 to 128 letters, digits, underscores, dots, colons or hyphens, and not a hyphen alone"
)]
pub struct InvalidDeviceId;

impl DeviceId {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A map by device can be asked with the text of one: both hash and compare alike.
impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = (1..=MAX_DEVICE_LENGTH).contains(&text.len())
            && text != "-"
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(InvalidDeviceId)
        }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDeviceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(device: DeviceId) -> Self {
        device.0.as_ref().to_owned()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What names a subject within its tenant and kind: any text of 1 to [`MAX_SUBJECT_KEY`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectKey(Arc<str>);

/// The text can't be the key of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of a subject is a text of 1 to 512 bytes")]
pub struct InvalidSubjectKey;

impl SubjectKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SubjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SubjectKey {
    type Err = InvalidSubjectKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=MAX_SUBJECT_KEY).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSubjectKey)
        }
    }
}

impl From<&DeviceId> for SubjectKey {
    fn from(device: &DeviceId) -> Self {
        Self(Arc::clone(&device.0))
    }
}

impl fmt::Display for SubjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_key_is_bounded() {
        for key in ["a", "router 1/health", "ä\n", &"x".repeat(MAX_SUBJECT_KEY)] {
            assert_eq!(key.parse::<SubjectKey>().unwrap().as_str(), key);
        }
        for key in ["", &"x".repeat(MAX_SUBJECT_KEY + 1)] {
            assert_eq!(key.parse::<SubjectKey>(), Err(InvalidSubjectKey));
        }
    }

    #[test]
    fn the_servers_own_event_names_cannot_be_published() {
        for name in RESERVED_TYPES {
            assert_eq!(name.parse::<EventType>(), Err(InvalidEventType::Reserved));
        }
        for name in BUILT_IN_TYPES {
            assert_eq!(name.parse::<EventType>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn an_event_type_cannot_break_a_line_of_the_wire() {
        for name in [
            "",
            "A",
            "1a",
            "_a",
            "a b",
            "a\nb",
            "a\r",
            "a:",
            "ä",
            &"a".repeat(65),
        ] {
            assert_eq!(
                name.parse::<EventType>(),
                Err(InvalidEventType::Form),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_device_id_is_bounded_and_plain() {
        for id in [
            "r1",
            "AA:BB:CC:00:11:22",
            "site-1.router_2",
            "--",
            &"x".repeat(128),
        ] {
            assert!(id.parse::<DeviceId>().is_ok(), "{id:?}");
        }
        for id in ["", "-", "a b", "a/b", "a\n", "é", &"x".repeat(129)] {
            assert!(id.parse::<DeviceId>().is_err(), "{id:?}");
        }
    }
}
