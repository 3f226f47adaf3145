//! One key-value bucket in JetStream (NATS ADR-8): changed by compare-and-set, followed by every node.
//!
//! A bucket is a stream `KV_{name}` that keeps the last message of each subject `$KV.{name}.{key}`. What is
//! written is durable on as many servers as the stream has replicas when it is acknowledged. A node follows a
//! bucket with one consumer: first everything that is there, then each change. When the connection was lost, or
//! the follower turns out to lag for whatever reason, it begins anew with everything: a bucket is small, and no
//! change can be missed that way.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Changed;

/// How often a follower is compared with its stream.
const COMPARE_EVERY: Duration = Duration::from_secs(2);

/// How long a broken follower waits before it begins anew.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a request may go unanswered before it counts as failed.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a change may take to come back to the node that made it.
const RETURN: Duration = Duration::from_secs(5);

/// How often a change is tried again when another node was faster.
const ATTEMPTS: usize = 20;

/// Of how many changes it is remembered what came of them here.
const OUTCOMES: usize = 1_024;

const OPERATION: &str = "KV-Operation";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// A bucket can't be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BucketError {
    /// NATS does not answer, or refuses. A change may have been stored all the same.
    #[error("{bucket} can't be reached: {what}")]
    Unreachable {
        /// The bucket.
        bucket: &'static str,
        /// What NATS or the client says.
        what: String,
    },
    /// The value is larger than NATS takes in one message.
    #[error("{bytes} bytes are more than NATS takes in one message ({limit})")]
    TooLarge {
        /// The size of the value.
        bytes: usize,
        /// The server's `max_payload`.
        limit: usize,
    },
    /// The change is stored, but this node has not heard of it yet, and so does not obey it.
    #[error("a change of {bucket} is stored and has not come back yet")]
    NotBack {
        /// The bucket.
        bucket: &'static str,
    },
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays as it is.
    Keep,
    /// It gets this value.
    Put(Bytes),
    /// It goes.
    Delete,
}

/// One key at one moment.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// `None` where it was deleted.
    pub(super) value: Option<Bytes>,
    /// The number of the change in its bucket.
    pub(super) revision: u64,
}

/// What came of a change on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many streams were closed by it.
    pub closed: usize,
    /// What could not be done, if anything.
    pub failed: Option<String>,
}

/// Obeys what a bucket says.
pub(super) trait Follower: Sync {
    /// Takes over everything that there is: each key once, those that were deleted among them. Brings the bucket
    /// what is known here and was never there. `is_another` where this node has followed a bucket of this name
    /// before that is lost.
    fn take_all(
        &self,
        entries: Vec<Entry>,
        is_another: bool,
    ) -> impl Future<Output = Result<(), BucketError>> + Send;

    /// Takes over a change.
    fn take(&self, entry: Entry) -> impl Future<Output = Outcome> + Send;
}

/// How far the bucket is obeyed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Followed {
    /// Everything was taken over at least once.
    synced: bool,
    /// Up to this revision.
    revision: u64,
}

/// A bucket, as one node has it.
#[derive(Debug)]
pub(super) struct Bucket {
    name: &'static str,
    jetstream: Context,
    replicas: usize,
    /// Entries go after this; zero is never.
    max_age: Duration,
    followed: watch::Sender<Followed>,
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
    /// When the stream was created that was taken over last, in nanoseconds since the Unix epoch: one that is
    /// deleted and made anew is another.
    taken: Mutex<Option<i128>>,
}

impl Bucket {
    pub(super) fn new(
        client: &async_nats::Client,
        name: &'static str,
        replicas: usize,
        max_age: Duration,
    ) -> Self {
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER);
        Self {
            name,
            jetstream,
            replicas,
            max_age,
            followed: watch::channel(Followed::default()).0,
            outcomes: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    /// Whether everything that was in the bucket was taken over at least once.
    pub(super) fn is_synced(&self) -> bool {
        self.followed.borrow().synced
    }

    /// Returns when this node obeys a revision, or after `patience`; what came of it.
    pub(super) async fn obeyed(
        &self,
        revision: u64,
        patience: Duration,
    ) -> Result<Outcome, BucketError> {
        let mut followed = self.followed.subscribe();
        let back = followed.wait_for(|followed| followed.synced && followed.revision >= revision);
        let not_back = BucketError::NotBack { bucket: self.name };
        match tokio::time::timeout(patience, back).await {
            Ok(Ok(_)) => {}
            _ => return Err(not_back),
        }
        let outcomes = self.outcomes.lock();
        Ok(outcomes.get(&revision).cloned().unwrap_or_default())
    }

    /// Changes a key to what `decide` makes of its value, which is asked again where another node was faster.
    /// Returns when the change is durable and this node obeys it. A key that stays as it is has
    /// been obeyed here too.
    pub(super) async fn change(
        &self,
        key: &str,
        decide: impl Fn(Option<&Bytes>) -> Decision,
    ) -> Result<Changed, BucketError> {
        let (revision, is_new) = self.store(key, decide).await?;
        let outcome = self.obeyed(revision, RETURN).await?;
        Ok(Changed {
            revision,
            is_new,
            outcome,
        })
    }

    /// As [`change`](Self::change), without waiting for this node to obey it: the key's revision, and whether it
    /// is new.
    pub(super) async fn store(
        &self,
        key: &str,
        decide: impl Fn(Option<&Bytes>) -> Decision,
    ) -> Result<(u64, bool), BucketError> {
        let stream = self.stream().await?;
        for _ in 0..ATTEMPTS {
            let before = self.read(&stream, key).await?;
            let revision = before.as_ref().map_or(0, |entry| entry.revision);
            let value = before.as_ref().and_then(|entry| entry.value.as_ref());
            let (operation, payload) = match decide(value) {
                Decision::Keep => return Ok((revision, false)),
                Decision::Delete if value.is_none() => return Ok((revision, false)),
                Decision::Delete => (Some("DEL"), Bytes::new()),
                Decision::Put(payload) => (None, payload),
            };
            match self.write(key, revision, operation, payload).await? {
                Some(written) => return Ok((written, true)),
                None => tokio::task::yield_now().await,
            }
        }
        Err(self.unreachable("others change the same key all the time"))
    }

    /// Writes where the key's revision is still `expected`, which is 0 where there is none.
    async fn write(
        &self,
        key: &str,
        expected: u64,
        operation: Option<&str>,
        payload: Bytes,
    ) -> Result<Option<u64>, BucketError> {
        let limit = self.jetstream.client().server_info().max_payload;
        // Headers count too.
        if payload.len() + 512 > limit {
            return Err(BucketError::TooLarge {
                bytes: payload.len(),
                limit,
            });
        }
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string());
        if let Some(operation) = operation {
            headers.insert(OPERATION, operation);
        }
        let sent = self
            .jetstream
            .publish_with_headers(self.subject(key), headers, payload);
        let acknowledged = match sent.await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(acknowledgement) => Ok(Some(acknowledgement.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    /// A key as the stream's leader has it: a follower may be behind.
    async fn read(&self, stream: &Stream, key: &str) -> Result<Option<Entry>, BucketError> {
        // Another node may just be making it; see `jetstream::api::last_message`.
        let info = stream.get_info().await;
        let info = info.map_err(|error| self.unreachable(&error))?;
        if info.state.last_sequence == 0 {
            return Ok(None);
        }
        match stream
            .get_last_raw_message_by_subject(&self.subject(key))
            .await
        {
            Ok(message) => Ok(Some(self.entry(&message))),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(self.unreachable(&error)),
            },
        }
    }

    fn entry(&self, message: &StreamMessage) -> Entry {
        self.entry_of(
            &message.subject,
            &message.headers,
            message.payload.clone(),
            message.sequence,
        )
    }

    fn entry_of(&self, subject: &str, headers: &HeaderMap, value: Bytes, revision: u64) -> Entry {
        let key = subject.strip_prefix(&self.subject("")).unwrap_or(subject);
        let is_there = headers.get(OPERATION).is_none();
        Entry {
            key: key.to_owned(),
            value: is_there.then_some(value),
            revision,
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    fn unreachable(&self, what: &(impl ToString + ?Sized)) -> BucketError {
        BucketError::Unreachable {
            bucket: self.name,
            what: what.to_string(),
        }
    }

    /// The stream, made where it does not exist.
    async fn stream(&self) -> Result<Stream, BucketError> {
        let wanted = self.config();
        self.jetstream
            .get_or_create_stream(wanted)
            .await
            .map_err(|error| self.unreachable(&error))
    }

    /// As other clients of NATS make a bucket, so that they can look into this one.
    fn config(&self) -> Config {
        // The server wants the window of duplicates, of which no use is made, to be within the age.
        let window = Duration::from_mins(2);
        Config {
            name: format!("KV_{}", self.name),
            description: Some("What the nodes of Tidings share".to_owned()),
            subjects: vec![self.subject(">")],
            max_messages_per_subject: 1,
            max_age: self.max_age,
            num_replicas: self.replicas,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            duplicate_window: if self.max_age.is_zero() {
                window
            } else {
                window.min(self.max_age)
            },
            ..Config::default()
        }
    }

    /// Raises what the stream has too little of. What an operator has given it more of stays.
    async fn grow(&self, stream: &Stream) -> Result<(), BucketError> {
        let mut config = stream.cached_info().config.clone();
        let replicas = config.num_replicas.max(self.replicas);
        let max_age = match (config.max_age, self.max_age) {
            (Duration::ZERO, _) | (_, Duration::ZERO) => Duration::ZERO,
            (has, wants) => has.max(wants),
        };
        if (config.num_replicas, config.max_age) == (replicas, max_age) {
            return Ok(());
        }
        config.num_replicas = replicas;
        config.max_age = max_age;
        match self.jetstream.update_stream(&config).await {
            Ok(_) => tracing::info!(bucket = self.name, replicas, "bucket_updated"),
            // It serves as it is; the servers may be too few at the moment.
            Err(error) => {
                tracing::warn!(bucket = self.name, replicas, %error, "a bucket can't be changed");
            }
        }
        Ok(())
    }

    /// Follows the bucket until `stopping`, whatever happens to the connection.
    pub(super) async fn follow(&self, follower: &impl Follower, stopping: &CancellationToken) {
        let mut told = None;
        loop {
            let error = tokio::select! {
                ended = self.follow_once(follower) => match ended {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                () = stopping.cancelled() => return,
            };
            let error = error.to_string();
            if told.as_ref() == Some(&error) {
                tracing::debug!(bucket = self.name, error, "bucket_not_followed");
            } else {
                tracing::warn!(bucket = self.name, error, "bucket_not_followed");
            }
            told = Some(error);
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn follow_once(
        &self,
        follower: &impl Follower,
    ) -> Result<std::convert::Infallible, BucketError> {
        let stream = self.stream().await?;
        self.grow(&stream).await?;
        // What is up to here will either be delivered or is gone.
        let info = stream.get_info().await;
        let info = info.map_err(|error| self.unreachable(&error))?;
        let created = info.created.unix_timestamp_nanos();
        let through = info.state.last_sequence;
        let config = OrderedConfig {
            deliver_subject: self.jetstream.client().new_inbox(),
            description: Some("a node of Tidings".to_owned()),
            // The stream keeps one message for each key, so these are the last.
            deliver_policy: DeliverPolicy::All,
            replay_policy: ReplayPolicy::Instant,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| self.unreachable(&error))?;
        let mut missing = consumer.cached_info().num_pending;
        let messages = consumer.messages().await;
        let mut messages = messages.map_err(|error| self.unreachable(&error))?;
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        compare.reset();
        let mut first = HashMap::new();
        let mut behind = None;
        let mut reached = through;
        if missing == 0 {
            self.took_all(follower, created, Vec::new(), reached)
                .await?;
        }
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = compare.tick() => {
                    let info = stream.get_info().await;
                    let info = info.map_err(|error| self.unreachable(&error))?;
                    let last = info.state.last_sequence;
                    // A change can be on its way; twice the same means that it does not come.
                    if info.created.unix_timestamp_nanos() != created || last < reached || behind == Some(reached) {
                        return Err(self.unreachable("the follower has fallen behind"));
                    }
                    behind = (last > reached || missing > 0).then_some(reached);
                    continue;
                }
            };
            let message = message.ok_or_else(|| self.unreachable("the consumer has ended"))?;
            let message = message.map_err(|error| self.unreachable(&error))?;
            let info = message.info().map_err(|error| self.unreachable(&error))?;
            let revision = info.stream_sequence;
            let headers = message.headers.clone().unwrap_or_default();
            let entry = self.entry_of(
                &message.subject,
                &headers,
                message.payload.clone(),
                revision,
            );
            reached = reached.max(revision);
            if missing == 0 {
                let outcome = follower.take(entry).await;
                self.took(revision, outcome);
                continue;
            }
            missing = info.pending;
            first.insert(entry.key.clone(), entry);
            if missing == 0 {
                let entries = first.drain().map(|(_, entry)| entry).collect();
                self.took_all(follower, created, entries, reached).await?;
            }
        }
    }

    async fn took_all(
        &self,
        follower: &impl Follower,
        created: i128,
        mut entries: Vec<Entry>,
        revision: u64,
    ) -> Result<(), BucketError> {
        entries.sort_unstable_by_key(|entry| entry.revision);
        let before = *self.taken.lock();
        let is_another = before.is_some_and(|before| before != created);
        follower.take_all(entries, is_another).await?;
        *self.taken.lock() = Some(created);
        self.outcomes.lock().clear();
        self.followed.send_replace(Followed {
            synced: true,
            revision,
        });
        Ok(())
    }

    fn took(&self, revision: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock();
        outcomes.insert(revision, outcome);
        while outcomes.len() > OUTCOMES {
            outcomes.pop_first();
        }
        drop(outcomes);
        self.followed
            .send_modify(|followed| followed.revision = followed.revision.max(revision));
    }
}
