//! How the rest of the process reaches an engine thread.
//!
//! Nothing here grows without bound: opens are limited, a tail move and a change of liveness are one
//! note however often they happen, and each stream has at most one note of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use mio::{Poll, Token, Waker};
use parking_lot::Mutex;
use tidings_protocol::api::ClosingReason;

use super::catch_up::Caught;
use super::census::Inquiry;
use super::counters::EngineCounters;
use super::drain::Underway;
use super::ticket::OpenStream;
use crate::fanout::Stale;

/// The token of the mailbox's waker; streams count up from zero and never reach it.
pub(super) const WAKER: Token = Token(usize::MAX);

/// How many streams may wait to be taken over.
const MAX_WAITING_OPENS: usize = 8192;

/// How many streams are taken over at once: those that are live do not wait for all of a crowd.
const OPENS_IN_A_SLICE: usize = 64;

/// What an engine is told to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Close every stream for this reason.
    CloseAll(ClosingReason),
    /// Close the streams evenly over this time.
    Drain { over: Duration, underway: Underway },
    /// What is shown may be old, or is live again.
    Liveness(Option<Stale>),
    /// Close what is left by the deadline and end the thread.
    Stop { deadline: Instant },
}

/// What lies in the mailbox.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) opens: VecDeque<OpenStream>,
    /// Streams whose body can take bytes again, or is gone: their slots.
    pub(super) ready: Vec<usize>,
    /// What the catch-up pool has read. At most one for each scope that an engine reads.
    pub(super) caught: Vec<Caught>,
    /// A few from start to stop: of changes of liveness the latest is kept.
    pub(super) commands: Vec<Command>,
    /// What operators ask; there are only so many permits for them.
    pub(super) inquiries: Vec<Inquiry>,
    /// More lies in the mailbox. Only ever set of mail that was taken.
    pub(super) more: bool,
}

/// An engine's mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    /// Whether the thread has been woken and not looked yet, so that a burst costs one wake-up.
    woken: AtomicBool,
    waker: Waker,
    /// The thread sleeps and has no streams, so that it need not hear of the tail: it looks when a stream
    /// comes. A server that is only published to is not woken for each commit.
    dormant: AtomicBool,
    streams: AtomicUsize,
    /// How often the thread has woken.
    turns: AtomicU64,
    /// Written by the thread alone.
    pub(super) counters: EngineCounters,
    /// The thread has ended. Set and looked at under the lock of `mail`.
    ended: AtomicBool,
}

impl Mailbox {
    /// A mailbox and the poll that its waker wakes.
    pub(super) fn new() -> io::Result<(Arc<Self>, Poll)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let mailbox = Arc::new(Self {
            mail: Mutex::default(),
            woken: AtomicBool::new(false),
            waker,
            dormant: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            turns: AtomicU64::new(0),
            counters: EngineCounters::default(),
            ended: AtomicBool::new(false),
        });
        Ok((mailbox, poll))
    }

    /// Gives the stream back while too many wait to be taken over.
    pub(super) fn open(&self, stream: OpenStream) -> Result<(), Box<OpenStream>> {
        let mut mail = self.mail.lock();
        if mail.opens.len() >= MAX_WAITING_OPENS {
            return Err(Box::new(stream));
        }
        mail.opens.push_back(stream);
        drop(mail);
        self.wake();
        Ok(())
    }

    /// To be called behind the move itself.
    pub(super) fn tail_moved(&self) {
        // The engine looks at the window's tail whenever it wakes; the wake-up says it all. The fence and
        // that of `has_woken` order the two sides: where this finds the thread dormant still, the thread
        // finds the tail moved when it looks.
        fence(Ordering::SeqCst);
        if !self.dormant.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Called by the engine thread before it sleeps; `dormant` when it has no streams.
    pub(super) fn sleeps(&self, dormant: bool) {
        self.dormant.store(dormant, Ordering::Relaxed);
    }

    /// Called by the engine thread when it has slept, before it looks at the tail.
    pub(super) fn has_woken(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.dormant.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn ready(&self, slot: usize) {
        self.mail.lock().ready.push(slot);
        self.wake();
    }

    pub(super) fn caught(&self, caught: Caught) {
        self.mail.lock().caught.push(caught);
        self.wake();
    }

    pub(super) fn command(&self, command: Command) {
        let mut mail = self.mail.lock();
        if matches!(command, Command::Liveness(_)) {
            mail.commands
                .retain(|waiting| !matches!(waiting, Command::Liveness(_)));
        }
        mail.commands.push(command);
        drop(mail);
        self.wake();
    }

    /// Passes an inquiry on. Of a thread that has ended it is dropped, which tells who asked.
    pub(super) fn ask(&self, inquiry: Inquiry) {
        let mut mail = self.mail.lock();
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        mail.inquiries.push(inquiry);
        drop(mail);
        self.wake();
    }

    /// The thread takes no more mail: nobody is to wait for its answers.
    pub(super) fn end(&self) {
        let mut mail = self.mail.lock();
        self.ended.store(true, Ordering::Relaxed);
        mail.inquiries.clear();
    }

    /// How often the thread has woken. Wakes it once more, so that the next answer differs unless it is stuck.
    pub(super) fn pulse(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        self.wake();
        turns
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "an engine thread could not be woken");
        }
    }

    /// Takes what has arrived, of many opens the first few. Called by the engine thread only.
    pub(super) fn take(&self) -> Mail {
        // Cleared before the mail is taken: what arrives afterwards wakes the thread again.
        self.woken.store(false, Ordering::Release);
        let mut mail = self.mail.lock();
        if mail.opens.len() <= OPENS_IN_A_SLICE {
            return std::mem::take(&mut *mail);
        }
        // What was said behind the opens waits with the rest of them, so that it holds for all.
        Mail {
            opens: mail.opens.drain(..OPENS_IN_A_SLICE).collect(),
            ready: std::mem::take(&mut mail.ready),
            caught: std::mem::take(&mut mail.caught),
            // A stream that comes later is asked by itself, and a crowd must not hold up an operator.
            inquiries: std::mem::take(&mut mail.inquiries),
            more: true,
            ..Mail::default()
        }
    }

    pub(super) fn set_stream_count(&self, count: usize) {
        self.streams.store(count, Ordering::Relaxed);
    }

    pub(super) fn stream_count(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}
