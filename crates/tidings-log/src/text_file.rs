//! Small text files that are there whole or not at all, with a checksum in their last line.

use std::io;

use crate::storage::{OpenMode, Storage, read_exact_at};

/// Larger is none of ours.
const LARGEST: u64 = 256 << 20;

/// A text with its checksum behind it.
pub(crate) fn sealed(mut text: String) -> String {
    use std::fmt::Write as _;

    let crc = crc32fast::hash(text.as_bytes());
    let _ = writeln!(text, "crc {crc:08x}");
    text
}

/// The text before the checksum, where that holds.
pub(crate) fn unsealed(text: &str) -> Option<&str> {
    let line = text.strip_suffix('\n')?;
    let begin = line.rfind('\n')? + 1;
    let (body, seal) = text.split_at(begin);
    (seal == format!("crc {:08x}\n", crc32fast::hash(body.as_bytes()))).then_some(body)
}

/// Makes a file durable under its name, whole or not at all.
pub(crate) fn write(storage: &dyn Storage, name: &str, text: &str) -> io::Result<()> {
    let fresh = format!("{name}.new");
    let file = storage.open(&fresh, OpenMode::Create)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync_data()?;
    storage.rename(&fresh, name)?;
    storage.sync_folder("")
}

/// Reads a file; `None` where there is none.
pub(crate) fn read(storage: &dyn Storage, name: &str) -> io::Result<Option<String>> {
    let file = match storage.open(name, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.len()?.min(LARGEST);
    let mut bytes = vec![0; usize::try_from(length).expect("bounded")];
    read_exact_at(&*file, &mut bytes, 0)?;
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

/// Whether a file exists.
pub(crate) fn exists(storage: &dyn Storage, name: &str) -> io::Result<bool> {
    match storage.open(name, OpenMode::Read) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
