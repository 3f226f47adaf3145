//! What an authorised stream brings to the engine.

use std::fmt;
use std::net::{IpAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;

use tidings_protocol::api::ClosingReason;
use tidings_protocol::{Position, TenantId};

use super::coding::Coding;
use super::sink::BodySink;
use super::snapshot::SnapshotReading;
use super::tls::TlsSocket;
use crate::auth::Identity;
use crate::fanout::{Conflation, Rules, View};
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

/// The text names no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection id is sse- and 12 lower-case hex digits, such as sse-1f0c9a7be210")]
pub struct InvalidConnectionId;

impl FromStr for ConnectionId {
    type Err = InvalidConnectionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sse-").ok_or(InvalidConnectionId)?;
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 12 || !digits.bytes().all(plain) {
            return Err(InvalidConnectionId);
        }
        u64::from_str_radix(digits, 16)
            .map(Self)
            .map_err(|_| InvalidConnectionId)
    }
}

/// Whose stream it is; dropping it frees the stream's place within the limits.
#[derive(Debug)]
pub struct Ticket {
    /// The stream's name.
    pub connection: ConnectionId,
    /// Whose access token opened it.
    pub identity: Arc<Identity>,
    /// What bounds its view.
    pub rules: Rules,
    /// The tenant in the path; `None` for `GET /events/stream`.
    pub tenant: Option<TenantId>,
    /// Where the request came from.
    pub address: IpAddr,
    /// When it was opened, in microseconds since the Unix epoch.
    pub opened_at: i64,
    /// The stream's place within the limits, until its end is reported.
    pub place: Option<Place>,
}

/// Where a stream's bytes go.
#[derive(Debug)]
pub enum StreamSink {
    /// A plain HTTP/1 connection, taken back from hyper.
    Socket(TcpStream),
    /// The same over TLS.
    Tls(Box<TlsSocket>),
    /// The body of a response that hyper writes (HTTP/2).
    Body(BodySink),
}

/// Asked by the engine when it takes a stream over: whether what the stream was authorised by still
/// stands, and if not why the stream is to end.
///
/// Whoever ends streams because something has changed makes the change first and then tells the
/// engines. A stream that is with its engine by then is ended by that; one that comes later finds the
/// change here. So none slips through, and none is given a single event by what no longer stands.
pub struct Recheck(Box<dyn FnOnce() -> Option<ClosingReason> + Send>);

impl Recheck {
    /// A question that must be answered at once, from memory.
    #[must_use]
    pub fn new(ask: impl FnOnce() -> Option<ClosingReason> + Send + 'static) -> Self {
        Self(Box::new(ask))
    }

    /// Why the stream is to end, if what it was authorised by no longer stands.
    pub(crate) fn ask(self) -> Option<ClosingReason> {
        (self.0)()
    }
}

impl fmt::Debug for Recheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Recheck")
    }
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
    /// What it begins with, if it asked how things are; true at `after`.
    pub snapshot: Option<SnapshotReading>,
    /// It is to get a snapshot again behind each gap.
    pub wants_snapshot: bool,
    /// The types of which it can do with the latest while it lags.
    pub conflation: Option<Arc<Conflation>>,
    /// What is asked again when an engine takes it over, if anything can have changed.
    pub recheck: Option<Recheck>,
    /// Whose it is.
    pub ticket: Ticket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_connection_id_round_trips_and_nothing_else_is_one() {
        for _ in 0..100 {
            let id = ConnectionId::random();
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "sse-",
            "sse-1f0c9a7be21",
            "sse-1f0c9a7be2100",
            "sse-1F0C9A7BE210",
            "sse-+f0c9a7be210",
            "1f0c9a7be210",
        ] {
            assert_eq!(
                text.parse::<ConnectionId>(),
                Err(InvalidConnectionId),
                "{text}"
            );
        }
    }
}
