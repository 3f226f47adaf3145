//! When a backup of the log was last finished. It is kept in a small file beside the log, so that a restart does not
//! forget it, and told by the metrics. A log that was never backed up has no such file, nor has one that was restored.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Config, LogKind};

/// Seconds since 1970, as text.
const FILE: &str = "last-backup";
const UNFINISHED: &str = "last-backup.new";

/// The last backup that was finished; shared by who makes one and who tells of it.
#[derive(Debug, Default)]
pub struct LastBackup {
    /// In seconds since 1970; 0 for none.
    at: AtomicU64,
}

impl LastBackup {
    /// That of the log that is configured. A copy of NATS streams has none.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        match config.log.kind {
            LogKind::Embedded => Self::left_in(&config.log.path),
            LogKind::JetStream => Self::default(),
        }
    }

    /// What an earlier process has left in the log's folder. What can't be read counts as none.
    fn left_in(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        Self {
            at: AtomicU64::new(text.trim().parse().unwrap_or(0)),
        }
    }

    /// When, in seconds since 1970.
    #[must_use]
    pub fn at(&self) -> Option<u64> {
        Some(self.at.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// One was finished now. Where the file can't be written the backup is good all the same.
    pub fn finished(&self, folder: &Path) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        self.at.store(seconds, Ordering::Relaxed);
        if let Err(error) = note(folder, seconds) {
            tracing::warn!(%error, "the time of the backup is not kept beyond this process");
        }
    }
}

fn note(folder: &Path, seconds: u64) -> io::Result<()> {
    let unfinished = folder.join(UNFINISHED);
    std::fs::write(&unfinished, format!("{seconds}\n"))?;
    std::fs::rename(unfinished, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_to_the_next_process_and_nonsense_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let last = LastBackup::left_in(folder.path());
        assert_eq!(last.at(), None);
        last.finished(folder.path());
        let next = LastBackup::left_in(folder.path());
        assert!(next.at().is_some());
        assert_eq!(next.at(), last.at());
        for nonsense in ["", "soon", "-1", "0"] {
            std::fs::write(folder.path().join(FILE), nonsense).unwrap();
            let next = LastBackup::left_in(folder.path());
            assert_eq!(next.at(), None, "{nonsense}");
        }
    }
}
