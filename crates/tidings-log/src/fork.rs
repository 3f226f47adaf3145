//! New epochs in place: for a copy of a log that goes on by itself, and for a log that lacks what it once
//! showed.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tidings_protocol::{Epoch, Position, TenantId};

use crate::OpenError;
use crate::database;
use crate::folder::{format, io_error, lock, meta_error, open_or_create, write_format};
use crate::format::{META, SEGMENTS, SegmentHeader, VERSION, log_name, segment_number};
use crate::lineage::Lineage;
use crate::meta::{self, Meta};
use crate::recovery::{Recovered, recover};
use crate::scan;
use crate::segment::Files;
use crate::state;
use crate::storage::{FileStorage, MemoryFile, OpenMode, Storage, read_exact_at};

/// A new epoch that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The epoch that went before.
    pub parent: Epoch,
    /// The new one.
    pub epoch: Epoch,
    /// The last position that the two have in common.
    pub fork: Position,
}

/// Begins a new epoch in the folder of a log that nobody has open: for a copy that goes on beside the log that it was
/// copied from, or in its place after that had gone on.
///
/// # Errors
///
/// When the folder is no log, is in use, or can't be written.
pub fn fork(path: impl AsRef<Path>) -> Result<Fork, OpenError> {
    let path = path.as_ref();
    let storage =
        FileStorage::existing(path).map_err(io_error(format!("opening {}", path.display())))?;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let _lock = lock(&*storage, path, "tidings log fork")?;
    require_log(&*storage, path)?;
    let (meta, known, lineage) = open_or_create(&storage, path, 0)?;
    let files = Files::new(Arc::clone(&storage), 0);
    let tail = recover(&files, path, &known, &lineage)?.tail;
    let forked = begin(&storage, path, &meta, &lineage, tail)?;
    meta.close();
    Ok(Fork {
        parent: lineage.epoch(),
        epoch: forked.epoch(),
        fork: tail,
    })
}

/// Refuses a folder in which no log was made.
pub(crate) fn require_log(storage: &dyn Storage, path: &Path) -> Result<u32, OpenError> {
    format(storage, path)?.ok_or_else(|| OpenError::NotALog {
        path: path.to_owned(),
        what: "it has no file FORMAT".to_owned(),
    })
}

/// A start finds that the log ends before what it once showed: positions behind its end must not be taken for
/// those of before.
pub(crate) fn after_loss(
    files: &Files,
    path: &Path,
    meta: &Meta,
    lineage: &Lineage,
    recovered: &Recovered,
) -> Result<Lineage, OpenError> {
    let forked = begin(&files.storage, path, meta, lineage, recovered.tail)?;
    tracing::error!(
        parent = %lineage.epoch(),
        epoch = %forked.epoch(),
        fork = recovered.tail,
        "the log ends before what it once showed; it goes on in a new epoch, so that no cursor leads to another event"
    );
    Ok(forked)
}

fn begin(
    storage: &Arc<dyn Storage>,
    path: &Path,
    meta: &Meta,
    lineage: &Lineage,
    fork: Position,
) -> Result<Lineage, OpenError> {
    let forked = lineage.forked(fork);
    // With this the new epoch has begun; the rest is put right at the next start where it is cut off here.
    forked
        .write(&**storage)
        .map_err(io_error("writing EPOCHS"))?;
    write_format(&**storage, VERSION).map_err(io_error("writing FORMAT"))?;
    meta.record_fork(forked.epoch(), fork, std::iter::empty())
        .map_err(|error| meta_error(path, &error))?;
    name_epoch(&**storage, forked.epoch()).map_err(io_error("writing the segments' headers"))?;
    Ok(forked)
}

/// Makes every segment's header say this epoch, so that the epochs of old need not be remembered for ever.
pub(crate) fn name_epoch(storage: &dyn Storage, epoch: Epoch) -> io::Result<()> {
    for name in storage.list(SEGMENTS)? {
        let Some(number) = segment_number(&name) else {
            continue;
        };
        let file = storage.open(&log_name(number), OpenMode::Write)?;
        let Some((header, whole)) = scan::read_header(&*file) else {
            continue;
        };
        if header.epoch == epoch.0 && whole {
            continue;
        }
        let header = SegmentHeader {
            epoch: epoch.0,
            ..header
        };
        for at in SegmentHeader::COPIES {
            file.write_at(&header.encode_copy(), at)?;
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Makes the state of a folder that nobody has open one of this epoch.
pub(crate) fn name_epoch_of_state(
    storage: &Arc<dyn Storage>,
    epoch: Epoch,
    forget: &HashSet<TenantId>,
) -> Result<(), String> {
    state::adapt(storage, epoch, forget)
}

/// The tenants that were purged from the log in a folder, whatever state the rest of it is in. Nothing is changed,
/// and nothing locked.
///
/// # Errors
///
/// When its `meta.redb` can't be read.
pub fn purged_in(path: impl AsRef<Path>) -> Result<Vec<TenantId>, OpenError> {
    let path = path.as_ref();
    let read = || -> io::Result<Vec<u8>> {
        let storage = FileStorage::existing(path)?;
        let file = storage.open(META, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        read_exact_at(&*file, &mut bytes, 0)?;
        Ok(bytes)
    };
    let doing = format!("reading {}", path.join(META).display());
    let bytes = read().map_err(io_error(doing))?;
    let state = database::guarded(|| {
        let database = database::open(Arc::new(MemoryFile::of(bytes)), 1 << 20)?;
        meta::load(&database)
    });
    let state = state.map_err(|what| OpenError::State {
        path: path.join(META),
        what,
    })?;
    Ok(state.purged.into_keys().collect())
}
