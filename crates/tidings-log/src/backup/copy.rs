//! Copying one segment: its sound frames, to the same places of another file.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use crate::event::Lost;
use crate::format::{FRAMES_BEGIN, FrameHeader, FrameKind, SegmentHeader};
use crate::index::{DirectoryEntry, MemoryIndex};
use crate::scan;
use crate::storage::StorageFile;

/// How much is written at once.
const WRITE_BYTES: usize = 1 << 20;
/// After so many bytes they are made durable, so that the disk has not all to do at once while the log waits
/// for its own syncs.
const SYNC_BYTES: u64 = 8 << 20;

/// What is to be copied of a segment, and how.
pub(super) struct Plan<'p> {
    /// What the copy says of itself.
    pub(super) header: SegmentHeader,
    /// How much of the file is looked at.
    pub(super) end: u64,
    /// What comes after this position is left out.
    pub(super) through: Position,
    /// The last position of the segments before.
    pub(super) before: Position,
    /// Frames of these tenants become blank.
    pub(super) blank: &'p HashSet<TenantId>,
    /// A mark at the end says that all was durable, so that damage to the copy can't be taken for a write that
    /// was cut off.
    pub(super) marked: bool,
}

/// A segment that was copied.
pub(super) struct Copied {
    pub(super) index: MemoryIndex,
    pub(super) length: u64,
    pub(super) crc: u32,
    /// What the source lacks: lost, or perhaps never durable.
    pub(super) lost: Vec<Lost>,
}

/// Which side has failed.
pub(super) enum Failed {
    Source(io::Error),
    Target(io::Error),
}

/// A file of which only the beginning is looked at.
#[derive(Debug)]
struct Beginning {
    file: Arc<dyn StorageFile>,
    end: u64,
}

impl StorageFile for Beginning {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.min(self.end))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        self.file.read_at(&mut buffer[..wanted], offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Copies a segment. What is no sound frame becomes zeros.
pub(super) fn segment(
    from: Arc<dyn StorageFile>,
    to: &dyn StorageFile,
    plan: &Plan<'_>,
) -> Result<Copied, Failed> {
    let salt = plan.header.salt;
    let mut output = Output::new(to);
    let mut written = output.put(0, &plan.header.encode());
    let mut index = MemoryIndex::default();
    let mut last = None;
    let mut visit = |header: &FrameHeader, offset: u64, frame: &[u8]| {
        let beyond = header.last() > plan.through || header.follows > plan.through;
        if written.is_err() || beyond {
            return;
        }
        last = Some(*header);
        if header.kind == FrameKind::Events && plan.blank.contains(&header.tenant) {
            let blank = header.blanked();
            index.add(&blank, offset);
            written = output
                .put(offset, &blank.encode(salt, offset))
                .and_then(|()| output.zeros_to(offset + header.frame_bytes()));
        } else {
            index.add(header, offset);
            written = output
                .put(offset, frame)
                .and_then(|()| output.zeros_to(offset + header.frame_bytes()));
        }
    };
    let beginning = Beginning {
        file: from,
        end: plan.end,
    };
    let scan =
        scan::scan(&beginning, salt, Some(plan.before), &mut visit).map_err(Failed::Source)?;
    written.map_err(Failed::Target)?;
    let mut lost = scan.index.lost;
    lost.extend_from_slice(&scan.unproven);
    lost.retain(|stretch| stretch.first <= plan.through);
    if plan.marked
        && let Some(last) = last
        && !(last.kind == FrameKind::Mark && last.follows >= plan.through)
    {
        if last.last() < plan.through {
            lost.push(Lost {
                first: last.last() + 1,
                last: plan.through,
            });
        }
        let mark = mark_after(&last, plan.through);
        let offset = index.summary.end.max(FRAMES_BEGIN);
        index.add(&mark, offset);
        output
            .put(offset, &mark.encode(salt, offset))
            .and_then(|()| output.zeros_to(offset + mark.frame_bytes()))
            .map_err(Failed::Target)?;
    }
    let (length, crc) = output.finish().map_err(Failed::Target)?;
    Ok(Copied {
        index,
        length,
        crc,
        lost,
    })
}

fn mark_after(last: &FrameHeader, through: Position) -> FrameHeader {
    let reached = last.last().max(through);
    FrameHeader {
        kind: FrameKind::Mark,
        keyed: false,
        payload_crc: crc32fast::hash(&[]),
        payload_length: 0,
        count: 0,
        position: last.next_position().max(reached + 1),
        follows: reached,
        synced_through: reached,
        appended_at: last.appended_at,
        run_time: last.run_time,
        tenant: TenantId::from_bytes([0; 16]),
    }
}

/// What a segment holds of whom, as one number: it changes when a tenant is purged from it, or something is lost.
pub(super) fn holds(directory: impl Iterator<Item = DirectoryEntry>) -> u32 {
    let mut entries: Vec<DirectoryEntry> = directory.collect();
    entries.sort_unstable_by_key(|entry| *entry.tenant.as_bytes());
    let mut hasher = crc32fast::Hasher::new();
    for entry in entries {
        hasher.update(entry.tenant.as_bytes());
        for number in [entry.first, entry.last, entry.events, entry.bytes] {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finalize()
}

/// A file that is written from its beginning to its end.
struct Output<'f> {
    file: &'f dyn StorageFile,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    hasher: crc32fast::Hasher,
}

impl<'f> Output<'f> {
    fn new(file: &'f dyn StorageFile) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: 0,
            synced: 0,
            hasher: crc32fast::Hasher::new(),
        }
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Puts bytes at a place, zeros between what is there and them.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.zeros_to(offset)?;
        for part in bytes.chunks(WRITE_BYTES) {
            self.buffer.extend_from_slice(part);
            self.flush(WRITE_BYTES)?;
        }
        Ok(())
    }

    fn zeros_to(&mut self, offset: u64) -> io::Result<()> {
        while self.end() < offset {
            let missing = usize::try_from(offset - self.end()).unwrap_or(usize::MAX);
            let length = self.buffer.len() + missing.min(WRITE_BYTES);
            self.buffer.resize(length, 0);
            self.flush(WRITE_BYTES)?;
        }
        Ok(())
    }

    /// Writes what is held, where it is so much.
    fn flush(&mut self, at_least: usize) -> io::Result<()> {
        if self.buffer.len() < at_least {
            return Ok(());
        }
        self.hasher.update(&self.buffer);
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Makes all of it durable; answers its length and checksum.
    fn finish(mut self) -> io::Result<(u64, u32)> {
        self.flush(0)?;
        self.file.sync_data()?;
        Ok((self.written, self.hasher.finalize()))
    }
}
