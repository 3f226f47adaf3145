//! What a backup consists of, in its file `BACKUP`, which is written last: with it a backup is there, whole.
//!
//! ```text
//! tidings-backup 1
//! epoch 4f0cmecg
//! ancestor 3zc81k0d 1042
//! taken 1767225600000000
//! through 5310
//! state 5307
//! segment 12 8c0d… 1048576 1f2e3d4c 99aa88bb 0 segment-0000000012-3
//! part meta.redb 1589248 77cc11aa meta.redb-4
//! purged 11111111-1111-4111-8111-111111111111
//! crc 9a3b11c0
//! ```
//!
//! | line | says |
//! | --- | --- |
//! | `epoch`, `ancestor` | the log's, as in its `EPOCHS` |
//! | `taken` | when, in microseconds since the Unix epoch |
//! | `through` | the last position; the backup is the log as it was when it ended here |
//! | `state` | the position that the state in it is true at; missing where there is no state |
//! | `segment` | number, salt (hexadecimal), length, CRC-32 of the file, CRC-32 of what it holds of whom, number of lost stretches, file |
//! | `part` | the name in the log's folder, length, CRC-32, file |
//! | `purged` | a tenant of whom nothing is in it, having been purged |
//!
//! Files are in the folder `files`. A file is never changed once a manifest names it, so that the backup before is
//! whole until the next one is; its name ends with the number of the backup that has written it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::str::FromStr;

use tidings_protocol::{Position, TenantId};

use crate::lineage::Lineage;
use crate::storage::Storage;
use crate::text_file;

/// The manifest, in the folder of a backup, and once more in case of damage.
pub(crate) const FILE: &str = "BACKUP";
pub(super) const SECOND_FILE: &str = "BACKUP.copy";
/// The folder of a backup's files.
pub(super) const FILES: &str = "files";

const TITLE: &str = "tidings-backup 1";

/// A segment in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentEntry {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) length: u64,
    pub(super) crc: u32,
    /// Of its directory.
    pub(super) holds: u32,
    /// Stretches that were lost when it was copied.
    pub(super) lost: usize,
    pub(super) file: String,
}

/// A file of the log's folder that is no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartEntry {
    pub(super) name: String,
    pub(super) length: u64,
    pub(super) crc: u32,
    pub(super) file: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) lineage: Lineage,
    pub(super) taken: i64,
    pub(super) through: Position,
    pub(super) state: Option<Position>,
    /// Ascending.
    pub(super) segments: Vec<SegmentEntry>,
    /// Those that are small stand here twice, with a file each.
    pub(super) parts: Vec<PartEntry>,
    pub(super) purged: BTreeSet<TenantId>,
}

/// Why there is no manifest.
#[derive(Debug)]
pub(super) enum NoManifest {
    Missing,
    Damaged(String),
    /// Written by a newer program.
    Newer(String),
    Io(io::Error),
}

impl Manifest {
    /// The number of the backup, by the names of its files.
    pub(super) fn generation(&self) -> u64 {
        let number = |name: &str| name.rsplit('-').next()?.parse().ok();
        self.files().filter_map(number).max().unwrap_or(0)
    }

    /// The names of all files that belong to it.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let segments = self.segments.iter().map(|entry| entry.file.as_str());
        segments.chain(self.parts.iter().map(|entry| entry.file.as_str()))
    }

    /// Makes it durable: the backup is there then.
    pub(super) fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        let text = self.text();
        text_file::write(storage, SECOND_FILE, &text)?;
        text_file::write(storage, FILE, &text)
    }

    /// Reads that of a folder.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self, NoManifest> {
        let first = Self::read_file(storage, FILE);
        match first {
            // The second is written before the first, and all files before either; without the first none was finished.
            Err(NoManifest::Damaged(_)) => Self::read_file(storage, SECOND_FILE).or(first),
            _ => first,
        }
    }

    fn read_file(storage: &dyn Storage, name: &str) -> Result<Self, NoManifest> {
        let text = match text_file::read(storage, name) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(NoManifest::Missing),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(NoManifest::Damaged(error.to_string()));
            }
            Err(error) => return Err(NoManifest::Io(error)),
        };
        let damaged = |what: String| NoManifest::Damaged(format!("{name}: {what}"));
        let body = text_file::unsealed(&text)
            .ok_or_else(|| damaged("its checksum does not hold".to_owned()))?;
        let (title, body) = body.split_once('\n').unwrap_or((body, ""));
        if title != TITLE {
            return Err(NoManifest::Newer(title.to_owned()));
        }
        Self::parse(body).map_err(|line| damaged(format!("the line {line:?} makes no sense")))
    }

    fn text(&self) -> String {
        let mut text = format!("{TITLE}\n");
        self.lineage.write_lines(&mut text);
        let _ = writeln!(text, "taken {}", self.taken);
        let _ = writeln!(text, "through {}", self.through);
        if let Some(state) = self.state {
            let _ = writeln!(text, "state {state}");
        }
        for entry in &self.segments {
            let _ = writeln!(
                text,
                "segment {} {:016x} {} {:08x} {:08x} {} {}",
                entry.number,
                entry.salt,
                entry.length,
                entry.crc,
                entry.holds,
                entry.lost,
                entry.file
            );
        }
        for entry in &self.parts {
            let PartEntry {
                name,
                length,
                crc,
                file,
            } = entry;
            let _ = writeln!(text, "part {name} {length} {crc:08x} {file}");
        }
        for tenant in &self.purged {
            let _ = writeln!(text, "purged {tenant}");
        }
        text_file::sealed(text)
    }

    /// Answers the line that makes no sense.
    fn parse(body: &str) -> Result<Self, String> {
        let mut lineage = None;
        let (mut taken, mut through, mut state) = (None, None, None);
        let (mut segments, mut parts) = (Vec::new(), Vec::new());
        let mut purged = BTreeSet::new();
        for line in body.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let understood = match words[..] {
                ["taken", at] => set(&mut taken, at.parse().ok()),
                ["through", position] => set(&mut through, position.parse().ok()),
                ["state", position] => set(&mut state, position.parse().ok()),
                ["segment", number, salt, length, crc, holds, lost, file] => {
                    segment(&[number, salt, length, crc, holds, lost, file])
                        .map(|entry| segments.push(entry))
                }
                ["part", name, length, crc, file] => {
                    part(name, length, crc, file).map(|entry| parts.push(entry))
                }
                ["purged", tenant] => TenantId::from_str(tenant).ok().map(|tenant| {
                    purged.insert(tenant);
                }),
                _ => Lineage::read_line(&mut lineage, line),
            };
            understood.ok_or_else(|| line.to_owned())?;
        }
        let lacks = |what: &str| format!("{what} …");
        Ok(Self {
            lineage: lineage.ok_or_else(|| lacks("epoch"))?,
            taken: taken.ok_or_else(|| lacks("taken"))?,
            through: through.ok_or_else(|| lacks("through"))?,
            state,
            segments,
            parts,
            purged,
        })
    }
}

fn set<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    *slot = Some(value?);
    Some(())
}

fn segment(words: &[&str; 7]) -> Option<SegmentEntry> {
    Some(SegmentEntry {
        number: words[0].parse().ok()?,
        salt: u64::from_str_radix(words[1], 16).ok()?,
        length: words[2].parse().ok()?,
        crc: u32::from_str_radix(words[3], 16).ok()?,
        holds: u32::from_str_radix(words[4], 16).ok()?,
        lost: words[5].parse().ok()?,
        file: file_name(words[6])?,
    })
}

fn part(name: &str, length: &str, crc: &str, file: &str) -> Option<PartEntry> {
    Some(PartEntry {
        name: file_name(name)?,
        length: length.parse().ok()?,
        crc: u32::from_str_radix(crc, 16).ok()?,
        file: file_name(file)?,
    })
}

/// A name that leads nowhere else.
pub(super) fn file_name(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let sound = !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
    sound.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use tidings_protocol::Epoch;

    use super::*;
    use crate::storage::FileStorage;

    fn example() -> Manifest {
        Manifest {
            lineage: Lineage::of(Epoch(9)).forked(4),
            taken: -5,
            through: 77,
            state: Some(70),
            segments: vec![SegmentEntry {
                number: 3,
                salt: u64::MAX,
                length: 4096,
                crc: 1,
                holds: u32::MAX,
                lost: 2,
                file: "segment-0000000003-1".to_owned(),
            }],
            parts: vec![PartEntry {
                name: "meta.redb".to_owned(),
                length: 12,
                crc: 5,
                file: "meta.redb-4".to_owned(),
            }],
            purged: BTreeSet::from([TenantId::from_bytes([4; 16])]),
        }
    }

    #[test]
    fn it_reads_back_as_it_was_written_and_outlives_damage_to_one_of_its_copies() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::existing(folder.path()).unwrap();
        assert!(matches!(Manifest::read(&storage), Err(NoManifest::Missing)));
        let manifest = example();
        assert_eq!(manifest.generation(), 4);
        manifest.write(&storage).unwrap();
        assert_eq!(Manifest::read(&storage).unwrap(), manifest);
        let path = folder.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Manifest::read(&storage).unwrap(), manifest, "byte {at}");
        }
        std::fs::remove_file(folder.path().join(SECOND_FILE)).unwrap();
        assert!(matches!(
            Manifest::read(&storage),
            Err(NoManifest::Damaged(_))
        ));
    }

    #[test]
    fn a_newer_manifest_is_told_from_a_damaged_one_and_names_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::existing(folder.path()).unwrap();
        let newer = text_file::sealed("tidings-backup 9\n".to_owned());
        text_file::write(&storage, FILE, &newer).unwrap();
        match Manifest::read(&storage) {
            Err(NoManifest::Newer(title)) => assert_eq!(title, "tidings-backup 9"),
            other => panic!("{other:?}"),
        }
        for name in ["", ".", "..", "../x", "a/b", ".hidden"] {
            assert_eq!(file_name(name), None, "{name}");
        }
    }
}
