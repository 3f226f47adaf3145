//! What an authorised stream brings to the engine.

use std::fmt;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use super::coding::Coding;
use super::sink::BodySink;
use crate::auth::Identity;
use crate::fanout::View;
use crate::limits::Place;

/// Names one stream to its client, in logs and to operators: `sse-` and 12 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// A new one, by chance.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random::<u64>() >> 16)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sse-{:012x}", self.0)
    }
}

/// Whose stream it is; dropping it frees the stream's place within the limits.
#[derive(Debug)]
pub struct Ticket {
    /// The stream's name.
    pub connection: ConnectionId,
    /// Whose access token opened it.
    pub identity: Arc<Identity>,
    /// The tenant in the path; `None` for `GET /events/stream`.
    pub tenant: Option<TenantId>,
    /// Where the request came from.
    pub address: IpAddr,
    /// The stream's place within the limits, until its end is reported.
    pub place: Option<Place>,
}

/// Where a stream's bytes go.
#[derive(Debug)]
pub enum StreamSink {
    /// A plain HTTP/1 connection, taken back from hyper.
    Socket(TcpStream),
    /// The body of a response that hyper writes (HTTP/2).
    Body(BodySink),
}

/// A stream to be opened.
#[derive(Debug)]
pub struct OpenStream {
    /// Where its bytes go.
    pub sink: StreamSink,
    /// What it sees.
    pub view: View,
    /// It shows what comes after this position.
    pub after: Position,
    /// Its preamble tells of everything that retention has removed up to here.
    pub announced: Position,
    /// How its bytes are coded.
    pub coding: Coding,
    /// The response's head, for a socket; it is not coded.
    pub head: Vec<u8>,
    /// What is sent before the first event: `retry`, the connection's name, a gap where there is
    /// one, and the cursor `after`.
    pub preamble: Vec<u8>,
    /// Whose it is.
    pub ticket: Ticket,
}
