//! What the sources of a mirror lost before this node could copy it.
//!
//! Where a source begins behind what was copied of it, the copy has a hole. The mirror puts an event of its own into
//! the log at that place ([`NewEvent`] from [`lost`]), so that the place is as durable as the events around it and
//! every reader meets it in its order. Nobody is shown that event: it is of a tenant that is none, and becomes a `gap`
//! for whoever comes to its position.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde_json::json;
use tidings_log::{Doubt, EventRef, Log, NewEvent, ReadError, ReadLimit, Scope};
use tidings_protocol::{Cursor, EventType, Position, TenantId};

use super::origin::Origin;

/// Whose the places are in the log. It is no UUID of a known version, so nobody's tenant is called so.
pub const LOSSES: TenantId = TenantId::from_bytes(*b"tidings:lost\0\0\0\0");

/// A place in the log at which events of a source are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The position that stands for what is missing.
    pub position: Position,
    /// Of which source.
    pub source: usize,
    /// The last that is missing.
    pub through: Cursor,
    /// When that was found out, in microseconds since the Unix epoch: everything that is missing is older.
    pub noticed: i64,
}

impl Loss {
    /// Reads the place from the log; `None` for an event that is one.
    #[must_use]
    pub fn of(event: &EventRef<'_>) -> Option<Self> {
        if event.tenant != LOSSES {
            return None;
        }
        let origin = event.origin.and_then(Origin::decode)?;
        Some(Self {
            position: event.position,
            source: origin.source,
            through: origin.own(),
            noticed: event.appended_at,
        })
    }
}

/// What stands in the log where a source has lost what comes after `from` up to what `origin` says.
#[must_use]
pub fn lost(stream: &str, from: u64, origin: &Origin) -> NewEvent {
    let data = json!({ "stream": stream, "from": from, "through": origin.own().position });
    NewEvent {
        event_type: EventType::gap(),
        device: None,
        time: None,
        key: None,
        subject: None,
        origin: Some(origin.encode()),
        data: data.to_string().into_bytes(),
    }
}

/// Which subjects are not known any more behind such a place: all of its source, since any may have been in it.
#[must_use]
pub fn doubt() -> Doubt {
    Doubt {
        tenant: LOSSES,
        covers: |loss, last| {
            let source = |event: &EventRef<'_>| {
                let origin = event.origin.and_then(Origin::decode)?;
                Some(origin.source)
            };
            source(loss).is_some_and(|lost| source(last) == Some(lost))
        },
    }
}

/// The places that the log retains, oldest first.
#[derive(Debug, Default)]
pub struct Losses {
    all: RwLock<Vec<Loss>>,
    /// The position of the last, so that whoever looks in vain, as nearly everybody does, takes no lock.
    last: AtomicU64,
}

impl Losses {
    /// Finds those that a log has.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub fn load(&self, log: &Log) -> Result<(), ReadError> {
        let limit = ReadLimit {
            events: 1024,
            bytes: usize::MAX,
        };
        let mut after = 0;
        loop {
            let end = log.read(Scope::Tenant(LOSSES), after, limit, &mut |event| {
                self.note(&event);
            })?;
            if end.reached_tail || end.examined_through <= after {
                return Ok(());
            }
            after = end.examined_through;
        }
    }

    /// Takes down an event of the log, in its order, if it is such a place; whether it is.
    pub fn note(&self, event: &EventRef<'_>) -> bool {
        let Some(loss) = Loss::of(event) else {
            return event.tenant == LOSSES;
        };
        self.all.write().push(loss);
        self.last.store(loss.position, Ordering::Release);
        true
    }

    /// The first behind a position.
    #[must_use]
    pub fn first_after(&self, position: Position) -> Option<Loss> {
        if self.last.load(Ordering::Acquire) <= position {
            return None;
        }
        let all = self.all.read();
        let place = all.partition_point(|loss| loss.position <= position);
        all.get(place).copied()
    }

    /// The last up to a position that was found out at or after a time.
    #[must_use]
    pub fn noticed_since(&self, time: i64, through: Position) -> Option<Loss> {
        if self.last.load(Ordering::Acquire) == 0 {
            return None;
        }
        let all = self.all.read();
        let mut before = all.iter().rev().filter(|loss| loss.position <= through);
        before.next().filter(|loss| loss.noticed >= time).copied()
    }

    /// The one at a position.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<Loss> {
        self.first_after(position.checked_sub(1)?)
            .filter(|loss| loss.position == position)
    }
}
