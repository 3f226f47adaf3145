//! The seam to the file system: everything that the log reads or writes goes through
//! [`Storage`], so that tests can tear writes, fail syncs, fill the disk, flip bits and cut the
//! power.
//!
//! Names are relative to the log's folder, with `/` between levels. What is written becomes
//! durable with [`StorageFile::sync_data`]; that a file exists under its name, with
//! [`Storage::sync_folder`] of the folder that names it.

mod files;
mod memory;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use files::FileStorage;
pub(crate) use memory::MemoryFile;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read; the file must exist.
    Read,
    /// To read and write; the file must exist.
    Write,
    /// To read and write; the file is made, or emptied where it exists.
    Create,
}

/// The folder could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// Another holder has it; what it wrote about itself.
    Held(String),
    /// The operating system refused.
    Io(io::Error),
}

/// A folder in which a log lives.
pub trait Storage: Send + Sync + 'static {
    /// Locks the folder for this process until the answer is dropped, and leaves `owner` for
    /// others to read.
    fn lock(&self, name: &str, owner: &str) -> Result<Box<dyn Send + Sync>, LockError>;
    /// Opens a file.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// The names in a folder, in no order; a missing folder is an error of kind `NotFound`.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes a folder where it is missing.
    fn create_folder(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; readers that have it open can go on.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the folder's entries durable.
    fn sync_folder(&self, name: &str) -> io::Result<()>;
}

/// An open file.
pub trait StorageFile: Debug + Send + Sync + 'static {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads as much of `buffer` as the file has from `offset` on; fewer bytes than asked mean the
    /// end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. After an error any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Extends the file to `length` zero bytes and reserves room on the disk for them.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Writes zeros into a stretch that was reserved and holds nothing yet, so that a later sync of what
    /// is written there has no new blocks to account for. Costs nothing to leave out: the stretch reads
    /// as zeros either way, and after an error as well.
    fn settle(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// Reads exactly `buffer`, or fails with `UnexpectedEof`.
pub(crate) fn read_exact_at(
    file: &dyn StorageFile,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    if file.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
