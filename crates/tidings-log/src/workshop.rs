//! What the writer leaves to the upkeep thread: making the next segment, indexing the last one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::segment::Segment;
use crate::storage::StorageFile;

/// A segment with a header and room, durable under its name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) capacity: u64,
}

/// What the upkeep thread is to do next.
pub(crate) enum Job {
    /// Make a segment of so many bytes.
    Prepare {
        number: u64,
        bytes: u64,
    },
    /// Cut a sealed segment to its length and write its index.
    Seal(Arc<Segment>),
    /// Write the index of this segment, which was built anew.
    IndexAgain(u64),
    /// A tenant may have exceeded its cap.
    Caps,
    /// Some purged tenant's events may be on the disk.
    Purge,
    /// The interval has passed.
    Interval,
    Stop,
}

pub(crate) struct Workshop {
    inner: Mutex<Inner>,
    for_upkeep: Condvar,
    for_writer: Condvar,
}

#[derive(Default)]
struct Inner {
    next_number: u64,
    /// A segment of at least so many bytes is wanted.
    wanted: Option<u64>,
    preparing: bool,
    prepared: Option<Prepared>,
    /// Why the last attempt to prepare one failed.
    failed: Option<String>,
    to_seal: VecDeque<Arc<Segment>>,
    to_index: VecDeque<u64>,
    chores: Chores,
    stop: bool,
}

/// What is to be looked after when nothing is waited for.
#[derive(Default)]
struct Chores {
    caps: bool,
    purge: bool,
}

impl Workshop {
    pub(crate) fn new(next_number: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                next_number,
                ..Inner::default()
            }),
            for_upkeep: Condvar::new(),
            for_writer: Condvar::new(),
        }
    }

    /// Asks for a segment without waiting for it.
    pub(crate) fn want(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        if inner.prepared.is_none() && !inner.preparing && inner.wanted.is_none() {
            inner.wanted = Some(bytes);
            self.for_upkeep.notify_one();
        }
    }

    /// Takes a segment of at least so many bytes, waiting until it is made.
    pub(crate) fn take(&self, bytes: u64) -> Result<Prepared, String> {
        let mut inner = self.inner.lock();
        inner.failed = None;
        loop {
            if let Some(prepared) = inner.prepared.take_if(|ready| ready.capacity >= bytes) {
                return Ok(prepared);
            }
            if let Some(reason) = inner.failed.take() {
                return Err(reason);
            }
            if inner.stop {
                return Err("the log is closing".to_owned());
            }
            if !inner.preparing && inner.wanted.is_none_or(|wanted| wanted < bytes) {
                inner.wanted = Some(bytes);
                self.for_upkeep.notify_one();
            }
            self.for_writer.wait(&mut inner);
        }
    }

    /// Says how making a segment went; answers a prepared one that is in the way, being too small.
    pub(crate) fn prepared(&self, outcome: Result<Prepared, String>) -> Option<Prepared> {
        let mut inner = self.inner.lock();
        inner.preparing = false;
        let superseded = match outcome {
            Ok(prepared) => inner.prepared.replace(prepared),
            Err(reason) => {
                inner.failed = Some(reason);
                None
            }
        };
        self.for_writer.notify_all();
        superseded
    }

    /// The prepared segment, when nobody is going to need it.
    pub(crate) fn take_unused(&self) -> Option<Prepared> {
        self.inner.lock().prepared.take()
    }

    /// Bytes of the segment that is prepared.
    pub(crate) fn prepared_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.prepared.as_ref().map_or(0, |ready| ready.capacity)
    }

    pub(crate) fn seal(&self, segment: Arc<Segment>) {
        self.inner.lock().to_seal.push_back(segment);
        self.for_upkeep.notify_one();
    }

    pub(crate) fn index_again(&self, number: u64) {
        self.inner.lock().to_index.push_back(number);
        self.for_upkeep.notify_one();
    }

    pub(crate) fn check_caps(&self) {
        self.inner.lock().chores.caps = true;
        self.for_upkeep.notify_one();
    }

    pub(crate) fn purge(&self) {
        self.inner.lock().chores.purge = true;
        self.for_upkeep.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.inner.lock().stop = true;
        self.for_upkeep.notify_one();
        self.for_writer.notify_all();
    }

    /// Waits for something to do. What is sealed is indexed before the thread stops.
    pub(crate) fn next(&self, interval: Duration) -> Job {
        let mut inner = self.inner.lock();
        loop {
            if let Some(bytes) = inner.wanted.take() {
                inner.preparing = true;
                inner.next_number += 1;
                return Job::Prepare {
                    number: inner.next_number - 1,
                    bytes,
                };
            }
            if let Some(segment) = inner.to_seal.pop_front() {
                return Job::Seal(segment);
            }
            if inner.stop {
                return Job::Stop;
            }
            if let Some(number) = inner.to_index.pop_front() {
                return Job::IndexAgain(number);
            }
            if std::mem::take(&mut inner.chores.caps) {
                return Job::Caps;
            }
            if std::mem::take(&mut inner.chores.purge) {
                return Job::Purge;
            }
            if self.for_upkeep.wait_for(&mut inner, interval).timed_out() {
                return Job::Interval;
            }
        }
    }
}
