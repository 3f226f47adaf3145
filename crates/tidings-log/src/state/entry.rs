//! The last event of a subject.

use std::collections::HashSet;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use crate::event::{EventRef, Subject};

/// The last event of a living subject. Shared by the state and all snapshots that have it.
#[derive(Debug, PartialEq, Eq)]
pub struct StateEntry {
    pub(super) tenant: TenantId,
    pub(super) position: Position,
    pub(super) appended_at: i64,
    /// By which it ages ([`crate::clock`]).
    pub(super) run_time: i64,
    pub(super) time: Option<i64>,
    pub(super) kind: Arc<str>,
    pub(super) event_type: Arc<str>,
    /// The subject's key, then the device's id.
    names: Box<str>,
    key_length: u16,
    has_device: bool,
    /// The origin, where the event has one, then the payload.
    bytes: Box<[u8]>,
    origin_length: Option<u8>,
}

impl StateEntry {
    pub(super) fn new(
        event: &EventRef<'_>,
        subject: Subject<'_>,
        run_time: i64,
        names: &mut Names,
    ) -> Self {
        let mut text = String::with_capacity(subject.key.len() + event.device.map_or(0, str::len));
        text.push_str(subject.key);
        text.push_str(event.device.unwrap_or_default());
        let origin = event.origin.unwrap_or_default();
        Self {
            tenant: event.tenant,
            position: event.position,
            appended_at: event.appended_at,
            run_time,
            time: event.time,
            kind: names.shared(subject.kind),
            event_type: names.shared(event.event_type),
            names: text.into(),
            key_length: u16::try_from(subject.key.len()).expect("a key has at most 512 bytes"),
            has_device: event.device.is_some(),
            bytes: [origin, event.data].concat().into(),
            origin_length: event
                .origin
                .map(|origin| u8::try_from(origin.len()).expect("at most 255 bytes")),
        }
    }

    /// Whether it is a subject's, by its names.
    pub(super) fn is_of(&self, tenant: TenantId, kind: &str, key: &str) -> bool {
        self.tenant == tenant && *self.kind == *kind && self.key() == key
    }

    /// The position of the event in the log.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The type under which the state keeps the subject.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What names the subject within its tenant and kind.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.names[..usize::from(self.key_length)]
    }

    /// The device of the event, if it has one.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.has_device
            .then(|| &self.names[usize::from(self.key_length)..])
    }

    /// The event as a reader of the log would see it, whether the log retains it or not.
    #[must_use]
    pub fn event(&self) -> EventRef<'_> {
        let (origin, data) = self
            .bytes
            .split_at(self.origin_length.unwrap_or_default().into());
        EventRef {
            position: self.position,
            appended_at: self.appended_at,
            time: self.time,
            tenant: self.tenant,
            event_type: &self.event_type,
            device: self.device(),
            subject: Some(Subject {
                kind: &self.kind,
                key: self.key(),
                ends: false,
            }),
            origin: self.origin_length.map(|_| origin),
            data,
        }
    }
}

/// The names of types that were met, so that entries share them.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(super) fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        name
    }
}
