//! The loop: one epoll set with all streams and publishers.

mod requests;
mod streams;

use std::collections::VecDeque;

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::clock;
use crate::histogram::Histogram;
use crate::network::Sources;
use crate::payload::Lane;
use crate::requester::{Answer, Requester};
use crate::scan::Scanner;
use crate::stream::{Phase, Stream, Tally};
use crate::target::{Speaker, Target};
use crate::tls::Terms;

/// Epoll data from here on are requesters'.
const REQUESTERS: u64 = 1 << 32;
/// Few, so that a publisher whose time has come does not wait for many reads.
const EVENTS_PER_TURN: usize = 128;
/// As few, for the same reason.
const STARTS_PER_TURN: usize = 32;
const INPUT_BYTES: usize = 256 << 10;
/// Without any event for so long, nothing more will come.
pub(crate) const PATIENCE: u64 = 15_000_000;

/// The tag of the metronome's requests.
const METRONOME: u64 = u64::MAX;

/// Publishes one event to a lane at a steady rate, whatever else goes on.
#[derive(Clone, Copy, Debug)]
pub struct Metronome {
    /// Where the events go.
    pub lane: usize,
    /// Whose connection carries them; nothing else may use it.
    pub requester: usize,
    /// Microseconds from one to the next.
    pub interval: u64,
    /// When the next is due.
    pub next: u64,
}

/// Everything that the load generator holds.
pub struct Driver {
    /// Writes requests.
    pub speaker: Speaker,
    /// Where events go.
    pub lanes: Vec<Lane>,
    /// What came.
    pub tally: Tally,
    /// From sending to receipt, of the streams that are timed.
    pub latency: Histogram,
    /// Answers that nobody has taken yet.
    pub answers: VecDeque<Answer>,
    /// Publishes while the driver waits for other things.
    pub metronome: Option<Metronome>,
    /// The first few complaints of servers, for people to read.
    pub complaints: Vec<String>,
    tls: Option<Terms>,
    epoll: OwnedFd,
    sources: Sources,
    streams: Vec<Stream>,
    requesters: Vec<Requester>,
    scanner: Scanner,
    input: Vec<u8>,
    ready: Vec<epoll::Event>,
    opening: usize,
    users: usize,
}

impl Driver {
    /// A driver without any connection.
    pub fn new(target: Target) -> Result<Self> {
        let tls = target.certificate.as_deref().map(Terms::trusting);
        Ok(Self {
            tls: tls.transpose()?,
            speaker: Speaker::new(target),
            lanes: Vec::new(),
            tally: Tally::default(),
            latency: Histogram::default(),
            answers: VecDeque::new(),
            metronome: None,
            complaints: Vec::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: Sources::new(),
            streams: Vec::new(),
            requesters: Vec::new(),
            scanner: Scanner::default(),
            input: vec![0; INPUT_BYTES],
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            opening: 0,
            users: 0,
        })
    }

    /// Waits for something to happen, at most until `deadline`, and deals with it. Returns whether
    /// anything happened.
    pub fn turn(&mut self, deadline: u64) -> Result<bool> {
        let deadline = deadline.min(self.tick()?);
        let left = deadline.saturating_sub(clock::now());
        let timeout = Timespec {
            tv_sec: (left / 1_000_000).cast_signed(),
            tv_nsec: (left % 1_000_000 * 1_000).cast_signed(),
        };
        let mut ready = std::mem::take(&mut self.ready);
        match epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = !ready.is_empty();
        for event in ready.drain(..) {
            let (data, flags) = (event.data.u64(), event.flags);
            if let Some(requester) = data.checked_sub(REQUESTERS) {
                self.requester_ready(usize::try_from(requester)?, flags)?;
            } else {
                self.stream_ready(usize::try_from(data)?, flags)?;
            }
        }
        self.ready = ready;
        Ok(any)
    }

    /// Takes turns until `deadline`.
    pub fn run_until(&mut self, deadline: u64) -> Result<()> {
        while clock::now() < deadline {
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Takes turns until every open stream has what it is due, or nothing more comes. Returns how
    /// many events are missing.
    pub fn settle(&mut self) -> Result<u64> {
        let mut last = (clock::now(), self.tally.events);
        let mut look = 0;
        loop {
            let any = self.turn(clock::now() + 20_000)?;
            // Adding up all streams is cheap, but not after every event.
            if !any || clock::now() > look {
                if self.missing() == 0 {
                    return Ok(0);
                }
                look = clock::now() + 50_000;
            }
            if self.tally.events != last.1 {
                last = (clock::now(), self.tally.events);
            } else if clock::now() - last.0 > PATIENCE {
                return Ok(self.missing());
            }
        }
    }

    /// How many events the open streams that read have not received, of those published.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing_where(|_| true)
    }

    /// How many events the open streams of one lane have not received.
    #[must_use]
    pub fn missing_in(&self, lane: usize) -> u64 {
        self.missing_where(|stream| stream.lane == lane)
    }

    fn missing_where(&self, wanted: impl Fn(&Stream) -> bool) -> u64 {
        let all: u64 = self.lanes.iter().map(|lane| lane.published).sum();
        let open = |stream: &&Stream| stream.phase == Phase::Open && wanted(stream);
        let missing = |stream: &Stream| {
            let lane = self.lanes[stream.lane].published;
            let published = if stream.everything { all } else { lane };
            (stream.behind + published - stream.from).abs_diff(stream.received)
        };
        self.streams.iter().filter(open).map(missing).sum()
    }
}
