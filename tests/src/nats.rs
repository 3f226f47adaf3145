//! A publisher and operator that speaks NATS's text protocol, as every client does in the end.

use std::io::{BufRead, BufReader, Lines, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::GUARD;

/// A connection to a `nats-server`.
#[derive(Debug)]
pub struct NatsClient {
    socket: TcpStream,
    lines: Lines<BufReader<TcpStream>>,
    /// Where answers go; each connection has its own, so that none takes another's for its own.
    inbox: String,
}

impl NatsClient {
    /// Connects to a server that asks for nothing.
    pub fn connect(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).expect("a server");
        socket.set_read_timeout(Some(GUARD)).expect("a timeout");
        socket.set_nodelay(true).expect("a socket of ours");
        let inbox = format!("inbox.{:016x}", fastrand::u64(..));
        write!(socket, "CONNECT {{\"verbose\":false}}\r\nSUB {inbox} 1\r\n")
            .expect("a request goes out");
        let lines = BufReader::new(socket.try_clone().expect("a second handle")).lines();
        Self {
            socket,
            lines,
            inbox,
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("the connection stands");
        line.expect("an answer within the guard")
    }

    /// Sends a message and waits for its answer, which may be an error of JetStream's.
    pub fn try_ask(&mut self, subject: &str, payload: &str) -> Value {
        let length = payload.len();
        // In one piece, so that nothing of it waits for an acknowledgement of the rest.
        let inbox = &self.inbox;
        let message = format!("PUB {subject} {inbox} {length}\r\n{payload}\r\n");
        let sent = self.socket.write_all(message.as_bytes());
        sent.expect("it goes out");
        loop {
            let line = self.line();
            if line == "PING" {
                self.socket.write_all(b"PONG\r\n").expect("it goes out");
            } else if line.starts_with("MSG ") {
                return serde_json::from_str(&self.line()).expect("JSON");
            }
        }
    }

    /// Sends a message and waits for its answer, which must not be an error.
    pub fn ask(&mut self, subject: &str, payload: &str) -> Value {
        let answer = self.try_ask(subject, payload);
        assert!(answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    /// Makes a stream in files, on one server.
    pub fn create(&mut self, (stream, subjects): (&str, &[&str])) {
        let config =
            json!({ "name": stream, "subjects": subjects, "storage": "file", "num_replicas": 1 });
        self.ask(
            &format!("$JS.API.STREAM.CREATE.{stream}"),
            &config.to_string(),
        );
    }

    /// Deletes a stream with all that it has.
    pub fn delete(&mut self, stream: &str) {
        self.ask(&format!("$JS.API.STREAM.DELETE.{stream}"), "");
    }

    /// How many consumers a stream has.
    pub fn consumers(&mut self, stream: &str) -> u64 {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        info["state"]["consumer_count"].as_u64().expect("a number")
    }

    /// Publishes a payload with a number, and waits until the stream has it.
    pub fn put(&mut self, subject: &str, tenant: &str, number: u64) {
        let payload =
            json!({ "tenant_id": tenant, "n": number, "alert_event_id": format!("a{number}") });
        self.ask(subject, &payload.to_string());
    }
}
