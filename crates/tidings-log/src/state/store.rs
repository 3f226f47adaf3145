//! The state on disk, in `state.redb`: what it was at some position of the log, so that it outlives the
//! events behind it and a start need not read the whole log.
//!
//! Table `state`: `epoch` of the log; `through`, the position that the rest is true at. Table
//! `subjects`: under tenant (16 bytes), kind, a zero byte and key, the subject's last event:
//!
//! | bytes | value |
//! | --- | --- |
//! | 4 | CRC-32 of the key and the bytes from 4 |
//! | 8 | position |
//! | 8 | append time |
//! | 8 | run time |
//! | 1 | bits: 1 device, 2 time, 4 origin |
//! | 1 | length of the type |
//! | 1 | length of the device |
//! | 8 | the publisher's time, with bit 2 |
//! | 1 | length of the origin, with bit 4 |
//! | … | type, device, origin, data |
//!
//! Table `forgotten`: the 16 bytes of tenants whose events are not folded any more.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use tidings_protocol::event::MAX_SUBJECT_KEY;
use tidings_protocol::{Epoch, Position, TenantId};

use super::entry::{Names, StateEntry};
use super::snapshot::StateSnapshot;
use crate::database;
use crate::event::{EventRef, Subject};
use crate::format::{STATE, get_u64};
use crate::storage::{OpenMode, Storage};

const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const SUBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("subjects");
const FORGOTTEN: TableDefinition<'_, [u8; 16], ()> = TableDefinition::new("forgotten");

/// Checkpoints touch what changes often; the rest is read once, at a start.
const CACHE_BYTES: usize = 8 << 20;

const HAS_DEVICE: u8 = 1;
const HAS_TIME: u8 = 2;
const HAS_ORIGIN: u8 = 4;

/// A subject in the table `subjects`.
pub(super) type StoreKey = Box<[u8]>;

/// What has changed since the last checkpoint; `None` where the subject is gone.
pub(super) type Changes = BTreeMap<StoreKey, Option<Arc<StateEntry>>>;

pub(super) fn store_key(tenant: TenantId, kind: &str, key: &str) -> StoreKey {
    let mut bytes = Vec::with_capacity(17 + kind.len() + key.len());
    bytes.extend_from_slice(tenant.as_bytes());
    bytes.extend_from_slice(kind.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    bytes.into_boxed_slice()
}

/// What the file says beside the subjects.
pub(super) struct Stored {
    pub(super) epoch: u64,
    pub(super) through: Position,
    pub(super) forgotten: HashSet<TenantId>,
}

/// Why the file gave no state.
pub(super) enum LoadError {
    /// There is none.
    Missing,
    /// It holds something else than a state.
    Damaged(String),
    /// The operating system refused; it may do better later.
    Io(String),
}

pub(super) struct Store {
    storage: Arc<dyn Storage>,
    /// Of the log.
    epoch: u64,
    /// Empty after an error: redb refuses further work then, and is opened anew.
    database: Option<Database>,
}

impl Store {
    pub(super) fn new(storage: Arc<dyn Storage>, epoch: Epoch) -> Self {
        Self {
            storage,
            epoch: epoch.0,
            database: None,
        }
    }

    /// Reads everything; hands each subject to `take`.
    pub(super) fn load(
        &mut self,
        names: &mut Names,
        take: &mut dyn FnMut(StateEntry),
    ) -> Result<Stored, LoadError> {
        let file = match self.storage.open(STATE, OpenMode::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LoadError::Missing);
            }
            Err(error) => return Err(LoadError::Io(error.to_string())),
        };
        // Made, or found empty, it would be a new database; an empty file is none of ours.
        match file.len() {
            Ok(0) => return Err(LoadError::Damaged("it is empty".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(LoadError::Io(error.to_string())),
        }
        // Of a damaged file redb can also panic.
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let database = database::open(file, CACHE_BYTES)?;
            let stored = read(&database, names, take)?;
            self.database = Some(database);
            Ok(stored)
        }));
        match loaded {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(redb::Error::Io(error))) if !is_damage(&error) => {
                Err(LoadError::Io(error.to_string()))
            }
            Ok(Err(error)) => Err(LoadError::Damaged(error.to_string())),
            Err(_) => Err(LoadError::Damaged("reading it panicked".to_owned())),
        }
    }

    /// Makes an empty file, whole or not at all, and keeps a damaged one beside it for whoever wants to
    /// look.
    pub(super) fn start_anew(&mut self, damaged: bool) -> Result<(), redb::Error> {
        self.database = None;
        if damaged {
            match self.storage.rename(STATE, &format!("{STATE}.damaged")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let fresh = format!("{STATE}.new");
        let database = database::open(self.storage.open(&fresh, OpenMode::Create)?, CACHE_BYTES)?;
        let write = database.begin_write()?;
        {
            let mut facts = write.open_table(FACTS)?;
            facts.insert("epoch", self.epoch)?;
            facts.insert("through", 0)?;
            write.open_table(SUBJECTS)?;
            write.open_table(FORGOTTEN)?;
        }
        write.commit()?;
        drop(database);
        self.storage.rename(&fresh, STATE)?;
        self.storage.sync_folder("")?;
        Ok(())
    }

    /// Makes the changes durable together with the position that they lead to.
    pub(super) fn save(
        &mut self,
        through: Position,
        changes: &Changes,
        forgotten: &HashSet<TenantId>,
    ) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => database::open(self.storage.open(STATE, OpenMode::Write)?, CACHE_BYTES)?,
        };
        let mut write = database.begin_write()?;
        // Otherwise the start after a kill walks the whole file before it reads it.
        write.set_quick_repair(true);
        {
            let mut facts = write.open_table(FACTS)?;
            // The file may come from a log that this one descends from.
            facts.insert("epoch", self.epoch)?;
            facts.insert("through", through)?;
            let mut subjects = write.open_table(SUBJECTS)?;
            let mut value = Vec::new();
            for (key, entry) in changes {
                match entry {
                    Some(entry) => {
                        encode(key, entry, &mut value);
                        subjects.insert(&**key, value.as_slice())?;
                    }
                    None => {
                        subjects.remove(&**key)?;
                    }
                }
            }
            let mut known = write.open_table(FORGOTTEN)?;
            for tenant in forgotten {
                if known.insert(tenant.as_bytes(), ())?.is_none() {
                    let (first, last) = (&tenant.as_bytes()[..], last_key(*tenant));
                    subjects.retain_in(first..=last.as_slice(), |_, _| false)?;
                }
            }
        }
        write.commit()?;
        self.database = Some(database);
        Ok(())
    }
}

/// Writes a snapshot into a file that is not the log's own.
pub(super) fn write_snapshot(
    storage: &dyn Storage,
    name: &str,
    epoch: Epoch,
    snapshot: StateSnapshot,
    forgotten: &HashSet<TenantId>,
) -> Result<(), redb::Error> {
    let database = database::open(storage.open(name, OpenMode::Create)?, CACHE_BYTES)?;
    let write = database.begin_write()?;
    {
        let mut facts = write.open_table(FACTS)?;
        facts.insert("epoch", epoch.0)?;
        facts.insert("through", snapshot.through())?;
        let mut known = write.open_table(FORGOTTEN)?;
        for tenant in forgotten {
            known.insert(tenant.as_bytes(), ())?;
        }
        let mut subjects = write.open_table(SUBJECTS)?;
        let mut value = Vec::new();
        for entry in snapshot.into_entries() {
            if !forgotten.contains(&entry.tenant) {
                let key = store_key(entry.tenant, &entry.kind, entry.key());
                encode(&key, &entry, &mut value);
                subjects.insert(&*key, value.as_slice())?;
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// Has the file of a log that nobody has open forget some tenants, and makes it the file of this epoch.
pub(super) fn adapt(
    storage: &Arc<dyn Storage>,
    epoch: Epoch,
    forget: &HashSet<TenantId>,
) -> Result<(), String> {
    let mut store = Store::new(Arc::clone(storage), epoch);
    let stored = match store.load(&mut Names::default(), &mut |_| {}) {
        Ok(stored) => stored,
        // The log builds it anew.
        Err(LoadError::Missing) => return Ok(()),
        Err(LoadError::Damaged(what) | LoadError::Io(what)) => return Err(what),
    };
    let forgotten: HashSet<TenantId> = stored.forgotten.union(forget).copied().collect();
    store
        .save(stored.through, &Changes::new(), &forgotten)
        .and_then(|()| {
            if forget.is_empty() {
                Ok(())
            } else {
                store.rewrite()
            }
        })
        .map_err(|error| error.to_string())
}

impl Store {
    /// Puts a copy in the file's place, so that nothing of what was taken away stands on the disk any more:
    /// the database only marks its room as free. A damaged file that was kept goes too.
    pub(super) fn rewrite(&mut self) -> Result<(), redb::Error> {
        match self.storage.remove(&format!("{STATE}.damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => database::open(self.storage.open(STATE, OpenMode::Write)?, CACHE_BYTES)?,
        };
        let read = database.begin_read()?;
        let fresh_name = format!("{STATE}.new");
        let fresh = self.storage.open(&fresh_name, OpenMode::Create)?;
        let fresh = database::open(fresh, CACHE_BYTES)?;
        let write = fresh.begin_write()?;
        database::copy_table(&read, &write, FACTS)?;
        database::copy_table(&read, &write, SUBJECTS)?;
        database::copy_table(&read, &write, FORGOTTEN)?;
        write.commit()?;
        drop((read, database, fresh));
        self.storage.rename(&fresh_name, STATE)?;
        self.storage.sync_folder("")?;
        Ok(())
    }
}

/// A key that no key of the tenant is greater than.
fn last_key(tenant: TenantId) -> Vec<u8> {
    let mut key = tenant.as_bytes().to_vec();
    // A kind begins with a letter.
    key.push(u8::MAX);
    key
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

fn read(
    database: &Database,
    names: &mut Names,
    take: &mut dyn FnMut(StateEntry),
) -> Result<Stored, redb::Error> {
    let damaged = |what: &str| redb::Error::Corrupted(what.to_owned());
    let read = database.begin_read()?;
    let facts = match read.open_table(FACTS) {
        Ok(facts) => facts,
        Err(TableError::TableDoesNotExist(_)) => return Err(damaged("it is no state")),
        Err(error) => return Err(error.into()),
    };
    let fact = |name: &str| -> Result<u64, redb::Error> {
        let fact = facts.get(name)?.map(|value| value.value());
        fact.ok_or_else(|| damaged("it lacks a fact"))
    };
    let stored = Stored {
        epoch: fact("epoch")?,
        through: fact("through")?,
        forgotten: read
            .open_table(FORGOTTEN)?
            .iter()?
            .map(|entry| Ok(TenantId::from_bytes(entry?.0.value())))
            .collect::<Result<_, redb::Error>>()?,
    };
    for entry in read.open_table(SUBJECTS)?.iter()? {
        let (key, value) = entry?;
        let entry = decode(key.value(), value.value(), names)
            .ok_or_else(|| damaged("a subject in it is damaged"))?;
        take(entry);
    }
    Ok(stored)
}

fn checksum(key: &[u8], rest: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize().to_le_bytes()
}

fn encode(key: &[u8], entry: &StateEntry, value: &mut Vec<u8>) {
    let event = entry.event();
    let device = event.device.unwrap_or_default();
    let short = |length: usize| u8::try_from(length).expect("bounded by the event types and ids");
    let mut bits = 0;
    bits |= HAS_DEVICE * u8::from(event.device.is_some());
    bits |= HAS_TIME * u8::from(event.time.is_some());
    bits |= HAS_ORIGIN * u8::from(event.origin.is_some());
    value.clear();
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&event.position.to_le_bytes());
    value.extend_from_slice(&event.appended_at.to_le_bytes());
    value.extend_from_slice(&entry.run_time.to_le_bytes());
    value.extend_from_slice(&[bits, short(event.event_type.len()), short(device.len())]);
    if let Some(time) = event.time {
        value.extend_from_slice(&time.to_le_bytes());
    }
    let origin = event.origin.unwrap_or_default();
    if event.origin.is_some() {
        value.push(short(origin.len()));
    }
    value.extend_from_slice(event.event_type.as_bytes());
    value.extend_from_slice(device.as_bytes());
    value.extend_from_slice(origin);
    value.extend_from_slice(event.data);
    let checksum = checksum(key, &value[4..]);
    value[..4].copy_from_slice(&checksum);
}

fn decode(key: &[u8], value: &[u8], names: &mut Names) -> Option<StateEntry> {
    let (sum, rest) = value.split_at_checked(4)?;
    if checksum(key, rest) != sum {
        return None;
    }
    let (tenant, name) = key.split_at_checked(16)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let subject = Subject {
        kind: text(&name[..end])?,
        key: text(&name[end + 1..])?,
        ends: false,
    };
    let (head, mut rest) = rest.split_at_checked(27)?;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    let (bits, type_length, device_length) = (head[24], head[25], head[26]);
    let time = if bits & HAS_TIME == 0 {
        None
    } else {
        Some(get_u64(take(8)?, 0).cast_signed())
    };
    let origin_length = if bits & HAS_ORIGIN == 0 {
        None
    } else {
        Some(usize::from(take(1)?[0]))
    };
    let event_type = text(take(type_length.into())?)?;
    let device = text(take(device_length.into())?)?;
    let origin = match origin_length {
        None => None,
        Some(length) => Some(take(length)?),
    };
    let event = EventRef {
        position: get_u64(head, 0),
        appended_at: get_u64(head, 8).cast_signed(),
        time,
        tenant: TenantId::from_bytes(tenant.try_into().ok()?),
        event_type,
        device: (bits & HAS_DEVICE != 0).then_some(device),
        subject: Some(subject),
        origin,
        data: rest,
    };
    let run_time = get_u64(head, 16).cast_signed();
    (subject.key.len() <= MAX_SUBJECT_KEY)
        .then(|| StateEntry::new(&event, subject, run_time, names))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_subject_reads_back_as_it_was_stored_and_a_flipped_bit_is_noticed(
            names in ("[a-z][a-z0-9_]{0,63}", "[a-z][a-z0-9_]{0,63}", "\\PC{1,100}"),
            device in prop::option::of("[A-Za-z0-9_.:]{1,128}"),
            times in (any::<i64>(), any::<i64>(), any::<Option<i64>>()),
            origin in prop::option::of(prop::collection::vec(any::<u8>(), 0..256)),
            data in prop::collection::vec(any::<u8>(), 0..200),
            flipped in any::<prop::sample::Index>(),
        ) {
            let (kind, event_type, key) = &names;
            let subject = Subject { kind, key, ends: false };
            let event = EventRef {
                position: 77,
                appended_at: times.0,
                time: times.2,
                tenant: TenantId::from_bytes([9; 16]),
                event_type,
                device: device.as_deref(),
                subject: Some(subject),
                origin: origin.as_deref(),
                data: &data,
            };
            let mut shared = Names::default();
            let entry = StateEntry::new(&event, subject, times.1, &mut shared);
            prop_assert_eq!(entry.event(), event);
            let key = store_key(event.tenant, kind, key);
            prop_assert!(key.as_ref() <= last_key(event.tenant).as_slice());
            let mut value = Vec::new();
            encode(&key, &entry, &mut value);
            let read = decode(&key, &value, &mut shared);
            prop_assert_eq!(read.as_ref(), Some(&entry));
            let bit = flipped.index(value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&key, &value, &mut shared).is_none());
        }
    }
}
