//! The node that writes the bucket: what its log says behind the bucket's cursor, and then the cursor.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tidings_log::{ReadError, ReadLimit, Scope, StateError, StateSnapshot};
use tidings_protocol::{Cursor, Position, TenantId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::load::read_cursor;
use super::{CURSOR, PREFIX, STREAM, ensure};
use crate::app::App;
use crate::cursors::CursorText;
use crate::jetstream::api::{self, ApiError};

/// How often a node looks whether there is something to write.
const EVERY: Duration = Duration::from_secs(2);

/// How long the bucket may say nothing that a node has in its log, before the node writes it.
const LAGS: Duration = Duration::from_secs(10);

/// At most about so much of the log is folded at once, so that the cursor moves while much is written.
const ROUND: (usize, usize) = (10_000, 8 << 20);

/// Of the log, how much is read at a time.
const READ: ReadLimit = ReadLimit {
    events: 1024,
    bytes: 1 << 20,
};

/// Writes on their way.
const WINDOW: usize = 256;

/// How many messages are removed at a time.
const REMOVALS: usize = 32;

/// How long a write may remain without acknowledgement.
const ANSWER: Duration = Duration::from_secs(10);

const OPERATION: &str = "KV-Operation";
const EXPECTED: &str = "Nats-Expected-Last-Sequence";
const EXPECTED_OF_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence";

/// The bucket can't be written at the moment.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0}")]
    Refused(#[from] ApiError),
    #[error("{0}")]
    Unwritten(#[from] PublishError),
    #[error("the log can't be read: {0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    State(#[from] StateError),
    /// Another node writes; that is as good.
    #[error("another node has written")]
    Another,
    #[error("a thread that reads the log has ended")]
    Ended,
}

/// This node as one that may write the bucket.
pub struct Keeper {
    app: Arc<App>,
    client: Client,
    context: Context,
    /// What this node has written, as long as it is the one that writes.
    owned: Option<Owned>,
    /// How far the bucket's stream reached when it was first seen to lag, and when that was.
    lagging: Option<(u64, Instant)>,
    /// Purged tenants of whom nothing is in the bucket any more, as long as this node writes.
    wiped: HashSet<TenantId>,
    told: bool,
}

struct Owned {
    /// The last sequence of the bucket's stream: nobody else has written since.
    last: u64,
    /// How far the log is folded.
    through: Position,
}

/// What is to be written.
enum Changes {
    /// The last events of these subjects.
    Some(BTreeMap<String, Entry>),
    /// All subjects: what became of them since the cursor is not known.
    All(StateSnapshot),
}

impl Keeper {
    /// A node that looks after the bucket over this connection.
    #[must_use]
    pub fn new(app: &Arc<App>, client: &Client) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER);
        Self {
            app: Arc::clone(app),
            client: client.clone(),
            context,
            owned: None,
            lagging: None,
            wiped: HashSet::new(),
            told: false,
        }
    }

    /// Looks after the bucket until told to stop.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stopping.cancelled() => return,
            }
            let kept = tokio::select! {
                kept = self.keep() => kept,
                () = stopping.cancelled() => return,
            };
            match kept {
                Ok(()) => self.told = false,
                Err(KeepError::Another) => self.owned = None,
                Err(error) => {
                    // What of it was stored is not known: the next round begins with the bucket's cursor.
                    self.owned = None;
                    if std::mem::replace(&mut self.told, true) {
                        tracing::debug!(%error, "state_not_kept");
                    } else {
                        tracing::warn!(%error, "state_not_kept");
                    }
                }
            }
        }
    }

    /// Writes what is to be written, if that is this node's to do.
    async fn keep(&mut self) -> Result<(), KeepError> {
        let is_complete = self
            .app
            .cursors
            .sources()
            .is_some_and(|all| all.is_complete());
        let cluster = self.app.cluster.as_ref();
        let knows_purges = cluster.is_some_and(|cluster| cluster.unready().is_none());
        if !is_complete || !knows_purges || !self.app.log.state().health().ready {
            return Ok(());
        }
        loop {
            let info = ensure(&self.client, self.app.config().nats.replicas).await?;
            let held = info.last_sequence;
            let (last, after) = match &self.owned {
                Some(owned) if owned.last == held => {
                    // Behind missing events the state has forgotten subjects without a word in the log.
                    let is_whole = self
                        .app
                        .cursors
                        .losses()
                        .first_after(owned.through)
                        .is_none();
                    (held, is_whole.then_some(owned.through))
                }
                _ => match self.take_over(held).await? {
                    Some(taken) => taken,
                    None => return Ok(()),
                },
            };
            self.wipe().await?;
            let (changes, through) = self.changes(after).await?;
            if after == Some(through) {
                return Ok(());
            }
            let last = match changes {
                Changes::Some(entries) => self.write(last, entries.into_values()).await?,
                Changes::All(snapshot) => {
                    let entries = snapshot.into_entries();
                    let entries = entries.filter_map(|entry| Entry::of_state(&entry));
                    let written = self.write(last, entries).await?;
                    // What was not written now does not live any more, as far as is known here.
                    api::purge_older(&self.client, STREAM, &format!("{PREFIX}*.*.*"), last + 1)
                        .await?;
                    written
                }
            };
            let last = self.write_cursor(last, through).await?;
            self.owned = Some(Owned { last, through });
            if through >= self.app.log.tail() {
                return Ok(());
            }
        }
    }

    /// Where this node is to write, since nobody does: behind which sequence of the bucket's stream, and behind which
    /// position of its log, if what became of the subjects since the bucket's cursor is in that.
    async fn take_over(&mut self, held: u64) -> Result<Option<(u64, Option<Position>)>, KeepError> {
        self.owned = None;
        let cursor = match api::last_message(&self.client, STREAM, CURSOR).await {
            Ok(message) => read_cursor(&message.payload),
            Err(ApiError::NoMessage) => None,
            Err(error) => return Err(error.into()),
        };
        let app = Arc::clone(&self.app);
        let looking = move || -> Result<_, ReadError> {
            let end = place_of(&app, app.log.tail());
            let after = match cursor {
                Some(cursor) => app.cursors.position_after(0, cursor)?,
                None => None,
            };
            Ok((end, after))
        };
        let (end, after) = blocking(looking).await??;
        if let Some(cursor) = cursor {
            if end <= cursor {
                self.lagging = None;
                return Ok(None);
            }
            match self.lagging {
                Some((seen, since)) if seen == held => {
                    if since.elapsed() < LAGS {
                        return Ok(None);
                    }
                }
                _ => {
                    self.lagging = Some((held, Instant::now()));
                    return Ok(None);
                }
            }
        }
        self.lagging = None;
        self.wiped.clear();
        // A stream without messages has no last sequence to expect: one node makes the first.
        let last = if held == 0 { self.begin().await? } else { held };
        tracing::info!(
            cursor = cursor.map(|cursor| cursor.to_string()),
            is_whole = after.is_none(),
            "state_kept_here"
        );
        Ok(Some((last, after)))
    }

    async fn begin(&self) -> Result<u64, KeepError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_OF_SUBJECT, "0");
        let cursor = Cursor::NOWHERE.to_string();
        let sent = self
            .context
            .publish_with_headers(CURSOR, headers, cursor.into())
            .await?;
        Ok(sent.await.map_err(refused)?.sequence)
    }

    /// What has changed behind a position, or everything; and the position that it leads to.
    async fn changes(&self, after: Option<Position>) -> Result<(Changes, Position), KeepError> {
        let Some(after) = after else {
            let snapshot = self.app.log.state().snapshot(Scope::All)?;
            let through = snapshot.through();
            return Ok((Changes::All(snapshot), through));
        };
        let log = self.app.log.clone();
        let reading = move || -> Result<_, ReadError> {
            let (mut entries, mut through, mut bytes) = (BTreeMap::new(), after, 0);
            while entries.len() < ROUND.0 && bytes < ROUND.1 {
                let end = log.read(Scope::All, through, READ, &mut |event| {
                    if let Some(entry) = Entry::of(&event) {
                        bytes += event.data.len();
                        entries.insert(entry.subject(), entry);
                    }
                })?;
                let is_over = end.reached_tail || end.examined_through <= through;
                through = through.max(end.examined_through);
                if is_over {
                    break;
                }
            }
            Ok((Changes::Some(entries), through))
        };
        Ok(blocking(reading).await??)
    }

    /// Writes subjects behind the sequence `last`, if nobody else has written; the last sequence then.
    async fn write(
        &self,
        last: u64,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<u64, KeepError> {
        let mut last = last;
        let mut ends = Vec::new();
        let mut on_their_way = VecDeque::with_capacity(WINDOW);
        for entry in entries {
            let mut headers = if entry.ends() {
                ends.push(last + 1);
                HeaderMap::from_iter([(OPERATION.parse().expect("a name"), "DEL".into())])
            } else {
                entry.headers()
            };
            headers.insert(EXPECTED, last.to_string());
            let subject = entry.subject();
            let payload = if entry.ends() {
                Bytes::new()
            } else {
                entry.event.data.into()
            };
            let sent = self
                .context
                .publish_with_headers(subject, headers, payload)
                .await?;
            on_their_way.push_back(sent.into_future());
            last += 1;
            if on_their_way.len() == WINDOW
                && let Some(oldest) = on_their_way.pop_front()
            {
                oldest.await.map_err(refused)?;
            }
        }
        for sent in on_their_way {
            sent.await.map_err(refused)?;
        }
        self.remove(ends).await?;
        Ok(last)
    }

    /// Takes out what says that a subject has ended: in its place stands nothing then. By its sequence, so that
    /// what another node has written under the same key since stays.
    async fn remove(&self, ends: Vec<u64>) -> Result<(), KeepError> {
        let mut removing = JoinSet::new();
        for sequence in ends {
            if removing.len() == REMOVALS
                && let Some(removed) = removing.join_next().await
            {
                removed.map_err(|_| KeepError::Ended)??;
            }
            let client = self.client.clone();
            removing.spawn(async move { api::delete_message(&client, STREAM, sequence).await });
        }
        while let Some(removed) = removing.join_next().await {
            removed.map_err(|_| KeepError::Ended)??;
        }
        Ok(())
    }

    async fn write_cursor(&self, last: u64, through: Position) -> Result<u64, KeepError> {
        let app = Arc::clone(&self.app);
        let at = blocking(move || place_of(&app, through)).await?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, last.to_string());
        let sent = self
            .context
            .publish_with_headers(CURSOR, headers, at.to_string().into())
            .await?;
        Ok(sent.await.map_err(refused)?.sequence)
    }

    /// Takes purged tenants out. What is written after this is of none of them, as far as is known here; who is purged
    /// meanwhile, is taken out by the next round.
    async fn wipe(&mut self) -> Result<(), KeepError> {
        for (tenant, _) in self.app.registry.purged().list() {
            if !self.wiped.contains(&tenant) {
                api::purge_subjects(&self.client, STREAM, &format!("{PREFIX}{tenant}.>")).await?;
                self.wiped.insert(tenant);
            }
        }
        Ok(())
    }
}

/// The place in the stream that a position of the log is at.
fn place_of(app: &App, position: Position) -> Cursor {
    match app.cursors.text(position) {
        CursorText::Single(cursor) => cursor,
        // The own layout has one stream.
        CursorText::Merged(_) => Cursor::NOWHERE,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, KeepError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| KeepError::Ended)
}

fn refused(error: PublishError) -> KeepError {
    if error.kind() == PublishErrorKind::WrongLastSequence {
        KeepError::Another
    } else {
        KeepError::Unwritten(error)
    }
}
