//! HTTP/2 on a connection, and how much one client may make of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Patience;
use super::transport::Transport;
use super::unread::{Overdue, Progress};
use crate::front::Front;

/// Requests and streams of a connection at a time; a client that needs more makes another connection.
const STREAMS: u32 = 200;

/// How many requests a client may have taken back before this server has looked at them. One more ends the
/// connection ("rapid reset", CVE-2023-44487).
const RESETS_AHEAD: usize = 20;

/// How many requests may have to be reset because the client breaks the protocol, until the connection is ended
/// ("made you reset", CVE-2025-8671).
const ERRORS: usize = 100;

/// The largest head of a request, decoded and counted as RFC 9113, section 6.5.2 does, in bytes. It bounds
/// `CONTINUATION` frames too. A hundred heads may lie in the memory of one connection, so it is less than over HTTP/1.
const MAX_HEAD: u32 = 16 * 1024;

/// What may wait to be sent, for each stream, in bytes: one chunk of a stream's body.
const SEND_BUFFER: usize = 64 * 1024;

/// What a client may send ahead, in bytes: for each request, and for all of a connection.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// After how long a connection is asked for a sign of life, and how long it may take to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

tokio::task_local! {
    /// How far the answer of the request is that a task serves.
    static PROGRESS: Progress;
}

/// Runs the requests of a connection, each in a task of its own that ends with its answer, and counts them. An answer that
/// its client leaves unread is given up: h2 resets its stream, and the others of the connection go on.
#[derive(Clone)]
struct Requests {
    under_way: watch::Sender<usize>,
    peer: SocketAddr,
}

impl<F> Executor<F> for Requests
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.under_way.send_modify(|count| *count += 1);
        let counted = Counted(self.under_way.clone());
        let peer = self.peer;
        let progress = Progress::default();
        let mut overdue = Overdue::of(progress.clone());
        tokio::spawn(PROGRESS.scope(progress, async move {
            let _counted = counted;
            tokio::select! {
                biased;
                () = request => {}
                () = std::future::poll_fn(|context| overdue.poll(context)) => {
                    tracing::debug!(%peer, "an answer is not read");
                }
            }
        }));
    }
}

/// A request that is under way.
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Waits until there was no request for that long. A client that answers pings says nothing else by it than that it is there.
async fn idle(requests: &mut watch::Receiver<usize>, patience: Duration) {
    loop {
        // The sender lives as long as the connection.
        let _ = requests.wait_for(|count| *count == 0).await;
        tokio::select! {
            () = tokio::time::sleep(patience) => return,
            _ = requests.changed() => {}
        }
    }
}

/// Serves the connection until it ends, is not used for too long, or `stopping` asks it to end.
pub(super) async fn serve(
    front: Front,
    io: TokioIo<Transport>,
    peer: SocketAddr,
    patience: Patience,
    stopping: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let front = front.clone();
        async move {
            let progress = PROGRESS.with(Progress::clone);
            Ok::<_, Infallible>(front.answer(request, peer, None, progress).await)
        }
    });
    let (under_way, mut requests) = watch::channel(0);
    let executor = Requests { under_way, peer };
    let connection = hyper::server::conn::http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS_AHEAD)
        .max_local_error_reset_streams(ERRORS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut leaving = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.cancelled(), if !leaving => {}
            () = idle(&mut requests, patience.idle) => {
                // It was told, and what it still has to take it does not take.
                if leaving {
                    return;
                }
            }
        }
        leaving = true;
        connection.as_mut().graceful_shutdown();
    }
}
