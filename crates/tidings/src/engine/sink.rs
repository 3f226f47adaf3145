//! Where a stream's bytes go: a socket, or the body of a response that hyper writes.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;

use super::mailbox::Mailbox;

/// What a body takes at once. hyper holds it until the peer's flow control lets it go.
const BODY_CHUNK: usize = 64 * 1024;

/// The engine's side of a stream.
#[derive(Debug)]
pub(super) enum Sink {
    /// A non-blocking socket that the engine polls.
    Socket(mio::net::TcpStream),
    /// A body that tells the mailbox when it can take more.
    Body(BodySink),
}

impl Sink {
    /// Writes as much as can be taken without waiting.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => {
                let mut socket = socket;
                match parts {
                    [only] => socket.write(only),
                    _ => socket.write_vectored(parts),
                }
            }
            Self::Body(body) => body.write(parts),
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
    /// The engine writes no more.
    ended: bool,
    /// hyper reads no more.
    gone: bool,
    /// hyper's task, waiting for a chunk.
    reader: Option<Waker>,
    /// Whom to tell, and the stream's slot there.
    engine: Option<(Arc<Mailbox>, usize)>,
    /// A write was refused or taken only in part.
    engine_waits: bool,
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
        state.ended = true;
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
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = self.0.state.lock();
        if let Some(chunk) = state.chunk.take() {
            state.tell_engine();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if state.ended {
            return Poll::Ready(None);
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
