//! Requests: one at a time on each of a few kept-alive connections.

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags};

use super::{Driver, METRONOME, PATIENCE, REQUESTERS};
use crate::clock;
use crate::requester::{Answer, Requester};

impl Driver {
    /// Publishes the metronome's event if it is due; returns when to look again.
    pub(super) fn tick(&mut self) -> Result<u64> {
        let Some(mut metronome) = self.metronome else {
            return Ok(u64::MAX);
        };
        let now = clock::now();
        if now >= metronome.next && !self.busy(metronome.requester) {
            let lane = &mut self.lanes[metronome.lane];
            let request = self.speaker.publish(lane, 1, now);
            self.request(metronome.requester, request, METRONOME)?;
            metronome.next = (metronome.next + metronome.interval).max(now);
            self.metronome = Some(metronome);
        }
        // While an answer is awaited, its coming ends the turn.
        Ok(if metronome.next > now {
            metronome.next
        } else {
            u64::MAX
        })
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
        let target = &self.speaker.target;
        let address = target.publish_address.unwrap_or(target.address);
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

    fn watch_requester(&self, index: usize, writable: bool) -> Result<()> {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, writable);
        let data = epoll::EventData::new_u64(REQUESTERS + index as u64);
        if let Some(socket) = &self.requesters[index].socket {
            epoll::modify(&self.epoll, socket, data, flags)?;
        }
        Ok(())
    }

    pub(super) fn requester_ready(&mut self, index: usize, flags: epoll::EventFlags) -> Result<()> {
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
                let answer = requester.take(&self.input[..length], index)?;
                // Not used again: the next request would meet the closing.
                if answer.is_some() && std::mem::take(&mut requester.closing) {
                    requester.socket = None;
                }
                match answer {
                    Some(answer) if answer.tag == METRONOME => {
                        self.check(&answer);
                    }
                    Some(answer) => self.answers.push_back(answer),
                    None => {}
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).context("a publisher's connection"),
        }
        Ok(())
    }
}
