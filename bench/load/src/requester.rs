//! A kept-alive connection that carries one request at a time.

use anyhow::{Context as _, Result, ensure};
use rustix::fd::OwnedFd;

use crate::clock;
use crate::network;

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Which requester.
    pub requester: usize,
    /// What the request was tagged with.
    pub tag: u64,
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Microseconds from sending the request.
    pub latency: u64,
}

#[derive(Debug)]
pub(crate) struct Requester {
    /// None after the server has closed a connection that carried nothing, as servers may; the next
    /// request opens another.
    pub(crate) socket: Option<OwnedFd>,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    tag: Option<u64>,
    sent: u64,
    /// The server said that it closes the connection behind the answer.
    pub(crate) closing: bool,
}

impl Requester {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            output: Vec::new(),
            written: 0,
            input: Vec::new(),
            tag: None,
            sent: 0,
            closing: false,
        }
    }

    pub(crate) fn busy(&self) -> bool {
        self.tag.is_some()
    }

    /// Begins a request; true when all of it is on its way.
    pub(crate) fn start(&mut self, request: Vec<u8>, tag: u64) -> Result<bool> {
        ensure!(!self.busy(), "a requester carries one request at a time");
        self.output = request;
        self.written = 0;
        self.tag = Some(tag);
        self.sent = clock::now();
        self.flush()
    }

    /// Sends what is left of the request; true when nothing is.
    pub(crate) fn flush(&mut self) -> Result<bool> {
        let socket = self.socket.as_ref().context("no connection")?;
        while self.written < self.output.len() {
            let length = network::send(socket, &self.output[self.written..])?;
            if length == 0 {
                return Ok(false);
            }
            self.written += length;
        }
        Ok(true)
    }

    /// Takes the next bytes from the server and returns the answer once it is complete.
    pub(crate) fn take(&mut self, bytes: &[u8], index: usize) -> Result<Option<Answer>> {
        self.input.extend_from_slice(bytes);
        let Some(head_length) = memchr::memmem::find(&self.input, b"\r\n\r\n") else {
            return Ok(None);
        };
        let head =
            std::str::from_utf8(&self.input[..head_length]).context("the head is no text")?;
        let status = status(head)?;
        let mut length = 0;
        for line in head.split("\r\n").skip(1) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().context("Content-Length")?;
            }
            self.closing |= name.eq_ignore_ascii_case("connection")
                && value.trim().eq_ignore_ascii_case("close");
            let chunked = name.eq_ignore_ascii_case("transfer-encoding");
            ensure!(!chunked, "chunked answers are not understood");
        }
        let body_start = head_length + 4;
        if self.input.len() < body_start + length {
            return Ok(None);
        }
        let body = self.input[body_start..body_start + length].to_vec();
        self.input.drain(..body_start + length);
        Ok(Some(Answer {
            requester: index,
            tag: self.tag.take().context("an answer without a request")?,
            status,
            body,
            latency: clock::now() - self.sent,
        }))
    }
}

/// The status of a response head.
pub(crate) fn status(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).context("no status")?;
    status
        .get(..3)
        .unwrap_or(status)
        .parse()
        .context("the status is no number")
}
