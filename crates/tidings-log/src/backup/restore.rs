//! A log from a backup.
//!
//! The folder is a log only when all of it is there: `RESTORING` is written first and removed last, `FORMAT` just
//! before. What is sound is restored whatever else is damaged; what is not is told. The log begins a new epoch at the
//! last position that it has: it may go on otherwise than the one that the backup was made of.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidings_protocol::{Epoch, Position, TenantId};

use super::copy::{self, Failed, Plan};
use super::folder::BackupFolder;
use crate::OpenError;
use crate::event::Lost;
use crate::folder::{io_error, lock, meta_error, write_format};
use crate::format::{META, RESTORING, SEGMENTS, STATE, SegmentHeader, VERSION, log_name};
use crate::lineage::Lineage;
use crate::meta::Meta;
use crate::state;
use crate::storage::{FileStorage, OpenMode, Storage};
use crate::text_file;

/// How a backup is restored.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Tenants that are purged in the restored log, beside those that were when the backup was made.
    pub purge: Vec<TenantId>,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The epoch of the log that the backup was made of.
    pub parent: Epoch,
    /// The epoch of the restored log.
    pub epoch: Epoch,
    /// The last position that the two have in common.
    pub fork: Position,
    /// When the backup was taken, in microseconds since the Unix epoch.
    pub taken_at: i64,
    /// Events that were restored.
    pub events: u64,
    /// Segments that were restored.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Positions of which the backup has nothing.
    pub lost: Vec<Lost>,
    /// What else is wrong with the backup, a sentence each.
    pub findings: Vec<String>,
    /// Whether the state was restored; without, the log builds it from the events that are retained.
    pub has_state: bool,
    /// All tenants that are purged in the restored log.
    pub purged: Vec<TenantId>,
}

/// Nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no backup, or none that can be read.
    #[error("{}: {what}", path.display())]
    Source {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The folder can't take it.
    #[error("{} can't be restored into: {what}", path.display())]
    Target {
        /// The folder.
        path: PathBuf,
        /// What is in the way.
        what: String,
    },
    /// The folder can't be written.
    #[error(transparent)]
    Write(#[from] OpenError),
    /// What is kept beside the log could not be put right.
    #[error("{0}")]
    Companion(String),
}

/// What is done with the restored files before they are a log: in a folder, with the tenants that are purged in
/// it.
pub type Finish<'f> = &'f mut dyn FnMut(&[TenantId]) -> Result<(), String>;

/// Makes a log of the backup in `source`, in the folder `to`, which must be empty or missing. Cut off anywhere it leaves
/// a folder that is no log; then it can be called again.
///
/// # Errors
///
/// Any, after which the folder is no log.
pub fn restore(
    source: impl AsRef<Path>,
    to: impl AsRef<Path>,
    options: &RestoreOptions,
    finish: Finish<'_>,
) -> Result<RestoreReport, RestoreError> {
    let (source, to) = (source.as_ref(), to.as_ref());
    let from = FileStorage::existing(source).map_err(|error| RestoreError::Source {
        path: source.to_owned(),
        what: error.to_string(),
    })?;
    // Looked at first, so that a mistyped source leaves no folder behind.
    BackupFolder::open(&from).map_err(|what| RestoreError::Source {
        path: source.to_owned(),
        what,
    })?;
    let doing = format!("making the folder {}", to.display());
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::create(to).map_err(io_error(doing))?);
    restore_with((&from, source), (&storage, to), options, finish)
}

/// [`restore`] on other file systems; the paths only serve messages.
///
/// # Errors
///
/// As there.
pub fn restore_with(
    (from, source): (&dyn Storage, &Path),
    (storage, path): (&Arc<dyn Storage>, &Path),
    options: &RestoreOptions,
    finish: Finish<'_>,
) -> Result<RestoreReport, RestoreError> {
    let backup = BackupFolder::open(from).map_err(|what| RestoreError::Source {
        path: source.to_owned(),
        what,
    })?;
    clear(&**storage, path)?;
    let _lock = lock(&**storage, path, "tidings log restore")?;
    text_file::write(
        &**storage,
        RESTORING,
        "A restore into this folder has not ended.\n",
    )
    .map_err(io_error("writing RESTORING"))?;
    storage
        .create_folder(SEGMENTS)
        .map_err(io_error("making the folder of segments"))?;
    let manifest = &backup.manifest;
    let purged: BTreeSet<TenantId> = manifest
        .purged
        .iter()
        .chain(&options.purge)
        .copied()
        .collect();
    let mut restoring = Restoring {
        backup: &backup,
        storage,
        purge: options.purge.iter().copied().collect(),
        // Its own epoch is drawn once; where it forked shows when the segments are there.
        lineage: manifest.lineage.forked(manifest.through),
        reached: 0,
        report: RestoreReport {
            parent: manifest.lineage.epoch(),
            epoch: Epoch(0),
            fork: 0,
            taken_at: manifest.taken,
            events: 0,
            segments: 0,
            bytes: 0,
            lost: Vec::new(),
            findings: Vec::new(),
            has_state: false,
            purged: purged.into_iter().collect(),
        },
    };
    let (meta, removed_through) = restoring.meta(source, path)?;
    restoring.reached = removed_through;
    restoring.segments()?;
    restoring.parts()?;
    restoring.state();
    finish(&restoring.report.purged).map_err(RestoreError::Companion)?;
    restoring.complete(&meta, path)
}

/// Takes away what a restore that was cut off has left; refuses what else there is.
fn clear(storage: &dyn Storage, path: &Path) -> Result<(), RestoreError> {
    let looking = || io_error(format!("looking into {}", path.display()));
    let names = storage.list("").map_err(looking())?;
    if !text_file::exists(storage, RESTORING).map_err(looking())? {
        let harmless = ["LOCK", "lost+found", "RESTORING.new"];
        return match names.iter().find(|name| !harmless.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(RestoreError::Target {
                path: path.to_owned(),
                what: format!(
                    "it is not empty (there is {name}). Move it aside first; where it holds the log of before, name that with \
                     --previous, so that what was purged or revoked since the backup stays so"
                ),
            }),
        };
    }
    let segments = match storage.list(SEGMENTS) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(looking()(error).into()),
    };
    let segments = segments.iter().map(|name| format!("{SEGMENTS}/{name}"));
    let kept = [RESTORING, SEGMENTS, "LOCK", "lost+found"];
    let others = names
        .into_iter()
        .filter(|name| !kept.contains(&name.as_str()));
    for name in segments.chain(others) {
        storage
            .remove(&name)
            .map_err(io_error(format!("removing {name}")))?;
    }
    Ok(())
}

struct Restoring<'r> {
    backup: &'r BackupFolder<'r>,
    storage: &'r Arc<dyn Storage>,
    /// Of whom nothing is restored although the backup may have it.
    purge: HashSet<TenantId>,
    lineage: Lineage,
    /// The last position of what is there so far.
    reached: Position,
    report: RestoreReport,
}

impl Restoring<'_> {
    /// What was remembered beside the segments; and the last position that retention had taken.
    fn meta(&mut self, source: &Path, path: &Path) -> Result<(Meta, Position), RestoreError> {
        let content = self
            .backup
            .part(META)
            .unwrap_or_else(|| Err("it is missing".to_owned()))
            .map_err(|what| RestoreError::Source {
                path: source.to_owned(),
                what: format!("what the log remembered, {META}, is damaged: {what}"),
            })?;
        write_file(&**self.storage, META, &content)?;
        let opened = Meta::open(Arc::clone(self.storage));
        let (meta, known) = opened.map_err(|error| meta_error(path, &error))?;
        Ok((meta, known.removed_through))
    }

    fn segments(&mut self) -> Result<(), RestoreError> {
        let numbers = self.backup.numbers();
        let newest = numbers.last().copied();
        for number in numbers {
            if let Err(what) = self.segment(number, newest == Some(number))? {
                let finding = format!("{}: {what}", self.backup.shown_name(number));
                self.report.findings.push(finding);
            }
        }
        Ok(())
    }

    /// Restores a segment, or says why nothing of it can be.
    fn segment(&mut self, number: u64, is_newest: bool) -> Result<Result<(), String>, OpenError> {
        let (from, salt) = match self.backup.segment(number) {
            Ok(found) => found,
            Err(error) => return Ok(Err(format!("it can't be read: {error}"))),
        };
        let end = match from.len() {
            Ok(length) => length,
            Err(error) => return Ok(Err(format!("it can't be read: {error}"))),
        };
        let plan = Plan {
            header: SegmentHeader {
                salt,
                epoch: self.lineage.epoch().0,
                number,
            },
            end,
            through: self.backup.manifest.through,
            before: self.reached,
            blank: &self.purge,
            marked: is_newest,
        };
        let name = log_name(number);
        let to = self
            .storage
            .open(&name, OpenMode::Create)
            .map_err(io_error(format!("writing {name}")))?;
        let copied = match copy::segment(from, &*to, &plan) {
            Ok(copied) => copied,
            Err(Failed::Source(error)) => return Ok(Err(format!("it can't be read: {error}"))),
            Err(Failed::Target(error)) => return Err(io_error(format!("writing {name}"))(error)),
        };
        let summary = copied.index.summary;
        if summary.frames == 0 {
            drop(to);
            self.storage
                .remove(&name)
                .map_err(io_error(format!("removing {name}")))?;
            return Ok(Err("no frame in it is sound".to_owned()));
        }
        self.reached = self.reached.max(summary.reached).max(summary.follows);
        self.report.events += summary.events;
        self.report.segments += 1;
        self.report.bytes += copied.length;
        self.report.lost.extend(copied.lost);
        Ok(Ok(()))
    }

    /// The files of which the log knows nothing.
    fn parts(&mut self) -> Result<(), RestoreError> {
        for name in self.backup.part_names() {
            if name == META || name == STATE {
                continue;
            }
            let content = self.backup.part(&name).unwrap_or_else(|| Ok(Vec::new()));
            let content = content.map_err(|what| {
                RestoreError::Companion(format!("{name} in the backup is damaged: {what}"))
            })?;
            write_file(&**self.storage, &name, &content)?;
        }
        Ok(())
    }

    /// The state. What is wrong with it costs nothing but the subjects whose events are gone.
    fn state(&mut self) {
        let content = match self.backup.part(STATE) {
            None => return,
            Some(Ok(content)) => content,
            Some(Err(what)) => return self.without_state(&what),
        };
        let epoch = self.lineage.epoch();
        let restored = write_file(&**self.storage, STATE, &content)
            .map_err(|error| error.to_string())
            .and_then(|()| state::adapt(self.storage, epoch, &self.purge));
        match restored {
            Ok(()) => self.report.has_state = true,
            Err(what) => {
                let _ = self.storage.remove(STATE);
                self.without_state(&what);
            }
        }
    }

    fn without_state(&mut self, what: &str) {
        self.report.findings.push(format!(
            "{STATE}: {what}; the state is built from the events that are retained, and lacks subjects whose last event is not"
        ));
    }

    /// Makes a log of what is there.
    fn complete(mut self, meta: &Meta, path: &Path) -> Result<RestoreReport, RestoreError> {
        let through = self.backup.manifest.through;
        // Where the newest segment is damaged, the log has not come so far.
        let fork = self.reached.min(through);
        if fork < through {
            self.report.lost.push(Lost {
                first: fork + 1,
                last: through,
            });
        }
        self.lineage = self.lineage.parted_at(fork);
        (self.report.epoch, self.report.fork) = (self.lineage.epoch(), fork);
        self.report.lost.sort_unstable();
        meta.record_fork(self.lineage.epoch(), fork, self.purge.iter().copied())
            .map_err(|error| meta_error(path, &error))?;
        meta.close();
        let storage = &**self.storage;
        storage
            .sync_folder(SEGMENTS)
            .map_err(io_error("syncing the folder of segments"))?;
        self.lineage
            .write(storage)
            .map_err(io_error("writing EPOCHS"))?;
        write_format(storage, VERSION).map_err(io_error("writing FORMAT"))?;
        storage
            .remove(RESTORING)
            .and_then(|()| storage.sync_folder(""))
            .map_err(io_error("removing RESTORING"))?;
        Ok(self.report)
    }
}

fn write_file(storage: &dyn Storage, name: &str, content: &[u8]) -> Result<(), OpenError> {
    let write = || -> io::Result<()> {
        let file = storage.open(name, OpenMode::Create)?;
        file.write_at(content, 0)?;
        file.sync_data()
    };
    write().map_err(io_error(format!("writing {name}")))
}
