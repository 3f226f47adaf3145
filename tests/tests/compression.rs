//! Compressed streams: whoever asks for it gets the same events, in one gzip member or in zstd frames,
//! each at once, decoded here by libraries that nobody here wrote.

use std::io::{Read as _, Write};

use serde_json::Value;
use tidings_tests::http::Connection;
use tidings_tests::publish::status;
use tidings_tests::sse::{Decoder, Item};
use tidings_tests::{Server, Setup, Watch, new_tenant};

/// Decodes bytes as they come.
enum Decompressor {
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Decompressor {
    fn new(coding: &str) -> Self {
        match coding {
            // Of one member only, as in browsers: what follows it would be an error here.
            "gzip" => Self::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))),
            "zstd" => Self::Zstd(zstd::stream::write::Decoder::new(Vec::new()).expect("a decoder")),
            other => panic!("no such coding: {other}"),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (written, plain) = match self {
            Self::Gzip(decoder) => (
                decoder.write_all(bytes).and_then(|()| decoder.flush()),
                decoder.get_mut(),
            ),
            Self::Zstd(decoder) => {
                let written = decoder.write_all(bytes).and_then(|()| decoder.flush());
                (written, decoder.get_mut())
            }
        };
        written.expect("well-formed");
        std::mem::take(plain)
    }

    /// Whether the coded bytes have come to their proper end.
    fn finish(self) {
        if let Self::Gzip(decoder) = self {
            // Fails where the trailer is missing or its checksum is wrong.
            decoder.finish().expect("a whole member");
        }
    }
}

struct CodedStream {
    socket: std::net::TcpStream,
    decompressor: Decompressor,
    decoder: Decoder,
    seen: Vec<(String, Value)>,
    coded_bytes: usize,
    plain_bytes: usize,
}

impl CodedStream {
    fn open(watch: &Watch, server: &Server, coding: &str) -> Self {
        let mut connection = Connection::open(server.address).expect("a connection");
        let request = watch.request().header("Accept-Encoding", coding);
        connection.send(&request.bytes()).expect("sent");
        let head = connection.read_head().expect("a head");
        assert_eq!(head.status, 200, "{}", head.head);
        assert_eq!(head.header("content-encoding"), Some(coding));
        assert_eq!(head.header("vary"), Some("Accept-Encoding"));
        let (socket, ahead) = connection.into_parts();
        let mut stream = Self {
            socket,
            decompressor: Decompressor::new(coding),
            decoder: Decoder::default(),
            seen: Vec::new(),
            coded_bytes: 0,
            plain_bytes: 0,
        };
        stream.take(&ahead);
        stream
    }

    fn take(&mut self, coded: &[u8]) {
        let plain = self.decompressor.feed(coded);
        self.coded_bytes += coded.len();
        self.plain_bytes += plain.len();
        for item in self.decoder.feed(&plain) {
            if let Item::Event(event) = item {
                self.seen.push((event.name.clone(), event.json()));
            }
        }
    }

    /// Reads some. False at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = self.socket.read(&mut buffer).expect("readable");
        self.take(&buffer[..count]);
        count > 0
    }

    fn read_until(&mut self, number: u64) {
        while self.numbers().last() != Some(&number) {
            assert!(self.read(), "the stream ended before event {number}");
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let statuses = self
            .seen
            .iter()
            .filter(|(event, _)| event == "device_status");
        statuses
            .map(|(_, data)| data["n"].as_u64().expect("a number"))
            .collect()
    }
}

fn server() -> Server {
    Setup::new()
        .set("TIDINGS_STREAM__COMPRESSION", "zstd,gzip")
        .start()
}

#[test]
fn a_compressed_stream_shows_events_at_once_and_ends_whole() {
    for coding in ["gzip", "zstd"] {
        let mut server = server();
        let tenant = new_tenant();
        // Two streams that begin at different places and share what is compressed from then on.
        let mut early = CodedStream::open(&server.watch(&tenant), &server, coding);
        server.publish(&tenant, &status("r1", 1));
        early.read_until(1);
        let mut late = CodedStream::open(&server.watch(&tenant), &server, coding);
        server.publish(&tenant, &status("r1", 2));
        early.read_until(2);
        late.read_until(2);
        server.stop();
        for mut stream in [early, late] {
            while stream.read() {}
            assert_eq!(stream.seen.last().expect("events").0, "closing", "{coding}");
            stream.decompressor.finish();
        }
    }
}

/// A reader that falls behind is cut in the middle of a compressed segment and reads on from the log.
#[test]
fn a_slow_compressed_stream_gets_everything_in_order() {
    for coding in ["gzip", "zstd"] {
        let server = server();
        let tenant = new_tenant();
        let watch = server.watch(&tenant).query("types", "device_status");
        let mut stream = CodedStream::open(&watch, &server, coding);
        let mut number = 0;
        for _ in 0..40 {
            let events: Vec<Value> = (0..500)
                .map(|_| {
                    number += 1;
                    let mut event = status("r1", number);
                    // Compresses badly, so that the sockets fill.
                    event["data"]["noise"] =
                        format!("{:032x}", fastrand::u128(..)).repeat(4).into();
                    event
                })
                .collect();
            server.publish_all(&tenant, &events);
        }
        stream.read_until(number);
        assert!(stream.numbers().into_iter().eq(1..=number), "{coding}");
        assert!(stream.coded_bytes < stream.plain_bytes, "{coding}");
    }
}

#[test]
fn who_does_not_ask_for_compression_gets_none() {
    let server = server();
    let tenant = new_tenant();
    let stream = server.watch(&tenant).open();
    assert_eq!(stream.head.header("content-encoding"), None);
    assert_eq!(stream.head.header("vary"), Some("Accept-Encoding"));
    let plain = Server::start();
    let mut connection = Connection::open(plain.address).expect("a connection");
    let request = plain
        .watch(&tenant)
        .request()
        .header("Accept-Encoding", "gzip, zstd");
    connection.send(&request.bytes()).expect("sent");
    let head = connection.read_head().expect("a head");
    assert_eq!(
        head.header("content-encoding"),
        None,
        "it is off by default"
    );
}
