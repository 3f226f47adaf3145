//! Where a cursor leads in a mirror.
//!
//! A cursor names how far each source had been delivered on some node; this one may have merged the sources
//! in another order. Up to the first place of its own order at which everything that the cursor names has
//! been passed, what the cursor has not had is given one by one, under ids of its own ([`Passage`]).

use tidings_log::{EventRef, Log, ReadError, Resume, Scope};
use tidings_protocol::api::GapReason;
use tidings_protocol::{Cursor, MergedCursor, Position};

use super::Cursors;
use super::ids::{CursorText, EventIds};
use super::lookup::{before_first, last_event, next_event};
use super::origin::{Origin, Reached};
use super::sources::{Sources, Standing};

/// A stretch of the log that is given under ids of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// It ends with this position; what comes after it goes by the log's own ids.
    pub until: Position,
    /// What has been delivered.
    reached: Reached,
}

impl Passage {
    /// The cursor of what has been delivered so far.
    #[must_use]
    pub fn at(&self, ids: &EventIds) -> CursorText {
        ids.text(last_source(&self.reached), &self.reached)
    }

    /// The id under which an event is given; `None` where it was delivered before.
    pub fn admit(&mut self, event: &EventRef<'_>, ids: &EventIds) -> Option<CursorText> {
        let origin = event.origin.and_then(Origin::decode)?;
        let delivered = self.reached.get_mut(origin.source)?;
        if origin.own() <= *delivered {
            return None;
        }
        *delivered = origin.own();
        Some(ids.text(origin.source, &self.reached))
    }
}

/// Something that a cursor asked for and can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Why.
    pub reason: GapReason,
    /// Of which source, where one is to blame.
    pub source: Option<String>,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What comes after this position is given.
    pub after: Position,
    /// Under ids of its own up to its end.
    pub passage: Option<Passage>,
    /// The cursor of this place.
    pub at: CursorText,
    /// What is told first.
    pub missing: Vec<Missing>,
    /// That tells of everything that retention has removed up to here.
    pub announced: Position,
}

/// What a cursor comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It leads here.
    Found(Place),
    /// It is not a cursor that leads anywhere.
    Unknown(GapReason),
    /// This node has not copied so far yet.
    Ahead(Vec<Cursor>),
}

/// Reads a cursor over so many sources.
pub(super) fn read(ids: &EventIds, count: usize, text: &str) -> Result<Vec<Cursor>, GapReason> {
    let reached = if matches!(ids, EventIds::Sources) {
        text.parse::<MergedCursor>().map(|cursor| cursor.reached)
    } else {
        text.parse::<Cursor>().map(|cursor| vec![cursor])
    };
    match reached {
        Err(_) => Err(GapReason::Malformed),
        Ok(reached) if reached.len() == count => Ok(reached),
        // The deployment had other sources then.
        Ok(_) => Err(GapReason::UnknownEpoch),
    }
}

/// Finds the place of a cursor in the log up to `tail`, which is looked at when it is known that the log has what the
/// cursor names.
///
/// # Errors
///
/// When the log can't be read.
pub(super) fn resolve(
    cursors: &Cursors,
    sources: &Sources,
    scope: Scope,
    asked: &[Cursor],
    tail: impl FnOnce() -> Position,
) -> Result<Resolution, ReadError> {
    let (log, ids): (&Log, &EventIds) = (&cursors.log, &cursors.ids);
    let standings = sources.standings();
    let mut both = standings.iter().zip(asked);
    if !both.all(|(standing, place)| standing.covers(*place)) {
        return Ok(Resolution::Ahead(asked.to_vec()));
    }
    // Not before: up to an earlier tail the log may lack what has been copied since, and what the cursor names
    // would be given again.
    let tail = tail();
    let mut floor: Reached = asked.into();
    let mut missing = Vec::new();
    for (place, (standing, name)) in floor.iter_mut().zip(standings.iter().zip(sources.names())) {
        let reason = if place.epoch < standing.epoch {
            // Made anew, or made at all, since: it is given from its oldest event.
            *place = Cursor {
                epoch: standing.epoch,
                position: standing.first - 1,
            };
            GapReason::UnknownEpoch
        } else if place.position + 1 < standing.first && place.epoch == standing.epoch {
            place.position = standing.first - 1;
            GapReason::Expired
        } else {
            continue;
        };
        missing.push(Missing {
            reason,
            source: Some(name.clone()),
        });
    }
    let from = before_first(log, tail, |origin| exceeds(&origin.reached, &floor))?;
    let (mut after, mut announced) = (from, from);
    if let Resume::Expired(expired) = log.resume_point(scope, from) {
        announced = expired.removed_through;
        after = expired.resume_after.max(from);
        let removed = removed_of(log, after, sources, &mut floor)?;
        missing.extend(removed);
    }
    // What a source lost right behind the cursor is told with the cursor that was asked for: it may lie in what is
    // missing, where another node had it.
    while let Some(loss) = cursors.losses().first_after(after)
        && loss.position == after + 1
    {
        after = loss.position;
        let place = &mut floor[loss.source];
        if *place < loss.through {
            *place = loss.through;
            missing.push(cursors.missing_of(&loss));
        }
    }
    let level = before_first(log, tail, |origin| dominates(&origin.reached, &floor))?;
    let until = next_event(log, level)?.map_or(tail, |(position, _)| position.min(tail));
    // A passage is given without a look at what is missing in it.
    let mut passed = after;
    while let Some(loss) = cursors.losses().first_after(passed)
        && loss.position <= until
    {
        passed = loss.position;
        if floor[loss.source] < loss.through {
            missing.push(cursors.missing_of(&loss));
        }
    }
    let at = ids.text(last_source(&floor), &floor);
    Ok(Resolution::Found(Place {
        after,
        passage: (until > after).then_some(Passage {
            until,
            reached: floor,
        }),
        at,
        missing,
        announced,
    }))
}

/// Retention has removed something between a cursor and a position: says of which sources, and moves the
/// cursor behind it.
fn removed_of(
    log: &Log,
    after: Position,
    sources: &Sources,
    floor: &mut Reached,
) -> Result<Vec<Missing>, ReadError> {
    let mut missing = Vec::new();
    if let Some((_, origin)) = next_event(log, after)? {
        let mut gone = origin.reached.clone();
        gone[origin.source].position -= 1;
        for (place, (gone, name)) in floor.iter_mut().zip(gone.iter().zip(sources.names())) {
            if *place < *gone {
                *place = *gone;
                missing.push(Missing {
                    reason: GapReason::Expired,
                    source: Some(name.clone()),
                });
            }
        }
    }
    if missing.is_empty() {
        missing.push(Missing {
            reason: GapReason::Expired,
            source: None,
        });
    }
    Ok(missing)
}

/// Whether anything has been delivered that `floor` has not.
fn exceeds(reached: &Reached, floor: &Reached) -> bool {
    reached.iter().zip(floor).any(|(have, had)| have > had)
}

/// Whether everything has been delivered that `floor` has.
fn dominates(reached: &Reached, floor: &Reached) -> bool {
    let mut both = reached.iter().zip(floor);
    // Also of a source's beginning: where it was made anew, what it was before is to be passed first.
    both.all(|(have, had)| have >= had)
}

fn last_source(reached: &Reached) -> usize {
    reached
        .iter()
        .position(|place| place.position > 0)
        .unwrap_or(0)
}

/// The cursor of a position of the log.
pub(super) fn text_at(
    log: &Log,
    ids: &EventIds,
    standings: &[Standing],
    position: Position,
) -> Result<CursorText, ReadError> {
    if let Some((_, origin)) = last_event(log, position)? {
        return Ok(ids.text(origin.source, &origin.reached));
    }
    let begin = match next_event(log, position)? {
        Some((_, mut origin)) => {
            origin.reached[origin.source].position -= 1;
            origin.reached
        }
        None => standings.iter().map(beginning).collect(),
    };
    Ok(ids.text(last_source(&begin), &begin))
}

/// The place before everything that this node has of a source.
fn beginning(standing: &Standing) -> Cursor {
    Cursor {
        epoch: standing.epoch,
        position: standing.first - 1,
    }
}
