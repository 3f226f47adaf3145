//! The task that publishes.
//!
//! [`sending`] is what goes out, [`answers`] what comes back.

mod answers;
mod sending;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use tidings_protocol::TenantId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::bodies::Bodies;
use super::body::{Body, Failure, Fate, Submission};
use super::flight::Flights;
use crate::jetstream::api::ApiError;
use crate::nats::Nats;
use crate::nats::single::SingleConnection;

/// After how long a body is answered, whatever is known then. Electing a leader takes up to 10 s.
const DEADLINE: Duration = Duration::from_secs(15);

/// After how long without an acknowledgement nothing more is sent. Less than a new leader takes, so that
/// what was sent to an old one is never followed by something that a new one takes.
const OVERDUE: Duration = Duration::from_secs(1);

/// How long it is then waited for what was sent.
const SETTLING: Duration = Duration::from_secs(2);

/// Pauses between attempts to connect, and to send again what is refused for now.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// After how long without a connection bodies are answered at once.
const DOWN: Duration = Duration::from_secs(5);

/// How often clocks are looked at while something is under way.
const TICK: Duration = Duration::from_millis(50);

/// How many messages are sent before acknowledgements are looked at again.
const TURN: usize = 256;

/// How many duplicates are compared at once.
const CHECKS: usize = 32;

/// A connection of its own, and what is answered on it.
struct Link {
    connection: SingleConnection,
    inbox: String,
    answers: Subscriber,
}

enum Connecting {
    /// Not before.
    At(Instant),
    Now(JoinHandle<Result<Link, String>>),
    Done(Box<Link>),
}

/// How messages are sent.
#[derive(Clone, Copy)]
enum Mode {
    /// One behind the other, without waiting.
    Flowing,
    /// Not at all: until then it is waited for what was sent.
    Settling { until: Instant },
    /// Those in the lanes, one at a time of each tenant, and not before.
    Careful { not_before: Instant },
}

/// A tenant's events that are sent again. The first one stays until it is stored.
struct Lane {
    events: VecDeque<(u64, usize)>,
    /// The first of them is on its way.
    is_sent: bool,
}

/// A duplicate that was compared: body, index, and whether it is another event.
type Compared = (u64, usize, Result<bool, ApiError>);

pub(super) struct Worker {
    nats: Nats,
    stream: String,
    submissions: mpsc::Receiver<Submission>,
    connecting: Connecting,
    pause: Duration,
    bodies: Bodies,
    flights: Flights,
    mode: Mode,
    /// What was lost and is to be stored before anything new.
    lanes: HashMap<TenantId, Lane>,
    /// Events that were refused for now, of those on their way.
    refused: HashSet<(u64, usize)>,
    /// The highest sequence that was acknowledged.
    highest: u64,
    checks: JoinSet<Compared>,
    permits: Arc<Semaphore>,
    /// Since when there is no connection.
    down_since: Option<Instant>,
    /// What went wrong last, for those who are answered with it.
    trouble: String,
}

enum Wake {
    Stop,
    Submission(Option<Submission>),
    Answer(Option<Message>),
    Lost,
    Connected(Result<Link, String>),
    Compared(Compared),
    Tick,
}

impl Worker {
    pub(super) fn new(nats: Nats, stream: String, submissions: mpsc::Receiver<Submission>) -> Self {
        Self {
            nats,
            stream,
            submissions,
            connecting: Connecting::At(Instant::now()),
            pause: PAUSES.0,
            bodies: Bodies::default(),
            flights: Flights::default(),
            mode: Mode::Flowing,
            lanes: HashMap::new(),
            refused: HashSet::new(),
            highest: 0,
            checks: JoinSet::new(),
            permits: Arc::new(Semaphore::new(CHECKS)),
            down_since: Some(Instant::now()),
            trouble: "NATS is not connected yet".to_owned(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.wake(&stop, &mut ticks).await {
                Wake::Stop | Wake::Submission(None) => return,
                Wake::Submission(Some(submission)) => self.admit(submission),
                Wake::Answer(Some(answer)) => {
                    self.take_answer(&answer);
                    self.take_answers_at_hand();
                }
                Wake::Answer(None) | Wake::Lost => self.lose_link(),
                Wake::Connected(Ok(link)) => {
                    self.pause = PAUSES.0;
                    self.down_since = None;
                    self.connecting = Connecting::Done(Box::new(link));
                }
                Wake::Connected(Err(reason)) => {
                    self.trouble = reason;
                    self.connecting = Connecting::At(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(PAUSES.1);
                }
                Wake::Compared(compared) => self.take_compared(compared),
                Wake::Tick => {}
            }
            self.look_at_clocks();
            self.send().await;
        }
    }

    async fn wake(&mut self, stop: &CancellationToken, ticks: &mut tokio::time::Interval) -> Wake {
        let is_busy = !self.bodies.is_empty() || matches!(self.connecting, Connecting::At(_));
        let can_flow = self.can_flow();
        let link = async {
            match &mut self.connecting {
                Connecting::At(_) => std::future::pending().await,
                Connecting::Now(task) => Wake::Connected(match task.await {
                    Ok(outcome) => outcome,
                    Err(_) => Err("connecting has panicked".to_owned()),
                }),
                Connecting::Done(link) => tokio::select! {
                    biased;
                    answer = link.answers.next() => Wake::Answer(answer),
                    () = link.connection.lost() => Wake::Lost,
                },
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            wake = link => wake,
            Some(compared) = self.checks.join_next() => match compared {
                Ok(compared) => Wake::Compared(compared),
                // Its body is answered at its deadline.
                Err(_) => Wake::Tick,
            },
            submission = self.submissions.recv() => Wake::Submission(submission),
            () = tokio::task::yield_now(), if can_flow => Wake::Tick,
            _ = ticks.tick(), if is_busy => Wake::Tick,
        }
    }

    fn admit(&mut self, submission: Submission) {
        let now = Instant::now();
        let mut body = Body::new(submission, now + DEADLINE);
        if self
            .down_since
            .is_some_and(|since| now.duration_since(since) > DOWN)
        {
            body.fail(Failure::Unavailable(self.trouble.clone()));
            body.answer();
        } else {
            self.bodies.push(body);
        }
    }

    /// Does what is due by time.
    fn look_at_clocks(&mut self) {
        let now = Instant::now();
        if let Connecting::At(at) = self.connecting
            && at <= now
        {
            self.connecting = Connecting::Now(tokio::spawn(connect(self.nats.clone())));
        }
        self.bodies.give_up_overdue(now, &self.trouble);
        let is_overdue = self
            .flights
            .oldest()
            .is_some_and(|sent_at| now.duration_since(sent_at) > OVERDUE);
        match self.mode {
            Mode::Flowing | Mode::Careful { .. } if is_overdue => {
                self.settle("acknowledgements are overdue");
            }
            Mode::Settling { until } if until <= now || self.flights.is_empty() => {
                self.begin_again();
            }
            _ => {}
        }
    }

    /// Sends nothing more until it is known what was stored.
    fn settle(&mut self, why: &str) {
        why.clone_into(&mut self.trouble);
        if !matches!(self.mode, Mode::Settling { .. }) {
            tracing::debug!(reason = why, "publishing settles");
            self.mode = Mode::Settling {
                until: Instant::now() + SETTLING,
            };
        }
    }

    /// Gives up waiting for what was sent, and goes on with what is to be sent again.
    fn begin_again(&mut self) {
        let lost = self.flights.give_up(&self.refused);
        self.refused.clear();
        for &(number, index) in &lost.unanswered {
            if let Some(body) = self.bodies.get_mut(number) {
                body.set_fate(index, Fate::Due);
            }
        }
        for &number in &lost.torn {
            if let Some(body) = self.bodies.get_mut(number) {
                body.fail(Failure::Unavailable(self.trouble.clone()));
            }
        }
        // Those that have failed waited for these only.
        for &(number, _) in &lost.unanswered {
            self.bodies.settle(number);
        }
        if self.lanes.is_empty() {
            let lane = |events| Lane {
                events,
                is_sent: false,
            };
            let again = lost.again.into_iter();
            self.lanes = again
                .map(|(tenant, events)| (tenant, lane(events)))
                .collect();
        } else {
            // Only the first of a lane was on its way, and it is still there.
            for lane in self.lanes.values_mut() {
                lane.is_sent = false;
            }
        }
        self.mode = Mode::Careful {
            not_before: Instant::now(),
        };
        self.flow_if_through();
    }

    /// Sends as usual again where nothing is left of what was lost.
    fn flow_if_through(&mut self) {
        if self.lanes.is_empty() && matches!(self.mode, Mode::Careful { .. }) {
            self.mode = Mode::Flowing;
            self.pause = PAUSES.0;
        }
    }

    fn lose_link(&mut self) {
        self.take_answers_at_hand();
        self.connecting = Connecting::At(Instant::now());
        self.down_since = Some(Instant::now());
        self.settle("the connection to NATS was lost");
        self.begin_again();
    }
}

/// Connects, and listens to what will be answered.
async fn connect(nats: Nats) -> Result<Link, String> {
    let connection = SingleConnection::connect(nats.options())
        .await
        .map_err(|error| format!("NATS can't be reached: {error}"))?;
    let inbox = connection.client.new_inbox();
    let answers = connection
        .client
        .subscribe(format!("{inbox}.*"))
        .await
        .map_err(|error| format!("NATS can't be reached: {error}"))?;
    Ok(Link {
        connection,
        inbox,
        answers,
    })
}
