//! HTTP/1 as bytes in and bytes out: no client library, so that a test sees what is on the wire.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::GUARD;

/// A request, and the bytes that it is.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request with this method for this path and query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1",
            headers: Vec::new(),
            body: None,
        }
    }

    /// `GET` of this path and query.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `POST` to this path and query.
    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    /// Says another version than `HTTP/1.1`.
    #[must_use]
    pub const fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Authorization: Bearer …`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Sets the body and its type.
    #[must_use]
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = self.header("Content-Type", content_type);
        request.body = Some(body.into());
        request
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            head.push_str("Host: tidings.test\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// An answer, taken apart no further than a test needs.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The head as it came, without the blank line.
    pub head: String,
    /// The status code.
    pub status: u16,
    /// Names in lower case, values as they came, in order.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of a chunked one.
    pub body: Vec<u8>,
}

impl Answer {
    /// Takes a head apart.
    pub fn from_head(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line of HTTP/1: {status_line:?}"));
        let headers = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no header line: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Self {
            head: head.to_owned(),
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// The value of the header with this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    /// The body as JSON of an answer that must have this status.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self.json()
    }

    /// The problem (RFC 9457) of an answer that must have this status and be well-formed.
    pub fn problem(&self, status: u16) -> Value {
        let problem = self.expect(status);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.head
        );
        assert_eq!(problem["status"], u64::from(status), "{problem}");
        for member in ["type", "title", "detail"] {
            let text = problem[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{member} of {problem}");
        }
        problem
    }
}

/// One connection of HTTP/1, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    /// Read from the socket and not yet taken.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        Self::over(socket)
    }

    /// Speaks over a socket that is connected already.
    pub fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(GUARD))?;
        socket.set_write_timeout(Some(GUARD))?;
        Ok(Self {
            socket,
            buffer: Vec::new(),
        })
    }

    /// The socket itself.
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Waits no longer than this for the other side, instead of until it counts as a hang.
    pub fn patience(&self, patience: std::time::Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.set_write_timeout(Some(patience))
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends a request and reads the answer to its end.
    pub fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(&request.bytes())?;
        if request.method == "HEAD" {
            self.read_head()
        } else {
            self.read_answer()
        }
    }

    /// Reads a head and nothing behind it.
    pub fn read_head(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let mut head = std::mem::replace(&mut self.buffer, rest);
                head.truncate(end);
                let head = String::from_utf8(head).map_err(io::Error::other)?;
                return Ok(Answer::from_head(&head));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads an answer to the end of its body, however that is told.
    pub fn read_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.read_head()?;
        if answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        let length = answer
            .header("content-length")
            .map(|text| text.parse::<usize>().expect("a length in bytes"));
        answer.body = if let Some(length) = length {
            self.take(length)?
        } else if answer.header("transfer-encoding") == Some("chunked") {
            self.take_chunks()?
        } else {
            while self.fill()? > 0 {}
            std::mem::take(&mut self.buffer)
        };
        Ok(answer)
    }

    /// Gives the socket back, with what was read from it beyond what was taken.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.buffer)
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                if self.fill()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let line = self.take(end + 2)?;
            let text = std::str::from_utf8(&line[..end]).map_err(io::Error::other)?;
            let length = usize::from_str_radix(text, 16).map_err(io::Error::other)?;
            body.extend_from_slice(&self.take(length)?);
            self.take(2)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = self.socket.read(&mut chunk).map_err(told_as_a_hang)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

/// One request over a connection of its own.
pub fn try_exchange(address: SocketAddr, request: &Request) -> io::Result<Answer> {
    Connection::open(address)?.exchange(request)
}

/// One request over a connection of its own, which must be answered.
pub fn exchange(address: SocketAddr, request: &Request) -> Answer {
    try_exchange(address, request)
        .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.target))
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A read that ran into [`GUARD`] says so; the kernel's own word for it misleads.
pub(crate) fn told_as_a_hang(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing arrived for {} s", GUARD.as_secs()),
        ),
        _ => error,
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
