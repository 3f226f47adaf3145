//! How long a certificate is good: the one thing of it that TLS libraries judge and do not tell.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// The numbers by which DER (X.690) tells what follows.
mod tag {
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const VERSION: u8 = 0xa0;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
}

/// From when to when an X.509 certificate (RFC 5280, section 4.1, in DER) is good; none where it is no certificate.
#[must_use]
pub fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, outer, _) = value(certificate, tag::SEQUENCE)?;
    let (_, mut fields, _) = value(outer, tag::SEQUENCE)?;
    if fields.first() == Some(&tag::VERSION) {
        fields = any(fields)?.2;
    }
    // The serial number, the algorithm, the issuer.
    for _ in 0..3 {
        fields = any(fields)?.2;
    }
    let (_, times, _) = value(fields, tag::SEQUENCE)?;
    let (kind, from, rest) = any(times)?;
    let from = time(kind, from)?;
    let (kind, until, _) = any(rest)?;
    Some((from, time(kind, until)?))
}

/// The next value, which must have this tag.
fn value(bytes: &[u8], tag: u8) -> Option<(u8, &[u8], &[u8])> {
    any(bytes).filter(|(found, ..)| *found == tag)
}

/// The next value: its tag, its content, and what is behind it.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, &digit| length << 8 | usize::from(digit));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ`, of which years below 50 are of this century, or the same with four digits of the year.
fn time(tag: u8, content: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (tag::UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        (tag::GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |from: usize| rest[from..from + 2].parse::<i8>().ok();
    let time = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    Offset::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tidings_tests::Certificates;

    use super::*;

    #[test]
    fn a_certificate_says_how_long_it_is_good() {
        let made = Certificates::new();
        let file = made.path("server.pem");
        let certificate = CertificateDer::from_pem_file(&file).unwrap();
        let (from, until) = validity(&certificate).unwrap();
        assert_eq!(until.as_second() - from.as_second(), 2 * 86_400);
        let now = Timestamp::now();
        assert!(from <= now && now < until);
        // Nothing of it that is cut off, or changed, makes it panic.
        for length in 0..certificate.len().min(300) {
            assert_eq!(validity(&certificate[..length]), None);
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (tag, text, expected) in [
            (tag::UTC_TIME, "261127224100Z", "2026-11-27T22:41:00Z"),
            (tag::UTC_TIME, "991231235959Z", "1999-12-31T23:59:59Z"),
            (
                tag::GENERALIZED_TIME,
                "20500101000000Z",
                "2050-01-01T00:00:00Z",
            ),
        ] {
            let read = time(tag, text.as_bytes()).unwrap();
            assert_eq!(read.to_string(), expected);
        }
        for text in ["", "Z", "261327224100Z", "2611272241Z", "26112722410äZ"] {
            assert_eq!(time(tag::UTC_TIME, text.as_bytes()), None, "{text}");
        }
    }
}
