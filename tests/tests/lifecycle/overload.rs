//! Too much of everything: descriptors, requests, bodies. What can't be taken is refused at once, and who asks how
//! the server is gets an answer.

use std::time::Instant;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use tidings_tests::publish::{one, status};
use tidings_tests::{
    Answer, Connection, GUARD, Request, Scrape, Server, Setup, Stream, new_tenant,
};

/// A publish whose head was sent and whose body the server waits for.
fn half_a_publish(server: &Server, tenant: &str, body: &[u8]) -> Connection {
    let request = Request::post(&format!("/tenants/{tenant}/events"))
        .bearer(&server.publisher(tenant))
        .header("Expect", "100-continue")
        .body("application/json", body);
    let bytes = request.bytes();
    let mut connection = Connection::open(server.address).expect("connects");
    connection
        .send(&bytes[..bytes.len() - body.len()])
        .expect("sends");
    let asked = connection.read_head().expect("an answer");
    assert_eq!(asked.status, 100, "{}", asked.head);
    connection
}

fn check_busy(answer: &Answer) {
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.head);
}

/// Asks until the answer is as wanted: what has ended takes the server a moment to notice.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}");
    }
}

#[test]
fn more_requests_at_once_than_configured_are_refused_at_once() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__REQUESTS", "2")
        // The bodies wait for this test.
        .set("TIDINGS_LIMITS__BODY_RATE", "0")
        .start();
    let tenant = new_tenant();
    let body = serde_json::to_vec(&status("r1", 1)).expect("plain");
    let mut first = half_a_publish(&server, &tenant, &body);
    let second = half_a_publish(&server, &tenant, &body);
    check_busy(&server.exchange(&Request::get("/openapi.json")));
    check_busy(&server.exchange(&one(&tenant, &server.publisher(&tenant), &status("r1", 2))));
    assert_eq!(server.ask_admin(&Request::get("/readyz")).status, 200);
    // What is counted is told too, while nobody else gets an answer.
    assert!(Scrape::of(&server).value("tidings_ready") > 0.0);
    first.send(&body).expect("sends");
    first.read_answer().expect("an answer").expect(200);
    // A stream takes none of the places once it is open.
    let watch = server.stream_of(&tenant).bearer(&server.viewer(&tenant));
    let streams: Vec<Stream> = (0..10).map(|_| watch.open()).collect();
    drop((second, streams));
}

#[test]
fn bodies_take_no_more_memory_together_than_configured() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__BODY_BYTES", "1MiB")
        .set("TIDINGS_LIMITS__BODIES_IN_MEMORY", "1MiB")
        .start();
    let tenant = new_tenant();
    let data = "x".repeat(700_000);
    let event = json!({"type": "metric_update", "data": {"kind": "k", "p": data}});
    let body = serde_json::to_vec(&event).expect("plain");
    let publish = one(&tenant, &server.publisher(&tenant), &event);
    until("refused beside a body that is coming in", || {
        let mut large = half_a_publish(&server, &tenant, &body);
        let came = large.send(&body[..body.len() - 1]);
        let answer = server.exchange(&publish);
        if answer.status == 200 {
            // Nothing had been read of the first by then, and perhaps it is the first that was refused.
            return false;
        }
        check_busy(&answer);
        // What is small still fits beside the first. Where both came in together, each has kept the other out.
        server.publish(&tenant, &status("r1", 1));
        came.is_ok()
            && large.send(&body[body.len() - 1..]).is_ok()
            && large.read_answer().is_ok_and(|answer| answer.status == 200)
    });
    server.exchange(&publish).expect(200);
}

#[test]
fn connections_are_refused_before_the_last_descriptor_is_gone() {
    let server = Setup::new()
        .under(&["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"])
        .start();
    server.wait_for_log("few descriptors", |line| line.contains("few descriptors"));
    let tenant = new_tenant();
    let mut publisher = Connection::open(server.address).expect("connects");
    let publish = one(&tenant, &server.publisher(&tenant), &status("r1", 1));
    publisher.exchange(&publish).expect("an answer").expect(200);
    let watch = server.stream_of(&tenant).bearer(&server.viewer(&tenant));
    let mut streams = Vec::new();
    let refused = loop {
        match watch.try_open().expect("an answer") {
            Ok(stream) => streams.push(stream),
            Err(answer) => break answer,
        }
        assert!(streams.len() < 256, "more streams than descriptors");
    };
    refused.problem(503);
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    assert!(streams.len() > 50, "{} streams", streams.len());
    for _ in 0..50 {
        assert_eq!(watch.refused().status, 503);
    }

    // Those who are there are served, and who asks is answered.
    assert_eq!(server.ask_admin(&Request::get("/healthz")).status, 200);
    let unready = server.ask_admin(&Request::get("/readyz")).expect(503);
    assert_eq!(unready["reasons"][0]["reason"], "descriptors_short");
    let scrape = Scrape::of(&server);
    assert!(scrape.sum("tidings_streams") >= streams.len() as f64);
    assert!(scrape.value("tidings_ready") < 1.0);
    let receipt = publisher.exchange(&publish).expect("an answer").expect(200);
    for stream in &mut streams {
        assert_eq!(
            stream.next_event().cursor(),
            receipt["last"].as_str().expect("a cursor")
        );
    }

    streams.truncate(20);
    until("a stream again", || matches!(watch.try_open(), Ok(Ok(_))));
    until("ready again", || {
        server.ask_admin(&Request::get("/readyz")).status == 200
    });
}

/// Before this had a test, a comment said what would happen.
#[test]
fn a_process_without_a_descriptor_left_goes_on_when_there_is_one() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let mut publisher = Connection::open(server.address).expect("connects");
    let publish = one(&tenant, &server.publisher(&tenant), &status("r1", 1));
    publisher.exchange(&publish).expect("an answer").expect(200);
    stream.next_event();

    let none = Rlimit {
        current: Some(3),
        maximum: hard_limit(&server),
    };
    let before = prlimit(Some(server.pid()), Resource::Nofile, none).expect("a process of ours");
    let mut waits = Connection::open(server.address).expect("the kernel takes it");
    waits
        .send(&Request::get("/openapi.json").bytes())
        .expect("sends");
    server.wait_for_log("it", |line| line.contains("connections can't be accepted"));
    let receipt = publisher.exchange(&publish).expect("an answer").expect(200);
    assert_eq!(
        stream.next_event().cursor(),
        receipt["last"].as_str().expect("a cursor")
    );

    prlimit(Some(server.pid()), Resource::Nofile, before).expect("a process of ours");
    waits.read_answer().expect("an answer").expect(200);
    server.wait_for_log("it", |line| line.contains("accepted again"));
}

/// The limit on descriptors that a process can't go beyond; none is no limit.
fn hard_limit(server: &Server) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", server.pid().as_raw_nonzero()));
    let text = text.expect("of a process of ours");
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(4));
    hard.expect("a hard limit").parse().ok()
}
