//! The folder as a whole: who has it, which format it is in, and making a new one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::OpenError;
use crate::format::{FORMAT, LOCK, META, SEGMENTS, VERSION, segment_number};
use crate::meta::{Meta, MetaState};
use crate::storage::{LockError, OpenMode, Storage};

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
) -> Result<(Meta, MetaState), OpenError> {
    let state_error = |error: redb::Error| OpenError::State {
        path: path.join(META),
        what: error.to_string(),
    };
    let found = format(&**storage, path)?;
    if found.is_some_and(|found| found < VERSION) {
        write_format(&**storage).map_err(io_error("writing FORMAT"))?;
    }
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
        Meta::create(&**storage, draw_epoch(), now).map_err(state_error)?;
        write_format(&**storage).map_err(io_error("writing FORMAT"))?;
    }
    Meta::open(Arc::clone(storage)).map_err(state_error)
}

/// Written last: its being there says that the log was made completely.
fn write_format(storage: &dyn Storage) -> io::Result<()> {
    let fresh = format!("{FORMAT}.new");
    let file = storage.open(&fresh, OpenMode::Create)?;
    file.write_at(format!("tidings-log {VERSION}\n").as_bytes(), 0)?;
    file.sync_data()?;
    storage.rename(&fresh, FORMAT)?;
    storage.sync_folder("")
}

/// An epoch needs to differ from those of logs that clients saw at the same address before; 40
/// bits keep cursors short.
fn draw_epoch() -> u64 {
    (random() >> 24).max(1)
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
