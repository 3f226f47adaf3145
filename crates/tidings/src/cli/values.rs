//! What stands behind flags, from text to values.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidings_client::Conflate;

/// `KEY=VALUE`; the value may hold further equals signs.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as stream.heartbeat=5s".to_owned()),
    }
}

/// `default`, or event types.
pub(super) fn conflate(text: &str) -> Result<Conflate, String> {
    if text == "default" {
        return Ok(Conflate::Default);
    }
    let types = text.split(',').map(|name| {
        name.parse()
            .map_err(|error: tidings_protocol::event::InvalidEventType| error.to_string())
    });
    types.collect::<Result<_, _>>().map(Conflate::Types)
}

/// A span such as `500ms`, `5s`, `10m`, `2h` or `1d`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and its unit, such as 500ms, 5s, 10m, 2h or 1d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(milliseconds)
        .filter(|milliseconds| *milliseconds <= 366 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "longer than a year".to_owned())
}

/// A span above nothing.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    span(text).and_then(|span| {
        if span < Duration::from_millis(100) {
            Err("at least 100ms".to_owned())
        } else {
            Ok(span)
        }
    })
}

/// A moment: RFC 3339, or a span that reaches back from now. As RFC 3339.
pub(super) fn moment(text: &str) -> Result<String, String> {
    if crate::time::parse_rfc3339(text).is_some() {
        return Ok(text.to_owned());
    }
    let back = span(text).map_err(|_| {
        "expected a time such as 2026-11-23T18:00:00Z or a span back from now such as 10m"
            .to_owned()
    })?;
    let back = SignedDuration::try_from(back).map_err(|error| error.to_string())?;
    Timestamp::now()
        .checked_sub(back)
        .map(|moment| moment.to_string())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(span("1d"), Ok(Duration::from_hours(24)));
        for text in [
            "",
            "5",
            "m",
            "-5s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "400d",
        ] {
            assert!(span(text).is_err(), "{text}");
        }
        assert!(interval("0s").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_reaches_back_from_now() {
        assert_eq!(
            moment("2026-11-23T19:00:00+01:00").unwrap(),
            "2026-11-23T19:00:00+01:00"
        );
        let before = Timestamp::now() - SignedDuration::from_secs(600);
        let moment: Timestamp = moment("10m").unwrap().parse().unwrap();
        assert!(moment >= before && moment <= Timestamp::now());
        assert!(super::moment("yesterday").is_err());
    }

    #[test]
    fn an_assignment_has_a_key() {
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(assignment("=b").is_err());
        assert!(assignment("a").is_err());
    }
}
