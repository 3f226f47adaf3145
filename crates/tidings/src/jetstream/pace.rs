//! How a consumer is asked: message by message while little comes, in gulps while much does.
//!
//! A request that waits is given each message as soon as it is stored. That costs the broker a wake-up and its locks for
//! each of them: nats-server 2.9 stores only half as many messages a second beside it. So where many come, the reader
//! pauses between requests, and asks each time for what has piled up, which the broker hands out in one go.

use std::time::Duration;

use tokio::time::Instant;

/// How many messages a request asks for that may wait for them.
const STEADY_MESSAGES: usize = 4_000;

/// How many such requests are on their way.
const STEADY_REQUESTS: usize = 2;

/// How many bytes it asks for at most.
const STEADY_BYTES: usize = 4 << 20;

/// From how many messages a second on they are taken in gulps.
const BUSY_RATE: f64 = 20_000.0;

/// How long the reader pauses between gulps.
const PAUSE: Duration = Duration::from_millis(40);

/// The least that a gulp asks for: about what has piled up in a pause at [`BUSY_RATE`].
const LEAST_GULP: usize = 800;

/// How many bytes a gulp asks for at most.
const GULP_BYTES: usize = 8 << 20;

/// When less than this has piled up behind a gulp and its pause, it goes on message by message.
const CALM: u64 = 200;

/// Who is further behind than this catches up without a pause.
const FAR_BEHIND: u64 = 32_000;

/// The way in which is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Steady,
    Gulps,
}

/// What is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) mode: Mode,
    /// Not before then.
    pub(super) at: Option<Instant>,
    /// For so many messages.
    pub(super) messages: usize,
    /// Of so many bytes.
    pub(super) bytes: usize,
    /// With so many requests on their way at once.
    pub(super) requests: usize,
}

/// Decides how the broker is asked, by how fast it has delivered.
#[derive(Debug, Default)]
pub(super) struct Pace {
    mode: Mode,
    resumes_at: Option<Instant>,
    /// When the request that is being worked off got its first message.
    begun: Option<Instant>,
}

impl Pace {
    /// What is to be asked where `pending` messages were left behind the last.
    pub(super) fn ask(&self, pending: u64) -> Ask {
        match self.mode {
            Mode::Steady => Ask {
                mode: Mode::Steady,
                at: None,
                messages: STEADY_MESSAGES,
                bytes: STEADY_BYTES,
                requests: STEADY_REQUESTS,
            },
            Mode::Gulps => Ask {
                mode: Mode::Gulps,
                at: self.resumes_at,
                messages: usize::try_from(pending).map_or(LEAST_GULP, |one| one.max(LEAST_GULP)),
                bytes: GULP_BYTES,
                requests: 1,
            },
        }
    }

    /// The oldest request was given a message.
    pub(super) fn delivered(&mut self, now: Instant) {
        self.begun.get_or_insert(now);
    }

    /// The oldest request, made in this mode, was given the last of its `messages`, behind which `pending` more are left.
    pub(super) fn fulfilled(&mut self, mode: Mode, messages: usize, pending: u64, now: Instant) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let seconds = now.duration_since(begun).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let is_busy = messages as f64 >= BUSY_RATE * seconds;
        self.mode = match (self.mode, mode) {
            _ if pending > FAR_BEHIND => Mode::Steady,
            (Mode::Steady, _) if is_busy => Mode::Gulps,
            (Mode::Gulps, Mode::Gulps) if pending < CALM => Mode::Steady,
            // What was asked before the first pause says nothing of what piles up in one.
            (unchanged, _) => unchanged,
        };
        self.resumes_at = (self.mode == Mode::Gulps).then(|| now + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Ask = Ask {
        mode: Mode::Steady,
        at: None,
        messages: STEADY_MESSAGES,
        bytes: STEADY_BYTES,
        requests: STEADY_REQUESTS,
    };

    /// A request was fulfilled in this time.
    fn fulfil(pace: &mut Pace, asked: Ask, took: Duration, pending: u64, end: Instant) {
        pace.delivered(end.checked_sub(took).unwrap());
        pace.delivered(end);
        pace.fulfilled(asked.mode, asked.messages, pending, end);
    }

    fn gulp(pending: usize, after: Instant) -> Ask {
        Ask {
            mode: Mode::Gulps,
            at: Some(after + PAUSE),
            messages: pending,
            bytes: GULP_BYTES,
            requests: 1,
        }
    }

    #[test]
    fn what_comes_slowly_is_taken_as_it_comes() {
        let mut pace = Pace::default();
        let now = Instant::now() + Duration::from_hours(1);
        assert_eq!(pace.ask(0), STEADY);
        fulfil(&mut pace, STEADY, Duration::from_secs(1), 10, now);
        assert_eq!(pace.ask(10), STEADY);
    }

    #[test]
    fn what_comes_fast_is_taken_in_gulps_of_what_has_piled_up_until_it_is_little() {
        let mut pace = Pace::default();
        let now = Instant::now() + Duration::from_hours(1);
        let fast = Duration::from_millis(40);
        fulfil(&mut pace, STEADY, fast, 30, now);
        // The other request of before is on its way still; nothing has piled up behind it.
        fulfil(&mut pace, STEADY, fast, 20, now);
        let least = pace.ask(20);
        assert_eq!(least, gulp(LEAST_GULP, now));
        fulfil(&mut pace, least, fast, 3_000, now + fast);
        let more = pace.ask(3_000);
        assert_eq!(more, gulp(3_000, now + fast));
        fulfil(&mut pace, more, fast, CALM - 1, now + 2 * fast);
        assert_eq!(pace.ask(CALM - 1), STEADY);
    }

    #[test]
    fn who_is_far_behind_does_not_pause() {
        let mut pace = Pace::default();
        let now = Instant::now() + Duration::from_hours(1);
        let fast = Duration::from_millis(10);
        fulfil(&mut pace, STEADY, fast, 1_000_000, now);
        assert_eq!(pace.ask(1_000_000), STEADY);
        fulfil(&mut pace, STEADY, fast, 900, now);
        let asked = pace.ask(900);
        assert_eq!(asked, gulp(900, now));
        fulfil(&mut pace, asked, fast, FAR_BEHIND + 1, now);
        assert_eq!(pace.ask(FAR_BEHIND + 1), STEADY);
    }
}
