//! What comes before and around a request: who a proxy says it is for, heads and bodies that are too large or too
//! slow, what browsers are told, and what one client may make of the server.

#[path = "edges/http2.rs"]
mod http2;
#[path = "edges/unread.rs"]
mod unread;

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
