//! A segment as readers see it: what it holds and where.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use tidings_protocol::TenantId;

use crate::cache::Cache;
use crate::format::{FRAMES_BEGIN, FrameHeader, log_name};
use crate::index::{DirectoryEntry, FramePlace, MemoryIndex, Step, Summary, TenantFrames};
use crate::index_file::DiskIndex;
use crate::storage::{OpenMode, Storage, StorageFile};

/// Segment files that are kept open for reading.
const OPEN_FILES: usize = 128;

/// The log's files, and what was read of them lately. Everything here can be read again.
pub(crate) struct Files {
    pub(crate) storage: Arc<dyn Storage>,
    logs: Cache<u64, Arc<dyn StorageFile>>,
    lists: Cache<(u64, TenantId), Arc<TenantFrames>>,
    steps: Cache<u64, Arc<Vec<Step>>>,
    /// Large frames, by segment and offset: they are read in many parts.
    pub(crate) frames: Cache<(u64, u64), Arc<Vec<u8>>>,
}

impl Files {
    pub(crate) fn new(storage: Arc<dyn Storage>, cache_bytes: usize) -> Self {
        Self {
            storage,
            logs: Cache::new(OPEN_FILES),
            lists: Cache::new(cache_bytes / 2),
            steps: Cache::new(cache_bytes / 8),
            frames: Cache::new(cache_bytes / 4),
        }
    }

    /// A segment's file, open for reading. It stays readable when the segment is unlinked.
    pub(crate) fn log(&self, number: u64) -> io::Result<Arc<dyn StorageFile>> {
        if let Some(file) = self.logs.get(number) {
            return Ok(file);
        }
        let file = self.storage.open(&log_name(number), OpenMode::Read)?;
        self.logs.put(number, Arc::clone(&file), 1);
        Ok(file)
    }

    /// Forgets what was read of a segment.
    pub(crate) fn forget(&self, number: u64) {
        self.logs.remove_if(|other| *other == number);
        self.lists.remove_if(|(other, _)| *other == number);
        self.steps.remove_if(|other| *other == number);
        self.frames.remove_if(|(other, _)| *other == number);
    }

    /// Closes all segment files. Of one that another has taken the place of, the disk keeps the bytes for
    /// as long as it is open.
    pub(crate) fn close(&self) {
        self.logs.remove_if(|_| true);
    }
}

/// One segment. The writer alone adds frames to it, after they were synced; the upkeep thread
/// changes where its index is.
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    state: RwLock<State>,
}

struct State {
    summary: Summary,
    index: Index,
    /// Bytes of the file on disk.
    allocated: u64,
    sealed: bool,
}

/// A segment's summary and index, for when their change has to be taken back.
pub(crate) struct Before(Summary, Index);

enum Index {
    Memory(Box<MemoryIndex>),
    Disk(Arc<DiskIndex>),
}

impl Segment {
    /// A segment with its index in memory.
    pub(crate) fn in_memory(number: u64, salt: u64, index: MemoryIndex, allocated: u64) -> Self {
        let mut summary = index.summary;
        summary.end = summary.end.max(FRAMES_BEGIN);
        Self {
            number,
            salt,
            state: RwLock::new(State {
                summary,
                index: Index::Memory(Box::new(index)),
                allocated,
                sealed: false,
            }),
        }
    }

    /// A sealed segment with its index on disk.
    pub(crate) fn on_disk(number: u64, salt: u64, index: DiskIndex, allocated: u64) -> Self {
        Self {
            number,
            salt,
            state: RwLock::new(State {
                summary: index.summary,
                index: Index::Disk(Arc::new(index)),
                allocated,
                sealed: true,
            }),
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.state.read().summary
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.state.read().sealed
    }

    pub(crate) fn seal(&self) {
        self.state.write().sealed = true;
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.state.read().allocated
    }

    pub(crate) fn set_allocated(&self, bytes: u64) {
        self.state.write().allocated = bytes;
    }

    /// Adds frames that are durable now.
    pub(crate) fn add(&self, frames: &[(FrameHeader, u64)]) {
        let mut state = self.state.write();
        let State { summary, index, .. } = &mut *state;
        if let Index::Memory(index) = index {
            for (header, offset) in frames {
                index.add(header, *offset);
            }
            let end = summary.end;
            *summary = index.summary;
            summary.end = summary.end.max(end);
        }
    }

    /// Adds lost stretches to the index of a segment that was scanned.
    pub(crate) fn add_lost(&self, lost: &[crate::event::Lost]) {
        if let Index::Memory(index) = &mut self.state.write().index {
            index.lost.extend_from_slice(lost);
            index.lost.sort_unstable();
        }
    }

    /// A copy of the index, where it is in memory only.
    pub(crate) fn memory_index(&self) -> Option<MemoryIndex> {
        match &self.state.read().index {
            Index::Memory(index) => Some((**index).clone()),
            Index::Disk(_) => None,
        }
    }

    pub(crate) fn disk_index(&self) -> Option<Arc<DiskIndex>> {
        match &self.state.read().index {
            Index::Memory(_) => None,
            Index::Disk(index) => Some(Arc::clone(index)),
        }
    }

    /// From now on the index on disk serves.
    pub(crate) fn use_disk_index(&self, index: DiskIndex) {
        self.state.write().index = Index::Disk(Arc::new(index));
    }

    /// Takes over what a repair found: the frames that are sound, and what lies between them.
    /// Frames that were added meanwhile stay.
    pub(crate) fn repaired(&self, mut index: MemoryIndex) {
        let mut state = self.state.write();
        if let Index::Memory(present) = &state.index {
            let examined = index.summary.last;
            for (tenant, frames) in &present.tenants {
                let later = &frames.frames[frames.first_after(examined)..];
                if !later.is_empty() {
                    let known = index.tenants.entry(*tenant).or_default();
                    if known.frames.is_empty() {
                        known.first_at = frames.first_at;
                    }
                    known.frames.extend_from_slice(later);
                    known.bytes += later.iter().map(FramePlace::length).sum::<u64>();
                }
            }
            let later = present
                .steps
                .partition_point(|step| step.position <= examined);
            index.steps.extend_from_slice(&present.steps[later..]);
        }
        index.summary = state.summary;
        state.index = Index::Memory(Box::new(index));
    }

    /// Takes over the index of the segment as it is rewritten; what the segment speaks of stays the same.
    pub(crate) fn rewritten(&self, mut index: MemoryIndex) -> Before {
        let mut state = self.state.write();
        let before = state.summary;
        index.summary.follows = before.follows;
        index.summary.reached = index.summary.reached.max(before.reached);
        index.summary.next = index.summary.next.max(before.next);
        index.summary.end = before.end;
        state.summary = index.summary;
        let index = std::mem::replace(&mut state.index, Index::Memory(Box::new(index)));
        Before(before, index)
    }

    /// The segment could not be rewritten after all.
    pub(crate) fn restore(&self, before: Before) {
        let mut state = self.state.write();
        (state.summary, state.index) = (before.0, before.1);
    }

    /// Stretches that are no frames, and those that are lost.
    pub(crate) fn blemishes(&self) -> (Vec<(u64, u64)>, Vec<crate::event::Lost>) {
        match &self.state.read().index {
            Index::Memory(index) => (index.skips.clone(), index.lost.clone()),
            Index::Disk(disk) => (disk.skips.clone(), disk.lost.clone()),
        }
    }

    /// Where to go on behind a stretch that is no frame.
    pub(crate) fn skip(&self, offset: u64) -> Option<u64> {
        let state = self.state.read();
        let skips = match &state.index {
            Index::Memory(index) => &index.skips,
            Index::Disk(disk) => &disk.skips,
        };
        let place = skips.partition_point(|(_, to)| *to <= offset);
        let (from, to) = skips.get(place)?;
        (*from <= offset).then_some(*to)
    }

    /// The last step that fulfils `before`, which holds for a beginning of the steps.
    pub(crate) fn last_step(
        &self,
        files: &Files,
        before: impl Fn(&Step) -> bool,
    ) -> io::Result<Option<Step>> {
        let pick = |steps: &[Step]| {
            let place = steps.partition_point(before);
            place.checked_sub(1).map(|place| steps[place])
        };
        let disk = match &self.state.read().index {
            Index::Memory(index) => return Ok(pick(&index.steps)),
            Index::Disk(disk) => Arc::clone(disk),
        };
        let steps = if let Some(steps) = files.steps.get(self.number) {
            steps
        } else {
            let steps = Arc::new(disk.steps(&*files.storage)?);
            let cost = steps.len() * size_of::<Step>();
            files.steps.put(self.number, Arc::clone(&steps), cost);
            steps
        };
        Ok(pick(&steps))
    }

    /// Looks at a tenant's frames.
    pub(crate) fn with_tenant<T>(
        &self,
        files: &Files,
        tenant: TenantId,
        look: impl FnOnce(&TenantFrames) -> T,
    ) -> io::Result<T> {
        let disk = match &self.state.read().index {
            Index::Memory(index) => {
                return Ok(match index.tenants.get(&tenant) {
                    Some(frames) => look(frames),
                    None => look(&TenantFrames::default()),
                });
            }
            Index::Disk(disk) => Arc::clone(disk),
        };
        let key = (self.number, tenant);
        let frames = if let Some(frames) = files.lists.get(key) {
            frames
        } else {
            let frames = Arc::new(disk.tenant(&*files.storage, tenant)?);
            let cost = size_of_val(frames.frames.as_slice()) + size_of::<TenantFrames>() + 64;
            files.lists.put(key, Arc::clone(&frames), cost);
            frames
        };
        Ok(look(&frames))
    }

    /// What is here of each tenant.
    pub(crate) fn directory(&self, files: &Files) -> io::Result<Vec<DirectoryEntry>> {
        let disk = match &self.state.read().index {
            Index::Memory(index) => {
                return Ok(index
                    .tenants
                    .iter()
                    .filter_map(|(tenant, frames)| frames.entry(*tenant))
                    .collect());
            }
            Index::Disk(disk) => Arc::clone(disk),
        };
        disk.directory(&*files.storage)
    }
}
