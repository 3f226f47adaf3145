//! Backups of a log that goes on meanwhile, and the way back from one.
//!
//! A backup is the log as it was when it ended at some position: the sound frames up to there, what is
//! remembered beside them, and the state at or before it. In the order in which one comes about ([`run`]):
//!
//! - the state is taken, then the end of the log: the backup goes through there;
//! - sealed segments that the folder has from an earlier backup are kept, all others copied, of purged tenants
//!   nothing ([`copy`]). Retention goes on meanwhile; what it takes is left out;
//! - `meta.redb` is copied by one transaction: it says what retention had taken by then. Then come the state, and what
//!   the owner of the log keeps beside it;
//! - the manifest is written ([`manifest`]): with it the backup is there. Files that no longer belong to it go.
//!
//! Whatever cuts this off leaves the backup of before. [`restore`] makes a log of a backup, in a new epoch.

mod copy;
mod folder;
pub(crate) mod manifest;
pub(crate) mod restore;
mod segments;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidings_protocol::{Epoch, Position, TenantId};

use crate::event::{Lost, Scope};
use crate::format::{LOCK, META, STATE};
use crate::meta::MetaState;
use crate::state::{self, StateError, StateSnapshot};
use crate::storage::{FileStorage, LockError, Storage};
use crate::view::Shared;
use manifest::{Manifest, NoManifest};
use segments::Held;

pub(crate) use folder::BackupFolder;
pub(crate) use manifest::FILE as MANIFEST;

/// How long a log that was just opened may take to have its state.
const STATE_PATIENCE: Duration = Duration::from_mins(2);
/// How often it is begun anew where retention removes what the copy needs.
const ATTEMPTS: u32 = 3;
/// How often what purges have changed meanwhile is looked after.
const ROUNDS: u32 = 5;
/// Files up to so many bytes are kept twice.
const SMALL: u64 = 16 << 20;

/// Gives what is kept beside the log and belongs to a backup of it: names in the log's folder, and content. Asked after
/// the log itself was copied, so that it is not older.
pub type Companions<'c> = &'c mut dyn FnMut() -> Result<Vec<(String, Vec<u8>)>, String>;

/// Whether a backup is to be broken off; asked between one segment and the next.
pub type Stop<'s> = &'s (dyn Fn() -> bool + Sync);

/// What a backup holds, and what it took to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The log's epoch.
    pub epoch: Epoch,
    /// The last position in it.
    pub through: Position,
    /// When it was taken, in microseconds since the Unix epoch.
    pub taken_at: i64,
    /// Segments in it.
    pub segments: u64,
    /// Segments that had to be copied; the others were there.
    pub segments_copied: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that were written.
    pub bytes_copied: u64,
    /// Whether it has the state. Without, a restored log builds it from the events that are retained.
    pub has_state: bool,
    /// Positions that the log had lost, found while copying.
    pub lost: Vec<Lost>,
    /// Tenants that were purged while it was finished, and of whom it holds events. The next backup
    /// into the folder holds none.
    pub purged_since: Vec<TenantId>,
}

/// No backup was made; one that was in the folder before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A backup of this log is being made.
    #[error("a backup of this log is being made already")]
    Busy,
    /// Another process writes a backup there.
    #[error("the folder {} is in use by {holder}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The folder can't take it.
    #[error("{} can't take a backup of this log: {what}", path.display())]
    Target {
        /// The folder.
        path: PathBuf,
        /// What is in the way.
        what: String,
    },
    /// Nothing can be read or written.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A small file could not be copied.
    #[error("{doing}: {what}")]
    Part {
        /// What was being done.
        doing: String,
        /// What went wrong.
        what: String,
    },
    /// The state is not there yet.
    #[error("the log was opened a moment ago and is still reading its state; try again")]
    NotReady,
    /// What is copied is removed sooner than it is copied.
    #[error("retention removes events faster than they can be copied there")]
    Overtaken,
    /// It was told to stop, or the log was closed.
    #[error("the backup was broken off")]
    Stopped,
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
    let doing = doing.into();
    move |source| BackupError::Io { doing, source }
}

/// Whether a folder holds a finished backup.
#[must_use]
pub fn is_backup(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// The folder of a backup, which is made where it is missing.
pub(crate) fn target_folder(path: &Path) -> Result<Arc<dyn Storage>, BackupError> {
    let doing = format!("making the folder {}", path.display());
    let storage = FileStorage::create(path).map_err(io_error(doing))?;
    Ok(Arc::new(storage))
}

/// Makes a backup.
pub(crate) fn run(
    shared: &Shared,
    target: &Arc<dyn Storage>,
    path: &Path,
    companions: Companions<'_>,
    stop: Stop<'_>,
) -> Result<BackupReport, BackupError> {
    let Some(_one_at_a_time) = shared.backing_up.try_lock() else {
        return Err(BackupError::Busy);
    };
    if shared.lock.lock().is_none() {
        return Err(BackupError::Stopped);
    }
    folder::refuse_log(&**target, path)?;
    let _lock = match target.lock(LOCK, &shared.options.owner) {
        Ok(lock) => lock,
        Err(LockError::Held(holder)) => {
            return Err(BackupError::Locked {
                path: path.to_owned(),
                holder,
            });
        }
        Err(LockError::Io(error)) => {
            return Err(io_error(format!("locking {}", path.display()))(error));
        }
    };
    let previous = folder::previous(&**target, path, &shared.lineage)?;
    target
        .create_folder(manifest::FILES)
        .map_err(io_error(format!("making {}/files", path.display())))?;
    let mut outcome = Err(BackupError::Overtaken);
    for _ in 0..ATTEMPTS {
        outcome = Making::begin(shared, &**target, previous.as_ref(), stop)
            .and_then(|making| making.make(companions));
        if !matches!(outcome, Err(BackupError::Overtaken)) {
            break;
        }
    }
    match &outcome {
        Ok((manifest, _)) => folder::remove_others(&**target, &[manifest]),
        // What was made in vain may be what fills the disk. Where it failed at the very end, which backup is there
        // is not certain: both stay.
        Err(_) => match Manifest::read(&**target) {
            Ok(manifest) => {
                let kept: Vec<&Manifest> = previous.iter().chain(Some(&manifest)).collect();
                folder::remove_others(&**target, &kept);
            }
            Err(NoManifest::Missing) => folder::remove_others(&**target, &[]),
            Err(_) => {}
        },
    }
    outcome.map(|(_, report)| report)
}

/// A backup that is being made.
struct Making<'b> {
    shared: &'b Shared,
    target: &'b dyn Storage,
    previous: Option<&'b Manifest>,
    generation: u64,
    stop: Stop<'b>,
    state: Option<StateSnapshot>,
    through: Position,
    taken: i64,
    /// Of whom nothing is copied.
    purged: HashSet<TenantId>,
    held: Vec<Held>,
    parts: Vec<manifest::PartEntry>,
    bytes_copied: u64,
    segments_copied: HashSet<u64>,
}

impl<'b> Making<'b> {
    fn begin(
        shared: &'b Shared,
        target: &'b dyn Storage,
        previous: Option<&'b Manifest>,
        stop: Stop<'b>,
    ) -> Result<Self, BackupError> {
        // First the state, then the end: what lies between is folded after a restore.
        let state = take_state(shared)?;
        let through = shared.view.read().tail;
        Ok(Self {
            shared,
            target,
            previous,
            generation: previous.map_or(0, Manifest::generation) + 1,
            stop,
            state,
            through,
            taken: shared.clock.now().wall,
            purged: HashSet::new(),
            held: Vec::new(),
            parts: Vec::new(),
            bytes_copied: 0,
            segments_copied: HashSet::new(),
        })
    }

    fn make(mut self, companions: Companions<'_>) -> Result<(Manifest, BackupReport), BackupError> {
        let segments = Arc::clone(&self.shared.view.read().segments);
        for _ in 0..ROUNDS {
            self.purged = self.shared.view.read().purged.clone();
            self.copy_segments(&segments)?;
            self.copy_parts(companions)?;
            if self.shared.view.read().purged == self.purged {
                break;
            }
        }
        self.check_stop()?;
        let manifest = self.manifest();
        let finish = || -> io::Result<()> {
            self.target.sync_folder(manifest::FILES)?;
            manifest.write(self.target)
        };
        finish().map_err(io_error("writing BACKUP"))?;
        let report = self.report(&manifest);
        Ok((manifest, report))
    }

    fn check_stop(&self) -> Result<(), BackupError> {
        if (self.stop)() {
            Err(BackupError::Stopped)
        } else {
            Ok(())
        }
    }

    /// The small files, as of now; fails where retention has overtaken what was copied before.
    fn copy_parts(&mut self, companions: Companions<'_>) -> Result<(), BackupError> {
        self.parts.clear();
        let meta = self.copy_meta()?;
        let needed = self
            .state
            .as_ref()
            .map_or(self.through, StateSnapshot::through);
        if meta.removed_through > needed {
            return Err(BackupError::Overtaken);
        }
        self.held.retain(|held| held.reached > meta.removed_through);
        if let Some(snapshot) = self.state.clone() {
            let file = format!("{STATE}-{}", self.generation);
            let epoch = self.shared.lineage.epoch();
            state::write_snapshot(
                self.target,
                &folder::place(&file),
                epoch,
                snapshot,
                &self.purged,
            )
            .map_err(part_error("copying the state"))?;
            self.add_part(STATE, file)?;
        }
        let others = companions().map_err(part_error("copying what is kept beside the log"))?;
        for (name, content) in others {
            let file = format!("{name}-{}", self.generation);
            let doing = format!("writing {file}");
            folder::write(self.target, &file, &content).map_err(io_error(doing))?;
            self.add_part(&name, file)?;
        }
        Ok(())
    }

    fn copy_meta(&mut self) -> Result<MetaState, BackupError> {
        let file = format!("{META}-{}", self.generation);
        let copied = self
            .shared
            .meta
            .copy_to(self.target, &folder::place(&file))
            .map_err(|error| part_error("copying meta.redb")(error.to_string()))?;
        self.add_part(META, file)?;
        Ok(copied)
    }

    /// Enters a file that was written, and one more copy of it where it is small.
    fn add_part(&mut self, name: &str, file: String) -> Result<(), BackupError> {
        let doing = format!("reading back {file}");
        let (length, crc) = folder::checksum(self.target, &file).map_err(io_error(doing))?;
        let copy = (length <= SMALL).then(|| format!("{name}.copy-{}", self.generation));
        if let Some(copy) = &copy {
            let doing = format!("writing {copy}");
            folder::duplicate(self.target, &file, copy).map_err(io_error(doing))?;
        }
        for file in std::iter::once(file).chain(copy) {
            self.bytes_copied += length;
            self.parts.push(manifest::PartEntry {
                name: name.to_owned(),
                length,
                crc,
                file,
            });
        }
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            lineage: self.shared.lineage.clone(),
            taken: self.taken,
            through: self.through,
            state: self.state.as_ref().map(StateSnapshot::through),
            segments: self.held.iter().map(|held| held.entry.clone()).collect(),
            parts: self.parts.clone(),
            purged: self.purged.iter().copied().collect(),
        }
    }

    fn report(&self, manifest: &Manifest) -> BackupReport {
        let segments = manifest.segments.iter().map(|entry| entry.length);
        let parts = manifest.parts.iter().map(|entry| entry.length);
        let view = self.shared.view.read();
        BackupReport {
            epoch: manifest.lineage.epoch(),
            through: manifest.through,
            taken_at: manifest.taken,
            segments: manifest.segments.len() as u64,
            segments_copied: self.segments_copied.len() as u64,
            bytes: segments.chain(parts).sum(),
            bytes_copied: self.bytes_copied,
            has_state: self.state.is_some(),
            lost: self
                .held
                .iter()
                .flat_map(|held| held.lost.iter().copied())
                .collect(),
            purged_since: view.purged.difference(&self.purged).copied().collect(),
        }
    }
}

fn part_error(doing: &str) -> impl FnOnce(String) -> BackupError {
    let doing = doing.to_owned();
    move |what| BackupError::Part { doing, what }
}

/// The state as of now; `None` where a fault has ended it.
fn take_state(shared: &Shared) -> Result<Option<StateSnapshot>, BackupError> {
    let _ = shared.state.wait_through(0, STATE_PATIENCE);
    match shared.state.snapshot(Scope::All) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(StateError::Stopped(reason)) => {
            tracing::warn!(reason, "the backup is made without the state");
            Ok(None)
        }
        Err(StateError::NotReady { .. } | StateError::Unwritten(_)) => Err(BackupError::NotReady),
    }
}
