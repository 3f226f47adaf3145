//! As much of HTTP/1.1 as the load generator speaks.

use anyhow::{Context as _, Result, ensure};

/// A complete request at the front of a buffer.
#[derive(Debug)]
pub(crate) struct Request<'buffer> {
    pub(crate) method: &'buffer str,
    /// The path without its query.
    pub(crate) path: &'buffer str,
    pub(crate) last_event_id: Option<&'buffer str>,
    pub(crate) body: &'buffer [u8],
    /// How many bytes of the buffer it takes.
    pub(crate) length: usize,
}

/// Reads the request at the front of `buffer`; `None` while it is incomplete.
pub(crate) fn parse(buffer: &[u8]) -> Result<Option<Request<'_>>> {
    let Some(head_length) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        ensure!(buffer.len() < 64 << 10, "the head is too long");
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..head_length]).context("the head is no text")?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().context("no method")?;
    let target = first.next().context("no target")?;
    let mut content_length = 0;
    let mut last_event_id = None;
    for line in lines {
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        if name.eq_ignore_ascii_case("content-length") {
            content_length = value.trim().parse().context("Content-Length")?;
        } else if name.eq_ignore_ascii_case("last-event-id") {
            last_event_id = Some(value.trim());
        }
    }
    let body_start = head_length + 4;
    let length = body_start + content_length;
    if buffer.len() < length {
        return Ok(None);
    }
    Ok(Some(Request {
        method,
        path: target.split_once('?').map_or(target, |(path, _)| path),
        last_event_id,
        body: &buffer[body_start..length],
        length,
    }))
}

/// The type and the data of a published line, `{"type":"…",…,"data":{…}}` with `data` last, as the
/// load generator writes it.
pub(crate) fn event_of(line: &[u8]) -> Result<(&str, &[u8])> {
    let after = |name: &[u8]| {
        memchr::memmem::find(line, name)
            .map(|at| &line[at + name.len()..])
            .with_context(|| format!("no {} in the body", String::from_utf8_lossy(name)))
    };
    let event_type = after(b"\"type\":\"")?;
    let end = memchr::memchr(b'"', event_type).context("an open type")?;
    let data = after(b"\"data\":")?;
    let data = data.strip_suffix(b"}").context("data is not last")?;
    Ok((std::str::from_utf8(&event_type[..end])?, data))
}
