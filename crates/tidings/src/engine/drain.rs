//! Streams leave when the server goes: evenly over a time, so that other nodes do not meet all of them at once.
//!
//! Those that are not closed yet are served as before. Each is told when to come back; the times are spread
//! evenly too, and where a drain is cut short its rest is added to them: then the clients wait where the
//! server would have.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidings_protocol::api::ClosingReason;
use tokio::sync::mpsc;

use super::stream::Stage;
use super::thread::{Thread, ticks};
use super::wheel::{TICK, Tick};

/// How many streams a thread closes in a tick at the least: a few streams are no crowd, and must not hold up a
/// stop.
const LEAST_IN_A_TICK: u64 = 4;

/// How many streams are closed between two looks at the tail, each of which costs a few system calls.
const CLOSES: u64 = 64;

/// Held by each thread as long as it drains.
pub(super) type Underway = mpsc::Sender<Infallible>;

/// A drain that was begun.
#[derive(Debug)]
pub struct Draining(pub(super) mpsc::Receiver<Infallible>);

impl Draining {
    /// Waits until every stream was told to go.
    pub async fn ended(&mut self) {
        // Nothing is ever sent; it ends with the last sender.
        let _ = self.0.recv().await;
    }
}

/// How far a thread is with it.
#[derive(Debug)]
pub(super) struct Drain {
    began: Tick,
    ends: Tick,
    /// How many streams there were when it began.
    streams: u64,
    closed: u64,
    /// The first slot that was not looked at.
    next: usize,
    /// More are due to be closed than one look closes.
    pub(super) is_behind: bool,
    _underway: Underway,
}

impl Drain {
    /// How many are to be closed by now.
    fn due(&self, now: Tick) -> u64 {
        let passed = (now + 1).saturating_sub(self.began);
        let over = (self.ends - self.began).max(1);
        (self.streams * passed)
            .div_ceil(over)
            .max(LEAST_IN_A_TICK * passed)
    }
}

/// Times to come back, each as far from those before as it can be: multiples of the golden ratio. Clones go on
/// with one sequence: those of several threads with sequences of their own could come out pairwise alike.
#[derive(Clone, Debug)]
pub(super) struct Evenly(Arc<AtomicU64>);

impl Evenly {
    /// 2^64 divided by the golden ratio.
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

    /// A sequence with a beginning of its own: other nodes have others.
    pub(super) fn random() -> Self {
        Self(Arc::new(AtomicU64::new(rand::random())))
    }

    /// The next, from `low` to `high`.
    fn next(&self, low: u64, high: u64) -> u64 {
        // Wraps around, as it must.
        let drawn = self.0.fetch_add(Self::STEP, Ordering::Relaxed);
        let width = u128::from(high - low) + 1;
        low + u64::try_from((u128::from(drawn) * width) >> 64).expect("less than the width")
    }
}

impl Thread {
    /// Begins to close all streams, evenly over a time.
    pub(super) fn begin_drain(&mut self, over: Duration, underway: Underway) {
        self.drain = Some(Drain {
            began: self.now,
            ends: self.now + ticks(over),
            streams: self.streams.len() as u64,
            closed: 0,
            next: 0,
            is_behind: false,
            _underway: underway,
        });
    }

    /// Closes the streams whose turn it is to leave.
    pub(super) fn drain_on(&mut self) {
        let Some(mut drain) = self.drain.take() else {
            return;
        };
        let due = drain.due(self.now).saturating_sub(drain.closed);
        let mut left = due.min(CLOSES);
        drain.is_behind = due > left;
        while left > 0 && drain.next < self.streams.capacity() {
            let slot = drain.next;
            drain.next += 1;
            let open = |stream: &super::stream::Stream| !matches!(stream.stage, Stage::Closing(_));
            if self.streams.get(slot).is_some_and(open) {
                self.close(slot, ClosingReason::Draining);
                drain.closed += 1;
                left -= 1;
            }
        }
        let over = self.now >= drain.ends && !drain.is_behind;
        if over || drain.next >= self.streams.capacity() {
            // Also those that took a slot that was looked at already, and those to come.
            self.close_all(ClosingReason::Draining);
        } else {
            self.drain = Some(drain);
        }
    }

    /// Gives up what is left of a drain, since all streams are about to be closed at once.
    pub(super) fn cut_drain_short(&mut self) {
        if let Some(drain) = self.drain.take() {
            let left = drain.ends.saturating_sub(self.now);
            self.retry_spread = TICK * u32::try_from(left).unwrap_or(u32::MAX);
        }
    }

    /// When a client whose stream ends since the server goes is to come back, in milliseconds: ¾ to 1¼ of the
    /// configured time, and what was left of a drain that was cut short.
    pub(super) fn retry_elsewhere(&self) -> u64 {
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 8);
        let retry = milliseconds(self.options.retry);
        let high = retry * 5 / 4 + milliseconds(self.retry_spread);
        self.retries.next(retry * 3 / 4, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_back_are_spread_evenly_and_lie_in_their_range() {
        // Drawn by two threads in turn: once each had a sequence of its own, and now and then the two were alike.
        let evenly = Evenly::random();
        let threads = [evenly.clone(), evenly.clone()];
        let mut tenths = [0_u32; 10];
        let mut seen = std::collections::HashSet::new();
        for number in 0..500 {
            let retry = threads[number % 2].next(1_500, 2_499);
            assert!((1_500..2_500).contains(&retry));
            tenths[usize::try_from((retry - 1_500) / 100).unwrap()] += 1;
            seen.insert(retry);
        }
        assert!(
            tenths.iter().all(|&count| (45..=55).contains(&count)),
            "{tenths:?}"
        );
        assert!(seen.len() >= 490, "{} of 500 differ", seen.len());
        assert_eq!(evenly.next(7, 7), 7);
    }
}
