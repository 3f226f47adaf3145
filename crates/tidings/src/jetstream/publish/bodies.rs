//! The bodies that the worker has, by number, in the order in which they were given.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::body::{Body, Failure};

/// Bodies under way. Numbers ascend and are not used again.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// The number of the first place.
    base: u64,
    /// A place is empty when its body was answered.
    places: VecDeque<Option<Body>>,
    /// Everything before this has been sent once.
    unsent: u64,
}

impl Bodies {
    pub(super) fn push(&mut self, body: Body) {
        self.places.push_back(Some(body));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Body> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.places.get_mut(index)?.as_mut()
    }

    /// The next event that was never sent: its body and its index there.
    pub(super) fn next_unsent(&mut self) -> Option<(u64, usize)> {
        self.unsent = self.unsent.max(self.base);
        loop {
            let index = usize::try_from(self.unsent - self.base).ok()?;
            match self.places.get(index)? {
                Some(body) if !body.has_failed() && body.next < body.entries.len() => {
                    return Some((self.unsent, body.next));
                }
                _ => self.unsent += 1,
            }
        }
    }

    /// Answers a body where its fate is known.
    pub(super) fn settle(&mut self, number: u64) {
        let decided = self.get_mut(number).filter(|body| body.is_decided());
        if let Some(body) = decided {
            body.answer();
            self.remove(number);
        }
    }

    /// Answers those that have waited long enough with what is known.
    pub(super) fn give_up_overdue(&mut self, now: Instant, reason: &str) {
        // Deadlines ascend with the numbers.
        while let Some(place) = self.places.front_mut() {
            match place {
                Some(body) if body.deadline > now => return,
                Some(body) => {
                    body.fail(Failure::Unavailable(reason.to_owned()));
                    body.answer();
                }
                None => {}
            }
            self.places.pop_front();
            self.base += 1;
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(index) = number
            .checked_sub(self.base)
            .and_then(|index| usize::try_from(index).ok())
            && let Some(place) = self.places.get_mut(index)
        {
            *place = None;
        }
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.base += 1;
        }
    }
}
