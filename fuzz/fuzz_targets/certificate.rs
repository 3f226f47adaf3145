//! A certificate in DER, as somebody has put it where the server's is.
//!
//! Promises: the two times are of the years that its texts can name; what stands behind the certificate changes nothing;
//! of one that is cut off nothing is read.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tidings::edge::validity::Validity;

/// The first second of the year 0, and of the year 10,000.
const YEARS: std::ops::Range<i64> = -62_167_219_200..253_402_300_800;

fuzz_target!(|bytes: &[u8]| {
    let Some(validity) = Validity::of(bytes) else {
        return;
    };
    assert!(YEARS.contains(&validity.begins) && YEARS.contains(&validity.ends));
    assert!(validity.warns_before() <= Duration::from_hours(14 * 24));
    assert_eq!(Validity::of(&[bytes, b"\x30\x00"].concat()), Some(validity));
    let length = certificate(bytes);
    assert_eq!(Validity::of(&bytes[..length]), Some(validity));
    for cut in [0, 1, length / 2, length - 1] {
        assert_eq!(Validity::of(&bytes[..cut]), None);
    }
});

/// How many bytes the first element takes, of which the length is in the definite form.
fn certificate(bytes: &[u8]) -> usize {
    let first = usize::from(bytes[1]);
    if first < 0x80 {
        return 2 + first;
    }
    let count = first & 0x7f;
    let digits = bytes[2..2 + count].iter();
    2 + count + digits.fold(0, |length, &digit| length << 8 | usize::from(digit))
}
