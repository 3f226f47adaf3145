//! Bodies of requests, into memory.

use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt as _;
use smallvec::SmallVec;

use crate::app::App;
use crate::error::Refusal;
use crate::limits::Share;

/// Reads a body of at most `limit` bytes. The share is of the memory for bodies; drop it with the body.
///
/// # Errors
///
/// 400 where it breaks off, 408 where it takes too long, 413 where it is too large, 503 where the bodies that are
/// coming in take as much memory as they may.
pub(crate) async fn receive(
    app: &App,
    body: Body,
    limit: usize,
) -> Result<(Bytes, Share), Refusal> {
    let mut room = app.limits.body();
    let time = app.config().limits.body_time;
    let received = tokio::time::timeout(time, gather(body, limit, &mut room)).await;
    let body = received.unwrap_or_else(|_| {
        Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {time:?}"),
        ))
    })?;
    Ok((body, room))
}

async fn gather(mut body: Body, limit: usize, room: &mut Share) -> Result<Bytes, Refusal> {
    // Most bodies come in one piece, which is not copied then.
    let mut pieces = SmallVec::<[Bytes; 2]>::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length += piece.len();
        if length > limit {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body is at most {limit} bytes; send it in smaller bodies"),
            ));
        }
        if !room.grow(piece.len() as u64) {
            return Err(Refusal::unavailable(
                "the server is taking in as many bodies as it has memory for (limits.bodies_in_memory)",
                Duration::from_secs(1),
            ));
        }
        pieces.push(piece);
    }
    if let [piece] = &mut pieces[..] {
        return Ok(std::mem::take(piece));
    }
    let mut whole = BytesMut::with_capacity(length);
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
