//! Bodies of requests, into memory.

use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt as _;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::app::App;
use crate::error::Refusal;
use crate::limits::Share;

/// For so long a body may come as slowly as it likes: a connection that has just been made is slow.
const FREE: Duration = Duration::from_secs(5);

/// Reads a body of at most `limit` bytes. The share is of the memory for bodies; drop it with the body.
///
/// # Errors
///
/// 400 where it breaks off, 408 where it takes too long or comes too slowly, 413 where it is too large, 503 where the
/// bodies that are coming in take as much memory as they may.
pub(crate) async fn receive(
    app: &App,
    body: Body,
    limit: usize,
) -> Result<(Bytes, Share), Refusal> {
    let mut room = app.limits.body();
    let pace = {
        let limits = &app.config().limits;
        Pace {
            begun: Instant::now(),
            time: limits.body_time,
            rate: limits.body_rate,
        }
    };
    let body = gather(body, limit, &mut room, &pace).await?;
    Ok((body, room))
}

/// How fast a body must come.
struct Pace {
    begun: Instant,
    /// All of it.
    time: Duration,
    /// So many bytes a second; 0 is no bound.
    rate: u64,
}

impl Pace {
    /// Until when more must have come of a body of which so much is there.
    fn until(&self, length: usize) -> Instant {
        self.begun + self.time.min(self.paid(length))
    }

    /// For how long what is there is enough.
    fn paid(&self, length: usize) -> Duration {
        if self.rate == 0 {
            return Duration::MAX;
        }
        let seconds = Duration::try_from_secs_f64(length as f64 / self.rate as f64);
        seconds.map_or(Duration::MAX, |seconds| seconds.saturating_add(FREE))
    }

    fn refusal(&self, length: usize) -> Refusal {
        let detail = if self.time <= self.paid(length) {
            format!("the body did not arrive within {:?}", self.time)
        } else {
            let rate = self.rate;
            format!("the body comes more slowly than {rate} bytes a second (limits.body_rate)")
        };
        Refusal::new(StatusCode::REQUEST_TIMEOUT, detail)
    }
}

async fn gather(
    mut body: Body,
    limit: usize,
    room: &mut Share,
    pace: &Pace,
) -> Result<Bytes, Refusal> {
    // Most bodies come in one piece, which is not copied then.
    let mut pieces = SmallVec::<[Bytes; 2]>::new();
    let mut length = 0;
    loop {
        let next = tokio::time::timeout_at(pace.until(length), body.frame()).await;
        let Some(frame) = next.map_err(|_| pace.refusal(length))? else {
            break;
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_pays_for_the_time_to_come() {
        let pace = Pace {
            begun: Instant::now(),
            time: Duration::from_mins(1),
            rate: 1_000,
        };
        let granted = |length| (pace.until(length) - pace.begun).as_millis();
        assert_eq!(granted(0), 5_000);
        assert_eq!(granted(1), 5_001);
        assert_eq!(granted(20_000), 25_000);
        // Never beyond the whole time.
        assert_eq!(granted(100_000), 60_000);
        assert_eq!(granted(usize::MAX), 60_000);
        assert!(pace.refusal(1).detail().contains("1000 bytes a second"));
        assert!(pace.refusal(100_000).detail().contains("within 60s"));
        let unbound = Pace { rate: 0, ..pace };
        assert_eq!((unbound.until(0) - unbound.begun).as_secs(), 60);
    }
}
