//! HTTP/2 on a connection, and how much one client may make of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::transport::Transport;
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

/// Serves the connection until it ends, or `stopping` asks it to.
pub(super) async fn serve(
    front: Front,
    io: TokioIo<Transport>,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer = front.clone().answer(request, peer, None);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
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
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
