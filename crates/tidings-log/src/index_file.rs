//! The index of a sealed segment, on disk.
//!
//! It holds nothing that a scan of the segment would not find, so a missing or damaged one is
//! built anew. It is written under another name, synced and renamed.
//!
//! | offset | bytes | header |
//! | --- | --- | --- |
//! | 0 | 8 | `tidlogix` |
//! | 8 | 4 | version, 2 (1 had no numbers of events and no first positions and times) |
//! | 12 | 4 | CRC-32 of the bytes from 16 to 216 |
//! | 16 | 8 | number of the segment |
//! | 24 | 8 | salt of the segment |
//! | 32 | 96 | [`Summary`], its twelve numbers in their order |
//! | 128 | 24 | lost stretches: offset, count, CRC-32 |
//! | 152 | 24 | steps: offset, count, CRC-32 |
//! | 176 | 16 | directory: offset, count |
//! | 192 | 24 | stretches that are no frames: offset, count, CRC-32 |
//!
//! A lost stretch is its first and last position, one that is no frame the offsets of its beginning
//! and end. A step is position, offset, append time and run
//! time. The directory is sorted by tenant, so that one tenant is found without reading the others;
//! its entries carry a CRC each, therefore:
//!
//! | offset | bytes | entry |
//! | --- | --- | --- |
//! | 0 | 16 | tenant |
//! | 16 | 8 | last position |
//! | 24 | 8 | bytes of the tenant's frames |
//! | 32 | 8 | offset of the list of its frames |
//! | 40 | 8 | first position |
//! | 48 | 8 | number of events |
//! | 56 | 8 | append time of the first frame |
//! | 64 | 4 | length of the list in bytes |
//! | 68 | 4 | number of frames |
//! | 72 | 4 | CRC-32 of the list |
//! | 76 | 4 | CRC-32 of the bytes before |
//!
//! A list of frames is, per frame, four LEB128 numbers: positions since the end of the frame before
//! it, number of events, bytes (in units of 8) since its end, bytes (likewise).

use std::io;
use std::sync::Arc;

use tidings_protocol::TenantId;

use crate::event::Lost;
use crate::format::{ALIGN, get_u32, get_u64, index_name, put_u32, put_u64};
use crate::index::{DirectoryEntry, FramePlace, MemoryIndex, Step, Summary, TenantFrames};
use crate::storage::{OpenMode, Storage, StorageFile, read_exact_at};

const MAGIC: [u8; 8] = *b"tidlogix";
const VERSION: u32 = 2;
const HEADER: usize = 216;
const ENTRY: usize = 80;

/// Writes the index of a sealed segment.
pub(crate) fn write(
    storage: &dyn Storage,
    number: u64,
    salt: u64,
    index: &MemoryIndex,
) -> io::Result<()> {
    let name = index_name(number);
    let fresh = format!("{name}.new");
    let file = storage.open(&fresh, OpenMode::Create)?;
    file.write_at(&encode(number, salt, index), 0)?;
    file.sync_data()?;
    storage.rename(&fresh, &name)?;
    storage.sync_folder(crate::format::SEGMENTS)
}

fn encode(number: u64, salt: u64, index: &MemoryIndex) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    put_u32(&mut bytes, 8, VERSION);
    put_u64(&mut bytes, 16, number);
    put_u64(&mut bytes, 24, salt);
    for (place, value) in summary_numbers(&index.summary).into_iter().enumerate() {
        put_u64(&mut bytes, 32 + 8 * place, value);
    }
    let lost: Vec<u8> = index
        .lost
        .iter()
        .flat_map(|lost| [lost.first, lost.last])
        .flat_map(u64::to_le_bytes)
        .collect();
    let skips: Vec<u8> = index
        .skips
        .iter()
        .flat_map(|(from, to)| [*from, *to])
        .flat_map(u64::to_le_bytes)
        .collect();
    let steps: Vec<u8> = index
        .steps
        .iter()
        .flat_map(|step| {
            let times = [step.appended_at, step.run_time].map(i64::cast_unsigned);
            [step.position, step.offset, times[0], times[1]]
        })
        .flat_map(u64::to_le_bytes)
        .collect();
    put_section(&mut bytes, 128, &lost, index.lost.len());
    put_section(&mut bytes, 152, &steps, index.steps.len());
    put_section(&mut bytes, 192, &skips, index.skips.len());

    let mut tenants: Vec<_> = index.tenants.iter().collect();
    tenants.sort_unstable_by_key(|(tenant, _)| **tenant);
    let mut directory = Vec::with_capacity(tenants.len() * ENTRY);
    for (tenant, frames) in tenants {
        let Some(entry) = frames.entry(*tenant) else {
            continue;
        };
        let offset = bytes.len();
        encode_frames(&frames.frames, &mut bytes);
        let count = frames.frames.len();
        directory.extend_from_slice(&encode_entry(&entry, count, offset, &bytes[offset..]));
    }
    let at = bytes.len() as u64;
    put_u64(&mut bytes, 176, at);
    put_u64(&mut bytes, 184, (directory.len() / ENTRY) as u64);
    bytes.extend_from_slice(&directory);
    let crc = crc32fast::hash(&bytes[16..HEADER]);
    put_u32(&mut bytes, 12, crc);
    bytes
}

fn put_section(bytes: &mut Vec<u8>, at: usize, section: &[u8], count: usize) {
    let offset = bytes.len() as u64;
    put_u64(bytes, at, offset);
    put_u64(bytes, at + 8, count as u64);
    put_u64(bytes, at + 16, u64::from(crc32fast::hash(section)));
    bytes.extend_from_slice(section);
}

fn encode_entry(entry: &DirectoryEntry, count: usize, offset: usize, list: &[u8]) -> [u8; ENTRY] {
    let small = |value: usize| u32::try_from(value).expect("a segment's index is below 4 GiB");
    let mut bytes = [0; ENTRY];
    bytes[..16].copy_from_slice(entry.tenant.as_bytes());
    put_u64(&mut bytes, 16, entry.last);
    put_u64(&mut bytes, 24, entry.bytes);
    put_u64(&mut bytes, 32, offset as u64);
    put_u64(&mut bytes, 40, entry.first);
    put_u64(&mut bytes, 48, entry.events);
    put_u64(&mut bytes, 56, entry.first_at.cast_unsigned());
    put_u32(&mut bytes, 64, small(list.len()));
    put_u32(&mut bytes, 68, small(count));
    put_u32(&mut bytes, 72, crc32fast::hash(list));
    let crc = crc32fast::hash(&bytes[..76]);
    put_u32(&mut bytes, 76, crc);
    bytes
}

fn encode_frames(frames: &[FramePlace], bytes: &mut Vec<u8>) {
    let (mut position, mut offset) = (0, 0);
    for frame in frames {
        put_varint(bytes, frame.position - position);
        put_varint(bytes, u64::from(frame.count));
        put_varint(bytes, (frame.offset() - offset) / ALIGN);
        put_varint(bytes, frame.length() / ALIGN);
        position = frame.last() + 1;
        offset = frame.end();
    }
}

fn decode_frames(mut list: &[u8], count: u32) -> Option<Vec<FramePlace>> {
    let (mut position, mut offset) = (0_u64, 0_u64);
    let mut frames = Vec::with_capacity(count as usize);
    for _ in 0..count {
        position = position.checked_add(get_varint(&mut list)?)?;
        let events = u32::try_from(get_varint(&mut list)?).ok()?;
        offset = offset.checked_add(get_varint(&mut list)?.checked_mul(ALIGN)?)?;
        let length = get_varint(&mut list)?.checked_mul(ALIGN)?;
        let end = offset.checked_add(length)?;
        if events == 0 || u32::try_from(end / ALIGN).is_err() {
            return None;
        }
        frames.push(FramePlace::new(position, events, offset, length));
        position = position.checked_add(u64::from(events))?;
        offset = end;
    }
    list.is_empty().then_some(frames)
}

/// An index on disk. Its parts are read, and their checksums tested, when they are needed.
#[derive(Debug)]
pub(crate) struct DiskIndex {
    number: u64,
    pub(crate) summary: Summary,
    pub(crate) lost: Vec<Lost>,
    pub(crate) skips: Vec<(u64, u64)>,
    steps: (u64, u64, u64),
    directory: (u64, u64),
}

/// Where the list of a tenant's frames stands: offset, length in bytes, number of frames, CRC-32.
type List = (u64, u32, u32, u32);

impl DiskIndex {
    /// Reads the header of a segment's index. An index of another segment, or a damaged one, is an
    /// error of kind `InvalidData`.
    pub(crate) fn open(storage: &dyn Storage, number: u64, salt: u64) -> io::Result<Self> {
        let file = storage.open(&index_name(number), OpenMode::Read)?;
        let mut header = [0; HEADER];
        read_exact_at(&*file, &mut header, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("its header is cut off"),
            _ => error,
        })?;
        let sound = header[..8] == MAGIC
            && get_u32(&header, 8) == VERSION
            && get_u32(&header, 12) == crc32fast::hash(&header[16..]);
        if !sound {
            return Err(damaged("its header is damaged"));
        }
        if get_u64(&header, 16) != number || get_u64(&header, 24) != salt {
            return Err(damaged("it belongs to another segment"));
        }
        let section = |at: usize| [0, 8, 16].map(|further| get_u64(&header, at + further));
        let [offset, count, crc] = section(128);
        let lost = read_section(&*file, offset, count, 16, crc)?
            .chunks_exact(16)
            .map(|bytes| Lost {
                first: get_u64(bytes, 0),
                last: get_u64(bytes, 8),
            })
            .collect();
        let [offset, count, crc] = section(192);
        let skips = read_section(&*file, offset, count, 16, crc)?
            .chunks_exact(16)
            .map(|bytes| (get_u64(bytes, 0), get_u64(bytes, 8)))
            .collect();
        let steps = section(152);
        Ok(Self {
            number,
            summary: summary_of(&header),
            lost,
            skips,
            steps: steps.into(),
            directory: (get_u64(&header, 176), get_u64(&header, 184)),
        })
    }

    fn file(&self, storage: &dyn Storage) -> io::Result<Arc<dyn StorageFile>> {
        storage.open(&index_name(self.number), OpenMode::Read)
    }

    pub(crate) fn steps(&self, storage: &dyn Storage) -> io::Result<Vec<Step>> {
        let (offset, count, crc) = self.steps;
        let file = self.file(storage)?;
        Ok(read_section(&*file, offset, count, 32, crc)?
            .chunks_exact(32)
            .map(|bytes| Step {
                position: get_u64(bytes, 0),
                offset: get_u64(bytes, 8),
                appended_at: get_u64(bytes, 16).cast_signed(),
                run_time: get_u64(bytes, 24).cast_signed(),
            })
            .collect())
    }

    /// The whole directory, in the order of tenants.
    pub(crate) fn directory(&self, storage: &dyn Storage) -> io::Result<Vec<DirectoryEntry>> {
        let (offset, count) = self.directory;
        let length = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(ENTRY))
            .ok_or_else(|| damaged("its directory has no end"))?;
        let mut bytes = vec![0; length];
        read_exact_at(&*self.file(storage)?, &mut bytes, offset)?;
        let entries = bytes.chunks_exact(ENTRY);
        entries
            .map(|bytes| decode_entry(bytes).map(|(entry, _)| entry))
            .collect()
    }

    /// A tenant's frames; none where it has no events in the segment.
    pub(crate) fn tenant(
        &self,
        storage: &dyn Storage,
        tenant: TenantId,
    ) -> io::Result<TenantFrames> {
        let file = self.file(storage)?;
        let (offset, count) = self.directory;
        let (mut low, mut high) = (0, count);
        let mut bytes = [0; ENTRY];
        while low < high {
            let middle = low + (high - low) / 2;
            read_exact_at(&*file, &mut bytes, offset + middle * ENTRY as u64)?;
            let (entry, list) = decode_entry(&bytes)?;
            match entry.tenant.cmp(&tenant) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return read_frames(&*file, &entry, list),
            }
        }
        Ok(TenantFrames::default())
    }

    /// Reads all of it, to compare it with what a scan finds.
    pub(crate) fn load(&self, storage: &dyn Storage) -> io::Result<MemoryIndex> {
        let file = self.file(storage)?;
        let mut index = MemoryIndex {
            summary: self.summary,
            steps: self.steps(storage)?,
            lost: self.lost.clone(),
            skips: self.skips.clone(),
            ..MemoryIndex::default()
        };
        let (offset, count) = self.directory;
        let mut bytes = [0; ENTRY];
        for place in 0..count {
            read_exact_at(&*file, &mut bytes, offset + place * ENTRY as u64)?;
            let (entry, list) = decode_entry(&bytes)?;
            let frames = read_frames(&*file, &entry, list)?;
            index.tenants.insert(entry.tenant, frames);
        }
        Ok(index)
    }
}

fn read_frames(
    file: &dyn StorageFile,
    entry: &DirectoryEntry,
    (offset, length, count, crc): List,
) -> io::Result<TenantFrames> {
    let mut list = vec![0; length as usize];
    read_exact_at(file, &mut list, offset)?;
    if crc32fast::hash(&list) != crc {
        return Err(damaged("a list of frames is damaged"));
    }
    let frames =
        decode_frames(&list, count).ok_or_else(|| damaged("a list of frames makes no sense"))?;
    Ok(TenantFrames {
        frames,
        bytes: entry.bytes,
        first_at: entry.first_at,
    })
}

fn decode_entry(bytes: &[u8]) -> io::Result<(DirectoryEntry, List)> {
    if get_u32(bytes, 76) != crc32fast::hash(&bytes[..76]) {
        return Err(damaged("an entry of its directory is damaged"));
    }
    let entry = DirectoryEntry {
        tenant: TenantId::from_bytes(bytes[..16].try_into().expect("16 bytes")),
        first: get_u64(bytes, 40),
        last: get_u64(bytes, 16),
        events: get_u64(bytes, 48),
        bytes: get_u64(bytes, 24),
        first_at: get_u64(bytes, 56).cast_signed(),
    };
    let list = (
        get_u64(bytes, 32),
        get_u32(bytes, 64),
        get_u32(bytes, 68),
        get_u32(bytes, 72),
    );
    Ok((entry, list))
}

fn read_section(
    file: &dyn StorageFile,
    offset: u64,
    count: u64,
    size: usize,
    crc: u64,
) -> io::Result<Vec<u8>> {
    let length = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(size))
        .ok_or_else(|| damaged("a section has no end"))?;
    let mut bytes = vec![0; length];
    read_exact_at(file, &mut bytes, offset)?;
    if u64::from(crc32fast::hash(&bytes)) != crc {
        return Err(damaged("a section is damaged"));
    }
    Ok(bytes)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether an index has to be built anew, rather than read again later.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    )
}

fn summary_numbers(summary: &Summary) -> [u64; 12] {
    [
        summary.follows,
        summary.first,
        summary.last,
        summary.reached,
        summary.events,
        summary.frames,
        summary.first_time.cast_unsigned(),
        summary.last_time.cast_unsigned(),
        summary.first_run.cast_unsigned(),
        summary.last_run.cast_unsigned(),
        summary.end,
        summary.next,
    ]
}

fn summary_of(header: &[u8; HEADER]) -> Summary {
    let number = |place: usize| get_u64(header, 32 + 8 * place);
    Summary {
        follows: number(0),
        first: number(1),
        last: number(2),
        reached: number(3),
        events: number(4),
        frames: number(5),
        first_time: number(6).cast_signed(),
        last_time: number(7).cast_signed(),
        first_run: number(8).cast_signed(),
        last_run: number(9).cast_signed(),
        end: number(10),
        next: number(11),
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
}

fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_of_frames_reads_back(
            gaps in prop::collection::vec((0..1_000_u64, 1..100_u32, 0..1_000_u64, 1..1_000_u64), 0..50)
        ) {
            let (mut position, mut offset) = (1, 512);
            let mut frames = Vec::new();
            for (skipped, count, bytes, length) in gaps {
                position += skipped;
                offset += bytes;
                frames.push(FramePlace::new(position, count, offset * 8, length * 8));
                position += u64::from(count);
                offset += length;
            }
            let mut list = Vec::new();
            encode_frames(&frames, &mut list);
            let count = u32::try_from(frames.len()).unwrap();
            prop_assert_eq!(decode_frames(&list, count), Some(frames));
        }

        #[test]
        fn reading_a_list_never_panics(list in prop::collection::vec(any::<u8>(), 0..64), count in 0..20_u32) {
            if let Some(frames) = decode_frames(&list, count) {
                prop_assert_eq!(frames.len(), count as usize);
            }
        }
    }
}
