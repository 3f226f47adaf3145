//! Taking bodies into a group: which of their events are new, and the frames that hold those.

use tidings_protocol::{Position, TenantId};

use crate::event::NewEvent;
use crate::format::{FrameHeader, FrameKind, encode_event, event_bytes, frame_bytes};
use crate::group::{Body, Stored};
use crate::keys::Known;
use crate::queue::Submission;
use crate::writer::{Writer, answer};
use crate::{AppendError, Appended, Chain};

/// What became of the events of a body before it is written.
struct Sorted {
    appended: Appended,
    /// Which events are new; `None` where all are.
    fresh: Option<Vec<bool>>,
    payload_bytes: u64,
    first_position: Position,
    /// Whether any new event has a key.
    keyed: bool,
}

impl Writer {
    /// Puts a body into the group; commits the group first where the body no longer fits, or repeats
    /// what is in it.
    pub(crate) fn take_in(&mut self, submission: Submission) {
        if self.purged.contains(&submission.tenant) {
            return answer(submission.answer, Err(AppendError::Purged));
        }
        if !self.fits(submission.bytes) || self.repeats_unfinished(&submission) {
            self.commit();
            if self.failed {
                let error = self.failure();
                return answer(submission.answer, Err(error));
            }
        }
        let Submission {
            tenant,
            events,
            answer,
            chain,
            submitted,
            ..
        } = submission;
        self.group.submitted.get_or_insert(submitted);
        if chain.as_ref().is_some_and(Chain::is_broken) {
            return self::answer(answer, Err(AppendError::Unchained));
        }
        let keys_before = self.group.keys;
        let sorted = match self.sort_out(tenant, &events) {
            Ok(sorted) => sorted,
            Err(error) => {
                self.retract(keys_before);
                return self.group.bodies.push(Body {
                    answer,
                    chain,
                    outcome: Err(error),
                    stored: None,
                });
            }
        };
        let outcome = Ok(sorted.appended);
        if sorted.appended.accepted == 0 {
            return self.group.bodies.push(Body {
                answer,
                chain,
                outcome,
                stored: None,
            });
        }
        let bytes = frame_bytes(sorted.payload_bytes);
        if !self.fits(bytes)
            && let Err(reason) = self.roll(bytes)
        {
            self.retract(keys_before);
            if let Some(chain) = &chain {
                chain.set_broken();
            }
            return self.group.bodies.push(Body {
                answer,
                chain,
                outcome: Err(AppendError::Full(reason)),
                stored: None,
            });
        }
        let first = sorted.first_position;
        let fresh = self.encode(tenant, &events, sorted);
        self.group.bodies.push(Body {
            answer,
            chain,
            outcome,
            stored: Some(Stored {
                tenant,
                events,
                fresh,
                first,
                appended_at: self.last_time,
            }),
        });
    }

    /// Whether a body repeats an event of the unfinished group. If power failed, its own part could
    /// reach the disk and the other's not: then it would be stored by half.
    fn repeats_unfinished(&self, submission: &Submission) -> bool {
        let Some((first, _)) = self.group.frames.first() else {
            return false;
        };
        self.group.keys > 0
            && submission.events.iter().any(|event| {
                let known = event
                    .key
                    .as_ref()
                    .map(|key| self.keys.look_up(submission.tenant, key));
                matches!(known, Some(Known::Duplicate(at)) if at >= first.position)
            })
    }

    fn retract(&mut self, keys_before: usize) {
        self.keys.retract(self.group.keys - keys_before);
        self.group.keys = keys_before;
    }

    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.active.as_ref().is_some_and(|active| {
            active.offset + self.group.buffer.len() as u64 + bytes <= active.capacity
        })
    }

    /// Tells new events from repeated ones, remembering the keys of the new.
    fn sort_out(&mut self, tenant: TenantId, events: &[NewEvent]) -> Result<Sorted, AppendError> {
        let first_position = self.next_position;
        let keys_before = self.group.keys;
        let mut next = first_position;
        let mut payload_bytes = 0;
        let mut fresh: Option<Vec<bool>> = None;
        let (mut first, mut last) = (0, 0);
        for (index, event) in events.iter().enumerate() {
            let known = match &event.key {
                None => Known::New,
                Some(key) => self.keys.look_up(tenant, key),
            };
            let position = match known {
                Known::Conflict => return Err(AppendError::KeyConflict { index }),
                Known::Duplicate(position) => {
                    fresh.get_or_insert_with(|| vec![true; events.len()])[index] = false;
                    position
                }
                Known::New => {
                    if let Some(key) = &event.key {
                        if self.keys.is_full() {
                            return Err(AppendError::KeyWindowFull);
                        }
                        self.keys.insert(tenant, key, next, self.last_run);
                        self.group.keys += 1;
                    }
                    payload_bytes += event_bytes(event);
                    next += 1;
                    next - 1
                }
            };
            if index == 0 {
                first = position;
            }
            last = position;
        }
        let accepted = next - first_position;
        Ok(Sorted {
            appended: Appended {
                accepted,
                duplicates: events.len() as u64 - accepted,
                first,
                last,
            },
            fresh,
            payload_bytes,
            first_position,
            keyed: self.group.keys > keys_before,
        })
    }

    /// Appends the frame of a body to the group's buffer.
    fn encode(
        &mut self,
        tenant: TenantId,
        events: &[NewEvent],
        sorted: Sorted,
    ) -> Option<Vec<bool>> {
        let count = u32::try_from(sorted.appended.accepted).expect("a body has far fewer events");
        let payload = self.group.begin_frame();
        for (index, event) in events.iter().enumerate() {
            if sorted.fresh.as_ref().is_none_or(|fresh| fresh[index]) {
                encode_event(event, &mut self.group.buffer);
            }
        }
        let payload = &self.group.buffer[payload..];
        debug_assert_eq!(payload.len() as u64, sorted.payload_bytes);
        let header = FrameHeader {
            kind: FrameKind::Events,
            keyed: sorted.keyed,
            payload_crc: crc32fast::hash(payload),
            payload_length: u32::try_from(payload.len()).expect("a frame is bounded"),
            count,
            position: sorted.first_position,
            follows: self.last,
            synced_through: self.group.synced_through(self.last),
            appended_at: self.last_time,
            run_time: self.last_run,
            tenant,
        };
        let active = self.active.as_ref().expect("the body fits into it");
        self.group
            .end_frame(header, active.segment.salt, active.offset);
        self.last = header.last();
        self.next_position = header.next_position();
        sorted.fresh
    }
}
