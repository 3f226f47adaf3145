//! How long a certificate is good: the one part of it that is read here (RFC 5280, section 4.1.2.5).

use std::time::Duration;

/// From when to when a certificate is good, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub begins: i64,
    /// The last second.
    pub ends: i64,
}

const DAY: i64 = 86_400;

impl Validity {
    /// Reads it from a certificate in DER. None where the certificate is not laid out as the RFC has it; whether
    /// it can be served is for others to find out.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (SEQUENCE, certificate, _) = element(certificate)? else {
            return None;
        };
        let (SEQUENCE, mut rest, _) = element(certificate)? else {
            return None;
        };
        // The version is left out where it is the first; then serial number, algorithm and issuer.
        if element(rest)?.0 == VERSION {
            rest = element(rest)?.2;
        }
        for _ in 0..3 {
            rest = element(rest)?.2;
        }
        let (SEQUENCE, validity, _) = element(rest)? else {
            return None;
        };
        let (kind, begins, rest) = element(validity)?;
        let begins = time(kind, begins)?;
        let (kind, ends, _) = element(rest)?;
        let ends = time(kind, ends)?;
        Some(Self { begins, ends })
    }

    /// How long before its end it is worth a warning that nobody has replaced it: 14 days, or a quarter of its
    /// life where that is shorter. Those that are renewed by themselves are so at a third of it.
    #[must_use]
    pub fn warns_before(&self) -> Duration {
        let seconds = (14 * DAY).min((self.ends - self.begins) / 4);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first element: its tag, its content, what follows it. Its length is in the definite form (X.690, 10.1).
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) || rest.len() < count {
            return None;
        }
        let (digits, rest) = rest.split_at(count);
        let length = digits
            .iter()
            .fold(0, |length, &digit| length << 8 | usize::from(digit));
        (length, rest)
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

/// Seconds since the Unix epoch: `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (kind, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<i8>().ok();
    let time =
        jiff::civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0)
            .ok()?;
    let time = jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?;
    Some(time.as_second())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// Made by `openssl ca -selfsign`: for 2026, and to the end of 2050, which takes four digits of the year.
    const YEAR: &[u8] = include_bytes!("../../tests/certificates/year.pem");
    const LONG: &[u8] = include_bytes!("../../tests/certificates/long.pem");

    fn of(pem: &[u8]) -> Validity {
        let der = CertificateDer::from_pem_slice(pem).unwrap();
        Validity::of(&der).unwrap()
    }

    #[test]
    fn it_is_read_from_certificates_with_either_form_of_time() {
        let year = of(YEAR);
        assert_eq!(
            year,
            Validity {
                begins: 1_767_225_600,
                ends: 1_798_761_599
            }
        );
        assert_eq!(year.warns_before(), Duration::from_hours(14 * 24));
        assert_eq!(of(LONG).ends, 2_556_143_999);
        let brief = Validity {
            begins: 0,
            ends: 86_400,
        };
        assert_eq!(brief.warns_before(), Duration::from_hours(6));
    }

    #[test]
    fn no_cut_or_change_makes_it_panic() {
        let der = CertificateDer::from_pem_slice(YEAR).unwrap();
        for cut in 0..der.len() {
            let _ = Validity::of(&der[..cut]);
            let mut changed = der.to_vec();
            for byte in [0x00, 0x7f, 0x80, 0x84, 0xff] {
                changed[cut] = byte;
                let _ = Validity::of(&changed);
            }
        }
    }
}
