//! A body on its way: what became of each of its events, and its answer.

use bytes::Bytes;
use tidings_log::NewEvent;
use tidings_protocol::TenantId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{PublishError, Published};
use crate::jetstream::message;

/// A body as it is given to the worker.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) tenant: TenantId,
    pub(super) events: Vec<NewEvent>,
    pub(super) answer: oneshot::Sender<Result<Published, PublishError>>,
    /// Its share of what may wait; given back when it is answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// A body that the worker has.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) tenant: TenantId,
    pub(super) entries: Vec<Entry>,
    /// The next entry that was never sent.
    pub(super) next: usize,
    /// When it is answered, whatever is known then.
    pub(super) deadline: Instant,
    /// The highest sequence that the worker knew when it began to send this body: what is a duplicate of
    /// something behind it, this body itself has stored.
    pub(super) known_before: u64,
    /// Duplicates whose digest is being compared.
    pub(super) checks: usize,
    /// How many entries are on their way.
    on_its_way: usize,
    /// How many are stored.
    stored: usize,
    failure: Option<Failure>,
    answer: Option<oneshot::Sender<Result<Published, PublishError>>>,
    _room: OwnedSemaphorePermit,
}

/// An event of a body.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: NewEvent,
    pub(super) payload: Bytes,
    /// Its message id; the same however often it is sent.
    pub(super) id: String,
    /// How often it was sent.
    pub(super) sent: u32,
    fate: Fate,
}

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not sent yet, or is to be sent again.
    Due,
    /// It was sent and not answered.
    OnItsWay,
    /// It is stored.
    Stored { sequence: u64, duplicate: bool },
    /// It was refused.
    Refused,
}

/// Why a body can't be stored whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    KeyConflict { index: usize },
    TooLarge { index: usize, limit: usize },
    Full(String),
    Unavailable(String),
}

impl Body {
    pub(super) fn new(submission: Submission, deadline: Instant) -> Self {
        let tenant = submission.tenant;
        let entries = submission.events.into_iter().map(|mut event| Entry {
            id: message::message_id(tenant, &event),
            payload: Bytes::from(std::mem::take(&mut event.data)),
            event,
            sent: 0,
            fate: Fate::Due,
        });
        Self {
            tenant,
            entries: entries.collect(),
            next: 0,
            deadline,
            known_before: 0,
            checks: 0,
            on_its_way: 0,
            stored: 0,
            failure: None,
            answer: Some(submission.answer),
            _room: submission.room,
        }
    }

    /// Whether no more of it is to be sent.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes that it can't be stored whole; the first reason counts.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// How many leading events are stored.
    pub(super) fn leading(&self) -> u64 {
        let stored = |entry: &&Entry| matches!(entry.fate, Fate::Stored { .. });
        self.entries.iter().take_while(stored).count() as u64
    }

    /// Notes what is known of an entry.
    pub(super) fn set_fate(&mut self, index: usize, fate: Fate) {
        let entry = &mut self.entries[index];
        for (of, change) in [(entry.fate, -1), (fate, 1)] {
            let count = match of {
                Fate::OnItsWay => &mut self.on_its_way,
                Fate::Stored { .. } => &mut self.stored,
                Fate::Due | Fate::Refused => continue,
            };
            *count = count.saturating_add_signed(change);
        }
        entry.fate = fate;
    }

    /// Whether its fate is known: everything is stored and compared, or it has failed and nothing is on its
    /// way any more.
    pub(super) fn is_decided(&self) -> bool {
        let is_through = self.failure.is_some() || self.stored == self.entries.len();
        is_through && self.on_its_way == 0 && self.checks == 0
    }

    /// Answers its publisher, with what is known now.
    pub(super) fn answer(&mut self) {
        let outcome = self.outcome();
        if let Some(answer) = self.answer.take() {
            // The publisher may have hung up; what is stored is stored all the same.
            let _ = answer.send(outcome);
        }
    }

    fn outcome(&self) -> Result<Published, PublishError> {
        let stored = self.leading();
        match self.failure.clone() {
            None => Ok(self.published()),
            Some(Failure::KeyConflict { index }) => Err(PublishError::KeyConflict { index }),
            Some(Failure::TooLarge { index, limit }) => Err(PublishError::TooLarge {
                index,
                bytes: self.entries[index].payload.len(),
                limit,
            }),
            Some(Failure::Full(reason)) => Err(PublishError::Full { stored, reason }),
            Some(Failure::Unavailable(reason)) => Err(PublishError::Unavailable { stored, reason }),
        }
    }

    fn published(&self) -> Published {
        let mut published = Published {
            accepted: 0,
            duplicates: 0,
            first: 0,
            last: 0,
        };
        for entry in &self.entries {
            if let Fate::Stored {
                sequence,
                duplicate,
            } = entry.fate
            {
                published.first = if published.first == 0 {
                    sequence
                } else {
                    published.first
                };
                published.last = sequence;
                // One that had to be sent twice is its own duplicate.
                let own = entry.sent > 1 && sequence > self.known_before;
                if duplicate && !own {
                    published.duplicates += 1;
                } else {
                    published.accepted += 1;
                }
            }
        }
        published
    }
}
