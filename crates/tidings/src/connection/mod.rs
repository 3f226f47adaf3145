//! One accepted connection: what stands in front of HTTP, which HTTP it speaks, and taking a stream's socket back
//! from hyper.

mod http2;
mod transport;
mod unread;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::edge::{Edge, Tls, proxy_protocol, tls};
use crate::engine::{OpenStream, StreamSink, TlsSocket};
use crate::front::Front;
pub use transport::Rewound;
use transport::Transport;
use unread::Overdue;
pub(crate) use unread::{AnswerBody, Held, Progress};

/// How long a request's head may take, and what comes before the first one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How much later than the engine the kernel gives up a stream's peer.
const AFTER_THE_ENGINE: Duration = Duration::from_secs(5);

/// How long a stop leaves a new connection to say something.
const FRESH: Duration = Duration::from_millis(500);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The most header lines of a request.
const MAX_HEADERS: usize = 100;

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

/// How long a connection's client may keep its part waiting.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For one that takes nothing of an answer.
    unread: Duration,
    /// The same where streams may be among the answers, for which the engine has a time of its own.
    unread_with_streams: Duration,
    /// For one that asks for nothing over HTTP/2.
    idle: Duration,
}

impl Patience {
    fn of(app: &App) -> Self {
        let config = app.config();
        let unread = config.limits.unread_time;
        Self {
            unread,
            unread_with_streams: unread.max(config.stream.stall_timeout + AFTER_THE_ENGINE),
            idle: config.limits.idle_time,
        }
    }
}

/// Serves one connection until it ends, its socket goes to an engine, or `stopping` asks it to end.
pub async fn serve(
    app: Arc<App>,
    front: Front,
    socket: TcpStream,
    peer: SocketAddr,
    edge: Edge,
    stopping: CancellationToken,
) {
    let patience = Patience::of(&app);
    // The kernel's own watch, over those too that have their answer in its buffers and are gone.
    let watched = SockRef::from(&socket).set_tcp_user_timeout(Some(patience.unread_with_streams));
    if let Err(error) = watched {
        tracing::debug!(%error, %peer, "a connection keeps the kernel's patience");
    }
    let entered = tokio::select! {
        // After a standstill both may be ready: what has come is not dropped for that.
        biased;
        entered = enter(socket, peer, &edge, patience) => entered,
        // Browsers open connections in advance; one that has said nothing holds up no stop.
        () = unspoken(&stopping) => return,
    };
    let Some(entered) = entered else {
        return;
    };
    let mut transport = entered.transport;
    let peer = entered.peer;
    if entered.http2 {
        transport.wait_for_reader(patience.unread_with_streams);
    }
    let io = TokioIo::new(transport);
    if entered.http2 {
        http2::serve(front, io, peer, patience, stopping).await;
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

/// A connection up to where HTTP begins.
struct Entered {
    transport: Transport,
    /// For whom the connection was made.
    peer: SocketAddr,
    http2: bool,
}

/// Reads what stands in front of HTTP. `None` where that is not what it must be, or takes too long.
async fn enter(
    mut socket: TcpStream,
    mut peer: SocketAddr,
    edge: &Edge,
    patience: Patience,
) -> Option<Entered> {
    let mut ahead = Vec::new();
    if edge.expects_head_from(peer.ip()) {
        let head = tokio::time::timeout(HEAD_TIMEOUT, proxy_protocol::read(&mut socket)).await;
        let head = head.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match head {
            Ok((source, behind)) => {
                peer = source.unwrap_or(peer);
                ahead = behind;
            }
            // Only from those who are trusted, so that nobody else can fill the log.
            Err(error) => {
                tracing::warn!(%error, %peer, "a proxy's connection is refused (proxies.protocol)");
                return None;
            }
        }
    }
    let (transport, http2) = if let Some(tls) = &edge.tls {
        shake_hands(tls, Rewound::new(ahead, socket, patience.unread), peer).await?
    } else {
        let preface = read_preface(&mut socket, ahead);
        let (ahead, http2) = tokio::time::timeout(HEAD_TIMEOUT, preface)
            .await
            .ok()?
            .ok()?;
        (
            Transport::Plain(Rewound::new(ahead, socket, patience.unread)),
            http2,
        )
    };
    Some(Entered {
        transport,
        peer,
        http2,
    })
}

async fn shake_hands(tls: &Tls, socket: Rewound, peer: SocketAddr) -> Option<(Transport, bool)> {
    match tls.accept(socket).await {
        Ok(stream) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
            Some((Transport::Tls(Box::new(stream)), http2))
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "no handshake");
            None
        }
    }
}

/// Reads until it is clear which HTTP the client speaks; `ahead` was read already. What was read is served first
/// afterwards: peeking instead would spin while a client has sent no more than a `P`.
async fn read_preface(socket: &mut TcpStream, mut ahead: Vec<u8>) -> io::Result<(Vec<u8>, bool)> {
    loop {
        let length = ahead.len().min(HTTP2_PREFACE.len());
        let matches = ahead[..length] == HTTP2_PREFACE[..length];
        if !matches || length == HTTP2_PREFACE.len() {
            return Ok((ahead, matches));
        }
        let mut chunk = [0; HTTP2_PREFACE.len()];
        let read = socket.read(&mut chunk[length..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ahead.extend_from_slice(&chunk[length..length + read]);
    }
}

async fn serve_http1(
    app: Arc<App>,
    front: Front,
    io: TokioIo<Transport>,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let hand_over = HandOver::default();
    let in_requests = hand_over.clone();
    let progress = Progress::default();
    let mut overdue = Overdue::of(progress.clone());
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer =
            front
                .clone()
                .answer(request, peer, Some(in_requests.clone()), progress.clone());
        // The driver below takes futures that can be moved.
        Box::pin(async { Ok::<_, Infallible>(answer.await) })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(io, service);
    let mut asked_to_stop = false;
    let stream = loop {
        let driver = std::future::poll_fn(|context| connection.poll_without_shutdown(context));
        tokio::select! {
            biased;
            stream = hand_over.taken() => break stream,
            ended = driver => {
                if ended.is_ok() {
                    let mut transport = connection.into_parts().io.into_inner();
                    let _ = transport.shutdown().await;
                }
                return;
            }
            () = std::future::poll_fn(|context| overdue.poll(context)) => {
                tracing::debug!(%peer, "an answer is not read");
                return;
            }
            () = stopping.cancelled(), if !asked_to_stop => {
                asked_to_stop = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    // What hyper has read ahead is dropped with its buffer: a stream's connection takes nothing more.
    let transport = connection.into_parts().io.into_inner();
    if let Err(error) = open_on(&app, transport, stream).await {
        tracing::debug!(%error, %peer, "a stream's connection broke before it began");
    }
}

async fn open_on(app: &App, transport: Transport, mut stream: OpenStream) -> io::Result<()> {
    let conflates = stream.conflation.is_some();
    stream.sink = match transport {
        Transport::Plain(socket) => {
            let socket = socket.into_socket().into_std()?;
            bound_kernel_share(app, &socket, conflates);
            StreamSink::Socket(socket)
        }
        Transport::Tls(tls) => {
            let (socket, connection) = tls.into_inner();
            let socket = socket.into_socket().into_std()?;
            bound_kernel_share(app, &socket, conflates);
            StreamSink::Tls(Box::new(TlsSocket::new(socket, connection)))
        }
    };
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
    let stall = config.stream.stall_timeout + AFTER_THE_ENGINE;
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
        tidings_log::seldom!(warn, %error, "a stream's socket keeps the kernel's defaults");
    }
}
