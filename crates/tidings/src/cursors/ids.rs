//! The ids of events: what a client shows to go on after one.

use std::fmt;
use std::sync::Arc;

use tidings_log::EventRef;
use tidings_protocol::sse::{EventWriter, write_event};
use tidings_protocol::{Cursor, Epoch, MergedCursor};

use super::origin::{Origin, Reached};

/// How events are named.
#[derive(Clone, Debug)]
pub enum EventIds {
    /// By their position in this log.
    Log(Epoch, EventWriter),
    /// By where they come from, in the one source of a mirror.
    Source,
    /// By where they come from, among several sources.
    Sources,
}

/// The text of a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorText {
    /// Over one log.
    Single(Cursor),
    /// Over several.
    Merged(Arc<MergedCursor>),
}

impl fmt::Display for CursorText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(cursor) => cursor.fmt(formatter),
            Self::Merged(cursor) => cursor.fmt(formatter),
        }
    }
}

impl From<Cursor> for CursorText {
    fn from(cursor: Cursor) -> Self {
        Self::Single(cursor)
    }
}

impl EventIds {
    /// The ids of a log's own events.
    #[must_use]
    pub fn of_log(epoch: Epoch) -> Self {
        Self::Log(epoch, EventWriter::new(epoch))
    }

    /// The ids in a mirror of so many sources.
    #[must_use]
    pub fn of_mirror(sources: usize) -> Self {
        if sources == 1 {
            Self::Source
        } else {
            Self::Sources
        }
    }

    /// The id of an event.
    #[must_use]
    pub fn id(&self, event: &EventRef<'_>) -> CursorText {
        match self {
            Self::Log(epoch, _) => CursorText::Single(Cursor {
                epoch: *epoch,
                position: event.position,
            }),
            Self::Source | Self::Sources => match event.origin.and_then(Origin::decode) {
                Some(origin) => self.text(origin.source, &origin.reached),
                // Every event of a mirror is given one.
                None => CursorText::Single(Cursor::NOWHERE),
            },
        }
    }

    /// The cursor of a place in a mirror.
    #[must_use]
    pub fn text(&self, source: usize, reached: &Reached) -> CursorText {
        match self {
            Self::Sources => CursorText::Merged(Arc::new(MergedCursor {
                source,
                reached: reached.to_vec(),
            })),
            Self::Log(..) | Self::Source => {
                CursorText::Single(reached.first().copied().unwrap_or(Cursor::NOWHERE))
            }
        }
    }

    /// Appends an event in its wire form.
    pub fn write(&self, wire: &mut Vec<u8>, event: &EventRef<'_>) {
        match self {
            Self::Log(_, writer) => {
                writer.write(wire, event.position, event.event_type, event.data);
            }
            Self::Source | Self::Sources => {
                write_event(wire, self.id(event), event.event_type, event.data);
            }
        }
    }
}
