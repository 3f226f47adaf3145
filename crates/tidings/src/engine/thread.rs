//! The engine thread: its state and its loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Poll};
use slab::Slab;
use tidings_log::Scope;
use tidings_protocol::Position;
use tidings_protocol::api::ClosingReason;

use super::EngineOptions;
use super::catch_up::CatchUpPool;
use super::census::Inquiries;
use super::coding::Coder;
use super::counters::{Survey, Tally};
use super::deliver::Scratch;
use super::drain::{Drain, Evenly};
use super::ended::EndedStreams;
use super::index::{GroupId, Index};
use super::lifecycle::End;
use super::mailbox::{Command, Mailbox, WAKER};
use super::pull::{Chunks, CodedReading};
use super::stream::Stream;
use super::wheel::{TICK, Tick, Wheel};
use crate::fanout::{Block, Stale, Window};

/// How many socket events one look at the poll brings.
const EVENTS: usize = 1024;

/// The tick at which a thread starts.
const START: Tick = 1 << 32;

/// What one engine thread owns.
pub(super) struct Thread {
    pub(super) options: EngineOptions,
    pub(super) poll: Poll,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) window: Arc<Window>,
    pub(super) pool: Arc<CatchUpPool>,
    /// Shared by all engines; told of every end.
    pub(super) ended: Arc<EndedStreams>,
    pub(super) streams: Slab<Stream>,
    pub(super) index: Index,
    pub(super) wheel: Wheel,
    /// Live streams have been given everything up to here.
    pub(super) position: Position,
    /// Streams that have more to read, each waiting for its turn.
    pub(super) turns: VecDeque<u32>,
    /// The streams that the pool reads for, by scope. A scope with an entry has a request under way.
    pub(super) waiting: HashMap<Scope, Vec<u32>>,
    pub(super) chunks: Chunks,
    /// What operators have asked and is not answered yet.
    pub(super) inquiries: Inquiries,
    /// Why what is shown may be old, if it may: the data of a `stale` event.
    pub(super) stale: Option<String>,
    /// Every stream is to end for this reason.
    pub(super) closing: Option<ClosingReason>,
    /// The streams leave, a few in each tick.
    pub(super) drain: Option<Drain>,
    /// What streams that leave are told beyond the usual time to come back.
    pub(super) retry_spread: Duration,
    pub(super) retries: Evenly,
    pub(super) now: Tick,
    /// The mailbox held more than was taken.
    more_mail: bool,
    started: Instant,
    stop: Option<Instant>,
    pub(super) tally: Tally,
    pub(super) survey: Survey,
    /// Kept from one wake-up to the next, so that a delivery allocates nothing.
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) touched: Vec<GroupId>,
    pub(super) scratch: Scratch,
    /// The same for heartbeats: what is being said, and the buffer of a stream's unsent bytes.
    pub(super) words: Vec<u8>,
    pub(super) spare: Vec<u8>,
    pub(super) coder: Coder,
    pub(super) coded_reading: Option<CodedReading>,
    pub(super) read_buffer: Box<[u8]>,
}

impl Thread {
    pub(super) fn new(
        options: EngineOptions,
        poll: Poll,
        mailbox: Arc<Mailbox>,
        window: Arc<Window>,
        pool: Arc<CatchUpPool>,
        ended: Arc<EndedStreams>,
        retries: Evenly,
    ) -> Self {
        let position = window.tail();
        Self {
            options,
            poll,
            mailbox,
            window,
            pool,
            ended,
            streams: Slab::new(),
            index: Index::default(),
            wheel: Wheel::new(START),
            position,
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            chunks: Chunks::default(),
            inquiries: Inquiries::new(),
            stale: None,
            closing: None,
            drain: None,
            retry_spread: Duration::ZERO,
            retries,
            now: START,
            started: Instant::now(),
            stop: None,
            more_mail: false,
            tally: Tally::default(),
            survey: Survey::default(),
            blocks: Vec::new(),
            touched: Vec::new(),
            scratch: Scratch::default(),
            words: Vec::new(),
            spare: Vec::new(),
            coder: Coder::default(),
            coded_reading: None,
            read_buffer: vec![0; 16 * 1024].into_boxed_slice(),
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        self.work();
        self.mailbox.end();
    }

    fn work(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let patience = self.patience();
            self.mailbox.sleeps(patience.is_none());
            let polled = self.poll.poll(&mut events, patience);
            self.mailbox.has_woken();
            if let Err(error) = polled
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "an engine thread can't poll its sockets");
                return;
            }
            self.now = self.ticks_since_start();
            self.read_mail();
            for event in &events {
                if event.token() != WAKER {
                    self.socket_ready(event.token().0, event.is_readable(), event.is_writable());
                }
            }
            self.follow();
            self.take_turns();
            self.work_off_inquiries();
            self.drain_on();
            self.work_off_wheel();
            self.mailbox.set_stream_count(self.streams.len());
            self.publish_counts();
            if self.is_done() {
                return;
            }
        }
    }

    /// How long there is nothing to do unless something happens.
    fn patience(&self) -> Option<Duration> {
        let busy = self.more_mail
            || !self.turns.is_empty()
            || !self.inquiries.is_empty()
            || self.drain.as_ref().is_some_and(|drain| drain.is_behind);
        if busy || self.position < self.window.tail() {
            Some(Duration::ZERO)
        } else if self.streams.is_empty() && self.stop.is_none() && self.drain.is_none() {
            None
        } else {
            Some(TICK)
        }
    }

    fn read_mail(&mut self) {
        let mail = self.mailbox.take();
        self.more_mail = mail.more;
        if !mail.opens.is_empty() || !mail.commands.is_empty() {
            // A stream begins at a tail that this thread may not have handed out yet; and what was
            // acknowledged before the streams are closed, or hear that the log is full, comes first.
            while self.position < self.window.tail() {
                self.follow();
            }
        }
        for stream in mail.opens {
            self.open(stream);
        }
        for caught in mail.caught {
            self.caught(caught);
        }
        for slot in mail.ready {
            self.socket_ready(slot, true, true);
        }
        self.inquiries.extend(mail.inquiries);
        for command in mail.commands {
            match command {
                Command::CloseAll(reason) => {
                    self.cut_drain_short();
                    self.close_all(reason);
                }
                Command::Drain { over, underway } => self.begin_drain(over, underway),
                Command::Liveness(stale) => self.liveness_changed(stale.as_ref()),
                Command::Stop { deadline } => self.stop = Some(deadline),
            }
        }
    }

    fn liveness_changed(&mut self, stale: Option<&Stale>) {
        self.stale = stale.map(|Stale { since, reason }| {
            let since = crate::time::rfc3339(*since);
            serde_json::json!({ "since": since, "reason": reason }).to_string()
        });
        let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.tell_liveness(slot);
        }
    }

    fn is_done(&mut self) -> bool {
        let Some(deadline) = self.stop else {
            return false;
        };
        if Instant::now() >= deadline {
            let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                self.remove(slot, End::ServerStopped);
            }
        }
        self.streams.is_empty()
    }

    /// Ticks begin well above zero, so that a stream's last write can lie before the start.
    fn ticks_since_start(&self) -> Tick {
        START + ticks(self.started.elapsed())
    }

    /// The tick of a time of day, in seconds since the Unix epoch, rounded up to the next tick.
    pub(super) fn tick_of(&self, unix_seconds: i64) -> Tick {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let due = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
        START + tick_behind(self.started.elapsed() + due.saturating_sub(now))
    }
}

/// The first tick that comes after a time since the start. The whole time is rounded, since parts that are rounded down
/// each could come a tick too early.
fn tick_behind(since_start: Duration) -> Tick {
    ticks(since_start) + 1
}

/// A duration in whole ticks.
pub(super) fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(Tick::MAX / 2)
}

#[cfg(test)]
mod tests;
