//! What a mirror knows of its sources. The mirror writes it, who resolves cursors reads it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_protocol::{Cursor, Epoch};
use tokio::sync::watch;

use crate::jetstream::api;
use crate::nats::Nats;

/// How long a broker that is asked how far a source reaches may take.
const ANSWER: Duration = Duration::from_secs(2);

/// For how long a source must say that a place is not to be had. A server that was frozen while another became the
/// stream's leader says so for a moment when it goes on, and believes it.
const CERTAIN: Duration = Duration::from_secs(15);

/// After how long it counts as said for the first time again.
const FORGOTTEN: Duration = Duration::from_mins(2);

/// How a node stands with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which stream of its name is being copied: nanoseconds since the Unix epoch at which it was created; 0 while
    /// there is none.
    pub incarnation: u64,
    /// Which incarnation of the source is being copied; 0 while there is none.
    pub epoch: Epoch,
    /// The first position of it that was copied, or will be: what came before was gone when this node began.
    pub first: u64,
    /// Everything of it up to here that concerns anybody is in the log.
    pub copied: u64,
    /// The last position that the source is known to have.
    pub last: u64,
    /// The source is followed, as far as is known.
    pub current: bool,
}

/// What a source is, asked just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which stream of its name it is.
    pub incarnation: u64,
    /// The last position that it has.
    pub last: u64,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            incarnation: 0,
            epoch: Epoch(0),
            first: 1,
            copied: 0,
            last: 0,
            current: false,
        }
    }
}

impl Standing {
    /// Whether the log holds everything of the source up to a place, as far as it was ever to be had.
    #[must_use]
    pub fn covers(&self, place: Cursor) -> bool {
        self.epoch > place.epoch
            || (self.epoch == place.epoch && self.copied >= place.position)
            || place.position == 0
    }
}

/// The sources of a mirror, in their configured order.
#[derive(Debug)]
pub struct Sources {
    names: Box<[String]>,
    standings: watch::Sender<Vec<Standing>>,
    complete: AtomicBool,
    /// Whom to ask, since the mirror was started.
    nats: OnceLock<Nats>,
    /// Since when each source says that something is not to be had which was asked for.
    denied: Mutex<Vec<Option<Instant>>>,
}

impl Sources {
    /// Sources of which nothing is known yet.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: Box<[String]> = names.into_iter().collect();
        let standings = vec![Standing::default(); names.len()];
        Self {
            denied: Mutex::new(vec![None; names.len()]),
            names,
            standings: watch::Sender::new(standings),
            complete: AtomicBool::new(false),
            nats: OnceLock::new(),
        }
    }

    /// Says where the sources are.
    pub fn are_at(&self, nats: &Nats) {
        let _ = self.nats.set(nats.clone());
    }

    /// Takes down whether a source says at `now` that a place is not to be had; whether it has said so long enough
    /// to be believed.
    pub fn is_believed(&self, source: usize, denies: bool, now: Instant) -> bool {
        let mut denied = self.denied.lock();
        let since = &mut denied[source];
        let age = since.map(|since| now.saturating_duration_since(since));
        if let Some(age) = age.filter(|age| denies && *age < FORGOTTEN) {
            return age >= CERTAIN;
        }
        *since = denies.then_some(now);
        false
    }

    /// Asks what the sources are that have not been copied up to these places; `None` where none was to be asked,
    /// or there is no answer.
    pub async fn ask(&self, places: &[Cursor]) -> Vec<Option<Asked>> {
        let standings = self.standings();
        let mut answers = Vec::with_capacity(places.len());
        for ((standing, place), name) in standings.iter().zip(places).zip(self.names()) {
            let nats = self.nats.get().filter(|nats| nats.is_connected());
            let answer = match nats {
                Some(nats) if !standing.covers(*place) => {
                    let asking = api::stream_info(nats.client(), name);
                    tokio::time::timeout(ANSWER, asking).await.ok()
                }
                _ => None,
            };
            answers.push(answer.and_then(Result::ok).map(|info| Asked {
                incarnation: info.incarnation,
                last: info.last_sequence,
            }));
        }
        answers
    }

    /// What they are called.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// How the node stands with each.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        self.standings.borrow().clone()
    }

    /// Changes what is known of one.
    pub fn update(&self, source: usize, change: impl FnOnce(&mut Standing)) {
        self.standings
            .send_modify(|standings| change(&mut standings[source]));
    }

    /// Whether everything that they had was copied once. Before, streams would miss what is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Says that everything was copied; whether that is news.
    pub fn set_complete(&self) -> bool {
        !self.complete.swap(true, Ordering::AcqRel)
    }

    /// Waits until a source was met; what cursors call it then.
    pub async fn met(&self, source: usize) -> Epoch {
        let mut changes = self.standings.subscribe();
        let met = changes.wait_for(|standings| standings[source].epoch > Epoch(0));
        // It can't end: the sender is `self`.
        met.await
            .map_or(Epoch(0), |standings| standings[source].epoch)
    }

    /// Waits until the log covers these places, of which there is one for each source.
    pub async fn wait_for(&self, places: &[Cursor]) {
        let mut changes = self.standings.subscribe();
        let covered = changes.wait_for(|standings| {
            let mut both = standings.iter().zip(places);
            both.all(|(standing, place)| standing.covers(*place))
        });
        // It can't end: the sender is `self`.
        let _ = covered.await;
    }
}
