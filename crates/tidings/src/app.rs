//! What the handlers share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tidings_log::{Health, Log};
use tidings_protocol::{EventType, Position, TenantId};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::auth::{AccessTokenError, AccessTokens, Identity, PublisherKeys, StreamTokens};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::cursors::{CursorText, Cursors};
use crate::descriptors::Descriptors;
use crate::engine::Engines;
use crate::error::Refusal;
use crate::fanout::{Liveness, Rules, TypeTable, ViewRequest, Window};
use crate::ingest::store::Store;
use crate::ingest::subject::Subjects;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::operate::groups::GroupChanges;
use crate::operate::tenants::Purges;
use crate::registry::{DeviceGroup, Registry};
use crate::shutdown::Life;
use crate::time::unix_seconds;
use crate::traces::{Traced, Traces};

/// How many pages of the history are read at once.
pub const HISTORY_READERS: usize = 4;

/// How many requests wait for the state at once, each on a thread.
pub const STATE_READERS: usize = 16;

/// The server's parts, each of which looks after its own state.
pub struct App {
    /// What [`App::config`] gives; another one after a reload.
    pub(crate) running_config: ArcSwap<Config>,
    /// The event types that there are here.
    pub known_types: Vec<EventType>,
    /// What their events are the latest state of.
    pub subjects: Subjects,
    /// The log.
    pub log: Log,
    /// Where what is published goes.
    pub store: Store,
    /// Whether what streams are shown is live.
    pub liveness: Arc<Liveness>,
    /// What clients see of positions in it.
    pub cursors: Arc<Cursors>,
    /// Its newest part, encoded.
    pub window: Arc<Window>,
    /// Event types as numbers.
    pub types: Arc<TypeTable>,
    /// The open streams.
    pub engines: Arc<Engines>,
    /// Verifies access tokens.
    pub access_tokens: AccessTokens,
    /// Stream tokens that were not used yet.
    pub stream_tokens: StreamTokens,
    /// API keys of publishers.
    pub publisher_keys: PublisherKeys,
    /// Purged tenants and device groups.
    pub registry: Arc<Registry>,
    /// This node among others, where there are others.
    pub cluster: Option<Arc<Cluster>>,
    /// Changes of device groups that are under way.
    pub group_changes: GroupChanges,
    /// Operators' changes that have begun; they go on when their caller leaves.
    pub operations: TaskTracker,
    /// Purges of tenants that are under way.
    pub purges: Purges,
    /// Who did what.
    pub audit: Audit,
    /// Counts and rates.
    pub limits: Limits,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// Traces of requests, where they are wanted.
    pub traces: Option<Traces>,
    /// Permits to read pages of the history.
    pub history_readers: Semaphore,
    /// Permits to read where a stream begins: nobody who opens one waits for those who read the history.
    pub opening_readers: Semaphore,
    /// Permits to wait for the state.
    pub state_readers: Semaphore,
    /// When the process came to this point of its start, in microseconds since the Unix epoch.
    pub started_at: i64,
    /// How far it is on its way out.
    pub life: Life,
    /// How many more connections there is room for.
    pub descriptors: Descriptors,
}

impl App {
    /// The resolved configuration as it is now. Whoever needs several of its values for one decision asks once: a
    /// reload can come between two questions.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.running_config.load_full()
    }

    /// The span of a request that came at `since`; nothing where requests are not traced.
    #[must_use]
    pub fn traced(
        &self,
        name: &'static str,
        headers: &HeaderMap,
        since: Option<SystemTime>,
    ) -> Traced {
        match (&self.traces, since) {
            (Some(traces), Some(since)) => traces.begin(name, headers, since),
            _ => Traced::default(),
        }
    }

    /// The time at which a request comes, where that is to be known.
    #[must_use]
    pub fn arrival(&self) -> Option<SystemTime> {
        self.traces.is_some().then(SystemTime::now)
    }

    /// The cursor of a position of the log.
    #[must_use]
    pub fn cursor(&self, position: Position) -> CursorText {
        self.cursors.text(position)
    }

    /// Who shows this access token. One that is refused counts against its address.
    ///
    /// # Errors
    ///
    /// 401, or 503 where the keys of its issuer can't be had.
    pub async fn authenticate(&self, token: &str, address: IpAddr) -> Result<Identity, Refusal> {
        let now = unix_seconds(SystemTime::now());
        let identity = self.access_tokens.authenticate(token, now).await;
        identity.map_err(|error| {
            // That an issuer can't be asked says nothing of who asks here.
            if error != AccessTokenError::KeysUnavailable {
                self.limits.failure_recorded(address);
            }
            error.into()
        })
    }

    /// The members of the device group that an identity names, where `tenant` is shown. `None` where it
    /// names none or one that the tenant does not have; all tenants together have none.
    #[must_use]
    pub fn group_of(&self, identity: &Identity, tenant: Option<TenantId>) -> Option<DeviceGroup> {
        let name = identity.device_group.as_deref()?;
        self.registry.groups().get(tenant?, name)
    }

    /// What bounds the view of `identity` on `tenant` (`None`: on all), narrowed by what is asked for.
    /// Every path that shows events gets its view here.
    ///
    /// The caller has checked that the identity may watch the tenant, or all of them.
    ///
    /// # Errors
    ///
    /// 410 for a tenant that was purged.
    pub fn rules(
        &self,
        identity: Arc<Identity>,
        tenant: Option<TenantId>,
        asked: ViewRequest,
    ) -> Result<Rules, Refusal> {
        if let Some(tenant) = tenant {
            self.check_living(tenant)?;
        }
        let group = self.group_of(&identity, tenant);
        Ok(Rules::new(identity, tenant, group, asked))
    }

    /// Refuses a tenant that was purged. Asked after who calls is known and may know of the tenant.
    ///
    /// # Errors
    ///
    /// 410.
    pub fn check_living(&self, tenant: TenantId) -> Result<(), Refusal> {
        if self.registry.purged().contains(tenant) {
            Err(Refusal::gone())
        } else {
            Ok(())
        }
    }

    /// Why nobody can be served at all yet: others know who was shut out, and this node has not heard it.
    #[must_use]
    pub fn uninformed(&self) -> Option<&'static str> {
        self.cluster.as_ref()?.unready()
    }

    /// Whether this node is still copying what its sources retained when it started.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        let sources = self.cursors.sources();
        sources.is_some_and(|sources| !sources.is_complete())
    }

    /// Why the server can do nothing with the log now, if it can't.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        if let Some(reason) = self.uninformed() {
            return Some(reason.to_owned());
        }
        if self.is_copying() {
            return Some("this node is still copying its sources".to_owned());
        }
        match self.log.health() {
            Health::Failed { reason, .. } => {
                tracing::debug!(reason, "not ready");
                Some("the log has stopped after a failed write; restart the server".to_owned())
            }
            // With a full disk streams are read as before; they are told that nothing new comes.
            Health::Healthy | Health::Full { .. } => None,
        }
    }

    /// Refuses streams where none opens any more, and all that [`check_serving`](Self::check_serving) refuses.
    ///
    /// # Errors
    ///
    /// 503.
    pub fn check_opening(&self) -> Result<(), Refusal> {
        if self.life.is_draining() {
            let detail = "the server is stopping, and its streams go elsewhere";
            return Err(Refusal::unavailable(detail, Duration::from_secs(2)));
        }
        self.check_serving()
    }

    /// Refuses what this server can't do now.
    ///
    /// # Errors
    ///
    /// 503.
    pub fn check_serving(&self) -> Result<(), Refusal> {
        match self.unready() {
            None => Ok(()),
            Some(reason) => Err(Refusal::unavailable(reason, Duration::from_secs(2))),
        }
    }
}
