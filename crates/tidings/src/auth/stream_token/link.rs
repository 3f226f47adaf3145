//! The connection to Redis: one owner that makes it and watches it, and many who ask over it.
//!
//! It is there or away, and whoever asks knows at once which. While it is away nobody waits: the keeper alone tries
//! to connect, and everybody else is refused until it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use parking_lot::{Mutex, RwLock};
use tidings_log::Seldom;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Outage;
use super::connect::{Connection, Connector, bounded};
use super::record::{OWN_PREFIX, SHARED_PREFIX};
use crate::config::{RedisServers, RedisUrl};
use crate::time::unix_microseconds;

/// How many commands may wait for their answers at once. A server that answers does thousands in the time in which
/// these come together, so more of them mean that it does not.
const WAITING: usize = 8_192;

/// How often a connection that is there is tried, so that an outage is known before somebody runs into it.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long to wait after a connection could not be made: first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A connection that broke sooner than this counts as one that could not be made.
const STABLE: Duration = Duration::from_secs(1);

/// Gets a key and deletes it as one, where the server has no `GETDEL` (before 6.2).
const GETDEL_SCRIPT: &str = "local value = redis.call('GET', KEYS[1]) if value then redis.call('DEL', KEYS[1]) end return value";

/// Why a command was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Redis is away, or does not answer in time.
    Away,
    /// Redis answers, but refuses.
    Refused,
}

/// What everybody asks over.
pub(super) struct Link {
    /// Written by the keeper, and by whoever finds that the connection is broken.
    state: RwLock<State>,
    waiting: Semaphore,
    response_timeout: Duration,
    /// Wakes the keeper.
    suspicion: Notify,
    /// When something was answered last. One command can be late for our own sake, when all processors are busy;
    /// Redis is away when nothing has been answered for as long.
    answered: Mutex<Instant>,
    /// The server has no `GETDEL`.
    scripts: AtomicBool,
    /// Refusals are told now and then.
    complaints: Seldom,
    /// Where Redis is, for people.
    place: String,
    cluster: bool,
}

enum State {
    There {
        connection: Connection,
        /// Cancelled when the connection is given up; whoever waits for an answer of it stops then.
        gone: CancellationToken,
    },
    Away {
        reason: String,
        /// In microseconds since the Unix epoch.
        since: i64,
    },
}

impl Link {
    pub(super) fn new(url: &RedisUrl, response_timeout: Duration) -> Self {
        Self {
            state: RwLock::new(State::Away {
                reason: "not connected yet".to_owned(),
                since: unix_microseconds(SystemTime::now()),
            }),
            waiting: Semaphore::new(WAITING),
            response_timeout,
            suspicion: Notify::new(),
            answered: Mutex::new(Instant::now()),
            scripts: AtomicBool::new(false),
            complaints: Seldom::new(),
            place: url.servers.to_string(),
            cluster: matches!(url.servers, RedisServers::Cluster(_)),
        }
    }

    /// Why Redis is away, if it is.
    pub(super) fn away(&self) -> Option<Outage> {
        match &*self.state.read() {
            State::There { .. } => None,
            State::Away { reason, since } => Some(Outage {
                since: *since,
                reason: format!("Redis ({}) is away: {reason}", self.place),
            }),
        }
    }

    /// Sends a command and waits for its answer, at most `redis.response_timeout`.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Failure> {
        let (mut connection, gone) = match &*self.state.read() {
            State::There { connection, gone } => (connection.clone(), gone.clone()),
            State::Away { .. } => return Err(Failure::Away),
        };
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Failure::Away);
        };
        let answer = tokio::select! {
            biased;
            () = gone.cancelled() => return Err(Failure::Away),
            answer = bounded(self.response_timeout, connection.send(command)) => answer,
        };
        match answer {
            Ok(value) => {
                *self.answered.lock() = Instant::now();
                Ok(value)
            }
            Err(error) => Err(self.failed(&error, &gone)),
        }
    }

    /// Gets a key and deletes it, as one.
    pub(super) async fn get_and_delete(&self, key: &str) -> Result<Value, Failure> {
        self.ask(&self.get_and_delete_command(key)).await
    }

    fn get_and_delete_command(&self, key: &str) -> Cmd {
        if self.scripts.load(Ordering::Relaxed) {
            let mut command = ::redis::cmd("EVAL");
            command.arg(GETDEL_SCRIPT).arg(1).arg(key);
            command
        } else {
            let mut command = ::redis::cmd("GETDEL");
            command.arg(key);
            command
        }
    }

    fn failed(&self, error: &RedisError, gone: &CancellationToken) -> Failure {
        if !is_outage(error) {
            self.complain(error);
            return Failure::Refused;
        }
        if self.cluster || self.is_only_late(error) {
            // One node of many may be away, or none at all; the keeper finds out.
            self.suspicion.notify_one();
        } else {
            self.lost(gone, explained(error));
        }
        Failure::Away
    }

    /// Whether the error is a time-out while others are answered.
    fn is_only_late(&self, error: &RedisError) -> bool {
        error.is_timeout() && self.answered.lock().elapsed() < self.response_timeout
    }

    /// Gives the connection up that `gone` belongs to, unless that was done already.
    fn lost(&self, gone: &CancellationToken, reason: String) {
        if gone.is_cancelled() {
            return;
        }
        let mut state = self.state.write();
        if gone.is_cancelled() {
            return;
        }
        gone.cancel();
        tracing::warn!(redis = %self.place, reason, "redis_away");
        *state = State::Away {
            reason,
            since: unix_microseconds(SystemTime::now()),
        };
        drop(state);
        self.suspicion.notify_one();
    }

    /// Says now and then that Redis refuses. What it said in full can quote a key, and that a token.
    fn complain(&self, error: &RedisError) {
        if let Some(withheld) = self.complaints.turn() {
            let withheld = (withheld > 0).then_some(withheld);
            let code = error.code().unwrap_or("ERR");
            tracing::error!(redis = %self.place, code, withheld, "redis_refuses");
        }
    }
}

/// Whether the error is one of the connection or of what is behind it, not of the command.
fn is_outage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::Parse
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask,
        ) => true,
        _ => matches!(error.code(), Some("NOAUTH" | "MISCONF" | "NOREPLICAS")),
    }
}

/// An error of a connection or a probe, neither of which has anything secret in it, for people.
pub(super) fn explained(error: &RedisError) -> String {
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        error.to_string()
    }
}

/// Connects, watches the connection, and connects again.
pub struct LinkKeeper {
    link: Arc<Link>,
    connector: Connector,
    shared: bool,
}

impl std::fmt::Debug for LinkKeeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LinkKeeper")
            .field("place", &self.link.place)
            .finish_non_exhaustive()
    }
}

impl LinkKeeper {
    pub(super) fn new(link: Arc<Link>, connector: Connector, shared: bool) -> Self {
        Self {
            link,
            connector,
            shared,
        }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let (first, most) = BACKOFF;
        let mut backoff = first;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let gone = CancellationToken::new();
                    tracing::info!(redis = %self.link.place, "redis_connected");
                    *self.link.state.write() = State::There {
                        connection: connection.clone(),
                        gone: gone.clone(),
                    };
                    let since = Instant::now();
                    self.watch(connection, &gone).await;
                    if since.elapsed() >= STABLE {
                        backoff = first;
                        continue;
                    }
                }
                Err(error) => self.still_away(explained(&error)),
            }
            // Nodes that lost the same server come back one after the other.
            sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (2 * backoff).min(most);
        }
    }

    /// Says so once, and again when the reason is another.
    fn still_away(&self, reason: String) {
        let mut state = self.link.state.write();
        if let State::Away {
            reason: last,
            since,
        } = &*state
            && *last != reason
        {
            tracing::warn!(redis = %self.link.place, reason, "redis_away");
            *state = State::Away {
                reason,
                since: *since,
            };
        }
    }

    /// A connection over which everything that tokens need was tried.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        let mut connection = self.connector.connect().await?;
        self.link.scripts.store(false, Ordering::Relaxed);
        let key = format!("{OWN_PREFIX}probe");
        let mut set = ::redis::cmd("SET");
        set.arg(&key).arg("").arg("PX").arg(1_000);
        let mut get = ::redis::cmd("GET");
        get.arg(&key);
        for command in [set, get] {
            match self.try_out(&mut connection, &command).await {
                // A cluster's node may be away, and a server can be full: what is there can be taken.
                Err(error) if permanent(&error) => return Err(error),
                _ => {}
            }
        }
        self.probe(&mut connection).await?;
        Ok(connection)
    }

    /// Whether tokens can be taken: by taking one that does not exist, which only a master does, and only for one
    /// who may. In a cluster it is enough that one of a few keys can be taken.
    async fn probe(&self, connection: &mut Connection) -> RedisResult<()> {
        let own: &[&str] = match connection {
            Connection::Server(_) => &["probe"],
            Connection::Cluster(_) => &["probe", "probe-1", "probe-2", "probe-3"],
        };
        let mut outcome = Ok(());
        for name in own {
            outcome = self.take(connection, &format!("{OWN_PREFIX}{name}")).await;
            match &outcome {
                Err(error) if !permanent(error) => {}
                _ => break,
            }
        }
        outcome?;
        if self.shared
            && let Err(error) = self.take(connection, &format!("{SHARED_PREFIX}-")).await
            && permanent(&error)
        {
            return Err(error);
        }
        Ok(())
    }

    async fn take(&self, connection: &mut Connection, key: &str) -> RedisResult<()> {
        let taken = self
            .try_out(connection, &self.link.get_and_delete_command(key))
            .await;
        match taken {
            Err(error)
                if is_unknown_command(&error) && !self.link.scripts.load(Ordering::Relaxed) =>
            {
                tracing::info!(redis = %self.link.place, "this Redis has no GETDEL; a script does its work");
                self.link.scripts.store(true, Ordering::Relaxed);
                self.try_out(connection, &self.link.get_and_delete_command(key))
                    .await
            }
            outcome => outcome,
        }
    }

    async fn try_out(&self, connection: &mut Connection, command: &Cmd) -> RedisResult<()> {
        let answer = bounded(self.link.response_timeout, connection.send(command)).await;
        answer.map(drop)
    }

    /// Returns when the connection is gone.
    async fn watch(&self, mut connection: Connection, gone: &CancellationToken) {
        loop {
            tokio::select! {
                () = gone.cancelled() => return,
                () = sleep(PROBE_EVERY) => {}
                () = self.link.suspicion.notified() => sleep(BACKOFF.0).await,
            }
            if gone.is_cancelled() {
                return;
            }
            match self.probe(&mut connection).await {
                Ok(()) => *self.link.answered.lock() = Instant::now(),
                Err(error) if self.link.is_only_late(&error) => {}
                Err(error) => self.link.lost(gone, explained(&error)),
            }
        }
    }
}

/// Whether another try over the same connection would be refused as well.
fn permanent(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm)) || is_unknown_command(error)
}

fn is_unknown_command(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && error
            .detail()
            .is_some_and(|detail| detail.starts_with("unknown command"))
}
