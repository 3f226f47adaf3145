//! The folder as a whole: who has it, which format it is in, and making a new one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tidings_protocol::Epoch;

use crate::OpenError;
use crate::backup;
use crate::format::{
    FORMAT, LOCK, META, PLAIN_VERSION, RESTORING, SEGMENTS, VERSION, segment_number,
};
use crate::lineage::{self, Lineage};
use crate::meta::{Meta, MetaState};
use crate::storage::{LockError, OpenMode, Storage};
use crate::text_file;

pub(crate) fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let doing = doing.into();
    move |source| OpenError::Io { doing, source }
}

/// Locks the folder.
pub(crate) fn lock(
    storage: &dyn Storage,
    path: &Path,
    owner: &str,
) -> Result<Box<dyn Send + Sync>, OpenError> {
    match storage.lock(LOCK, owner) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held(holder)) => Err(OpenError::Locked {
            path: path.to_owned(),
            holder: if holder.is_empty() {
                "another process".to_owned()
            } else {
                holder
            },
        }),
        Err(LockError::Io(error)) => Err(io_error(format!("locking {}", path.display()))(error)),
    }
}

/// What the process that has, or last had, the log in this folder says of itself ([`LogOptions::owner`]). The text
/// outlives the process; whether that lives, the caller finds out.
///
/// [`LogOptions::owner`]: crate::LogOptions::owner
#[must_use]
pub fn holder(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path.join(LOCK)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The format of the folder; `None` where no log was made in it.
pub(crate) fn format(storage: &dyn Storage, path: &Path) -> Result<Option<u32>, OpenError> {
    let file = match storage.open(FORMAT, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("opening FORMAT")(error)),
    };
    let mut bytes = [0; 64];
    let length = file
        .read_at(&mut bytes, 0)
        .map_err(io_error("reading FORMAT"))?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    let found = text
        .trim()
        .strip_prefix("tidings-log ")
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| OpenError::NotALog {
            path: path.to_owned(),
            what: format!("FORMAT reads {:?}", text.trim()),
        })?;
    if found > VERSION {
        return Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: VERSION,
        });
    }
    Ok(Some(found))
}

/// Opens the state of the log in a locked folder, making the log where there is none.
pub(crate) fn open_or_create(
    storage: &Arc<dyn Storage>,
    path: &Path,
    now: i64,
) -> Result<(Meta, MetaState, Lineage), OpenError> {
    refuse_unfinished(&**storage, path)?;
    let found = format(&**storage, path)?;
    if found.is_none() {
        let names = match storage.list(SEGMENTS) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error("listing segments")(error)),
        };
        if names.iter().any(|name| segment_number(name).is_some()) {
            return Err(OpenError::NotALog {
                path: path.to_owned(),
                what: "it has segments but no file FORMAT".to_owned(),
            });
        }
        storage
            .create_folder(SEGMENTS)
            .map_err(io_error("making the folder of segments"))?;
        Meta::create(&**storage, lineage::draw_epoch().0, now)
            .map_err(|error| meta_error(path, &error))?;
    }
    let (meta, known) =
        Meta::open(Arc::clone(storage)).map_err(|error| meta_error(path, &error))?;
    let (lineage, version) = match lineage(&**storage, path)? {
        Some(lineage) => (lineage, VERSION),
        None => (Lineage::of(Epoch(known.epoch)), PLAIN_VERSION),
    };
    if found.is_none_or(|found| found < version) {
        write_format(&**storage, version).map_err(io_error("writing FORMAT"))?;
    }
    Ok((meta, known, lineage))
}

/// Says that `meta.redb` can't be read.
pub(crate) fn meta_error(path: &Path, error: &redb::Error) -> OpenError {
    OpenError::State {
        path: path.join(META),
        what: error.to_string(),
    }
}

/// The log's epoch and its ancestors; `None` where it has none, and `meta.redb` says the epoch.
pub(crate) fn lineage(storage: &dyn Storage, path: &Path) -> Result<Option<Lineage>, OpenError> {
    let unreadable = |what: String| OpenError::State {
        path: path.join(lineage::FILE),
        what,
    };
    let found = Lineage::read(storage).map_err(|error| unreadable(error.to_string()))?;
    if found.is_none() && format(storage, path)? == Some(VERSION) {
        return Err(unreadable("it is missing".to_owned()));
    }
    Ok(found)
}

/// Refuses what looks like a log, or like nothing, and is neither.
fn refuse_unfinished(storage: &dyn Storage, path: &Path) -> Result<(), OpenError> {
    let marks = [
        (
            RESTORING,
            "a restore into it did not end; restore into it once more",
        ),
        (
            backup::MANIFEST,
            "it holds a backup, of which `tidings log restore` makes a log",
        ),
    ];
    for (name, what) in marks {
        if text_file::exists(storage, name).map_err(io_error(format!("opening {name}")))? {
            return Err(OpenError::NotALog {
                path: path.to_owned(),
                what: what.to_owned(),
            });
        }
    }
    Ok(())
}

/// Written last: its being there says that the log was made completely.
pub(crate) fn write_format(storage: &dyn Storage, version: u32) -> io::Result<()> {
    text_file::write(storage, FORMAT, &format!("tidings-log {version}\n"))
}

/// A number that nobody outside can guess.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the operating system gives no random bytes: {error}"),
        }
    }
    u64::from_le_bytes(bytes)
}
