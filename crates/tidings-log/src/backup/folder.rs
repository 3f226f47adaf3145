//! The folder of a backup: what is there, what goes, and its segments as those of a log.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::manifest::{self, FILES, Manifest, NoManifest, SECOND_FILE};
use super::{BackupError, io_error};
use crate::format::{FORMAT, LOCK, SEGMENTS};
use crate::lineage::Lineage;
use crate::storage::{OpenMode, Storage, StorageFile};
use crate::text_file;

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// The name of one of its files.
pub(super) fn place(file: &str) -> String {
    format!("{FILES}/{file}")
}

/// Refuses a folder that is a log's.
pub(super) fn refuse_log(target: &dyn Storage, path: &Path) -> Result<(), BackupError> {
    for name in [FORMAT, SEGMENTS] {
        let doing = || io_error(format!("looking into {}", path.display()));
        let there = if name == SEGMENTS {
            match target.list(name) {
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(doing()(error)),
            }
        } else {
            text_file::exists(target, name).map_err(doing())?
        };
        if there {
            return Err(BackupError::Target {
                path: path.to_owned(),
                what: "it holds a log; name an empty folder".to_owned(),
            });
        }
    }
    Ok(())
}

/// The backup that a folder holds, which must be one of this log or of one that it descends from; `None` where
/// the folder is empty, or an attempt to make the first one was cut off.
pub(super) fn previous(
    target: &dyn Storage,
    path: &Path,
    lineage: &Lineage,
) -> Result<Option<Manifest>, BackupError> {
    let refuse = |what: String| BackupError::Target {
        path: path.to_owned(),
        what,
    };
    match Manifest::read(target) {
        Ok(manifest) if lineage.has(manifest.lineage.epoch()) => Ok(Some(manifest)),
        Ok(manifest) => Err(refuse(format!(
            "it holds a backup of another log, of epoch {}; name another folder",
            manifest.lineage.epoch()
        ))),
        Err(NoManifest::Newer(title)) => Err(refuse(format!(
            "it holds a backup that a newer version of Tidings has made ({title})"
        ))),
        Err(NoManifest::Damaged(what)) => Err(refuse(format!(
            "it holds a backup that is damaged ({what}); name another folder"
        ))),
        Err(NoManifest::Io(error)) => Err(io_error("reading BACKUP")(error)),
        Err(NoManifest::Missing) => {
            let names = target
                .list("")
                .map_err(io_error(format!("looking into {}", path.display())))?;
            let ours = [
                LOCK,
                FILES,
                SECOND_FILE,
                "BACKUP.new",
                "BACKUP.copy.new",
                "lost+found",
            ];
            match names.iter().find(|name| !ours.contains(&name.as_str())) {
                None => Ok(None),
                Some(name) => Err(refuse(format!(
                    "it holds something else ({name}); name an empty folder"
                ))),
            }
        }
    }
}

/// Removes files that do not belong to a backup; what can't be removed goes another time.
pub(super) fn remove_others(target: &dyn Storage, kept: &[&Manifest]) {
    let kept: HashSet<&str> = kept.iter().flat_map(|manifest| manifest.files()).collect();
    let names = target.list(FILES).unwrap_or_default();
    for name in names.iter().filter(|name| !kept.contains(name.as_str())) {
        if let Err(error) = target.remove(&place(name)) {
            tracing::warn!(name, %error, "removing a file that the backup does not need any more");
        }
    }
    let _ = target.sync_folder(FILES);
}

/// Writes one of its files, durably.
pub(super) fn write(target: &dyn Storage, file: &str, content: &[u8]) -> io::Result<()> {
    let to = target.open(&place(file), OpenMode::Create)?;
    to.write_at(content, 0)?;
    to.sync_data()
}

/// Copies one of its files to another, durably.
pub(super) fn duplicate(target: &dyn Storage, file: &str, copy: &str) -> io::Result<()> {
    let from = target.open(&place(file), OpenMode::Read)?;
    let to = target.open(&place(copy), OpenMode::Create)?;
    let mut offset = 0;
    read_through(&*from, &mut |bytes| {
        to.write_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok(())
    })?;
    to.sync_data()
}

/// The length and the CRC-32 of one of its files.
pub(super) fn checksum(target: &dyn Storage, file: &str) -> io::Result<(u64, u32)> {
    let from = target.open(&place(file), OpenMode::Read)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut length = 0;
    read_through(&*from, &mut |bytes| {
        hasher.update(bytes);
        length += bytes.len() as u64;
        Ok(())
    })?;
    Ok((length, hasher.finalize()))
}

/// Reads a file from its beginning to its end.
fn read_through(
    file: &dyn StorageFile,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(());
        }
        take(&buffer[..read])?;
        offset += read as u64;
    }
}

/// A backup's segments under the names that they have in a log, to be read.
pub(crate) struct BackupFolder<'s> {
    storage: &'s dyn Storage,
    pub(super) manifest: Manifest,
}

impl<'s> BackupFolder<'s> {
    /// The backup in a folder; says what it is that is there otherwise.
    pub(crate) fn open(storage: &'s dyn Storage) -> Result<Self, String> {
        match Manifest::read(storage) {
            Ok(manifest) => Ok(Self { storage, manifest }),
            Err(NoManifest::Missing) => Err(format!(
                "it holds no finished backup: there is no file {}",
                manifest::FILE
            )),
            Err(NoManifest::Damaged(what)) => Err(format!("the backup is damaged: {what}")),
            Err(NoManifest::Newer(title)) => Err(format!(
                "a newer version of Tidings has made the backup ({title}): use that"
            )),
            Err(NoManifest::Io(error)) => Err(error.to_string()),
        }
    }

    /// The lineage of the log that it is a backup of.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.manifest.lineage
    }

    /// The numbers of its segments, ascending.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let segments = self.manifest.segments.iter();
        segments.map(|entry| entry.number).collect()
    }

    /// A segment's file and its salt.
    pub(crate) fn segment(&self, number: u64) -> io::Result<(Arc<dyn StorageFile>, u64)> {
        let mut segments = self.manifest.segments.iter();
        let entry = segments.find(|entry| entry.number == number);
        let entry = entry.ok_or(io::ErrorKind::NotFound)?;
        let file = self.storage.open(&place(&entry.file), OpenMode::Read)?;
        Ok((file, entry.salt))
    }

    /// What is wrong with its files as such: the name, and what.
    pub(crate) fn damaged_files(&self) -> Vec<(String, String)> {
        let segments = self.manifest.segments.iter();
        let segments = segments.map(|entry| (&entry.file, entry.length, entry.crc));
        let parts = self.manifest.parts.iter();
        let parts = parts.map(|entry| (&entry.file, entry.length, entry.crc));
        segments
            .chain(parts)
            .filter_map(|(file, length, crc)| {
                let what = match checksum(self.storage, file) {
                    Ok(found) if found == (length, crc) => return None,
                    Ok((found, _)) if found != length => {
                        format!("it has {found} bytes; {length} were written")
                    }
                    Ok(_) => "it is not what was written".to_owned(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        "it is missing".to_owned()
                    }
                    Err(error) => format!("it can't be read: {error}"),
                };
                Some((place(file), what))
            })
            .collect()
    }

    /// The content of a file of the log's folder that is no segment, from whichever copy is sound; `None` where
    /// the backup has none.
    pub(crate) fn part(&self, name: &str) -> Option<Result<Vec<u8>, String>> {
        let mut entries = self
            .manifest
            .parts
            .iter()
            .filter(|entry| entry.name == name);
        let first = entries.next()?;
        let copies = std::iter::once(first).chain(entries);
        let mut what = String::new();
        for entry in copies {
            let mut content = Vec::new();
            let read = self
                .storage
                .open(&place(&entry.file), OpenMode::Read)
                .and_then(|file| {
                    read_through(&*file, &mut |bytes| {
                        content.extend_from_slice(bytes);
                        Ok(())
                    })
                });
            match read {
                Ok(()) if crc32fast::hash(&content) == entry.crc => return Some(Ok(content)),
                Ok(()) => what = format!("{} is not what was written", entry.file),
                Err(error) => what = format!("{}: {error}", entry.file),
            }
        }
        Some(Err(what))
    }

    /// The names of those files, each once.
    pub(crate) fn part_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for entry in &self.manifest.parts {
            if !names.contains(&entry.name) {
                names.push(entry.name.clone());
            }
        }
        names
    }
}

impl BackupFolder<'_> {
    /// The name of a segment's file, for messages.
    pub(crate) fn shown_name(&self, number: u64) -> String {
        let mut segments = self.manifest.segments.iter();
        segments
            .find(|entry| entry.number == number)
            .map_or_else(|| number.to_string(), |entry| place(&entry.file))
    }
}
