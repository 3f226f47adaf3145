//! The handle.

use std::sync::Arc;

use tidings_protocol::{Epoch, Position, TenantId};

use crate::clock::Clock;
use crate::storage::Storage;
use crate::{
    AppendError, Appended, Busy, EventRef, Health, LogOptions, NewEvent, OpenError, ReadEnd,
    ReadError, ReadLimit, Resume, Scope, Usage,
};

/// Told what became durable. Called on the writer thread: what it does, publishers wait for.
pub trait Listener: Send + 'static {
    /// One group commit: all its events, positions ascending, after the sync and before any of its
    /// publishers is answered. [`Log::read`] can see them already.
    fn committed(&mut self, events: &[EventRef<'_>]);
    /// The log became better or worse; called once with the present state at the beginning.
    fn health_changed(&mut self, health: &Health);
}

/// What is called with a body's fate, on the writer thread: it must not block.
pub type Answer = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// An open log. Clones share it; it is closed by [`Log::close`] or when the last clone goes.
#[derive(Clone)]
pub struct Log {
    inner: Arc<()>,
}

#[expect(
    clippy::unused_self,
    clippy::needless_pass_by_value,
    reason = "the bodies follow"
)]
impl Log {
    /// Opens the log in `options.path`, or makes it; returns when it is ready to append and read.
    pub fn open(options: LogOptions, listener: Box<dyn Listener>) -> Result<Self, OpenError> {
        let _ = (options, listener);
        unimplemented!("follows with the next commits")
    }

    /// [`Log::open`] on another file system and by another clock.
    pub fn open_with(
        options: LogOptions,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        listener: Box<dyn Listener>,
    ) -> Result<Self, OpenError> {
        let _ = (options, storage, clock, listener, Arc::new(()));
        unimplemented!("follows with the next commits")
    }

    /// Which log its positions belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        unimplemented!()
    }

    /// Hands a body to the writer; never blocks. The body is stored whole or not at all, and
    /// `answer` called when its fate is durable. An empty body is answered with
    /// [`AppendError::TooLarge`]. When the log is closed or has failed, `answer` is called at once,
    /// on this thread.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue is full; `answer` is dropped then.
    pub fn submit(
        &self,
        tenant: TenantId,
        events: Vec<NewEvent>,
        answer: Answer,
    ) -> Result<(), Busy> {
        let _ = (tenant, events, answer);
        unimplemented!()
    }

    /// The last durable position; 0 when the log is empty.
    #[must_use]
    pub fn tail(&self) -> Position {
        unimplemented!()
    }

    /// Whether everything of the scope after a position is still retained. Exact per scope: a
    /// tenant is not told of another tenant's removed events.
    #[must_use]
    pub fn resume_point(&self, scope: Scope, after: Position) -> Resume {
        let _ = (scope, after);
        unimplemented!()
    }

    /// The position after which the first event appended at or after `time` (microseconds since
    /// the Unix epoch) comes. Where such events may have been removed it is 0, so that
    /// [`Log::resume_point`] tells of them.
    pub fn position_before(&self, time: i64) -> Result<Position, ReadError> {
        let _ = time;
        unimplemented!()
    }

    /// Visits the retained, durable events of the scope after a position, in order.
    pub fn read(
        &self,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
        visit: &mut dyn FnMut(EventRef<'_>),
    ) -> Result<ReadEnd, ReadError> {
        let _ = (scope, after, limit, visit, &self.inner);
        unimplemented!()
    }

    /// How well the log is.
    #[must_use]
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// What the log holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        unimplemented!()
    }

    /// Runs retention now, on this thread, rather than at the next interval.
    pub fn run_upkeep(&self) {
        unimplemented!()
    }

    /// Stores what was submitted, stops the writer and releases the folder. Later submissions are
    /// answered [`AppendError::Closed`]; other clones can go on reading.
    pub fn close(self) {
        unimplemented!()
    }
}
