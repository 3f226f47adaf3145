//! A folder in memory, behind the log's file seam: nothing of an input touches a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tidings_log::storage::{LockError, OpenMode, Storage, StorageFile};

/// The content of a file; handles that are open keep it when its name goes.
#[derive(Debug, Default)]
struct Content(Mutex<Vec<u8>>);

impl Content {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no holder panics")
    }
}

/// The folder.
#[derive(Default)]
pub struct Disk {
    files: Mutex<BTreeMap<String, Arc<Content>>>,
    folders: Mutex<BTreeSet<String>>,
}

impl Disk {
    /// A folder with these files, and the folders that their names speak of.
    pub fn of(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::default();
        for (name, bytes) in files {
            if let Some((folder, _)) = name.rsplit_once('/') {
                disk.folders().insert(folder.to_owned());
            }
            let content = Content(Mutex::new(bytes.clone()));
            disk.files().insert(name.clone(), Arc::new(content));
        }
        disk
    }

    /// What every file holds.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files();
        let copied = files
            .iter()
            .map(|(name, content)| (name.clone(), content.bytes().clone()));
        copied.collect()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Content>>> {
        self.files.lock().expect("no holder panics")
    }

    fn folders(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.folders.lock().expect("no holder panics")
    }
}

impl Storage for Disk {
    fn lock(&self, _name: &str, _owner: &str) -> Result<Box<dyn Send + Sync>, LockError> {
        Ok(Box::new(()))
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut files = self.files();
        let content = match (files.get(name), mode) {
            (Some(content), OpenMode::Create) => {
                content.bytes().clear();
                Arc::clone(content)
            }
            (Some(content), _) => Arc::clone(content),
            (None, OpenMode::Create) => {
                let content = Arc::new(Content::default());
                files.insert(name.to_owned(), Arc::clone(&content));
                content
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(content)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        if !folder.is_empty() && !self.folders().contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let prefix = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        let files = self.files();
        let names = files
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .filter(|name| !name.contains('/'));
        Ok(names.map(str::to_owned).collect())
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        self.folders().insert(name.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.files().remove(name);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A length or offset within the file; the log asks for no other.
fn place(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl StorageFile for Content {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let rest = bytes.get(place(offset)?..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let start = place(offset)?;
        let mut bytes = self.bytes();
        if bytes.len() < start + written.len() {
            bytes.resize(start + written.len(), 0);
        }
        bytes[start..start + written.len()].copy_from_slice(written);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let length = place(length)?;
        let mut bytes = self.bytes();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.bytes().resize(place(length)?, 0);
        Ok(())
    }
}
