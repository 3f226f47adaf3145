//! The way back to an older program.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tidings_protocol::Epoch;

use crate::OpenError;
use crate::folder::{io_error, lineage, lock, meta_error, write_format};
use crate::fork::{name_epoch, name_epoch_of_state, require_log};
use crate::format::{PLAIN_VERSION, STATE, VERSION};
use crate::lineage::{Ancestor, Lineage};
use crate::meta::Meta;
use crate::storage::{FileStorage, Storage};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downgrade {
    /// The folder is in that format, or an older one, already.
    Unneeded(u32),
    /// It is in that format now.
    Done {
        /// The log's epoch, which it keeps.
        epoch: Epoch,
        /// The epochs that it descended from, and does not know any more: their cursors are of an unknown epoch.
        forgotten: Vec<Ancestor>,
    },
    /// There is no way to that format.
    Impossible,
}

/// Makes the folder of a log that nobody has open one of an older format. No event is lost.
///
/// Format 2 has no ancestors; format 1, in which events have no subjects, can't be gone back to.
///
/// # Errors
///
/// When the folder is no log, is in use, or can't be written. Cut off anywhere, the folder is of either format, and
/// this can be done again.
pub fn downgrade(path: impl AsRef<Path>, to: u32) -> Result<Downgrade, OpenError> {
    let path = path.as_ref();
    let storage =
        FileStorage::existing(path).map_err(io_error(format!("opening {}", path.display())))?;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let _lock = lock(&*storage, path, "tidings log downgrade")?;
    let found = require_log(&*storage, path)?;
    if found <= to {
        return Ok(Downgrade::Unneeded(found));
    }
    if to != PLAIN_VERSION {
        return Ok(Downgrade::Impossible);
    }
    debug_assert_eq!(found, VERSION, "there is one version above {PLAIN_VERSION}");
    let Some(lineage) = lineage(&*storage, path)? else {
        return Ok(Downgrade::Unneeded(found));
    };
    let epoch = lineage.epoch();
    // As long as the format says so the folder is one of the newer version, whose segments may say either epoch.
    name_epoch(&*storage, epoch).map_err(io_error("writing the segments' headers"))?;
    let (meta, known) =
        Meta::open(Arc::clone(&storage)).map_err(|error| meta_error(path, &error))?;
    meta.record_fork(epoch, known.shown_through, std::iter::empty())
        .map_err(|error| meta_error(path, &error))?;
    meta.close();
    name_epoch_of_state(&storage, epoch, &HashSet::new()).map_err(|what| OpenError::State {
        path: path.join(STATE),
        what,
    })?;
    write_format(&*storage, PLAIN_VERSION).map_err(io_error("writing FORMAT"))?;
    Lineage::remove(&*storage).map_err(io_error("removing EPOCHS"))?;
    Ok(Downgrade::Done {
        epoch,
        forgotten: lineage.ancestors().to_vec(),
    })
}
