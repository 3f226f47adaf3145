//! Memory to read into, kept from one read to the next by each thread that reads.

use std::cell::Cell;
use std::io;
use std::ops::Deref;

thread_local! {
    /// What the thread's last read has left: zeroing a megabyte for each would cost as much as
    /// reading it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A larger buffer is not kept.
const KEPT: usize = 1 << 20;

/// Bytes of a file. All that lies behind those that were read is leftover.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    read: usize,
}

impl ReadBuffer {
    /// An empty one, with the thread's memory.
    pub(crate) fn of_thread() -> Self {
        Self {
            bytes: SPARE.take(),
            read: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.read = 0;
    }

    /// Replaces what it holds by what `read` brings, up to `length` bytes; it is empty after an error.
    pub(crate) fn fill(
        &mut self,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read = 0;
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        self.read = read(&mut self.bytes[..length])?;
        Ok(())
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.read]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if !self.bytes.is_empty() && self.bytes.len() <= KEPT {
            SPARE.set(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_never_shows_what_an_earlier_one_has_left() {
        let mut first = ReadBuffer::of_thread();
        first
            .fill(8, |room| {
                room.copy_from_slice(b"a secret");
                Ok(8)
            })
            .unwrap();
        assert_eq!(&*first, b"a secret");
        drop(first);
        let mut second = ReadBuffer::of_thread();
        assert!(second.is_empty());
        second
            .fill(6, |room| {
                room[..3].copy_from_slice(b"new");
                Ok(3)
            })
            .unwrap();
        assert_eq!(&*second, b"new");
        let failed = second.fill(4, |_| Err(io::ErrorKind::TimedOut.into()));
        assert!(failed.is_err() && second.is_empty());
    }
}
