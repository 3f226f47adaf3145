//! The server: its parts put together, its listeners, its end.

pub(crate) mod accept;
mod ending;
mod listeners;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tidings_log::{Log, LogOptions, OpenError, TenantOptions};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::AdminListener;
use crate::app::{App, HISTORY_READERS, STATE_READERS};
use crate::audit::Audit;
use crate::auth::{AccessTokens, LinkKeeper, PublisherKeys, StreamTokens};
use crate::broker::Broker;
use crate::cluster::{Cluster, ClusterOptions};
use crate::config::{Config, ConfigError, LogKind};
use crate::cursors::{Cursors, Losses, losses};
use crate::descriptors::Descriptors;
use crate::edge::{Edge, Tls};
use crate::engine::{EngineOptions, Engines};
use crate::fanout::{FanOut, Follower, Liveness, TypeTable, Window};
use crate::front::Front;
use crate::ingest::store::Store;
use crate::ingest::subject::Subjects;
use crate::limits::Limits;
use crate::metrics::{BrokerParts, Metrics};
use crate::mirror::{self, Copy, Mirror};
use crate::operate::groups::GroupChanges;
use crate::operate::tenants::{self, Purges};
use crate::operate::{keys, revoke};
use crate::registry::{Registry, RegistryError};
use crate::shutdown::Life;
use crate::state;
use crate::time::unix_microseconds;
use crate::traces::Traces;
use accept::Accepting;
pub use listeners::Listeners;
use listeners::Served;

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The log could not be opened.
    #[error("{0}")]
    Log(#[from] OpenError),
    /// The small durable facts beside the log can't be read.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// A purge that was cut off could not be taken up: its tenant would be shown again.
    #[error("a purge that was cut off can't be taken up: {0}")]
    Purge(String),
    /// An address could not be had.
    #[error("{key} = {address} can't be used: {source}")]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// What the service manager passes on is no socket to listen on.
    #[error("socket {number} of those that the service manager passes on can't be used: {source}")]
    Inherited {
        /// Its place among them, from 0.
        number: usize,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The log's folder can't hold a copy of what it is to hold.
    #[error("{0}")]
    Mirror(#[from] mirror::OpenError),
    /// The log's folder holds a copy.
    #[error("{0}")]
    Folder(#[from] mirror::MirrorError),
    /// The audit log can't be had.
    #[error("the audit log in {} can't be used: {source}", folder.display())]
    Audit {
        /// The log's folder.
        folder: std::path::PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A thread or epoll instance could not be had.
    #[error("the stream engine could not start: {0}")]
    Engine(io::Error),
}

/// A server that runs.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    /// Answers in a thread of its own, from the start to the very end.
    admin: AdminListener,
    /// The certificate that is served, which can be replaced.
    tls: Option<Arc<Tls>>,
    /// Connections and accept loops; closed and waited for at the end.
    tasks: TaskTracker,
    /// Copies the sources, where the log is a copy.
    mirror: Option<Mirror>,
    /// No new connections.
    refusing: CancellationToken,
    /// Connections end after the request that they are at.
    stopping: CancellationToken,
    /// What goes on with the other nodes.
    cluster_tasks: TaskTracker,
    /// Nothing more is heard from the other nodes, nor said to them.
    alone: CancellationToken,
}

impl Server {
    /// Opens the log, starts the engines and begins to accept. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// When a part can't start; what has started is stopped by dropping it.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, StartError> {
        config.require_jwt_key()?;
        let descriptors = Descriptors::raised();
        let access_tokens = AccessTokens::from_config(&config.auth)?;
        for warning in access_tokens.warnings() {
            tracing::warn!("{warning}");
        }
        let (stream_tokens, redis) = StreamTokens::from_config(&config)?;
        let tls = Tls::from_config(&config.tls)?.map(Arc::new);
        let served = Served::by(listeners.public, listeners.tls)?;
        let admin_listen = config.admin_listen;
        let address = served.address().unwrap_or(admin_listen);

        let broker = match config.log.kind {
            LogKind::Embedded => None,
            LogKind::JetStream => Some(Arc::new(Broker::connect(&config).await?)),
        };
        let broker_of = broker.as_deref();
        let (app, copy) = assemble(
            config,
            access_tokens,
            stream_tokens,
            broker_of,
            descriptors,
            address,
        )?;
        let app = Arc::new(app);
        let mirror = copy.zip(broker_of);
        let mirror = mirror.map(|(copy, broker)| copy_sources(&app, copy, broker));
        tenants::watch_unfinished(&app);
        let admin =
            AdminListener::start(listeners.admin, &app).map_err(|source| StartError::Listen {
                key: "admin_listen",
                address: admin_listen,
                source,
            })?;
        let server = Self {
            address,
            tls_address: served.tls.as_ref().map(|(_, address)| *address),
            admin,
            tls,
            tasks: TaskTracker::new(),
            mirror,
            refusing: CancellationToken::new(),
            stopping: CancellationToken::new(),
            cluster_tasks: TaskTracker::new(),
            alone: CancellationToken::new(),
            app,
        };
        server.begin(served, redis, broker);
        tracing::info!(
            %address,
            tls_address = server.tls_address.map(tracing::field::display),
            admin_address = %server.admin.address(),
            log = %server.app.config().log.path.display(),
            epoch = %server.app.log.epoch(),
            events = server.app.log.tail(),
            "listening"
        );
        Ok(server)
    }

    /// Starts what goes on until the end, and accepts connections.
    fn begin(&self, served: Served, redis: Option<LinkKeeper>, broker: Option<Arc<Broker>>) {
        if let Some(cluster) = &self.app.cluster {
            cluster.start(&self.app, &self.cluster_tasks, &self.alone);
        }
        if let Some(redis) = redis {
            // Until the very end: requests that are under way then may still need it.
            self.tasks.spawn(redis.run(self.stopping.clone()));
        }
        self.start_upkeep();
        if let Some(broker) = broker {
            broker.start(&self.app, &self.tasks, &self.refusing);
        }
        self.accept(served);
    }

    /// What goes on beside requests.
    fn start_upkeep(&self) {
        let app = &self.app;
        app.access_tokens.keep_up(&self.tasks, &self.stopping);
        let (shared, stopping) = (Arc::clone(app), self.stopping.clone());
        self.tasks.spawn(keys::keep_uses(shared, stopping));
        let (shared, stopping) = (Arc::clone(app), self.stopping.clone());
        self.tasks.spawn(revoke::sweep(shared, stopping));
        let (shared, stopping) = (Arc::clone(app), self.refusing.clone());
        self.tasks.spawn(state::ageing::run(shared, stopping));
    }

    /// Where the API is; where it is in the clear, if it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the API is over TLS.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The certificate that is served, where TLS is: [`Tls::reload`] reads it again.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Where health checks are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// What the handlers share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Begins to accept.
    fn accept(&self, served: Served) {
        let (app, config) = (&self.app, self.app.config());
        let front = Front::public(app);
        if let (Some((listener, _)), Some(tls)) = (served.tls, &self.tls) {
            let front = front.clone().over_tls(&config.tls);
            let edge = Edge::public(&config, Some(Arc::clone(tls)));
            self.accept_on(listener, front, edge);
            let watching = Arc::clone(tls).watch(self.refusing.clone());
            self.tasks.spawn(watching);
        }
        if let Some((listener, _)) = served.public {
            self.accept_on(listener, front, Edge::public(&config, None));
        }
    }

    fn accept_on(&self, listener: TcpListener, front: Front, edge: Edge) {
        let accepting = Accepting {
            app: Arc::clone(&self.app),
            front,
            edge,
            tasks: self.tasks.clone(),
            refusing: self.refusing.clone(),
            stopping: self.stopping.clone(),
            spares_descriptors: true,
        };
        self.tasks.spawn(accepting.run(listener));
    }
}

/// Puts the parts together, in the order in which data flows back: the log needs its listener, the
/// listener the window, the engines the log.
fn assemble(
    config: Config,
    access_tokens: AccessTokens,
    stream_tokens: StreamTokens,
    broker: Option<&Broker>,
    descriptors: Descriptors,
    address: SocketAddr,
) -> Result<(App, Option<Copy>), StartError> {
    let types = Arc::new(TypeTable::default());
    let window = Arc::new(Window::new(config.stream.window_bytes));
    let ids = Arc::new(OnceLock::new());
    let losses = Arc::new(Losses::default());
    let liveness = Arc::new(Liveness::default());
    let metrics = Metrics::new(&config);
    let listener = FanOut::new(
        Arc::clone(&window),
        Arc::clone(&types),
        Arc::clone(&ids),
        Arc::clone(&losses),
        Arc::clone(&liveness),
        Arc::clone(&metrics),
    );
    if broker.is_none() {
        mirror::refuse_mirror(&config.log.path)?;
    }
    let owner = format!("pid {}, listening on {address}", std::process::id());
    let log = Log::open(log_options(&config, owner), Box::new(listener))?;
    // The log's lock makes the folder this process's own.
    let registry = open_registry(&config, broker.is_some())?;
    tenants::take_up(&log, &registry).map_err(StartError::Purge)?;
    let access_tokens = access_tokens.obeying(Arc::clone(&registry));
    // Nothing is appended before these are set: publishes come in through listeners that are not
    // served yet.
    let copied = broker.map(|broker| broker.streams(&config));
    let copy = copied
        .map(|streams| Copy::open(&config.log.path, &log, &streams))
        .transpose()?;
    let cursors = cursors_of(&log, copy.as_ref(), &losses)?;
    let _ = ids.set(Arc::clone(cursors.ids()));
    window.start_at(log.tail());
    let known_types = config.known_types();
    for event_type in &known_types {
        types.number(event_type.as_str());
    }
    let engines = Engines::start(&engine_options(&config), &log, &cursors, &window, &types)
        .map_err(StartError::Engine)?;
    let engines = Arc::new(engines);
    liveness.follow(vec![Arc::clone(&engines) as Arc<dyn Follower>]);
    let store = match broker {
        Some(broker) => broker.store(),
        None => Store::Log(log.clone()),
    };
    let cluster = broker.map(|broker| join(broker, &config));
    let app = App {
        subjects: Subjects::new(&config.subjects),
        known_types,
        stream_tokens,
        publisher_keys: PublisherKeys::from_config(&config.auth.publishers)
            .and_those_of(Arc::clone(&registry)),
        audit: open_audit(&config)?,
        limits: Limits::new(&config),
        metrics,
        traces: Traces::from_config(&config)?,
        registry,
        cluster,
        operations: TaskTracker::new(),
        group_changes: GroupChanges::default(),
        purges: Purges::default(),
        history_readers: Semaphore::new(HISTORY_READERS),
        opening_readers: Semaphore::new(HISTORY_READERS),
        state_readers: Semaphore::new(STATE_READERS),
        started_at: unix_microseconds(SystemTime::now()),
        life: Life::default(),
        descriptors,
        running_config: ArcSwap::from_pointee(config),
        log,
        store,
        liveness,
        cursors,
        window,
        types,
        engines,
        access_tokens,
    };
    Ok((app, copy))
}

/// What clients see of the log's positions.
fn cursors_of(
    log: &Log,
    copy: Option<&Copy>,
    losses: &Arc<Losses>,
) -> Result<Arc<Cursors>, mirror::OpenError> {
    let Some(copy) = copy else {
        return Ok(Arc::new(Cursors::of_log(log)));
    };
    losses.load(log)?;
    let cursors = Cursors::of_mirror(log, copy.sources(), losses);
    Ok(Arc::new(cursors))
}

/// Goes on copying the sources, and lets whoever scrapes see how that goes.
fn copy_sources(app: &App, copy: Copy, broker: &Broker) -> Mirror {
    let (streams, reach) = (broker.streams(&app.config()), broker.reach(&app.config()));
    let mirror = Mirror::start(copy, streams, reach, &app.cursors, &app.liveness);
    let parts = BrokerParts {
        nats: broker.nats().clone(),
        sources: mirror.counters().clone(),
    };
    // The mirror is started once.
    let _ = app.metrics.broker.set(parts);
    mirror
}

/// The registry beside the log; of several nodes each has a copy of what is true in NATS.
fn open_registry(config: &Config, is_copy: bool) -> Result<Arc<Registry>, RegistryError> {
    let registry = Registry::open(&config.log.path, config.auth.revocations_kept)?;
    Ok(Arc::new(if is_copy {
        registry.into_copy()
    } else {
        registry
    }))
}

/// The audit log beside the log.
fn open_audit(config: &Config) -> Result<Audit, StartError> {
    if !config.audit.enabled {
        return Ok(Audit::none());
    }
    let (folder, most) = (&config.log.path, config.audit.max_bytes as u64);
    Audit::start(folder, most, &config.node_name()).map_err(|source| StartError::Audit {
        folder: folder.clone(),
        source,
    })
}

/// This node among those that share the broker.
fn join(broker: &Broker, config: &Config) -> Arc<Cluster> {
    let client = broker.nats().client().clone();
    Arc::new(Cluster::new(client, ClusterOptions::from_config(config)))
}

/// How the log of a configuration is kept, by whom.
pub(crate) fn log_options(config: &Config, owner: String) -> LogOptions {
    LogOptions {
        retention: config.log.retention,
        max_bytes: config.log.max_bytes,
        tenant_max_bytes: config.log.tenant_max_bytes,
        tenants: config
            .tenants
            .iter()
            .map(|(tenant, own)| {
                let options = TenantOptions {
                    retention: own.retention,
                    max_bytes: own.max_bytes,
                };
                (*tenant, options)
            })
            .collect(),
        state_subjects_per_kind: config.limits.subjects_per_type,
        state_max_age: config
            .subjects
            .iter()
            .filter_map(|rule| Some((rule.kind.to_string(), rule.max_age?)))
            .collect(),
        state_doubt: Some(losses::doubt()),
        owner,
        ..LogOptions::new(&config.log.path)
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        threads: std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(16),
        heartbeat: config.stream.heartbeat,
        stall_timeout: config.stream.stall_timeout,
        retry: config.stream.retry,
        send_buffer: config.stream.send_buffer,
        ended_streams: config.stream.ended_streams,
    }
}
