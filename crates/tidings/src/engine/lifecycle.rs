//! How streams open, idle and end.

use std::io;
use std::time::{Instant, SystemTime};

use mio::{Interest, Token};
use tidings_log::ReadError;
use tidings_protocol::api::{Closing, ClosingReason};
use tidings_protocol::{Position, sse};

use super::coding::RunningChecksum;
use super::counters::Transport;
use super::ended::EndedStream;
use super::index::slot as slot_of;
use super::sink::Sink;
use super::stream::{Stage, Stream, Unsent, Written};
use super::thread::{Thread, ticks};
use super::ticket::{OpenStream, Recheck, StreamSink, Ticket};
use super::wheel::Tick;
use crate::stream::preamble;
use crate::time::unix_microseconds;

/// How long a closing stream waits for its peer to take the last bytes and hang up.
const LINGER: std::time::Duration = std::time::Duration::from_millis(500);

/// Why a stream is over, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server closed it and told why.
    Closed(ClosingReason),
    /// The client hung up.
    ClientLeft,
    /// The connection broke.
    ConnectionLost,
    /// The client sent what nobody asked for.
    ClientTalked,
    /// The server stopped before the peer had taken the end.
    ServerStopped,
}

impl End {
    /// All there are.
    pub(super) const ALL: [Self; 11] = [
        Self::Closed(ClosingReason::Expired),
        Self::Closed(ClosingReason::Revoked),
        Self::Closed(ClosingReason::Draining),
        Self::Closed(ClosingReason::Deleted),
        Self::Closed(ClosingReason::ViewChanged),
        Self::Closed(ClosingReason::Disconnected),
        Self::Closed(ClosingReason::Stalled),
        Self::ClientLeft,
        Self::ConnectionLost,
        Self::ClientTalked,
        Self::ServerStopped,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.as_str(),
            Self::ClientLeft => "client_left",
            Self::ConnectionLost => "connection_lost",
            Self::ClientTalked => "client_talked",
            Self::ServerStopped => "server_stopped",
        }
    }
}

impl Thread {
    /// Takes over a stream.
    pub(super) fn open(&mut self, open: OpenStream) {
        let slot = self.streams.vacant_key();
        let Some(sink) = self.attach(open.sink, slot, &open.ticket) else {
            return;
        };
        let ended = open.recheck.and_then(Recheck::ask);
        let (group, place) = self.index.insert(open.view, open.coding, slot_of(slot));
        let heartbeat = ticks(self.options.heartbeat).max(1);
        // The first heartbeat comes after half to one interval, so that streams that were opened
        // together do not beat together.
        let head_start = rand::random_range(0..=heartbeat / 2);
        let counters = &self.mailbox.counters;
        counters.open(Transport::of(&sink), open.coding).increase();
        let mut unsent = Unsent::default();
        unsent.append(&open.head);
        unsent.append(open.coding.header());
        self.streams.insert(Stream {
            sink,
            group,
            place,
            stage: if open.snapshot.is_some() {
                Stage::Snapshot
            } else {
                Stage::Behind
            },
            blocked: false,
            told_stale: false,
            queued: false,
            cursor: open.after,
            began: open.after,
            whole: Position::MAX,
            told: open.after,
            coding: open.coding,
            checksum: RunningChecksum::default(),
            announced: open.announced,
            unsent,
            last_write: self.now,
            expires: 0,
            scheduled: Tick::MAX,
            discarded: 0,
            snapshot: open.snapshot.map(Box::new),
            wants_snapshot: open.wants_snapshot,
            conflation: open.conflation,
            conflated: 0,
            events_sent: 0,
            bytes_sent: 0,
            opened: Instant::now(),
            ticket: Box::new(open.ticket),
        });
        if ended.is_none() {
            // What it begins with can hold events.
            self.streams[slot].say(&open.preamble, &mut self.coder);
        }
        let expires = self.tick_of(self.streams[slot].ticket.identity.expires_at);
        self.streams[slot].expires = expires;
        self.schedule(slot, expires.min(self.now + heartbeat - head_start));
        if let Some(reason) = ended {
            // Before it is given anything.
            self.close(slot, reason);
            return;
        }
        self.tell_liveness(slot);
        if self.streams.contains(slot) {
            self.pull(slot);
        }
        if let Some(stream) = self.streams.get_mut(slot) {
            stream.last_write = self.now - head_start;
            if let Some(reason) = self.closing {
                // It was authorised just before the others were closed.
                self.close(slot, reason);
            }
        }
    }

    /// Sees to it that this thread hears of the stream's sink. None where it can't.
    fn attach(&mut self, sink: StreamSink, slot: usize, ticket: &Ticket) -> Option<Sink> {
        let mut sink = match sink {
            StreamSink::Socket(socket) => Sink::Socket(mio::net::TcpStream::from_std(socket)),
            StreamSink::Tls(tls) => Sink::Tls(Box::new(tls.into_sink())),
            StreamSink::Body(body) => {
                body.attach(std::sync::Arc::clone(&self.mailbox), slot);
                Sink::Body(body)
            }
        };
        if let Some(socket) = sink.socket() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            if let Err(error) = registry.register(socket, Token(slot), interest) {
                tracing::error!(%error, connection_id = %ticket.connection, "a stream's socket can't be polled");
                return None;
            }
        }
        Some(sink)
    }

    /// The position that a stream has been given its view up to.
    pub(super) fn reached(&self, stream: &Stream) -> Position {
        match stream.stage {
            Stage::Live => self.position,
            Stage::Snapshot | Stage::Behind | Stage::Waiting | Stage::Closing(_) => stream.cursor,
        }
    }

    /// Gives the sink what waits for it. False when the sink takes no more or the stream is over.
    /// A stream that has nothing unsent is flushed by that.
    pub(super) fn flush(&mut self, slot: usize) -> bool {
        let stream = &mut self.streams[slot];
        if stream.blocked {
            return false;
        }
        let before = stream.bytes_sent;
        let written = stream.flush(self.now, &mut self.spare);
        self.tally.add(0, stream.bytes_sent - before);
        match written {
            Written::All => {
                if matches!(stream.stage, Stage::Closing(_)) {
                    self.finish(slot);
                    return false;
                }
                let due = stream.told_stale != self.stale.is_some();
                if due {
                    self.tell_liveness(slot);
                }
                !due || self.streams.get(slot).is_some_and(Stream::is_clear)
            }
            Written::Part(_) => {
                self.leave_tail(slot);
                self.watch_for_stall(slot);
                false
            }
            Written::Failed(error) => {
                self.peer_failed(slot, &error);
                false
            }
        }
    }

    /// A stream whose sink is full no longer follows the tail: what comes next must wait behind what
    /// is unsent.
    pub(super) fn leave_tail(&mut self, slot: usize) {
        let position = self.position;
        let stream = &mut self.streams[slot];
        if stream.stage == Stage::Live {
            stream.stage = Stage::Behind;
            stream.cursor = position;
            self.mailbox.counters.lapses.add(1);
        }
    }

    /// Tells the stream that what it is shown may be old, or is live again, once for each change.
    pub(super) fn tell_liveness(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        let stale = self.stale.as_deref();
        if stream.told_stale == stale.is_some()
            || stream.blocked
            || matches!(stream.stage, Stage::Closing(_))
        {
            return;
        }
        stream.told_stale = stale.is_some();
        let mut frame = Vec::new();
        match stale {
            Some(data) => sse::write_event_without_id(&mut frame, "stale", data.as_bytes()),
            None => sse::write_event_without_id(&mut frame, "fresh", b"{}"),
        }
        stream.say(&frame, &mut self.coder);
        self.flush(slot);
    }

    /// Looks at the streams whose time has come.
    pub(super) fn work_off_wheel(&mut self) {
        while let Some((tick, due)) = self.wheel.due(self.now) {
            for &slot in &due {
                let slot = slot as usize;
                if self
                    .streams
                    .get(slot)
                    .is_some_and(|stream| stream.scheduled == tick)
                {
                    self.look_at(slot);
                }
            }
            self.wheel.recycle(tick, due);
        }
    }

    fn look_at(&mut self, slot: usize) {
        let heartbeat = ticks(self.options.heartbeat).max(1);
        let stall = ticks(self.options.stall_timeout).max(1);
        let stream = &self.streams[slot];
        if let Stage::Closing(deadline) = stream.stage {
            if self.now >= deadline {
                self.forget(slot);
            } else {
                self.schedule(slot, deadline);
            }
            return;
        }
        if self.now >= stream.expires {
            self.close(slot, ClosingReason::Expired);
            return;
        }
        if stream.blocked && self.now >= stream.last_write + stall {
            self.close(slot, ClosingReason::Stalled);
            return;
        }
        if stream.is_clear() && self.now >= stream.last_write + heartbeat {
            self.beat(slot);
        }
        let Some(stream) = self.streams.get(slot) else {
            return;
        };
        let next = if stream.blocked { stall } else { heartbeat };
        let due = stream
            .expires
            .min((stream.last_write + next).max(self.now + 1));
        self.schedule(slot, due);
    }

    /// Sends the sign of life: the place where a stream stands, where that has moved, or a comment. The stream has
    /// nothing unsent.
    fn beat(&mut self, slot: usize) {
        self.mailbox.counters.heartbeats.add(1);
        let reached = self.reached(&self.streams[slot]);
        let stream = &mut self.streams[slot];
        stream.unsent = Unsent::within(std::mem::take(&mut self.spare));
        if reached > stream.told {
            self.words.clear();
            preamble::write_cursor(&mut self.words, &self.pool.cursors().text(reached));
            stream.told = reached;
            stream.say(&self.words, &mut self.coder);
        } else {
            stream.say(sse::HEARTBEAT, &mut self.coder);
        }
        self.flush(slot);
    }

    /// Sees to it that a stream whose sink has just refused bytes is looked at in time.
    pub(super) fn watch_for_stall(&mut self, slot: usize) {
        let due = self.streams[slot].last_write + ticks(self.options.stall_timeout).max(1);
        if due < self.streams[slot].scheduled {
            self.schedule(slot, due);
        }
    }

    fn schedule(&mut self, slot: usize, due: Tick) {
        self.streams[slot].scheduled = self.wheel.insert(slot_of(slot), due);
    }

    /// Closes every stream, also those that are still on their way here.
    pub(super) fn close_all(&mut self, reason: ClosingReason) {
        self.closing = Some(reason);
        let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close(slot, reason);
        }
    }

    /// Ends a stream and tells its client why, where it can still take that.
    pub(super) fn close(&mut self, slot: usize, reason: ClosingReason) {
        let stream = &mut self.streams[slot];
        if matches!(stream.stage, Stage::Closing(_)) {
            return;
        }
        let authority_ended = matches!(
            reason,
            ClosingReason::Expired
                | ClosingReason::Revoked
                | ClosingReason::Deleted
                | ClosingReason::ViewChanged
        );
        let is_behind = stream.blocked || stream.sink.holds_any();
        if is_behind && (authority_ended || reason == ClosingReason::Stalled) {
            // What the kernel still holds must not reach a peer whose authority is over, and must
            // not be held for one that reads nothing.
            self.streams[slot].sink.reset();
            self.remove(slot, End::Closed(reason));
            return;
        }
        let retry = match reason {
            ClosingReason::Draining => self.retry_elsewhere(),
            _ => preamble::jittered(self.options.retry),
        };
        let closing = Closing {
            reason,
            retry,
            conflated: self.streams[slot].conflated,
        };
        let data = serde_json::to_vec(&closing).expect("a plain struct");
        let mut frame = Vec::new();
        sse::write_event_without_id(&mut frame, "closing", &data);
        let deadline = self.now + ticks(LINGER);
        self.report(slot, End::Closed(reason));
        let stream = &mut self.streams[slot];
        stream.say(&frame, &mut self.coder);
        stream.end_coding();
        stream.stage = Stage::Closing(deadline);
        self.schedule(slot, deadline);
        self.flush(slot);
    }

    /// The last byte has gone to the sink: says so to the peer and waits a little for its end, since
    /// closing at once on unread input would reset the connection and lose the last bytes.
    fn finish(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        let ended = match &mut stream.sink {
            Sink::Socket(socket) => socket.shutdown(std::net::Shutdown::Write).map(|()| true),
            Sink::Tls(tls) => tls.end(),
            // hyper sees to the end of the response.
            Sink::Body(_) => return self.forget(slot),
        };
        match ended {
            Ok(true) => {}
            // It is called again when the socket takes the rest.
            Ok(false) => stream.blocked = true,
            Err(_) => self.forget(slot),
        }
    }

    /// A write has failed: the peer is gone.
    pub(super) fn peer_failed(&mut self, slot: usize, error: &io::Error) {
        if matches!(self.streams[slot].stage, Stage::Closing(_)) {
            self.forget(slot);
        } else {
            self.remove(slot, end_by(error));
        }
    }

    /// The log could not be read for this stream, which can resume elsewhere or later.
    pub(super) fn read_failed(&mut self, slot: usize, error: &ReadError) {
        tidings_log::seldom!(error, %error, connection_id = %self.streams[slot].ticket.connection, "the log can't be read for a stream");
        self.close(slot, ClosingReason::Disconnected);
    }

    /// Ends a stream at once.
    pub(super) fn remove(&mut self, slot: usize, end: End) {
        if !matches!(self.streams[slot].stage, Stage::Closing(_)) {
            self.report(slot, end);
        }
        self.forget(slot);
    }

    /// Drops the record; its socket closes and its place is free again.
    pub(super) fn forget(&mut self, slot: usize) {
        let mut stream = self.streams.remove(slot);
        let counters = &self.mailbox.counters;
        counters
            .open(Transport::of(&stream.sink), stream.coding)
            .decrease();
        if let Some(socket) = stream.sink.socket() {
            let _ = self.poll.registry().deregister(socket);
        }
        if let Some(moved) = self.index.remove(stream.group, stream.place) {
            self.streams[moved as usize].place = stream.place;
        }
    }

    fn report(&mut self, slot: usize, end: End) {
        // Free before anyone hears of the end: whoever comes back at once must find the place.
        self.streams[slot].ticket.place = None;
        self.mailbox.counters.count_end(end);
        let stream = &self.streams[slot];
        let ticket = &stream.ticket;
        tracing::info!(
            target: "tidings::stream",
            connection_id = %ticket.connection,
            tenant_id = ticket.tenant.map(tracing::field::display),
            user_id = %ticket.identity.user,
            role = %ticket.identity.role,
            cursor = %self.pool.cursors().text(self.reached(stream)),
            duration_seconds = stream.opened.elapsed().as_secs_f64(),
            events = stream.events_sent,
            bytes = stream.bytes_sent,
            conflated = stream.conflated,
            reason = end.as_str(),
            "stream_closed"
        );
        self.ended.add(EndedStream {
            connection: ticket.connection,
            rules: ticket.rules.clone(),
            address: ticket.address,
            opened_at: ticket.opened_at,
            closed_at: unix_microseconds(SystemTime::now()),
            because: end.as_str(),
            after: stream.began,
            given: stream.given(self.position),
            conflated: stream.conflation.clone().filter(|_| stream.conflated > 0),
        });
    }
}

pub(super) fn end_by(error: &io::Error) -> End {
    match error.kind() {
        // The kernel gave up on a peer that acknowledged nothing (TCP_USER_TIMEOUT).
        io::ErrorKind::TimedOut => End::Closed(ClosingReason::Stalled),
        _ => End::ConnectionLost,
    }
}
