//! What a mirror remembers beside its log, in `mirror.json`: which sources it copies, and how far.
//!
//! The log itself says of each source how far its events were copied. What is no event, and which
//! incarnation of a source it was, is only here; and that the folder is a mirror's at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "mirror.json";

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts {
    pub(super) sources: Vec<SourceFacts>,
    /// Everything that the sources had was copied once, so that what is missing here is missing there.
    pub(super) complete: bool,
}

/// What is remembered of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceFacts {
    pub(super) stream: String,
    /// Which stream of its name it is; 0 while there was none.
    pub(super) incarnation: u64,
    /// What cursors call this incarnation.
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) copied: u64,
    /// The source has lost what was to be copied up to here, and what other nodes know of the state since is not
    /// taken over yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unrestored: Option<u64>,
}

/// The folder can't be a mirror of these sources.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// It holds something else.
    #[error("{} {what}; set log.path to another folder, or this one aside", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The file in the log's folder, which is this process's own.
#[derive(Clone, Debug)]
pub(super) struct FactsFile {
    path: PathBuf,
}

impl FactsFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            path: folder.join(FILE_NAME),
        }
    }

    pub(super) fn exists(&self) -> Result<bool, MirrorError> {
        self.path.try_exists().map_err(|source| self.error(source))
    }

    pub(super) fn read(&self) -> Result<Facts, MirrorError> {
        let bytes = fs::read(&self.path).map_err(|source| self.error(source))?;
        serde_json::from_slice(&bytes).map_err(|error| self.error(io::Error::other(error)))
    }

    /// Makes the facts durable, whole or not at all.
    pub(super) fn write(&self, facts: &Facts) -> Result<(), MirrorError> {
        let fresh = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(facts)?)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.path)?;
            match self.path.parent() {
                Some(folder) => File::open(folder)?.sync_data(),
                None => Ok(()),
            }
        };
        write().map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> MirrorError {
        MirrorError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Refuses a folder that a mirror has written, for a log of its own.
///
/// # Errors
///
/// When it is one, or can't be looked at.
pub fn refuse_mirror(folder: &Path) -> Result<(), MirrorError> {
    if FactsFile::in_folder(folder).exists()? {
        return Err(MirrorError::Folder {
            path: folder.to_owned(),
            what: "holds a copy of NATS streams (log.kind = \"jetstream\"), not a log of its own"
                .to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_back_as_they_were_written_and_mark_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        refuse_mirror(folder.path()).unwrap();
        let file = FactsFile::in_folder(folder.path());
        let facts = Facts {
            sources: vec![SourceFacts {
                stream: "ALERT_EVENTS".to_owned(),
                incarnation: u64::MAX,
                epoch: 7,
                first: 3,
                copied: 9,
                unrestored: Some(8),
            }],
            complete: true,
        };
        file.write(&Facts::default()).unwrap();
        file.write(&facts).unwrap();
        assert_eq!(file.read().unwrap(), facts);
        let refused = refuse_mirror(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("log.path"), "{refused}");
    }
}
