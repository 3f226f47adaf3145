//! The small state beside the segments, in `meta.redb`: the log's epoch, what retention has removed
//! together with its segments, and how far time was known.
//!
//! Table `state`: `epoch`, which `EPOCHS` overrules ([`crate::lineage`]); `created` and `removed_at` (wall clock); `removed_through` (the last
//! position of the last unlinked segment); `taken_through` (the last of them that was somebody's event:
//! of a purged tenant nobody is told); `wall` and `run` (a pair of times that belong together,
//! [`KnownTime`]); `cutoff` (the greatest run time below which frames had expired); `shown_through` (a position that
//! was durable, perhaps shown, and noted: a start that finds the log to end before it knows that something is gone). Table
//! `removed`: for a tenant's 16 bytes its last position among the unlinked ones. Table `purged`: for a
//! purged tenant's 16 bytes 0 while its events may still be on the disk, then 1; never removed, since its id
//! is never used again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tidings_protocol::{Epoch, Position, TenantId};

use crate::clock::KnownTime;
use crate::database;
use crate::format::META;
use crate::storage::{OpenMode, Storage};

const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const REMOVED: TableDefinition<'_, [u8; 16], u64> = TableDefinition::new("removed");

const PURGED: TableDefinition<'_, [u8; 16], u8> = TableDefinition::new("purged");

/// The database's own cache; what it holds is small and read once.
const CACHE_BYTES: usize = 4 << 20;

/// What the file says when the log is opened.
#[derive(Debug)]
pub(crate) struct MetaState {
    pub(crate) epoch: u64,
    pub(crate) removed_through: Position,
    pub(crate) taken_through: Position,
    pub(crate) removed_at: i64,
    pub(crate) known: Option<KnownTime>,
    pub(crate) cutoff: i64,
    pub(crate) shown_through: Position,
    pub(crate) removed: HashMap<TenantId, Position>,
    /// Purged tenants, and whether their events are gone from the disk.
    pub(crate) purged: HashMap<TenantId, bool>,
}

/// What goes with a segment that is about to be unlinked.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) through: Position,
    pub(crate) taken: Position,
    pub(crate) at: i64,
    pub(crate) tenants: Vec<(TenantId, Position)>,
}

pub(crate) struct Meta {
    storage: Arc<dyn Storage>,
    /// Empty after an error: redb refuses further work then, and is opened anew.
    database: Mutex<Option<Database>>,
}

impl Meta {
    /// Makes the file for a new log, whole or not at all.
    pub(crate) fn create(storage: &dyn Storage, epoch: u64, now: i64) -> Result<(), redb::Error> {
        let fresh = format!("{META}.new");
        let file = storage.open(&fresh, OpenMode::Create)?;
        let database = database::open(file, CACHE_BYTES)?;
        let write = database.begin_write()?;
        {
            let mut state = write.open_table(STATE)?;
            state.insert("epoch", epoch)?;
            state.insert("created", now.cast_unsigned())?;
            write.open_table(REMOVED)?;
        }
        write.commit()?;
        drop(database);
        storage.rename(&fresh, META)?;
        storage.sync_folder("")?;
        Ok(())
    }

    pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<(Self, MetaState), redb::Error> {
        let database = database::open(storage.open(META, OpenMode::Write)?, CACHE_BYTES)?;
        let state = load(&database)?;
        let meta = Self {
            storage,
            database: Mutex::new(Some(database)),
        };
        Ok((meta, state))
    }

    /// Makes durable what is about to be unlinked.
    pub(crate) fn record_removal(&self, removal: &Removal) -> Result<(), redb::Error> {
        self.write(|write| {
            let mut state = write.open_table(STATE)?;
            state.insert("removed_through", removal.through)?;
            state.insert("taken_through", removal.taken)?;
            state.insert("removed_at", removal.at.cast_unsigned())?;
            let mut removed = write.open_table(REMOVED)?;
            for (tenant, position) in &removal.tenants {
                removed.insert(tenant.as_bytes(), position)?;
            }
            Ok(())
        })
    }

    /// Makes durable that a tenant is purged.
    pub(crate) fn record_purge(&self, tenant: TenantId) -> Result<(), redb::Error> {
        self.write(|write| {
            write.open_table(PURGED)?.insert(tenant.as_bytes(), 0)?;
            write.open_table(REMOVED)?.remove(tenant.as_bytes())?;
            Ok(())
        })
    }

    /// Makes durable that nothing of some purged tenants is left.
    pub(crate) fn record_purged(
        &self,
        tenants: impl Iterator<Item = TenantId>,
    ) -> Result<(), redb::Error> {
        self.write(|write| {
            let mut purged = write.open_table(PURGED)?;
            for tenant in tenants {
                purged.insert(tenant.as_bytes(), 1)?;
            }
            Ok(())
        })
    }

    /// Makes durable how far time is known, and how far the log is shown.
    pub(crate) fn record_time(
        &self,
        known: KnownTime,
        cutoff: i64,
        shown_through: Position,
    ) -> Result<(), redb::Error> {
        self.write(|write| {
            let mut state = write.open_table(STATE)?;
            state.insert("wall", known.wall.cast_unsigned())?;
            state.insert("run", known.run.cast_unsigned())?;
            state.insert("cutoff", cutoff.cast_unsigned())?;
            state.insert("shown_through", shown_through)?;
            Ok(())
        })
    }

    /// Makes durable that the log ends here, since it has begun a new epoch: the epoch that `EPOCHS` says, and
    /// tenants that are purged beside those that the file names.
    pub(crate) fn record_fork(
        &self,
        epoch: Epoch,
        fork: Position,
        purged: impl Iterator<Item = TenantId>,
    ) -> Result<(), redb::Error> {
        self.write(|write| {
            let mut state = write.open_table(STATE)?;
            state.insert("epoch", epoch.0)?;
            state.insert("shown_through", fork)?;
            let mut table = write.open_table(PURGED)?;
            let mut removed = write.open_table(REMOVED)?;
            for tenant in purged {
                table.insert(tenant.as_bytes(), 0)?;
                removed.remove(tenant.as_bytes())?;
            }
            Ok(())
        })
    }

    /// Writes a copy of the file as it is at this moment; answers what it says.
    pub(crate) fn copy_to(
        &self,
        storage: &dyn Storage,
        name: &str,
    ) -> Result<MetaState, redb::Error> {
        let read = {
            let mut slot = self.database.lock();
            let database = match slot.take() {
                Some(database) => database,
                None => database::open(self.storage.open(META, OpenMode::Write)?, CACHE_BYTES)?,
            };
            let read = database.begin_read();
            *slot = Some(database);
            read?
        };
        let copied = database::open(storage.open(name, OpenMode::Create)?, CACHE_BYTES)?;
        let write = copied.begin_write()?;
        database::copy_table(&read, &write, STATE)?;
        database::copy_table(&read, &write, REMOVED)?;
        database::copy_table(&read, &write, PURGED)?;
        write.commit()?;
        load(&copied)
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => database,
            None => database::open(self.storage.open(META, OpenMode::Write)?, CACHE_BYTES)?,
        };
        let write = database.begin_write()?;
        change(&write)?;
        write.commit()?;
        *slot = Some(database);
        Ok(())
    }

    /// Closes the file; it is opened again if it is needed after all.
    pub(crate) fn close(&self) {
        self.database.lock().take();
    }
}

pub(crate) fn load(database: &Database) -> Result<MetaState, redb::Error> {
    let read = database.begin_read()?;
    let state = read.open_table(STATE)?;
    let number = |name: &str| -> Result<Option<u64>, redb::Error> {
        Ok(state.get(name)?.map(|value| value.value()))
    };
    let time = |name: &str| Ok::<_, redb::Error>(number(name)?.map(u64::cast_signed));
    let known = match (time("wall")?, time("run")?) {
        (Some(wall), Some(run)) => Some(KnownTime { wall, run }),
        _ => None,
    };
    let mut removed = HashMap::new();
    for entry in read.open_table(REMOVED)?.iter()? {
        let (tenant, position) = entry?;
        removed.insert(TenantId::from_bytes(tenant.value()), position.value());
    }
    let mut purged = HashMap::new();
    match read.open_table(PURGED) {
        Ok(table) => {
            for entry in table.iter()? {
                let (tenant, done) = entry?;
                purged.insert(TenantId::from_bytes(tenant.value()), done.value() != 0);
            }
        }
        // Nothing was ever purged.
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let removed_through = number("removed_through")?.unwrap_or(0);
    Ok(MetaState {
        epoch: number("epoch")?
            .ok_or_else(|| redb::Error::Corrupted("it names no epoch".to_owned()))?,
        purged,
        removed_through,
        // What an older program wrote knows of no purge.
        taken_through: number("taken_through")?.unwrap_or(removed_through),
        removed_at: time("removed_at")?.unwrap_or(i64::MIN),
        known,
        cutoff: time("cutoff")?.unwrap_or(i64::MIN),
        shown_through: number("shown_through")?.unwrap_or(0),
        removed,
    })
}
