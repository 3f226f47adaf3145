//! The stream engine: a few threads that own the open streams.
//!
//! In the order in which a stream meets it:
//!
//! - [`ticket`]: what an authorised stream brings along: who, what it sees, where it starts.
//! - [`mailbox`]: how the rest of the process reaches an engine thread.
//! - [`thread`]: the thread itself, its loop and its state.
//! - [`index`]: which streams an event goes to.
//! - [`stream`]: the record of one stream, [`sink`]: where its bytes go, [`tls`]: the same, encrypted.
//! - [`coding`]: compression, done once for all streams of a view.
//! - [`deliver`]: what is written to streams that follow the tail, [`pull`]: to those behind it.
//! - [`snapshot`]: what a stream begins with that asks how things are, [`select`]: what the others get.
//! - [`catch_up`]: the small pool that reads the log for the latter.
//! - [`census`]: listing and closing streams for operators, in slices.
//! - [`ended`]: the streams that have ended lately.
//! - [`counters`]: what a thread counts of its own work.
//! - [`readiness`]: what their sockets tell; [`lifecycle`]: opening, heartbeats, the several ends;
//!   [`wheel`]: when they are due; [`drain`]: all streams leave, evenly.
//!
//! A stream that falls behind keeps a cursor, not a queue: when its sink takes bytes again, it
//! reads on from the window or the log.

mod catch_up;
mod census;
pub mod coding;
mod counters;
mod deliver;
mod drain;
mod ended;
mod index;
mod lifecycle;
mod mailbox;
mod pull;
mod readiness;
mod select;
mod sink;
mod snapshot;
mod stream;
mod thread;
mod ticket;
mod tls;
mod wheel;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidings_log::Log;
use tidings_protocol::api::ClosingReason;

pub use catch_up::CatchUpPool;
pub use census::{StreamFilter, StreamRecord};
pub use coding::Coding;
pub use counters::{EngineCounters, Transport};
pub use drain::Draining;
pub use ended::{EndedStream, EndedStreams};
pub use sink::{StreamBody, body};
pub use snapshot::{SnapshotReading, shows};
pub use ticket::{ConnectionId, InvalidConnectionId, OpenStream, Recheck, StreamSink, Ticket};
pub use tls::TlsSocket;

use crate::cursors::Cursors;
use crate::fanout::{Follower, Stale, TypeTable, Window};
use census::Inquiry;
use mailbox::{Command, Mailbox};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How many listings the engines work at together; others wait for their turn.
const LISTINGS: usize = 4;

/// How many closings the engines work at together.
const CLOSINGS: usize = 64;

/// How engines treat their streams.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How many threads; streams are spread over them and stay where they are.
    pub threads: usize,
    /// The longest time without a byte.
    pub heartbeat: Duration,
    /// How long a peer may take no byte while some are due.
    pub stall_timeout: Duration,
    /// The reconnection time that a `closing` event names, before jitter.
    pub retry: Duration,
    /// The kernel's send buffer of a stream's socket, in bytes.
    pub send_buffer: usize,
    /// How many streams that have ended are remembered, at most for a day.
    pub ended_streams: usize,
}

/// All engine threads, and the way to them.
pub struct Engines {
    threads: Vec<EngineThread>,
    next: AtomicUsize,
    listings: Arc<Semaphore>,
    closings: Arc<Semaphore>,
    ended: Arc<EndedStreams>,
    pool: Arc<CatchUpPool>,
}

struct EngineThread {
    mailbox: Arc<Mailbox>,
    handle: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Engines {
    /// Starts the threads. They end by [`Engines::stop`].
    ///
    /// # Errors
    ///
    /// When the system gives no epoll instance or thread.
    pub fn start(
        options: &EngineOptions,
        log: &Log,
        cursors: &Arc<Cursors>,
        window: &Arc<Window>,
        types: &Arc<TypeTable>,
    ) -> io::Result<Self> {
        let pool = Arc::new(CatchUpPool::start(log, cursors, types)?);
        let ended = Arc::new(EndedStreams::new(options.ended_streams));
        let retries = drain::Evenly::random();
        let threads = (0..options.threads.max(1))
            .map(|number| {
                let (mailbox, poll) = Mailbox::new()?;
                let thread = thread::Thread::new(
                    options.clone(),
                    poll,
                    Arc::clone(&mailbox),
                    Arc::clone(window),
                    Arc::clone(&pool),
                    Arc::clone(&ended),
                    retries.clone(),
                );
                let handle = std::thread::Builder::new()
                    .name(format!("engine-{number}"))
                    .spawn(move || thread.run())?;
                Ok(EngineThread {
                    mailbox,
                    handle: parking_lot::Mutex::new(Some(handle)),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            threads,
            next: AtomicUsize::new(0),
            listings: Arc::new(Semaphore::new(LISTINGS)),
            closings: Arc::new(Semaphore::new(CLOSINGS)),
            ended,
            pool,
        })
    }

    /// Hands an authorised stream to an engine, which owns it from here on. Waits while the engine
    /// has too many to take over: nothing may fail after a token was taken.
    pub async fn open(&self, mut stream: OpenStream) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        while let Err(refused) = self.threads[number].mailbox.open(stream) {
            stream = *refused;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The first `limit` of the open streams that `filter` selects, ascending by name, from behind
    /// `after`.
    pub async fn list(
        &self,
        filter: &StreamFilter,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Vec<StreamRecord> {
        let permit = permit(&self.listings).await;
        let answers: Vec<_> = self
            .threads
            .iter()
            .map(|thread| {
                let (inquiry, answer) =
                    Inquiry::list(filter.clone(), after, limit, Arc::clone(&permit));
                thread.mailbox.ask(inquiry);
                answer
            })
            .collect();
        let mut records = Vec::new();
        for answer in answers {
            // A thread that has ended has no streams.
            records.extend(answer.await.unwrap_or_default());
        }
        records.sort_unstable_by_key(|record| record.connection);
        records.truncate(limit);
        records
    }

    /// The streams that have ended lately.
    #[must_use]
    pub fn ended(&self) -> &EndedStreams {
        &self.ended
    }

    /// Closes the open streams that `filter` selects and gives how many they were. When it returns,
    /// none of them is given anything any more. What happens is not undone by dropping the future, but
    /// nothing may have begun then.
    pub async fn close_streams(&self, filter: &StreamFilter, reason: ClosingReason) -> usize {
        let permit = permit(&self.closings).await;
        let answers: Vec<_> = self
            .threads
            .iter()
            .map(|thread| {
                let (inquiry, answer) = Inquiry::close(filter.clone(), reason, Arc::clone(&permit));
                thread.mailbox.ask(inquiry);
                answer
            })
            .collect();
        let mut closed = 0;
        for answer in answers {
            closed += answer.await.unwrap_or_default();
        }
        closed
    }

    /// Begins to tell the streams to go elsewhere and to close them, evenly over this time.
    #[must_use]
    pub fn drain(&self, over: Duration) -> Draining {
        let (underway, ended) = mpsc::channel(1);
        self.command(|| Command::Drain {
            over,
            underway: underway.clone(),
        });
        Draining(ended)
    }

    /// Tells every stream that is left to go elsewhere, and closes it at once.
    pub fn close_all(&self) {
        self.command(|| Command::CloseAll(ClosingReason::Draining));
    }

    /// Ends the threads, giving streams that are still closing until `deadline`.
    pub fn stop(&self, deadline: Instant) {
        self.command(|| Command::Stop { deadline });
        for thread in &self.threads {
            let handle = thread.handle.lock().take();
            if let Some(handle) = handle
                && handle.join().is_err()
            {
                tracing::error!("an engine thread had panicked");
            }
        }
    }

    /// How often each thread has woken. Wakes them, so that the next answers differ unless one is stuck.
    #[must_use]
    pub fn pulse(&self) -> Vec<u64> {
        let threads = self.threads.iter();
        threads.map(|thread| thread.mailbox.pulse()).collect()
    }

    /// How many streams are open.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.threads
            .iter()
            .map(|thread| thread.mailbox.stream_count())
            .sum()
    }

    /// What each thread has counted.
    pub fn counters(&self) -> impl Iterator<Item = &EngineCounters> {
        self.threads.iter().map(|thread| &thread.mailbox.counters)
    }

    /// Who reads the log for streams that are behind.
    #[must_use]
    pub fn pool(&self) -> &CatchUpPool {
        &self.pool
    }

    fn command(&self, command: impl Fn() -> Command) {
        for thread in &self.threads {
            thread.mailbox.command(command());
        }
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Arc<OwnedSemaphorePermit> {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    Arc::new(permit.expect("it is never closed"))
}

impl Follower for Engines {
    fn tail_moved(&self) {
        for thread in &self.threads {
            thread.mailbox.tail_moved();
        }
    }

    fn liveness_changed(&self, stale: Option<&Stale>) {
        self.command(|| Command::Liveness(stale.cloned()));
    }
}
