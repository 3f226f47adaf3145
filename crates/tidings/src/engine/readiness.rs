//! What the streams' sockets tell: there is something to read, or room again.

use std::io::{self, Read as _};

use super::lifecycle::{End, end_by};
use super::sink::Sink;
use super::stream::Stage;
use super::thread::Thread;
use super::tls::Read;

/// A peer that sends this much to a stream, which takes nothing, is cut off.
const MAX_DISCARDED: u32 = 64 * 1024;

impl Thread {
    /// The socket has something to read, or room again; or the body has.
    pub(super) fn socket_ready(&mut self, slot: usize, readable: bool, writable: bool) {
        let Some(stream) = self.streams.get_mut(slot) else {
            return;
        };
        let gone = match &mut stream.sink {
            Sink::Body(body) => body.is_gone().then_some(End::ClientLeft),
            Sink::Socket(_) => readable.then(|| self.read_and_discard(slot)).flatten(),
            // What hyper had read may have held the end; the first time that is all there is to find it by.
            Sink::Tls(tls) if !readable => tls.has_heard_the_end().then_some(End::ClientLeft),
            Sink::Tls(_) => self.read_tls(slot),
        };
        let stream = &mut self.streams[slot];
        match (gone, stream.stage) {
            (Some(_), Stage::Closing(_)) => self.forget(slot),
            (Some(end), _) => self.remove(slot, end),
            (None, _) if writable && stream.blocked => self.unblock(slot),
            (None, _) => {}
        }
    }

    /// The sink takes bytes again: first those that it holds itself.
    fn unblock(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        match stream.sink.drain() {
            Ok(has_room) => {
                // There is room since the peer has taken something.
                stream.last_write = self.now;
                stream.blocked = !has_room;
                if has_room {
                    self.queue_turn(slot);
                }
            }
            Err(error) => self.peer_failed(slot, &error),
        }
    }

    /// A stream takes nothing from its client; whatever comes is thrown away, up to a limit.
    fn read_and_discard(&mut self, slot: usize) -> Option<End> {
        let stream = &mut self.streams[slot];
        let Sink::Socket(socket) = &mut stream.sink else {
            return None;
        };
        loop {
            match socket.read(&mut self.read_buffer) {
                Ok(0) => return Some(End::ClientLeft),
                Ok(count) => {
                    stream.discarded = stream.discarded.saturating_add(bounded(count));
                    if stream.discarded > MAX_DISCARDED {
                        return Some(End::ClientTalked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(end_by(&error)),
            }
        }
    }

    /// The same over TLS, which may ask for an answer of its own: new keys.
    fn read_tls(&mut self, slot: usize) -> Option<End> {
        let stream = &mut self.streams[slot];
        let Sink::Tls(tls) = &mut stream.sink else {
            return None;
        };
        loop {
            match tls.read() {
                Ok(Read { ended: true, .. }) => return Some(End::ClientLeft),
                Ok(Read { count, .. }) => {
                    stream.discarded = stream.discarded.saturating_add(bounded(count));
                    if stream.discarded > MAX_DISCARDED {
                        return Some(End::ClientTalked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(end_by(&error)),
            }
        }
        match tls.drain() {
            Ok(true) => {}
            Ok(false) => {
                stream.blocked = true;
                self.leave_tail(slot);
                self.watch_for_stall(slot);
            }
            Err(error) => return Some(end_by(&error)),
        }
        None
    }
}

/// A count of bytes that were read at once.
fn bounded(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
