//! Times as people and JSON see them: RFC 3339, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Writes microseconds since the Unix epoch, as in `2026-11-23T18:00:00.000001Z`.
#[must_use]
pub fn rfc3339(microseconds: i64) -> String {
    Timestamp::from_microsecond(microseconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

/// Reads an RFC 3339 time with an offset, as microseconds since the Unix epoch.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    // jiff reads more than RFC 3339 has: offsets without a colon, other separators.
    let plausible = text.len() >= 20
        && text.as_bytes()[4] == b'-'
        && matches!(text.as_bytes()[10], b'T' | b't' | b' ')
        && !text.contains('[');
    if !plausible {
        return None;
    }
    text.parse::<Timestamp>()
        .ok()
        .map(Timestamp::as_microsecond)
}

/// Whole seconds since the Unix epoch.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Microseconds since the Unix epoch.
#[must_use]
pub fn unix_microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_round_trips() {
        for text in ["2026-11-23T18:00:00Z", "2026-11-23T18:00:00.000001Z"] {
            assert_eq!(rfc3339(parse_rfc3339(text).unwrap()), text);
        }
        assert_eq!(
            parse_rfc3339("2026-11-23T19:00:00+01:00"),
            parse_rfc3339("2026-11-23T18:00:00Z")
        );
    }

    #[test]
    fn what_names_no_instant_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T18:00:00",
            "1764000000",
            "2026-11-23T18:00:00+01:00[Europe/Berlin]",
            "2026-13-23T18:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
