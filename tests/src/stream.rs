//! One open stream, and how a test asks for one.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::GUARD;
use crate::chunks::Chunks;
use crate::http::{Answer, Connection, Request, encode, told_as_a_hang};
use crate::sse::{Decoder, Event, Item};

/// A request for a stream, until it is opened.
#[derive(Clone, Debug)]
pub struct Watch {
    address: SocketAddr,
    path: String,
    query: String,
    bearer: Option<String>,
    last_event_id: Option<String>,
    receive_buffer: Option<usize>,
    patience: Option<Duration>,
}

impl Watch {
    /// A stream at this path.
    pub fn at(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            query: String::new(),
            bearer: None,
            last_event_id: None,
            receive_buffer: None,
            patience: None,
        }
    }

    /// Opens it with a stream token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.query("token", token)
    }

    /// Opens it with an access token in the header.
    #[must_use]
    pub fn bearer(mut self, access_token: &str) -> Self {
        self.bearer = Some(access_token.to_owned());
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let mark = if self.query.is_empty() { '?' } else { '&' };
        let _ = write!(self.query, "{mark}{name}={}", encode(value));
        self
    }

    /// Resumes after this cursor, as a browser does.
    #[must_use]
    pub fn after(mut self, cursor: &str) -> Self {
        self.last_event_id = Some(cursor.to_owned());
        self
    }

    /// Makes the client's own receive buffer small, so that a client that does not read is soon full.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Waits no longer than this for the answer: whoever is asked may be frozen.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The request that asks for it.
    pub fn request(&self) -> Request {
        let mut request = Request::get(&format!("{}{}", self.path, self.query))
            .header("Accept", "text/event-stream");
        if let Some(access_token) = &self.bearer {
            request = request.bearer(access_token);
        }
        if let Some(cursor) = &self.last_event_id {
            request = request.header("Last-Event-ID", cursor);
        }
        request
    }

    /// Asks for the stream. The inner error is an answer that is none.
    pub fn try_open(&self) -> io::Result<Result<Stream, Answer>> {
        let mut connection = match self.receive_buffer {
            None => Connection::open(self.address)?,
            Some(bytes) => {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.set_recv_buffer_size(bytes)?;
                socket.connect(&self.address.into())?;
                Connection::over(socket.into())?
            }
        };
        if let Some(patience) = self.patience {
            connection.patience(patience)?;
        }
        connection.send(&self.request().bytes())?;
        Stream::over(connection)
    }

    /// Opens the stream, which must succeed.
    pub fn open(&self) -> Stream {
        match self.try_open() {
            Ok(Ok(stream)) => stream,
            Ok(Err(answer)) => panic!("no stream: {}\n{}", answer.head, answer.text()),
            Err(error) => panic!("no stream: {error}"),
        }
    }

    /// Opens the stream, which has a place as soon as the server has noticed that another has ended.
    pub fn open_once_there_is_a_place(&self) -> Stream {
        let deadline = Instant::now() + GUARD;
        loop {
            match self.try_open().expect("an answer") {
                Ok(stream) => return stream,
                Err(answer) => assert_eq!(answer.status, 429, "{}", answer.head),
            }
            assert!(Instant::now() < deadline, "a place has leaked");
        }
    }

    /// Asks for a stream that must be refused; gives the answer.
    pub fn refused(&self) -> Answer {
        match self.try_open() {
            Ok(Ok(stream)) => panic!("a stream where none was due: {}", stream.head.head),
            Ok(Err(answer)) => answer,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// What came of waiting for a stream to say something.
#[derive(Debug)]
pub enum Heard {
    /// An event, or a comment, or how long to wait before coming back.
    Item(Item),
    /// Nothing at all in time, not even a heartbeat.
    Silence,
    /// The connection has ended.
    End,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    /// The head of the answer.
    pub head: Answer,
    /// Every byte of the body so far.
    pub raw: Vec<u8>,
    /// Whether the connection was reset where it should have been closed.
    pub reset: bool,
    socket: TcpStream,
    /// Of a body that a proxy has framed.
    chunks: Option<Chunks>,
    decoder: Decoder,
    items: VecDeque<Item>,
    ended: bool,
}

impl Stream {
    /// Reads the head of the answer to a request that was sent over this connection.
    pub fn over(mut connection: Connection) -> io::Result<Result<Self, Answer>> {
        let head = connection.read_head()?;
        let (socket, read_ahead) = connection.into_parts();
        if head.status != 200 {
            let mut answer = head;
            answer.body = read_ahead;
            let length = answer
                .header("content-length")
                .and_then(|text| text.parse().ok());
            let mut chunk = [0; 4096];
            while length.is_none_or(|length: usize| answer.body.len() < length) {
                let count = (&socket).read(&mut chunk).map_err(told_as_a_hang)?;
                if count == 0 {
                    break;
                }
                answer.body.extend_from_slice(&chunk[..count]);
            }
            return Ok(Err(answer));
        }
        let chunks = head.header("transfer-encoding").map(|_| Chunks::default());
        let mut stream = Self {
            head,
            raw: Vec::new(),
            reset: false,
            socket,
            chunks,
            decoder: Decoder::default(),
            items: VecDeque::new(),
            ended: false,
        };
        stream.take(&read_ahead);
        Ok(Ok(stream))
    }

    /// The connection id in the head.
    pub fn connection_id(&self) -> &str {
        self.head
            .header("x-connection-id")
            .expect("a connection id")
    }

    /// The socket itself.
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Waits for the next item; none when the connection has ended.
    pub fn next_item(&mut self) -> Option<Item> {
        while self.items.is_empty() && !self.ended {
            self.read_more();
        }
        self.items.pop_front()
    }

    /// Waits for the next item no longer than this: whoever speaks may be frozen.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        let waits = |stream: &Self, patience| {
            let timeout = stream.socket.set_read_timeout(Some(patience));
            timeout.expect("a socket of ours");
        };
        while self.items.is_empty() && !self.ended {
            waits(self, patience);
            let read = self.try_read_more();
            waits(self, GUARD);
            if read.is_err() {
                return Heard::Silence;
            }
        }
        self.items.pop_front().map_or(Heard::End, Heard::Item)
    }

    /// Waits for the next event of any name; none when the connection has ended.
    pub fn next_of_any(&mut self) -> Option<Event> {
        // Heartbeats go on whatever else does not, so silence is not what a hang looks like.
        let deadline = Instant::now() + GUARD;
        loop {
            if let Item::Event(event) = self.next_item()? {
                return Some(event);
            }
            assert!(
                Instant::now() < deadline,
                "nothing but heartbeats: {}",
                self.tail()
            );
        }
    }

    /// Waits for the next event that is not a `cursor`; the connection must not end before it.
    pub fn next_event(&mut self) -> Event {
        self.next_but_cursors()
            .unwrap_or_else(|| panic!("the stream ended; the last it said: {}", self.tail()))
    }

    /// Waits for the next event that is not a `cursor`; none when the connection has ended.
    pub fn next_but_cursors(&mut self) -> Option<Event> {
        loop {
            let event = self.next_of_any()?;
            if event.name != "cursor" {
                return Some(event);
            }
        }
    }

    /// Waits for this many events that are not `cursor`s.
    pub fn events(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.next_event()).collect()
    }

    /// Waits for the next event with this name, past all others.
    pub fn next_named(&mut self, name: &str) -> Event {
        loop {
            let event = self.next_of_any().unwrap_or_else(|| {
                panic!(
                    "the stream ended before {name}; the last it said: {}",
                    self.tail()
                )
            });
            if event.name == name {
                return event;
            }
        }
    }

    /// Waits until `enough` says so of the bytes of the body so far.
    pub fn read_until(&mut self, what: &str, enough: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + GUARD;
        while !enough(&self.raw) {
            assert!(Instant::now() < deadline, "never {what}: {}", self.tail());
            assert!(
                !self.ended,
                "the stream ended before {what}: {}",
                self.tail()
            );
            self.read_more();
        }
    }

    /// Everything that comes until the connection ends.
    pub fn rest(&mut self) -> Vec<Item> {
        while !self.ended {
            self.read_more();
        }
        self.items.drain(..).collect()
    }

    /// Ends the connection with a reset, as a process that dies with unread input does.
    pub fn tear(self) {
        socket2::SockRef::from(&self.socket)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("the kernel takes it");
    }

    /// The end of what was received, for a message.
    pub fn tail(&self) -> String {
        let start = self.raw.len().saturating_sub(400);
        String::from_utf8_lossy(&self.raw[start..]).into_owned()
    }

    fn read_more(&mut self) {
        if let Err(error) = self.try_read_more() {
            let error = told_as_a_hang(error);
            panic!("{error}; the last that came: {}", self.tail());
        }
    }

    fn try_read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => self.take(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.ended = true;
                self.reset = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(chunks) = &mut self.chunks else {
            return self.content(bytes);
        };
        let content = chunks.feed(bytes);
        self.ended |= chunks.ended();
        self.content(&content);
    }

    fn content(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.items.extend(self.decoder.feed(bytes));
    }
}
