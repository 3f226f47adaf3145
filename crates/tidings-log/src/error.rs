//! What can go wrong, and how well the log is.

use std::io;
use std::path::PathBuf;

use tidings_protocol::Position;

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("the log in {} is in use by {holder}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the holder wrote into the lock file.
        holder: String,
    },
    /// The folder was written by a newer version of this program.
    #[error(
        "the log in {} has format {found}; this version reads formats up to {supported}: use a newer version of Tidings",
        path.display()
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// The format of the folder.
        found: u32,
        /// The newest format that this version can read.
        supported: u32,
    },
    /// The folder holds something else than a log.
    #[error("{} is not a log of Tidings: {what}", path.display())]
    NotALog {
        /// The folder.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// What frames with right checksums say of positions can't be.
    #[error("the log in {} is damaged: {what}", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The small state beside the segments can't be read.
    #[error("the state file {} can't be read: {what}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the store says.
        what: String,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The queue is full; the publisher should come again a little later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log's queue is full")]
pub struct Busy;

/// A body was not stored, none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// An event's key was used before with other content.
    #[error("the key of event {index} was used before with other content")]
    KeyConflict {
        /// Which event of the body, from 0.
        index: usize,
    },
    /// As many keys are remembered as may be; a publish without keys would do.
    #[error("too many idempotency keys within their window")]
    KeyWindowFull,
    /// The disk is full.
    #[error("no room for more events: {0}")]
    Full(String),
    /// The log has stopped; whether the body is stored shows only after a restart.
    #[error("the log has stopped: {0}")]
    Failed(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The tenant was purged; its id is never used again.
    #[error("the tenant was purged")]
    Purged,
    /// A body before it in its [`Chain`](crate::Chain) was not stored.
    #[error("a body before this one was not stored")]
    Unchained,
    /// The body is larger than the log can hold in one piece, or has no events.
    #[error("a body can't be stored in one piece: {bytes} bytes, at most {limit}")]
    TooLarge {
        /// Bytes that the body would take.
        bytes: u64,
        /// Bytes that it may take.
        limit: u64,
    },
}

/// A read failed for another reason than damaged events.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("reading after position {after}: {source}")]
    Io {
        /// The position after which was read.
        after: Position,
        /// What the operating system said.
        source: io::Error,
    },
}

/// How well the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Appends and reads work.
    Healthy,
    /// There is no room for a new segment. Reads work; the log becomes healthy by itself when
    /// there is room again.
    Full {
        /// Since when, in microseconds since the Unix epoch.
        since: i64,
        /// What the operating system said.
        reason: String,
    },
    /// A write or sync failed; nothing is appended until the log is opened anew. Reads work.
    Failed {
        /// Since when, in microseconds since the Unix epoch.
        since: i64,
        /// What failed.
        reason: String,
    },
}
