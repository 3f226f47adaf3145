//! The byte layout of the log, its one description.
//!
//! # The folder
//!
//! | name | holds |
//! | --- | --- |
//! | `LOCK` | locked (`flock`) by the process that has the log; who that is, as text |
//! | `FORMAT` | `tidings-log N\n`, N being [`VERSION`] or less; written last when a log is made |
//! | `EPOCHS` | of a log that descends from another: its epoch and its ancestors ([`crate::lineage`]) |
//! | `RESTORING` | a restore into the folder has not ended |
//! | `meta.redb` | the epoch, what retention has removed, how far time was known ([`crate::meta`]) |
//! | `state.redb` | the last event of each living subject as of some position; beside it, where one was found damaged, `state.redb.damaged` ([`crate::state`]) |
//! | `segments/NNNNNNNNNN.log` | the events; the numbers ascend without meaning anything else |
//! | `segments/NNNNNNNNNN.index` | of a sealed segment; a cache of what a scan finds ([`crate::index_file`]) |
//!
//! Numbers are little endian. Positions are those of [`tidings_protocol::Position`]; times are
//! microseconds.
//!
//! # A segment
//!
//! The segment header stands at offset 0 and, again, at offset 2048; frames begin at 4096, each
//! at a multiple of 8. A segment is preallocated, so that what follows the last frame is zero,
//! and cut to its length when it is sealed.
//!
//! | offset | bytes | segment header |
//! | --- | --- | --- |
//! | 0 | 8 | `tidlogsg` |
//! | 8 | 4 | version: 1 or 2 |
//! | 12 | 4 | CRC-32 of the bytes from 16 |
//! | 16 | 8 | salt: drawn for this segment; every frame in it begins with it |
//! | 24 | 8 | epoch of the log, or of one that it descends from |
//! | 32 | 8 | number of the segment |
//!
//! # A frame
//!
//! A frame holds one submitted body, so that a body is stored whole or not at all.
//!
//! | offset | bytes | frame header |
//! | --- | --- | --- |
//! | 0 | 8 | the segment's salt |
//! | 8 | 4 | CRC-32 of the frame's offset in the file (8 bytes) and the bytes from 12 |
//! | 12 | 4 | CRC-32 of the payload |
//! | 16 | 4 | length of the payload in bytes |
//! | 20 | 4 | number of events |
//! | 24 | 8 | position of the first event, or of the next one where the frame has none |
//! | 32 | 8 | `follows`: the last position before this frame |
//! | 40 | 8 | `synced_through`: the last position that was durable when this was written |
//! | 48 | 8 | append time by the wall clock; never less than the frame's before it |
//! | 56 | 8 | run time ([`crate::clock::RunClock`]), by which events age; never less either |
//! | 64 | 16 | tenant |
//! | 80 | 1 | kind: 0 events, 1 mark, 2 recovery, 3 blank |
//! | 81 | 1 | 1 where some event has a key, so that a start need not look into the others |
//! | 82 | 6 | zero |
//!
//! The payload follows, and zeros up to a multiple of 8. Of a frame with events it is, for each:
//!
//! | bytes | event |
//! | --- | --- |
//! | 1 | bits: 1 device, 2 time, 4 key, 8 subject, 16 the subject ends, 32 origin |
//! | 1 | length of the type |
//! | 1 | length of the device |
//! | 1 | length of the subject's kind; 0 where there is none or it is the type |
//! | 4 | length of the data |
//! | 8 | the publisher's time, with bit 2 |
//! | 32 | key and digest, with bit 4 |
//! | 2 | length of the subject's key, with bit 8 |
//! | 1 | length of the origin, with bit 32 |
//! | … | type, device, subject's kind, subject's key, origin, data |
//!
//! # Versions
//!
//! Version 1 had no subjects, no origins and no blank frames; what it wrote reads the same. Opening such a folder writes
//! 2 into `FORMAT`, since the older program would misread what is added.
//!
//! Version 3 has `EPOCHS`, and segments may have the epoch of an ancestor in their header. A folder is of this
//! version only where there is an ancestor: every other stays one that a program of version 2 can open.
//! [`crate::downgrade()`] makes one of version 2 of it. Segments say 2 in either.
//!
//! A **mark** has no payload; it is written when the log falls idle or closes, to say (with
//! `synced_through`) that what stands before it was durable. A **recovery** frame is the first
//! thing written after a start that discarded something: `position` is where positions go on
//! (discarded ones are not given out again), its payload a list of stretches (first and last
//! position, 8 bytes each) that are missing but were perhaps never durable, hence not lost.
//!
//! A **blank** frame stands where a purged tenant's frame stood: the same length, positions and times, no
//! tenant, and a payload of zeros. It comes about by rewriting a sealed segment under another name
//! (`NNNNNNNNNN.log.new`), syncing and renaming it; stretches that are no frames become zeros with it,
//! since nobody can say whose bytes they were.
//!
//! # Invariants
//!
//! 1. Positions ascend. The events of a frame have consecutive positions. Between frames positions
//!    may be left out only where a recovery frame says so; `follows` always tells the position
//!    before, so that a missing frame shows: it is where `follows` exceeds the last position read.
//! 2. Nothing is acknowledged or shown before `sync_data` of its segment returned. Writing goes
//!    on in the next segment only when the one before is durable to its end.
//! 3. What is missing (1) and not above the greatest `synced_through` of any later frame was durable
//!    once, so it is *lost*: read errors tell of it. What is missing above that is a write that was
//!    cut off; nobody was told of it, and a recovery frame says so for good.
//! 4. A sound frame is never discarded, whatever stands before it; but that of a purged tenant becomes a
//!    blank one, which speaks of the same positions.
//! 5. The salt is not known outside, so that no payload can look like a frame to a scan that
//!    searches for the next one behind damaged bytes; and frames of another file or another offset
//!    don't pass for this one's.
//! 6. A right checksum is no proof of what it covers. Positions are below 2^62 and times within 36,000 years of 1970;
//!    frames that say otherwise, or go back behind the one before in their segment, are damage.
//! 7. Unlinking goes from the oldest segment on, after `meta.redb` knows what goes with it and
//!    `state.redb` has what its events say.

use tidings_protocol::{Position, TenantId};

use crate::event::{IdempotencyKey, NewEvent, NewSubject, Subject};

/// The newest version of the layout: that of a log with ancestors.
pub(crate) const VERSION: u32 = 3;
/// The version of a log that descends from no other.
pub(crate) const PLAIN_VERSION: u32 = 2;
/// No frame reaches so far: at a million events a second it would take 146,000 years.
pub(crate) const MOST_POSITION: Position = 1 << 62;
/// Nor is any time further from 1970, in microseconds: 36,000 years.
const MOST_TIME: u64 = 1 << 60;
/// The newest version of a segment.
const SEGMENT_VERSION: u32 = 2;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const FORMAT: &str = "FORMAT";
pub(crate) const RESTORING: &str = "RESTORING";
pub(crate) const META: &str = "meta.redb";
pub(crate) const STATE: &str = "state.redb";
pub(crate) const SEGMENTS: &str = "segments";

const SEGMENT_MAGIC: [u8; 8] = *b"tidlogsg";
const SEGMENT_HEADER: usize = 40;
const SECOND_HEADER: usize = 2048;
/// Where the first frame of a segment stands.
pub(crate) const FRAMES_BEGIN: u64 = 4096;

pub(crate) const FRAME_HEADER: usize = 88;
pub(crate) const ALIGN: u64 = 8;

const HAS_DEVICE: u8 = 1;
const HAS_TIME: u8 = 2;
const HAS_KEY: u8 = 4;
const HAS_SUBJECT: u8 = 8;
const SUBJECT_ENDS: u8 = 16;
const HAS_ORIGIN: u8 = 32;

pub(crate) fn log_name(number: u64) -> String {
    format!("{SEGMENTS}/{number:010}.log")
}

/// A segment that is being rewritten, until it takes the other's place.
pub(crate) fn rewritten_name(number: u64) -> String {
    format!("{}.new", log_name(number))
}

pub(crate) fn index_name(number: u64) -> String {
    format!("{SEGMENTS}/{number:010}.index")
}

/// The number of a segment by its file name within the folder of segments.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) salt: u64,
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

impl SegmentHeader {
    /// One copy of the header.
    pub(crate) fn encode_copy(&self) -> [u8; SEGMENT_HEADER] {
        let mut header = [0; SEGMENT_HEADER];
        header[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut header, 8, SEGMENT_VERSION);
        put_u64(&mut header, 16, self.salt);
        put_u64(&mut header, 24, self.epoch);
        put_u64(&mut header, 32, self.number);
        let crc = crc32fast::hash(&header[16..]);
        put_u32(&mut header, 12, crc);
        header
    }

    /// Where the copies stand, the second first: whoever writes them one after the other has a sound one at
    /// any moment.
    pub(crate) const COPIES: [u64; 2] = [SECOND_HEADER as u64, 0];

    /// The bytes before the first frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let header = self.encode_copy();
        let mut bytes = vec![0; usize::try_from(FRAMES_BEGIN).expect("small")];
        bytes[..SEGMENT_HEADER].copy_from_slice(&header);
        bytes[SECOND_HEADER..SECOND_HEADER + SEGMENT_HEADER].copy_from_slice(&header);
        bytes
    }

    /// Reads the header from the bytes before the first frame; whether both copies are sound is
    /// the second answer.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let first = Self::decode_at(bytes, 0);
        let second = Self::decode_at(bytes, SECOND_HEADER);
        let both = first.is_some() && first == second;
        first.or(second).map(|header| (header, both))
    }

    fn decode_at(bytes: &[u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..at + SEGMENT_HEADER)?;
        let sound = header[..8] == SEGMENT_MAGIC
            && (1..=SEGMENT_VERSION).contains(&get_u32(header, 8))
            && get_u32(header, 12) == crc32fast::hash(&header[16..]);
        sound.then(|| Self {
            salt: get_u64(header, 16),
            epoch: get_u64(header, 24),
            number: get_u64(header, 32),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Events,
    Mark,
    Recovery,
    /// What a purged tenant's frame was.
    Blank,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) keyed: bool,
    pub(crate) payload_crc: u32,
    pub(crate) payload_length: u32,
    pub(crate) count: u32,
    pub(crate) position: Position,
    pub(crate) follows: Position,
    pub(crate) synced_through: Position,
    pub(crate) appended_at: i64,
    pub(crate) run_time: i64,
    pub(crate) tenant: TenantId,
}

impl FrameHeader {
    /// The last position at the end of this frame.
    pub(crate) fn last(&self) -> Position {
        if self.count == 0 {
            self.follows
        } else {
            self.position + u64::from(self.count) - 1
        }
    }

    /// The position that an event after this frame gets.
    pub(crate) fn next_position(&self) -> Position {
        self.position + u64::from(self.count)
    }

    /// The header of the blank frame that takes this one's place.
    pub(crate) fn blanked(&self) -> Self {
        let mut crc = crc32fast::Hasher::new();
        let zeros = [0; 4096];
        let mut left = self.payload_length as usize;
        while left > 0 {
            let part = left.min(zeros.len());
            crc.update(&zeros[..part]);
            left -= part;
        }
        Self {
            kind: FrameKind::Blank,
            keyed: false,
            payload_crc: crc.finalize(),
            tenant: TenantId::from_bytes([0; 16]),
            ..*self
        }
    }

    /// Bytes from this frame's beginning to the next one's.
    pub(crate) fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_length))
    }

    pub(crate) fn encode(&self, salt: u64, offset: u64) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        put_u64(&mut bytes, 0, salt);
        put_u32(&mut bytes, 12, self.payload_crc);
        put_u32(&mut bytes, 16, self.payload_length);
        put_u32(&mut bytes, 20, self.count);
        put_u64(&mut bytes, 24, self.position);
        put_u64(&mut bytes, 32, self.follows);
        put_u64(&mut bytes, 40, self.synced_through);
        put_u64(&mut bytes, 48, self.appended_at.cast_unsigned());
        put_u64(&mut bytes, 56, self.run_time.cast_unsigned());
        bytes[64..80].copy_from_slice(self.tenant.as_bytes());
        bytes[80] = match self.kind {
            FrameKind::Events => 0,
            FrameKind::Mark => 1,
            FrameKind::Recovery => 2,
            FrameKind::Blank => 3,
        };
        bytes[81] = u8::from(self.keyed);
        let crc = header_crc(&bytes, offset);
        put_u32(&mut bytes, 8, crc);
        bytes
    }

    /// Reads the header of the frame at `offset`; `None` where there is no sound one.
    pub(crate) fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        if get_u64(bytes, 0) != salt || get_u32(bytes, 8) != header_crc(bytes, offset) {
            return None;
        }
        let kind = match bytes[80] {
            0 => FrameKind::Events,
            1 => FrameKind::Mark,
            2 => FrameKind::Recovery,
            3 => FrameKind::Blank,
            _ => return None,
        };
        let header = Self {
            kind,
            keyed: bytes[81] != 0,
            payload_crc: get_u32(bytes, 12),
            payload_length: get_u32(bytes, 16),
            count: get_u32(bytes, 20),
            position: get_u64(bytes, 24),
            follows: get_u64(bytes, 32),
            synced_through: get_u64(bytes, 40),
            appended_at: get_u64(bytes, 48).cast_signed(),
            run_time: get_u64(bytes, 56).cast_signed(),
            tenant: TenantId::from_bytes(bytes[64..80].try_into().expect("16 bytes")),
        };
        header.is_possible().then_some(header)
    }

    /// Whether somebody who writes a log can have written this. A checksum can be made for any header, and
    /// everything behind this counts on: positions ascend and leave room above them, times leave room too.
    fn is_possible(&self) -> bool {
        let end = self.position.checked_add(u64::from(self.count));
        let in_time = |time: i64| time.unsigned_abs() <= MOST_TIME;
        self.position > self.follows
            && end.is_some_and(|end| end <= MOST_POSITION)
            && self.synced_through <= MOST_POSITION
            && in_time(self.appended_at)
            && in_time(self.run_time)
            && (self.kind != FrameKind::Events || self.count > 0)
    }

    /// The payload, where the whole frame stands in `frame` and is sound.
    pub(crate) fn payload<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let end = FRAME_HEADER + self.payload_length as usize;
        let payload = frame.get(FRAME_HEADER..end)?;
        (crc32fast::hash(payload) == self.payload_crc).then_some(payload)
    }
}

/// Bytes that a frame with such a payload takes.
pub(crate) const fn frame_bytes(payload: u64) -> u64 {
    (FRAME_HEADER as u64 + payload).next_multiple_of(ALIGN)
}

fn header_crc(header: &[u8], offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&header[12..FRAME_HEADER]);
    hasher.finalize()
}

/// An event as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredEvent<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) device: Option<&'a str>,
    pub(crate) time: Option<i64>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) subject: Option<Subject<'a>>,
    pub(crate) origin: Option<&'a [u8]>,
    pub(crate) data: &'a [u8],
}

/// Bytes that an event takes in a payload.
pub(crate) fn event_bytes(event: &NewEvent) -> u64 {
    let device = event.device.as_ref().map_or(0, |id| id.as_str().len());
    let subject = event.subject.as_ref().map_or(0, |subject| {
        2 + stored_kind(event, subject).len() + subject.key.as_str().len()
    });
    let origin = event.origin.as_ref().map_or(0, |origin| 1 + origin.len());
    let optional = 8 * usize::from(event.time.is_some()) + 32 * usize::from(event.key.is_some());
    (8 + optional + subject + origin + event.event_type.as_str().len() + device + event.data.len())
        as u64
}

/// Most subjects are kept under the type of their events, which need not be written twice.
fn stored_kind<'a>(event: &NewEvent, subject: &'a NewSubject) -> &'a str {
    if subject.kind == event.event_type {
        ""
    } else {
        subject.kind.as_str()
    }
}

/// Appends an event to a payload.
pub(crate) fn encode_event(event: &NewEvent, payload: &mut Vec<u8>) {
    let event_type = event.event_type.as_str();
    let device = event.device.as_ref().map_or("", |id| id.as_str());
    let subject = event.subject.as_ref();
    let kind = subject.map_or("", |subject| stored_kind(event, subject));
    let mut bits = 0;
    bits |= HAS_DEVICE * u8::from(event.device.is_some());
    bits |= HAS_TIME * u8::from(event.time.is_some());
    bits |= HAS_KEY * u8::from(event.key.is_some());
    bits |= HAS_SUBJECT * u8::from(subject.is_some());
    bits |= SUBJECT_ENDS * u8::from(subject.is_some_and(|subject| subject.ends));
    bits |= HAS_ORIGIN * u8::from(event.origin.is_some());
    payload.extend_from_slice(&[
        bits,
        u8::try_from(event_type.len()).expect("a type has at most 64 bytes"),
        u8::try_from(device.len()).expect("a device id has at most 128 bytes"),
        u8::try_from(kind.len()).expect("a type has at most 64 bytes"),
    ]);
    let length = u32::try_from(event.data.len()).expect("a body is bounded far below 4 GiB");
    payload.extend_from_slice(&length.to_le_bytes());
    if let Some(time) = event.time {
        payload.extend_from_slice(&time.to_le_bytes());
    }
    if let Some(key) = event.key {
        payload.extend_from_slice(&key.key);
        payload.extend_from_slice(&key.digest);
    }
    let subject_key = subject.map_or("", |subject| subject.key.as_str());
    if subject.is_some() {
        let length = u16::try_from(subject_key.len()).expect("a key has at most 512 bytes");
        payload.extend_from_slice(&length.to_le_bytes());
    }
    let origin = event.origin.as_deref().unwrap_or_default();
    if event.origin.is_some() {
        payload.push(u8::try_from(origin.len()).expect("bounded where events are submitted"));
    }
    payload.extend_from_slice(event_type.as_bytes());
    payload.extend_from_slice(device.as_bytes());
    payload.extend_from_slice(kind.as_bytes());
    payload.extend_from_slice(subject_key.as_bytes());
    payload.extend_from_slice(origin);
    payload.extend_from_slice(&event.data);
}

/// The events of a payload, in order; ends early where the payload is malformed.
pub(crate) struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(length)?).ok()
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = StoredEvent<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.take(8)?;
        let (bits, type_length, device_length, kind_length) = (head[0], head[1], head[2], head[3]);
        let data_length = get_u32(head, 4) as usize;
        let time = if bits & HAS_TIME == 0 {
            None
        } else {
            Some(get_u64(self.take(8)?, 0).cast_signed())
        };
        let key = if bits & HAS_KEY == 0 {
            None
        } else {
            let bytes = self.take(32)?;
            Some(IdempotencyKey {
                key: bytes[..16].try_into().expect("16 bytes"),
                digest: bytes[16..].try_into().expect("16 bytes"),
            })
        };
        let subject_length = if bits & HAS_SUBJECT == 0 {
            None
        } else {
            let length = self.take(2)?;
            Some(u16::from_le_bytes([length[0], length[1]]))
        };
        let origin_length = if bits & HAS_ORIGIN == 0 {
            None
        } else {
            Some(usize::from(self.take(1)?[0]))
        };
        // The texts stand side by side and are looked at together: checking that a text is one costs
        // about the same for few bytes as for many.
        let lengths = [
            usize::from(type_length),
            usize::from(device_length),
            usize::from(kind_length),
            usize::from(subject_length.unwrap_or(0)),
        ];
        let mut texts = self.take_text(lengths.iter().sum())?;
        let mut text = |length| {
            let (taken, rest) = texts.split_at_checked(length)?;
            texts = rest;
            Some(taken)
        };
        let event_type = text(lengths[0])?;
        let device = text(lengths[1])?;
        let subject = if subject_length.is_some() {
            let kind = text(lengths[2])?;
            Some(Subject {
                kind: if kind.is_empty() { event_type } else { kind },
                key: text(lengths[3])?,
                ends: bits & SUBJECT_ENDS != 0,
            })
        } else {
            None
        };
        let origin = match origin_length {
            None => None,
            Some(length) => Some(self.take(length)?),
        };
        Some(StoredEvent {
            event_type,
            device: (bits & HAS_DEVICE != 0).then_some(device),
            time,
            key,
            subject,
            origin,
            data: self.take(data_length)?,
        })
    }
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_protocol::EventType;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<NewEvent>> {
        let event = (
            "[a-z][a-z0-9_]{0,63}",
            prop::option::of("[A-Za-z0-9_.:]{1,128}"),
            any::<Option<i64>>(),
            any::<Option<([u8; 16], [u8; 16])>>(),
            prop::option::of((
                prop::option::of("[a-z][a-z0-9_]{0,63}"),
                "\\PC{1,128}",
                any::<bool>(),
            )),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..256)),
            prop::collection::vec(any::<u8>(), 0..200),
        )
            .prop_filter_map(
                "reserved",
                |(event_type, device, time, key, subject, origin, data)| {
                    let event_type: EventType = event_type.parse().ok()?;
                    let subject = match subject {
                        None => None,
                        Some((kind, key, ends)) => Some(NewSubject {
                            kind: kind
                                .map_or(Some(event_type.clone()), |kind| kind.parse().ok())?,
                            key: key.parse().expect("well formed"),
                            ends,
                        }),
                    };
                    Some(NewEvent {
                        event_type,
                        device: device.map(|id| id.parse().expect("well formed")),
                        time,
                        key: key.map(|(key, digest)| IdempotencyKey { key, digest }),
                        subject,
                        origin: origin.map(Vec::into_boxed_slice),
                        data,
                    })
                },
            );
        prop::collection::vec(event, 1..8)
    }

    proptest! {
        #[test]
        fn a_body_reads_back_as_it_was_written(body in events()) {
            let mut payload = Vec::new();
            for event in &body {
                let before = payload.len();
                encode_event(event, &mut payload);
                prop_assert_eq!((payload.len() - before) as u64, event_bytes(event));
            }
            let read: Vec<NewEvent> = Events::new(&payload)
                .map(|event| NewEvent {
                    event_type: event.event_type.parse().unwrap(),
                    device: event.device.map(|id| id.parse().unwrap()),
                    time: event.time,
                    key: event.key,
                    subject: event.subject.map(|subject| NewSubject {
                        kind: subject.kind.parse().unwrap(),
                        key: subject.key.parse().unwrap(),
                        ends: subject.ends,
                    }),
                    origin: event.origin.map(Into::into),
                    data: event.data.to_vec(),
                })
                .collect();
            prop_assert_eq!(read, body);
        }

        #[test]
        fn a_flipped_bit_in_a_frame_header_is_noticed(bit in 0..FRAME_HEADER * 8) {
            let header = FrameHeader {
                kind: FrameKind::Events,
                keyed: true,
                payload_crc: 7,
                payload_length: 9,
                count: 2,
                position: 40,
                follows: 39,
                synced_through: 30,
                appended_at: 1_700_000_000_000_000,
                run_time: -5,
                tenant: TenantId::from_bytes([3; 16]),
            };
            let mut bytes = header.encode(11, 4096);
            prop_assert_eq!(FrameHeader::decode(&bytes, 11, 4096), Some(header));
            prop_assert_eq!(FrameHeader::decode(&bytes, 11, 4104), None);
            prop_assert_eq!(FrameHeader::decode(&bytes, 12, 4096), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(FrameHeader::decode(&bytes, 11, 4096), None);
        }

        #[test]
        fn reading_a_payload_never_panics(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Events::new(&payload).count() <= payload.len());
        }
    }

    #[test]
    fn a_segment_header_survives_damage_to_one_of_its_copies() {
        let header = SegmentHeader {
            salt: 5,
            epoch: 6,
            number: 7,
        };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some((header, true)));
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Some((header, false)));
        bytes[SECOND_HEADER] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), None);
    }
}
