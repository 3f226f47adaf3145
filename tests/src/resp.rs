//! Redis as its own clients see it: one connection that speaks RESP, to look at what a server stores and to
//! do what another back end does.

use std::fmt::{self, Write as _};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::GUARD;
use crate::brokers::RedisServer;

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing is there.
    Nil,
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A refusal, as it was worded.
    Error(String),
    /// Several.
    Array(Vec<Self>),
}

impl Reply {
    /// The text of an answer that must be one.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    /// The number of an answer that must be one.
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }

    /// The texts of an answer that must be a list of them.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Array(items) => items.iter().map(|item| item.text().to_owned()).collect(),
            other => panic!("no list: {other:?}"),
        }
    }
}

/// What a connection is made of.
trait Duplex: Read + Write + fmt::Debug {}

impl<T: Read + Write + fmt::Debug> Duplex for T {}

/// A connection to Redis.
#[derive(Debug)]
pub struct Redis {
    socket: BufReader<Box<dyn Duplex>>,
}

impl Redis {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("Redis listens");
        socket.set_read_timeout(Some(GUARD)).expect("a socket");
        Self::over(socket)
    }

    /// Connects to the socket in a server's folder, which is without TLS.
    pub fn connect_inside(server: &RedisServer) -> Self {
        let path = server.folder().join("redis.sock");
        let socket = UnixStream::connect(path).expect("Redis listens");
        socket.set_read_timeout(Some(GUARD)).expect("a socket");
        Self::over(socket)
    }

    fn over(socket: impl Duplex + 'static) -> Self {
        Self {
            socket: BufReader::new(Box::new(socket)),
        }
    }

    /// Sends a command and reads its answer, whatever it is.
    pub fn ask(&mut self, words: &[&str]) -> Reply {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            let _ = write!(command, "${}\r\n{word}\r\n", word.len());
        }
        self.socket
            .get_mut()
            .write_all(command.as_bytes())
            .expect("Redis takes the command");
        self.reply()
    }

    /// Sends a command that must not be refused.
    pub fn command(&mut self, words: &[&str]) -> Reply {
        match self.ask(words) {
            Reply::Error(said) => panic!("{words:?}: {said}"),
            reply => reply,
        }
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.socket.read_line(&mut line).expect("an answer");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()),
            "$" => usize::try_from(number()).map_or(Reply::Nil, |length| {
                let mut bytes = vec![0; length + 2];
                self.socket.read_exact(&mut bytes).expect("a whole answer");
                bytes.truncate(length);
                Reply::Text(String::from_utf8(bytes).expect("a text in UTF-8"))
            }),
            "*" => usize::try_from(number()).map_or(Reply::Nil, |length| {
                Reply::Array((0..length).map(|_| self.reply()).collect())
            }),
            other => panic!("no reply of RESP 2 begins with {other:?}"),
        }
    }
}
