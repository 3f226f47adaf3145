//! Chunked bodies (RFC 9112, section 7.1), as streams of some servers are.

use anyhow::{Context as _, Result, ensure};

/// More hexadecimal digits no chunk of a stream has.
const SIZE_DIGITS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// Within the line that says the size.
    #[default]
    Size,
    /// What follows the size on its line.
    Extension,
    Data,
    /// The line end behind the data.
    End,
    /// The chunk of no bytes has come.
    Over,
}

/// Where in a chunked body its reader is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chunks {
    at: At,
    digits: usize,
    left: usize,
}

impl Chunks {
    /// Appends what the chunks in `bytes` hold to `plain`.
    pub(crate) fn decode(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<()> {
        let mut rest = bytes;
        while let Some((&first, behind)) = rest.split_first() {
            match self.at {
                At::Size if first.is_ascii_hexdigit() => {
                    let digit = char::from(first).to_digit(16).context("no digit")?;
                    ensure!(self.digits < SIZE_DIGITS, "a chunk's size is too long");
                    self.digits += 1;
                    self.left = self.left * 16 + digit as usize;
                    rest = behind;
                }
                At::Size => {
                    ensure!(self.digits > 0, "a chunk without a size");
                    self.at = At::Extension;
                }
                At::Extension => {
                    if first == b'\n' {
                        self.digits = 0;
                        self.at = if self.left == 0 { At::Over } else { At::Data };
                    }
                    rest = behind;
                }
                At::Data => {
                    let (data, behind) = rest.split_at(self.left.min(rest.len()));
                    plain.extend_from_slice(data);
                    self.left -= data.len();
                    if self.left == 0 {
                        self.at = At::End;
                    }
                    rest = behind;
                }
                At::End => {
                    ensure!(matches!(first, b'\r' | b'\n'), "a chunk is too long");
                    if first == b'\n' {
                        self.at = At::Size;
                    }
                    rest = behind;
                }
                // Trailers say nothing about events.
                At::Over => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_cut_anywhere_gives_the_same_bytes() {
        let body = b"1;x=y\r\n:\r\n0b\r\n heartbeat\n\r\nA\r\ndata: {}\n\n\r\n0\r\n\r\n";
        for cut in 0..=body.len() {
            let (mut chunks, mut plain) = (Chunks::default(), Vec::new());
            chunks.decode(&body[..cut], &mut plain).unwrap();
            chunks.decode(&body[cut..], &mut plain).unwrap();
            assert_eq!(plain, b": heartbeat\ndata: {}\n\n", "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [&b"\r\n"[..], b"3\r\nabcd\r\n", b"fffffffff\r\n"] {
            let outcome = Chunks::default().decode(body, &mut Vec::new());
            assert!(outcome.is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
