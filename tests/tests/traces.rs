//! Traces by OTLP: what a collector is sent, over real HTTP, and what becomes of a server whose collector is not there.

#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which floats hold exactly"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use tidings_tests::publish::{self, status};
use tidings_tests::server::{any_address, run};
use tidings_tests::{AccessToken, GUARD, Request, Scrape, Server, Setup, new_tenant};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector of the test's own: takes requests one after the other and hands on their bodies.
struct Collector {
    address: SocketAddr,
    bodies: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, bodies) = mpsc::channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Some(body) = socket.ok().and_then(take_in) else {
                    continue;
                };
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            bodies,
            seen: Vec::new(),
        }
    }

    fn setup(&self, sample: &str) -> Setup {
        Setup::new()
            .set(
                "TIDINGS_TRACES__ENDPOINT",
                &format!("http://{}", self.address),
            )
            .set("TIDINGS_TRACES__SAMPLE", sample)
    }

    fn has_seen(&self, bytes: &[u8]) -> bool {
        self.seen.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Waits until it was sent these bytes.
    fn wait_for(&mut self, bytes: &[u8]) {
        while !self.has_seen(bytes) {
            let body = self.bodies.recv_timeout(GUARD);
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            self.seen
                .extend(body.unwrap_or_else(|_| panic!("never sent; {seen}")));
        }
    }
}

/// Reads one request, which must be what OTLP over HTTP asks for, and answers it.
fn take_in(mut socket: TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
            assert!(
                head.contains("content-type: application/x-protobuf"),
                "{head}"
            );
            let length = head.split("content-length: ").nth(1)?;
            let length: usize = length.split("\r\n").next()?.parse().ok()?;
            if request.len() >= end + 4 + length {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
                socket.write_all(answer).ok()?;
                return Some(request.split_off(end + 4));
            }
        }
        let count = socket.read(&mut chunk).ok()?;
        if count == 0 {
            return None;
        }
        request.extend_from_slice(&chunk[..count]);
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn recorded(server: &Server) -> f64 {
    Scrape::of(server).value("tidings_trace_spans_total")
}

#[test]
fn a_publish_is_told_within_its_callers_trace_and_without_secrets() {
    let mut collector = Collector::start();
    let server = collector.setup("0").start();
    let tenant = new_tenant();
    let access = server.sign(&AccessToken::new("ada-the-user", &tenant, "publisher"));
    let mut event = status("secret-device", 1);
    event["key"] = "secret-key".into();
    event["data"]["note"] = "secret-payload".into();
    let publish = publish::one(&tenant, &access, &event)
        .header("traceparent", &traceparent("01"))
        .header("tracestate", "vendor=secret-state")
        .header("Idempotency-Key", "secret-header-key");
    publish::must(server.address, &publish);
    collector.wait_for(&bytes_of(TRACE));
    collector.wait_for(&bytes_of(PARENT));
    for told in [
        "publish",
        "received",
        "admitted",
        &tenant,
        "service.name",
        "tidings",
    ] {
        assert!(collector.has_seen(told.as_bytes()), "{told}");
    }
    for secret in ["secret", "ada-the-user", access.as_str(), "127.0.0.1"] {
        assert!(!collector.has_seen(secret.as_bytes()), "{secret}");
    }
    let scrape = Scrape::until(&server, "exported", |scrape| {
        scrape.value("tidings_trace_spans_exported_total") == 1.0
    });
    assert_eq!(scrape.value("tidings_trace_spans_total"), 1.0);
}

#[test]
fn who_is_not_traced_by_the_caller_is_sampled_and_who_shows_no_good_credential_never() {
    let collector = Collector::start();
    let server = collector.setup("0").start();
    let tenant = new_tenant();
    let publisher = server.publisher(&tenant);
    let untraced = [
        publish::one(&tenant, &publisher, &status("r1", 1)),
        publish::one(&tenant, &publisher, &status("r1", 1))
            .header("traceparent", &traceparent("00")),
        publish::one(&tenant, &publisher, &status("r1", 1)).header("traceparent", "00-not-a-trace"),
        publish::one(&tenant, "forged", &status("r1", 1)).header("traceparent", &traceparent("01")),
        publish::one(&new_tenant(), &publisher, &status("r1", 1))
            .header("traceparent", &traceparent("01")),
        Request::get(&format!("/tenants/{tenant}/events/stream"))
            .bearer("forged")
            .header("traceparent", &traceparent("01")),
    ];
    for request in &untraced {
        server.exchange(request);
    }
    assert_eq!(recorded(&server), 0.0);

    let mut collector = Collector::start();
    let server = collector.setup("1").start();
    let mut stream = server.watch(&tenant).open();
    server.publish(&tenant, &status("r1", 1));
    stream.next_event();
    assert_eq!(recorded(&server), 2.0);
    collector.wait_for(b"open_stream");
    collector.wait_for(b"publish");
    let connection = stream.connection_id();
    assert!(collector.has_seen(connection.as_bytes()));
}

/// A caller that sets the flag with every request does not decide what tracing costs.
#[test]
fn callers_can_not_have_everything_traced() {
    let collector = Collector::start();
    let server = collector.setup("1").start();
    let tenant = new_tenant();
    let access = server.publisher(&tenant);
    let begun = std::time::Instant::now();
    for number in 0..1_000 {
        let publish = publish::one(&tenant, &access, &status("r1", number));
        publish::must(
            server.address,
            &publish.header("traceparent", &traceparent("01")),
        );
    }
    let seconds = begun.elapsed().as_secs() as f64;
    let recorded = recorded(&server);
    assert!(recorded >= 100.0, "{recorded}");
    assert!(
        recorded <= 100.0 * (seconds + 2.0),
        "{recorded} in {seconds} s"
    );
}

/// The names of a server's threads, as the kernel has them: fifteen bytes of each.
fn threads(server: &Server) -> Vec<String> {
    let tasks = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let tasks = std::fs::read_dir(tasks).expect("a process of ours");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        // One that has ended meanwhile has no name.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).collect()
}

/// Who has no collector pays for none: no thread that exports, nothing that is counted, whatever callers ask for.
#[test]
fn without_an_endpoint_nothing_is_there_that_exports() {
    let exports = |name: &String| name.starts_with("OpenTelemetry");
    let collector = Collector::start();
    let traced = collector.setup("1").start();
    assert!(
        threads(&traced).iter().any(exports),
        "{:?}",
        threads(&traced)
    );

    let server = Server::start();
    let tenant = new_tenant();
    let event = status("r1", 1);
    let publish = publish::one(&tenant, &server.publisher(&tenant), &event);
    publish::must(
        server.address,
        &publish.header("traceparent", &traceparent("01")),
    );
    server.watch(&tenant).open();
    let names = threads(&server);
    assert!(names.len() > 5 && !names.iter().any(exports), "{names:?}");
    let counted = Scrape::of(&server).series;
    assert!(!counted.contains_key("tidings_trace_spans_total"));
}

#[test]
fn a_collector_that_is_not_there_harms_nobody() {
    let server = Setup::new()
        .set(
            "TIDINGS_TRACES__ENDPOINT",
            &format!("http://{}", any_address()),
        )
        .set("TIDINGS_TRACES__SAMPLE", "1")
        .start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    for number in 0..300 {
        server.publish(&tenant, &status("r1", number));
    }
    stream.events(300);
    let scrape = Scrape::until(&server, "given up", |scrape| {
        scrape.value("tidings_trace_spans_failed_total") > 0.0
    });
    assert_eq!(scrape.value("tidings_trace_spans_exported_total"), 0.0);
    assert_eq!(scrape.value("tidings_ready"), 1.0);
    server.wait_for_log("spans_lost", |line| line.contains("spans_lost"));
}

#[test]
fn a_server_ends_though_its_collector_never_answers() {
    let frozen = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = frozen.local_addr().expect("an address");
    let mut server = Setup::new()
        .set("TIDINGS_TRACES__ENDPOINT", &format!("http://{address}"))
        .set("TIDINGS_TRACES__SAMPLE", "1")
        .start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let (_connection, _) = frozen.accept().expect("spans are sent");
    server.publish(&tenant, &status("r1", 2));
    assert!(server.stop().success(), "{}", server.output.text());
}

#[test]
fn what_can_be_no_collector_is_refused_before_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, value, said) in [
        (
            "TIDINGS_TRACES__ENDPOINT",
            "https://collector:4318",
            "http://",
        ),
        ("TIDINGS_TRACES__ENDPOINT", "collector:4318", "http://"),
        ("TIDINGS_TRACES__SAMPLE", "2", "from 0 to 1"),
        ("TIDINGS_TRACES__SAMPLE", "often", "from 0 to 1"),
    ] {
        let secret = (
            "TIDINGS_AUTH__JWT__SECRET",
            "a secret of at least thirty-two bytes",
        );
        let ended = run(
            &["config", "check"],
            &[secret, (name, value)],
            folder.path(),
        );
        assert!(!ended.status.success(), "{value}");
        assert!(ended.said.contains(said), "{}", ended.said);
    }
}
