//! Checks a folder without changing it.

use std::path::Path;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the log's folder.
    pub file: String,
    /// Where in the file, in bytes from its beginning.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Whether events are lost; otherwise the log mends it when it is opened.
    pub loses_events: bool,
}

/// What a folder holds and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The log's epoch, as in its cursors.
    pub epoch: Option<tidings_protocol::Epoch>,
    /// Segments that were checked.
    pub segments: u64,
    /// Frames (bodies) whose checksums hold.
    pub frames: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// The first position found.
    pub first: Option<tidings_protocol::Position>,
    /// The last position found.
    pub last: Option<tidings_protocol::Position>,
    /// What is wrong; empty for a sound log.
    pub findings: Vec<Finding>,
}

/// The folder could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder can't be read as a log at all.
    #[error(transparent)]
    Open(#[from] crate::OpenError),
}

/// Checks every frame, every index and the order of the log in `path`. The folder is only read;
/// of a log that is in use, the part that was durable when the check began is checked.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport, VerifyError> {
    let _ = path;
    unimplemented!("follows with the next commits")
}
