//! One reader for each source stream and node.
//!
//! It waits for its stream to exist, follows it with one consumer from where the node stands, and hands on
//! decoded events in batches. Whatever happens to connection, consumer, leader or stream, it begins again
//! behind what it has handed on last: none is lost, none comes twice, and all come in the stream's order.
//! While its receiver is full it reads nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidings_log::NewEvent;
use tidings_protocol::TenantId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{self, ApiError, StreamInfo};
use super::fleet::FleetDecoder;
use super::message::{self, KnownTypes, Malformed};
use super::pull::{Broken, Place, Pull, Pulled};
use crate::nats::{Connectivity, Nats};

/// The most messages of a batch.
const BATCH_MESSAGES: usize = 1_024;

/// The most bytes of payloads of a batch, unless one event has more.
const BATCH_BYTES: usize = 1 << 20;

/// How often it is asked whether a stream exists by now.
const WAIT_FOR_STREAM: Duration = Duration::from_millis(500);

/// How often it is asked how far the stream reaches back.
const REFRESH: Duration = Duration::from_secs(10);

/// Pauses between attempts to follow a stream.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a stream may say that it ends before what was read from it. A broker that starts says so
/// until it has read its files.
const BEHIND: Duration = Duration::from_secs(15);

/// How often a stream's malformed messages are logged at most.
const COMPLAINTS: Duration = Duration::from_mins(1);

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
        let reader = Reader {
            nats: nats.clone(),
            place: spec.after,
            spec,
            reports,
            counters: Arc::clone(&counters),
            pull: None,
            told: Told::Nothing,
            behind_since: None,
            complained: None,
            first_sequence: 0,
            last_sequence: 0,
        };
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

/// What was said last of how the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Waiting,
    Away,
    Back,
}

/// Why a stream is not followed any more, for now.
enum Ended {
    NoStream,
    Away(String),
    /// The consumer is gone, and a new one will do.
    Interrupted(String),
    /// Nobody receives the reports.
    Unheard,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NoStream => Self::NoStream,
            other => Self::Away(other.to_string()),
        }
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Ended(_) | Broken::Hole => Self::Interrupted(broken.to_string()),
            Broken::Silent | Broken::Closed => Self::Away(broken.to_string()),
        }
    }
}

struct Reader {
    nats: Nats,
    spec: SourceSpec,
    reports: mpsc::Sender<SourceReport>,
    counters: Arc<SourceCounters>,
    /// How far the stream was handed on; none before it was met.
    place: Option<SourcePlace>,
    /// The consumer; kept here so that it is closed however the following ends.
    pull: Option<Pull>,
    told: Told,
    behind_since: Option<Instant>,
    complained: Option<Instant>,
    first_sequence: u64,
    last_sequence: u64,
}

impl Reader {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let followed_since = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = self.follow() => ended,
            };
            self.close().await;
            if followed_since.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            let (told, wait) = match ended {
                Ended::Unheard => return,
                Ended::NoStream => (self.tell_waiting().await, WAIT_FOR_STREAM),
                Ended::Away(reason) => (self.tell_away(reason).await, pause),
                // What ends and begins anew at once is not worth a word to streams.
                Ended::Interrupted(reason) if pause == PAUSES.0 => {
                    tracing::debug!(stream = self.spec.stream, reason, "source_interrupted");
                    (Ok(()), pause)
                }
                Ended::Interrupted(reason) => (self.tell_away(reason).await, pause),
            };
            if told.is_err() {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(pull) = self.pull.take()
            && self.nats.is_connected()
        {
            // A broker that does not answer forgets the consumer by itself.
            let _ = tokio::time::timeout(PAUSES.1, pull.close()).await;
        }
    }

    /// Follows the stream as long as that goes well.
    async fn follow(&mut self) -> Ended {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_follow(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut connectivity = self.nats.connectivity();
        self.connected(&mut connectivity).await?;
        let info = api::stream_info(self.nats.client(), &self.spec.stream).await?;
        let place = self.meet(&info).await?;
        let from = (place.sequence + 1).max(info.first_sequence);
        let pull = Pull::open(
            self.nats.client(),
            &self.spec.stream,
            from,
            &self.spec.description,
        )
        .await?;
        let pending = pull.pending_at_start();
        self.pull = Some(pull);
        self.counters.consumers.fetch_add(1, Ordering::Relaxed);
        self.tell_back().await?;
        if pending == 0 {
            // What is not there any more is not delivered, and is over all the same.
            let through = info.last_sequence.max(place.sequence);
            self.hand_on(Vec::new(), through, 0).await?;
        }
        let mut refresh = Instant::now() + REFRESH;
        loop {
            let pull = self.pull.as_mut().expect("it was opened above");
            let refreshed = tokio::select! {
                biased;
                reason = lost(&mut connectivity) => return Err(Ended::Away(reason)),
                () = tokio::time::sleep_until(refresh) => true,
                gathered = gather(pull, &self.spec.decoder) => {
                    let gathered = gathered?;
                    self.take(gathered).await?;
                    false
                }
            };
            if refreshed {
                self.refresh().await?;
                refresh = Instant::now() + REFRESH;
            }
        }
    }

    /// Waits for a connection.
    async fn connected(
        &mut self,
        connectivity: &mut tokio::sync::watch::Receiver<Connectivity>,
    ) -> Result<(), Ended> {
        loop {
            let state = connectivity.borrow_and_update().clone();
            if state == Connectivity::Connected {
                return Ok(());
            }
            self.tell_away(away_reason(&state)).await?;
            connectivity
                .changed()
                .await
                .map_err(|_| Ended::Away("the client is closed".to_owned()))?;
        }
    }

    /// Compares the stream with what was read of it before, and says where to go on.
    async fn meet(&mut self, info: &StreamInfo) -> Result<SourcePlace, Ended> {
        let place = match self.place {
            Some(place) if place.incarnation == info.incarnation => {
                if info.last_sequence >= place.sequence {
                    self.behind_since = None;
                    place
                } else {
                    self.rewound(place, info).await?
                }
            }
            before => {
                if before.is_some() {
                    tracing::warn!(stream = self.spec.stream, "source_recreated");
                    let incarnation = info.incarnation;
                    self.tell(SourceEvent::Recreated { incarnation }).await?;
                }
                SourcePlace {
                    incarnation: info.incarnation,
                    sequence: 0,
                }
            }
        };
        self.place = Some(place);
        self.first_sequence = info.first_sequence;
        self.last_sequence = info.last_sequence;
        Ok(place)
    }

    /// A stream that ends before what was read of it: at first it is waited for.
    async fn rewound(
        &mut self,
        place: SourcePlace,
        info: &StreamInfo,
    ) -> Result<SourcePlace, Ended> {
        let last_sequence = info.last_sequence;
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        if since.elapsed() < BEHIND {
            return Err(Ended::Away(format!(
                "the stream {} ends at {last_sequence}, before {}, which was read from it",
                self.spec.stream, place.sequence
            )));
        }
        self.behind_since = None;
        tracing::error!(
            stream = self.spec.stream,
            read = place.sequence,
            last_sequence,
            "source_rewound"
        );
        self.tell(SourceEvent::Rewound { last_sequence }).await?;
        Ok(SourcePlace {
            sequence: last_sequence,
            ..place
        })
    }

    /// Asks how far the stream reaches back by now.
    async fn refresh(&mut self) -> Result<(), Ended> {
        let info = api::stream_info(self.nats.client(), &self.spec.stream).await?;
        let place = self.place.expect("it was met before it is followed");
        if info.incarnation != place.incarnation {
            return Err(Ended::Away("the stream was made anew".to_owned()));
        }
        let moved = info.first_sequence != self.first_sequence;
        self.first_sequence = info.first_sequence;
        self.last_sequence = self.last_sequence.max(info.last_sequence);
        if moved {
            let pending = self.last_sequence.saturating_sub(place.sequence);
            self.hand_on(Vec::new(), place.sequence, pending).await?;
        }
        Ok(())
    }

    /// Counts what was gathered and hands it on.
    async fn take(&mut self, gathered: Gathered) -> Result<(), Ended> {
        let Some(last) = gathered.last else {
            return Ok(());
        };
        let place = self.place.expect("it was met before it is followed");
        if gathered.first <= place.sequence {
            return Err(Ended::Away("a message came twice".to_owned()));
        }
        let events = gathered.messages.len() as u64;
        self.counters.events.fetch_add(events, Ordering::Relaxed);
        self.counters
            .ignored
            .fetch_add(gathered.ignored, Ordering::Relaxed);
        for (count, counter) in gathered.malformed.iter().zip(&self.counters.malformed) {
            counter.fetch_add(*count, Ordering::Relaxed);
        }
        self.complain(&gathered);
        self.hand_on(gathered.messages, last.sequence, last.pending)
            .await
    }

    /// Says that messages were skipped, now and then.
    fn complain(&mut self, gathered: &Gathered) {
        let Some((sequence, reason)) = gathered.example else {
            return;
        };
        if self
            .complained
            .is_some_and(|last| last.elapsed() < COMPLAINTS)
        {
            return;
        }
        self.complained = Some(Instant::now());
        tracing::warn!(
            stream = self.spec.stream,
            sequence,
            %reason,
            "source_message_skipped"
        );
    }

    async fn hand_on(
        &mut self,
        messages: Vec<SourceMessage>,
        through: u64,
        pending: u64,
    ) -> Result<(), Ended> {
        let place = self.place.expect("it was met before it is followed");
        self.last_sequence = self.last_sequence.max(through + pending);
        let batch = SourceBatch {
            incarnation: place.incarnation,
            messages,
            through,
            pending,
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
        };
        self.tell(SourceEvent::Batch(batch)).await?;
        self.place = Some(SourcePlace {
            sequence: through,
            ..place
        });
        Ok(())
    }

    async fn tell_waiting(&mut self) -> Result<(), Ended> {
        if self.told == Told::Waiting {
            return Ok(());
        }
        tracing::warn!(stream = self.spec.stream, "source_missing");
        self.told = Told::Waiting;
        self.tell(SourceEvent::Waiting).await
    }

    async fn tell_away(&mut self, reason: String) -> Result<(), Ended> {
        if self.told == Told::Away {
            return Ok(());
        }
        tracing::warn!(stream = self.spec.stream, reason, "source_away");
        self.told = Told::Away;
        self.tell(SourceEvent::Away { reason }).await
    }

    async fn tell_back(&mut self) -> Result<(), Ended> {
        if self.told == Told::Back {
            return Ok(());
        }
        tracing::info!(stream = self.spec.stream, "source_followed");
        self.told = Told::Back;
        self.tell(SourceEvent::Back).await
    }

    async fn tell(&mut self, event: SourceEvent) -> Result<(), Ended> {
        let report = SourceReport {
            source: self.spec.index,
            event,
        };
        self.reports.send(report).await.map_err(|_| Ended::Unheard)
    }
}

/// Waits until the connection is lost, and says why.
async fn lost(connectivity: &mut tokio::sync::watch::Receiver<Connectivity>) -> String {
    match connectivity
        .wait_for(|state| *state != Connectivity::Connected)
        .await
    {
        Ok(state) => away_reason(&state),
        Err(_) => "the client is closed".to_owned(),
    }
}

fn away_reason(state: &Connectivity) -> String {
    match state {
        Connectivity::Connected => String::new(),
        Connectivity::Away { reason, .. } => format!("NATS can't be reached: {reason}"),
    }
}

/// Messages that were there at once.
#[derive(Default)]
struct Gathered {
    messages: Vec<SourceMessage>,
    bytes: usize,
    first: u64,
    last: Option<Place>,
    ignored: u64,
    malformed: [u64; Malformed::ALL.len()],
    example: Option<(u64, Malformed)>,
}

/// Waits for messages and takes those that are there, up to a batch.
async fn gather(pull: &mut Pull, decoder: &Decoder) -> Result<Gathered, Broken> {
    pull.top_up().await?;
    let mut gathered = Gathered::default();
    gathered.add(pull.next().await?, decoder);
    // From here on nothing waits, so nothing that was taken can be lost.
    while gathered.messages.len() < BATCH_MESSAGES && gathered.bytes < BATCH_BYTES {
        match pull.next_at_hand() {
            None => break,
            Some(Ok(pulled)) => gathered.add(pulled, decoder),
            // What was good is handed on first; the next call meets the fault again, or silence.
            Some(Err(broken)) if gathered.last.is_none() => return Err(broken),
            Some(Err(broken)) => {
                pull.break_with(broken);
                break;
            }
        }
    }
    Ok(gathered)
}

impl Gathered {
    fn add(&mut self, pulled: Pulled, decoder: &Decoder) {
        let Pulled::Message(message, place) = pulled else {
            return;
        };
        if self.last.is_none() {
            self.first = place.sequence;
        }
        self.last = Some(place);
        let decoded = match decoder {
            Decoder::Own(types) => {
                let headers = message.headers.as_ref();
                message::decode(types, &message.subject, headers, &message.payload).map(Some)
            }
            Decoder::Fleet(fleet) => fleet.decode(&message.subject, &message.payload),
        };
        match decoded {
            Ok(Some((tenant, event))) => {
                self.bytes += event.data.len() + 128;
                self.messages.push(SourceMessage {
                    sequence: place.sequence,
                    stored_at: place.stored_at / 1_000,
                    tenant,
                    event,
                });
            }
            Ok(None) => self.ignored += 1,
            Err(reason) => {
                self.malformed[reason as usize] += 1;
                self.example = Some((place.sequence, reason));
            }
        }
    }
}
