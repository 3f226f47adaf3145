//! The file: opened, made whole or not at all, written one transaction at a time.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    TableError, Value, WriteTransaction,
};

use super::{FILE_NAME, RegistryError, groups, keys, purged, revocations};

/// The version of the tables.
const VERSION: u64 = 1;
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
/// The store's own cache; what it holds is small and read once.
const CACHE_BYTES: usize = 4 << 20;

/// The one file of the registry. Who holds the lock is the only writer.
pub(super) struct RegistryFile {
    path: PathBuf,
    /// Empty after an error: redb refuses further work then, and is opened anew.
    database: Mutex<Option<Database>>,
    /// The truth is elsewhere: memory takes changes over also where they can't be written.
    is_copy: AtomicBool,
}

impl RegistryFile {
    pub(super) fn open(folder: &Path) -> Result<Self, RegistryError> {
        let path = folder.join(FILE_NAME);
        // An export that was cut off has left it. It may hold what is removed here later.
        let _ = std::fs::remove_file(copy_of(&path));
        let exists = path.try_exists().map_err(|error| RegistryError::Open {
            path: path.clone(),
            what: error.to_string(),
        })?;
        if !exists {
            let made = make(&path, |write| {
                write.open_table(groups::TABLE)?;
                write.open_table(keys::TABLE)?;
                write.open_table(keys::USES)?;
                write.open_table(purged::TABLE)?;
                write.open_table(revocations::TABLE)?;
                Ok(())
            });
            made.map_err(|error| open_error(&path, &error))?;
        }
        // redb answers damage with an error where it checks, and panics where it trusts.
        let opened = catch_unwind(AssertUnwindSafe(|| open_checked(&path)));
        let database = match opened {
            Ok(opened) => opened.map_err(|error| open_error(&path, &error))?,
            Err(_) => {
                return Err(RegistryError::Damaged {
                    path,
                    what: "the store can't make sense of it".to_owned(),
                });
            }
        };
        let file = Self {
            path,
            database: Mutex::new(Some(database)),
            is_copy: AtomicBool::new(false),
        };
        let found = file.read(|read| {
            let version = read.open_table(STATE)?.get("version")?;
            Ok(version.map_or(0, |version| version.value()))
        })?;
        match found {
            VERSION => Ok(file),
            0 => Err(file.damaged("it names no format")),
            _ => Err(RegistryError::Newer {
                path: file.path,
                found,
                supported: VERSION,
            }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Damaged {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    /// From now on this is a copy of what is true elsewhere.
    pub(super) fn become_copy(&self) {
        self.is_copy.store(true, Ordering::Relaxed);
    }

    /// As after an error of the store.
    #[cfg(test)]
    pub(super) fn lose_database(&self) {
        *self.database.lock() = None;
    }

    /// Looks at the file; used while it is opened.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, RegistryError> {
        let slot = self.database.lock();
        let read = || {
            look(
                &slot
                    .as_ref()
                    .ok_or(redb::Error::DatabaseClosed)?
                    .begin_read()?,
            )
        };
        read().map_err(|error| open_error(&self.path, &error))
    }

    /// Makes a change durable, then calls `done` before any other change can be made, so that memory takes over
    /// changes in the order in which the disk has.
    pub(super) fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
        done: impl FnOnce(),
    ) -> Result<(), RegistryError> {
        let mut slot = self.database.lock();
        if let Err(error) = write(&self.path, &mut slot, change) {
            let error = self.write_error(&error);
            if !self.is_copy.load(Ordering::Relaxed) {
                return Err(error);
            }
            tracing::error!(%error, "a change of what all nodes share is obeyed, but not on this node's disk");
        }
        done();
        Ok(())
    }

    /// Copies what there is into a new file that takes the place of this one.
    pub(super) fn rewrite(&self) -> Result<(), RegistryError> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => Ok(database),
            None => reopen(&self.path),
        };
        let copied = database.and_then(|database| {
            let read = database.begin_read()?;
            make(&self.path, |write| copy_all(&read, write))
        });
        copied.map_err(|error| self.write_error(&error))?;
        // Where this fails the next write tries again.
        *slot = reopen(&self.path).ok();
        Ok(())
    }

    /// The content of a file that says what this one says now.
    pub(super) fn export(&self) -> Result<Vec<u8>, RegistryError> {
        let copy = copy_of(&self.path);
        // Nobody changes it meanwhile.
        let mut slot = self.database.lock();
        let exported = (|| -> Result<Vec<u8>, redb::Error> {
            let database = match slot.take() {
                Some(database) => database,
                None => reopen(&self.path)?,
            };
            let read = database.begin_read();
            *slot = Some(database);
            make(&copy, |write| copy_all(&read?, write))?;
            Ok(std::fs::read(&copy)?)
        })();
        drop(slot);
        match std::fs::remove_file(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "removing a copy of the registry");
            }
            _ => {}
        }
        exported.map_err(|error| self.write_error(&error))
    }

    fn write_error(&self, error: &redb::Error) -> RegistryError {
        RegistryError::Write {
            path: self.path.clone(),
            what: error.to_string(),
        }
    }
}

fn write(
    path: &Path,
    slot: &mut Option<Database>,
    change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let database = match slot.take() {
        Some(database) => database,
        None => reopen(path)?,
    };
    let write = database.begin_write()?;
    change(&write)?;
    write.commit()?;
    *slot = Some(database);
    Ok(())
}

/// Where the file is copied to before the copy is read.
fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy.redb")
}

/// Copies every table.
fn copy_all(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error> {
    copy(from, to, groups::TABLE)?;
    copy(from, to, keys::TABLE)?;
    copy(from, to, keys::USES)?;
    copy(from, to, purged::TABLE)?;
    copy(from, to, revocations::TABLE)
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<(), redb::Error> {
    let mut copied = to.open_table(table)?;
    let from = match from.open_table(table) {
        // A file of an older version lacks the newer tables.
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        opened => opened?,
    };
    for entry in from.iter()? {
        let (key, value) = entry?;
        copied.insert(key.value(), value.value())?;
    }
    Ok(())
}

fn reopen(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).open(path)?)
}

fn open_checked(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .open(path)?)
}

/// Makes a file that is there whole or not at all, in the place of the one that may be there.
fn make(
    path: &Path,
    fill: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let fresh = path.with_extension("redb.new");
    match std::fs::remove_file(&fresh) {
        // A crash has left it half written.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(&fresh)?;
    let write = database.begin_write()?;
    write.open_table(STATE)?.insert("version", VERSION)?;
    fill(&write)?;
    write.commit()?;
    drop(database);
    File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn open_error(path: &Path, error: &redb::Error) -> RegistryError {
    let path = path.to_owned();
    let what = error.to_string();
    match error {
        redb::Error::Io(io) if !is_damage(io) => RegistryError::Open { path, what },
        redb::Error::DatabaseAlreadyOpen => RegistryError::Open { path, what },
        _ => RegistryError::Damaged { path, what },
    }
}

/// A file that is too short, or is none of redb's, comes as an error of the operating system's kind.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
