//! Reading: events of a scope, in order, and what is missing among them.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use crate::ReadError;
use crate::event::{EventRef, Expired, Lost, ReadEnd, ReadLimit, Resume, Scope};
use crate::format::FrameKind;
use crate::horizon::walk;
use crate::read_buffer::ReadBuffer;
use crate::reading::{Fault, Reading, Visit, index_fault};
use crate::segment::Segment;
use crate::view::{Shared, Snapshot};

/// How often a read starts anew when the log changes under it.
const ATTEMPTS: usize = 4;

impl Shared {
    /// See [`Log::read`](crate::Log::read).
    pub(crate) fn read(
        &self,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
        visit: &mut dyn FnMut(EventRef<'_>),
    ) -> Result<ReadEnd, ReadError> {
        let visit = &mut |event: EventRef<'_>, _: i64| visit(event);
        self.read_from(|| self.snapshot(scope), scope, after, limit, visit)
    }

    /// Visits every event on disk after a position, hidden ones as well, with its run time.
    pub(crate) fn read_everything(
        &self,
        after: Position,
        limit: ReadLimit,
        visit: Visit<'_>,
    ) -> Result<ReadEnd, ReadError> {
        self.read_from(|| self.whole_snapshot(), Scope::All, after, limit, visit)
    }

    fn read_from(
        &self,
        snapshot: impl Fn() -> Snapshot,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
        visit: Visit<'_>,
    ) -> Result<ReadEnd, ReadError> {
        let io_error = |source| ReadError::Io { after, source };
        for _ in 0..ATTEMPTS {
            match self.try_read(snapshot(), scope, after, limit, visit) {
                Ok(end) => return Ok(end),
                Err(Fault::Damaged(segment)) => {
                    self.repair(&segment).map_err(io_error)?;
                }
                // The segment was unlinked meanwhile: the horizon has moved.
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Fault::Io(error)) => return Err(io_error(error)),
            }
        }
        Err(io_error(io::Error::new(
            io::ErrorKind::InvalidData,
            "the log's files change under the reader",
        )))
    }

    fn try_read(
        &self,
        snapshot: Snapshot,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
        visit: Visit<'_>,
    ) -> Result<ReadEnd, Fault> {
        let expired = self.expired(&snapshot, scope, after)?;
        let start = after.max(snapshot.scope_horizon);
        let lost = snapshot.lost_after(start);
        let tail = snapshot.tail;
        let until = lost.map_or(tail, |lost| lost.first - 1);
        let mut reading = Reading {
            shared: self,
            snapshot,
            scope,
            limit,
            visit,
            until,
            position: start,
            events: 0,
            bytes: 0,
            buffer: ReadBuffer::of_thread(),
            buffer_start: 0,
        };
        let done = match reading.run() {
            Ok(done) => done,
            // What was visited counts; the next read meets the fault again, and first.
            Err(_) if reading.events > 0 => ControlFlow::Break(()),
            Err(fault) => return Err(fault),
        };
        let ended = done.is_continue();
        let lost: Option<Lost> = lost.filter(|_| ended);
        let examined_through = match lost {
            Some(lost) => lost.last,
            None if ended => tail.max(start),
            None => reading.position,
        };
        Ok(ReadEnd {
            examined_through,
            reached_tail: examined_through >= tail,
            lost,
            expired,
        })
    }

    /// See [`Log::resume_point`](crate::Log::resume_point).
    pub(crate) fn resume_point(&self, scope: Scope, after: Position) -> Resume {
        for _ in 0..ATTEMPTS {
            let snapshot = self.snapshot(scope);
            match self.expired(&snapshot, scope, after) {
                Ok(None) => return Resume::Exact,
                Ok(Some(expired)) => return Resume::Expired(expired),
                Err(Fault::Damaged(segment)) => {
                    if self.repair(&segment).is_err() {
                        break;
                    }
                }
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Fault::Io(_)) => break,
            }
        }
        // The index can't be read. The position is behind the horizon, so say what may be true.
        let removed_through = self.snapshot(scope).scope_horizon;
        Resume::Expired(Expired {
            resume_after: after.max(removed_through),
            removed_through,
        })
    }

    fn expired(
        &self,
        snapshot: &Snapshot,
        scope: Scope,
        after: Position,
    ) -> Result<Option<Expired>, Fault> {
        let tenant = match scope {
            Scope::All => {
                let removed_through = snapshot.horizon.max(snapshot.trimmed_through);
                return Ok((after < removed_through).then_some(Expired {
                    resume_after: after.max(snapshot.horizon),
                    removed_through,
                }));
            }
            Scope::Tenant(tenant) => tenant,
        };
        if after >= snapshot.scope_horizon {
            return Ok(None);
        }
        let removed_through = self.last_removed(snapshot, tenant)?;
        Ok((after < removed_through).then_some(Expired {
            resume_after: removed_through,
            removed_through,
        }))
    }

    /// A tenant's last position that is not retained any more.
    fn last_removed(&self, snapshot: &Snapshot, tenant: TenantId) -> Result<Position, Fault> {
        let horizon = snapshot.scope_horizon;
        for segment in snapshot.segments.iter().rev() {
            let summary = segment.summary();
            if summary.events == 0 || summary.first > horizon {
                continue;
            }
            let last = segment
                .with_tenant(&self.files, tenant, |frames| {
                    let place = frames
                        .frames
                        .partition_point(|frame| frame.last() <= horizon);
                    place
                        .checked_sub(1)
                        .map(|place| frames.frames[place].last())
                })
                .map_err(|error| index_fault(segment, error))?;
            if let Some(last) = last {
                return Ok(last);
            }
        }
        Ok(self.view.read().removed.get(&tenant).copied().unwrap_or(0))
    }

    /// See [`Log::position_before`](crate::Log::position_before).
    pub(crate) fn position_before(&self, time: i64) -> Result<Position, ReadError> {
        for _ in 0..ATTEMPTS {
            match self.try_position_before(time) {
                Ok(position) => return Ok(position),
                Err(Fault::Damaged(segment)) => self
                    .repair(&segment)
                    .map_err(|source| ReadError::Io { after: 0, source })?,
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Fault::Io(source)) => return Err(ReadError::Io { after: 0, source }),
            }
        }
        Err(ReadError::Io {
            after: 0,
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                "the log's files change under the reader",
            ),
        })
    }

    fn try_position_before(&self, time: i64) -> Result<Position, Fault> {
        let snapshot = self.snapshot(Scope::All);
        let with_events: Vec<&Arc<Segment>> = snapshot
            .segments
            .iter()
            .filter(|segment| segment.summary().events > 0)
            .collect();
        let place = with_events.partition_point(|segment| segment.summary().last_time < time);
        let Some(segment) = with_events.get(place) else {
            return Ok(snapshot.tail);
        };
        let summary = segment.summary();
        if place == 0 && summary.first_time >= time && snapshot.removed_at >= time {
            return Ok(0);
        }
        let step = segment
            .last_step(&self.files, |step| step.appended_at < time)
            .map_err(|error| index_fault(segment, error))?;
        let mut before = summary.first - 1;
        let Some(step) = step else {
            return Ok(before);
        };
        walk(
            segment,
            &self.files,
            step.offset,
            summary.end,
            |header, _| {
                if header.kind == FrameKind::Events {
                    if header.appended_at >= time {
                        return ControlFlow::Break(());
                    }
                    before = header.last();
                }
                ControlFlow::Continue(())
            },
        )
        .map_err(|error| index_fault(segment, error))?;
        Ok(before.min(snapshot.tail))
    }
}
