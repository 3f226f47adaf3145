//! Answers that their clients do not read. What an answer holds (its place among `limits.requests`, its memory) it holds
//! until it is written, so there must be an end to the writing.
//!
//! Two things can stand still: the socket, which [`super::Rewound`] watches, and over HTTP/2 one answer of a connection
//! whose socket is well, because its client opens no window for it. [`AnswerBody`] sees the latter: it is asked for the next
//! piece when there is room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::limits::{ReadPlace, Share};

/// What is given out of an answer at a time, in bytes. hyper and h2 hold what they were given until it is written, however
/// much that is, so they are given little.
const PIECE: usize = 16 * 1024;

/// The last piece of an answer, in bytes. It is out of our sight once the one before has found room, so it is small.
const LAST_PIECE: usize = 1024;

/// How many bytes of an answer a client must take in a second, beyond its first while: one that takes a little now and
/// then would hold it for ever.
const SLOWEST: u32 = 1024;

/// How far the writing of one answer has come, for whoever watches over it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Until when more must be taken, while there is an answer.
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Progress {
    fn begin(&self, patience: Duration) {
        *self.deadline.lock() = Some(Instant::now() + patience);
    }

    fn passed(&self, bytes: usize, patience: Duration) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1) * bytes / SLOWEST;
        if let Some(deadline) = &mut *self.deadline.lock() {
            *deadline = (*deadline + earned).min(Instant::now() + patience);
        }
    }

    fn end(&self) {
        *self.deadline.lock() = None;
    }
}

/// Waits until an answer has taken too long. It is to be polled behind what writes, so that it sees each new deadline.
#[derive(Debug)]
pub(super) struct Overdue {
    progress: Progress,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Overdue {
    pub(super) fn of(progress: Progress) -> Self {
        Self {
            progress,
            sleep: None,
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = *self.progress.deadline.lock() else {
                return Poll::Pending;
            };
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // Deadlines mostly move away: a timer that is set for an earlier one is left alone until it comes.
            if sleep.is_elapsed() || sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(context));
        }
    }
}

/// What an answer holds until it is written.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "given back by being dropped")]
pub(crate) struct Held {
    /// Its place among the requests.
    pub(crate) room: Option<Share>,
    /// Its memory.
    pub(crate) memory: Option<Share>,
    /// Its tenant's place.
    pub(crate) read: Option<Arc<ReadPlace>>,
}

/// The body of an answer, given out in small pieces, with all that the answer holds until it is written.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    body: Body,
    /// Taken out of the body and not given yet.
    rest: Bytes,
    held: Held,
    watched: Option<(Progress, Duration)>,
}

impl AnswerBody {
    /// An answer whose writing is bounded elsewhere: a stream.
    pub(crate) fn unhurried(body: Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            held: Held::default(),
            watched: None,
        }
    }

    /// An answer that holds this, and whose client is to take more of it within `patience` each time.
    pub(crate) fn hurried(body: Body, held: Held, progress: Progress, patience: Duration) -> Self {
        progress.begin(patience);
        Self {
            body,
            rest: Bytes::new(),
            held,
            watched: Some((progress, patience)),
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let left = self.rest.len();
        let next = match left.checked_sub(LAST_PIECE) {
            None | Some(0) => left,
            Some(before) => before.min(PIECE),
        };
        if let Some((progress, patience)) = &self.watched {
            progress.passed(next, *patience);
        }
        Frame::data(self.rest.split_to(next))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) if self.watched.is_some() => frame,
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                self.piece()
            }
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some((progress, _)) = &self.watched {
            progress.end();
        }
        // Not before nobody watches over it any more.
        self.held = Held::default();
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_in_pieces_and_is_overdue_when_they_are_not_taken() {
        let progress = Progress::default();
        let mut overdue = Overdue::of(progress.clone());
        let mut is_overdue = async || {
            std::future::poll_fn(|context| Poll::Ready(overdue.poll(context).is_ready())).await
        };
        assert!(!is_overdue().await);
        let whole = Body::from(vec![7; 3 * PIECE]);
        let mut body = AnswerBody::hurried(whole, Held::default(), progress, PATIENCE);
        let mut given = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(
                body.size_hint().exact(),
                Some((3 * PIECE - given.iter().sum::<usize>()) as u64)
            );
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let frame = frame.await.unwrap().unwrap();
            given.push(frame.into_data().unwrap().len());
            tokio::time::advance(Duration::from_secs(10)).await;
            assert!(!is_overdue().await, "{given:?}");
        }
        assert_eq!(given, [PIECE, PIECE, PIECE - LAST_PIECE, LAST_PIECE]);
        tokio::time::advance(PATIENCE).await;
        assert!(is_overdue().await);
        drop(body);
        assert!(!is_overdue().await, "what was let go is not overdue");
    }
}
