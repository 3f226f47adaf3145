//! The mirror: this node's copy of its source streams in NATS JetStream, in its own log.
//!
//! Everything behind it (fan-out, streams, catch-up, history, the state) reads the copy, so that the broker has
//! one reader for each source and node, however many streams are open and however far they go back.
//!
//! - [`merge`]: which event comes next.
//! - [`copier`]: writes it into the log with where it comes from.
//! - [`facts`]: what is remembered beside the log.
//!
//! One task owns all of it. What others want to know is in [`Sources`] and [`Liveness`].

mod copier;
mod facts;
mod merge;

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tidings_log::{HeldState, Log, NewEvent, ReadError};
use tidings_protocol::{Cursor, Epoch, TenantId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cursors::{Cursors, Reached, Sources};
use crate::fanout::{Liveness, Stale};
use crate::jetstream::{
    Decoder, Source, SourceBatch, SourceCounters, SourceEvent, SourcePlace, SourceReport,
    SourceSpec,
};
use crate::nats::Nats;
use crate::state::bucket::load::{Known, Loader};
use crate::time::unix_microseconds;

use copier::{Copier, Stopped};
use facts::{Facts, FactsFile, SourceFacts};
use merge::{Merge, Next};

pub use facts::{MirrorError, refuse_mirror};

/// How many reports of a source wait; each is at most about a megabyte.
const REPORTS: usize = 4;

/// How often what is remembered beside the log is written, if it has changed.
const REMEMBER: Duration = Duration::from_secs(2);

/// How long to wait before a log that was full, or a bucket that could not be read, is tried again.
const FULL: Duration = Duration::from_secs(1);

/// How long a node that may know what this one has missed can take to write it into the bucket: one that has to take
/// over first waits for ten seconds.
const OTHERS: Duration = Duration::from_secs(20);

/// A source stream and how it is read.
pub struct SourceStream {
    /// Its name in the broker.
    pub stream: String,
    /// It is this deployment's own, so while it does not exist yet nothing can be said of it; others' streams need not
    /// exist.
    pub is_own: bool,
    /// How its messages become events; asked anew whenever reading begins anew.
    pub decoder: Box<dyn Fn() -> Decoder + Send + Sync>,
}

/// The mirror of some sources, which runs until it is stopped.
pub struct Mirror {
    stop: CancellationToken,
    task: JoinHandle<()>,
    counters: MirrorCounters,
}

/// What the sources have met since they were begun with.
#[derive(Clone, Debug, Default)]
pub struct MirrorCounters(Arc<parking_lot::Mutex<Vec<Arc<SourceCounters>>>>);

impl MirrorCounters {
    /// Those of each, in their order.
    #[must_use]
    pub fn read(&self) -> Vec<Arc<SourceCounters>> {
        self.0.lock().clone()
    }
}

/// How a mirror reads its sources.
pub struct Reach<'a> {
    /// The connection.
    pub nats: &'a Nats,
    /// What the node is called.
    pub node: &'a str,
    /// Where a node that begins finds the state that its source does not tell it.
    pub loader: Option<Loader>,
}

/// A folder whose log is, or can become, the mirror of some sources.
pub struct Copy {
    file: FactsFile,
    facts: Facts,
    sources: Arc<Sources>,
}

/// The copy can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is another's.
    #[error("{0}")]
    Folder(#[from] MirrorError),
    /// The log can't be read.
    #[error("the end of the copy can't be read: {0}")]
    Read(#[from] ReadError),
}

impl Copy {
    /// Takes up the copy in a folder whose log is open, or begins one.
    ///
    /// # Errors
    ///
    /// When the folder holds a log of its own or a copy of other sources, or can't be read.
    pub fn open(folder: &Path, log: &Log, streams: &[SourceStream]) -> Result<Self, OpenError> {
        let file = FactsFile::in_folder(folder);
        let names: Vec<&str> = streams
            .iter()
            .map(|source| source.stream.as_str())
            .collect();
        let mut facts = if file.exists()? {
            file.read()?
        } else {
            if log.tail() > 0 {
                return Err(other_folder(folder, "holds a log of its own").into());
            }
            let sources = names.iter().map(|name| SourceFacts {
                stream: (*name).to_owned(),
                first: 1,
                ..SourceFacts::default()
            });
            let facts = Facts {
                sources: sources.collect(),
                complete: false,
            };
            // First of all: from now on the folder can't be taken for anything else.
            file.write(&facts)?;
            facts
        };
        let known: Vec<&str> = facts
            .sources
            .iter()
            .map(|one| one.stream.as_str())
            .collect();
        if known != names {
            let what = format!(
                "holds a copy of {}, not of {}",
                known.join(", "),
                names.join(", ")
            );
            return Err(other_folder(folder, &what).into());
        }
        let (reached, _) = end_of_copy(log, &facts)?;
        let sources = Arc::new(Sources::new(names.iter().map(|name| (*name).to_owned())));
        for (source, (facts, reached)) in facts.sources.iter_mut().zip(&reached).enumerate() {
            facts.copied = facts.copied.max(reached.position);
            sources.update(source, |standing| {
                standing.incarnation = facts.incarnation;
                standing.epoch = Epoch(facts.epoch);
                standing.first = facts.first;
                standing.copied = facts.copied;
                standing.last = facts.copied;
            });
        }
        if facts.complete {
            sources.set_complete();
        }
        Ok(Self {
            file,
            facts,
            sources,
        })
    }

    /// What is known of the sources; the mirror keeps it up to date.
    #[must_use]
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }
}

/// How far the log has the sources' events, and the time of the last.
fn end_of_copy(log: &Log, facts: &Facts) -> Result<(Reached, i64), ReadError> {
    let (mut reached, time) = match crate::cursors::last_origin(log)? {
        Some(origin) => (origin.reached, origin.time),
        None => (Reached::new(), i64::MIN),
    };
    reached.resize(facts.sources.len(), Cursor::NOWHERE);
    for (reached, facts) in reached.iter_mut().zip(&facts.sources) {
        if reached.epoch.0 < facts.epoch {
            // Of this incarnation nothing that is an event was copied yet.
            *reached = Cursor {
                epoch: Epoch(facts.epoch),
                position: facts.first.saturating_sub(1),
            };
        }
    }
    Ok((reached, time))
}

fn other_folder(folder: &Path, what: &str) -> MirrorError {
    MirrorError::Folder {
        path: folder.to_owned(),
        what: what.to_owned(),
    }
}

impl Mirror {
    /// Goes on copying. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(
        copy: Copy,
        streams: Vec<SourceStream>,
        reach: Reach<'_>,
        cursors: &Arc<Cursors>,
        liveness: &Arc<Liveness>,
    ) -> Self {
        copy.sources.are_at(reach.nats);
        let stop = CancellationToken::new();
        let counters = MirrorCounters::default();
        let is_unrestored = copy
            .facts
            .sources
            .iter()
            .any(|one| one.unrestored.is_some());
        let work = Work {
            held: is_unrestored.then(|| cursors.log().hold_state()),
            behind: vec![Behind::new("not followed yet"); streams.len()],
            streams,
            node: reach.node.to_owned(),
            nats: reach.nats.clone(),
            loader: reach.loader,
            stop: stop.clone(),
            log: cursors.log().clone(),
            liveness: Arc::clone(liveness),
            sources: copy.sources,
            file: copy.file,
            facts: copy.facts,
            counters: counters.clone(),
        };
        work.tell_liveness();
        let task = tokio::spawn(work.run());
        Self {
            stop,
            task,
            counters,
        }
    }

    /// What the sources have met.
    #[must_use]
    pub fn counters(&self) -> &MirrorCounters {
        &self.counters
    }

    /// Ends the readers and remembers how far they came.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the mirror has panicked");
        }
    }
}

/// How a source lags behind what it is a copy of; `None` where it does not.
#[derive(Clone, Debug)]
struct Behind(Option<Stale>);

impl Behind {
    fn new(reason: &str) -> Self {
        Self(Some(Stale {
            since: unix_microseconds(SystemTime::now()),
            reason: reason.to_owned(),
        }))
    }
}

/// What the task owns.
struct Work {
    streams: Vec<SourceStream>,
    node: String,
    nats: Nats,
    loader: Option<Loader>,
    /// Cancelled when the mirror is to end.
    stop: CancellationToken,
    log: Log,
    liveness: Arc<Liveness>,
    sources: Arc<Sources>,
    file: FactsFile,
    facts: Facts,
    behind: Vec<Behind>,
    counters: MirrorCounters,
    /// While the state lacks what this node has yet to be told of it.
    held: Option<HeldState>,
}

/// One time of reading all sources, from where the log stands.
struct Reading {
    merge: Merge,
    copier: Copier,
    receivers: Vec<mpsc::Receiver<SourceReport>>,
}

impl Work {
    async fn run(mut self) {
        let stop = self.stop.clone();
        if self.held.is_some() && self.restore_again().await.is_err() {
            return;
        }
        loop {
            let stopped = self.read(&stop).await;
            self.remember().await;
            match stopped {
                None => return,
                Some(Stopped::Closed) => {
                    self.all_behind("the log of this node takes nothing more");
                    stop.cancelled().await;
                    return;
                }
                Some(Stopped::Full(reason)) => {
                    tidings_log::seldom!(warn, reason, "mirror_full");
                    self.all_behind(&format!("the copy of this node is full: {reason}"));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(FULL) => {}
                    }
                }
            }
        }
    }

    /// Reads all sources until it is stopped (`None`) or the log takes no more.
    async fn read(&mut self, stop: &CancellationToken) -> Option<Stopped> {
        // What was not stored the last time is read again.
        let (reached, time) = match end_of_copy(&self.log, &self.facts) {
            Ok(end) => end,
            Err(error) => return Some(Stopped::Full(error.to_string())),
        };
        let mut readers = Vec::new();
        let mut receivers = Vec::new();
        let standings = self.sources.standings();
        for (index, source) in self.streams.iter().enumerate() {
            let (sender, receiver) = mpsc::channel(REPORTS);
            let facts = &self.facts.sources[index];
            let spec = SourceSpec {
                index,
                stream: source.stream.clone(),
                decoder: (source.decoder)(),
                after: (facts.incarnation > 0).then_some(SourcePlace {
                    incarnation: facts.incarnation,
                    sequence: standings[index].copied,
                }),
                description: format!("tidings {}", self.node),
            };
            readers.push(Source::start(&self.nats, spec, sender));
            receivers.push(receiver);
        }
        *self.counters.0.lock() = readers
            .iter()
            .map(|reader| Arc::clone(reader.counters()))
            .collect();
        let mut reading = Reading {
            merge: Merge::new(self.streams.len()),
            copier: Copier::new(&self.log, &self.sources, reached, time),
            receivers,
        };
        let mut remember = tokio::time::interval(REMEMBER);
        let stopped = loop {
            let stepped = tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                _ = remember.tick() => {
                    self.remember().await;
                    Ok(())
                }
                stopped = reading.copier.failure() => Err(stopped),
                report = next_report(&reading.merge, &mut reading.receivers) => self.take(&mut reading, report).await,
            };
            if let Err(stopped) = stepped {
                break Some(stopped);
            }
        };
        drop(reading.receivers);
        for reader in readers {
            reader.stop().await;
        }
        reading.copier.drain().await;
        stopped
    }

    /// Takes in what a source has to say, and copies what can be.
    async fn take(&mut self, reading: &mut Reading, report: SourceReport) -> Result<(), Stopped> {
        let source = report.source;
        match report.event {
            SourceEvent::Waiting => {
                // What does not exist can't be behind; a warning was logged.
                reading.merge.set_at_end(source, true);
                let stream = &self.streams[source];
                let behind = if stream.is_own {
                    // A cursor that was given now would be of no stream.
                    Behind::new(&format!("the stream {} does not exist yet", stream.stream))
                } else {
                    Behind(None)
                };
                self.set_behind(source, behind).await;
            }
            SourceEvent::Away { reason } => {
                reading.merge.set_at_end(source, true);
                self.sources
                    .update(source, |standing| standing.current = false);
                self.set_behind(source, Behind::new(&reason)).await;
            }
            SourceEvent::Back => reading.merge.set_at_end(source, false),
            SourceEvent::Recreated { incarnation } => {
                reading.copier.settle().await?;
                self.begin_epoch(reading, source, incarnation, epoch_of(incarnation), 1)
                    .await;
            }
            SourceEvent::Rewound { last_sequence } => {
                reading.copier.settle().await?;
                // Its sequences will name other messages, so cursors must call it something else.
                let facts = &self.facts.sources[source];
                let (incarnation, epoch) = (facts.incarnation, facts.epoch + 1);
                self.begin_epoch(reading, source, incarnation, epoch, last_sequence + 1)
                    .await;
            }
            SourceEvent::Lost {
                incarnation,
                through,
            } => {
                // Of one that was never met everything is news.
                if self.facts.sources[source].incarnation == incarnation {
                    reading.copier.settle().await?;
                    self.take_loss(reading, source, through).await?;
                }
            }
            SourceEvent::Batch(batch) => self.take_batch(reading, source, batch).await?,
        }
        self.copy(reading).await
    }

    async fn take_batch(
        &mut self,
        reading: &mut Reading,
        source: usize,
        batch: SourceBatch,
    ) -> Result<(), Stopped> {
        if self.facts.sources[source].incarnation != batch.incarnation {
            reading.copier.settle().await?;
            if self.facts.sources[source].incarnation == 0 && self.log.tail() == 0 {
                self.restore_state(source, &batch).await?;
            }
            let epoch = epoch_of(batch.incarnation);
            let first = batch.first_sequence.max(1);
            self.begin_epoch(reading, source, batch.incarnation, epoch, first)
                .await;
        }
        self.sources.update(source, |standing| {
            standing.last = batch.last_sequence.max(batch.through);
            standing.current = true;
        });
        let at_end = batch.pending == 0;
        reading
            .merge
            .put(source, batch.messages, batch.through, at_end);
        Ok(())
    }

    /// A node that begins: takes over the state of what its source does not have any more. That comes before anything
    /// is written down of the source, so a node that is killed in between begins with it again.
    async fn restore_state(&mut self, source: usize, batch: &SourceBatch) -> Result<(), Stopped> {
        let Some(loader) = self.loader.clone() else {
            return Ok(());
        };
        let oldest = batch.messages.first().map(|message| message.sequence);
        let first = Cursor {
            epoch: Epoch(epoch_of(batch.incarnation)),
            position: oldest.unwrap_or(batch.through + 1),
        };
        let stop = self.stop.clone();
        loop {
            let restored = tokio::select! {
                restored = loader.restore(first, &self.log) => restored,
                () = stop.cancelled() => return Err(Stopped::Closed),
            };
            let Err(error) = restored else {
                return Ok(());
            };
            tracing::warn!(%error, "state_not_restored");
            self.set_behind(source, Behind::new(&error.to_string()))
                .await;
            tokio::select! {
                () = tokio::time::sleep(FULL) => {}
                () = stop.cancelled() => return Err(Stopped::Closed),
            }
        }
    }

    /// What a source has lost before it could be copied gets a place in the log, where readers are told of it. The
    /// state forgets there what the source has said, and is told what another node knows of it by then.
    async fn take_loss(
        &mut self,
        reading: &mut Reading,
        source: usize,
        through: u64,
    ) -> Result<(), Stopped> {
        let from = self.sources.standings()[source].copied + 1;
        if through < from {
            return Ok(());
        }
        let stream = self.facts.sources[source].stream.clone();
        tracing::warn!(stream, from, through, "source_lost");
        let known = self.known_elsewhere(source, through).await?;
        if known.is_some() {
            // Written down first: between the two nobody may be shown what is left of the state.
            self.held = Some(self.log.hold_state());
            self.facts.sources[source].unrestored = Some(through);
            self.write_facts().await;
        }
        reading.copier.lose(source, &stream, from, through).await?;
        reading.copier.settle().await?;
        self.sources.update(source, |standing| {
            standing.last = standing.last.max(through);
        });
        if let Some(events) = known {
            self.restore(source, events).await?;
        }
        Ok(())
    }

    /// What this node was told to take over when it was ended.
    async fn restore_again(&mut self) -> Result<(), Stopped> {
        for source in 0..self.streams.len() {
            let Some(through) = self.facts.sources[source].unrestored else {
                continue;
            };
            let known = self.known_elsewhere(source, through).await?;
            self.restore(source, known.unwrap_or_default()).await?;
        }
        Ok(())
    }

    /// The subjects of the source as another node has them that has read it up to a sequence; `None` where there is no
    /// such node.
    async fn known_elsewhere(
        &mut self,
        source: usize,
        through: u64,
    ) -> Result<Option<Vec<(TenantId, NewEvent)>>, Stopped> {
        let Some(loader) = self.loader.clone() else {
            return Ok(None);
        };
        let first = Cursor {
            epoch: Epoch(self.facts.sources[source].epoch),
            position: through + 1,
        };
        let until = Instant::now() + OTHERS;
        let stop = self.stop.clone();
        loop {
            let known = tokio::select! {
                known = loader.known_before(first) => known,
                () = stop.cancelled() => return Err(Stopped::Closed),
            };
            let reason = match known {
                Ok(Known::All(events)) => return Ok(Some(events)),
                Ok(Known::Nothing) => return Ok(None),
                Ok(Known::Part) if Instant::now() >= until => {
                    tracing::warn!(
                        %first,
                        "no other node knows what the stream has lost; the state forgets what it may have changed"
                    );
                    return Ok(None);
                }
                Ok(Known::Part) => {
                    "the stream has lost events before this node read them, and no other has told what they said"
                        .to_owned()
                }
                Err(error) => error.to_string(),
            };
            self.set_behind(source, Behind::new(&reason)).await;
            tokio::select! {
                () = tokio::time::sleep(FULL) => {}
                () = stop.cancelled() => return Err(Stopped::Closed),
            }
        }
    }

    /// Gives the state what it lacks since a source has lost something, and lets it be had again.
    async fn restore(
        &mut self,
        source: usize,
        events: Vec<(TenantId, NewEvent)>,
    ) -> Result<(), Stopped> {
        loop {
            let (log, events) = (self.log.clone(), events.clone());
            let restoring = tokio::task::spawn_blocking(move || log.state().restore(events)).await;
            match restoring {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::warn!(%error, "state_not_restored"),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
            tokio::select! {
                () = tokio::time::sleep(FULL) => {}
                () = self.stop.cancelled() => return Err(Stopped::Closed),
            }
        }
        tracing::info!(subjects = events.len(), "state_restored");
        self.facts.sources[source].unrestored = None;
        self.held = None;
        self.write_facts().await;
        Ok(())
    }

    /// Copies what the merge gives.
    async fn copy(&mut self, reading: &mut Reading) -> Result<(), Stopped> {
        loop {
            match reading.merge.next() {
                Next::Copy(source, message) => reading.copier.copy(source, message).await?,
                Next::Note(source, through) => {
                    reading.copier.note(source, through).await?;
                    if reading.merge.is_at_end(source) && self.behind[source].0.is_some() {
                        self.caught_up(reading, source).await?;
                    }
                }
                Next::Wait => return reading.copier.flush().await,
            }
        }
    }

    /// A source has nothing more for now: what it had is in the log.
    async fn caught_up(&mut self, reading: &mut Reading, source: usize) -> Result<(), Stopped> {
        if !self.sources.standings()[source].current {
            return Ok(());
        }
        reading.copier.settle().await?;
        self.set_behind(source, Behind(None)).await;
        Ok(())
    }

    async fn begin_epoch(
        &mut self,
        reading: &mut Reading,
        source: usize,
        incarnation: u64,
        epoch: u64,
        first: u64,
    ) {
        let facts = &mut self.facts.sources[source];
        facts.incarnation = incarnation;
        facts.epoch = epoch;
        facts.first = first;
        facts.copied = first - 1;
        self.sources.update(source, |standing| {
            standing.incarnation = incarnation;
            standing.epoch = Epoch(epoch);
            standing.first = first;
            standing.copied = first - 1;
            standing.last = standing.copied;
        });
        reading.copier.begin_epoch(source, Epoch(epoch), first - 1);
        tracing::info!(stream = facts.stream, epoch, first, "source_begun");
        self.write_facts().await;
    }

    /// Writes down how far the sources were copied, if that has changed.
    async fn remember(&mut self) {
        let standings = self.sources.standings();
        let mut changed = self.facts.complete != self.sources.is_complete();
        for (facts, standing) in self.facts.sources.iter_mut().zip(&standings) {
            changed |= facts.copied != standing.copied;
            facts.copied = standing.copied;
        }
        if changed {
            self.write_facts().await;
        }
    }

    async fn write_facts(&mut self) {
        self.facts.complete = self.sources.is_complete();
        let (file, facts) = (self.file.clone(), self.facts.clone());
        let writing = tokio::task::spawn_blocking(move || file.write(&facts));
        let written = match writing.await {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "what the mirror has copied can't be written down; trying again");
        }
    }

    async fn set_behind(&mut self, source: usize, behind: Behind) {
        self.behind[source] = behind;
        if self.behind.iter().all(|behind| behind.0.is_none()) && self.sources.set_complete() {
            tracing::info!("mirror_complete");
            self.remember().await;
        }
        self.tell_liveness();
    }

    fn all_behind(&mut self, reason: &str) {
        self.behind = vec![Behind::new(reason); self.behind.len()];
        self.tell_liveness();
    }

    fn tell_liveness(&self) {
        let stale = self.behind.iter().filter_map(|behind| behind.0.as_ref());
        let first = stale.min_by_key(|stale| stale.since);
        self.liveness.sources_are(first.cloned());
    }
}

/// What a source whose last report was worked off says next.
async fn next_report(
    merge: &Merge,
    receivers: &mut [mpsc::Receiver<SourceReport>],
) -> SourceReport {
    std::future::poll_fn(|context| {
        for (source, receiver) in receivers.iter_mut().enumerate() {
            if merge.wants(source)
                && let Poll::Ready(Some(report)) = receiver.poll_recv(context)
            {
                return Poll::Ready(report);
            }
        }
        Poll::Pending
    })
    .await
}

/// What cursors call an incarnation: the millisecond in which the stream was made.
fn epoch_of(incarnation: u64) -> u64 {
    (incarnation / 1_000_000).max(1)
}
