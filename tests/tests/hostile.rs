//! Clients that mean harm: what they try ends in a refusal, nothing of it reaches anybody else, and the
//! server serves on.
//!
//! Beside these: tokens that are spent, forged or stolen in `tokens.rs`, limits in `limits.rs`, heads and
//! bytes that are no HTTP in `wire.rs`, what nobody may see in `isolation.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use tidings_tests::http::encode;
use tidings_tests::publish::{self, status};
use tidings_tests::{AccessToken, Answer, Connection, Item, Request, Server, Setup, new_tenant};

/// Whether the server still does its work: an event that is published reaches a stream.
fn serves(server: &Server) {
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let receipt = server.publish(&tenant, &status("core-1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

/// Sends these bytes, says that there are no more, and reads what comes until the server closes. A reset
/// counts as the end: the server owes whoever breaks the rules nothing.
fn everything_answered(server: &Server, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(server.address).expect("a connection");
    let guard = Some(tidings_tests::GUARD);
    socket.set_read_timeout(guard).expect("a timeout");
    // The server may have refused and closed before it has read all.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answered = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        answered.extend_from_slice(&buffer[..count]);
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

#[test]
fn a_thousand_heads_that_trickle_in_keep_nobody_out() {
    let server = Server::start();
    let slow: Vec<TcpStream> = (0..1000)
        .map(|number| {
            let mut socket = TcpStream::connect(server.address).expect("a connection");
            let begun = format!("GET /tenants/{number}/events HTTP/1.1\r\nX-Slow: ");
            socket.write_all(begun.as_bytes()).expect("a first line");
            socket
        })
        .collect();
    serves(&server);
    drop(slow);
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
        let refused = lines.iter().all(|line| {
            let code = line.split(' ').nth(1).unwrap_or_default();
            matches!(code, "400" | "414" | "431")
        });
        assert!(lines.len() <= 1 && refused, "{what}: {lines:?}");
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

/// Fills the parameters of a path: the tenant as given, everything else with what exists there.
fn fill(path: &str, tenant: &str, cursor: &str) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("a parameter is closed");
        filled.push_str(before);
        filled.push_str(&match name {
            "tenant_id" => tenant.to_owned(),
            "cursor" => encode(cursor),
            "user_id" => "victim".to_owned(),
            "name" => "north".to_owned(),
            "device_id" | "device" => "secret-device".to_owned(),
            "connection_id" => "sse-000000000000".to_owned(),
            _ => "unknown".to_owned(),
        });
        rest = after;
    }
    filled + rest
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
    let event = json!({"type": "device_status", "device_id": "secret-device",
        "data": {"status": "online", "name": "secret-name"}});
    let receipt = server.publish(&other, &event);
    let mut victim = server
        .stream_of(&other)
        .bearer(&server.sign(&AccessToken::new("victim", &other, "viewer")))
        .open();
    let before = server.history(&other, "")["events"].clone();

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
                let target = fill(&path, &other, &receipt.last);
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
                let target = fill(&path, &own, &receipt.last);
                let query = format!(
                    "?tenant_id={other}&tenant={other}&after={}&device_id=secret-device&limit=10",
                    encode(&receipt.first)
                );
                let answer =
                    server.exchange(&Request::get(&format!("{target}{query}")).bearer(&token));
                assert!(!shows(&answer, "secret-name"), "{role}: {target}");
                assert!(
                    !shows(&answer, &other),
                    "{role}: {target}: {}",
                    answer.text()
                );
            }
        }
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
    assert_eq!(server.history(&other, "")["events"], before);
    let receipt = server.publish(&other, &event);
    assert_eq!(victim.next_event().cursor(), receipt.last);
}

/// Whatever a field holds, it stays within its line: of the wire and of the server's own log.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn no_field_breaks_out_of_its_line() {
    let breaks = [
        "\n", "\r", "\r\n", "\n\n", "\u{0}", "\u{2028}", "\u{85}", "\u{b}",
    ];
    let forged = "event: closing\ndata: {\"reason\":\"forged\"}";
    let server = Server::start();
    let tenant = new_tenant();
    let publisher = server.publisher(&tenant);
    let mut stream = server.watch(&tenant).open();
    let mut expected = Vec::new();
    for line_break in breaks {
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
    }
    for (cursor, evil) in expected {
        let event = stream.next_event();
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
    let log = server.output.text();
    let forged = log
        .lines()
        .find(|line| line.starts_with("event: closing") || line.starts_with("id: 1.1"));
    assert_eq!(forged, None, "{log}");
}
