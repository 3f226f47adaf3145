//! Which epochs a log descends from.
//!
//! A log that goes on from a copy of another (restored from a backup, forked by hand) or lacks what it once
//! showed (truncated) starts a new epoch. It remembers its parent, and up to which position the two are
//! the same, so that cursors of the parent lead on exactly up to there and nowhere beyond.
//!
//! The file `EPOCHS` of such a log:
//!
//! ```text
//! tidings-epochs 1
//! epoch 4f0cmecg
//! ancestor 3zc81k0d 1042
//! crc 9a3b11c0
//! ```
//!
//! Ancestors stand nearest first; each number is the last position that the log shares with it. The last line
//! is the CRC-32 of all before. Where the file exists, it says what the log's epoch is, and not `meta.redb`.

use std::fmt::Write as _;
use std::io;

use tidings_protocol::{Epoch, Position};

use crate::folder::random;
use crate::storage::Storage;
use crate::text_file;

/// The name of the file in the log's folder.
pub(crate) const FILE: &str = "EPOCHS";

const TITLE: &str = "tidings-epochs 1";

/// More are not remembered; the oldest go first.
const MAX_ANCESTORS: usize = 256;

/// A log that another one descends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its epoch.
    pub epoch: Epoch,
    /// The last position at which the two are the same.
    pub fork: Position,
}

/// The epoch of a log, and those that it descends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    epoch: Epoch,
    /// Nearest first. Going back, the fork never grows.
    ancestors: Vec<Ancestor>,
}

/// What a position of some epoch is to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The same position of this log.
    Same,
    /// Behind the place, given here, where the log parted from that epoch.
    Parted(Position),
    /// Nothing: the log does not know that epoch.
    Strange,
}

impl Lineage {
    /// Of a log that descends from no other.
    pub(crate) fn of(epoch: Epoch) -> Self {
        Self {
            epoch,
            ancestors: Vec::new(),
        }
    }

    /// The log's own epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The epochs that it descends from, nearest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// Whether an epoch is the log's own or an ancestor's.
    #[must_use]
    pub fn has(&self, epoch: Epoch) -> bool {
        self.epoch == epoch || self.ancestor(epoch).is_some()
    }

    /// What a position of an epoch is here. Says nothing of whether the log has come so far yet.
    #[must_use]
    pub fn kinship(&self, epoch: Epoch, position: Position) -> Kinship {
        if epoch == self.epoch {
            return Kinship::Same;
        }
        match self.ancestor(epoch) {
            Some(ancestor) if position <= ancestor.fork => Kinship::Same,
            Some(ancestor) => Kinship::Parted(ancestor.fork),
            None => Kinship::Strange,
        }
    }

    fn ancestor(&self, epoch: Epoch) -> Option<&Ancestor> {
        self.ancestors.iter().find(|known| known.epoch == epoch)
    }

    /// Of a log that is the same as this one up to a position, and goes on from there by itself.
    pub(crate) fn forked(&self, fork: Position) -> Self {
        let parent = Ancestor {
            epoch: self.epoch,
            fork,
        };
        let older = self.ancestors.iter().map(|ancestor| Ancestor {
            fork: ancestor.fork.min(fork),
            ..*ancestor
        });
        Self {
            epoch: draw_epoch(),
            ancestors: std::iter::once(parent)
                .chain(older)
                .take(MAX_ANCESTORS)
                .collect(),
        }
    }

    /// The same log, parted from all its ancestors at this position at the latest.
    pub(crate) fn parted_at(mut self, fork: Position) -> Self {
        for ancestor in &mut self.ancestors {
            ancestor.fork = ancestor.fork.min(fork);
        }
        self
    }

    /// The lines that describe it, in this file and in a backup's.
    pub(crate) fn write_lines(&self, text: &mut String) {
        let _ = writeln!(text, "epoch {}", self.epoch);
        for Ancestor { epoch, fork } in &self.ancestors {
            let _ = writeln!(text, "ancestor {epoch} {fork}");
        }
    }

    /// Takes in a line that [`Lineage::write_lines`] has written; `None` where it is no such line.
    pub(crate) fn read_line(lineage: &mut Option<Self>, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        match (words.next()?, words.next()?, words.next()) {
            ("epoch", epoch, None) if lineage.is_none() => {
                *lineage = Some(Self::of(epoch.parse().ok()?));
            }
            ("ancestor", epoch, Some(fork)) => lineage.as_mut()?.ancestors.push(Ancestor {
                epoch: epoch.parse().ok()?,
                fork: fork.parse().ok()?,
            }),
            _ => return None,
        }
        words.next().is_none().then_some(())
    }

    /// Makes the file durable, whole or not at all.
    pub(crate) fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        let mut text = format!("{TITLE}\n");
        self.write_lines(&mut text);
        text_file::write(storage, FILE, &text_file::sealed(text))
    }

    /// Reads the file; `None` where there is none.
    pub(crate) fn read(storage: &dyn Storage) -> io::Result<Option<Self>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
        let Some(text) = text_file::read(storage, FILE)? else {
            return Ok(None);
        };
        let body = text_file::unsealed(&text).ok_or_else(damaged)?;
        let body = body
            .strip_prefix(TITLE)
            .and_then(|rest| rest.strip_prefix('\n'));
        let mut lineage = None;
        for line in body.ok_or_else(damaged)?.lines() {
            Self::read_line(&mut lineage, line).ok_or_else(damaged)?;
        }
        lineage.ok_or_else(damaged).map(Some)
    }

    /// Removes the file.
    pub(crate) fn remove(storage: &dyn Storage) -> io::Result<()> {
        match storage.remove(FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        storage.sync_folder("")
    }
}

/// An epoch needs to differ from those of logs that clients saw at the same address before; 40
/// bits keep cursors short.
pub(crate) fn draw_epoch() -> Epoch {
    Epoch((random() >> 24).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileStorage;

    #[test]
    fn a_cursor_leads_on_up_to_the_earliest_fork_between() {
        let oldest = Lineage::of(Epoch(1));
        let middle = oldest.forked(100);
        // Of an older copy of the middle one, from before it had parted from the oldest at 100.
        let newest = middle.forked(70);
        let of = |epoch: Epoch, position| newest.kinship(epoch, position);
        assert_eq!(of(newest.epoch(), 5_000), Kinship::Same);
        assert_eq!(of(middle.epoch(), 70), Kinship::Same);
        assert_eq!(of(middle.epoch(), 71), Kinship::Parted(70));
        assert_eq!(of(Epoch(1), 70), Kinship::Same);
        assert_eq!(of(Epoch(1), 80), Kinship::Parted(70));
        assert_eq!(of(Epoch(2), 1), Kinship::Strange);
        assert_eq!(middle.kinship(newest.epoch(), 1), Kinship::Strange);
    }

    #[test]
    fn the_file_reads_back_as_it_was_written_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::existing(folder.path()).unwrap();
        assert_eq!(Lineage::read(&storage).unwrap(), None);
        let lineage = Lineage::of(Epoch(7)).forked(u64::MAX).forked(3);
        lineage.write(&storage).unwrap();
        assert_eq!(Lineage::read(&storage).unwrap(), Some(lineage));
        let path = folder.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(Lineage::read(&storage).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(Lineage::read(&storage).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn only_so_many_ancestors_are_remembered_the_nearest() {
        let mut lineage = Lineage::of(Epoch(1));
        for fork in 1..=1_000 {
            lineage = lineage.forked(fork);
        }
        assert_eq!(lineage.ancestors().len(), MAX_ANCESTORS);
        assert_eq!(lineage.ancestors()[0].fork, 1_000);
        assert_eq!(lineage.kinship(Epoch(1), 1), Kinship::Strange);
    }
}
