//! One open stream and what is checked on it.

use rustix::fd::OwnedFd;

use crate::coding::Decoder;
use crate::histogram::Histogram;
use crate::scan::Piece;
use crate::tls::Line;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The handshake, if there is one, is not over, or the request not sent in full.
    Connecting,
    /// The head of the response is not complete.
    Head,
    Open,
    /// Open, and never read again.
    Deaf,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) phase: Phase,
    pub(crate) lane: usize,
    pub(crate) timed: bool,
    pub(crate) deaf: bool,
    pub(crate) everything: bool,
    /// What is left to send, then what is left of the last read.
    pub(crate) rest: Vec<u8>,
    /// Where the server compresses it.
    pub(crate) decoder: Option<Decoder>,
    /// Where it is over TLS.
    pub(crate) tls: Option<Box<Line>>,
    position: u64,
    sequence: u64,
    /// How many events it is due, counted apart from its lane's: those behind its cursor.
    pub(crate) behind: u64,
    /// What its lane had published when it opened.
    pub(crate) from: u64,
    pub(crate) received: u64,
}

/// What all streams together received, and what was wrong with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Streams that were opened.
    pub opened: u64,
    /// Streams that were refused.
    pub refused: u64,
    /// Streams that the server closed.
    pub closed: u64,
    /// Events received.
    pub events: u64,
    /// Events whose position or sequence was not above that of the one before.
    pub disordered: u64,
    /// Heartbeat comments.
    pub heartbeats: u64,
    /// `event: cursor`.
    pub cursors: u64,
    /// `event: gap`.
    pub gaps: u64,
    /// `event: closing`.
    pub closings: u64,
    /// Blocks that are none of these.
    pub others: u64,
    /// Bytes received on streams.
    pub bytes: u64,
}

impl Stream {
    pub(crate) fn new(socket: OwnedFd, request: Vec<u8>) -> Self {
        Self {
            socket: Some(socket),
            phase: Phase::Connecting,
            lane: 0,
            timed: false,
            deaf: false,
            everything: false,
            rest: request,
            decoder: None,
            tls: None,
            position: 0,
            sequence: 0,
            behind: 0,
            from: 0,
            received: 0,
        }
    }

    /// Counts and checks one piece; `now` is when it was read.
    pub(crate) fn take(
        &mut self,
        piece: Piece,
        now: u64,
        tally: &mut Tally,
        latency: &mut Histogram,
    ) {
        match piece {
            Piece::Event { position, stamp } => {
                self.received += 1;
                tally.events += 1;
                // Where ids are cursors their order tells; elsewhere the publisher's numbering does,
                // which holds while a lane has one publisher at a time.
                if let Some(position) = position {
                    tally.disordered += u64::from(position <= self.position);
                    self.position = position;
                } else {
                    tally.disordered += u64::from(stamp.sequence <= self.sequence);
                    self.sequence = stamp.sequence;
                }
                if self.timed {
                    latency.record(now.saturating_sub(stamp.sent));
                }
            }
            Piece::Cursor { position } => {
                tally.cursors += 1;
                if let Some(position) = position {
                    tally.disordered += u64::from(position < self.position);
                    self.position = position;
                }
            }
            Piece::Closing => tally.closings += 1,
            Piece::Gap => tally.gaps += 1,
            Piece::Heartbeat => tally.heartbeats += 1,
            Piece::Other => tally.others += 1,
        }
    }
}
