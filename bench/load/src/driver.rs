//! The loop: one epoll set with all streams and publishers.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags};

use crate::clock;
use crate::histogram::Histogram;
use crate::network::{self, Sources};
use crate::payload::Lane;
use crate::requester::{Answer, Requester, status};
use crate::scan::Scanner;
use crate::stream::{Phase, Stream, Tally};
use crate::target::{Speaker, Target, Wish};

/// Epoll data from here on are requesters'.
const REQUESTERS: u64 = 1 << 32;
/// Few, so that a publisher whose time has come does not wait for many reads.
const EVENTS_PER_TURN: usize = 128;
const INPUT_BYTES: usize = 256 << 10;
/// Without any event for so long, nothing more will come.
pub(crate) const PATIENCE: u64 = 15_000_000;

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
    /// The first few complaints of servers, for people to read.
    pub complaints: Vec<String>,
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
        Ok(Self {
            speaker: Speaker::new(target),
            lanes: Vec::new(),
            tally: Tally::default(),
            latency: Histogram::default(),
            answers: VecDeque::new(),
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
        let all: u64 = self.lanes.iter().map(|lane| lane.published).sum();
        let reading = self
            .streams
            .iter()
            .filter(|stream| stream.phase == Phase::Open);
        reading
            .map(|stream| {
                let published = if stream.everything {
                    all
                } else {
                    self.lanes[stream.lane].published
                };
                (stream.behind + published - stream.from).abs_diff(stream.received)
            })
            .sum()
    }

    /// Opens streams, at most `at_once` at a time, and waits for their heads.
    pub fn open(&mut self, wishes: Vec<Wish>, behind: u64, at_once: usize) -> Result<()> {
        let mut wishes = wishes.into_iter();
        let mut last = (clock::now(), 0);
        let before = self.tally.opened + self.tally.refused;
        loop {
            while self.opening < at_once {
                let Some(wish) = wishes.next() else {
                    break;
                };
                self.start_stream(&wish, behind)?;
            }
            if self.opening == 0 {
                return Ok(());
            }
            self.turn(clock::now() + 100_000)?;
            let done = self.tally.opened + self.tally.refused - before;
            if done != last.1 {
                last = (clock::now(), done);
            }
            ensure!(
                clock::now() - last.0 < PATIENCE,
                "{} streams wait for their heads in vain; {done} are open",
                self.opening
            );
        }
    }

    fn start_stream(&mut self, wish: &Wish, behind: u64) -> Result<()> {
        let lane = &mut self.lanes[wish.lane];
        let request = self.speaker.open(wish, self.users, lane);
        self.users += 1;
        let socket = self
            .sources
            .connect(self.speaker.target.address, wish.deaf)?;
        let mut stream = Stream::new(socket, request);
        stream.lane = wish.lane;
        stream.timed = wish.timed;
        stream.deaf = wish.deaf;
        stream.everything = wish.everything;
        stream.behind = behind;
        stream.from = lane.published;
        lane.streams += 1;
        if wish.everything {
            stream.from = self.lanes.iter().map(|lane| lane.published).sum();
        }
        let data = epoll::EventData::new_u64(self.streams.len() as u64);
        if let Some(socket) = &stream.socket {
            epoll::add(&self.epoll, socket, data, epoll::EventFlags::OUT)?;
        }
        self.streams.push(stream);
        self.opening += 1;
        Ok(())
    }

    /// Connects until there are `count` requesters.
    pub fn connect_requesters(&mut self, count: usize) -> Result<()> {
        while self.requesters.len() < count {
            let socket = self.connect_requester(self.requesters.len())?;
            self.requesters.push(Requester::new(socket));
        }
        Ok(())
    }

    fn connect_requester(&mut self, index: usize) -> Result<OwnedFd> {
        let address = self.speaker.target.address;
        let socket = self.sources.connect(address, false)?;
        let data = epoll::EventData::new_u64(REQUESTERS + index as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        Ok(socket)
    }

    /// Whether a requester waits for an answer.
    #[must_use]
    pub fn busy(&self, requester: usize) -> bool {
        self.requesters[requester].busy()
    }

    /// Sends a request; its answer comes to [`Driver::answers`] with `tag`.
    pub fn request(&mut self, requester: usize, request: Vec<u8>, tag: u64) -> Result<()> {
        if self.requesters[requester].socket.is_none() {
            self.requesters[requester].socket = Some(self.connect_requester(requester)?);
        }
        if !self.requesters[requester].start(request, tag)? {
            self.watch_requester(requester, true)?;
        }
        Ok(())
    }

    /// Waits until no requester waits for an answer, and checks all answers.
    pub fn finish_requests(&mut self) -> Result<()> {
        let give_up = clock::now() + PATIENCE;
        while self.requesters.iter().any(Requester::busy) {
            ensure!(clock::now() < give_up, "a request stays unanswered");
            self.turn(clock::now() + 100_000)?;
        }
        while let Some(answer) = self.answers.pop_front() {
            self.check(&answer);
        }
        Ok(())
    }

    /// Complains about an answer that is no success; returns whether it is one.
    pub fn check(&mut self, answer: &Answer) -> bool {
        let success = (200..300).contains(&answer.status);
        if !success {
            let text = String::from_utf8_lossy(&answer.body);
            self.complain(format!("status {}: {text}", answer.status));
        }
        success
    }

    /// Keeps a complaint, of the first few.
    pub fn complain(&mut self, text: String) {
        if self.complaints.len() < 5 {
            self.complaints.push(text);
        }
    }

    /// Closes all streams at once.
    pub fn close_streams(&mut self) {
        self.streams.clear();
        for lane in &mut self.lanes {
            lane.streams = 0;
        }
    }

    fn watch_requester(&self, index: usize, writable: bool) -> Result<()> {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, writable);
        let data = epoll::EventData::new_u64(REQUESTERS + index as u64);
        if let Some(socket) = &self.requesters[index].socket {
            epoll::modify(&self.epoll, socket, data, flags)?;
        }
        Ok(())
    }

    fn requester_ready(&mut self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        let requester = &mut self.requesters[index];
        if flags.contains(epoll::EventFlags::OUT) && requester.flush()? {
            self.watch_requester(index, false)?;
        }
        let requester = &mut self.requesters[index];
        let Some(socket) = &requester.socket else {
            return Ok(());
        };
        match net::recv(socket, &mut self.input[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => {
                ensure!(
                    !requester.busy(),
                    "the server closed a connection instead of answering"
                );
                requester.socket = None;
            }
            Ok((length, _)) => {
                if let Some(answer) = requester.take(&self.input[..length], index)? {
                    self.answers.push_back(answer);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).context("a publisher's connection"),
        }
        Ok(())
    }

    fn stream_ready(&mut self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        let stream = &mut self.streams[index];
        let Some(socket) = &stream.socket else {
            return Ok(());
        };
        if stream.phase == Phase::Connecting {
            let sent = match network::send(socket, &stream.rest) {
                Ok(sent) => sent,
                Err(error) => {
                    self.end(index, &format!("connecting: {error}"));
                    return Ok(());
                }
            };
            stream.rest.drain(..sent);
            if stream.rest.is_empty() {
                stream.phase = Phase::Head;
                self.watch_stream(index, epoll::EventFlags::IN)?;
            }
            return Ok(());
        }
        let over = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if stream.phase == Phase::Deaf {
            if flags.intersects(over) {
                self.end(index, "closed while deaf");
            }
            return Ok(());
        }
        let kept = stream.rest.len();
        if self.input.len() < kept + INPUT_BYTES / 2 {
            self.input.resize(kept + INPUT_BYTES, 0);
        }
        self.input[..kept].copy_from_slice(&stream.rest);
        match net::recv(socket, &mut self.input[kept..], RecvFlags::empty()) {
            Ok((0, _)) => self.end(index, "closed by the server"),
            Ok((length, _)) => self.take(index, kept + length, length)?,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => self.end(index, &error.to_string()),
        }
        Ok(())
    }

    /// Takes `filled` bytes of the input, `fresh` of which are new, as a stream's.
    fn take(&mut self, index: usize, filled: usize, fresh: usize) -> Result<()> {
        let now = clock::now();
        self.tally.bytes += fresh as u64;
        let stream = &mut self.streams[index];
        let mut start = 0;
        let mut deaf = false;
        if stream.phase == Phase::Head {
            let Some(head) = memchr::memmem::find(&self.input[..filled], b"\r\n\r\n") else {
                stream.rest = self.input[..filled].to_vec();
                return Ok(());
            };
            start = head + 4;
            let text = String::from_utf8_lossy(&self.input[..head]);
            if status(&text)? != 200 {
                let text = String::from_utf8_lossy(&self.input[..filled]).into_owned();
                self.opening -= 1;
                self.tally.refused += 1;
                stream.phase = Phase::Closed;
                stream.socket = None;
                self.complain(format!("a stream was refused: {text}"));
                return Ok(());
            }
            stream.phase = if stream.deaf {
                Phase::Deaf
            } else {
                Phase::Open
            };
            deaf = stream.deaf;
            self.opening -= 1;
            self.tally.opened += 1;
        }
        let stream = &mut self.streams[index];
        let (tally, latency) = (&mut self.tally, &mut self.latency);
        let used = self.scanner.scan(&self.input[start..filled], |piece| {
            stream.take(piece, now, tally, latency);
        });
        stream.rest.clear();
        let rest = &self.input[start + used..filled];
        if rest.is_empty() {
            // Thousands of streams that were read once must not each keep a buffer.
            stream.rest = Vec::new();
        } else {
            stream.rest.extend_from_slice(rest);
        }
        if deaf {
            self.watch_stream(index, epoll::EventFlags::RDHUP)?;
        }
        Ok(())
    }

    fn watch_stream(&self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        if let Some(socket) = &self.streams[index].socket {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, socket, data, flags)?;
        }
        Ok(())
    }

    /// Notes that a stream is over.
    fn end(&mut self, index: usize, why: &str) {
        let stream = &mut self.streams[index];
        let phase = std::mem::replace(&mut stream.phase, Phase::Closed);
        stream.socket = None;
        self.lanes[stream.lane].streams -= 1;
        match phase {
            Phase::Connecting | Phase::Head => {
                self.opening -= 1;
                self.tally.refused += 1;
                self.complain(format!("a stream failed before its head: {why}"));
            }
            Phase::Deaf => self.tally.closed += 1,
            Phase::Open => {
                self.tally.closed += 1;
                self.complain(format!("an open stream ended: {why}"));
            }
            Phase::Closed => {}
        }
    }
}
