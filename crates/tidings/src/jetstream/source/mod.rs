//! One reader for each source stream and node.
//!
//! It waits for its stream to exist, follows it with one consumer from where the node stands, and hands on
//! decoded events in batches. Whatever happens to connection, consumer, leader or stream, it begins again
//! behind what it has handed on last: none is lost, none comes twice, and all come in the stream's order.
//! While its receiver is full it reads nothing.
//!
//! [`reader`] is its task, [`gather`] turns what the consumer has delivered into a batch.

mod gather;
mod reader;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidings_log::NewEvent;
use tidings_protocol::TenantId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fleet::FleetDecoder;
use super::message::{KnownTypes, Malformed};
use crate::nats::Nats;
use gather::Gathered;
use reader::Reader;

/// What a source reads and where it begins.
#[derive(Debug)]
pub struct SourceSpec {
    /// Its number; given back with each report.
    pub index: usize,
    /// The stream's name.
    pub stream: String,
    /// How its messages are read.
    pub decoder: Decoder,
    /// What was read of it before.
    pub after: Option<SourcePlace>,
    /// What the consumer is described as in the broker, such as the node's name.
    pub description: String,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePlace {
    /// Which stream of its name it is: nanoseconds since the Unix epoch at which it was created.
    pub incarnation: u64,
    /// Everything up to this sequence was handed on.
    pub sequence: u64,
}

/// How messages become events.
#[derive(Debug)]
pub enum Decoder {
    /// The layout `own`.
    Own(KnownTypes),
    /// A stream of the layout `fleet`.
    Fleet(FleetDecoder),
}

/// A report of a source.
#[derive(Debug)]
pub struct SourceReport {
    /// Which one, as in its [`SourceSpec`].
    pub source: usize,
    /// What it has to say.
    pub event: SourceEvent,
}

/// What a source has to say. [`Away`](Self::Away) and [`Waiting`](Self::Waiting) are said once until
/// [`Back`](Self::Back), which comes when the stream is followed again.
#[derive(Debug)]
pub enum SourceEvent {
    /// The stream does not exist (yet).
    Waiting,
    /// The stream can't be read at the moment.
    Away {
        /// Why, for operators.
        reason: String,
    },
    /// It is followed, for the first time or again.
    Back,
    /// The stream is another one than was read before; it is read from its oldest message on.
    Recreated {
        /// Which one it is now.
        incarnation: u64,
    },
    /// The stream has lost its newest messages, which were read, and goes on from here. Its sequences name
    /// other messages from now on.
    Rewound {
        /// The last sequence that it has kept.
        last_sequence: u64,
    },
    /// Everything from behind what was handed on up to here is gone from the stream: its retention, or who purged it,
    /// was faster than this reader.
    Lost {
        /// Which stream of its name it is.
        incarnation: u64,
        /// The last sequence that is gone.
        through: u64,
    },
    /// Events, or how far the stream is read.
    Batch(SourceBatch),
}

/// Events of a stream, in order.
#[derive(Debug)]
pub struct SourceBatch {
    /// Which stream of its name it is: nanoseconds since the Unix epoch at which it was created.
    pub incarnation: u64,
    /// The events; sequences ascend, and may jump.
    pub messages: Vec<SourceMessage>,
    /// Everything of the stream up to this sequence is handed on with this batch, or is no event, or gone.
    pub through: u64,
    /// How many messages of the stream are still to come, as far as the broker knew; 0: caught up.
    pub pending: u64,
    /// The sequence of the stream's oldest message, as of some seconds ago.
    pub first_sequence: u64,
    /// The sequence of the stream's newest message, as far as known.
    pub last_sequence: u64,
}

/// An event of a stream.
#[derive(Debug)]
pub struct SourceMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the broker stored it, in microseconds since the Unix epoch. Within a stream of several servers
    /// it may decrease where their clocks differ.
    pub stored_at: i64,
    /// Whose it is.
    pub tenant: TenantId,
    /// The event, without key.
    pub event: NewEvent,
}

/// What a source has met since it was started.
#[derive(Debug, Default)]
pub struct SourceCounters {
    events: AtomicU64,
    ignored: AtomicU64,
    malformed: [AtomicU64; Malformed::ALL.len()],
    consumers: AtomicU64,
}

impl SourceCounters {
    /// Events that were handed on.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Messages under subjects that are not read.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Messages that were skipped, by reason; all reasons.
    #[must_use]
    pub fn malformed(&self) -> Vec<(&'static str, u64)> {
        let counts = self.malformed.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let names = Malformed::ALL.into_iter().map(Malformed::name);
        names.zip(counts).collect()
    }

    /// Counts what was gathered.
    fn add(&self, gathered: &Gathered) {
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.events, gathered.messages.len() as u64);
        add(&self.ignored, gathered.ignored);
        for (counter, count) in self.malformed.iter().zip(gathered.malformed) {
            add(counter, count);
        }
    }

    /// Counts a consumer that was made.
    fn add_consumer(&self) {
        self.consumers.fetch_add(1, Ordering::Relaxed);
    }

    /// Consumers that were made, one after the other.
    #[must_use]
    pub fn consumers(&self) -> u64 {
        self.consumers.load(Ordering::Relaxed)
    }
}

/// A source that runs.
#[derive(Debug)]
pub struct Source {
    counters: Arc<SourceCounters>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Source {
    /// Starts to read. It ends when it is stopped or its reports are not received any more.
    #[must_use]
    pub fn start(nats: &Nats, spec: SourceSpec, reports: mpsc::Sender<SourceReport>) -> Self {
        let counters = Arc::new(SourceCounters::default());
        let stop = CancellationToken::new();
        let reader = Reader::new(nats.clone(), spec, reports, Arc::clone(&counters));
        let task = tokio::spawn(reader.run(stop.clone()));
        Self {
            counters,
            stop,
            task,
        }
    }

    /// What it has met.
    #[must_use]
    pub fn counters(&self) -> &Arc<SourceCounters> {
        &self.counters
    }

    /// Ends it and takes its consumer away.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the reader of a source has panicked");
        }
    }
}
