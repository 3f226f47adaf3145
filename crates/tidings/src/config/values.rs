//! Types of values that only configuration has.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidings_protocol::{EventType, TenantId};

/// Everything, or only what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound<T> {
    /// `"*"`.
    All,
    /// A list; an empty one allows nothing.
    Only(Arc<[T]>),
}

impl<T: PartialEq> Bound<T> {
    /// Whether `item` is within the bound.
    #[must_use]
    pub fn allows(&self, item: &T) -> bool {
        match self {
            Self::All => true,
            Self::Only(items) => items.contains(item),
        }
    }
}

/// A publisher that shows an API key, one entry of `auth.publishers`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublisherConfig {
    /// Its name, `[A-Za-z0-9.-]{1,64}`; part of its key and of what is logged.
    pub id: Arc<str>,
    /// SHA-256 of the secret part of its key.
    pub secret_sha256: [u8; 32],
    /// The tenants that it may publish to.
    pub tenants: Bound<TenantId>,
    /// The event types that it may publish.
    pub types: Bound<EventType>,
}

impl fmt::Debug for PublisherConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PublisherConfig")
            .field("id", &self.id)
            .field("tenants", &self.tenants)
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}

/// What is set for one tenant, one table of `tenants`; what is absent is as for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantConfig {
    /// What operators call it.
    pub name: Option<String>,
    /// How long its events are kept; zero means until there are too many.
    pub retention: Option<Duration>,
    /// How many bytes of the log it may take; 0 means no limit.
    pub max_bytes: Option<u64>,
    /// Events published for it, a second; 0 means no limit.
    pub publish_rate: Option<u64>,
    /// Its open streams; 0 means no limit.
    pub streams: Option<u64>,
    /// The largest event, in bytes.
    pub event_bytes: Option<usize>,
}

/// What holds for one tenant: what is set for it, and else what is set for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantSettings<'a> {
    /// What operators call it.
    pub name: Option<&'a str>,
    /// How long its events are kept; zero means until there are too many.
    pub retention: Duration,
    /// How many bytes of the log it may take; 0 means no limit.
    pub max_bytes: u64,
    /// Events published for it, a second; 0 means no limit.
    pub publish_rate: u64,
    /// Its open streams; 0 means no limit.
    pub streams: u64,
    /// The largest event, in bytes.
    pub event_bytes: usize,
}

/// Where the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// In this server's own folder.
    Embedded,
    /// In NATS JetStream; every node keeps a copy in its own folder.
    JetStream,
}

/// Which streams and subjects of JetStream hold the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLayout {
    /// One stream that the publish endpoint of any node writes.
    Own,
    /// Streams that others publish to, and that are only read here.
    Fleet,
}

/// Where stream tokens are kept until they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensKind {
    /// In the process's memory: they open streams of this process only.
    Memory,
    /// In Redis: they open streams of every node that asks the same Redis.
    Redis,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Whether `text` can be a publisher's id. It has no underscore, since that ends it in a key.
pub(crate) fn is_publisher_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

/// What the events of one type are the latest state of, one entry of `subjects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectConfig {
    /// The type of the events.
    pub event_type: EventType,
    /// The type under which the state keeps the subject.
    pub kind: EventType,
    /// The fields of the payload that name the subject together; of each the alternatives, the first
    /// that is there counts. None at all: no subject.
    pub fields: Vec<Vec<Box<str>>>,
    /// When the subject leaves the state.
    pub ends: SubjectEnd,
    /// After how long without an event it leaves the state; of the rule of `kind` itself.
    pub max_age: Option<Duration>,
}

/// Which events of a type end their subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectEnd {
    /// None.
    Never,
    /// Each.
    Always,
    /// Those with one of these values in this field.
    At {
        /// The field of the payload.
        field: Box<str>,
        /// The final values.
        values: Vec<Box<str>>,
    },
}
