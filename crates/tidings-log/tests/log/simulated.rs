//! A disk in memory that forgets what was not synced, and breaks when told to.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tidings_log::clock::{Clock, Instant};
use tidings_log::storage::{LockError, OpenMode, Storage, StorageFile};

/// What reaches the disk as a whole or not at all.
const SECTOR: usize = 512;
/// How long a mark is: a frame's header, and nothing else.
const MARK: usize = 88;

/// A change to a file that was not synced.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                if content.len() < offset + bytes.len() {
                    content.resize(offset + bytes.len(), 0);
                }
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    /// What readers see: the page cache.
    content: Vec<u8>,
    /// What the disk has.
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Default)]
struct Disk {
    bytes_read: usize,
    nodes: HashMap<u64, Node>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    folders: Vec<String>,
    next_node: u64,
    owner: Option<String>,
    /// Handles of an earlier generation belong to a process that is dead.
    generation: u64,
    faults: Faults,
    /// Writes and syncs to segments, in order.
    journal: Vec<Operation>,
}

/// What the log did to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Synced,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "faults are switched on and off one by one"
)]
struct Faults {
    /// After so many more writes and syncs of segments everything fails, as when power is cut.
    dies_after: Option<u64>,
    /// The same with every change of anything, names included.
    dies_after_changes: Option<u64>,
    fail_next_sync: bool,
    /// The next write of a segment that is longer than this stops after so many bytes.
    tear_next_write: Option<(usize, usize)>,
    no_room: bool,
    no_room_for_writes: bool,
    /// Nothing can be written, whatever it is.
    no_room_at_all: bool,
    /// Syncs of segments wait.
    hold_syncs: bool,
    syncs_waiting: u64,
    bad_sectors: Vec<(String, usize)>,
    no_meta_writes: bool,
    no_state: bool,
}

struct Shared {
    disk: Mutex<Disk>,
    changed: Condvar,
}

/// A handle on the disk, as the process of one generation has it.
#[derive(Clone)]
pub(crate) struct SimulatedStorage {
    shared: Arc<Shared>,
    generation: u64,
}

impl SimulatedStorage {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                disk: Mutex::new(Disk::default()),
                changed: Condvar::new(),
            }),
            generation: 0,
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.shared.disk.lock().unwrap()
    }

    fn living(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk();
        if disk.generation == self.generation && !disk.faults.is_dead() {
            Ok(disk)
        } else {
            Err(io::Error::other("the process is dead"))
        }
    }

    /// The process dies; the kernel keeps what it wrote.
    pub(crate) fn kill(&self) -> Self {
        let mut disk = self.disk();
        disk.next_generation();
        Self {
            shared: Arc::clone(&self.shared),
            generation: disk.generation,
        }
    }

    /// The power fails: of what was not synced, `keep` says of each piece whether the disk has it.
    pub(crate) fn lose_power(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut disk = self.disk();
        for node in disk.nodes.values_mut() {
            for change in std::mem::take(&mut node.pending) {
                match change {
                    Change::Length(_) => {
                        if keep() {
                            change.apply(&mut node.durable);
                        }
                    }
                    Change::Write(offset, bytes) => {
                        let mut at = offset;
                        for piece in pieces(offset, &bytes) {
                            if keep() {
                                Change::Write(at, piece.to_vec()).apply(&mut node.durable);
                            }
                            at += piece.len();
                        }
                    }
                }
            }
            node.content = node.durable.clone();
        }
        disk.names = disk.durable_names.clone();
        disk.next_generation();
        Self {
            shared: Arc::clone(&self.shared),
            generation: disk.generation,
        }
    }

    pub(crate) fn die_after(&self, operations: u64) {
        self.disk().faults.dies_after = Some(operations);
    }

    pub(crate) fn die_after_changes(&self, changes: u64) {
        self.disk().faults.dies_after_changes = Some(changes);
    }

    /// Whether the power that was to fail has failed.
    pub(crate) fn has_died(&self) -> bool {
        self.disk().faults.is_dead()
    }

    /// The disk, for a change that power can fail before.
    fn changing(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.living()?;
        if let Some(left) = &mut disk.faults.dies_after_changes {
            *left -= 1;
            if *left == 0 {
                return Err(io::Error::other("the power fails"));
            }
        }
        Ok(disk)
    }

    pub(crate) fn fail_next_sync(&self) {
        self.disk().faults.fail_next_sync = true;
    }

    pub(crate) fn tear_next_write(&self, after: usize) {
        self.disk().faults.tear_next_write = Some((0, after));
    }

    /// The same, but of no mark, which a writer that is idle for a moment writes before anything else.
    pub(crate) fn tear_next_frame_with_events(&self, after: usize) {
        self.disk().faults.tear_next_write = Some((MARK, after));
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.disk().faults.no_room = full;
    }

    /// As on a file system that can't reserve room.
    pub(crate) fn set_full_for_writes(&self, full: bool) {
        self.disk().faults.no_room_for_writes = full;
    }

    /// As on a disk that others have filled.
    pub(crate) fn set_full_for_all(&self, full: bool) {
        self.disk().faults.no_room_at_all = full;
    }

    pub(crate) fn refuse_meta_writes(&self, refuse: bool) {
        self.disk().faults.no_meta_writes = refuse;
    }

    /// The file of the state can neither be opened nor written nor synced.
    pub(crate) fn refuse_state(&self, refuse: bool) {
        self.disk().faults.no_state = refuse;
    }

    pub(crate) fn add_bad_sector(&self, name: &str, offset: usize) {
        self.disk()
            .faults
            .bad_sectors
            .push((name.to_owned(), offset));
    }

    pub(crate) fn hold_syncs(&self) {
        self.disk().faults.hold_syncs = true;
    }

    /// Waits until a sync of a segment is held.
    pub(crate) fn wait_for_held_sync(&self) {
        let mut disk = self.disk();
        while disk.faults.syncs_waiting == 0 {
            disk = self.shared.changed.wait(disk).unwrap();
        }
    }

    pub(crate) fn release_syncs(&self) {
        self.disk().faults.hold_syncs = false;
        self.shared.changed.notify_all();
    }

    pub(crate) fn journal(&self) -> Vec<Operation> {
        self.disk().journal.clone()
    }

    /// How many bytes were asked for, of any file, so far.
    pub(crate) fn bytes_read(&self) -> usize {
        self.disk().bytes_read
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }

    pub(crate) fn segments(&self) -> Vec<String> {
        let is_segment = |name: &String| name.strip_suffix(".log").is_some();
        self.names().into_iter().filter(is_segment).collect()
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let disk = self.disk();
        disk.nodes[&disk.names[name]].content.clone()
    }

    /// Changes a file behind the log's back, on the disk itself.
    pub(crate) fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let node = disk.names[name];
        let node = disk.nodes.get_mut(&node).unwrap();
        change(&mut node.content);
        change(&mut node.durable);
    }

    /// Where a file holds some bytes.
    pub(crate) fn find(&self, name: &str, bytes: &[u8]) -> Option<usize> {
        self.content(name)
            .windows(bytes.len())
            .position(|window| window == bytes)
    }

    /// The segment that holds some bytes, and where.
    pub(crate) fn find_in_segments(&self, bytes: &[u8]) -> (String, usize) {
        self.segments()
            .into_iter()
            .find_map(|name| self.find(&name, bytes).map(|at| (name, at)))
            .expect("a segment holds it")
    }

    /// Puts a file's bytes in place of those it has.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) {
        self.damage(name, |bytes| content.clone_into(bytes));
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut disk = self.disk();
        disk.names.remove(name);
        disk.durable_names.remove(name);
    }
}

/// Cuts a write where sectors end.
fn pieces(offset: usize, bytes: &[u8]) -> Vec<&[u8]> {
    let head = (SECTOR - offset % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(head);
    std::iter::once(head).chain(rest.chunks(SECTOR)).collect()
}

impl Faults {
    fn is_dead(&self) -> bool {
        self.dies_after == Some(0) || self.dies_after_changes == Some(0)
    }
}

impl Disk {
    fn next_generation(&mut self) {
        self.generation += 1;
        self.owner = None;
        let sectors = std::mem::take(&mut self.faults.bad_sectors);
        self.faults = Faults {
            bad_sectors: sectors,
            ..Faults::default()
        };
    }

    fn check_state(&self, name: &str) -> io::Result<()> {
        if self.faults.no_state && name.starts_with("state") {
            return Err(io::Error::other("the disk refuses"));
        }
        Ok(())
    }

    fn in_folder<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
        let rest = if folder.is_empty() {
            name
        } else {
            name.strip_prefix(folder)?.strip_prefix('/')?
        };
        (!rest.contains('/')).then_some(rest)
    }
}

fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
}

impl Storage for SimulatedStorage {
    fn lock(&self, _name: &str, owner: &str) -> Result<Box<dyn Send + Sync>, LockError> {
        let mut disk = self.living().map_err(LockError::Io)?;
        if let Some(holder) = &disk.owner {
            return Err(LockError::Held(holder.clone()));
        }
        disk.owner = Some(owner.to_owned());
        Ok(Box::new(SimulatedLock(self.clone())))
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = if mode == OpenMode::Create {
            self.changing()?
        } else {
            self.living()?
        };
        disk.check_state(name)?;
        let node = match (disk.names.get(name).copied(), mode) {
            (Some(node), OpenMode::Read | OpenMode::Write) => node,
            (None, OpenMode::Read | OpenMode::Write) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (_, OpenMode::Create) => {
                let node = disk.next_node;
                disk.next_node += 1;
                disk.nodes.insert(node, Node::default());
                disk.names.insert(name.to_owned(), node);
                node
            }
        };
        Ok(Arc::new(SimulatedFile {
            storage: self.clone(),
            name: name.to_owned(),
            node,
        }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let disk = self.living()?;
        if !folder.is_empty() && !disk.folders.iter().any(|known| known == folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = disk.names.keys();
        Ok(names
            .filter_map(|name| Disk::in_folder(name, folder).map(str::to_owned))
            .collect())
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        self.living()?.folders.push(name.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.changing()?;
        let node = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.changing()?.names.remove(name);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut disk = self.changing()?;
        let Disk {
            names,
            durable_names,
            ..
        } = &mut *disk;
        durable_names.retain(|name, _| Disk::in_folder(name, folder).is_none());
        for (name, node) in names.iter() {
            if Disk::in_folder(name, folder).is_some() {
                durable_names.insert(name.clone(), *node);
            }
        }
        Ok(())
    }
}

struct SimulatedLock(SimulatedStorage);

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut disk = self.0.disk();
        if disk.generation == self.0.generation {
            disk.owner = None;
        }
    }
}

struct SimulatedFile {
    storage: SimulatedStorage,
    name: String,
    node: u64,
}

impl std::fmt::Debug for SimulatedFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl SimulatedFile {
    fn is_segment(&self) -> bool {
        self.name.starts_with("segments/")
            && std::path::Path::new(&self.name)
                .extension()
                .is_some_and(|kind| kind == "log")
    }

    /// The disk, for an operation that power can fail before.
    fn operate(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.storage.changing()?;
        if self.is_segment()
            && let Some(left) = &mut disk.faults.dies_after
        {
            *left -= 1;
            if *left == 0 {
                return Err(io::Error::other("the power fails"));
            }
        }
        if self.name.starts_with("meta") && disk.faults.no_meta_writes {
            return Err(io::Error::other("the disk refuses"));
        }
        disk.check_state(&self.name)?;
        Ok(disk)
    }

    fn change(disk: &mut Disk, node: u64, change: Change) {
        let node = disk.nodes.get_mut(&node).unwrap();
        change.apply(&mut node.content);
        node.pending.push(change);
    }
}

impl StorageFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.storage.living()?.nodes[&self.node].content.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.storage.living()?;
        disk.bytes_read += buffer.len();
        let offset = usize::try_from(offset).unwrap();
        let content = &disk.nodes[&self.node].content;
        let read = content.len().saturating_sub(offset).min(buffer.len());
        let bad = disk
            .faults
            .bad_sectors
            .iter()
            .any(|(name, at)| *name == self.name && (offset..offset + read).contains(at));
        if bad {
            return Err(io::Error::other("bad sector"));
        }
        buffer[..read].copy_from_slice(&content[offset.min(content.len())..][..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.operate()?;
        let offset = usize::try_from(offset).unwrap();
        if disk.faults.no_room_at_all {
            return Err(no_room());
        }
        if self.is_segment() {
            disk.journal.push(Operation::Write);
            let tear = &mut disk.faults.tear_next_write;
            if let Some((_, after)) = tear.take_if(|(longer_than, _)| bytes.len() > *longer_than) {
                let written = bytes[..after.min(bytes.len())].to_vec();
                Self::change(&mut disk, self.node, Change::Write(offset, written));
                return Err(io::Error::other("the write was torn"));
            }
            if disk.faults.no_room_for_writes {
                let written = bytes[..bytes.len() / 2].to_vec();
                Self::change(&mut disk, self.node, Change::Write(offset, written));
                return Err(no_room());
            }
        }
        Self::change(&mut disk, self.node, Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_segment() {
            let mut disk = self.storage.living()?;
            if disk.faults.hold_syncs {
                disk.faults.syncs_waiting += 1;
                self.storage.shared.changed.notify_all();
                while disk.faults.hold_syncs {
                    disk = self.storage.shared.changed.wait(disk).unwrap();
                }
                disk.faults.syncs_waiting -= 1;
            }
        }
        let mut disk = self.operate()?;
        let fails = self.is_segment() && std::mem::take(&mut disk.faults.fail_next_sync);
        let node = disk.nodes.get_mut(&self.node).unwrap();
        let pending = std::mem::take(&mut node.pending);
        if fails {
            // As Linux does it: the pages count as clean from now on, but the disk has not got them.
            return Err(io::Error::other("the sync failed"));
        }
        for change in pending {
            change.apply(&mut node.durable);
        }
        if self.is_segment() {
            disk.journal.push(Operation::Synced);
        }
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.operate()?;
        if disk.faults.no_room {
            return Err(no_room());
        }
        let length = usize::try_from(length).unwrap();
        Self::change(&mut disk, self.node, Change::Length(length));
        Ok(())
    }

    /// Power can take these zeros like anything else that was not synced. That they are written counts for no
    /// operation, since nothing hangs on it.
    fn settle(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut disk = self.storage.living()?;
        if disk.faults.no_room_for_writes {
            return Err(no_room());
        }
        let offset = usize::try_from(offset).unwrap();
        let content = &disk.nodes[&self.node].content;
        let end = offset + usize::try_from(length).unwrap();
        assert!(end <= content.len(), "beyond what was reserved");
        assert!(
            content[offset..end].iter().all(|byte| *byte == 0),
            "something stands where zeros are to be written"
        );
        Self::change(
            &mut disk,
            self.node,
            Change::Write(offset, vec![0; end - offset]),
        );
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut disk = self.operate()?;
        let length = usize::try_from(length).unwrap();
        Self::change(&mut disk, self.node, Change::Length(length));
        Ok(())
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<Instant>);

impl ManualClock {
    /// Beginning in 2026.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant {
            wall: 1_767_225_600_000_000,
            elapsed: 0,
        })))
    }

    pub(crate) fn wall(&self) -> i64 {
        self.now().wall
    }

    /// Time passes.
    pub(crate) fn pass(&self, micros: i64) {
        let mut now = self.0.lock().unwrap();
        now.wall += micros;
        now.elapsed += micros;
    }

    /// Somebody sets the clock.
    pub(crate) fn set_ahead(&self, micros: i64) {
        self.0.lock().unwrap().wall += micros;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}
