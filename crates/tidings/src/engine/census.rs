//! What operators ask of the engines: which streams are open, and that some be closed.
//!
//! An inquiry looks at every stream of a thread, so it is worked off in slices between which events
//! are delivered. The streams that the thread has when it begins are met; one that it takes over
//! meanwhile may be missed, so whoever closes streams over a changed rule has the rule checked when a
//! stream is taken over, too ([`Recheck`](super::Recheck)).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use tidings_log::Scope;
use tidings_protocol::api::ClosingReason;
use tidings_protocol::{Position, TenantId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::stream::{Stage, Stream};
use super::thread::Thread;
use super::ticket::ConnectionId;
use crate::auth::revocation::Revocation;
use crate::fanout::{Conflation, Rules, View};

/// How many slots one slice looks at.
const SLICE: usize = 512;

/// How many streams one slice closes, each of which costs a few system calls.
const CLOSES: usize = 64;

/// Which streams are meant: all of what is given must be so.
#[derive(Clone, Debug, Default)]
pub struct StreamFilter {
    /// This one.
    pub connection: Option<ConnectionId>,
    /// Those that show this tenant and no other.
    pub tenant: Option<TenantId>,
    /// Beside them those that show all tenants.
    pub or_all_tenants: bool,
    /// Those of this user.
    pub user: Option<Arc<str>>,
    /// Those that this device group of `tenant` bounds.
    pub device_group: Option<Arc<str>>,
    /// Those whose authority this ends.
    pub revoked: Option<Arc<Revocation>>,
    /// Not those of super admins.
    pub without_super_admins: bool,
}

impl StreamFilter {
    /// Whether a stream of this name and with these bounds is meant.
    #[must_use]
    pub fn selects(&self, connection: ConnectionId, rules: &Rules) -> bool {
        let identity = rules.identity();
        let of_tenant = match (self.tenant, rules.scope()) {
            (None, _) => true,
            (Some(meant), Scope::Tenant(shown)) => meant == shown,
            (Some(_), Scope::All) => self.or_all_tenants,
        };
        of_tenant
            && self.connection.is_none_or(|id| id == connection)
            && self.user.as_ref().is_none_or(|user| *user == identity.user)
            && (self.device_group.is_none() || self.device_group == identity.device_group)
            && self
                .revoked
                .as_ref()
                .is_none_or(|revocation| revocation.covers(identity))
            && !(self.without_super_admins && identity.super_admin)
    }
}

/// What is known of an open stream.
#[derive(Clone, Debug)]
pub struct StreamRecord {
    /// Its name.
    pub connection: ConnectionId,
    /// What bounds its view, and whose it is.
    pub rules: Rules,
    /// What it sees.
    pub view: Arc<View>,
    /// The address that its connection came from.
    pub address: IpAddr,
    /// When it was opened, in microseconds since the Unix epoch.
    pub opened_at: i64,
    /// It began after this position.
    pub after: Position,
    /// It has been given everything of its view up to here.
    pub given: Position,
    /// How many events it was given.
    pub events: u64,
    /// How many bytes it was given.
    pub bytes: u64,
    /// The types of which it can do with the latest while it lags.
    pub conflation: Option<Arc<Conflation>>,
    /// How many events it did without.
    pub conflated: u64,
}

/// Ordered by connection, so that a heap of them keeps the first so many.
struct Entry(StreamRecord);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.connection == other.0.connection
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.connection.cmp(&other.0.connection)
    }
}

/// What is asked of one engine thread.
pub(super) struct Inquiry {
    filter: StreamFilter,
    task: Task,
    /// The first slot that was not looked at.
    next: usize,
    /// Held until the inquiry is done, so that there are only so many at a time.
    _permit: Arc<OwnedSemaphorePermit>,
}

enum Task {
    List {
        /// Only streams behind this one, by name.
        after: Option<ConnectionId>,
        limit: usize,
        found: BinaryHeap<Entry>,
        answer: oneshot::Sender<Vec<StreamRecord>>,
    },
    Close {
        reason: ClosingReason,
        closed: usize,
        answer: oneshot::Sender<usize>,
    },
}

impl std::fmt::Debug for Inquiry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Inquiry")
            .field("filter", &self.filter)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Inquiry {
    /// Asks for the first `limit` streams by name.
    pub(super) fn list(
        filter: StreamFilter,
        after: Option<ConnectionId>,
        limit: usize,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> (Self, oneshot::Receiver<Vec<StreamRecord>>) {
        let (answer, answered) = oneshot::channel();
        let task = Task::List {
            after,
            limit,
            found: BinaryHeap::new(),
            answer,
        };
        (Self::new(filter, task, permit), answered)
    }

    /// Asks that streams be closed; the answer is how many were.
    pub(super) fn close(
        filter: StreamFilter,
        reason: ClosingReason,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> (Self, oneshot::Receiver<usize>) {
        let (answer, answered) = oneshot::channel();
        let task = Task::Close {
            reason,
            closed: 0,
            answer,
        };
        (Self::new(filter, task, permit), answered)
    }

    fn new(filter: StreamFilter, task: Task, permit: Arc<OwnedSemaphorePermit>) -> Self {
        Self {
            filter,
            task,
            next: 0,
            _permit: permit,
        }
    }

    /// Nobody waits for the answer any more, and nothing else would come of it.
    fn is_idle(&self) -> bool {
        matches!(&self.task, Task::List { answer, .. } if answer.is_closed())
    }

    fn finish(self) {
        // Who asked may be gone.
        match self.task {
            Task::List { found, answer, .. } => {
                let records = found.into_sorted_vec().into_iter().map(|entry| entry.0);
                let _ = answer.send(records.collect());
            }
            Task::Close { closed, answer, .. } => {
                let _ = answer.send(closed);
            }
        }
    }
}

/// The inquiries that a thread is at, in the order in which they came.
pub(super) type Inquiries = VecDeque<Inquiry>;

impl Thread {
    /// Works off one slice of the inquiry that came first.
    pub(super) fn work_off_inquiries(&mut self) {
        let Some(mut inquiry) = self.inquiries.pop_front() else {
            return;
        };
        if inquiry.is_idle() {
            return;
        }
        let end = self.streams.capacity().min(inquiry.next + SLICE);
        let mut closed_here = 0;
        while inquiry.next < end && closed_here < CLOSES {
            let slot = inquiry.next;
            inquiry.next += 1;
            let Some(stream) = self.streams.get(slot) else {
                continue;
            };
            let ticket = &stream.ticket;
            if matches!(stream.stage, Stage::Closing(_))
                || !inquiry.filter.selects(ticket.connection, &ticket.rules)
            {
                continue;
            }
            match &mut inquiry.task {
                Task::List {
                    after,
                    limit,
                    found,
                    ..
                } => {
                    if after.is_none_or(|after| stream.ticket.connection > after) {
                        keep(found, *limit, || self.record(stream), stream);
                    }
                }
                Task::Close { reason, closed, .. } => {
                    let reason = *reason;
                    *closed += 1;
                    closed_here += 1;
                    self.close(slot, reason);
                }
            }
        }
        if inquiry.next >= self.streams.capacity() {
            inquiry.finish();
        } else {
            self.inquiries.push_front(inquiry);
        }
    }

    fn record(&self, stream: &Stream) -> StreamRecord {
        let ticket = &stream.ticket;
        StreamRecord {
            connection: ticket.connection,
            rules: ticket.rules.clone(),
            view: Arc::clone(self.index.view(stream.group)),
            address: ticket.address,
            opened_at: ticket.opened_at,
            after: stream.began,
            given: stream.given(self.position),
            events: stream.events_sent,
            bytes: stream.bytes_sent,
            conflation: stream.conflation.clone(),
            conflated: stream.conflated,
        }
    }
}

/// Keeps a stream if it is among the first `limit` so far.
fn keep(
    found: &mut BinaryHeap<Entry>,
    limit: usize,
    record: impl FnOnce() -> StreamRecord,
    stream: &Stream,
) {
    if found.len() >= limit {
        match found.peek() {
            Some(last) if stream.ticket.connection < last.0.connection => {
                found.pop();
            }
            _ => return,
        }
    }
    found.push(Entry(record()));
}
