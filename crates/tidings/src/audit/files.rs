//! Two rings of files: what was changed, of which a quarter of the bytes is kept, and all else. A ring is files of
//! NDJSON that are named for their first entry; when there are too many bytes the oldest goes. Changes have a ring of
//! their own, so that nobody turns them over by opening streams.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidings_protocol::TenantId;
use tidings_protocol::audit::AuditEntry;

use super::is_for;

const CHANGES: &str = "changes";
const ACCESS: &str = "access";

/// A ring has about so many files.
const FILES: u64 = 8;

/// The most bytes of a page.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The longest line that is read, in bytes; ours are far shorter.
const LONGEST_LINE: u64 = 64 * 1024;

/// Both rings; cheap to clone.
#[derive(Clone)]
pub(super) struct Rings {
    folder: Arc<Path>,
    most_bytes: u64,
}

/// One ring, to be written.
pub(super) struct Ring {
    folder: Arc<Path>,
    name: &'static str,
    file_bytes: u64,
    open: Option<(File, u64)>,
    is_dirty: bool,
}

/// Which entries are asked for.
#[derive(Clone, Debug, Default)]
pub struct PageRequest {
    /// Only those behind this one.
    pub after: u64,
    /// Only those up to this one, exclusively.
    pub before: Option<u64>,
    /// Only what this tenant's operators may see.
    pub operator_of: Option<TenantId>,
    /// Only those of this tenant.
    pub tenant: Option<TenantId>,
    /// At most so many.
    pub limit: usize,
}

/// Entries as lines, each with its line break, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The lines.
    pub lines: Vec<u8>,
    /// The last entry of the page; `None` where it has none.
    pub last: Option<u64>,
    /// Whether there may be more behind it.
    pub more: bool,
}

impl Rings {
    pub(super) fn open(folder: &Path, most_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.into(),
            most_bytes,
        })
    }

    /// Both to be written, the changes first, and the number of the last entry.
    pub(super) fn writers(&self) -> io::Result<(Ring, Ring, u64)> {
        let last = self.last()?;
        let ring = |name, bytes: u64| Ring {
            folder: Arc::clone(&self.folder),
            name,
            file_bytes: (bytes / FILES).max(1),
            open: None,
            is_dirty: false,
        };
        Ok((
            ring(CHANGES, self.budget(CHANGES)),
            ring(ACCESS, self.budget(ACCESS)),
            last,
        ))
    }

    fn budget(&self, name: &str) -> u64 {
        let of_changes = self.most_bytes / 4;
        if name == CHANGES {
            of_changes
        } else {
            self.most_bytes - of_changes
        }
    }

    /// The files of a ring, the oldest first: the number that each begins at or behind, and its path.
    fn files(&self, name: &str) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let stem = path.file_name().and_then(|name| name.to_str());
            let number = stem
                .and_then(|stem| stem.strip_prefix(name)?.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(".ndjson")?.parse().ok());
            files.extend(number.map(|number| (number, path)));
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Removes what is too much.
    pub(super) fn trim(&self) -> io::Result<()> {
        for name in [CHANGES, ACCESS] {
            let files = self.files(name)?;
            let mut bytes = 0;
            // The newest stays, however large it is.
            for (index, (_, path)) in files.iter().rev().enumerate() {
                bytes += std::fs::metadata(path)?.len();
                if index > 0 && bytes > self.budget(name) {
                    std::fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    fn last(&self) -> io::Result<u64> {
        let mut last = 0;
        for name in [CHANGES, ACCESS] {
            let Some((number, path)) = self.files(name)?.pop() else {
                continue;
            };
            last = last.max(number);
            visit(&path, &mut |entry, _| {
                last = last.max(entry.id);
                true
            })?;
        }
        Ok(last)
    }

    /// A page of both rings together.
    pub(super) fn page(&self, request: &PageRequest) -> io::Result<AuditPage> {
        let mut found = Vec::new();
        // What one ring has behind this is not compared with the other.
        let mut complete_to = u64::MAX;
        for name in [CHANGES, ACCESS] {
            let (of_ring, ends) = self.matching(name, request)?;
            if let Some(end) = ends {
                complete_to = complete_to.min(end);
            }
            found.extend(of_ring);
        }
        found.sort_unstable_by_key(|(id, _)| *id);
        let all = found.len();
        found.retain(|(id, _)| *id <= complete_to);
        found.truncate(request.limit);
        Ok(AuditPage {
            last: found.last().map(|(id, _)| *id),
            more: found.len() < all || complete_to < u64::MAX,
            lines: found.into_iter().flat_map(|(_, line)| line).collect(),
        })
    }

    /// The entries of a ring that are asked for, and where there are more than fit, the last of them.
    #[expect(clippy::type_complexity, reason = "two answers, used once")]
    fn matching(
        &self,
        name: &str,
        request: &PageRequest,
    ) -> io::Result<(Vec<(u64, Vec<u8>)>, Option<u64>)> {
        let files = self.files(name)?;
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for (index, (_, path)) in files.iter().enumerate() {
            // Everything in a file is before what the next begins with.
            let next = files.get(index + 1).map(|(number, _)| *number);
            if next.is_some_and(|next| next <= request.after) {
                continue;
            }
            let mut is_full = false;
            let visited = visit(path, &mut |entry, line| {
                if request.before.is_some_and(|before| entry.id >= before) {
                    return false;
                }
                let wanted = entry.id > request.after
                    && request
                        .tenant
                        .is_none_or(|tenant| entry.tenant_id == Some(tenant))
                    && request
                        .operator_of
                        .is_none_or(|tenant| is_for(&entry, tenant));
                if wanted {
                    if found.len() == request.limit || bytes > PAGE_BYTES {
                        is_full = true;
                        return false;
                    }
                    bytes += line.len();
                    found.push((entry.id, line.to_vec()));
                }
                true
            });
            match visited {
                Ok(()) => {}
                // It went while it was looked at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if is_full {
                let last = found.last().map(|(id, _)| *id);
                return Ok((found, last));
            }
        }
        Ok((found, None))
    }
}

/// Shows the entries of a file until that is enough. A line that is none, such as one that a crash cut off, is passed
/// over.
fn visit(path: &Path, see: &mut impl FnMut(AuditEntry, &[u8]) -> bool) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut file, LONGEST_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let is_whole = line.last() == Some(&b'\n');
        if let Ok(entry) = serde_json::from_slice(&line)
            && is_whole
            && !see(entry, &line)
        {
            return Ok(());
        }
    }
}

impl Ring {
    /// Appends lines, of which the first is not before `first`. Whether a file more is there now.
    pub(super) fn append(&mut self, lines: &[u8], first: u64) -> io::Result<bool> {
        if lines.is_empty() {
            return Ok(false);
        }
        if self
            .open
            .as_ref()
            .is_some_and(|(_, bytes)| *bytes >= self.file_bytes)
        {
            self.sync()?;
            self.open = None;
        }
        let is_new = self.open.is_none();
        let (file, bytes) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(create(&self.folder, self.name, first)?),
        };
        if let Err(error) = file.write_all(lines) {
            // No half line before the next one.
            let _ = file
                .set_len(*bytes)
                .and_then(|()| file.seek(SeekFrom::End(0)));
            return Err(error);
        }
        *bytes += lines.len() as u64;
        self.is_dirty = true;
        Ok(is_new)
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some((file, _)) = self.open.as_ref().filter(|_| self.is_dirty) {
            file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

fn create(folder: &Path, name: &str, first: u64) -> io::Result<(File, u64)> {
    let path = folder.join(format!("{name}-{first:020}.ndjson"));
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    File::open(folder)?.sync_all()?;
    Ok((file, bytes))
}
