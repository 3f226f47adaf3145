//! What an operator meets: health, a clean stop, starting again, refusals to start that say why,
//! a full disk, and logs that give nobody away.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tidings_tests::publish::{self, status};
use tidings_tests::server::{any_address, run, run_to_end};
use tidings_tests::{
    AccessToken, Connection, Item, Receipt, Request, Scrape, Server, Setup, Stream, new_tenant,
};

#[test]
fn health_is_told_on_the_admin_listener_only() {
    let server = Server::start();
    assert_eq!(server.ask_admin(&Request::get("/healthz")).status, 200);
    assert_eq!(server.ask_admin(&Request::get("/readyz")).status, 200);
    for path in ["/healthz", "/readyz"] {
        server.exchange(&Request::get(path)).problem(404);
    }
    let tenant = new_tenant();
    let target = format!("/tenants/{tenant}/events");
    let answer = server.ask_admin(&Request::get(&target).bearer(&server.viewer(&tenant)));
    assert_eq!(answer.status, 404, "the API is not on the admin listener");
}

/// The last event of a stream that the server has ended; its `retry`.
fn closing_of(stream: &mut Stream, reason: &str) -> u64 {
    let items = stream.rest();
    let Some(Item::Event(event)) = items.last() else {
        panic!("the stream ended without a word: {}", stream.tail());
    };
    assert_eq!(
        (event.name.as_str(), event.id.as_ref()),
        ("closing", None),
        "{event:?}"
    );
    assert!(!stream.reset, "the close was a reset");
    let data = event.json();
    assert_eq!(data["reason"], reason);
    data["retry"].as_u64().expect("milliseconds")
}

#[test]
fn a_stop_tells_every_stream_and_ends_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let tenant = new_tenant();
        let mut streams: Vec<Stream> = (0..50).map(|_| server.watch(&tenant).open()).collect();
        let receipt = server.publish(&tenant, &status("r1", 1));
        server.signal(signal);
        let mut retries = std::collections::BTreeSet::new();
        for stream in &mut streams {
            assert_eq!(stream.next_event().cursor(), receipt.last);
            retries.insert(closing_of(stream, "draining"));
        }
        assert!(
            retries.len() > 1,
            "all would come back at once, after {retries:?}"
        );
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
    }
}

/// Browsers open connections in advance. A stop waited for the first byte of each until its deadline
/// and then cut them off.
#[test]
fn a_connection_that_has_said_nothing_holds_up_no_stop() {
    let mut server = Setup::new().set("TIDINGS_SHUTDOWN__GRACE", "30s").start();
    let silent = Connection::open(server.address).expect("a connection");
    // Accepted in order: once this one is answered, the silent one is being served.
    server.exchange(&Request::get("/openapi.json")).expect(200);
    assert_eq!(server.stop().code(), Some(0));
    let said = server.output.text_at_end();
    assert!(
        said.contains("stopped") && !said.contains("cut off"),
        "{said}"
    );
    drop(silent);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_client_that_does_not_read() {
    let mut server = Setup::new().set("TIDINGS_SHUTDOWN__DRAIN", "1s").start();
    let tenant = new_tenant();
    let stuck = server.watch(&tenant).receive_buffer(4096).open();
    let padding = "x".repeat(1000);
    for _ in 0..100 {
        let events: Vec<Value> = (0..100)
            .map(|number| json!({"type": "metric_update", "data": {"n": number, "p": padding}}))
            .collect();
        server.publish_all(&tenant, &events);
    }
    // Half a request is under way, too.
    let mut half = tidings_tests::Connection::open(server.address).expect("connects");
    half.send(b"POST /auth/sse-token HTTP/1.1\r\nHost:")
        .expect("sends");
    assert_eq!(server.stop().code(), Some(0));
    drop((stuck, half));
}

#[test]
fn a_stopped_or_killed_server_starts_again_at_once_where_it_was() {
    let mut server = Server::start();
    let tenant = new_tenant();
    for round in 0..6 {
        // Connections that the server closed first stay in TIME_WAIT on its port.
        let mut streams: Vec<Stream> = (0..10).map(|_| server.watch(&tenant).open()).collect();
        server.publish(&tenant, &status("r1", round));
        if round % 2 == 0 {
            assert!(server.stop().success());
            for stream in &mut streams {
                closing_of(stream, "draining");
            }
        } else {
            server.kill();
        }
        server.start_again();
    }
    let page = server.history(&tenant, "");
    assert_eq!(page["events"].as_array().expect("a list").len(), 6);
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_told_who_has_it() {
    let server = Server::start();
    let mut second = server.command();
    second
        .env("TIDINGS_LISTEN", any_address().to_string())
        .env("TIDINGS_ADMIN_LISTEN", any_address().to_string());
    let ended = run_to_end(second);
    assert!(!ended.status.success());
    let pid = server.pid().as_raw_nonzero().to_string();
    assert!(ended.said.contains(&pid), "who has it? {}", ended.said);
    assert!(
        ended.said.contains(&server.folder().display().to_string()),
        "{}",
        ended.said
    );
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
}

/// No credential was needed to have 64 KiB written for each request.
#[test]
fn what_a_client_sends_does_not_fill_the_log() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let long = "a".repeat(25_000);
    for parameter in ["types", "conflate", "since", "device_id"] {
        let request = server.stream_of(&tenant).token("x").query(parameter, &long);
        let problem = request.refused().problem(422);
        assert_eq!(problem["parameter"], parameter);
        assert!(problem["detail"].as_str().expect("text").len() < 1000);
    }
    let twice = format!("/tenants/{tenant}/events/stream?{long}=1&{long}=2");
    server.exchange(&Request::get(&twice)).problem(422);
    server.stop();
    let written = server.output.text_at_end();
    assert_eq!(written.matches("stream_refused").count(), 5, "{written}");
    assert!(written.contains("conflate") && !written.contains(&long[..100]));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    for (listen, admin) in [
        (server.address, any_address()),
        (any_address(), server.address),
    ] {
        let mut second = server.command();
        second
            .env("TIDINGS_LISTEN", listen.to_string())
            .env("TIDINGS_ADMIN_LISTEN", admin.to_string())
            .env("TIDINGS_LOG__PATH", folder.path());
        let ended = run_to_end(second);
        assert!(!ended.status.success());
        assert!(
            ended.said.contains(&server.address.to_string()),
            "{}",
            ended.said
        );
    }
}

#[test]
fn without_a_key_it_does_not_start_and_says_which_setting_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (listen, admin) = (any_address().to_string(), any_address().to_string());
    let ended = run(
        &["serve"],
        &[
            ("TIDINGS_LISTEN", &listen),
            ("TIDINGS_ADMIN_LISTEN", &admin),
        ],
        folder.path(),
    );
    assert!(!ended.status.success());
    assert!(ended.said.contains("auth.jwt.secret"), "{}", ended.said);
    assert!(
        ended.said.contains("TIDINGS_AUTH__JWT__SECRET"),
        "{}",
        ended.said
    );
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .collect();
    assert!(left.is_empty(), "a refused start made {left:?}");
}

#[test]
fn a_wrong_setting_is_named_with_its_value_before_a_port_opens() {
    for (name, value, key) in [
        ("TIDINGS_STREAM__HEARTBEAT", "banana", "stream.heartbeat"),
        ("TIDINGS_STREAM__TOKEN_TTL", "-3s", "stream.token_ttl"),
        ("TIDINGS_LISTEN", "nowhere", "listen"),
        ("TIDINGS_LOG__MAX_BYTES", "10 elephants", "log.max_bytes"),
        ("TIDINGS_MOUNT", "[\"api\"", "mount"),
        ("TIDINGS_EVENT_TYPES", r#"["Cursor"]"#, "event_types"),
        ("TIDINGS_EVENT_TYPES", r#"["cursor"]"#, "event_types"),
        (
            "TIDINGS_AUTH__JWT__ALGORITHMS",
            r#"["none"]"#,
            "auth.jwt.algorithms",
        ),
        ("TIDINGS_STREAM__HEARTBEET", "1s", "stream.heartbeet"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let ended = run(
            &["serve"],
            &[
                (
                    "TIDINGS_AUTH__JWT__SECRET",
                    "a-secret-of-at-least-32-bytes-or-so",
                ),
                (name, value),
            ],
            folder.path(),
        );
        assert!(!ended.status.success(), "{name}={value}");
        assert!(ended.said.contains(key), "{name}={value}: {}", ended.said);
        assert!(
            !ended.said.contains("a-secret-of"),
            "{name}={value}: {}",
            ended.said
        );
    }
}

#[test]
fn the_configuration_is_checked_and_shown_without_its_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = "a-secret-of-at-least-32-bytes-or-so";
    let environment = [
        ("TIDINGS_AUTH__JWT__SECRET", secret),
        ("TIDINGS_STREAM__HEARTBEAT", "7s"),
    ];
    let shown = run(&["config", "show"], &environment, folder.path());
    assert!(shown.status.success(), "{}", shown.said);
    assert!(shown.said.contains("7s"), "{}", shown.said);
    assert!(!shown.said.contains(&secret[..8]), "{}", shown.said);
    let checked = run(&["config", "check"], &environment, folder.path());
    assert!(checked.status.success(), "{}", checked.said);
    let wrong = run(
        &["config", "check"],
        &[("TIDINGS_STREAM__RETRY", "x")],
        folder.path(),
    );
    assert!(!wrong.status.success());
    assert!(wrong.said.contains("stream.retry"), "{}", wrong.said);
}

/// Every file below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder)
        .expect("a folder")
        .flat_map(|entry| {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_folder_can_be_verified_and_a_flipped_bit_is_found() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let marker = format!("marker-{:016x}", fastrand::u64(..));
    server.publish(&tenant, &status(&marker, 1));
    server.publish(&tenant, &status("r2", 2));
    assert!(server.stop().success());
    let folder = server.folder();
    let verify = || {
        let path = folder.display().to_string();
        run(
            &["log", "verify", &path],
            &[],
            folder.parent().expect("above it"),
        )
    };
    let clean = verify();
    assert!(clean.status.success(), "{}", clean.said);

    let hit = files(&folder)
        .into_iter()
        .find_map(|path| {
            let mut bytes = std::fs::read(&path).ok()?;
            let at = bytes
                .windows(marker.len())
                .position(|window| window == marker.as_bytes())?;
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("writes");
            Some(path)
        })
        .expect("the event lies in a file");
    let found = verify();
    assert!(!found.status.success(), "{}", found.said);
    let name = hit
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(found.said.contains(&name), "where? {}", found.said);
}

#[test]
fn verifying_a_folder_that_is_in_use_says_so_or_only_reads() {
    let server = Server::start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let path = server.folder().display().to_string();
    run(&["log", "verify", &path], &[], &server.folder());
    server.publish(&tenant, &status("r1", 2));
    let page = server.history(&tenant, "");
    assert_eq!(page["events"].as_array().expect("a list").len(), 2);
}

#[test]
fn no_secret_and_no_payload_is_in_the_logs() {
    let mut server = Setup::new().set("TIDINGS_LOGGING__LEVEL", "trace").start();
    let tenant = new_tenant();
    let marker = "payload-that-nobody-logs";
    let mut secrets = vec![server.secret.clone(), marker.to_owned()];

    let viewer = server.viewer(&tenant);
    let publisher = server.publisher(&tenant);
    let expired = server.sign(&AccessToken::new("viewer-1", &tenant, "viewer").claim("exp", 1));
    let forged = AccessToken::new("viewer-1", &tenant, "viewer").sign("another");
    let token = server.stream_token(&viewer);
    let elsewhere = server.stream_token(&viewer);
    let unused = server.stream_token(&viewer);
    for (access, _) in [(&viewer, 0), (&publisher, 0), (&expired, 0), (&forged, 0)] {
        // The header is the same in all tokens; what follows is the caller's own.
        secrets.extend(access.split('.').skip(1).map(str::to_owned));
    }
    secrets.extend([token.clone(), elsewhere.clone(), unused]);

    let mut stream = server.stream_of(&tenant).token(&token).open();
    server.stream_of(&tenant).token(&token).refused();
    server.stream_of(&new_tenant()).token(&elsewhere).refused();
    server
        .stream_of(&tenant)
        .token("guess-of-a-stranger")
        .refused();
    secrets.push("guess-of-a-stranger".to_owned());
    server.stream_of(&tenant).bearer(&expired).refused();
    server.stream_of(&tenant).bearer(&forged).refused();
    let mut by_header = server.stream_of(&tenant).bearer(&viewer).open();
    server
        .stream_of(&tenant)
        .token("unreadable-parameter-token")
        .query("since", "x")
        .refused();
    secrets.push("unreadable-parameter-token".to_owned());
    // A token in the wrong place is quoted to who sent it, and to nobody else.
    for (number, parameter) in ["types", "conflate", "scope", "snapshot", "since"]
        .into_iter()
        .enumerate()
    {
        let misplaced = format!("misplaced-token-{number}");
        let request = server.stream_of(&tenant).token("x");
        request.query(parameter, &misplaced).refused().problem(422);
        secrets.push(misplaced);
    }
    let twice = format!("/tenants/{tenant}/events/stream?named-by-a-token=1&named-by-a-token=2");
    server.exchange(&Request::get(&twice)).problem(422);
    secrets.push("named-by-a-token".to_owned());
    let mut cookie = Request::post("/auth/sse-token");
    cookie = cookie.header("Cookie", &format!("access_token={viewer}"));
    let minted = server.exchange(&cookie).expect(200);
    secrets.push(minted["token"].as_str().expect("a token").to_owned());
    let event = json!({"type": "metric_update", "key": "key-1", "data": {"p": marker}});
    publish::must(server.address, &publish::one(&tenant, &publisher, &event));
    for wrong in [
        format!("{{\"type\":\"{marker}"),
        format!(r#"{{"type":"metric_update","data":["{marker}"]}}"#),
    ] {
        let request = Request::post(&format!("/tenants/{tenant}/events"))
            .bearer(&publisher)
            .body("application/json", wrong);
        server.exchange(&request);
    }
    stream.next_event();
    by_header.next_event();
    assert!(server.stop().success());
    stream.rest();

    let said = server.output.text();
    for secret in &secrets {
        // Not even a part of it.
        let length = secret.len().min(16);
        for start in (0..=secret.len() - length).step_by(4) {
            let part = &secret[start..start + length];
            assert!(!said.contains(part), "{part:?} of {secret:?} is in the log");
        }
    }
}

#[test]
fn a_stream_is_logged_when_it_is_requested_and_when_it_has_closed() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let id = stream.connection_id().to_owned();
    server.publish(&tenant, &status("r1", 1));
    stream.next_event();
    drop(stream);
    let line_of = |what: &str| {
        let line = server.wait_for_log(what, |line| line.contains(what) && line.contains(&id));
        let value: Value = serde_json::from_str(&line).expect("a line of JSON");
        value.to_string()
    };
    let requested = line_of("stream_requested");
    let closed = line_of("stream_closed");
    for line in [&requested, &closed] {
        for part in [tenant.as_str(), "viewer-1", "\"viewer\"", "cursor"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    for part in ["duration", "events", "bytes", "reason"] {
        assert!(closed.contains(part), "{part}: {closed}");
    }
    assert!(server.stop().success());
    // Every line is JSON where standard error is no terminal.
    for line in server.output.text().lines().filter(|line| !line.is_empty()) {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn the_description_is_the_one_that_the_command_prints_and_needs_no_network() {
    let server = Server::start();
    let answer = server.exchange(&Request::get("/openapi.json"));
    let described = answer.expect(200);
    assert!(
        described["openapi"]
            .as_str()
            .expect("a version")
            .starts_with("3.1")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let printed = run(&["openapi"], &[], folder.path());
    assert!(printed.status.success(), "{}", printed.said);
    let printed: Value = serde_json::from_str(&printed.said).expect("JSON");
    assert_eq!(printed, described);
    for path in [
        "/auth/sse-token",
        "/tenants/{tenant_id}/events/stream",
        "/tenants/{tenant_id}/events",
        "/events/stream",
    ] {
        assert!(
            described["paths"].get(path).is_some(),
            "{path} is not described"
        );
    }
    for path in ["/docs", "/"] {
        let page = server.exchange(&Request::get(path));
        assert_eq!(page.status, 200, "{path}");
        let kind = page.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/html"), "{path}: {kind}");
        for other in [
            "src=\"http",
            "href=\"http",
            "src=\"//",
            "href=\"//",
            "@import",
            "url(http",
        ] {
            assert!(!page.text().contains(other), "{path} loads {other}");
        }
    }
}

/// A command that gives the server a small disk of its own at `mount`, in a mount namespace that
/// vanishes with it. Needs root, or user namespaces.
fn small_disk(mount: &str) -> Vec<String> {
    let mut words = vec!["unshare".to_owned(), "--mount".to_owned()];
    if !rustix::process::geteuid().is_root() {
        words.push("--map-root-user".to_owned());
    }
    let script = r#"mount -t tmpfs -o size=40m tmpfs "$0" && head -c 16777216 /dev/zero > "$0/filler" && exec "$@""#;
    words.extend(["sh", "-c", script, mount].map(str::to_owned));
    let trial = Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .output()
        .expect("unshare runs");
    assert!(
        trial.status.success(),
        "this test mounts a small disk, which needs root or user namespaces: {}",
        String::from_utf8_lossy(&trial.stderr)
    );
    words
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn a_full_disk_is_507_loses_nothing_and_is_over_when_there_is_room_again() {
    let mount = tempfile::tempdir().expect("a folder");
    let path = mount.path().display().to_string();
    let words = small_disk(&path);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = Setup::new()
        .set("TIDINGS_LOG__PATH", &format!("{path}/log"))
        .set("TIDINGS_LOG__MAX_BYTES", "64MiB")
        .under(&words)
        .start();
    let begun = std::time::Instant::now();
    let tenant = new_tenant();
    let access = server.publisher(&tenant);
    let mut stream = server.watch(&tenant).open();
    let padding = "x".repeat(1000);
    let mut acknowledged = 0;
    let refused = loop {
        let events: Vec<Value> = (acknowledged..acknowledged + 100)
            .map(|number| json!({"type": "metric_update", "data": {"n": number, "p": padding}}))
            .collect();
        let answer = server.exchange(&publish::many(&tenant, &access, &events));
        if answer.status != 200 {
            break answer;
        }
        assert_eq!(Receipt::of(&answer).accepted, 100);
        acknowledged += 100;
        assert!(acknowledged < 100_000, "the disk is never full");
    };
    refused.problem(507);
    // Each commit since the disk had no room for the next file has tried to make one. That is told once in ten
    // seconds, and how often it was not.
    server.wait_for_log("why", |line| line.contains("no new segment can be made"));
    let told = server
        .output
        .text()
        .matches("no new segment can be made")
        .count() as u64;
    assert!(
        (1..=1 + begun.elapsed().as_secs() / 10).contains(&told),
        "{told}"
    );
    let withheld = Scrape::of(&server).value("tidings_log_lines_withheld_total");
    assert!(withheld > 0.0, "{withheld}");
    let unready = server.ask_admin(&Request::get("/readyz")).expect(503);
    assert_eq!(unready["reasons"][0]["reason"], "disk_full", "{unready}");
    // All that was acknowledged can be read, live and again, and nothing of the refused body.
    // `stale` says how the server is now, so it may overtake what the stream is still due.
    let (mut next, mut stale) = (0, false);
    while next < acknowledged || !stale {
        let event = stream.next_event();
        if event.name == "stale" {
            assert!(!stale && event.id.is_none(), "{event:?}");
            assert!(
                event.json()["since"].is_string() && event.json()["reason"].is_string(),
                "{event:?}"
            );
            stale = true;
        } else {
            assert_eq!(event.json()["n"], next, "{event:?}");
            next += 1;
        }
    }
    let page = server.history(&tenant, "?limit=5");
    assert_eq!(page["events"][0]["data"]["n"], 0);
    let pid = server.pid().as_raw_nonzero();
    let filler = format!("/proc/{pid}/root{path}/filler");
    std::fs::remove_file(&filler).expect("makes room");
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    let again = loop {
        let event = json!({"type": "metric_update", "data": {"n": acknowledged}});
        let answer = server.exchange(&publish::one(&tenant, &access, &event));
        if answer.status == 200 {
            break Receipt::of(&answer);
        }
        assert!(
            std::time::Instant::now() < deadline,
            "still: {}",
            answer.text()
        );
    };
    // So may `fresh`, or be overtaken by what is new.
    let (mut fresh, mut seen) = (false, false);
    while !(fresh && seen) {
        let event = stream.next_event();
        if event.name == "fresh" {
            assert!(!fresh && event.id.is_none(), "{event:?}");
            fresh = true;
        } else {
            assert!(!seen && event.cursor() == again.last, "{event:?}");
            assert_eq!(event.json()["n"], acknowledged);
            seen = true;
        }
    }
}
