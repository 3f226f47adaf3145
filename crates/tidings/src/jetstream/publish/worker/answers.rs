//! What the broker answers, and what follows from it.

use std::sync::Arc;

use async_nats::Message;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::{Compared, Connecting, Mode, PAUSES, TURN, Worker};
use crate::jetstream::api::{self, ApiError};
use crate::jetstream::message;
use crate::jetstream::publish::acknowledgement::Acknowledgement;
use crate::jetstream::publish::body::{Failure, Fate};
use crate::jetstream::publish::flight::{Flight, Landing};
use crate::nats::Nats;

/// How often a comparison is tried.
const CHECK_ATTEMPTS: u32 = 3;

impl Worker {
    /// Takes what was answered already, up to a turn.
    pub(super) fn take_answers_at_hand(&mut self) {
        for _ in 0..4 * TURN {
            let Connecting::Done(link) = &mut self.connecting else {
                return;
            };
            let next = tokio::task::unconstrained(link.answers.next()).now_or_never();
            let Some(Some(answer)) = next else { return };
            self.take_answer(&answer);
        }
    }

    pub(super) fn take_answer(&mut self, answer: &Message) {
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

    pub(super) fn take_compared(&mut self, (number, index, differs): Compared) {
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
