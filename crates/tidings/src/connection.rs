//! One accepted connection: which HTTP it speaks, and taking a stream's socket back from hyper.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::engine::{OpenStream, StreamSink};
use crate::front::Front;

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop leaves a new connection to say something.
const FRESH: Duration = Duration::from_millis(500);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a handler gives a stream to the driver of its HTTP/1 connection. It is found among the
/// request's extensions.
#[derive(Clone, Debug, Default)]
pub struct HandOver {
    shared: Arc<HandOverSlot>,
}

#[derive(Debug, Default)]
struct HandOverSlot {
    /// At most one: the handler waits for ever afterwards. Dropped with the connection, which
    /// frees the stream's place, if the driver never comes for it.
    stream: Mutex<Option<OpenStream>>,
    given: Notify,
}

impl HandOver {
    /// Leaves the stream to the connection's driver.
    pub fn give(&self, stream: OpenStream) {
        *self.shared.stream.lock() = Some(stream);
        self.shared.given.notify_one();
    }

    async fn taken(&self) -> OpenStream {
        loop {
            self.shared.given.notified().await;
            if let Some(stream) = self.shared.stream.lock().take() {
                return stream;
            }
        }
    }
}

/// Serves one connection until it ends, its socket goes to an engine, or `stopping` asks it to end.
pub async fn serve(
    app: Arc<App>,
    front: Front,
    mut socket: TcpStream,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let preface = tokio::select! {
        preface = tokio::time::timeout(HEAD_TIMEOUT, read_preface(&mut socket)) => preface,
        // Browsers open connections in advance; one that has said nothing holds up no stop.
        () = unspoken(&stopping) => return,
    };
    let Ok(Ok((prefix, http2))) = preface else {
        return;
    };
    let io = TokioIo::new(Rewound {
        prefix,
        read: 0,
        socket,
    });
    if http2 {
        serve_http2(front, io, peer, stopping).await;
    } else {
        serve_http1(app, front, io, peer, stopping).await;
    }
}

/// When a stop no longer waits for a connection that begins now to say something. Who has just connected is about to
/// speak, and a restart is to leave no request without an answer.
async fn unspoken(stopping: &CancellationToken) {
    let fresh = tokio::time::sleep(FRESH);
    stopping.cancelled().await;
    fresh.await;
}

/// Reads until it is clear which HTTP the client speaks. What was read is served first afterwards:
/// peeking instead would spin while a client has sent no more than a `P`.
async fn read_preface(socket: &mut TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut prefix = vec![0; HTTP2_PREFACE.len()];
    let mut length = 0;
    loop {
        let read = socket.read(&mut prefix[length..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += read;
        let matches = prefix[..length] == HTTP2_PREFACE[..length];
        if !matches || length == HTTP2_PREFACE.len() {
            prefix.truncate(length);
            return Ok((prefix, matches));
        }
    }
}

async fn serve_http1(
    app: Arc<App>,
    front: Front,
    io: TokioIo<Rewound>,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let hand_over = HandOver::default();
    let in_requests = hand_over.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer = front
            .clone()
            .answer(request, peer, Some(in_requests.clone()));
        // The driver below takes futures that can be moved.
        Box::pin(async { Ok::<_, Infallible>(answer.await) })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(io, service);
    let mut asked_to_stop = false;
    let stream = loop {
        let driver = std::future::poll_fn(|context| connection.poll_without_shutdown(context));
        tokio::select! {
            biased;
            stream = hand_over.taken() => break stream,
            ended = driver => {
                if ended.is_ok() {
                    let mut socket = connection.into_parts().io.into_inner().socket;
                    let _ = socket.shutdown().await;
                }
                return;
            }
            () = stopping.cancelled(), if !asked_to_stop => {
                asked_to_stop = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    // What hyper has read ahead is dropped with its buffer: a stream's connection takes nothing more.
    let socket = connection.into_parts().io.into_inner().socket;
    if let Err(error) = open_on_socket(&app, socket, stream).await {
        tracing::debug!(%error, %peer, "a stream's connection broke before it began");
    }
}

async fn open_on_socket(app: &App, socket: TcpStream, mut stream: OpenStream) -> io::Result<()> {
    let socket = socket.into_std()?;
    bound_kernel_share(app, &socket, stream.conflation.is_some());
    stream.sink = StreamSink::Socket(socket);
    app.engines.open(stream).await;
    Ok(())
}

/// What the kernel holds for a stream that conflates, in bytes. What it holds can't be superseded any more:
/// the less, the sooner a status is through that comes behind it.
const CONFLATING_SEND_BUFFER: usize = 16 * 1024;

/// Bounds what the kernel holds for a stream and for how long. A stream works without it too, so a
/// kernel that refuses is told of and forgiven: its token is spent already.
fn bound_kernel_share(app: &App, socket: &std::net::TcpStream, conflates: bool) {
    let options = SockRef::from(socket);
    // The kernel's own watch over a peer that acknowledges nothing, a little after the engine's.
    let config = app.config();
    let stall = config.stream.stall_timeout + Duration::from_secs(5);
    let configured = config.stream.send_buffer;
    let send_buffer = if conflates {
        configured.min(CONFLATING_SEND_BUFFER)
    } else {
        configured
    };
    let bounded = options
        .set_send_buffer_size(send_buffer)
        .and_then(|()| options.set_tcp_user_timeout(Some(stall)));
    if let Err(error) = bounded {
        tracing::warn!(%error, "a stream's socket keeps the kernel's defaults");
    }
}

async fn serve_http2(
    front: Front,
    io: TokioIo<Rewound>,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer = front.clone().answer(request, peer, None);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// A socket with the bytes in front that were read from it already.
struct Rewound {
    prefix: Vec<u8>,
    read: usize,
    socket: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.prefix.len() {
            let rest = &self.prefix[self.read..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            self.read += count;
            if self.read == self.prefix.len() {
                self.prefix = Vec::new();
                self.read = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
