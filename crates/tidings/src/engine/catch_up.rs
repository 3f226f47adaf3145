//! The pool that reads the log for streams that are too far behind for the window.
//!
//! An engine has at most one request under way for each scope; the streams of that scope that wait
//! share what it brings.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tidings_log::{Expired, Log, ReadError, ReadLimit, Scope};
use tidings_protocol::Position;

use super::mailbox::Mailbox;
use crate::cursors::Cursors;
use crate::fanout::{Block, BlockBuilder, TypeTable};
use crate::metrics::count::{Histogram, Observed};
use crate::metrics::declared;

/// How many threads read for all engines together.
const THREADS: usize = 2;

/// How much of the log one request reads at most.
const CHUNK: ReadLimit = ReadLimit {
    events: 4096,
    bytes: 256 * 1024,
};

/// What an engine asks of the pool.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) scope: Scope,
    /// What comes after this position...
    pub(super) after: Position,
    /// ...up to this one, which the engine has handed out.
    pub(super) until: Position,
    /// Where the answer goes.
    pub(super) mailbox: Arc<Mailbox>,
}

/// What the pool has read for a scope.
#[derive(Debug)]
pub(super) struct Caught {
    pub(super) scope: Scope,
    pub(super) outcome: Result<Chunk, ReadError>,
}

/// A stretch of the log, as it is retained.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) block: Arc<Block>,
    /// How many tenants had been purged when it was read; after another one it may hold what nobody may be
    /// shown any more.
    pub(super) purges: u64,
    /// What of the scope behind the chunk's begin can't be had any more.
    pub(super) expired: Option<Expired>,
}

/// Threads that read the log.
pub struct CatchUpPool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    log: Log,
    cursors: Arc<Cursors>,
    types: Arc<TypeTable>,
    /// How long reads took.
    seconds: Histogram,
}

#[derive(Default)]
struct Queue {
    /// At most one for each scope and engine, in the order in which they were asked.
    requests: VecDeque<Request>,
    stopped: bool,
}

impl CatchUpPool {
    /// Starts the threads; they end when the pool is dropped.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(log: &Log, cursors: &Arc<Cursors>, types: &Arc<TypeTable>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            log: log.clone(),
            cursors: Arc::clone(cursors),
            types: Arc::clone(types),
            seconds: Histogram::new(&declared::CATCH_UP_SECONDS),
        });
        for number in 0..THREADS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("catch-up-{number}"))
                .spawn(move || shared.work())?;
        }
        Ok(Self { shared })
    }

    /// How many tenants were purged, ever since the log was opened.
    pub(super) fn purge_count(&self) -> u64 {
        self.shared.log.purge_count()
    }

    /// The log that is read.
    pub(super) fn log(&self) -> &Log {
        &self.shared.log
    }

    /// What clients see of positions.
    pub(super) fn cursors(&self) -> &Cursors {
        &self.shared.cursors
    }

    /// Event types as numbers.
    pub(super) fn types(&self) -> &TypeTable {
        &self.shared.types
    }

    /// How long the reads took that are done.
    #[must_use]
    pub fn read_seconds(&self) -> Observed {
        self.shared.seconds.read()
    }

    /// How many reads wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queue.lock().requests.len()
    }

    pub(super) fn request(&self, request: Request) {
        self.shared.queue.lock().requests.push_back(request);
        self.shared.more.notify_one();
    }
}

impl Drop for CatchUpPool {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let request = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.stopped {
                        return;
                    }
                    match queue.requests.pop_front() {
                        Some(request) => break request,
                        None => self.more.wait(&mut queue),
                    }
                }
            };
            let begun = Instant::now();
            let outcome = self.read(&request);
            self.seconds.observe(begun.elapsed());
            let Request { scope, mailbox, .. } = request;
            mailbox.caught(Caught { scope, outcome });
        }
    }

    fn read(&self, request: &Request) -> Result<Chunk, ReadError> {
        let Request {
            scope,
            after,
            until,
            ..
        } = *request;
        let purges = self.log.purge_count();
        let loss = self.cursors.losses().first_after(after);
        let loss = loss.filter(|loss| loss.position <= until);
        if let Some(loss) = loss.filter(|loss| loss.position == after + 1) {
            let builder = BlockBuilder::new(self.cursors.ids(), after);
            return Ok(Chunk {
                block: Arc::new(builder.finish(loss.position)),
                purges,
                expired: Some(Expired {
                    resume_after: loss.position,
                    removed_through: loss.position,
                }),
            });
        }
        // First what comes before it.
        let until = loss.map_or(until, |loss| loss.position - 1);
        let mut builder =
            BlockBuilder::with_capacity(self.cursors.ids(), after, CHUNK.bytes * 3 / 2);
        let end = self.log.read(scope, after, CHUNK, &mut |event| {
            if event.position <= until {
                builder.push(&event, &self.types);
            }
        })?;
        let (through, expired) = match end.lost {
            // First what comes before the damaged stretch; the stretch itself with the next read.
            Some(lost) if lost.first - 1 > after => ((lost.first - 1).min(until), end.expired),
            Some(lost) => {
                // Not beyond what live streams were given, or this one would get the rest twice.
                let last = lost.last.min(until);
                let lost = Expired {
                    resume_after: last,
                    removed_through: last,
                };
                (last, Some(lost))
            }
            None => (end.examined_through.min(until), end.expired),
        };
        Ok(Chunk {
            block: Arc::new(builder.finish(through)),
            purges,
            expired,
        })
    }
}
