//! What nodes over one JetStream tell each other.
//!
//! - [`bucket`]: a key-value bucket, changed by compare-and-set and followed by every node.
//! - [`facts`]: what all nodes hold alike: purged tenants, device groups, API keys, revocations.
//! - [`presence`]: which nodes there are.
//! - [`ask`]: one question to all of them: listings, the end of a stream, audiences.
//!
//! Everything goes over the node's one connection to NATS, under `tidings_cluster.>` and in two buckets. Who may
//! publish there is believed: the permissions of the NATS account are what keeps others out.
//!
//! A node that can't reach NATS goes on with what it knows and refuses changes. A node that has just started
//! serves nobody before it has once taken over what the others know, since it might let in who was shut out.

mod ask;
mod bucket;
mod facts;
mod presence;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use async_nats::connection::State;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tidings_protocol::{DeviceId, TenantId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use ask::{Gathered, Question};
pub use bucket::{BucketError, Outcome};
pub use presence::Node;

use crate::app::App;
use crate::auth::ManagedKey;
use crate::auth::revocation::Revocation;
use crate::config::{Config, LogLayout};
use crate::registry::Purge;
use crate::time::unix_microseconds;
use bucket::{Bucket, Decision};
use facts::{Fact, RegistryFollower, RevocationFollower};
use presence::{ANNOUNCE_EVERY, Announcement, Others, Word};

/// Where nodes announce themselves.
const NODES: &str = "tidings_cluster.nodes";

/// How long a step that failed waits before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the last word of a node that goes may take to get out.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a node is among others.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// What the node is called.
    pub name: String,
    /// On how many NATS servers what is shared is kept.
    pub replicas: usize,
    /// How long revocations are kept; zero is for ever.
    pub revocations_kept: Duration,
    /// The stream of the own layout, from which a purged tenant's subjects are purged; `None` in the fleet layout,
    /// whose streams are others'.
    pub own_stream: Option<String>,
    /// How long that stream keeps messages; zero is for ever.
    pub retention: Duration,
}

impl ClusterOptions {
    /// What the configuration asks for.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let is_own = config.log.layout == LogLayout::Own;
        Self {
            name: config.node_name(),
            replicas: config.nats.replicas,
            revocations_kept: config.auth.revocations_kept,
            own_stream: is_own.then(|| config.nats.stream.clone()),
            retention: config.log.retention,
        }
    }
}

/// One of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// Purged tenants and device groups.
    Registry,
    /// Revocations.
    Revocations,
}

/// A change that is durable and obeyed by this node.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Its number in its bucket.
    pub revision: u64,
    /// Whether anything is other than before.
    pub is_new: bool,
    /// What came of it on this node.
    pub outcome: Outcome,
}

/// This node among the others.
pub struct Cluster {
    client: Client,
    options: ClusterOptions,
    node: Node,
    others: Others,
    registry: Bucket,
    revocations: Bucket,
    started: AtomicBool,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node that uses this connection; [`start`](Self::start) makes it one of the others.
    #[must_use]
    pub fn new(client: Client, options: ClusterOptions) -> Self {
        let ClusterOptions {
            replicas,
            revocations_kept,
            ..
        } = options;
        let id = format!("{:016x}", rand::random::<u64>());
        Self {
            registry: Bucket::new(&client, facts::REGISTRY, replicas, Duration::ZERO),
            revocations: Bucket::new(&client, facts::REVOCATIONS, replicas, revocations_kept),
            node: Node {
                name: options.name.clone(),
                id,
            },
            others: Others::default(),
            started: AtomicBool::new(false),
            client,
            options,
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Why this node can't serve anybody yet, if it can't.
    #[must_use]
    pub fn unready(&self) -> Option<&'static str> {
        let is_synced = self.registry.is_synced() && self.revocations.is_synced();
        (!is_synced).then_some(
            "this node has not been told yet by NATS which tenants were purged and whose access was revoked",
        )
    }

    /// Whether the connection to NATS stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Begins to follow what is shared, to be known and to answer, until `stopping`. Call it once.
    pub fn start(
        self: &Arc<Self>,
        app: &Arc<App>,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let parts = || (Arc::clone(self), Arc::clone(app), stopping.clone());
        let (cluster, shared, stop) = parts();
        tasks.spawn(async move {
            let bucket = &cluster.registry;
            let follower = RegistryFollower {
                app: &shared,
                bucket,
            };
            bucket.follow(&follower, &stop).await;
        });
        let (cluster, shared, stop) = parts();
        tasks.spawn(async move {
            let bucket = &cluster.revocations;
            let follower = RevocationFollower {
                app: &shared,
                bucket,
            };
            bucket.follow(&follower, &stop).await;
        });
        let (cluster, shared, stop) = parts();
        tasks.spawn(cluster.answer_questions(shared, tasks.clone(), stop));
        let (cluster, _, stop) = parts();
        tasks.spawn(async move { cluster.announce(stop).await });
        let (cluster, _, stop) = parts();
        tasks.spawn(async move { cluster.listen(stop).await });
        let (cluster, shared, stop) = parts();
        tasks.spawn(async move { cluster.purge_sources(&shared, &stop).await });
    }

    /// Says that this node is there, again and again, and in the end that it goes.
    async fn announce(&self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(ANNOUNCE_EVERY);
        let mut word = Word::Hello;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopping.cancelled() => break,
            }
            // What can't go out now must not go out later in a heap.
            if self.is_connected() {
                self.say(word).await;
                word = Word::Here;
            }
        }
        if self.is_connected() {
            let farewell = async {
                self.say(Word::Leaving).await;
                let _ = self.client.flush().await;
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }

    async fn say(&self, word: Word) {
        let announcement = Announcement {
            node: self.node.clone(),
            word,
        };
        let payload = serde_json::to_vec(&announcement).expect("a plain struct");
        if let Err(error) = self.client.publish(NODES, payload.into()).await {
            tracing::debug!(%error, "this node can't announce itself");
        }
    }

    /// Hears the others' announcements.
    async fn listen(&self, stopping: CancellationToken) {
        let Ok(mut announcements) = self.client.subscribe(NODES).await else {
            return;
        };
        loop {
            let message = tokio::select! {
                message = announcements.next() => message,
                () = stopping.cancelled() => return,
            };
            let Some(message) = message else { return };
            let Ok(announcement) = serde_json::from_slice::<Announcement>(&message.payload) else {
                tracing::debug!("an announcement that is none");
                continue;
            };
            if announcement.node == self.node {
                continue;
            }
            let is_new = announcement.word == Word::Hello;
            self.others.hear(announcement, Instant::now());
            if is_new {
                self.say(Word::Here).await;
            }
        }
    }

    fn bucket(&self, shared: Shared) -> &Bucket {
        match shared {
            Shared::Registry => &self.registry,
            Shared::Revocations => &self.revocations,
        }
    }

    /// Fails at once where a request would wait for a connection.
    fn check_connected(&self, bucket: &'static str) -> Result<(), BucketError> {
        if self.is_connected() {
            return Ok(());
        }
        Err(BucketError::Unreachable {
            bucket,
            what: "there is no connection to NATS".to_owned(),
        })
    }

    /// Purges a tenant for all nodes; where it was purged before, that stands.
    ///
    /// # Errors
    ///
    /// When it is not durable, or not obeyed by this node yet.
    pub async fn purge(&self, tenant: TenantId, purge: &Purge) -> Result<Changed, BucketError> {
        self.check_connected(facts::REGISTRY)?;
        let key = Fact::Purged(tenant).key();
        self.registry.change(&key, facts::purge_once(purge)).await
    }

    /// Makes these devices the group for all nodes, or with `None` removes it.
    ///
    /// # Errors
    ///
    /// When it is not durable, or not obeyed by this node yet.
    pub async fn set_group(
        &self,
        tenant: TenantId,
        name: &str,
        devices: Option<&[DeviceId]>,
    ) -> Result<Changed, BucketError> {
        self.check_connected(facts::REGISTRY)?;
        let key = Fact::Group(tenant, name.to_owned()).key();
        let value = devices.map(facts::group_value);
        let decide = move |known: Option<&bytes::Bytes>| match &value {
            Some(value) if known == Some(value) => Decision::Keep,
            Some(value) => Decision::Put(value.clone()),
            None => Decision::Delete,
        };
        self.registry.change(&key, decide).await
    }

    /// Makes an API key what `decide` makes of it for all nodes, or says why it refuses.
    ///
    /// # Errors
    ///
    /// When it is not durable, or not obeyed by this node yet.
    pub(crate) async fn change_key<E: Copy>(
        &self,
        id: &str,
        decide: impl Fn(Option<&ManagedKey>) -> Result<Option<ManagedKey>, E>,
    ) -> Result<Result<(), E>, BucketError> {
        self.check_connected(facts::REGISTRY)?;
        let key = Fact::Key(id.to_owned()).key();
        let refused = OnceLock::new();
        let decision = facts::key_decision(decide, &refused);
        self.registry.change(&key, decision).await?;
        Ok(refused.get().map_or(Ok(()), |why| Err(*why)))
    }

    /// Revokes access tokens for all nodes.
    ///
    /// # Errors
    ///
    /// When it is not durable, or not obeyed by this node yet.
    pub async fn revoke(&self, revocation: &Revocation) -> Result<Changed, BucketError> {
        self.check_connected(facts::REVOCATIONS)?;
        let key = revocation.whose.key();
        let decide = facts::revoke_later(revocation.at);
        self.revocations.change(&key, decide).await
    }

    /// Asks all nodes whether they obey a change: how many streams each has closed by it.
    pub async fn gather_obeyed(&self, shared: Shared, revision: u64) -> Gathered<usize> {
        self.ask(&Question::Obeyed { shared, revision }).await
    }

    /// Takes a purged tenant's messages out of the own layout's stream, however often that has to be tried.
    pub(crate) async fn purge_source(&self, tenant: TenantId, stopping: &CancellationToken) {
        let Some(stream) = &self.options.own_stream else {
            return;
        };
        let subject = format!("$JS.API.STREAM.PURGE.{stream}");
        let body = serde_json::json!({ "filter": format!("tidings.{tenant}.>") }).to_string();
        let mut told = false;
        loop {
            let asking = self.client.request(subject.clone(), body.clone().into());
            let answered = tokio::select! {
                answered = asking => answered,
                () = stopping.cancelled() => return,
            };
            let problem = match answered {
                Ok(answer) => match purge_refused(&answer.payload) {
                    None => {
                        tracing::info!(target: "tidings::operate", tenant_id = %tenant, stream, "tenant_purged_from_stream");
                        return;
                    }
                    Some(problem) => problem,
                },
                Err(error) => error.to_string(),
            };
            if !told {
                told = true;
                tracing::warn!(
                    tenant_id = %tenant,
                    problem,
                    "a purged tenant can't be taken out of its stream in NATS yet; trying again"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Once it is known who was purged: what a node that ended too early has left in the stream. What is older
    /// than the stream's retention is gone in any case.
    async fn purge_sources(&self, app: &Arc<App>, stopping: &CancellationToken) {
        while self.unready().is_some() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
        let retention = i64::try_from(self.options.retention.as_micros()).unwrap_or(i64::MAX);
        let now = unix_microseconds(SystemTime::now());
        for (tenant, purge) in app.registry.purged().list() {
            if retention == 0 || now.saturating_sub(purge.at) <= retention {
                self.purge_source(tenant, stopping).await;
            }
        }
    }
}

/// What the broker has against a purge; `None` where it is done, or there is no such stream.
fn purge_refused(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        success: bool,
        error: Option<Refused>,
    }
    #[derive(Deserialize)]
    struct Refused {
        #[serde(default)]
        code: u64,
        #[serde(default)]
        description: String,
    }
    match serde_json::from_slice::<Answer>(answer) {
        Ok(
            Answer { success: true, .. }
            | Answer {
                error: Some(Refused { code: 404, .. }),
                ..
            },
        ) => None,
        Ok(Answer {
            error: Some(error), ..
        }) => Some(error.description),
        Ok(_) => Some("it was not done".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
