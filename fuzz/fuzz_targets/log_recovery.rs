//! Whatever a crash, a bad disk or a meddler leaves of a log's folder.
//!
//! The input is a list of changes to the segments of a small log: what a disk does (bytes of other values,
//! a file cut short or longer, a file replaced or gone) and what no disk does, a changed header or payload whose
//! checksums are right all the same.
//!
//! Promises: `verify` and opening end, in a log or in an error; positions ascend; what is appended afterwards
//! is read back, and all of it again after another start, with nothing changed in between.

#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use tidings_fuzz::deployment::TENANT;
use tidings_fuzz::disk::Disk;
use tidings_log::clock::SystemClock;
use tidings_log::storage::Storage;
use tidings_log::{
    EventRef, Health, IdempotencyKey, Listener, Log, LogOptions, NewEvent, NewSubject, ReadLimit,
    Scope, verify_with,
};
use tidings_protocol::{Position, TenantId};

/// The path that messages name; nothing is there.
const FOLDER: &str = "log";
/// Where frames begin in a segment, and how long their headers are (`format.rs`).
const FRAMES_BEGIN: usize = 4096;
const FRAME_HEADER: usize = 88;

struct Unheard;

impl Listener for Unheard {
    fn committed(&mut self, _events: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _health: &Health) {}
}

/// Small segments, so that a log of a few kilobytes has several; nothing expires.
fn options() -> LogOptions {
    LogOptions {
        max_bytes: 1 << 20,
        retention: std::time::Duration::ZERO,
        cache_bytes: 1 << 16,
        ..LogOptions::new(FOLDER)
    }
}

fn open(disk: &Arc<Disk>) -> Option<Log> {
    let storage = Arc::clone(disk) as Arc<dyn Storage>;
    Log::open_with(options(), storage, Arc::new(SystemClock), Box::new(Unheard)).ok()
}

fn append(log: &Log, tenant: TenantId, events: Vec<NewEvent>) -> Option<Position> {
    let (tell, told) = mpsc::channel();
    let answer = Box::new(move |fate: Result<tidings_log::Appended, _>| {
        let _ = tell.send(fate);
    });
    log.submit(tenant, events, answer).ok()?;
    told.recv().ok()?.ok().map(|appended| appended.last)
}

fn event(number: u8, bytes: usize) -> NewEvent {
    let kind = "device_status".parse().expect("a type");
    NewEvent {
        event_type: "device_status".parse().expect("a type"),
        device: Some(format!("r{number}").parse().expect("a device")),
        time: number.is_multiple_of(2).then_some(1_700_000_000_000_000),
        key: number.is_multiple_of(3).then(|| IdempotencyKey {
            key: [number; 16],
            digest: [number; 16],
        }),
        origin: None,
        subject: Some(NewSubject {
            kind,
            key: format!("r{number}").parse().expect("a key"),
            ends: number.is_multiple_of(5),
        }),
        data: vec![b'x'; bytes],
    }
}

/// The files of a sound log of two tenants over several segments.
fn sound() -> &'static BTreeMap<String, Vec<u8>> {
    static SOUND: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let disk = Arc::new(Disk::default());
        let log = open(&disk).expect("an empty folder becomes a log");
        let other: TenantId = "22222222-2222-4222-8222-222222222222"
            .parse()
            .expect("a UUID");
        for number in 0..12 {
            let tenant = if number % 3 == 0 {
                other
            } else {
                TENANT.parse().expect("a UUID")
            };
            let events = (0..3).map(|each| event(number * 3 + each, 9_000)).collect();
            append(&log, tenant, events).expect("a sound log takes events");
        }
        log.run_upkeep();
        log.close();
        disk.content()
    })
}

/// Reads changes off the input; the second says whether one of them was none that a disk makes.
struct Changes<'a>(&'a [u8], bool);

impl<'a> Changes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.bytes(4)?;
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Makes the next change; `None` at the input's end.
    fn apply(&mut self, files: &mut BTreeMap<String, Vec<u8>>) -> Option<()> {
        let kind = self.byte()?;
        let names: Vec<String> = files
            .keys()
            .filter(|name| name.starts_with("segments/"))
            .cloned()
            .collect();
        let name = names.get(usize::from(self.byte()?) % names.len().max(1))?;
        let content = files.get_mut(name)?;
        match kind % 6 {
            0 => {
                let at = self.number()? % content.len().max(1);
                let count = usize::from(self.byte()?) % 64;
                let written = self.bytes(count)?;
                let end = (at + written.len()).min(content.len());
                content[at..end].copy_from_slice(&written[..end - at]);
            }
            1 => {
                let length = self.number()? % (content.len() + 8192);
                content.resize(length, 0);
            }
            2 => {
                let rest = std::mem::take(&mut self.0);
                *content = rest.to_vec();
            }
            3 => {
                files.remove(name);
            }
            4 => {
                // A byte of a frame's header.
                let frame = frame_at(content, self.byte()?)?;
                let at = frame + usize::from(self.byte()?) % FRAME_HEADER;
                content[at] = self.byte()?;
                // Half of them with the right checksum.
                if kind >= 128 {
                    seal(content, frame);
                    self.1 = true;
                }
            }
            _ => {
                // A payload with other bytes and the right checksum.
                let frame = frame_at(content, self.byte()?)?;
                let length = payload_length(content, frame)?;
                let offset = usize::from(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?));
                let at = frame + FRAME_HEADER + offset % length.max(1);
                *content.get_mut(at)? = self.byte()?;
                let payload = frame + FRAME_HEADER..frame + FRAME_HEADER + length;
                let sum = crc32fast::hash(content.get(payload)?).to_le_bytes();
                content[frame + 12..frame + 16].copy_from_slice(&sum);
                seal(content, frame);
                self.1 = true;
            }
        }
        Some(())
    }
}

fn payload_length(content: &[u8], frame: usize) -> Option<usize> {
    let bytes: [u8; 4] = content.get(frame + 16..frame + 20)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Where the frame of this number begins, as far as frames follow each other.
fn frame_at(content: &[u8], number: u8) -> Option<usize> {
    let mut at = FRAMES_BEGIN;
    for _ in 0..number % 16 {
        let next = at + (FRAME_HEADER + payload_length(content, at)?).next_multiple_of(8);
        if next + FRAME_HEADER > content.len() {
            break;
        }
        at = next;
    }
    (at + FRAME_HEADER <= content.len()).then_some(at)
}

/// Writes the checksum of the frame's header.
fn seal(content: &mut [u8], frame: usize) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(frame as u64).to_le_bytes());
    hasher.update(&content[frame + 12..frame + FRAME_HEADER]);
    let sum = hasher.finalize().to_le_bytes();
    content[frame + 8..frame + 12].copy_from_slice(&sum);
}

/// Everything of a scope, as far as it can be read: positions and payloads.
fn everything(log: &Log, scope: Scope) -> Vec<(Position, Vec<u8>)> {
    let limit = ReadLimit {
        events: 1_000,
        bytes: 1 << 24,
    };
    let mut seen = Vec::new();
    let mut after = 0;
    loop {
        let read = log.read(scope, after, limit, &mut |event| {
            seen.push((event.position, event.data.to_vec()));
        });
        let Ok(end) = read else { break };
        assert!(end.examined_through >= after, "a read goes forward");
        if end.reached_tail || end.examined_through == after {
            break;
        }
        after = end.examined_through;
    }
    let positions = seen.iter().map(|(position, _)| *position);
    assert!(positions.is_sorted_by(|one, next| one < next), "{seen:?}");
    seen
}

fuzz_target!(|bytes: &[u8]| {
    let mut files = sound().clone();
    let mut changes = Changes(bytes, false);
    while changes.apply(&mut files).is_some() {}

    let disk = Arc::new(Disk::of(&files));
    let _ = verify_with(&*disk, Path::new(FOLDER));
    let Some(log) = open(&disk) else { return };
    let tenant: TenantId = TENANT.parse().expect("a UUID");
    let appended = append(&log, tenant, vec![event(200, 40)]);
    let seen = everything(&log, Scope::All);
    if let Some(position) = appended {
        assert_eq!(seen.last().map(|(last, _)| *last), Some(position));
    }
    let own = everything(&log, Scope::Tenant(tenant));
    // A forged frame can be found out by one way of reading and not by the other.
    assert!(changes.1 || own.iter().all(|event| seen.contains(event)));
    log.close();

    let again = open(&disk).expect("what was opened once opens again");
    let seen_again = everything(&again, Scope::All);
    // Of a body whose events end in the middle the first ones are shown until it is found out.
    assert!(changes.1 || seen_again == seen, "{seen:?}\n{seen_again:?}");
    again.close();
});
