//! Compressed streams (RFC 9110, section 8.4).
//!
//! What a group of streams is due is compressed once, in segments that stand alone: a stream may
//! begin with any of them. In gzip (RFC 1952) a segment is a run of deflate blocks that ends with a
//! full flush, and all segments of a stream lie in one member, since browsers discard what follows
//! the first; in zstd (RFC 8878) a segment is a frame.

use flate2::{Compress, Compression, FlushCompress};

/// How a stream's bytes are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// As they are.
    Identity,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// How hard is tried. Segments are small, so that more brings little.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// A gzip header without name or time (RFC 1952, section 2.3); the system is "unknown".
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty last block with fixed codes (RFC 1951, section 3.2.3).
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

impl Coding {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Identity, Self::Gzip, Self::Zstd];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The name in `Content-Encoding`; `None` for identity.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// What a stream in this coding begins with.
    pub(super) fn header(self) -> &'static [u8] {
        match self {
            Self::Gzip => &GZIP_HEADER,
            Self::Identity | Self::Zstd => &[],
        }
    }
}

/// The checksum of some bytes, and what it takes to append them to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    crc: u32,
    /// x to the power of the length in bits, modulo the polynomial.
    shift: u32,
    length: u32,
}

/// The checksum of everything that a stream was sent before it was coded; gzip ends with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RunningChecksum {
    crc: u32,
    /// Modulo 2³², as gzip counts (RFC 1952, section 2.3.1).
    length: u32,
}

/// The CRC-32 polynomial of gzip, bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The product of two polynomials modulo [`POLYNOMIAL`], bits reversed: the highest bit is x⁰.
const fn multiply(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    while left != 0 {
        if left & (1 << 31) != 0 {
            product ^= right;
        }
        left <<= 1;
        right = if right & 1 != 0 {
            (right >> 1) ^ POLYNOMIAL
        } else {
            right >> 1
        };
    }
    product
}

/// x to the power of 8 × `length`, modulo [`POLYNOMIAL`], by squaring.
const fn shift_by(mut length: usize) -> u32 {
    const ONE: u32 = 1 << 31;
    // x⁸
    let mut square = 1 << 23;
    let mut shift = ONE;
    while length > 0 {
        if length & 1 == 1 {
            shift = multiply(shift, square);
        }
        square = multiply(square, square);
        length >>= 1;
    }
    shift
}

impl Checksum {
    /// The checksum of nothing.
    pub(super) const EMPTY: Self = Self {
        crc: 0,
        shift: 1 << 31,
        length: 0,
    };

    /// The checksum of these bytes and the next ones.
    pub(super) fn then(&self, next: &Self) -> Self {
        Self {
            crc: multiply(next.shift, self.crc) ^ next.crc,
            shift: multiply(self.shift, next.shift),
            length: self.length.wrapping_add(next.length),
        }
    }

    fn of(bytes: &[u8]) -> Self {
        Self {
            crc: crc32fast::hash(bytes),
            shift: shift_by(bytes.len()),
            length: u32::try_from(bytes.len()).expect("a segment is small"),
        }
    }
}

impl RunningChecksum {
    /// Appends bytes by their checksum alone: a few dozen steps, however many bytes.
    pub(super) fn append(&mut self, next: &Checksum) {
        self.crc = multiply(next.shift, self.crc) ^ next.crc;
        self.length = self.length.wrapping_add(next.length);
    }
}

/// Codes segments. One for each engine thread; its state is made when first needed and reused.
#[derive(Default)]
pub(super) struct Coder {
    deflate: Option<Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

/// Compressing from memory into memory has no way to fail but for want of memory, which ends the
/// process anyway.
const INFALLIBLE: &str = "compressing in memory can't fail";

impl Coder {
    /// Appends `plain` as one segment to `coded`. Gives its checksum, which only gzip needs.
    pub(super) fn code(&mut self, coding: Coding, plain: &[u8], coded: &mut Vec<u8>) -> Checksum {
        match coding {
            Coding::Identity => {
                coded.extend_from_slice(plain);
                Checksum::EMPTY
            }
            Coding::Gzip => {
                let level = Compression::new(GZIP_LEVEL);
                let deflate = self
                    .deflate
                    .get_or_insert_with(|| Compress::new(level, false));
                deflate.reset();
                deflate_all(deflate, plain, coded);
                Checksum::of(plain)
            }
            Coding::Zstd => {
                let zstd = self.zstd.get_or_insert_with(|| {
                    zstd::bulk::Compressor::new(ZSTD_LEVEL).expect(INFALLIBLE)
                });
                let start = coded.len();
                coded.resize(start + zstd::zstd_safe::compress_bound(plain.len()), 0);
                let length = zstd
                    .compress_to_buffer(plain, &mut coded[start..])
                    .expect(INFALLIBLE);
                coded.truncate(start + length);
                Checksum::EMPTY
            }
        }
    }
}

fn deflate_all(deflate: &mut Compress, plain: &[u8], coded: &mut Vec<u8>) {
    loop {
        // Room for the flush, too: without it the call would end before the marker.
        coded.reserve(plain.len() / 2 + 64);
        let taken = usize::try_from(deflate.total_in()).expect("a segment is small");
        deflate
            .compress_vec(&plain[taken..], coded, FlushCompress::Full)
            .expect(INFALLIBLE);
        let all_in = deflate.total_in() == plain.len() as u64;
        // A flush is complete once a call leaves room in its output.
        if all_in && coded.len() < coded.capacity() {
            return;
        }
    }
}

/// Appends what a stream in this coding ends with.
pub(super) fn write_end(coding: Coding, sent: RunningChecksum, coded: &mut Vec<u8>) {
    if coding == Coding::Gzip {
        coded.extend_from_slice(&LAST_BLOCK);
        coded.extend_from_slice(&sent.crc.to_le_bytes());
        coded.extend_from_slice(&sent.length.to_le_bytes());
    }
}

/// The coding for a request: of those that the server offers, in its order, the first that the client
/// likes best (RFC 9110, section 12.5.3).
#[must_use]
pub fn negotiate(offered: &[Coding], accept: &str) -> Coding {
    let mut best = (Coding::Identity, 0.0_f32);
    for &coding in offered {
        let quality = coding.name().map_or(0.0, |name| quality_of(name, accept));
        if quality > best.1 {
            best = (coding, quality);
        }
    }
    best.0
}

fn quality_of(name: &str, accept: &str) -> f32 {
    let mut any = 0.0;
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let Some(coding) = parts.next() else { continue };
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
        if coding.eq_ignore_ascii_case(name) {
            return quality;
        }
        if coding == "*" {
            any = quality;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn decode(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match coding {
            Coding::Identity => plain.extend_from_slice(coded),
            // One member only: what follows it would be discarded by browsers.
            Coding::Gzip => {
                flate2::read::GzDecoder::new(coded)
                    .read_to_end(&mut plain)
                    .map(drop)
                    .unwrap();
            }
            Coding::Zstd => {
                zstd::stream::read::Decoder::new(coded)
                    .unwrap()
                    .read_to_end(&mut plain)
                    .map(drop)
                    .unwrap();
            }
        }
        plain
    }

    proptest! {
        /// Streams that begin at different segments share what follows, and each is whole, with the
        /// checksum at its end, to a decoder that nobody here wrote.
        #[test]
        fn a_stream_can_begin_with_any_segment(
            segments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..6),
            first in 0_usize..6,
        ) {
            let first = first % segments.len();
            let mut coder = Coder::default();
            for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
                let mut wire = coding.header().to_vec();
                let mut sent = RunningChecksum::default();
                for (number, segment) in segments.iter().enumerate() {
                    let mut coded = Vec::new();
                    let checksum = coder.code(coding, segment, &mut coded);
                    if number >= first {
                        wire.extend_from_slice(&coded);
                        sent.append(&checksum);
                    }
                }
                write_end(coding, sent, &mut wire);
                prop_assert_eq!(decode(coding, &wire), segments[first..].concat());
            }
        }
    }

    /// Events must reach the client's parser at once, not with the next ones.
    #[test]
    fn a_segment_can_be_decoded_before_the_stream_ends() {
        let mut coder = Coder::default();
        let mut wire = Coding::Gzip.header().to_vec();
        coder.code(Coding::Gzip, b"data: x\n\n", &mut wire);
        let mut plain = [0; 9];
        flate2::read::GzDecoder::new(&wire[..])
            .read_exact(&mut plain)
            .unwrap();
        assert_eq!(&plain, b"data: x\n\n");
    }

    #[test]
    fn the_client_chooses_among_what_is_offered() {
        let both = [Coding::Zstd, Coding::Gzip];
        for (offered, accept, expected) in [
            (&both[..], "gzip, deflate, br, zstd", Coding::Zstd),
            (&both[..], "gzip, deflate", Coding::Gzip),
            (&both[..], "zstd;q=0.5, gzip;q=0.9", Coding::Gzip),
            (&both[..], "gzip;q=0", Coding::Identity),
            (&both[..], "*", Coding::Zstd),
            (&both[..], "*;q=0.1, zstd;q=0", Coding::Gzip),
            (&both[..], "identity", Coding::Identity),
            (&both[..], "", Coding::Identity),
            (&[], "gzip", Coding::Identity),
        ] {
            assert_eq!(negotiate(offered, accept), expected, "{accept}");
        }
    }
}
