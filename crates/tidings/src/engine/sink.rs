//! Where a stream's bytes go: a socket, one under TLS, or the body of a response that hyper writes.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;

use super::mailbox::Mailbox;
use super::tls::TlsSink;

/// What a body takes at once.
const BODY_CHUNK: usize = 64 * 1024;

/// How much of it hyper is given at a time, when the peer's flow control lets it ask. What it has, it keeps until the
/// peer takes it, and nobody can have it back, so that this is no more than a frame.
const BODY_PIECE: usize = 16 * 1024;

/// The engine's side of a stream.
#[derive(Debug)]
pub(super) enum Sink {
    /// A non-blocking socket that the engine polls.
    Socket(mio::net::TcpStream),
    /// The same, and TLS over it. Boxed, so that it takes no room in the records of the others.
    Tls(Box<TlsSink>),
    /// A body that tells the mailbox when it can take more.
    Body(BodySink),
}

/// What a sink took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many bytes.
    pub(super) bytes: usize,
    /// It takes no more until it says so.
    pub(super) full: bool,
}

impl Sink {
    /// Writes as much as can be taken without waiting.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Taken> {
        let bytes = match self {
            Self::Socket(socket) => match parts {
                [only] => socket.write(only)?,
                _ => socket.write_vectored(parts)?,
            },
            Self::Body(body) => body.write(parts)?,
            Self::Tls(tls) => return tls.write(parts),
        };
        let offered = parts.iter().map(|part| part.len()).sum();
        Ok(Taken {
            bytes,
            full: bytes < offered,
        })
    }

    /// Passes on what it has taken and still holds itself, and gives whether it takes more now.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        match self {
            Self::Tls(tls) => tls.drain(),
            Self::Socket(_) | Self::Body(_) => Ok(true),
        }
    }

    /// Whether it holds bytes that can still be taken back.
    pub(super) fn holds_any(&self) -> bool {
        match self {
            Self::Body(body) => body.holds_any(),
            Self::Socket(_) | Self::Tls(_) => false,
        }
    }

    /// Has the end be a reset, so that what was given to it and not sent yet is not sent any more.
    pub(super) fn reset(&mut self) {
        if let Self::Body(body) = self {
            body.reset();
        } else if let Some(socket) = self.socket() {
            let socket = socket2::SockRef::from(&*socket);
            let _ = socket.set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// The socket under it, where there is one of its own.
    pub(super) fn socket(&mut self) -> Option<&mut mio::net::TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Tls(tls) => Some(&mut tls.socket),
            Self::Body(_) => None,
        }
    }
}

/// A pair: what the engine writes to and what hyper reads from. One chunk is on its way at a time.
#[must_use]
pub fn body() -> (BodySink, StreamBody) {
    let shared = Arc::new(Shared::default());
    (BodySink(Arc::clone(&shared)), StreamBody(shared))
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunk: Option<Bytes>,
    /// How it ends, when the engine writes no more.
    end: Option<BodyEnd>,
    /// hyper reads no more.
    gone: bool,
    /// hyper's task, waiting for a chunk.
    reader: Option<Waker>,
    /// Whom to tell, and the stream's slot there.
    engine: Option<(Arc<Mailbox>, usize)>,
    /// A write was refused or taken only in part.
    engine_waits: bool,
}

#[derive(Clone, Copy, Debug)]
enum BodyEnd {
    /// Behind what was written.
    Whole,
    /// At once.
    Reset,
}

impl State {
    fn tell_engine(&mut self) {
        if std::mem::take(&mut self.engine_waits)
            && let Some((mailbox, slot)) = &self.engine
        {
            mailbox.ready(*slot);
        }
    }
}

/// The engine's half of a body. Dropping it ends the response.
#[derive(Debug)]
pub struct BodySink(Arc<Shared>);

impl BodySink {
    /// From now on the mailbox hears when the body is gone or, after a refused write, has room.
    pub(super) fn attach(&self, mailbox: Arc<Mailbox>, slot: usize) {
        let mut state = self.0.state.lock();
        state.engine = Some((mailbox, slot));
        if state.gone {
            state.engine_waits = true;
            state.tell_engine();
        }
    }

    /// Whether it holds bytes that hyper has not asked for yet.
    pub(super) fn holds_any(&self) -> bool {
        self.0.state.lock().chunk.is_some()
    }

    /// Takes back what hyper has not asked for, and has the response reset.
    pub(super) fn reset(&self) {
        let mut state = self.0.state.lock();
        state.chunk = None;
        state.end = Some(BodyEnd::Reset);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Whether hyper has let go of the body: the peer is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.0.state.lock().gone
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.chunk.is_some() {
            state.engine_waits = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let mut chunk = BytesMut::with_capacity(offered.min(BODY_CHUNK));
        for part in parts {
            let room = BODY_CHUNK - chunk.len();
            chunk.extend_from_slice(&part[..part.len().min(room)]);
        }
        let taken = chunk.len();
        state.chunk = Some(chunk.freeze());
        state.engine_waits = taken < offered;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Ok(taken)
    }
}

impl Drop for BodySink {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.end.get_or_insert(BodyEnd::Whole);
        state.engine = None;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

/// hyper's half of a body. Dropping it, as hyper does when the peer goes, ends the stream.
#[derive(Debug)]
pub struct StreamBody(Arc<Shared>);

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = self.0.state.lock();
        if let Some(mut chunk) = state.chunk.take() {
            let piece = chunk.split_to(chunk.len().min(BODY_PIECE));
            if chunk.is_empty() {
                state.tell_engine();
            } else {
                state.chunk = Some(chunk);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(BodyEnd::Reset) => {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
            }
            Some(BodyEnd::Whole) => return Poll::Ready(None),
            None => {}
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.gone = true;
        state.engine_waits = true;
        state.tell_engine();
    }
}
