//! The file that bodies are made durable in.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Large enough that wrapping is rare, small enough that writing the zeros takes a moment.
const CAPACITY: usize = 128 << 20;

/// A preallocated file, written round and round. Its blocks are written once before use, so that a
/// sync has no metadata to write: the least that durability can cost.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    offset: usize,
}

impl Journal {
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let path = directory.join("floor.journal");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..CAPACITY).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset as u64)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    /// Writes `group` and returns when it survives the loss of the machine.
    pub(crate) fn append(&mut self, group: &[u8]) -> Result<()> {
        ensure!(
            group.len() <= CAPACITY,
            "a group of bodies is larger than the journal"
        );
        if self.offset + group.len() > CAPACITY {
            self.offset = 0;
        }
        self.file.write_all_at(group, self.offset as u64)?;
        self.file.sync_data()?;
        self.offset += group.len();
        Ok(())
    }
}
