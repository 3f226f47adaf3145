//! The task that publishes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tidings_protocol::TenantId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::acknowledgement::Acknowledgement;
use super::bodies::Bodies;
use super::body::{Body, Failure, Fate, Submission};
use super::flight::{Flight, Flights, Landing};
use crate::jetstream::api::{self, ApiError};
use crate::jetstream::message;
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

/// How often a comparison is tried.
const CHECK_ATTEMPTS: u32 = 3;

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
            () = std::future::ready(()), if can_flow => Wake::Tick,
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

    /// Takes what was answered already, up to a turn.
    fn take_answers_at_hand(&mut self) {
        for _ in 0..4 * TURN {
            let Connecting::Done(link) = &mut self.connecting else {
                return;
            };
            let next = tokio::task::unconstrained(link.answers.next()).now_or_never();
            let Some(Some(answer)) = next else { return };
            self.take_answer(&answer);
        }
    }

    fn take_answer(&mut self, answer: &Message) {
        let Some(number) = answer
            .subject
            .rsplit_once('.')
            .and_then(|(_, number)| number.parse().ok())
        else {
            return;
        };
        let acknowledgement = Acknowledgement::read(answer);
        let landing = match acknowledgement {
            Acknowledgement::Stored {
                duplicate: false, ..
            } => Landing::Stored,
            _ => Landing::Answered,
        };
        // None is waited for where the answer comes too late.
        let Some(flight) = self.flights.land(number, landing) else {
            return;
        };
        match acknowledgement {
            Acknowledgement::Stored {
                sequence,
                duplicate,
            } => self.note_stored(&flight, sequence, duplicate),
            Acknowledgement::Full(reason) => self.note_refused(&flight, Failure::Full(reason)),
            Acknowledgement::TooLarge => {
                let index = flight.index;
                let limit = self.nats.client().max_payload();
                self.note_refused(&flight, Failure::TooLarge { index, limit });
            }
            Acknowledgement::Later(reason) => self.note_later(&flight, &reason),
        }
        self.bodies.settle(flight.body);
    }

    fn note_stored(&mut self, flight: &Flight, sequence: u64, duplicate: bool) {
        self.highest = self.highest.max(sequence);
        self.leave_lane(flight);
        let Some(body) = self.bodies.get_mut(flight.body) else {
            return;
        };
        body.set_fate(
            flight.index,
            Fate::Stored {
                sequence,
                duplicate,
            },
        );
        let entry = &body.entries[flight.index];
        let is_own = entry.sent > 1 && sequence > body.known_before;
        if let Some(key) = entry.event.key
            && duplicate
            && !is_own
        {
            body.checks += 1;
            let (nats, stream) = (self.nats.clone(), self.stream.clone());
            let permits = Arc::clone(&self.permits);
            let (number, index) = (flight.body, flight.index);
            self.checks.spawn(async move {
                let _permit = permits.acquire().await;
                let differs = differs(&nats, &stream, sequence, key.digest).await;
                (number, index, differs)
            });
        }
    }

    fn note_refused(&mut self, flight: &Flight, failure: Failure) {
        self.leave_lane(flight);
        if let Some(body) = self.bodies.get_mut(flight.body) {
            body.set_fate(flight.index, Fate::Refused);
            body.fail(failure);
        }
    }

    /// An event that the broker does not take now.
    fn note_later(&mut self, flight: &Flight, reason: &str) {
        match &mut self.mode {
            Mode::Careful { not_before } => {
                *not_before = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(PAUSES.1);
                reason.clone_into(&mut self.trouble);
                if let Some(lane) = self.lanes.get_mut(&flight.tenant) {
                    lane.is_sent = false;
                }
                if let Some(body) = self.bodies.get_mut(flight.body) {
                    body.set_fate(flight.index, Fate::Due);
                }
            }
            Mode::Flowing | Mode::Settling { .. } => {
                self.refused.insert((flight.body, flight.index));
                self.settle(reason);
            }
        }
    }

    fn leave_lane(&mut self, flight: &Flight) {
        if let Some(lane) = self.lanes.get_mut(&flight.tenant)
            && lane.events.front() == Some(&(flight.body, flight.index))
        {
            lane.events.pop_front();
            lane.is_sent = false;
            if lane.events.is_empty() {
                self.lanes.remove(&flight.tenant);
            }
            self.flow_if_through();
        }
    }

    fn take_compared(&mut self, (number, index, differs): Compared) {
        if let Some(body) = self.bodies.get_mut(number) {
            body.checks -= 1;
            match differs {
                Ok(false) => {}
                Ok(true) => body.fail(Failure::KeyConflict { index }),
                Err(error) => body.fail(Failure::Unavailable(format!(
                    "a repeated event can't be compared: {error}"
                ))),
            }
        }
        self.bodies.settle(number);
    }

    /// Whether there is something to send at once.
    fn can_flow(&mut self) -> bool {
        matches!(self.mode, Mode::Flowing)
            && matches!(self.connecting, Connecting::Done(_))
            && self.flights.has_room()
            && self.bodies.next_unsent().is_some()
    }

    /// Sends what may be sent, up to a turn.
    async fn send(&mut self) {
        match self.mode {
            Mode::Settling { .. } => {}
            Mode::Flowing => {
                for _ in 0..TURN {
                    if !self.flights.has_room() {
                        return;
                    }
                    let Some(event) = self.bodies.next_unsent() else {
                        return;
                    };
                    if !self.send_one(event).await {
                        return;
                    }
                }
            }
            Mode::Careful { not_before } => {
                if not_before <= Instant::now() {
                    self.send_carefully().await;
                }
            }
        }
    }

    async fn send_carefully(&mut self) {
        let tenants: Vec<TenantId> = self.lanes.keys().copied().collect();
        for tenant in tenants {
            let Some(lane) = self.lanes.get_mut(&tenant) else {
                continue;
            };
            if lane.is_sent {
                continue;
            }
            // Those whose body was answered meanwhile are nobody's any more.
            let mut next = 0;
            while let Some(&(number, _)) = lane.events.get(next) {
                let body = self.bodies.get_mut(number);
                if body.is_some_and(|body| !body.has_failed()) {
                    break;
                }
                next += 1;
            }
            lane.events.drain(..next);
            let Some(&event) = lane.events.front() else {
                self.lanes.remove(&tenant);
                continue;
            };
            if !self.flights.has_room() {
                break;
            }
            lane.is_sent = true;
            if !self.send_one(event).await {
                return;
            }
        }
        self.flow_if_through();
    }

    /// Sends one event; false where there is no connection.
    async fn send_one(&mut self, (number, index): (u64, usize)) -> bool {
        let Connecting::Done(link) = &mut self.connecting else {
            return false;
        };
        let Some(body) = self.bodies.get_mut(number) else {
            return true;
        };
        if index == 0 && body.next == 0 {
            body.known_before = self.highest;
        }
        body.next = body.next.max(index + 1);
        body.set_fate(index, Fate::OnItsWay);
        let tenant = body.tenant;
        let entry = &mut body.entries[index];
        entry.sent += 1;
        let flight = Flight {
            body: number,
            index,
            tenant,
            bytes: entry.payload.len() + message::overhead(&entry.event),
            sent_at: Instant::now(),
        };
        let reply = format!("{}.{}", link.inbox, self.flights.push(flight));
        let sent = link.connection.publish(
            message::subject(tenant, &entry.event),
            reply,
            message::headers(&entry.event, &entry.id),
            entry.payload.clone(),
        );
        // Where it fails the loss is told by the next wake.
        sent.await
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

/// Whether what is stored under a key is another event than the one that was published under it now.
async fn differs(
    nats: &Nats,
    stream: &str,
    sequence: u64,
    digest: [u8; 16],
) -> Result<bool, ApiError> {
    let mut attempt = 1;
    loop {
        match api::message_headers(nats.client(), stream, sequence).await {
            Ok(headers) => {
                let stored = headers.as_deref().and_then(message::digest);
                return Ok(stored != Some(digest));
            }
            // It is gone, and nobody can say any more.
            Err(ApiError::NoMessage) => return Ok(false),
            Err(error) if attempt == CHECK_ATTEMPTS => return Err(error),
            Err(_) => {
                attempt += 1;
                tokio::time::sleep(PAUSES.1).await;
            }
        }
    }
}
