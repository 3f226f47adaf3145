//! What goes into the log and what comes out of it.

use std::time::{Duration, Instant};

use tidings_protocol::{DeviceId, EventType, Position, SubjectKey, TenantId};

/// The longest origin of an event, in bytes.
pub const MAX_ORIGIN: usize = 255;

/// What makes a repeated publish recognisable: two hashes that the caller computes.
///
/// `key` identifies the publisher and the key it chose (the publisher's identity is part of what
/// was hashed), `digest` what was published under it. The log compares them within one tenant and
/// for [`LogOptions::key_window`](crate::LogOptions::key_window).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Hash of the publisher and its key.
    pub key: [u8; 16],
    /// Hash of the event.
    pub digest: [u8; 16],
}

/// What an event to be appended is the latest state of; see [`Subject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubject {
    /// The type under which the state keeps it.
    pub kind: EventType,
    /// What names it within its tenant and kind.
    pub key: SubjectKey,
    /// It leaves the state with this event.
    pub ends: bool,
}

/// What an event is the latest state of. Found where events are admitted and stored with them, so
/// that nothing behind it looks into payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject<'a> {
    /// The type under which the state keeps it; not always the event's own: `alert_resolved` ends
    /// what `alert_fired` began, `removed` ends any.
    pub kind: &'a str,
    /// What names it within its tenant and kind.
    pub key: &'a str,
    /// It leaves the state with this event.
    pub ends: bool,
}

impl NewSubject {
    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> Subject<'_> {
        Subject {
            kind: self.kind.as_str(),
            key: self.key.as_str(),
            ends: self.ends,
        }
    }
}

/// An event to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's type.
    pub event_type: EventType,
    /// The device that it is about, if it is about one.
    pub device: Option<DeviceId>,
    /// The publisher's time, in microseconds since the Unix epoch; informative only.
    pub time: Option<i64>,
    /// What makes a repetition of this event recognisable.
    pub key: Option<IdempotencyKey>,
    /// What it is the latest state of, if the state keeps such.
    pub subject: Option<NewSubject>,
    /// Where it comes from, if this log is a copy of others: at most [`MAX_ORIGIN`] bytes into which the
    /// log does not look.
    pub origin: Option<Box<[u8]>>,
    /// The payload; the log does not look into it.
    pub data: Vec<u8>,
}

/// An event of the log, borrowed from a read buffer or from the group that was just committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// The event's place in the log, from 1.
    pub position: Position,
    /// When it was appended, in microseconds since the Unix epoch; never less than the event's
    /// before it.
    pub appended_at: i64,
    /// The publisher's time, in microseconds since the Unix epoch.
    pub time: Option<i64>,
    /// Whose event it is.
    pub tenant: TenantId,
    /// The event's type.
    pub event_type: &'a str,
    /// The device that it is about.
    pub device: Option<&'a str>,
    /// What it is the latest state of, if the state keeps such.
    pub subject: Option<Subject<'a>>,
    /// Where it comes from, as it was appended.
    pub origin: Option<&'a [u8]>,
    /// The payload, as it was appended.
    pub data: &'a [u8],
}

/// What became of a submitted body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Events that are newly stored.
    pub accepted: u64,
    /// Events that had been stored before under the same key.
    pub duplicates: u64,
    /// Position of the body's first event, whether new or stored before.
    pub first: Position,
    /// Position of the body's last event, whether new or stored before.
    pub last: Position,
}

/// Whose events a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One tenant's.
    Tenant(TenantId),
    /// Everybody's.
    All,
}

/// Where a reader can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Every event of the scope after the asked position is still retained.
    Exact,
    /// Some event of the scope after the asked position was removed by retention.
    Expired(Expired),
}

/// What retention has taken from a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Read on after this position: everything of the scope that is still retained follows it.
    pub resume_after: Position,
    /// The last removed event of the scope. In a scope of all tenants retained events can stand
    /// before it (another tenant's cap removed it), so that it is greater than `resume_after`; who
    /// has announced the removal up to here need not announce it again until this grows.
    pub removed_through: Position,
}

/// A stretch of positions whose events are damaged on disk. Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// The first lost position.
    pub first: Position,
    /// The last lost position.
    pub last: Position,
}

/// How much one call of [`Log::read`](crate::Log::read) may visit; at least one event is visited
/// where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// At most so many events.
    pub events: usize,
    /// No further event once so many bytes (types, devices and payloads) were visited.
    pub bytes: usize,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEnd {
    /// Every retained event of the scope up to here was visited; the next read goes on after it.
    pub examined_through: Position,
    /// Nothing durable was left when the read ended.
    pub reached_tail: bool,
    /// The read ended at damaged events; they come after the visited ones, and
    /// `examined_through` lies behind them.
    pub lost: Option<Lost>,
    /// Events of the scope after the asked position that retention had removed before this read;
    /// they are missing among the visited ones. What [`Log::resume_point`](crate::Log::resume_point)
    /// answers, but of the same instant as the read.
    pub expired: Option<Expired>,
}

/// How one group commit went.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// When the first of its bodies was submitted.
    pub submitted: Instant,
    /// How long the write and the sync took.
    pub took: Duration,
    /// Events that became durable.
    pub events: u64,
    /// Bytes that were written.
    pub bytes: u64,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of segment files on disk, preallocated space included.
    pub bytes: u64,
    /// Segments, with the one that is written.
    pub segments: usize,
    /// Events in segments that are still on disk.
    pub events: u64,
    /// Position of the oldest retained event; `None` where nothing is retained.
    pub oldest: Option<Position>,
    /// When the oldest retained event was appended, in microseconds since the Unix epoch.
    pub oldest_at: Option<i64>,
}

/// What the log retains of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// Whose it is.
    pub tenant: TenantId,
    /// Events that can be read.
    pub events: u64,
    /// Bytes of the frames that hold them.
    pub bytes: u64,
    /// When the oldest of them was appended, in microseconds since the Unix epoch; `None` where there is
    /// none.
    pub oldest_at: Option<i64>,
}
