//! Compressed and chunked streams: taken apart as they come, so that they are checked like others.

use std::fmt;
use std::io::Write;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use flate2::write::GzDecoder;

use crate::chunks::Chunks;

/// A content coding that a stream asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Coding {
    /// RFC 1952; one member, since browsers discard what follows the first.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// Its name in `Accept-Encoding` and `Content-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The state of one compressed or chunked stream.
pub(crate) enum Decoder {
    Gzip(Box<GzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
    Chunked(Chunks),
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Decoder")
    }
}

impl Decoder {
    /// The decoder for what a response head says; none where the body is the stream as it is.
    pub(crate) fn for_head(head: &str) -> Result<Option<Self>> {
        let field = |wanted: &str| {
            head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim())
            })
        };
        let coding = field("content-encoding");
        if field("transfer-encoding") == Some("chunked") {
            ensure!(coding.is_none(), "compressed and chunked is not understood");
            return Ok(Some(Self::Chunked(Chunks::default())));
        }
        match coding {
            None => Ok(None),
            Some("gzip") => Ok(Some(Self::Gzip(Box::new(GzDecoder::new(Vec::new()))))),
            Some("zstd") => {
                let decoder = zstd::stream::write::Decoder::new(Vec::new())?;
                Ok(Some(Self::Zstd(Box::new(decoder))))
            }
            Some(other) => anyhow::bail!("a stream came in the coding {other}"),
        }
    }

    /// Appends what `bytes` say to `plain`.
    pub(crate) fn decode(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Gzip(decoder) => {
                decoder
                    .write_all(bytes)
                    .and_then(|()| decoder.flush())
                    .context("gzip")?;
                plain.append(decoder.get_mut());
            }
            Self::Zstd(decoder) => {
                decoder
                    .write_all(bytes)
                    .and_then(|()| decoder.flush())
                    .context("zstd")?;
                plain.append(decoder.get_mut());
            }
            Self::Chunked(chunks) => chunks.decode(bytes, plain)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_blocks_come_out_at_once() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut decoder = Decoder::for_head("HTTP/1.1 200 OK\r\nContent-Encoding: gzip")
            .unwrap()
            .unwrap();
        let mut plain = Vec::new();
        for text in ["data: one\n\n", "data: two\n\n"] {
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.flush().unwrap();
            let bytes = std::mem::take(encoder.get_mut());
            plain.clear();
            decoder.decode(&bytes, &mut plain).unwrap();
            assert_eq!(plain, text.as_bytes());
        }
        assert!(
            Decoder::for_head("HTTP/1.1 200 OK\r\nVary: x")
                .unwrap()
                .is_none()
        );
    }
}
