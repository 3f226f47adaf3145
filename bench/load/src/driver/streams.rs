//! Streams: opened, read, ended.

use std::io;

use anyhow::{Result, ensure};
use rustix::event::epoll;
use rustix::net::{self, RecvFlags};

use super::{Driver, INPUT_BYTES, PATIENCE, STARTS_PER_TURN};
use crate::clock;
use crate::coding::Decoder;
use crate::network;
use crate::requester::status;
use crate::stream::{Phase, Stream};
use crate::target::Wish;

impl Driver {
    /// Opens streams, at most `at_once` at a time, and waits for their heads.
    pub fn open(&mut self, wishes: Vec<Wish>, behind: u64, at_once: usize) -> Result<()> {
        let mut wishes = wishes.into_iter();
        let mut last = (clock::now(), 0);
        let before = self.tally.opened + self.tally.refused;
        loop {
            // A few at a time, or the streams that are open would not be read meanwhile.
            for _ in 0..STARTS_PER_TURN.min(at_once - self.opening) {
                let Some(wish) = wishes.next() else {
                    break;
                };
                self.start_stream(&wish, behind)?;
            }
            if self.opening == 0 {
                return Ok(());
            }
            let full = self.opening == at_once || wishes.len() == 0;
            self.turn(if full { clock::now() + 100_000 } else { 0 })?;
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
        let mut stream = match &self.tls {
            None => Stream::new(socket, request),
            Some(terms) => {
                let session = terms.begin(&request)?;
                let mut stream = Stream::new(socket, Vec::new());
                stream.tls = Some(Box::new(session));
                stream
            }
        };
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

    /// Closes all streams at once.
    pub fn close_streams(&mut self) {
        self.streams.clear();
        for lane in &mut self.lanes {
            lane.streams = 0;
        }
    }

    pub(super) fn stream_ready(&mut self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        let stream = &mut self.streams[index];
        let Some(socket) = &stream.socket else {
            return Ok(());
        };
        if let Some(tls) = &mut stream.tls
            && stream.phase == Phase::Connecting
        {
            match tls.advance(socket) {
                Ok(true) => {
                    stream.phase = Phase::Head;
                    self.watch_stream(index, epoll::EventFlags::IN)?;
                }
                Ok(false) if tls.wants_write() => {
                    self.watch_stream(index, epoll::EventFlags::OUT)?;
                }
                Ok(false) => self.watch_stream(index, epoll::EventFlags::IN)?,
                Err(error) => self.end(index, &format!("shaking hands: {error}")),
            }
            return Ok(());
        }
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
        // What is left of a compressed stream is text already; it does not belong before the bytes.
        let kept = if stream.decoder.is_some() {
            0
        } else {
            stream.rest.len()
        };
        if self.input.len() < kept + INPUT_BYTES / 2 {
            self.input.resize(kept + INPUT_BYTES, 0);
        }
        self.input[..kept].copy_from_slice(&stream.rest[..kept]);
        let room = &mut self.input[kept..];
        let received = match &mut stream.tls {
            None => net::recv(socket, room, RecvFlags::empty())
                .map(|(length, _)| length)
                .map_err(io::Error::from),
            Some(tls) => tls.receive(socket, room),
        };
        match received {
            Ok(0) => self.end(index, "closed by the server"),
            Ok(length) => self.take(index, kept + length, length)?,
            Err(error) if is_passing(&error) => {}
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
            stream.decoder = Decoder::for_head(&text)?;
            stream.rest = Vec::new();
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
        if let Some(mut decoder) = stream.decoder.take() {
            let mut plain = std::mem::take(&mut stream.rest);
            decoder.decode(&self.input[start..filled], &mut plain)?;
            let used = self
                .scanner
                .scan(&plain, |piece| stream.take(piece, now, tally, latency));
            plain.drain(..used);
            stream.rest = plain;
            stream.decoder = Some(decoder);
            return Ok(());
        }
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

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
