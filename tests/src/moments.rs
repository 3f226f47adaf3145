//! Points in time that a server has written: how long it took for something is told by its own two of them, not by
//! when a test came to look.

use serde_json::Value;

use crate::server::Server;

/// Seconds since 1970 of a time of RFC 3339 in UTC (`2026-01-31T12:00:00.5Z`).
pub fn seconds(text: &str) -> f64 {
    let parts = || {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(str::parse::<i32>);
        let mut time = time.splitn(3, ':').map(str::parse::<f64>);
        let date = [date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?];
        let time = [time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?];
        Some((date, time))
    };
    let ([year, month, day], [hours, minutes, seconds]) =
        parts().unwrap_or_else(|| panic!("{text:?} is no time in UTC"));
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before = 365 * year + year / 4 - year / 100 + year / 400;
    let days = before + (153 * month + 2) / 5 + day - 1 - 719_468;
    f64::from(days) * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + seconds
}

impl Server {
    /// When this server has ended a stream, by its log, which must be in JSON.
    pub fn closed_at(&self, connection_id: &str) -> f64 {
        let line = self.wait_for_log("the stream's end", |line| {
            line.contains("stream_closed") && line.contains(connection_id)
        });
        let line: Value = serde_json::from_str(&line).expect("a line in JSON");
        seconds(line["timestamp"].as_str().expect("a time"))
    }

    /// Asserts that a stream has ended at this moment, in seconds since 1970, or a little later. How little is this
    /// machine's; where heartbeats come each hour, a stream that ends with its next one is found.
    pub fn assert_closed_soon_after(&self, moment: f64, connection_id: &str) {
        let took = self.closed_at(connection_id) - moment;
        assert!(
            (0.0..=10.0).contains(&took),
            "{connection_id} ended {took} s after its authority"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_those_of_the_calendar() {
        // date -u -d … +%s
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29T23:59:59Z", 951_868_799.0),
            ("2000-03-01T00:00:00Z", 951_868_800.0),
            ("2026-12-31T12:30:15.250Z", 1_798_720_215.25),
        ] {
            assert!((seconds(text) - expected).abs() < 1e-6, "{text}");
        }
    }
}
