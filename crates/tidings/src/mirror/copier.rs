//! Writing events into the log as a copy: with where they come from, in order, many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tidings_log::{AppendError, Chain, Log, NewEvent};
use tidings_protocol::{Cursor, Epoch, TenantId};
use tokio::sync::{Notify, Semaphore};

use crate::cursors::losses::{LOSSES, lost};
use crate::cursors::{Origin, Reached, Sources};
use crate::jetstream::SourceMessage;

/// One body in the log holds at most so many events...
const BODY_EVENTS: usize = 256;

/// ...and about so many bytes.
const BODY_BYTES: usize = 128 * 1024;

/// How many bytes wait for the log at once: well within its queue, in which nobody else stands.
const IN_FLIGHT: usize = 4 << 20;

/// Copying has come to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The log has no room; what was not stored has to be read again.
    Full(String),
    /// The log takes nothing more in this process.
    Closed,
}

/// How far each source is in the log, told as bodies become durable.
struct Progress {
    sources: Arc<Sources>,
    inner: Mutex<Inner>,
    failed: AtomicBool,
    /// Something has changed: a body was answered.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    in_flight: usize,
    /// What may be told when nothing is in flight any more.
    afterwards: Vec<(usize, u64)>,
    stopped: Option<Stopped>,
}

/// The last sequence of each source in a body.
type Copied = SmallVec<[(usize, u64); 3]>;

/// Consecutive events of one tenant.
struct Run {
    tenant: TenantId,
    events: Vec<NewEvent>,
    bytes: usize,
    copied: Copied,
}

pub(super) struct Copier {
    log: Log,
    chain: Chain,
    progress: Arc<Progress>,
    room: Arc<Semaphore>,
    reached: Reached,
    time: i64,
    run: Option<Run>,
}

impl Copier {
    /// Goes on behind the last event of the log, of which `reached` and `time` are known.
    pub(super) fn new(log: &Log, sources: &Arc<Sources>, reached: Reached, time: i64) -> Self {
        Self {
            log: log.clone(),
            chain: Chain::default(),
            progress: Arc::new(Progress {
                sources: Arc::clone(sources),
                inner: Mutex::default(),
                failed: AtomicBool::new(false),
                changed: Notify::new(),
            }),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
            reached,
            time,
            run: None,
        }
    }

    /// From here on the source's sequences are those of another incarnation.
    pub(super) fn begin_epoch(&mut self, source: usize, epoch: Epoch, before: u64) {
        self.reached[source] = Cursor {
            epoch,
            position: before,
        };
    }

    /// Copies an event, in time.
    pub(super) async fn copy(
        &mut self,
        source: usize,
        message: SourceMessage,
    ) -> Result<(), Stopped> {
        let SourceMessage {
            sequence,
            stored_at,
            tenant,
            mut event,
        } = message;
        let fits = self.run.as_ref().is_some_and(|run| {
            run.tenant == tenant && run.events.len() < BODY_EVENTS && run.bytes < BODY_BYTES
        });
        if !fits {
            self.flush().await?;
        }
        self.reached[source].position = sequence;
        // The brokers' clocks may differ; what `since` goes by must not run backwards.
        self.time = self.time.max(stored_at);
        let origin = Origin {
            source,
            time: self.time,
            reached: self.reached.clone(),
        };
        event.origin = Some(origin.encode());
        let run = self.run.get_or_insert_with(|| Run {
            tenant,
            events: Vec::new(),
            bytes: 0,
            copied: Copied::new(),
        });
        run.bytes += event.data.len() + 128;
        run.events.push(event);
        match run.copied.iter_mut().find(|(known, _)| *known == source) {
            Some((_, copied)) => *copied = sequence,
            None => run.copied.push((source, sequence)),
        }
        Ok(())
    }

    /// Puts down that everything of a source from `from` up to a sequence is missing in the log.
    pub(super) async fn lose(
        &mut self,
        source: usize,
        stream: &str,
        from: u64,
        through: u64,
    ) -> Result<(), Stopped> {
        self.flush().await?;
        self.reached[source].position = through;
        let origin = Origin {
            source,
            time: self.time,
            reached: self.reached.clone(),
        };
        self.run = Some(Run {
            tenant: LOSSES,
            events: vec![lost(stream, from, &origin)],
            bytes: 128,
            copied: smallvec![(source, through)],
        });
        self.flush().await
    }

    /// Notes that everything of a source up to a sequence is copied, once what was given before is.
    pub(super) async fn note(&mut self, source: usize, through: u64) -> Result<(), Stopped> {
        self.flush().await?;
        self.progress.note(source, through);
        Ok(())
    }

    /// Gives what was collected to the log.
    pub(super) async fn flush(&mut self) -> Result<(), Stopped> {
        let Some(run) = self.run.take() else {
            return self.progress.check();
        };
        let permits = u32::try_from(run.bytes.min(IN_FLIGHT)).expect("a few MiB");
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await;
        let permit = permit.expect("it is never closed");
        self.progress.check()?;
        self.progress.begin();
        let progress = Arc::clone(&self.progress);
        let copied = run.copied;
        let submitted = self.log.submit_chained(
            &self.chain,
            run.tenant,
            run.events,
            Box::new(move |outcome| {
                progress.answered(&copied, outcome.err());
                drop(permit);
            }),
        );
        submitted.map_err(|busy| self.progress.refused(busy.to_string()))
    }

    /// Waits until everything that was given to the log is answered.
    pub(super) async fn settle(&mut self) -> Result<(), Stopped> {
        self.flush().await?;
        self.drain().await;
        self.progress.check()
    }

    /// Waits until nothing is in flight, however it ends.
    pub(super) async fn drain(&self) {
        loop {
            let changed = self.progress.changed.notified();
            if self.progress.inner.lock().in_flight == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Waits until copying fails.
    pub(super) async fn failure(&self) -> Stopped {
        loop {
            let changed = self.progress.changed.notified();
            if let Err(stopped) = self.progress.check() {
                return stopped;
            }
            changed.await;
        }
    }
}

impl Progress {
    fn begin(&self) {
        self.inner.lock().in_flight += 1;
    }

    /// What was begun was not taken, so that nothing behind it may be.
    fn refused(&self, reason: String) -> Stopped {
        let mut inner = self.inner.lock();
        inner.in_flight -= 1;
        let stopped = inner.stopped.get_or_insert(Stopped::Full(reason)).clone();
        self.failed.store(true, Ordering::Release);
        stopped
    }

    fn check(&self) -> Result<(), Stopped> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let stopped = self.inner.lock().stopped.clone();
        Err(stopped.unwrap_or(Stopped::Closed))
    }

    fn note(&self, source: usize, through: u64) {
        let mut inner = self.inner.lock();
        if inner.in_flight == 0 {
            self.tell(&[(source, through)]);
        } else {
            inner.afterwards.push((source, through));
        }
    }

    /// Called by the log's writer, in the order in which bodies were given to it.
    fn answered(&self, copied: &Copied, error: Option<AppendError>) {
        let mut inner = self.inner.lock();
        inner.in_flight -= 1;
        match error {
            // Nobody is shown anything of a purged tenant: it is as good as copied.
            None | Some(AppendError::Purged) => {
                if inner.stopped.is_none() {
                    self.tell(copied);
                }
            }
            Some(AppendError::Unchained) => {}
            Some(error) => {
                let stopped = match error {
                    AppendError::Full(reason) => Stopped::Full(reason),
                    other => {
                        tracing::error!(error = %other, "a copied event can't be stored");
                        Stopped::Closed
                    }
                };
                inner.stopped.get_or_insert(stopped);
                self.failed.store(true, Ordering::Release);
            }
        }
        if inner.in_flight == 0 && inner.stopped.is_none() {
            let afterwards = std::mem::take(&mut inner.afterwards);
            self.tell(&afterwards);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    fn tell(&self, copied: &[(usize, u64)]) {
        for (source, through) in copied {
            self.sources.update(*source, |standing| {
                standing.copied = standing.copied.max(*through);
            });
        }
    }
}
