//! What comes before and around a request: who a proxy says it is for, heads and bodies that are too large or too
//! slow, what browsers are told, and what one client may make of HTTP/2.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tidings_tests::publish::{self, status};
use tidings_tests::{
    AccessToken, Answer, Certificates, Connection, GUARD, Request, Server, Setup, Stream, Tunnel,
    Watch, Way, new_tenant,
};

/// A server that takes one stream from each address and trusts this machine's proxies.
fn behind_proxies() -> Setup {
    Setup::new()
        .set("TIDINGS_PROXIES__TRUSTED", "127.0.0.0/8,10.0.0.0/8")
        .set("TIDINGS_LIMITS__STREAMS_PER_ADDRESS", "1")
}

/// Opens a stream over a connection that begins with these bytes.
fn open_behind(server: &Server, head: &[u8], tenant: &str) -> Result<Stream, Answer> {
    let mut connection = Connection::open(server.address).expect("connects");
    let request = server
        .stream_of(tenant)
        .bearer(&server.viewer(tenant))
        .request();
    connection
        .send(&[head, &request.bytes()].concat())
        .expect("sends");
    Stream::over(connection).expect("an answer")
}

/// Opens a stream with these header lines.
fn open_with(server: &Server, headers: &[(&str, &str)], tenant: &str) -> Result<Stream, Answer> {
    let mut request = server
        .stream_of(tenant)
        .bearer(&server.viewer(tenant))
        .request();
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(&request.bytes()).expect("sends");
    Stream::over(connection).expect("an answer")
}

/// The address that operators are shown for a stream.
fn address_of(server: &Server, stream: &Stream) -> String {
    let listing = server.exchange(&Request::get("/streams").bearer(&server.super_admin()));
    let listing = listing.expect(200);
    let streams = listing["streams"].as_array().expect("streams");
    let own = streams
        .iter()
        .find(|listed| listed["connection_id"] == stream.connection_id())
        .expect("the stream is listed");
    own["remote_address"]
        .as_str()
        .expect("an address")
        .to_owned()
}

/// Waits for the server to end the connection, and gives what it sent before.
fn until_the_end(mut socket: TcpStream) -> Vec<u8> {
    socket.set_read_timeout(Some(GUARD)).expect("set");
    let mut rest = Vec::new();
    if let Err(error) = socket.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    rest
}

#[test]
fn a_head_of_the_proxy_protocol_says_whose_connection_it_is() {
    let server = behind_proxies()
        .set("TIDINGS_PROXIES__PROTOCOL", "true")
        .start();
    let tenant = new_tenant();
    let one = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n";
    let two = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..],
        &[203, 0, 113, 10, 10, 0, 0, 1, 0x12, 0x67, 0, 80],
    ]
    .concat();
    let six = b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n";
    let first = open_behind(&server, one, &tenant).expect("a stream");
    assert_eq!(address_of_over(&server, one, &first), "203.0.113.9");
    let second = open_behind(&server, &two, &tenant).expect("a stream");
    assert_eq!(address_of_over(&server, one, &second), "203.0.113.10");
    let third = open_behind(&server, six, &tenant).expect("a stream");
    assert_eq!(address_of_over(&server, one, &third), "2001:db8::7");
    for head in [&one[..], &two, six] {
        open_behind(&server, head, &tenant)
            .expect_err("one from each")
            .problem(429);
    }
    // The proxy for itself, as for a health check.
    open_behind(&server, b"PROXY UNKNOWN\r\n", &tenant).expect("a stream");
}

/// As [`address_of`], where every connection needs a head.
fn address_of_over(server: &Server, head: &[u8], stream: &Stream) -> String {
    let mut connection = Connection::open(server.address).expect("connects");
    let request = Request::get("/streams").bearer(&server.super_admin());
    connection
        .send(&[head, &request.bytes()].concat())
        .expect("sends");
    let listing = connection.read_answer().expect("an answer").expect(200);
    let streams = listing["streams"].as_array().expect("streams").clone();
    let own = streams
        .iter()
        .find(|listed| listed["connection_id"] == stream.connection_id())
        .expect("the stream is listed");
    own["remote_address"]
        .as_str()
        .expect("an address")
        .to_owned()
}

#[test]
fn a_proxy_that_sends_no_head_or_a_slow_one_is_cut_off() {
    let server = behind_proxies()
        .set("TIDINGS_PROXIES__PROTOCOL", "true")
        .start();
    for head in [
        &b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..],
        b"PROXY TCP4 nobody 10.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: here\r\n\r\n",
        // Half of one, and then nothing: until the deadline.
        b"PROXY TCP4 203.0.113.9",
    ] {
        let mut socket = TcpStream::connect(server.address).expect("connects");
        socket.write_all(head).expect("sends");
        assert!(until_the_end(socket).is_empty());
        server.wait_for_log("the refusal", |line| line.contains("proxies.protocol"));
    }
}

#[test]
fn the_head_of_a_proxy_comes_before_the_handshake_too() {
    let certificates = Certificates::new();
    let server = behind_proxies()
        .set("TIDINGS_PROXIES__PROTOCOL", "true")
        .over_tls(
            &certificates.path("server.pem"),
            &certificates.path("server.key"),
        )
        .start();
    let tenant = new_tenant();
    let head = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n";
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates).head(head));
    let path = format!("/tenants/{tenant}/events/stream");
    let watch = Watch::at(tunnel.address, &path).bearer(&server.viewer(&tenant));
    let stream = watch.open();
    assert_eq!(address_of_over(&server, head, &stream), "203.0.113.9");
    watch.refused().problem(429);
}

/// Who is not trusted gets nowhere with either: the head is no HTTP, the header is not looked at.
#[test]
fn nobody_but_a_trusted_proxy_speaks_for_others() {
    let server = Setup::new()
        .set("TIDINGS_PROXIES__TRUSTED", "192.0.2.0/24")
        .set("TIDINGS_PROXIES__PROTOCOL", "true")
        .set("TIDINGS_LIMITS__STREAMS_PER_ADDRESS", "1")
        .start();
    let tenant = new_tenant();
    let mut socket = TcpStream::connect(server.address).expect("connects");
    socket
        .write_all(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET /docs HTTP/1.1\r\nHost: here\r\n\r\n")
        .expect("sends");
    let said = until_the_end(socket);
    assert!(
        !said.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    let stream =
        open_with(&server, &[("X-Forwarded-For", "203.0.113.9")], &tenant).expect("a stream");
    assert_eq!(address_of(&server, &stream), "127.0.0.1");
    for header in ["X-Forwarded-For", "Forwarded"] {
        let spoofed = open_with(&server, &[(header, "for=203.0.113.10")], &tenant);
        spoofed.expect_err("the same address").problem(429);
    }
}

#[test]
fn the_rightmost_address_that_is_no_proxys_counts() {
    let server = behind_proxies().start();
    let tenant = new_tenant();
    let open = |value: &str| open_with(&server, &[("X-Forwarded-For", value)], &tenant);
    let first = open("198.51.100.1, 203.0.113.9, 10.1.1.1").expect("a stream");
    assert_eq!(address_of(&server, &first), "203.0.113.9");
    // What the client wrote itself changes nothing.
    open("198.51.100.2, 203.0.113.9")
        .expect_err("the same address")
        .problem(429);
    let ignored = [
        ("Forwarded", "for=198.51.100.3"),
        ("X-Forwarded-For", "203.0.113.9"),
    ];
    open_with(&server, &ignored, &tenant)
        .expect_err("the same address")
        .problem(429);
    let _second = open("203.0.113.9, 203.0.113.10").expect("a stream");
    server.wait_for_log("the address", |line| {
        line.contains("stream_requested") && line.contains("203.0.113.9")
    });

    let server = behind_proxies()
        .set("TIDINGS_PROXIES__HEADER", "forwarded")
        .start();
    let headers = [
        ("X-Forwarded-For", "198.51.100.1"),
        ("Forwarded", "for=\"[2001:db8::7]:80\";proto=https"),
    ];
    let stream = open_with(&server, &headers, &tenant).expect("a stream");
    assert_eq!(address_of(&server, &stream), "2001:db8::7");
}

#[test]
fn what_is_published_and_minted_counts_for_the_forwarded_address_too() {
    let server = behind_proxies()
        .set("TIDINGS_LIMITS__FAILURES_PER_ADDRESS", "1")
        .start();
    let tenant = new_tenant();
    let event = status("r1", 1);
    let publish = |address: &str, token: &str| {
        let request = publish::one(&tenant, token, &event).header("X-Forwarded-For", address);
        server.exchange(&request).status
    };
    let good = server.publisher(&tenant);
    assert_eq!(publish("203.0.113.9", "bad"), 401);
    assert_eq!(publish("203.0.113.9", "bad"), 429);
    assert_eq!(publish("203.0.113.10", &good), 200, "another address");
    let mint = Request::post("/auth/sse-token")
        .bearer("bad")
        .header("X-Forwarded-For", "203.0.113.9");
    assert_eq!(server.exchange(&mint).status, 429);
}

#[test]
fn heads_that_are_too_large_are_431() {
    let server = Server::start();
    let many = (0..200).fold(Request::get("/"), |request, number| {
        request.header(&format!("X-{number}"), "a")
    });
    assert_eq!(server.exchange(&many).status, 431);
    let long = Request::get("/").header("X-Long", &"a".repeat(70_000));
    assert_eq!(server.exchange(&long).status, 431);
    let fitting = Request::get("/docs").header("X-Long", &"a".repeat(30_000));
    assert_eq!(server.exchange(&fitting).status, 200);
}

/// Browsers and publishers keep connections; those that nobody uses take a descriptor each.
#[test]
fn a_connection_on_which_no_further_request_comes_is_ended() {
    let server = Server::start();
    let mut connection = Connection::open(server.address).expect("connects");
    for _ in 0..2 {
        let answer = connection
            .exchange(&Request::get("/docs"))
            .expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let (socket, ahead) = connection.into_parts();
    assert!(ahead.is_empty() && until_the_end(socket).is_empty());
}

/// A body that trickles is given up although its next byte always comes.
#[test]
fn a_body_that_trickles_is_408_and_others_do_not_wait() {
    let server = Setup::new().set("TIDINGS_LIMITS__BODY_TIME", "2s").start();
    let tenant = new_tenant();
    let head = format!(
        "POST /tenants/{tenant}/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{",
        server.publisher(&tenant)
    );
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(head.as_bytes()).expect("sends");
    let mut socket = connection.socket().try_clone().expect("a handle");
    let trickle = std::thread::spawn(move || {
        // Until the server has had enough of it.
        while socket.write_all(b" ").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    server.publish(&tenant, &status("r1", 1));
    connection.read_answer().expect("an answer").problem(408);
    drop(connection);
    trickle.join().expect("it ends");
}

/// A byte now and then keeps any idle timeout from ending it, and the time for a whole body may be long.
#[test]
fn a_body_that_comes_too_slowly_is_408_long_before_its_time_is_over() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__BODY_TIME", "1h")
        .set("TIDINGS_LIMITS__BODY_RATE", "64KiB")
        .start();
    let tenant = new_tenant();
    let token = server.publisher(&tenant);
    let head = format!(
        "POST /tenants/{tenant}/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{"
    );
    // A call of operators too.
    let operator = server.sign(&AccessToken::new("operator-1", &tenant, "tenant_operator"));
    let call = format!(
        "POST /keys HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {operator}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"
    );
    let trickles = [(head, &b" "[..]), (call, b"1\r\n \r\n")].map(|(head, more)| {
        let mut connection = Connection::open(server.address).expect("connects");
        connection.send(head.as_bytes()).expect("sends");
        let mut socket = connection.socket().try_clone().expect("a handle");
        let trickle = std::thread::spawn(move || {
            while socket.write_all(more).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        (connection, trickle)
    });
    for (mut connection, trickle) in trickles {
        let problem = connection.read_answer().expect("an answer").problem(408);
        let detail = problem["detail"].as_str().expect("a sentence");
        assert!(detail.contains("limits.body_rate"), "{detail}");
        drop(connection);
        trickle.join().expect("it ends");
    }
    server.publish(&tenant, &status("r1", 1));
}

#[test]
fn pages_and_answers_tell_browsers_what_not_to_do() {
    let server = Server::start();
    let tenant = new_tenant();
    for path in ["/", "/docs", "/openapi.json", "/assets/console.js"] {
        let answer = server.exchange(&Request::get(path));
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'"), "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
    }
    let stream = server.watch(&tenant).open();
    let refused = server.exchange(&Request::get("/streams"));
    let published = publish::one(&tenant, &server.publisher(&tenant), &status("r1", 1));
    let published = server.exchange(&published);
    for answer in [&stream.head, &refused, &published] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("strict-transport-security"), None);
    }
}

fn from_page(origin: &str, request: Request) -> Request {
    request.header("Origin", origin)
}

fn preflight(origin: &str, path: &str) -> Request {
    from_page(origin, Request::new("OPTIONS", path))
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type",
        )
}

/// The protocol's words on CORS, one by one.
#[test]
fn pages_of_listed_origins_may_call_and_no_others() {
    const LISTED: &str = "https://console.example";
    let server = Setup::new().set("TIDINGS_CORS__ORIGINS", LISTED).start();
    let tenant = new_tenant();
    let path = format!("/tenants/{tenant}/events");
    let allowed = server.exchange(&preflight(LISTED, &path));
    assert_eq!(allowed.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", LISTED),
        ("access-control-allow-credentials", "true"),
        (
            "access-control-allow-headers",
            "Authorization, Content-Type, Last-Event-ID, Idempotency-Key",
        ),
        (
            "access-control-expose-headers",
            "X-Connection-Id, Retry-After",
        ),
        ("vary", "Origin"),
    ] {
        assert_eq!(allowed.header(name), Some(value), "{name}");
    }
    for other in [
        "https://console.example.evil",
        "https://evil.console.example",
        "http://console.example",
        "null",
        "https://CONSOLE.example",
    ] {
        for request in [
            preflight(other, &path),
            from_page(other, Request::get("/docs")),
        ] {
            let answer = server.exchange(&request);
            assert_eq!(
                answer.header("access-control-allow-origin"),
                None,
                "{other}"
            );
            assert_eq!(answer.header("vary"), Some("Origin"), "{other}");
        }
    }
    // Streams carry it in both protocols, refusals too.
    let request = server.watch(&tenant).request();
    let mut connection = Connection::open(server.address).expect("connects");
    connection
        .send(&from_page(LISTED, request).bytes())
        .expect("sends");
    let stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    let refused = server.exchange(&from_page(LISTED, Request::get("/streams")));
    refused.problem(401);
    for answer in [&stream.head, &refused] {
        assert_eq!(answer.header("access-control-allow-origin"), Some(LISTED));
        assert_eq!(
            answer.header("access-control-expose-headers"),
            Some("X-Connection-Id, Retry-After")
        );
    }

    let server = Setup::new().set("TIDINGS_CORS__ORIGINS", "*").start();
    let answer = server.exchange(&from_page("https://any.example", Request::get("/docs")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);

    let server = Server::start();
    let answer = server.exchange(&from_page(LISTED, Request::get("/docs")));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// HTTP/2 as bytes, for what no client library would send.
struct Frames {
    socket: TcpStream,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET /docs`, of which all but the path is in HPACK's static table.
const GET: &[u8] = b"\x82\x86\x04\x05/docs\x41\x04here";

impl Frames {
    fn open(server: &Server) -> Self {
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

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.socket
            .write_all(&Self::frame(kind, flags, stream, payload))
    }

    /// The next frame: its kind, flags, stream and payload; none at the end, which the server must make.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// A server that says nothing and does not end the connection either must not pass for one that has ended it.
    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
        match self.socket.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset) => None,
            Err(error) => panic!("the connection was not ended: {error}"),
        }
    }

    /// The error that the server ends the connection with; none where it only ends it.
    fn error_at_the_end(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                error = payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
        }
        error
    }
}

/// The server does its work, whatever somebody does on another connection.
fn still_serves(server: &Server) {
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let last = server.publish(&tenant, &status("r1", 1)).last;
    assert_eq!(stream.next_event().cursor(), last);
}

/// How much memory the server has, in KiB.
fn resident(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("a process of ours");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("its memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number")
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
    let server = Server::start();
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

/// A runtime and a connection over HTTP/2 whose client opens this window for each answer.
async fn over_http_2(server: &Server, window: u32) -> h2::client::SendRequest<bytes::Bytes> {
    let socket = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("connects");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake(socket)
        .await
        .expect("speaks HTTP/2");
    // It answers pings for as long as it lives.
    tokio::spawn(connection);
    client
}

fn get_over_http_2(server: &Server, target: &str, access: &str) -> http::Request<()> {
    http::Request::get(format!("http://{}{target}", server.address))
        .header("authorization", format!("Bearer {access}"))
        .body(())
        .expect("a request")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Pages that nobody reads lay in memory for as long as their client answered pings: 200 of 8 MiB for each connection.
#[test]
fn pages_that_are_not_read_over_http_2_are_bounded_and_given_up() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "1s")
        .set("TIDINGS_LIMITS__ANSWERS_IN_MEMORY", "80MiB")
        .start();
    let tenant = new_tenant();
    let text = "a".repeat(900_000);
    for number in 0..12 {
        let mut event = status("r1", number);
        event["data"]["status"] = text.clone().into();
        server.publish(&tenant, &event);
    }
    let target = format!("/tenants/{tenant}/events");
    let access = server.viewer(&tenant);
    runtime().block_on(async {
        let mut client = over_http_2(&server, 0).await;
        let mut answers = Vec::new();
        for _ in 0..20 {
            client = client.ready().await.expect("it is alive");
            let request = get_over_http_2(&server, &target, &access);
            answers.push(client.send_request(request, true).expect("sends").0);
        }
        let mut unread = Vec::new();
        let mut refused = 0;
        for answer in answers {
            let answer = answer.await.expect("answers");
            match answer.status().as_u16() {
                200 => unread.push(answer),
                503 => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!(
            (unread.len(), refused),
            (2, 18),
            "what lies in memory is bounded"
        );
        for answer in unread {
            let end = answer.into_body().data().await.expect("an end");
            let end = end.expect_err("there is no window").reason();
            assert_eq!(end, Some(h2::Reason::CANCEL));
        }
        // The connection lives on, and there is room again; who reads gets all of it.
        client.ready().await.expect("it is alive");
    });
    let request = Request::get(&target).bearer(&access);
    assert!(server.exchange(&request).body.len() > 8_000_000);
}

/// A place among `limits.requests` was free again before the answer was written, so that any number could be made.
#[test]
fn what_is_read_of_a_tenant_takes_a_place_until_it_is_given_up_and_pages_take_none() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "2s")
        .set("TIDINGS_LIMITS__REQUESTS", "3")
        .start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let target = format!("/tenants/{tenant}/events");
    let access = server.viewer(&tenant);
    runtime().block_on(async {
        let mut client = over_http_2(&server, 0).await;
        let mut unread = Vec::new();
        // Without a token nobody takes up the places of others by leaving pages unread.
        for (path, count) in [("/assets/console.js", 10), (&*target, 3)] {
            for _ in 0..count {
                client = client.ready().await.expect("it is alive");
                let request = get_over_http_2(&server, path, &access);
                let answer = client.send_request(request, true).expect("sends").0.await;
                unread.push(answer.expect("answers"));
            }
        }
        server.exchange(&Request::get("/docs")).problem(503);
        for answer in unread {
            assert_eq!(answer.status(), 200);
            let end = answer.into_body().data().await.expect("an end");
            end.expect_err("there is no window");
        }
    });
    assert_eq!(server.exchange(&Request::get("/docs")).status, 200);
}

/// All tenants read by the same few threads, and who waited for them took up the places of everybody.
#[test]
fn a_tenant_that_reads_much_leaves_places_for_others() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__READS_PER_TENANT", "4")
        .set("TIDINGS_LIMITS__REQUESTS", "6")
        .start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let of = |tenant: &str| {
        [
            format!("/tenants/{tenant}/events"),
            format!("/tenants/{tenant}/state"),
        ]
    };
    for tenant in [&tenant, &other] {
        server.publish(tenant, &status("r1", 1));
    }
    let access = server.viewer(&tenant);
    runtime().block_on(async {
        let mut client = over_http_2(&server, 0).await;
        let mut unread = Vec::new();
        let mut refused = 0;
        for target in of(&tenant).iter().cycle().take(20) {
            client = client.ready().await.expect("it is alive");
            let request = get_over_http_2(&server, target, &access);
            let answer = client.send_request(request, true).expect("sends").0.await;
            let answer = answer.expect("answers");
            match answer.status().as_u16() {
                200 => unread.push(answer),
                429 => {
                    assert!(answer.headers().contains_key("retry-after"));
                    refused += 1;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!((unread.len(), refused), (4, 16));
        for (access, times) in [(server.viewer(&other), 3), (server.super_admin(), 3)] {
            for target in of(&other).iter().cycle().take(times) {
                server
                    .exchange(&Request::get(target).bearer(&access))
                    .expect(200);
            }
        }
        server.publish(&tenant, &status("r1", 2));
        let audit = server.sign(&tidings_tests::AccessToken::new(
            "operator-1",
            &tenant,
            "tenant_operator",
        ));
        for target in ["/audit", "/streams", "/tenants"] {
            server
                .exchange(&Request::get(target).bearer(&audit))
                .problem(429);
        }
    });
}

/// Sends these requests over and over and reads nothing, until the server has ended the connection.
fn ask_and_never_read(address: std::net::SocketAddr, requests: &[u8]) {
    let mut socket = TcpStream::connect(address).expect("connects");
    let patience = std::time::Duration::from_millis(100);
    socket.set_write_timeout(Some(patience)).expect("set");
    let deadline = std::time::Instant::now() + GUARD;
    loop {
        match socket.write(requests) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                ) =>
            {
                return;
            }
            _ => assert!(
                std::time::Instant::now() < deadline,
                "the connection is held"
            ),
        }
    }
}

/// Each held a descriptor for good, whoever it was: no token is needed for pages.
#[test]
fn who_asks_and_never_reads_is_cut_off_over_http_1() {
    let certificates = Certificates::new();
    let server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "1s")
        .over_tls(
            &certificates.path("server.pem"),
            &certificates.path("server.key"),
        )
        .start();
    let page = Request::get("/openapi.json").bytes().repeat(100);
    ask_and_never_read(server.address, &page);
    let tenant = new_tenant();
    for number in 0..20 {
        let mut event = status(&format!("r{number}"), number);
        event["data"]["status"] = "a".repeat(900_000).into();
        server.publish(&tenant, &event);
    }
    let state = Request::get(&format!("/tenants/{tenant}/state")).bearer(&server.viewer(&tenant));
    ask_and_never_read(server.address, &state.bytes());
    still_serves(&server);
}

/// Pings are answered by the client's library, whatever becomes of who uses it.
#[test]
fn a_connection_over_http_2_that_nobody_uses_is_ended() {
    let server = Setup::new().set("TIDINGS_LIMITS__IDLE_TIME", "1s").start();
    let mut frames = Frames::open(&server);
    let error = loop {
        let (kind, flags, _, payload) = frames.next().expect("a GOAWAY");
        match kind {
            PING if flags == 0 => frames.send(PING, 1, 0, &payload).expect("answers"),
            GOAWAY => break u32::from_be_bytes(payload[4..8].try_into().expect("an error")),
            _ => {}
        }
    };
    assert_eq!(error, 0, "nothing was wrong with it");
    while let Some((kind, flags, _, payload)) = frames.next() {
        if kind == PING && flags == 0 {
            let _ = frames.send(PING, 1, 0, &payload);
        }
    }
}

/// Neither limit is for streams: one that is silent, whose connection is otherwise idle, stays.
#[test]
fn a_stream_over_http_2_outlives_both_limits() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__IDLE_TIME", "500ms")
        .set("TIDINGS_LIMITS__UNREAD_TIME", "500ms")
        .start();
    let tenant = new_tenant();
    let target = format!("/tenants/{tenant}/events/stream");
    runtime().block_on(async {
        let client = over_http_2(&server, 1_000_000).await;
        let mut client = client.ready().await.expect("it is alive");
        let request = get_over_http_2(&server, &target, &server.viewer(&tenant));
        let answer = client.send_request(request, true).expect("sends").0.await;
        let mut body = answer.expect("answers").into_body();
        let mut read = async |until: &str, count: usize| {
            let mut text = String::new();
            while text.matches(until).count() < count {
                let chunk = body.data().await.expect("no end").expect("no reset");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        read(": heartbeat", 3).await;
        let last = server.publish(&tenant, &status("r1", 1)).last;
        read(&last, 1).await;
    });
}
