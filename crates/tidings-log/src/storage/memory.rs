//! A file in memory: what is to be looked at, and perhaps repaired for it, without being changed.

use std::io;

use parking_lot::RwLock;

use super::StorageFile;

/// A file in memory.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    content: RwLock<Vec<u8>>,
}

impl MemoryFile {
    pub(crate) fn of(content: Vec<u8>) -> Self {
        Self {
            content: RwLock::new(content),
        }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl StorageFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.read().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.read();
        let rest = content.get(place(offset)..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.content.write();
        let (from, end) = (place(offset), place(offset) + bytes.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        content[from..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.content.write().resize(place(length), 0);
        Ok(())
    }
}
