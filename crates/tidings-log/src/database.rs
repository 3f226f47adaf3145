//! The databases beside the segments, on the log's own storage, so that the faults of tests reach them
//! too.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Database, Key, ReadTransaction, ReadableTable as _, StorageBackend, TableDefinition,
    TableError, Value, WriteTransaction,
};

use crate::storage::{StorageFile, read_exact_at};

/// Opens the database in a file, or makes it where the file is empty; it keeps so many bytes of it
/// in memory.
pub(crate) fn open(
    file: Arc<dyn StorageFile>,
    cache_bytes: usize,
) -> Result<Database, redb::Error> {
    Ok(Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(Backend { file })?)
}

/// Does something with a file that may be damaged: of such a one redb can also panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("reading it panicked".to_owned()),
    }
}

/// Copies a table, where there is one.
pub(crate) fn copy_table<K: Key + 'static, V: Value + 'static>(
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

#[derive(Debug)]
struct Backend {
    file: Arc<dyn StorageFile>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
