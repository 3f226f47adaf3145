//! Clients that mean harm: what they try ends in a refusal, nothing of it reaches anybody else, and the
//! server serves on.
//!
//! Beside these: tokens that are spent, forged or stolen in `tokens.rs`, limits in `limits.rs`, heads and
//! bytes that are no HTTP in `wire.rs`, what nobody may see in `isolation.rs`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::access::now;
use tidings_tests::http::encode;
use tidings_tests::moments::seconds;
use tidings_tests::publish::{self, status};
use tidings_tests::{
    AccessToken, Answer, Connection, GUARD, Item, Request, Server, Setup, Watch, new_tenant,
};

/// Whether the server still does its work: an event that is published reaches a stream.
fn serves(server: &Server) {
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let receipt = server.publish(&tenant, &status("core-1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

/// Sends these bytes, says that there are no more, and reads what comes until the server closes. A reset
/// counts as the end: the server owes whoever breaks the rules nothing. That nothing comes does not.
fn everything_answered(server: &Server, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(server.address).expect("a connection");
    let guard = Some(GUARD);
    socket.set_read_timeout(guard).expect("a timeout");
    // The server may have refused and closed before it has read all.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answered = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answered.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!(
                "the connection was not ended: {error}; it said {:?}",
                String::from_utf8_lossy(&answered)
            ),
        }
    }
    String::from_utf8_lossy(&answered).into_owned()
}

fn status_lines(answered: &str) -> Vec<&str> {
    answered
        .split("\r\n")
        .flat_map(|line| line.split('\n'))
        .filter_map(|line| line.find("HTTP/1.").map(|at| &line[at..]))
        .collect()
}

/// Each of them sends a byte a second, so that no wait for the next one is ever long; what ends them is that a head as
/// a whole has its time.
#[test]
fn a_thousand_heads_that_trickle_in_keep_nobody_out_and_are_ended() {
    let server = Server::start();
    let mut slow: Vec<TcpStream> = (0..1000)
        .map(|number| {
            let mut socket = TcpStream::connect(server.address).expect("a connection");
            let begun = format!("GET /tenants/{number}/events HTTP/1.1\r\nX-Slow: ");
            socket.write_all(begun.as_bytes()).expect("a first line");
            socket.set_nonblocking(true).expect("a socket");
            socket
        })
        .collect();
    serves(&server);
    let deadline = Instant::now() + GUARD;
    while !slow.is_empty() {
        assert!(
            Instant::now() < deadline,
            "{} are still listened to",
            slow.len()
        );
        slow.retain_mut(|socket| {
            let mut buffer = [0; 1024];
            let goes_on = match socket.read(&mut buffer) {
                Ok(0) => false,
                // A 408 on the way out.
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            goes_on && socket.write_all(b"x").is_ok()
        });
        // The pace of the bytes.
        std::thread::sleep(Duration::from_secs(1));
    }
    serves(&server);
}

#[test]
fn heads_that_are_too_much_are_refused() {
    let server = Server::start();
    let line = "X-Filler: 0123456789\r\n";
    let bombs = [
        (
            "many lines",
            format!(
                "GET /healthz HTTP/1.1\r\nHost: a\r\n{}\r\n",
                line.repeat(5_000)
            ),
        ),
        (
            "a long line",
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "x".repeat(1 << 20)
            ),
        ),
        (
            "a long target",
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 20)),
        ),
        (
            "a long method",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(1 << 20)),
        ),
        (
            "a long cookie",
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nCookie: a={}\r\n\r\n",
                "x".repeat(1 << 20)
            ),
        ),
    ];
    for (what, bomb) in bombs {
        let answered = everything_answered(&server, bomb.as_bytes());
        let lines = status_lines(&answered);
        let codes: Vec<_> = lines.iter().map(|line| line.split(' ').nth(1)).collect();
        assert!(
            matches!(codes[..], [Some("400" | "414" | "431")]),
            "{what}: {answered:?}"
        );
    }
    serves(&server);
}

/// What a proxy in front may take for one request and the server for two, or the other way round. What is hidden
/// inside must never be carried out.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn a_request_hidden_in_another_is_never_carried_out() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.publisher(&tenant);
    let hidden = publish::one(&tenant, &token, &status("smuggled", 666)).bytes();
    let hidden = String::from_utf8(hidden).expect("a request in UTF-8");
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let target = format!("/tenants/{tenant}/events");
    let framings = [
        // The length says that nothing follows, the coding says that all of it is the body.
        (
            "both, length first",
            format!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
        ),
        (
            "both, coding first",
            format!("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n{chunk}"),
        ),
        // An empty chunked body to one, a body of so many bytes to the other.
        (
            "the end of chunks first",
            format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
                length + 5
            ),
        ),
        (
            "two lengths",
            format!("Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        (
            "two lengths in one",
            format!("Content-Length: {length}, 0\r\n\r\n{hidden}"),
        ),
        (
            "a signed length",
            format!("Content-Length: +{length}\r\n\r\n{hidden}"),
        ),
        (
            "a length in hexadecimal",
            format!("Content-Length: 0x{length:x}\r\n\r\n{hidden}"),
        ),
        (
            "a space before the colon",
            format!("Content-Length : {length}\r\n\r\n{hidden}"),
        ),
        (
            "a coding with a space",
            format!("Transfer-Encoding : chunked\r\n\r\n{chunk}"),
        ),
        (
            "a coding that is none",
            format!("Transfer-Encoding: xchunked\r\n\r\n{chunk}"),
        ),
        (
            "a coding that is not last",
            format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunk}"),
        ),
        (
            "a coding given twice",
            format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunk}"),
        ),
        (
            "a folded line",
            format!(
                "X-Folded: a\r\n Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n{hidden}"
            ),
        ),
        (
            "a chunk with a signed size",
            format!("Transfer-Encoding: chunked\r\n\r\n+{length:x}\r\n{hidden}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk with a huge size",
            format!("Transfer-Encoding: chunked\r\n\r\n1ffffffffffffffff\r\n{hidden}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk whose end is missing",
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{hidden}0\r\n\r\n"),
        ),
    ];
    for (what, framing) in framings {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{framing}"
        );
        let answered = everything_answered(&server, request.as_bytes());
        let taken = status_lines(&answered)
            .iter()
            .any(|line| line.contains(" 200 "));
        assert!(!taken, "{what}:\n{answered}");
    }
    let history = server.history(&tenant, "");
    assert_eq!(history["events"], json!([]), "nothing was published");
    serves(&server);
}

#[test]
fn garbage_behind_a_request_is_no_request() {
    let server = Server::start();
    for garbage in [
        "\r\n\r\nGARBAGE\r\n\r\n",
        "\0\0\0\0",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let request = format!("GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n{garbage}");
        let answered = everything_answered(&server, request.as_bytes());
        let lines = status_lines(&answered);
        assert!(lines[0].contains(" 200 "), "{garbage:?}: {lines:?}");
        let others = &lines[1..];
        assert!(
            others.iter().all(|line| line.contains(" 400 ")),
            "{garbage:?}: {lines:?}"
        );
    }
    serves(&server);
}

#[test]
fn a_body_that_unpacks_to_more_is_refused_packed() {
    let server = Server::start();
    let tenant = new_tenant();
    for coding in ["gzip", "deflate", "br", "zstd", "identity, gzip", "x-gzip"] {
        let request = publish::one(&tenant, &server.publisher(&tenant), &status("core-1", 1))
            .header("Content-Encoding", coding);
        server.exchange(&request).problem(415);
    }
    assert_eq!(server.history(&tenant, "")["events"], json!([]));
}

#[test]
fn a_chunked_body_without_end_is_refused_at_the_limit() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__BODY_BYTES", "64KiB")
        .set("TIDINGS_LIMITS__EVENT_BYTES", "64KiB")
        .start();
    let tenant = new_tenant();
    let mut request = format!(
        "POST /tenants/{tenant}/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.publisher(&tenant)
    );
    let chunk = format!("1000\r\n{}\r\n", "\n".repeat(0x1000));
    request.push_str(&chunk.repeat(64));
    let mut connection = Connection::open(server.address).expect("a connection");
    // It is refused while more comes, which can cut the sending off.
    let _ = connection.send(request.as_bytes());
    match connection.read_answer() {
        Ok(answer) => {
            answer.problem(413);
        }
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{error}"),
    }
    assert_eq!(server.history(&tenant, "")["events"], json!([]));
    serves(&server);
}

/// A token is looked up before it is taken, so that a guess must not cost whoever has the real one anything.
#[test]
fn guesses_at_a_stream_token_open_nothing_and_spend_nothing() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let mut guesses: Vec<String> = (0..token.len())
        .map(|at| {
            let mut guess: Vec<u8> = token.bytes().collect();
            guess[at] = if guess[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(guess).expect("ASCII")
        })
        .collect();
    guesses.extend([
        token[1..].to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}="),
        format!("{token} "),
        format!("{token}\0"),
        token.to_ascii_lowercase(),
        token.to_ascii_uppercase(),
        "*".to_owned(),
        "x".repeat(8_000),
        "../../etc/passwd".to_owned(),
        "' OR 1=1 --".to_owned(),
    ]);
    for guess in guesses.iter().filter(|guess| **guess != token) {
        let refused = server.stream_of(&tenant).token(guess).refused();
        let problem = refused.problem(401);
        assert_eq!(problem["detail"], "Invalid or expired SSE token");
    }
    server.stream_of(&tenant).token(&token).open();
}

/// Every path of the API's own description, for every method.
fn calls() -> Vec<(String, String)> {
    let text = include_str!("../../spec/openapi.json");
    let description: Value = serde_json::from_str(text).expect("JSON");
    let paths = description["paths"].as_object().expect("paths");
    let mut calls = Vec::new();
    for (path, item) in paths {
        for method in item.as_object().expect("methods").keys() {
            if matches!(method.as_str(), "get" | "put" | "post" | "delete" | "patch") {
                calls.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(calls.len() > 15, "{calls:?}");
    calls
}

/// What there is of the tenant that is to be left alone.
struct Victim {
    tenant: String,
    cursor: String,
    connection: String,
    key: String,
}

/// The group, the user and the token of the victim's.
const GROUP: &str = "north";
const USER: &str = "victim";
const TOKEN: &str = "victims-token";

/// Fills the parameters of a path: the tenant as given, everything else with what exists at the victim's.
fn fill(path: &str, tenant: &str, victim: &Victim) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("a parameter is closed");
        filled.push_str(before);
        filled.push_str(&match name {
            "tenant_id" => tenant.to_owned(),
            "cursor" => encode(&victim.cursor),
            "user_id" => USER.to_owned(),
            "name" => GROUP.to_owned(),
            "device" => "secret-device".to_owned(),
            "connection_id" => victim.connection.clone(),
            "id" => victim.key.clone(),
            "token_id" => TOKEN.to_owned(),
            _ => panic!("a parameter that this test does not know: {name}"),
        });
        rest = after;
    }
    filled + rest
}

/// What the calls that name no tenant in their path are sent.
fn body_of(path: &str, victim: &Victim) -> String {
    match path {
        "/keys" => json!({"name": "intruders", "tenants": [victim.tenant]}),
        "/keys/{id}/rotate" => json!({"overlap_seconds": 0}),
        _ => json!({}),
    }
    .to_string()
}

fn shows(answer: &Answer, secret: &str) -> bool {
    answer.head.contains(secret) || String::from_utf8_lossy(&answer.body).contains(secret)
}

/// Whoever belongs to one tenant asks every call of the API for another's, by path, cursor, filter and body.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn no_call_shows_or_changes_anything_of_another_tenant() {
    let server = Server::start();
    let (own, other) = (new_tenant(), new_tenant());
    let root = server.super_admin();
    let event = json!({"type": "device_status", "device_id": "secret-device",
        "data": {"status": "online", "name": "secret-name"}});
    let receipt = server.publish(&other, &event);
    let access = AccessToken::new(USER, &other, "viewer").claim("jti", TOKEN);
    let access = server.sign(&access);
    let mut stream_of_victim = server.stream_of(&other).bearer(&access).open();
    let make_key = Request::post("/keys").bearer(&root).body(
        "application/json",
        json!({"name": "secret-name", "tenants": [other]}).to_string(),
    );
    let issued = server.exchange(&make_key).expect(201);
    let victim = Victim {
        tenant: other.clone(),
        cursor: receipt.last.clone(),
        connection: stream_of_victim.connection_id().to_owned(),
        key: issued["info"]["id"].as_str().expect("an id").to_owned(),
    };
    let group = format!("/tenants/{other}/device-groups/{GROUP}");
    let devices = json!({"devices": ["secret-device", "secret-name"]});
    let make_group = Request::new("PUT", &group)
        .bearer(&root)
        .body("application/json", devices.to_string());
    assert_eq!(server.exchange(&make_group).status, 204);
    // All that the victim's tenant has; who used its key last is left out.
    let all_of_victim = || {
        let get = |target: &str| {
            let answer = server.exchange(&Request::get(target).bearer(&root));
            answer.expect(200)
        };
        let mut keys = get("/keys");
        for key in keys["keys"].as_array_mut().expect("keys") {
            key["last_used_at"] = Value::Null;
        }
        [
            server.history(&other, "")["events"].clone(),
            get(&format!("/tenants/{other}/state"))["subjects"].clone(),
            get(&group),
            keys,
            get(&format!("/streams?tenant={other}"))["streams"][0]["connection_id"].clone(),
        ]
    };
    let before = all_of_victim();

    for role in [
        "viewer",
        "publisher",
        "tenant_operator",
        "admin",
        "super_admin ",
    ] {
        let token = server.sign(&AccessToken::new("intruder", &own, role));
        for (method, path) in calls() {
            // In the path.
            if path.contains("{tenant_id}") {
                let target = fill(&path, &other, &victim);
                let queries = ["", "?confirm=", "?limit=10", "?scope=tenant"];
                for query in queries {
                    let query = if query == "?confirm=" {
                        format!("?confirm={other}")
                    } else {
                        query.to_owned()
                    };
                    let request = Request::new(&method, &format!("{target}{query}"))
                        .bearer(&token)
                        .body("application/json", event.to_string());
                    let answer = server.exchange(&request);
                    assert!(
                        (400..500).contains(&answer.status),
                        "{role}: {method} {target}{query}: {}\n{}",
                        answer.head,
                        answer.text()
                    );
                    assert!(!shows(&answer, "secret-"), "{role}: {method} {target}");
                }
            }
            // On the own path, in everything else. Streams are read below.
            if method == "GET" && !path.ends_with("/stream") {
                let target = fill(&path, &own, &victim);
                let queries = [
                    String::new(),
                    format!("?tenant={other}"),
                    format!("?user={USER}"),
                    format!(
                        "?tenant_id={other}&tenant={other}&after={}&device_id=secret-device&limit=10",
                        encode(&receipt.first)
                    ),
                ];
                for query in queries {
                    let request = Request::get(&format!("{target}{query}")).bearer(&token);
                    let answer = server.exchange(&request);
                    for secret in ["secret-name", &other, &victim.connection, &victim.key] {
                        assert!(
                            !shows(&answer, secret),
                            "{role}: {target}{query}: {}",
                            answer.text()
                        );
                    }
                }
            }
            // What names no tenant in its path and changes something: refused, or it found nobody.
            if method != "GET" && !path.contains("{tenant_id}") {
                let target = fill(&path, &own, &victim);
                for query in [String::new(), format!("?tenant={other}")] {
                    let request = Request::new(&method, &format!("{target}{query}"))
                        .bearer(&token)
                        .body("application/json", body_of(&path, &victim));
                    let answer = server.exchange(&request);
                    let harmless = match path.as_str() {
                        "/auth/sse-token" => answer.status == 200,
                        "/users/{user_id}/streams" | "/tokens/{token_id}/streams" => {
                            query.is_empty()
                                && answer.status == 200
                                && answer.json()["streams_closed"] == 0
                        }
                        _ => false,
                    };
                    assert!(
                        harmless || (400..500).contains(&answer.status),
                        "{role}: {method} {target}{query}: {}\n{}",
                        answer.head,
                        answer.text()
                    );
                    assert!(!shows(&answer, "secret-"), "{role}: {method} {target}");
                }
            }
        }
        Watch::at(server.address, "/events/stream")
            .bearer(&token)
            .refused()
            .problem(403);
        // A stream of the own tenant with the other's cursor, filters and claims.
        let mut stream = server
            .stream_of(&own)
            .bearer(&token)
            .after(&receipt.first)
            .query("device_id", "secret-device")
            .query("tenant_id", &other)
            .open();
        let mark = server.publish(
            &own,
            &json!({"type": "device_status", "device_id": "secret-device", "data": {"mark": role}}),
        );
        loop {
            let shown = stream.next_event();
            assert_eq!(shown.json()["tenant_id"], own, "{role}");
            if shown.cursor() == mark.last {
                break;
            }
        }
    }

    // Nothing has changed for whom it belongs to.
    assert_eq!(all_of_victim(), before);
    let key = issued["key"].as_str().expect("a key");
    let receipt = server.exchange(&publish::one(&other, key, &event));
    let last = receipt.expect(200)["last"].clone();
    assert_eq!(stream_of_victim.next_event().cursor(), last);
    server.stream_of(&other).bearer(&access).open();

    // The same calls by the victim's own operator find what they name, so that above it was there to be found.
    let operator = AccessToken::new("operator", &other, "tenant_operator").claim("iat", now() + 30);
    let operator = server.sign(&operator);
    for (method, path, status) in [
        ("GET", "/tenants/{tenant_id}/device-groups/{name}", 200),
        ("GET", "/tenants/{tenant_id}/events/{cursor}/audience", 200),
        ("POST", "/keys/{id}/rotate", 200),
        ("DELETE", "/streams/{connection_id}", 204),
        ("DELETE", "/tokens/{token_id}/streams", 200),
        ("DELETE", "/users/{user_id}/streams", 200),
    ] {
        let request = Request::new(method, &fill(path, &other, &victim)).bearer(&operator);
        let request = request.body("application/json", "{}");
        assert_eq!(server.exchange(&request).status, status, "{method} {path}");
    }
    server
        .stream_of(&other)
        .bearer(&access)
        .refused()
        .problem(401);
}

/// What every line in front of which a field broke out would begin with: of the wire, and of the server's log in
/// either form.
const FORGED: &str = "event: closing\ndata: {\"reason\":\"forged\"}\n\
    {\"timestamp\":\"2026-01-01T00:00:00Z\",\"level\":\"ERROR\",\"message\":\"forged\"}\n\
    2026-01-01T00:00:00.000000Z ERROR tidings: forged";

const BREAKS: [&str; 8] = [
    "\n", "\r", "\r\n", "\n\n", "\u{0}", "\u{2028}", "\u{85}", "\u{b}",
];

/// Holds each line of the server's log to be one that the server began: an object with its own time, or a time and a level.
fn lines_are_the_servers_own(server: &Server) {
    let log = server.output.text();
    let is_json = log.starts_with('{');
    let mut lines = 0;
    for line in log.lines() {
        lines += 1;
        let message = if is_json {
            let line: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error}: no line of the server's: {line:?}"));
            line["message"].as_str().unwrap_or_default().to_owned()
        } else {
            let mut words = line.split_whitespace();
            let (time, level) = (words.next(), words.next());
            let is_time = time
                .is_some_and(|time| time.len() == 27 && time.ends_with('Z') && seconds(time) > 0.0);
            let is_level =
                level.is_some_and(|level| matches!(level, "ERROR" | "WARN" | "INFO" | "DEBUG"));
            assert!(is_time && is_level, "no line of the server's: {line:?}");
            words.nth(1).unwrap_or_default().to_owned()
        };
        assert_ne!(message, "forged", "{line}");
        // What a terminal obeys.
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(lines > 20, "it logged next to nothing: {log}");
}

#[test]
fn no_field_breaks_out_of_its_line_and_the_log_is_json() {
    no_field_breaks_out_of_its_line("json");
}

#[test]
fn no_field_breaks_out_of_its_line_and_the_log_is_for_people() {
    no_field_breaks_out_of_its_line("pretty");
}

/// Whatever a field holds, it stays within its line: of the wire and of the server's own log.
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn no_field_breaks_out_of_its_line(format: &str) {
    let server = Setup::new()
        .set("TIDINGS_LOGGING__FORMAT", format)
        .set("TIDINGS_LOGGING__LEVEL", "debug")
        .set("TIDINGS_PROXIES__TRUSTED", "127.0.0.0/8")
        .start();
    let root = server.super_admin();
    let tenant = new_tenant();
    let publisher = server.publisher(&tenant);
    let mut stream = server.watch(&tenant).open();
    let mut expected = Vec::new();
    for line_break in BREAKS {
        let forged = FORGED.replace('\n', line_break);
        let evil = format!("a{line_break}{line_break}{forged}{line_break}{line_break}id: 1.1");
        let well = json!({"type": "device_status", "device_id": "core-1",
            "data": {"status": evil, "name": evil, evil.clone(): evil}});
        expected.push((server.publish(&tenant, &well).last, evil.clone()));
        // Fields with a form of their own refuse it.
        for field in ["type", "device_id", "time"] {
            let mut event = status("core-1", 1);
            event[field] = json!(evil);
            let answer = server.exchange(&publish::one(&tenant, &publisher, &event));
            assert_eq!(answer.problem(422)["field"], field);
        }
        // A key is anybody's text; it is never shown.
        let mut keyed = status("core-1", 2);
        keyed["key"] = json!(evil);
        let answer = server.exchange(&publish::one(&tenant, &publisher, &keyed));
        if answer.status == 200 {
            expected.push((
                answer.json()["last"].as_str().expect("a cursor").to_owned(),
                String::new(),
            ));
        } else {
            answer.problem(422);
        }
        // In a cursor, which a gap repeats.
        let mut resumed = server.watch(&tenant).query("last_event_id", &evil).open();
        let gap = resumed.next_named("gap");
        assert_eq!(gap.json()["reason"], "malformed");
        // In parameters, which a problem repeats.
        for name in [
            "types",
            "device_id",
            "since",
            "scope",
            "snapshot",
            "conflate",
            encode(&evil).as_str(),
        ] {
            let refused = server
                .watch(&tenant)
                .query(name, &evil)
                .try_open()
                .expect("an answer");
            if let Err(answer) = refused {
                answer.problem(422);
            }
        }
        // In a claim, which the log and operators' lists repeat.
        let user = server.sign(&AccessToken::new(&evil, &tenant, "viewer"));
        let opened = server
            .stream_of(&tenant)
            .bearer(&user)
            .try_open()
            .expect("an answer");
        drop(opened);
        // In names and ids that operators give, in paths and in bodies; the log and the audit log repeat them.
        let encoded = encode(&evil);
        for (method, target, body) in [
            (
                "PUT",
                format!("/tenants/{tenant}/device-groups/{encoded}"),
                json!({"devices": ["core-1"]}),
            ),
            (
                "PUT",
                format!("/tenants/{tenant}/device-groups/north"),
                json!({"devices": [evil]}),
            ),
            (
                "POST",
                "/keys".to_owned(),
                json!({"name": evil, "tenants": [tenant]}),
            ),
            ("POST", format!("/keys/{encoded}/rotate"), json!({})),
            ("DELETE", format!("/keys/{encoded}"), json!({})),
            ("DELETE", format!("/streams/{encoded}"), json!({})),
            ("DELETE", format!("/users/{encoded}/streams"), json!({})),
            ("DELETE", format!("/tokens/{encoded}/streams"), json!({})),
            (
                "DELETE",
                format!("/tenants/{tenant}/devices/{encoded}"),
                json!({}),
            ),
            (
                "DELETE",
                format!("/tenants/{tenant}?confirm={encoded}"),
                json!({}),
            ),
            (
                "GET",
                format!("/streams?user={encoded}&tenant={encoded}"),
                json!({}),
            ),
            ("GET", format!("/audit?tenant={encoded}"), json!({})),
            ("GET", format!("/{encoded}"), json!({})),
        ] {
            let request = Request::new(method, &target).bearer(&root);
            let answer = server.exchange(&request.body("application/json", body.to_string()));
            assert!(
                (400..500).contains(&answer.status) || answer.status < 300,
                "{method} {target}: {}",
                answer.head
            );
            assert!(!answer.head.contains("forged"), "{}", answer.head);
        }
        // In headers that the log, traces or answers repeat. One that ends its line there is another header line, and
        // what is no header is refused with the whole request.
        for name in [
            "Idempotency-Key",
            "traceparent",
            "tracestate",
            "X-Forwarded-For",
            "Forwarded",
            "Last-Event-ID",
            "User-Agent",
            "Origin",
        ] {
            for value in [&evil, &encoded] {
                let request = publish::one(&tenant, &publisher, &status("core-2", 9));
                let mut connection = Connection::open(server.address).expect("a connection");
                let sent = connection.send(&request.header(name, value).bytes());
                sent.expect("it goes out");
                let answer = connection.read_answer().expect("an answer");
                assert!(
                    answer.status == 200 || (400..500).contains(&answer.status),
                    "{name}: {}",
                    answer.head
                );
                assert!(!shows(&answer, "forged"), "{name}: {}", answer.text());
            }
        }
    }
    // Those that the headers came with count for nothing here.
    let mut next = || loop {
        let event = stream.next_event();
        if event.json()["device_id"] != "core-2" {
            return event;
        }
    };
    for (cursor, evil) in expected {
        let event = next();
        assert_eq!(event.cursor(), cursor);
        if !evil.is_empty() {
            assert_eq!(event.json()["status"], evil);
            assert_eq!(event.json()[&evil], evil);
        }
    }
    let mark = server.publish(&tenant, &status("core-1", 3));
    let mut items = Vec::new();
    loop {
        let item = stream.next_item().expect("the stream goes on");
        let last =
            matches!(&item, Item::Event(event) if event.id.as_deref() == Some(mark.last.as_str()));
        items.push(item);
        if last {
            break;
        }
    }
    let forged = items
        .iter()
        .any(|item| matches!(item, Item::Event(event) if event.name == "closing"));
    assert!(!forged, "{items:?}");
    lines_are_the_servers_own(&server);
}
