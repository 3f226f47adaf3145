//! The wire, byte by byte: what a proxy, a browser and a program written from the protocol's text
//! meet. See `spec/protocol.md`, "Opening a stream" and "On the wire".

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;
use tidings_tests::access::now;
use tidings_tests::brokers::wait_for;
use tidings_tests::publish::{must, status};
use tidings_tests::{
    AccessToken, Connection, Event, GUARD, Item, Request, Server, Setup, Stream, Watch, new_tenant,
};

/// The lines of a head, without the date and with the connection id's digits checked and blanked.
fn head_lines(stream: &Stream) -> Vec<String> {
    let id = stream.connection_id();
    let digits = id.strip_prefix("sse-").expect("sse- and 12 hex digits");
    assert!(
        digits.len() == 12
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "{id}"
    );
    let mut lines: Vec<String> = stream.head.head.split("\r\n").map(str::to_owned).collect();
    let status_line = lines.remove(0);
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
    for line in &mut lines {
        let (name, value) = line.split_once(':').expect("a header line");
        let value = if name.eq_ignore_ascii_case("x-connection-id") {
            " (id)"
        } else {
            value
        };
        *line = format!("{}:{value}", name.to_ascii_lowercase());
    }
    lines.sort();
    lines.insert(0, status_line);
    lines
}

/// The bytes that a stream begins with, before anything of the log.
fn preamble(stream: &mut Stream) -> String {
    stream.read_until("the first cursor", |raw| {
        raw.windows(2).any(|pair| pair == b"\n\n")
    });
    let text = String::from_utf8(stream.raw.clone()).expect("UTF-8");
    let end = text.find("\n\n").expect("just seen") + 2;
    text[..end].to_owned()
}

/// Checks the preamble against the protocol's text; gives the cursor in it.
fn cursor_of_preamble(stream: &mut Stream) -> String {
    let text = preamble(stream);
    let lines: Vec<&str> = text.split('\n').collect();
    let [retry, connected, event, id, data, "", ""] = lines[..] else {
        panic!("{text:?}");
    };
    let retry = retry.strip_prefix("retry: ").expect("retry comes first");
    assert!(retry.bytes().all(|byte| byte.is_ascii_digit()), "{retry}");
    assert_eq!(connected, format!(": connected {}", stream.connection_id()));
    assert_eq!(event, "event: cursor");
    assert_eq!(data, "data: {}");
    id.strip_prefix("id: ").expect("an id").to_owned()
}

/// Reads on to the event with this cursor; gives what came, it included, without `cursor`s.
fn read_to(stream: &mut Stream, last: &str) -> Vec<Event> {
    let mut events = Vec::new();
    while events
        .last()
        .is_none_or(|event: &Event| event.cursor() != last)
    {
        events.push(stream.next_event());
    }
    events
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event.json()["n"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn the_head_and_the_first_bytes_are_those_of_the_protocol() {
    let server = Server::start();
    let tenant = new_tenant();
    let before = server.publish(&tenant, &status("r1", 1));
    let mut stream = server.watch(&tenant).open();
    assert_eq!(
        head_lines(&stream),
        [
            "HTTP/1.1 200 OK",
            "cache-control: no-store, no-transform",
            "connection: close",
            "content-type: text/event-stream; charset=utf-8",
            "x-accel-buffering: no",
            "x-connection-id: (id)",
            "x-content-type-options: nosniff",
        ]
    );
    assert_eq!(cursor_of_preamble(&mut stream), before.last);

    let data = format!(r#"{{"tenant_id":"{tenant}","device_id":"r1","severity":"critical"}}"#);
    let request = Request::post(&format!("/tenants/{tenant}/events"))
        .bearer(&server.publisher(&tenant))
        .body(
            "application/json",
            format!(r#"{{"type":"alert_fired","data":{data}}}"#),
        );
    let receipt = must(server.address, &request);
    let expected = format!("id: {}\nevent: alert_fired\ndata: {data}\n\n", receipt.last);
    let start = stream.raw.len();
    // A heartbeat may come before it, or behind it with the same read.
    let end = |raw: &[u8]| {
        let mut threes = raw[start..].windows(3);
        Some(start + 3 + threes.position(|three| three == b"}\n\n")?)
    };
    stream.read_until("the event", |raw| end(raw).is_some());
    let end = end(&stream.raw).expect("just seen");
    let text = String::from_utf8_lossy(&stream.raw[start..end]).into_owned();
    assert_eq!(text.replace(": heartbeat\n", ""), expected);
}

#[test]
fn the_retry_of_streams_opened_together_differs() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut stream = server.watch(&tenant).open();
        let Some(Item::Retry(milliseconds)) = stream.next_item() else {
            panic!("retry comes first: {}", stream.tail());
        };
        seen.insert(milliseconds);
    }
    assert!(seen.len() > 1, "every stream was told {seen:?}");
    assert!(
        seen.iter().all(|retry| (500..=8000).contains(retry)),
        "{seen:?}"
    );
}

#[test]
fn a_request_may_arrive_in_any_two_pieces() {
    let server = Server::start();
    let tenant = new_tenant();
    let receipt = server.publish(&tenant, &status("r1", 7));
    let access = server.viewer(&tenant);
    let request = server
        .stream_of(&tenant)
        .bearer(&access)
        .query("since", "2020-01-01T00:00:00Z")
        .request()
        .bytes();
    for split in 1..request.len() {
        let mut connection = Connection::open(server.address).expect("connects");
        connection.send(&request[..split]).expect("sends");
        std::thread::yield_now();
        connection.send(&request[split..]).expect("sends");
        let mut stream = Stream::over(connection)
            .expect("answers")
            .expect("a stream");
        assert_eq!(
            stream.next_event().cursor(),
            receipt.last,
            "split at {split}"
        );
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut connection = Connection::open(server.address).expect("connects");
    for byte in server.watch(&tenant).request().bytes() {
        connection.send(&[byte]).expect("sends");
        std::thread::yield_now();
    }
    let mut stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

#[test]
fn a_request_pipelined_behind_a_stream_is_never_answered() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let mut bytes = server.watch(&tenant).request().bytes();
    bytes.extend(Request::get("/openapi.json").bytes());
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(&bytes).expect("sends");
    let mut stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
    assert!(server.stop().success());
    let rest = stream.rest();
    assert!(
        matches!(rest.last(), Some(Item::Event(event)) if event.name == "closing"),
        "unread input must not turn the close into a reset that loses `closing`: {}",
        stream.tail()
    );
    assert!(
        !String::from_utf8_lossy(&stream.raw).contains("HTTP/1"),
        "{}",
        stream.tail()
    );
}

#[test]
fn requests_pipelined_before_a_stream_are_answered_in_order() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut bytes = Request::get("/openapi.json").bytes();
    bytes.extend(Request::get("/nothing").bytes());
    bytes.extend(server.watch(&tenant).request().bytes());
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(&bytes).expect("sends");
    assert_eq!(connection.read_answer().expect("answers").status, 200);
    connection.read_answer().expect("answers").problem(404);
    let mut stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    cursor_of_preamble(&mut stream);
}

#[test]
fn http_1_0_is_served_the_same_bytes() {
    let server = Server::start();
    let tenant = new_tenant();
    let receipt = server.publish(&tenant, &status("r1", 1));
    let request = server
        .watch(&tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .request()
        .version("HTTP/1.0");
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(&request.bytes()).expect("sends");
    let mut stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    assert!(
        stream.head.header("transfer-encoding").is_none(),
        "{}",
        stream.head.head
    );
    cursor_of_preamble(&mut stream);
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

#[test]
fn a_client_that_has_shut_its_sending_side_is_gone_or_served_but_never_leaked() {
    let server = Server::start();
    let tenant = new_tenant();
    let stream = server.watch(&tenant).open();
    let id = stream.connection_id().to_owned();
    stream.socket().shutdown(Shutdown::Both).expect("shuts");
    server.wait_for_log("that the stream has closed", |line| {
        line.contains("stream_closed") && line.contains(&id)
    });
}

/// The number of the event that says that no more will come.
const FLOOD_ENDS: u64 = u64::MAX;

/// Reads on until the event with the number `end`; gives the numbers before it.
fn read_numbers_to(mut stream: Stream, end: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let number = stream.next_event().json()["n"].as_u64().expect("a number");
        if number == end {
            return seen;
        }
        seen.push(number);
    }
}

/// About `bytes` of events in bodies of 100 lines; gives the last cursor and how many.
fn flood(server: &Server, tenant: &str, bytes: usize) -> (String, u64) {
    let padding = "x".repeat(1000);
    let mut number = 0;
    let mut last = String::new();
    while usize::try_from(number).expect("small") * 1000 < bytes {
        let events: Vec<_> = (0..100)
            .map(|_| {
                number += 1;
                json!({"type": "metric_update", "device_id": "r1", "data": {"n": number, "p": padding}})
            })
            .collect();
        last = server.publish_all(tenant, &events).last;
    }
    (last, number)
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        .start();
    let tenant = new_tenant();
    let mut slow = server.watch(&tenant).receive_buffer(4096).open();
    let (last, count) = flood(&server, &tenant, 12_000_000);
    let events = read_to(&mut slow, &last);
    assert!(numbers(&events).into_iter().eq(1..=count));
}

#[test]
fn a_client_that_never_reads_is_closed_and_nobody_waits_for_it() {
    // Longer than a reader that reads stands still.
    let server = Setup::new()
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10s")
        .start();
    let tenant = new_tenant();
    let mut stuck = server.watch(&tenant).receive_buffer(4096).open();
    let id = stuck.connection_id().to_owned();
    let other = server.watch(&tenant).open();
    let (last, count) = std::thread::scope(|scope| {
        // It reads all the time; had it to wait for the flood's end, it would stall as well.
        let reader = scope.spawn(|| read_numbers_to(other, FLOOD_ENDS));
        let flooded = flood(&server, &tenant, 12_000_000);
        let end = json!({"type": "alert_fired", "data": {"n": FLOOD_ENDS}});
        server.publish(&tenant, &end);
        let seen = reader.join().expect("a reader that gets everything");
        assert!(seen.into_iter().eq(1..=flooded.1));
        flooded
    });

    server.wait_for_log("that the stalled stream has closed", |line| {
        line.contains("stream_closed") && line.contains(&id) && line.contains("stalled")
    });
    let mut got = Vec::new();
    while let Some(event) = stuck.next_but_cursors() {
        if event.name == "closing" {
            assert_eq!(event.json()["reason"], "stalled");
            break;
        }
        got.push(event);
    }
    assert!(
        u64::try_from(got.len()).expect("small") < count,
        "it was never stalled"
    );
    let seen = numbers(&got);
    assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");

    let cursor = got
        .last()
        .map_or(stuck_start(&stuck), |event| event.cursor().to_owned());
    let mut again = server.watch(&tenant).after(&cursor).open();
    let rest = read_to(&mut again, &last);
    assert!(numbers(&rest).into_iter().eq(seen.len() as u64 + 1..=count));
}

/// Where a stream stood before its first event.
fn stuck_start(stream: &Stream) -> String {
    let text = String::from_utf8_lossy(&stream.raw).into_owned();
    let start = text.find("id: ").expect("a first cursor") + 4;
    text[start..].lines().next().expect("a line").to_owned()
}

#[test]
fn clients_that_vanish_in_the_middle_of_a_write_harm_nobody() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut other = server.watch(&tenant).open();
    let vanishing: Vec<Stream> = (0..20)
        .map(|_| server.watch(&tenant).receive_buffer(4096).open())
        .collect();
    let ids: Vec<String> = vanishing
        .iter()
        .map(|stream| stream.connection_id().to_owned())
        .collect();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&server, &tenant, 6_000_000));
        for (index, mut stream) in vanishing.into_iter().enumerate() {
            stream.read_until("a part of the flood", |raw| raw.len() > 3000 * (index + 1));
            if index % 2 == 0 {
                stream.tear();
            } else {
                drop(stream);
            }
        }
        let (last, count) = flood.join().expect("publishes");
        let events = read_to(&mut other, &last);
        assert!(numbers(&events).into_iter().eq(1..=count));
    });
    for id in ids {
        server.wait_for_log("that the stream has closed", |line| {
            line.contains("stream_closed") && line.contains(&id)
        });
    }
    assert_eq!(server.ask_admin(&Request::get("/healthz")).status, 200);
}

#[test]
fn a_heartbeat_is_a_comment_without_a_blank_line() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    preamble(&mut stream);
    let start = stream.raw.len();
    let two = b": heartbeat\n: heartbeat\n";
    stream.read_until("two heartbeats", |raw| raw.len() >= start + two.len());
    assert_eq!(
        String::from_utf8_lossy(&stream.raw[start..start + two.len()]),
        String::from_utf8_lossy(two)
    );
}

#[test]
fn a_filtered_stream_whose_position_has_moved_is_told_so_instead_of_a_heartbeat() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).query("types", "alert_fired").open();
    let start = cursor_of_preamble(&mut stream);
    let unseen = server.publish(&tenant, &status("r1", 1));
    let mut moved = stream.next_of_any().expect("a cursor");
    while moved.cursor() == start {
        moved = stream.next_of_any().expect("a cursor");
    }
    assert_eq!((moved.name.as_str(), moved.data.as_str()), ("cursor", "{}"));
    assert_eq!(moved.cursor(), unseen.last);
    let text = String::from_utf8_lossy(&stream.raw).into_owned();
    assert!(
        text.contains(&format!(
            "event: cursor\nid: {}\ndata: {{}}\n\n",
            unseen.last
        )),
        "{text}"
    );

    // What it says can be resumed after: nothing before it is told again, everything after it is.
    drop(stream);
    let seen = server.publish(&tenant, &json!({"type": "alert_fired", "data": {}}));
    let mut again = server
        .watch(&tenant)
        .query("types", "alert_fired")
        .after(moved.cursor())
        .open();
    assert_eq!(again.next_event().cursor(), seen.last);
}

#[test]
fn no_block_carries_an_id_without_data() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).query("types", "alert_fired").open();
    for number in 0..3 {
        let receipt = server.publish(&tenant, &status("r1", number));
        while stream.next_named("cursor").cursor() != receipt.last {}
    }
    let text = String::from_utf8_lossy(&stream.raw).into_owned();
    for block in text.split("\n\n").filter(|block| block.contains("id: ")) {
        assert!(
            block.contains("\ndata: ") || block.starts_with("data: "),
            "{block:?}"
        );
    }
    assert!(!text.contains("heartbeat\n\n"), "{text}");
}

#[test]
fn head_takes_no_token() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let target = format!("/tenants/{tenant}/events/stream?token={token}");
    let answer = server.exchange(&Request::new("HEAD", &target));
    assert!(
        answer.status == 200 || answer.status == 405,
        "{}",
        answer.head
    );
    let mut stream = server.stream_of(&tenant).token(&token).open();
    cursor_of_preamble(&mut stream);
}

#[test]
fn a_last_event_id_of_any_length_is_a_gap_and_never_an_error() {
    let server = Server::start();
    let tenant = new_tenant();
    for length in [1, 129, 4000] {
        let mut stream = server.watch(&tenant).after(&"9".repeat(length)).open();
        let gap = stream.next_event();
        assert_eq!(gap.name, "gap", "{gap:?}");
        assert_eq!(gap.json()["reason"], "malformed");
        let requested = gap.json()["requested"].as_str().expect("text").len();
        assert_eq!(requested, length.min(128), "{gap:?}");
    }
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_server_stays_up() {
    let server = Server::start();
    let tenant = new_tenant();
    let request = server
        .watch(&tenant)
        .after(&"9".repeat(1_000_000))
        .request();
    let mut connection = Connection::open(server.address).expect("connects");
    // The server may close before it has all; what matters is what it says and that it lives.
    let _ = connection.send(&request.bytes());
    match connection.read_head() {
        Ok(answer) => assert_eq!(answer.status, 431, "{}", answer.head),
        Err(error) => assert!(
            matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof
            ),
            "{error}"
        ),
    }
    cursor_of_preamble(&mut server.watch(&tenant).open());
}

#[test]
fn a_head_that_is_not_complete_in_ten_seconds_is_cut_off() {
    let server = Server::start();
    // One has sent nothing, one the `P` that HTTP/2's preface begins with too, one half a head.
    let mut waiting: Vec<Connection> =
        [&b""[..], b"P", b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"]
            .into_iter()
            .map(|part| {
                let mut connection = Connection::open(server.address).expect("connects");
                connection.send(part).expect("sends");
                connection
            })
            .collect();
    for connection in &mut waiting {
        match connection.read_head() {
            Ok(answer) => assert_eq!(answer.status, 408, "{}", answer.head),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{error}"),
        }
    }
}

#[test]
fn bytes_that_are_no_http_are_refused_and_the_server_stays_up() {
    let server = Server::start();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\r\n\r\n\r\n\0",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut connection = Connection::open(server.address).expect("connects");
        let _ = connection.send(garbage);
        let _ = connection.socket().shutdown(Shutdown::Write);
        match connection.read_answer() {
            Ok(answer) => assert_eq!(answer.status, 400, "{}", answer.head),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{error}"),
        }
    }
    assert_eq!(server.exchange(&Request::get("/openapi.json")).status, 200);
}

#[test]
fn what_is_not_there_is_a_problem() {
    let server = Server::start();
    let tenant = new_tenant();
    for path in [
        "/nothing", "/auth", "/healthz", "/readyz", "/metrics", "/events",
    ] {
        let answer = server.exchange(&Request::get(path).bearer(&server.viewer(&tenant)));
        answer.problem(404);
    }
}

#[test]
fn a_method_that_is_not_there_is_a_problem_that_names_those_that_are() {
    let server = Server::start();
    let tenant = new_tenant();
    let stream = format!("/tenants/{tenant}/events/stream");
    let events = format!("/tenants/{tenant}/events");
    // Was told to take GET: methods were guessed by the path's form.
    let device = format!("/tenants/{tenant}/devices/core-1");
    for (method, target, allowed) in [
        ("GET", device.as_str(), "DELETE"),
        ("GET", "/auth/sse-token", "POST"),
        ("PUT", events.as_str(), "POST"),
        ("PUT", events.as_str(), "GET"),
        ("POST", stream.as_str(), "GET"),
        ("DELETE", stream.as_str(), "GET"),
    ] {
        let answer = server.exchange(&Request::new(method, target).header("Content-Length", "0"));
        answer.problem(405);
        let allow = answer.header("allow").unwrap_or_default();
        assert!(
            allow.split(',').any(|name| name.trim() == allowed),
            "{method} {target}: Allow: {allow}"
        );
    }
}

#[test]
fn streams_are_served_under_every_mount() {
    let server = Setup::new()
        .set("TIDINGS_MOUNT", r#"["/", "/api"]"#)
        .start();
    let tenant = new_tenant();
    let minted =
        server.exchange(&Request::post("/api/auth/sse-token").bearer(&server.viewer(&tenant)));
    let token = minted.expect(200)["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let path = format!("/api/tenants/{tenant}/events/stream");
    let mut stream = Watch::at(server.address, &path).token(&token).open();
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

/// A stream over HTTP/2 with prior knowledge.
struct OverHttp2 {
    runtime: tokio::runtime::Runtime,
    head: http::response::Parts,
    body: h2::RecvStream,
    /// What has come.
    bytes: Vec<u8>,
}

impl OverHttp2 {
    fn open(address: std::net::SocketAddr, target: &str, access: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let opening = async {
            let socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("connects");
            let (mut client, connection) =
                h2::client::handshake(socket).await.expect("speaks HTTP/2");
            tokio::spawn(connection);
            let request = http::Request::get(format!("http://{address}{target}"))
                .header("authorization", format!("Bearer {access}"))
                .body(())
                .expect("a request");
            std::future::poll_fn(|task| client.poll_ready(task))
                .await
                .expect("ready");
            let (answer, _) = client.send_request(request, true).expect("sends");
            answer.await.expect("answers").into_parts()
        };
        let (head, body) = runtime
            .block_on(async { tokio::time::timeout(GUARD, opening).await })
            .expect("not a hang");
        Self {
            runtime,
            head,
            body,
            bytes: Vec::new(),
        }
    }

    /// The next bytes, without room for more in their place; `None` at a clean end.
    fn chunk(&mut self) -> Option<Result<usize, h2::Error>> {
        let body = &mut self.body;
        let next = self
            .runtime
            .block_on(async { tokio::time::timeout(GUARD, body.data()).await });
        let chunk = next.expect("not a hang")?;
        Some(chunk.map(|chunk| {
            self.bytes.extend_from_slice(&chunk);
            chunk.len()
        }))
    }

    fn allow(&mut self, bytes: usize) {
        let window = self.body.flow_control();
        window.release_capacity(bytes).expect("gives back");
    }

    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    fn read_until(&mut self, mark: &str) {
        let is_whole = |bytes: &[u8]| bytes.ends_with(b"\n\n") || bytes.ends_with(b"heartbeat\n");
        while !(self.text().contains(mark) && is_whole(&self.bytes)) {
            let taken = self.chunk().expect("more to come").expect("no reset");
            self.allow(taken);
        }
    }
}

#[test]
fn http_2_carries_the_same_bytes() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__HEARTBEAT", "500ms")
        .start();
    let tenant = new_tenant();
    let first = server.publish(&tenant, &status("r1", 0));
    let events: Vec<_> = (1..=200).map(|number| status("r1", number)).collect();
    let last = server.publish_all(&tenant, &events).last;
    // Both end with the same second.
    let access = AccessToken::new("ada", &tenant, "viewer").claim("exp", now() + 12);
    let access = server.sign(&access);

    let mut over_1 = server
        .stream_of(&tenant)
        .bearer(&access)
        .after(&first.last)
        .open();
    read_to(&mut over_1, &last);
    let target = format!(
        "/tenants/{tenant}/events/stream?last_event_id={}",
        first.last
    );
    let mut over_2 = OverHttp2::open(server.address, &target, &access);
    over_2.read_until(&format!("id: {last}\n"));

    assert_eq!(over_2.head.status, 200);
    for name in ["content-type", "cache-control", "x-accel-buffering"] {
        let value = over_2
            .head
            .headers
            .get(name)
            .map(|value| value.to_str().expect("text"));
        assert_eq!(value, over_1.head.header(name), "{name}");
    }
    assert!(over_2.head.headers.contains_key("x-connection-id"));
    assert!(!over_2.head.headers.contains_key("connection"));
    assert_eq!(from_the_cursor(&over_1.raw), from_the_cursor(&over_2.bytes));

    // Live, with heartbeats between, up to the end of the access token.
    let live = server.publish(&tenant, &status("r1", 201)).last;
    over_2.read_until(&format!("id: {live}\n"));
    over_2.read_until("heartbeat");
    let live = server.publish(&tenant, &status("r1", 202)).last;
    over_2.read_until(&format!("id: {live}\n"));
    over_2.read_until("event: closing\n");
    // The frame that ends it may be an empty one.
    while let Some(taken) = over_2.chunk() {
        assert_eq!(taken.expect("no reset"), 0, "the end of the stream");
    }
    over_1.rest();
    let without_retry = |raw: &[u8]| {
        let text = from_the_cursor(raw);
        let (before, closing) = text.split_once("event: closing\n").expect("its end");
        assert!(closing.contains(r#""reason":"expired""#), "{closing}");
        before.to_owned()
    };
    assert_eq!(without_retry(&over_1.raw), without_retry(&over_2.bytes));

    // What can't be had.
    let target = format!("/tenants/{tenant}/events/stream?last_event_id=zzzz.7");
    let access = server.viewer(&tenant);
    let mut over_2 = OverHttp2::open(server.address, &target, &access);
    over_2.read_until("event: cursor\n");
    let over_1 = server.stream_of(&tenant).bearer(&access).after("zzzz.7");
    let gap = over_1.open().next_event();
    let expected = format!("id: {}\nevent: gap\ndata: {}\n\n", gap.cursor(), gap.data);
    assert!(over_2.text().contains(&expected), "{}", over_2.text());
}

/// A client that has closed its window was given what lay ready for it after its user had been revoked, and a clean
/// end behind it.
#[test]
fn what_a_revoked_user_was_not_sent_over_http_2_is_not_sent_any_more() {
    /// The window that h2 begins with.
    const WINDOW: usize = 65_535;
    /// What hyper has taken by then and can't give back: a frame.
    const FRAME: usize = 16 * 1024;
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.sign(&AccessToken::new("eve", &tenant, "viewer"));
    let target = format!("/tenants/{tenant}/events/stream");
    let mut stream = OverHttp2::open(server.address, &target, &access);
    let events: Vec<_> = (1..=400)
        .map(|number| {
            let mut event = status("r1", number);
            event["data"]["filling"] = "x".repeat(2_000).into();
            event
        })
        .collect();
    server.publish_all(&tenant, &events);
    while stream.bytes.len() < WINDOW {
        stream.chunk().expect("more to come").expect("no reset");
    }
    let root = server.super_admin();
    let listing = Request::get("/streams?user=eve").bearer(&root);
    // The server has given what it could.
    wait_for("a stream that lags", || {
        let listed = server.exchange(&listing).expect(200);
        listed["streams"][0]["lag_events"].as_u64().expect("a lag") > 0
    });
    let revoke = Request::new("DELETE", "/users/eve/streams").bearer(&root);
    let revoked = server.exchange(&revoke).expect(200);
    assert_eq!(revoked["streams_closed"], 1);
    let seen = stream.bytes.len();
    stream.allow(WINDOW);
    let ended = loop {
        match stream.chunk().expect("no clean end") {
            Ok(taken) => stream.allow(taken),
            Err(error) => break error,
        }
    };
    assert!(ended.is_reset(), "{ended}");
    let more = stream.bytes.len() - seen;
    assert!(
        more <= FRAME,
        "{more} bytes after the revocation was answered"
    );
}

/// The bytes from the first `cursor` block to the last event; what is before it differs from stream to stream, and
/// behind it a read can end inside a heartbeat.
fn from_the_cursor(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw).replace(": heartbeat\n", "");
    let start = text.find("event: cursor\n").expect("a first cursor");
    let end = text.rfind("\n\n").expect("the end of an event") + 2;
    text[start..end].to_owned()
}

#[test]
fn a_stream_is_flushed_at_once_to_a_client_that_has_sent_expect_or_trailing_bytes() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut connection = Connection::open(server.address).expect("connects");
    let request = server.watch(&tenant).request();
    connection.send(&request.bytes()).expect("sends");
    let mut stream = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    // A client that goes on talking where it should only listen: what it says is discarded.
    for _ in 0..64 {
        let _ = stream.socket().write(&[b'z'; 1024]);
    }
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}
