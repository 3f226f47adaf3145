//! The segment that is written.

use std::io;
use std::sync::Arc;

use crate::segment::Segment;
use crate::storage::StorageFile;

/// How far beyond a group zeros are written, once what was written before is used up.
///
/// In room that is reserved only, the first sync of each block has the file system's journal to write as well, which
/// is half of what a small group costs. A stretch of zeros pays that once for all groups that go into it.
const SETTLED: u64 = 512 << 10;

/// A larger group pays for the journal by itself: writing twice would cost it more.
const SMALL_GROUP: usize = 64 << 10;

pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn StorageFile>,
    /// Where the next frame goes.
    pub(crate) offset: u64,
    pub(crate) capacity: u64,
    /// Zeros were written up to here, or nothing is to be gained by it.
    settled: u64,
}

impl Active {
    pub(crate) fn new(
        segment: Arc<Segment>,
        file: Arc<dyn StorageFile>,
        offset: u64,
        capacity: u64,
    ) -> Self {
        Self {
            segment,
            file,
            offset,
            capacity,
            settled: 0,
        }
    }

    /// Writes a group of frames where the next one goes, and makes it durable; otherwise says what failed.
    pub(crate) fn append(&mut self, group: &[u8]) -> Result<(), (&'static str, io::Error)> {
        let writing = |error| ("writing", error);
        self.file.write_at(group, self.offset).map_err(writing)?;
        let end = self.offset + group.len() as u64;
        if end > self.settled && group.len() <= SMALL_GROUP {
            self.settle_from(end).map_err(writing)?;
        }
        self.file.sync_data().map_err(|error| ("syncing", error))?;
        self.offset = end;
        Ok(())
    }

    /// Behind the last frame nothing stands that could be lost by it: a start has cut that off.
    fn settle_from(&mut self, end: u64) -> io::Result<()> {
        let until = (end + SETTLED).min(self.capacity);
        self.settled = until;
        match self.file.settle(end, until.saturating_sub(end)) {
            // A file system that can't reserve has no room for zeros; perhaps it has for events.
            Err(error) if is_full(&error) => {
                self.settled = self.capacity;
                Ok(())
            }
            other => other,
        }
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
