//! The bounded queue from the handle to the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tidings_protocol::TenantId;

use crate::event::NewEvent;
use crate::format::{event_bytes, frame_bytes};
use crate::log::Answer;
use crate::{AppendError, Busy, Chain};

/// A group of so many bodies or more says that the next will be as large.
const CROWD: usize = 4;
/// How often the writer lets others go first before a group.
const GATHERING_TURNS: usize = 4;

/// A body on its way to the writer.
pub(crate) struct Submission {
    pub(crate) tenant: TenantId,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) answer: Answer,
    pub(crate) chain: Option<Chain>,
    /// Bytes that its frame takes at most.
    pub(crate) bytes: u64,
    pub(crate) submitted: Instant,
}

impl Submission {
    pub(crate) fn new(tenant: TenantId, events: Vec<NewEvent>, answer: Answer) -> Self {
        let bytes = frame_bytes(events.iter().map(event_bytes).sum());
        Self {
            tenant,
            events,
            answer,
            chain: None,
            bytes,
            submitted: Instant::now(),
        }
    }

    /// What it takes in memory.
    fn cost(&self) -> u64 {
        self.bytes + (self.events.len() * size_of::<NewEvent>()) as u64
    }
}

/// What the writer is to do next.
pub(crate) enum Work {
    /// Store these.
    Bodies(Vec<Submission>),
    /// Nothing came for the time asked.
    Idle,
    /// The upkeep thread wants the writer to look after its segment.
    Nudge,
    /// Purge this tenant, before anything that waits is stored.
    Purge(PurgeRequest),
    /// Everything submitted was handed out, and nothing more comes.
    Close,
}

/// A tenant to be purged, and where the answer goes.
pub(crate) struct PurgeRequest {
    pub(crate) tenant: TenantId,
    pub(crate) answer: Sender<Result<(), AppendError>>,
}

pub(crate) struct Queue {
    limit: u64,
    inner: Mutex<Inner>,
    signal: Condvar,
    /// How often the writer has come for work.
    turns: AtomicU64,
}

struct Inner {
    waiting: VecDeque<Submission>,
    bytes: u64,
    purges: VecDeque<PurgeRequest>,
    nudged: bool,
    closing: bool,
    /// How many bodies were handed out last.
    last_taken: usize,
    /// What further submissions are answered.
    stopped: Option<AppendError>,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit as u64,
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                purges: VecDeque::new(),
                nudged: false,
                closing: false,
                last_taken: 0,
                stopped: None,
            }),
            signal: Condvar::new(),
            turns: AtomicU64::new(0),
        }
    }

    /// A body that alone exceeds the limit passes when nothing else waits.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), Busy> {
        let mut inner = self.inner.lock();
        let stopped = match &inner.stopped {
            Some(error) => Some(error.clone()),
            None if inner.closing => Some(AppendError::Closed),
            None => None,
        };
        if let Some(error) = stopped {
            drop(inner);
            (submission.answer)(Err(error));
            return Ok(());
        }
        let bytes = inner.bytes + submission.cost();
        if bytes > self.limit && !inner.waiting.is_empty() {
            return Err(Busy);
        }
        inner.bytes = bytes;
        inner.waiting.push_back(submission);
        drop(inner);
        self.signal.notify_one();
        Ok(())
    }

    /// Waits for something to do, for `patience` where there is one.
    pub(crate) fn next(&self, group_bytes: u64, patience: Option<Duration>) -> Work {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        loop {
            if let Some(purge) = inner.purges.pop_front() {
                return Work::Purge(purge);
            }
            if !inner.waiting.is_empty() {
                Self::let_gather(&mut inner);
                return Work::Bodies(inner.take(group_bytes));
            }
            if inner.closing {
                return Work::Close;
            }
            if std::mem::take(&mut inner.nudged) {
                return Work::Nudge;
            }
            match patience {
                None => self.signal.wait(&mut inner),
                Some(patience) => {
                    if self.signal.wait_for(&mut inner, patience).timed_out()
                        && inner.waiting.is_empty()
                        && inner.purges.is_empty()
                    {
                        return Work::Idle;
                    }
                }
            }
        }
    }

    /// Hands a purge to the writer; says why there is none any more.
    pub(crate) fn purge(&self, request: PurgeRequest) -> Result<(), AppendError> {
        let mut inner = self.inner.lock();
        if let Some(error) = &inner.stopped {
            return Err(error.clone());
        }
        inner.purges.push_back(request);
        drop(inner);
        self.signal.notify_one();
        Ok(())
    }

    /// Under load, lets those who are about to submit come first where they share a processor with
    /// the writer: a group is worth a sync, and the first body to arrive would often go alone. Costs
    /// nothing where nobody else wants the processor.
    fn let_gather(inner: &mut MutexGuard<'_, Inner>) {
        for _ in 0..GATHERING_TURNS {
            let waiting = inner.waiting.len();
            if inner.last_taken < CROWD || waiting >= inner.last_taken {
                return;
            }
            MutexGuard::unlocked(inner, std::thread::yield_now);
            if inner.waiting.len() == waiting {
                return;
            }
        }
    }

    /// How often the writer has come for work. Nudges it, so that the next answer differs unless it is stuck.
    pub(crate) fn pulse(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        self.nudge();
        turns
    }

    pub(crate) fn nudge(&self) {
        self.inner.lock().nudged = true;
        self.signal.notify_one();
    }

    /// Nothing more is taken in; what waits is still handed out.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.signal.notify_one();
    }

    /// From now on submissions are answered `error`, and so are those that wait.
    pub(crate) fn stop(&self, error: &AppendError) {
        let waiting = {
            let mut inner = self.inner.lock();
            inner.stopped.get_or_insert_with(|| error.clone());
            inner.bytes = 0;
            // Who asked finds that the answer never comes, and asks again.
            inner.purges.clear();
            std::mem::take(&mut inner.waiting)
        };
        for submission in waiting {
            (submission.answer)(Err(error.clone()));
        }
    }
}

impl Inner {
    /// The next bodies, together not much more than `bytes`.
    fn take(&mut self, bytes: u64) -> Vec<Submission> {
        let mut taken = Vec::new();
        let mut total = 0;
        self.last_taken = self.waiting.len();
        while let Some(submission) = self.waiting.pop_front() {
            total += submission.bytes;
            self.bytes -= submission.cost();
            taken.push(submission);
            if total >= bytes {
                break;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn body(size: usize, answers: &mpsc::Sender<Result<(), AppendError>>) -> Submission {
        let answers = answers.clone();
        Submission::new(
            TenantId::from_bytes([1; 16]),
            vec![NewEvent {
                event_type: "alert_fired".parse().unwrap(),
                device: None,
                time: None,
                key: None,
                subject: None,
                origin: None,
                data: vec![0; size],
            }],
            Box::new(move |outcome| answers.send(outcome.map(|_| ())).unwrap()),
        )
    }

    #[test]
    fn a_full_queue_says_so_and_takes_more_when_it_was_emptied() {
        let (sender, _answers) = mpsc::channel();
        let queue = Queue::new(2_000);
        assert_eq!(
            queue.submit(body(5_000, &sender)),
            Ok(()),
            "alone it passes"
        );
        assert_eq!(queue.submit(body(10, &sender)), Err(Busy));
        assert!(matches!(queue.next(1, None), Work::Bodies(bodies) if bodies.len() == 1));
        assert_eq!(queue.submit(body(10, &sender)), Ok(()));
    }

    #[test]
    fn a_closed_queue_hands_out_what_it_has_and_a_stopped_one_answers() {
        let (sender, answers) = mpsc::channel();
        let queue = Queue::new(1 << 20);
        queue.submit(body(10, &sender)).unwrap();
        queue.close();
        queue.submit(body(10, &sender)).unwrap();
        assert_eq!(answers.try_recv(), Ok(Err(AppendError::Closed)));
        assert!(matches!(queue.next(1, None), Work::Bodies(_)));
        assert!(matches!(queue.next(1, None), Work::Close));
        queue.stop(&AppendError::Failed("x".into()));
        queue.submit(body(10, &sender)).unwrap();
        assert_eq!(answers.try_recv(), Ok(Err(AppendError::Failed("x".into()))));
    }
}
