//! The databases beside the segments, on the log's own storage, so that the faults of tests reach them
//! too.

use std::io;
use std::sync::Arc;

use redb::{Database, StorageBackend};

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
