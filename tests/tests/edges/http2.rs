//! What one client may make of HTTP/2, in bytes that no client library would send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tidings_tests::publish::status;
use tidings_tests::{GUARD, Server, Setup, new_tenant};

use super::{resident, still_serves};

/// HTTP/2 as bytes, for what no client library would send.
pub(super) struct Frames {
    socket: TcpStream,
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET /docs`, of which all but the path is in HPACK's static table.
pub(super) const GET: &[u8] = b"\x82\x86\x04\x05/docs\x41\x04here";

impl Frames {
    pub(super) fn open(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.address).expect("connects");
        socket.set_read_timeout(Some(GUARD)).expect("set");
        socket.set_write_timeout(Some(GUARD)).expect("set");
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .expect("sends");
        let mut frames = Self { socket };
        frames.send(SETTINGS, 0, 0, &[]).expect("sends");
        frames
    }

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub(super) fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.socket
            .write_all(&Self::frame(kind, flags, stream, payload))
    }

    /// The next frame: its kind, flags, stream and payload; none at the end, which the server must make.
    pub(super) fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// A server that says nothing and does not end the connection either must not pass for one that has ended it.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
        match self.socket.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset) => None,
            Err(error) => panic!("the connection was not ended: {error}"),
        }
    }

    /// The error that the server ends the connection with; none where it only ends it.
    pub(super) fn error_at_the_end(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                error = payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
        }
        error
    }
}

#[test]
fn rapid_resets_end_the_connection() {
    let server = Server::start();
    let mut frames = Frames::open(&server);
    for number in 0..10_000_u32 {
        let stream = 2 * number + 1;
        let both = [
            Frames::frame(HEADERS, END_STREAM | END_HEADERS, stream, GET),
            Frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ];
        if frames.socket.write_all(&both.concat()).is_err() {
            break;
        }
    }
    assert_eq!(frames.error_at_the_end(), Some(ENHANCE_YOUR_CALM));
    still_serves(&server);
}

/// A client that makes the server reset its own requests ("made you reset"): each lacks its path.
#[test]
fn requests_that_the_server_must_reset_end_the_connection() {
    let server = Server::start();
    let mut frames = Frames::open(&server);
    for number in 0..10_000_u32 {
        let head = frames.send(
            HEADERS,
            END_STREAM | END_HEADERS,
            2 * number + 1,
            b"\x82\x86",
        );
        if head.is_err() {
            break;
        }
    }
    assert_eq!(frames.error_at_the_end(), Some(ENHANCE_YOUR_CALM));
    still_serves(&server);
}

#[test]
fn floods_of_settings_and_pings_whose_answers_nobody_reads_take_no_memory() {
    let server = Server::start();
    still_serves(&server);
    let before = resident(&server);
    for (kind, payload) in [(PING, &[0_u8; 8][..]), (SETTINGS, &[0, 3, 0, 0, 0, 100])] {
        let mut frames = Frames::open(&server);
        frames
            .socket
            .set_write_timeout(Some(std::time::Duration::from_millis(500)))
            .expect("set");
        let many = Frames::frame(kind, 0, 0, payload).repeat(4096);
        // Until the server takes no more, or has taken a hundred megabytes.
        for _ in 0..1500 {
            if frames.socket.write_all(&many).is_err() {
                break;
            }
        }
        still_serves(&server);
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB more than before");
}

#[test]
fn a_head_that_never_ends_is_refused_and_takes_no_memory() {
    let server = Server::start();
    still_serves(&server);
    let before = resident(&server);
    let mut frames = Frames::open(&server);
    frames.send(HEADERS, END_STREAM, 1, GET).expect("sends");
    // A header that is never indexed: x-a with 1,000 bytes.
    let more = [b"\x10\x03x-a\x7f\xe9\x06".as_slice(), &[b'a'; 1000]].concat();
    // A hundred megabytes, unless the server has had enough before.
    for _ in 0..100_000 {
        if frames.send(CONTINUATION, 0, 1, &more).is_err() {
            break;
        }
    }
    let error = frames.error_at_the_end();
    assert_eq!(error, Some(ENHANCE_YOUR_CALM));
    still_serves(&server);
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB more than before");
}

#[test]
fn a_large_head_over_http_2_is_431() {
    let server = Server::start();
    let mut frames = Frames::open(&server);
    let large = [b"\x10\x03x-a\x7f\xe9\x06".as_slice(), &[b'a'; 1000]]
        .concat()
        .repeat(16);
    frames.send(HEADERS, END_STREAM, 1, GET).expect("sends");
    frames
        .send(CONTINUATION, END_HEADERS, 1, &large)
        .expect("sends");
    loop {
        let (kind, _, stream, payload) = frames.next().expect("an answer");
        if kind == HEADERS {
            assert_eq!(stream, 1);
            // In the code of RFC 7541, appendix B.
            assert!(
                payload.windows(3).any(|three| three == b"\x69\x90\xff"),
                "not 431: {payload:x?}"
            );
            break;
        }
        assert_ne!(kind, GOAWAY);
    }
}

#[test]
fn more_requests_at_a_time_than_are_allowed_are_refused_and_the_others_are_served() {
    let server = Setup::new().set("TIDINGS_LIMITS__BODY_RATE", "0").start();
    let mut frames = Frames::open(&server);
    let tenant = new_tenant();
    // Requests whose bodies never come, so that they stay open.
    let path = format!("/tenants/{tenant}/events");
    let token = format!("Bearer {}", server.publisher(&tenant));
    let literal = |name: &[u8], value: &str| {
        let mut field = name.to_vec();
        let length = value.len();
        if length < 127 {
            field.push(u8::try_from(length).expect("small"));
        } else {
            field.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128 + 128).expect("a byte"));
                rest /= 128;
            }
            field.push(u8::try_from(rest).expect("a byte"));
        }
        field.extend(value.as_bytes());
        field
    };
    let request = [
        b"\x83\x86".to_vec(),
        literal(b"\x04", &path),
        literal(b"\x01", "here"),
        // authorization (23) and content-type (31), by name alone.
        literal(b"\x0f\x08", &token),
        literal(b"\x0f\x10", "application/json"),
    ]
    .concat();
    for number in 0..300_u32 {
        frames
            .send(HEADERS, END_HEADERS, 2 * number + 1, &request)
            .expect("sends");
    }
    let mut refused = 0;
    while refused < 100 {
        let (kind, _, stream, payload) = frames.next().expect("no end");
        if kind == RST_STREAM {
            assert_eq!(
                payload,
                7_u32.to_be_bytes(),
                "REFUSED_STREAM, which is safe to repeat"
            );
            assert!(stream > 2 * 199 + 1, "{stream}");
            refused += 1;
        }
        assert_ne!(kind, GOAWAY);
    }
    // One of those that were taken is finished.
    let event = status("r1", 1).to_string();
    frames
        .send(DATA, END_STREAM, 1, event.as_bytes())
        .expect("sends");
    loop {
        let (kind, _, stream, _) = frames.next().expect("an answer");
        if kind == HEADERS {
            assert_eq!(stream, 1);
            break;
        }
    }
    still_serves(&server);
}
