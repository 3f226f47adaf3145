//! Cursors: what clients see of positions, and what leads back from it.
//!
//! Over the embedded log a cursor is its epoch and a position; those of a log that it descends from lead on up to where
//! the two parted. Over a mirror, positions are the node's own
//! business: a cursor names places in the sources, so that any node can go on from it.
//!
//! - [`origin`]: what the log keeps with an event of a mirror.
//! - [`ids`]: the ids of events.
//! - [`losses`]: what the sources lost before it could be copied.
//! - [`sources`]: how the node stands with the sources.
//! - `lookup`: finding places in the log.
//! - [`resolve`]: where a cursor leads in a mirror.

pub mod ids;
mod lookup;
pub mod losses;
pub mod origin;
pub mod resolve;
pub mod sources;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tidings_log::{EventRef, Kinship, Log, ReadError, Resume, Scope};
use tidings_protocol::api::GapReason;
use tidings_protocol::{Cursor, MergedCursor, Position};

pub use ids::{CursorText, EventIds};
pub use losses::{Loss, Losses};
pub use origin::{Origin, Reached};
pub use resolve::{Missing, Passage, Place, Resolution};
pub use sources::{Asked, Sources, Standing};

/// When an event was appended, in microseconds since the Unix epoch: in a mirror, by its source.
#[must_use]
pub fn appended_at(event: &EventRef<'_>) -> i64 {
    event
        .origin
        .and_then(Origin::decode)
        .map_or(event.appended_at, |origin| origin.time)
}

/// Where the last event of a mirror's log comes from.
///
/// # Errors
///
/// When the log can't be read.
pub fn last_origin(log: &Log) -> Result<Option<Origin>, ReadError> {
    Ok(lookup::last_event(log, log.tail())?.map(|(_, origin)| origin))
}

/// Turns positions of the log into cursors and back.
#[derive(Debug)]
pub struct Cursors {
    log: Log,
    ids: Arc<EventIds>,
    /// What the log is a mirror of, if it is one.
    sources: Option<Arc<Sources>>,
    losses: Arc<Losses>,
    /// The cursor that was asked for last: of many streams at one place each asks for the same.
    last: Mutex<Option<(Position, CursorText)>>,
}

impl Cursors {
    /// The cursors of a log's own events.
    #[must_use]
    pub fn of_log(log: &Log) -> Self {
        Self {
            log: log.clone(),
            ids: Arc::new(EventIds::of_log(log.epoch())),
            sources: None,
            losses: Arc::default(),
            last: Mutex::default(),
        }
    }

    /// The cursors of what a log has copied.
    #[must_use]
    pub fn of_mirror(log: &Log, sources: &Arc<Sources>, losses: &Arc<Losses>) -> Self {
        Self {
            log: log.clone(),
            ids: Arc::new(EventIds::of_mirror(sources.count())),
            sources: Some(Arc::clone(sources)),
            losses: Arc::clone(losses),
            last: Mutex::default(),
        }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The ids of events.
    #[must_use]
    pub fn ids(&self) -> &Arc<EventIds> {
        &self.ids
    }

    /// What the log is a mirror of, if it is one.
    #[must_use]
    pub fn sources(&self) -> Option<&Arc<Sources>> {
        self.sources.as_ref()
    }

    /// Where events of the sources are missing.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// What is missing there.
    #[must_use]
    pub fn missing_of(&self, loss: &Loss) -> Missing {
        let names = self.sources.as_ref().map(|sources| sources.names());
        Missing {
            reason: GapReason::Expired,
            source: names.and_then(|names| names.get(loss.source)).cloned(),
        }
    }

    /// The cursor behind which everything comes that comes after a position.
    #[must_use]
    pub fn text(&self, position: Position) -> CursorText {
        let Some(sources) = &self.sources else {
            return CursorText::Single(Cursor {
                epoch: self.log.epoch(),
                position,
            });
        };
        if let Some((at, text)) = &*self.last.lock()
            && *at == position
        {
            return text.clone();
        }
        let standings = sources.standings();
        match resolve::text_at(&self.log, &self.ids, &standings, position) {
            Ok(text) => {
                *self.last.lock() = Some((position, text.clone()));
                text
            }
            Err(error) => {
                // Whoever comes back with it is told that it leads nowhere, rather than to a wrong place.
                tidings_log::seldom!(error, %error, position, "the cursor of a position can't be read");
                CursorText::Single(Cursor::NOWHERE)
            }
        }
    }

    /// Where a cursor leads, in the log up to `tail`.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub fn resolve(
        &self,
        scope: Scope,
        text: &str,
        tail: impl FnOnce() -> Position,
    ) -> Result<Resolution, ReadError> {
        match &self.sources {
            Some(sources) => match resolve::read(&self.ids, sources.count(), text) {
                Ok(asked) => resolve::resolve(self, sources, scope, &asked, tail),
                Err(reason) => Ok(Resolution::Unknown(reason)),
            },
            None => Ok(match text.parse::<Cursor>() {
                Err(_) => Resolution::Unknown(GapReason::Malformed),
                Ok(cursor) => self.resolve_own(scope, cursor, tail()),
            }),
        }
    }

    /// Where a cursor of this log, or of one that it descends from, leads.
    fn resolve_own(&self, scope: Scope, cursor: Cursor, tail: Position) -> Resolution {
        match self.log.lineage().kinship(cursor.epoch, cursor.position) {
            Kinship::Strange => Resolution::Unknown(GapReason::UnknownEpoch),
            Kinship::Same if cursor.position > tail => Resolution::Unknown(GapReason::AheadOfLog),
            Kinship::Same => Resolution::Found(self.place_after(scope, cursor.position)),
            // What the client has seen behind the fork is not in this log. Of what is here instead it has seen
            // nothing, so it is given all of that.
            Kinship::Parted(fork) => Resolution::Found(Place {
                missing: vec![Missing {
                    reason: GapReason::AheadOfLog,
                    source: None,
                }],
                ..self.place_after(scope, fork)
            }),
        }
    }

    /// The place behind a position: what is retained of the scope after it.
    #[must_use]
    pub fn place_after(&self, scope: Scope, position: Position) -> Place {
        let (after, announced, missing) = match self.log.resume_point(scope, position) {
            tidings_log::Resume::Exact => (position, position, Vec::new()),
            tidings_log::Resume::Expired(expired) => {
                let missing = Missing {
                    reason: GapReason::Expired,
                    source: None,
                };
                let after = expired.resume_after.max(position);
                (after, expired.removed_through, vec![missing])
            }
        };
        Place {
            after,
            passage: None,
            at: self.text(after),
            missing,
            announced,
        }
    }

    /// The place of the first event appended at or after a time, in microseconds since the Unix epoch.
    /// Of a mirror it is the sources' time that counts.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub fn since(&self, scope: Scope, time: i64) -> Result<Place, ReadError> {
        let Some(sources) = &self.sources else {
            return Ok(self.place_after(scope, self.log.position_before(time)?));
        };
        let tail = self.log.tail();
        let after = lookup::before_first(&self.log, tail, |origin| origin.time >= time)?;
        let mut place = self.place_after(scope, after);
        // What was gone from a source before this node began may have been of that time as well.
        let copied_later = lookup::last_event(&self.log, after)?.is_none();
        let standings = sources.standings();
        // What comes behind the place meets its losses there; those before it may be of that time, too.
        if place.missing.is_empty()
            && let Some(loss) = self.losses.noticed_since(time, place.after)
        {
            place.missing.push(self.missing_of(&loss));
        }
        if copied_later && place.missing.is_empty() {
            let mut both = standings.iter().zip(sources.names());
            place.missing.extend(
                both.find(|(standing, _)| standing.first > 1)
                    .map(|(_, name)| Missing {
                        reason: GapReason::Expired,
                        source: Some(name.clone()),
                    }),
            );
        }
        Ok(place)
    }

    /// Whether a text looks like a cursor of this deployment.
    #[must_use]
    pub fn is_cursor(&self, text: &str) -> bool {
        match &*self.ids {
            EventIds::Log(..) | EventIds::Source => text.parse::<Cursor>().is_ok(),
            EventIds::Sources => text.parse::<MergedCursor>().is_ok(),
        }
    }

    /// The position of the event that a cursor names.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub fn position_of(&self, text: &str) -> Result<Option<Position>, ReadError> {
        let (source, place) = match &*self.ids {
            EventIds::Log(..) => {
                let lineage = self.log.lineage();
                let cursor = text.parse::<Cursor>().ok().filter(|cursor| {
                    lineage.kinship(cursor.epoch, cursor.position) == Kinship::Same
                });
                return Ok(cursor.map(|cursor| cursor.position));
            }
            EventIds::Source => match text.parse::<Cursor>() {
                Ok(cursor) => (0, cursor),
                Err(_) => return Ok(None),
            },
            EventIds::Sources => match text.parse::<MergedCursor>() {
                Ok(cursor) => (cursor.source, cursor.reached[cursor.source]),
                Err(_) => return Ok(None),
            },
        };
        let tail = self.log.tail();
        let has_come = |origin: &Origin| origin.reached.get(source) >= Some(&place);
        let before = lookup::before_first(&self.log, tail, has_come)?;
        let found = lookup::next_event(&self.log, before)?;
        Ok(found
            .filter(|(_, origin)| origin.source == source && origin.own() == place)
            .map(|(position, _)| position)
            // What is missing is no event.
            .filter(|position| self.losses.at(*position).is_none()))
    }

    /// Why places that this node has not copied can't be had, if that is certain: what the sources say when they are
    /// asked now, and have been saying for a while. What the node was told before says nothing of what came since.
    pub async fn verdict(&self, places: &[Cursor]) -> Option<GapReason> {
        let sources = self.sources.as_ref()?;
        let asked = sources.ask(places).await;
        let standings = sources.standings();
        let mut verdict = None;
        let all = standings.iter().zip(places).zip(asked).enumerate();
        for (source, ((standing, place), asked)) in all {
            let Some(asked) = asked else {
                continue;
            };
            let judged = judge(standing, *place, asked);
            if sources.is_believed(source, judged.is_some(), Instant::now()) {
                verdict = verdict.or(judged);
            }
        }
        verdict
    }

    /// The position behind which everything comes that one source has after a place; `None` where some of that
    /// is not in the log any more, or never was.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub fn position_after(
        &self,
        source: usize,
        place: Cursor,
    ) -> Result<Option<Position>, ReadError> {
        let standing = self
            .sources
            .as_ref()
            .and_then(|sources| sources.standings().get(source).copied());
        let Some(standing) = standing else {
            return Ok(None);
        };
        let begins = Cursor {
            epoch: standing.epoch,
            position: standing.first - 1,
        };
        // Of an incarnation before this one it is not known whether all of it was copied.
        if place < begins || !standing.covers(place) {
            return Ok(None);
        }
        let tail = self.log.tail();
        let is_behind = |origin: &Origin| origin.reached.get(source) > Some(&place);
        let position = lookup::before_first(&self.log, tail, is_behind)?;
        let is_whole = self.log.resume_point(Scope::All, position) == Resume::Exact
            && self.losses.first_after(position).is_none();
        Ok(is_whole.then_some(position))
    }

    /// Waits until this node has copied what a cursor names.
    pub async fn wait_for(&self, places: &[Cursor]) {
        if let Some(sources) = &self.sources {
            sources.wait_for(places).await;
        }
    }
}

/// Why a place of a source can't be had, if what the source says makes that certain.
fn judge(standing: &Standing, place: Cursor, asked: Asked) -> Option<GapReason> {
    // Of a stream that was made anew, this node has yet to learn how cursors call it.
    if standing.covers(place) || standing.incarnation != asked.incarnation {
        None
    } else if standing.epoch != place.epoch {
        Some(GapReason::UnknownEpoch)
    } else {
        (place.position > asked.last).then_some(GapReason::AheadOfLog)
    }
}
