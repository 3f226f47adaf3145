//! The keys of one issuer, kept up to date by a task of its own.
//!
//! They are fetched every `refresh`, and at once where a token names a key that is not known, but for that at most once
//! in `unknown_key_interval`, however many such tokens come. Where they can't be fetched, those of the last time stay
//! good for `keep`. Whoever verifies never waits for the network, but for a key that is not known.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::Uri;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::super::verified::VerifiedTokens;
use super::super::verifying_key::VerifyingKey;
use super::fetch::{Fetcher, MOST_BYTES};
use super::set::{self, KeySet};
use crate::auth::Outage;
use crate::config::{ConfigError, JwksConfig};
use crate::time::unix_microseconds;

/// How long the first pause behind a failure is; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How many requests may wait for a key at once; further ones are answered at once.
const MOST_WAITING: usize = 1_024;

/// What makes a source the one that it is: the same is kept over a reload of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct SourceOptions {
    /// The setting that names it.
    pub(in super::super) setting: String,
    /// Where it is.
    pub(in super::super) place: Place,
    /// The algorithms that are accepted; none for the usual ones.
    pub(in super::super) algorithms: Vec<Algorithm>,
    refresh: Duration,
    interval: Duration,
    keep: Duration,
    timeout: Duration,
    ca_file: Option<PathBuf>,
    allow_http: bool,
}

/// Where a JWKS is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Place {
    File(PathBuf),
    Url(Uri),
}

impl SourceOptions {
    /// The JWKS of an issuer whose settings begin with `prefix`; `None` where it has none.
    pub(in super::super) fn new(
        prefix: &str,
        file: Option<&PathBuf>,
        url: Option<&Uri>,
        algorithms: &[Algorithm],
        config: &JwksConfig,
    ) -> Option<Self> {
        let (setting, place) = match (file, url) {
            (Some(path), _) => ("jwks_file", Place::File(path.clone())),
            (None, Some(url)) => ("jwks_url", Place::Url(url.clone())),
            (None, None) => return None,
        };
        Some(Self {
            setting: format!("{prefix}.{setting}"),
            place,
            algorithms: algorithms.to_vec(),
            refresh: config.refresh,
            interval: config.unknown_key_interval,
            keep: config.keep,
            timeout: config.timeout,
            ca_file: config.ca_file.clone(),
            allow_http: config.allow_http,
        })
    }
}

/// What an operator may know of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// The setting that names it, such as `auth.jwt.jwks_url`.
    pub setting: String,
    /// How many keys are known.
    pub keys: usize,
    /// How long ago they were last found to be what they are.
    pub age: Option<Duration>,
    /// Why they can't be used, where they can't.
    pub away: Option<Outage>,
    /// How often they were fetched, with whatever end.
    pub fetches: u64,
    /// How often that failed.
    pub failures: u64,
}

/// The keys of one issuer. Dropping it ends its task.
pub(in super::super) struct JwksSource {
    kept: Arc<Kept>,
    started: AtomicBool,
    _ends: DropGuard,
}

struct Kept {
    options: SourceOptions,
    fetcher: Option<Fetcher>,
    /// What was verified with keys that are gone is not remembered.
    verified: Arc<VerifiedTokens>,
    known: Mutex<Known>,
    /// The task is to fetch at once.
    wake: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    ending: CancellationToken,
    failures: AtomicU64,
    /// When it began to be kept, in microseconds since the Unix epoch.
    made_at: i64,
}

struct Known {
    keys: Arc<[VerifyingKey]>,
    /// What they were read from.
    text: Vec<u8>,
    /// When that was last found to be so.
    good_at: Option<Instant>,
    /// The last fetch failed.
    failed: bool,
    /// One is under way, or about to be.
    fetching: bool,
    /// When an unknown key last had them fetched.
    asked_at: Option<Instant>,
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JwksSource")
            .field("setting", &self.kept.options.setting)
            .finish_non_exhaustive()
    }
}

impl JwksSource {
    /// A source whose keys are fetched once it is [started](Self::start). A file is read here.
    ///
    /// # Errors
    ///
    /// The file holds no usable key, or certificates can't be read.
    pub(in super::super) fn new(
        options: SourceOptions,
        verified: &Arc<VerifiedTokens>,
    ) -> Result<Self, ConfigError> {
        let wrong = |problem: String| ConfigError::new(options.setting.clone(), problem);
        let fetcher = match &options.place {
            Place::File(_) => None,
            Place::Url(url) => Some(
                Fetcher::new(url, options.ca_file.as_deref(), options.allow_http).map_err(wrong)?,
            ),
        };
        let mut known = Known {
            keys: Arc::from([]),
            text: Vec::new(),
            good_at: None,
            failed: false,
            fetching: fetcher.is_some(),
            asked_at: None,
        };
        if let Place::File(path) = &options.place {
            let of_file = |what: String| wrong(format!("{}: {what}", path.display()));
            let text = std::fs::read(path)
                .map_err(|error| of_file(format!("the file can't be read: {error}")))?;
            let KeySet { keys, left_out } =
                set::read(&text, &options.algorithms).map_err(of_file)?;
            if keys.is_empty() {
                let why = left_out.join(", ");
                return Err(of_file(format!("there is no usable key in it: {why}")));
            }
            known.keys = keys.into();
            known.text = text;
            known.good_at = Some(Instant::now());
        }
        let ending = CancellationToken::new();
        Ok(Self {
            kept: Arc::new(Kept {
                options,
                fetcher,
                verified: Arc::clone(verified),
                known: Mutex::new(known),
                wake: Notify::new(),
                ended: watch::channel(0).0,
                waiting: Semaphore::new(MOST_WAITING),
                ending: ending.clone(),
                failures: AtomicU64::new(0),
                made_at: unix_microseconds(SystemTime::now()),
            }),
            started: AtomicBool::new(false),
            _ends: ending.drop_guard(),
        })
    }

    /// Keeps the keys up to date from now on. Within a Tokio runtime.
    pub(in super::super) fn start(&self, tasks: &TaskTracker, stopping: &CancellationToken) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (kept, stopping) = (Arc::clone(&self.kept), stopping.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = kept.keep_up() => {}
                () = kept.ending.cancelled() => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// What makes it the one that it is.
    pub(in super::super) fn options(&self) -> &SourceOptions {
        &self.kept.options
    }

    /// The keys; `None` where there are none that can be relied on.
    pub(in super::super) fn keys(&self) -> Option<Arc<[VerifyingKey]>> {
        let known = self.kept.known.lock();
        let good_at = known.good_at?;
        (good_at.elapsed() < self.kept.options.keep).then(|| Arc::clone(&known.keys))
    }

    /// Whether there are keys, and too old ones.
    pub(in super::super) fn is_stale(&self) -> bool {
        let good_at = self.kept.known.lock().good_at;
        good_at.is_some_and(|at| at.elapsed() >= self.kept.options.keep)
    }

    /// Whether the issuer could not be asked the last time, so that what is not known may exist all the same.
    pub(in super::super) fn is_away(&self) -> bool {
        self.kept.known.lock().failed
    }

    /// Has the keys fetched for a key that is not known, and waits for that; false where it is too early, or too
    /// many wait already.
    pub(in super::super) async fn ask(&self) -> bool {
        let Ok(_permit) = self.kept.waiting.try_acquire() else {
            return false;
        };
        if !self.started.load(Ordering::Relaxed) {
            return false;
        }
        let mut ended = self.kept.ended.subscribe();
        {
            let mut known = self.kept.known.lock();
            if !known.fetching {
                let now = Instant::now();
                let early = |at: Instant| now - at < self.kept.options.interval;
                if known.asked_at.is_some_and(early) {
                    return false;
                }
                known.asked_at = Some(now);
                known.fetching = true;
                self.kept.wake.notify_one();
            }
        }
        // A task that is ending fetches nothing more.
        let patience = 2 * self.kept.options.timeout;
        tokio::time::timeout(patience, ended.changed())
            .await
            .is_ok_and(|ended| ended.is_ok())
    }

    /// What an operator may know.
    pub(in super::super) fn status(&self) -> SourceStatus {
        let keys = self.keys();
        let setting = self.kept.options.setting.clone();
        let good_at = self.kept.known.lock().good_at;
        let away = match (&keys, good_at) {
            (Some(_), _) => None,
            (None, None) => Some(Outage {
                since: self.kept.made_at,
                reason: format!(
                    "the keys of {setting} have not been fetched yet, so access tokens can't be verified"
                ),
            }),
            (None, Some(at)) => {
                let over = at.elapsed().saturating_sub(self.kept.options.keep);
                Some(Outage {
                    since: unix_microseconds(SystemTime::now() - over),
                    reason: format!(
                        "the keys of {setting} could not be fetched for longer than auth.jwks.keep"
                    ),
                })
            }
        };
        SourceStatus {
            keys: keys.map_or(0, |keys| keys.len()),
            age: good_at.map(|at| at.elapsed()),
            away,
            fetches: *self.kept.ended.borrow(),
            failures: self.kept.failures.load(Ordering::Relaxed),
            setting,
        }
    }
}

impl Kept {
    async fn keep_up(&self) {
        let mut failures = 0;
        // A file was read a moment ago.
        let mut pause = match self.options.place {
            Place::File(_) => self.jittered(),
            Place::Url(_) => Duration::ZERO,
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
            self.known.lock().fetching = true;
            match self.fetch().await {
                Ok((text, set)) => {
                    failures = 0;
                    self.take_over(text, set);
                    pause = self.jittered();
                }
                Err(what) => {
                    self.failed(failures, &what);
                    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(10));
                    failures = failures.saturating_add(1);
                    pause = doubled.min(LONGEST_PAUSE).min(self.options.refresh);
                }
            }
            self.ended.send_modify(|ended| *ended += 1);
        }
    }

    /// Many servers must not ask at the same moment for ever.
    fn jittered(&self) -> Duration {
        self.options.refresh.mul_f64(0.9 + 0.1 * fastrand::f64())
    }

    async fn fetch(&self) -> Result<(Vec<u8>, KeySet), String> {
        let reading = async {
            match (&self.fetcher, &self.options.place) {
                (Some(fetcher), _) => fetcher.fetch().await.map(|bytes| bytes.to_vec()),
                (None, Place::File(path)) => read_file(path)
                    .await
                    .map_err(|error| format!("{}: {error}", path.display())),
                (None, Place::Url(_)) => Err("there is nothing to fetch it with".to_owned()),
            }
        };
        let read = tokio::time::timeout(self.options.timeout, reading).await;
        let text =
            read.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.options.timeout)))?;
        let set = set::read(&text, &self.options.algorithms)?;
        Ok((text, set))
    }

    /// A set that is well-formed is obeyed, also where no key in it is usable: that is how an issuer withdraws one.
    fn take_over(&self, text: Vec<u8>, set: KeySet) {
        let mut known = self.known.lock();
        known.fetching = false;
        known.good_at = Some(Instant::now());
        let was_away = std::mem::take(&mut known.failed);
        let setting = &self.options.setting;
        if known.text == text {
            if was_away {
                tracing::info!(target: "tidings::auth", setting, "issuer_keys_back");
            }
            return;
        }
        known.text = text;
        known.keys = set.keys.into();
        let keys = known.keys.len();
        // Before it is seen that the keys are others; what is verified with the old ones meanwhile is not kept.
        self.verified.forget();
        drop(known);
        let left_out = set.left_out.join(", ");
        if keys == 0 {
            tracing::warn!(target: "tidings::auth", setting, left_out, "the issuer publishes no usable key");
        } else {
            tracing::info!(target: "tidings::auth", setting, keys, left_out, "issuer_keys");
        }
    }

    fn failed(&self, failures: u32, what: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut known = self.known.lock();
        known.fetching = false;
        known.failed = true;
        drop(known);
        let setting = &self.options.setting;
        if failures == 0 {
            tracing::warn!(target: "tidings::auth", setting, what, "an issuer's keys can't be fetched");
        } else {
            tracing::debug!(target: "tidings::auth", setting, what, "issuer_keys_not_fetched");
        }
    }
}

async fn read_file(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(MOST_BYTES as u64).read_to_end(&mut text).await?;
    Ok(text)
}
