//! The thread that owns the files: numbers entries, writes them, and syncs once a second.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tidings_protocol::audit::{AuditEntry, AuditKind};
use tokio::sync::oneshot;

use super::Shared;
use super::files::{Ring, Rings};
use crate::time::{rfc3339, unix_microseconds};

/// How often what was counted is looked at, and files are synced.
const TICK: Duration = Duration::from_secs(1);

/// How often it is told how much who has published. Who publishes at all is told with the next tick, so that a kill takes
/// away numbers and no names.
const PUBLISHED_EVERY: Duration = Duration::from_mins(1);

/// How often refusals are told one by one again.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// The most entries that are written at once.
const BATCH: usize = 512;

/// What the thread is told.
pub(super) enum Command {
    Entry(Box<AuditEntry>),
    /// Answer when everything before is in the files.
    Settle(oneshot::Sender<()>),
    Stop,
}

pub(super) struct Writer {
    rings: Rings,
    changes: Ring,
    access: Ring,
    shared: Arc<Shared>,
    node: String,
    last: u64,
    /// The disk has refused, and that was logged.
    is_refused: bool,
}

impl Writer {
    pub(super) fn new(rings: Rings, shared: Arc<Shared>, node: &str) -> io::Result<Self> {
        let (changes, access, last) = rings.writers()?;
        Ok(Self {
            rings,
            changes,
            access,
            shared,
            node: node.to_owned(),
            last,
            is_refused: false,
        })
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let start = Instant::now();
        let (mut ticked, mut published, mut refusals) = (start, start, start);
        loop {
            let left = TICK.saturating_sub(ticked.elapsed());
            let mut next = match commands.recv_timeout(left) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Command::Stop),
            };
            let mut batch = Vec::new();
            let mut settled = Vec::new();
            let mut stops = false;
            while let Some(command) = next.take() {
                match command {
                    Command::Entry(entry) => batch.push(*entry),
                    Command::Settle(done) => settled.push(done),
                    Command::Stop => stops = true,
                }
                if batch.len() < BATCH && !stops {
                    next = commands.try_recv().ok();
                }
            }
            // By time alone: were it by who looks at the log too, whoever may look could have all refusals told one by
            // one, and turn the log over with them.
            let ticks = stops || ticked.elapsed() >= TICK;
            if stops || published.elapsed() >= PUBLISHED_EVERY {
                published = Instant::now();
                batch.extend(self.shared.tally.take_published());
            } else if ticks {
                batch.extend(self.shared.tally.take_new());
            }
            if stops || refusals.elapsed() >= REFUSALS_EVERY {
                refusals = Instant::now();
                batch.extend(self.shared.tally.take_refusals());
            }
            let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                batch.push(AuditEntry {
                    count: Some(dropped),
                    ..AuditEntry::new(AuditKind::EntriesDropped)
                });
            }
            self.write(batch);
            for done in settled {
                let _ = done.send(());
            }
            if ticks {
                ticked = Instant::now();
                self.sync();
            }
            if stops {
                return;
            }
        }
    }

    fn write(&mut self, batch: Vec<AuditEntry>) {
        if batch.is_empty() {
            return;
        }
        let (mut changes, mut access) = (Vec::new(), Vec::new());
        let mut count = 0;
        let first = self.last;
        for mut entry in batch {
            let now = unix_microseconds(SystemTime::now());
            entry.time = rfc3339(now);
            // Numbers grow, also when the clock is set back.
            self.last = u64::try_from(now).unwrap_or(0).max(self.last + 1);
            entry.id = self.last;
            entry.node.clone_from(&self.node);
            let lines = if entry.what.is_change() {
                &mut changes
            } else {
                &mut access
            };
            // Into memory a plain struct is written whatever it holds.
            if serde_json::to_writer(&mut *lines, &entry).is_ok() {
                lines.push(b'\n');
                count += 1;
            }
        }
        match self.append(&changes, &access, first + 1) {
            Ok(()) => self.is_refused = false,
            Err(error) => {
                self.shared.dropped.fetch_add(count, Ordering::Relaxed);
                self.shared.dropped_ever.fetch_add(count, Ordering::Relaxed);
                self.tell(&error);
            }
        }
    }

    fn append(&mut self, changes: &[u8], access: &[u8], first: u64) -> io::Result<()> {
        let new_changes = self.changes.append(changes, first)?;
        let new_access = self.access.append(access, first)?;
        if new_changes || new_access {
            self.rings.trim()?;
        }
        Ok(())
    }

    fn sync(&mut self) {
        if let Err(error) = self.changes.sync().and_then(|()| self.access.sync()) {
            self.tell(&error);
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_refused, true) {
            tracing::error!(%error, "the audit log can't be written; what is lost is counted in it when it can be again");
        }
    }
}
