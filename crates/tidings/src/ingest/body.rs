//! The body of a publish: one event, or one a line.

use http::{HeaderMap, StatusCode, header};
use tidings_log::NewEvent;

use super::envelope::{self, InvalidEvent, Terms};
use crate::config::LimitsConfig;
use crate::error::Refusal;

/// How a body is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `application/json`: one event.
    One,
    /// `application/x-ndjson`: one event a line.
    Lines,
}

impl Layout {
    /// Reads the request's media type.
    ///
    /// # Errors
    ///
    /// 415 for another type, or a coded body.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let unsupported =
            |detail: &str| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        let coded = headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|coding| coding != "identity");
        if coded {
            return unsupported("send the body without a Content-Encoding");
        }
        let media_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map(|essence| essence.trim().to_ascii_lowercase());
        match media_type.as_deref() {
            Some("application/json") => Ok(Self::One),
            Some("application/x-ndjson" | "application/ndjson") => Ok(Self::Lines),
            _ => unsupported(
                "Content-Type must be application/json (one event) or application/x-ndjson (one event a line)",
            ),
        }
    }
}

/// The events of a body, and the line of each, from 1.
#[derive(Debug)]
pub struct Body {
    /// In the order of the body.
    pub events: Vec<NewEvent>,
    /// As many as events.
    pub lines: Vec<u64>,
}

/// Reads a body whole: one bad event refuses all.
///
/// # Errors
///
/// 400, 413 or 422, with the line and the field.
pub fn read(
    layout: Layout,
    body: &[u8],
    terms: &Terms<'_>,
    limits: &LimitsConfig,
) -> Result<Body, Refusal> {
    // Once for all: the reader of each event need not look again.
    let body = std::str::from_utf8(body).map_err(|error| not_text(body, error.valid_up_to()))?;
    let mut read = Body {
        events: Vec::new(),
        lines: Vec::new(),
    };
    match layout {
        Layout::One => read.push(body, 1, terms, limits)?,
        Layout::Lines => {
            let count = memchr::memchr_iter(b'\n', body.as_bytes()).count() + 1;
            read.events.reserve(count.min(limits.body_lines));
            read.lines.reserve(count.min(limits.body_lines));
            let mut start = 0;
            let breaks = memchr::memchr_iter(b'\n', body.as_bytes());
            for (line, end) in (1..).zip(breaks.chain([body.len()])) {
                let text = &body[start..end];
                if !text.trim_ascii().is_empty() {
                    read.push(text, line, terms, limits)?;
                }
                start = end + 1;
            }
        }
    }
    if read.events.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body holds no event").at_line(1));
    }
    Ok(read)
}

impl Body {
    fn push(
        &mut self,
        text: &str,
        line: u64,
        terms: &Terms<'_>,
        limits: &LimitsConfig,
    ) -> Result<(), Refusal> {
        let too_large =
            |detail: String| Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail).at_line(line));
        if text.len() > limits.event_bytes {
            return too_large(format!("an event is at most {} bytes", limits.event_bytes));
        }
        if self.events.len() >= limits.body_lines {
            return too_large(format!("a body holds at most {} events", limits.body_lines));
        }
        let event = envelope::read(text, line, terms).map_err(|error| refuse(&error, line))?;
        self.events.push(event);
        self.lines.push(line);
        Ok(())
    }
}

/// JSON is exchanged in UTF-8 (RFC 8259, section 8.1).
fn not_text(body: &[u8], valid: usize) -> Refusal {
    let line = memchr::memchr_iter(b'\n', &body[..valid]).count() as u64 + 1;
    let detail = "not JSON: the text is not UTF-8";
    Refusal::new(StatusCode::BAD_REQUEST, detail).at_line(line)
}

fn refuse(error: &InvalidEvent, line: u64) -> Refusal {
    let status = if error.syntax {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let refusal = Refusal::new(status, error.detail.clone()).at_line(line);
    match &error.field {
        Some(field) => refusal.at_field(field),
        None => refusal,
    }
}
