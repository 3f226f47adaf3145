//! Publishing: what is taken, what is refused and how that is said, and that a body is stored whole
//! or not at all. See `spec/protocol.md`, "Publishing".

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidings_tests::publish::{self, status};
use tidings_tests::{AccessToken, Answer, Connection, Receipt, Request, Server, Setup, new_tenant};

fn publish_raw(
    server: &Server,
    tenant: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> Answer {
    server.exchange(
        &Request::post(&format!("/tenants/{tenant}/events"))
            .bearer(&server.publisher(tenant))
            .body(content_type, body),
    )
}

fn publish_json(server: &Server, tenant: &str, body: impl Into<Vec<u8>>) -> Answer {
    publish_raw(server, tenant, "application/json", body)
}

fn publish_lines(server: &Server, tenant: &str, body: impl Into<Vec<u8>>) -> Answer {
    publish_raw(server, tenant, "application/x-ndjson", body)
}

/// How many events of this tenant are stored.
fn stored(server: &Server, tenant: &str) -> usize {
    let page = server.history(tenant, "?limit=1000");
    page["events"].as_array().expect("a list").len()
}

#[test]
fn one_event_and_many_lines_are_stored_in_order() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let one = server.publish(&tenant, &status("r1", 0));
    assert_eq!((one.accepted, one.duplicates), (1, 0));
    assert_eq!(one.first, one.last);
    let events: Vec<Value> = (1..=500).map(|number| status("r1", number)).collect();
    let many = server.publish_all(&tenant, &events);
    assert_eq!((many.accepted, many.duplicates), (500, 0));
    let seen = stream.events(501);
    assert_eq!(seen[0].cursor(), one.last);
    assert_eq!(seen[1].cursor(), many.first);
    assert_eq!(seen[500].cursor(), many.last);
    assert!(
        seen.iter()
            .map(|event| event.json()["n"].as_u64())
            .eq((0..=500).map(Some))
    );
}

#[test]
fn lines_may_end_as_they_like_and_blank_ones_do_not_count() {
    let server = Server::start();
    let tenant = new_tenant();
    let event = |number| status("r1", number).to_string();
    let body = format!("{}\r\n\n{}\n\r\n{}", event(0), event(1), event(2));
    let receipt = Receipt::of(&publish_lines(&server, &tenant, body));
    assert_eq!(receipt.accepted, 3);
    // The third line is the third also in a message.
    let body = format!("{}\n\n{{\n{}", event(3), event(4));
    assert_eq!(
        publish_lines(&server, &tenant, body).problem(400)["line"],
        3
    );
    assert_eq!(stored(&server, &tenant), 3);
}

#[test]
fn every_payload_of_the_platform_passes_untouched() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    for (event_type, data) in [
        (
            "device_status",
            json!({"status": "online", "uptime": "3w2d4h11m", "cpu_load": "7", "major_version": 7}),
        ),
        (
            "alert_fired",
            json!({"alert_event_id": "a1", "current_value": 97.0, "threshold": 90, "is_flapping": false}),
        ),
        (
            "alert_resolved",
            json!({"alert_event_id": "a1", "message": "cpu_load is back to 41"}),
        ),
        (
            "config_push",
            json!({"push_operation_id": "p1", "stage": "pushing"}),
        ),
        (
            "firmware_progress",
            json!({"job_id": "j1", "stage": "rebooting", "target_version": "7.17"}),
        ),
        (
            "metric_update",
            json!({"type": "interfaces", "interfaces": [{"name": "ether1", "rx_bytes": 981_223_344_556_u64}]}),
        ),
    ] {
        let mut data = data;
        data["tenant_id"] = json!(tenant);
        data["device_id"] = json!("6a1d4f0e-52a5-4c59-9d0e-0d1c5b0a7f11");
        server.publish(&tenant, &json!({"type": event_type, "data": data}));
        let event = stream.next_event();
        assert_eq!(event.name, event_type);
        assert_eq!(event.json(), data);
    }
}

/// Publishes `data` as it stands and gives it as a stream shows it.
fn shown(server: &Server, tenant: &str, stream: &mut tidings_tests::Stream, data: &str) -> String {
    let body = format!(r#"{{"type":"metric_update","data":{data}}}"#);
    Receipt::of(&publish_json(server, tenant, body));
    stream.next_event().data
}

#[test]
fn data_is_the_publishers_bytes() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let own = format!(r#""tenant_id":"{tenant}","device_id":"r1""#);
    for rest in [
        r#","a":1.0,"b":1e3,"c":-0.0,"d":12345678901234567890123456789"#,
        r#","a" : [ 1 , 2 ] , "b":	{ }"#,
        r#","a":"\u00e4\/\u0000\ud83d\ude00","b":"ä😀""#,
        r#","a":1,"a":2"#,
    ] {
        let data = format!("{{{own}{rest}}}");
        assert_eq!(shown(&server, &tenant, &mut stream, &data), data);
    }
}

#[test]
fn what_data_lacks_of_tenant_and_device_is_put_in_front() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let t = format!(r#""tenant_id":"{tenant}""#);
    for (envelope, data, expected) in [
        ("", "{}".to_owned(), format!("{{{t}}}")),
        ("", "{ }".to_owned(), format!("{{{t} }}")),
        ("", r#"{"a":1}"#.to_owned(), format!(r#"{{{t},"a":1}}"#)),
        (
            r#","device_id":"r1""#,
            "{}".to_owned(),
            format!(r#"{{{t},"device_id":"r1"}}"#),
        ),
        (
            r#","device_id":"r1""#,
            r#"{"a":1}"#.to_owned(),
            format!(r#"{{{t},"device_id":"r1","a":1}}"#),
        ),
        (
            r#","device_id":"r1""#,
            r#"{"a":1,"device_id":"r1"}"#.to_owned(),
            format!(r#"{{{t},"a":1,"device_id":"r1"}}"#),
        ),
        (
            r#","device_id":"r1""#,
            format!(r#"{{"a":1,{t}}}"#),
            format!(r#"{{"device_id":"r1","a":1,{t}}}"#),
        ),
        (
            "",
            r#"{"device_id":"r2"}"#.to_owned(),
            format!(r#"{{{t},"device_id":"r2"}}"#),
        ),
    ] {
        let body = format!(r#"{{"type":"metric_update"{envelope},"data":{data}}}"#);
        Receipt::of(&publish_json(&server, &tenant, body));
        assert_eq!(stream.next_event().data, expected, "{envelope} {data}");
    }
    // Without a device in the envelope the data's is the event's.
    let mut of_r2 = server
        .watch(&tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .query("device_id", "r2")
        .open();
    assert_eq!(of_r2.next_event().json()["device_id"], "r2");
}

#[test]
fn a_line_break_in_data_never_breaks_the_wire() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    for line_break in ["\n", "\r", "\r\n"] {
        let data = format!(
            "{{{line_break}  \"a\": [1,{line_break} 2],{line_break}\"s\": \"x  y\"{line_break}}}"
        );
        let got = shown(&server, &tenant, &mut stream, &data);
        assert_eq!(
            got,
            format!(r#"{{"tenant_id":"{tenant}","a":[1,2],"s":"x  y"}}"#),
            "{line_break:?}"
        );
    }
    // Line separators that are none in SSE stay as they are.
    let data = format!("{{\"tenant_id\":\"{tenant}\",\"s\":\"a\u{2028}b\u{2029}c\u{85}d\"}}");
    assert_eq!(shown(&server, &tenant, &mut stream, &data), data);
    let text = String::from_utf8_lossy(&stream.raw).into_owned();
    assert!(!text.contains('\r'), "{text:?}");
}

#[test]
fn any_unicode_comes_back_as_it_went_in() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.publisher(&tenant);
    let mut stream = server.watch(&tenant).open();
    let mut connection = Connection::open(server.address).expect("connects");
    let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: 300,
        failure_persistence: None,
        ..Default::default()
    });
    let strategy = proptest::collection::vec(
        (
            proptest::prelude::any::<String>(),
            proptest::prelude::any::<String>(),
        ),
        0..6,
    );
    let parts = std::cell::RefCell::new((&mut stream, &mut connection));
    runner
        .run(&strategy, |pairs| {
            let (stream, connection) = &mut *parts.borrow_mut();
            let data: serde_json::Map<String, Value> = pairs
                .into_iter()
                .filter(|(name, _)| name != "tenant_id" && name != "device_id")
                .map(|(name, value)| (name, json!(value)))
                .collect();
            let event = json!({"type": "metric_update", "data": data});
            let answer = connection
                .exchange(&publish::one(&tenant, &access, &event))
                .expect("answers");
            Receipt::of(&answer);
            let mut got = stream.next_event().json();
            let got = got.as_object_mut().expect("an object");
            proptest::prop_assert_eq!(got.remove("tenant_id"), Some(json!(tenant)));
            proptest::prop_assert_eq!(&*got, &data);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// A body of one event that must be refused: the status, the field that must be named, the body.
type Refused = (u16, Option<&'static str>, String);

fn malformed() -> Vec<Refused> {
    [
        "",
        "{",
        r#"{"type":"device_status","data":{"a":1}"#,
        r#"{"type":"device_status","data":{"a":01}}"#,
        r#"{"type":"device_status","data":{}} x"#,
    ]
    .map(|body| (400, None, body.to_owned()))
    .into()
}

fn wrong_in_a_field() -> Vec<Refused> {
    let mut cases: Vec<Refused> = [
        (None, "[]"),
        (None, "7"),
        (Some("type"), r#"{"data":{}}"#),
        (Some("type"), r#"{"type":7,"data":{}}"#),
        (Some("type"), r#"{"type":"Device","data":{}}"#),
        (Some("type"), r#"{"type":"a b","data":{}}"#),
        (Some("type"), r#"{"type":"a\nb","data":{}}"#),
        (Some("type"), r#"{"type":"not_configured","data":{}}"#),
        (Some("data"), r#"{"type":"device_status"}"#),
        (Some("data"), r#"{"type":"device_status","data":null}"#),
        (Some("data"), r#"{"type":"device_status","data":[1]}"#),
        (Some("data"), r#"{"type":"device_status","data":"{}"}"#),
        (
            Some("device_id"),
            r#"{"type":"device_status","device_id":"-","data":{}}"#,
        ),
        (
            Some("device_id"),
            r#"{"type":"device_status","device_id":"a/b","data":{}}"#,
        ),
        (
            Some("device_id"),
            r#"{"type":"device_status","device_id":"","data":{}}"#,
        ),
        (
            Some("device_id"),
            r#"{"type":"device_status","device_id":7,"data":{}}"#,
        ),
        (
            Some("time"),
            r#"{"type":"device_status","time":"noon","data":{}}"#,
        ),
        (Some("key"), r#"{"type":"device_status","key":7,"data":{}}"#),
    ]
    .map(|(field, body)| (422, field, body.to_owned()))
    .into();
    for reserved in [
        "snapshot",
        "snapshot_end",
        "cursor",
        "gap",
        "removed",
        "stale",
        "fresh",
        "closing",
        "unknown",
    ] {
        cases.push((
            422,
            Some("type"),
            format!(r#"{{"type":"{reserved}","data":{{}}}}"#),
        ));
    }
    cases
}

/// Data that says another tenant or device than the event's own.
fn disagreeing(tenant: &str) -> Vec<Refused> {
    let other = new_tenant();
    let of_device = |envelope: &str, data: &str| {
        let body = format!(r#"{{"type":"device_status"{envelope},"data":{{{data}}}}}"#);
        (422, Some("data.device_id"), body)
    };
    let of_tenant = |data: String| {
        let body = format!(r#"{{"type":"device_status","data":{{{data}}}}}"#);
        (422, Some("data.tenant_id"), body)
    };
    vec![
        of_device("", r#""device_id":"a b""#),
        of_device(r#","device_id":"r1""#, r#""device_id":"r2""#),
        of_tenant(format!(r#""tenant_id":"{other}""#)),
        of_tenant(r#""tenant_id":7"#.to_owned()),
        // Readers differ in which of two members with one name they take: neither may be another's.
        of_tenant(format!(r#""tenant_id":"{tenant}","tenant_id":"{other}""#)),
        of_tenant(format!(r#""tenant_id":"{other}","tenant_id":"{tenant}""#)),
        of_tenant(format!(
            r#""tenant_id":"{tenant}","tenant\u005fid":"{other}""#
        )),
        of_device("", r#""device_id":"r1","device_id":"r2""#),
    ]
}

fn refused_events(tenant: &str) -> Vec<Refused> {
    [malformed(), wrong_in_a_field(), disagreeing(tenant)].concat()
}

#[test]
fn an_event_that_is_not_right_is_refused_with_its_field_and_nothing_is_stored() {
    let server = Server::start();
    let tenant = new_tenant();
    for (code, field, body) in refused_events(&tenant) {
        let answer = publish_json(&server, &tenant, body.clone());
        assert_eq!(answer.status, code, "{body}: {}", answer.text());
        let problem = answer.problem(code);
        if let Some(field) = field {
            assert_eq!(problem["field"], field, "{body}: {problem}");
        }
    }
    assert_eq!(stored(&server, &tenant), 0);
}

#[test]
fn a_body_is_stored_whole_or_not_at_all_and_the_wrong_line_is_named() {
    let server = Server::start();
    let tenant = new_tenant();
    let good: Vec<String> = (0..40)
        .map(|number| status("r1", number).to_string())
        .collect();
    let mut wrong_at = 0;
    for (code, field, wrong) in refused_events(&tenant) {
        if wrong.is_empty() {
            continue; // A blank line does not count.
        }
        wrong_at = (wrong_at + 7) % good.len();
        let mut lines = good.clone();
        lines.insert(wrong_at, wrong.clone());
        let answer = publish_lines(&server, &tenant, lines.join("\n"));
        assert_eq!(answer.status, code, "{wrong}: {}", answer.text());
        let problem = answer.problem(code);
        assert_eq!(problem["line"], wrong_at + 1, "{wrong}: {problem}");
        if let Some(field) = field {
            assert_eq!(problem["field"], field, "{wrong}: {problem}");
        }
    }
    assert_eq!(stored(&server, &tenant), 0);
}

#[test]
fn a_body_that_is_no_utf_8_is_refused() {
    let server = Server::start();
    let tenant = new_tenant();
    let body = b"{\"type\":\"device_status\",\"data\":{\"a\":\"\xff\xfe\"}}".to_vec();
    publish_json(&server, &tenant, body.clone()).problem(400);
    let mut lines = status("r1", 0).to_string().into_bytes();
    lines.push(b'\n');
    lines.extend(body);
    assert_eq!(
        publish_lines(&server, &tenant, lines).problem(400)["line"],
        2
    );
    assert_eq!(stored(&server, &tenant), 0);
}

#[test]
fn json_that_is_deep_is_answered_and_the_server_stays_up() {
    let server = Server::start();
    let tenant = new_tenant();
    let deep = format!("{}{}", "[".repeat(400_000), "]".repeat(400_000));
    let body = format!(r#"{{"type":"device_status","data":{{"a":{deep}}}}}"#);
    let answer = publish_json(&server, &tenant, body);
    assert!(
        (400..500).contains(&answer.status) || answer.status == 200,
        "{}",
        answer.head
    );
    server.publish(&tenant, &status("r1", 1));
}

#[test]
fn what_is_too_large_is_413() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__BODY_BYTES", "64KiB")
        .set("TIDINGS_LIMITS__EVENT_BYTES", "8KiB")
        .set("TIDINGS_LIMITS__BODY_LINES", "100")
        .start();
    let tenant = new_tenant();
    let padded = |bytes: usize| {
        json!({"type": "device_status", "data": {"p": "x".repeat(bytes)}}).to_string()
    };
    publish_json(&server, &tenant, padded(70_000)).problem(413);
    publish_json(&server, &tenant, padded(9_000)).problem(413);
    let lines = [padded(10), padded(10), padded(9_000)].join("\n");
    assert_eq!(
        publish_lines(&server, &tenant, lines).problem(413)["line"],
        3
    );
    let lines = vec![padded(10); 101].join("\n");
    publish_lines(&server, &tenant, lines).problem(413);
    assert_eq!(stored(&server, &tenant), 0);
    Receipt::of(&publish_lines(
        &server,
        &tenant,
        vec![padded(10); 100].join("\n"),
    ));
}

#[test]
fn a_body_of_no_known_type_is_415() {
    let server = Server::start();
    let tenant = new_tenant();
    let body = status("r1", 0).to_string();
    for content_type in [
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "nonsense",
    ] {
        publish_raw(&server, &tenant, content_type, body.clone()).problem(415);
    }
    let untyped = Request::post(&format!("/tenants/{tenant}/events"))
        .bearer(&server.publisher(&tenant))
        .header("Content-Length", "0");
    server.exchange(&untyped).problem(415);
    assert_eq!(stored(&server, &tenant), 0);
    for content_type in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x-ndjson;charset=UTF-8",
    ] {
        Receipt::of(&publish_raw(&server, &tenant, content_type, body.clone()));
    }
}

#[test]
fn an_empty_body_of_lines_is_refused() {
    let server = Server::start();
    let tenant = new_tenant();
    for body in ["", "\n\n", "  \n"] {
        let answer = publish_lines(&server, &tenant, body);
        assert!(
            answer.status == 400 || answer.status == 422,
            "{}",
            answer.head
        );
    }
}

fn keyed(key: &str, number: u64) -> Value {
    let mut event = status("r1", number);
    event["key"] = json!(key);
    event
}

#[test]
fn the_same_key_is_stored_once_also_across_restarts() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let first = server.publish(&tenant, &keyed("k1", 1));
    let check = |server: &Server| {
        let again = server.publish(&tenant, &keyed("k1", 1));
        assert_eq!((again.accepted, again.duplicates), (0, 1));
        assert_eq!((&again.first, &again.last), (&first.first, &first.last));
    };
    check(&server);
    assert!(server.stop().success());
    server.start_again();
    check(&server);
    server.kill();
    server.start_again();
    check(&server);

    // A body of old and new: each line counts for itself.
    let body = [keyed("k0", 0), keyed("k1", 1), keyed("k2", 2)];
    let mixed = server.publish_all(&tenant, &body);
    assert_eq!((mixed.accepted, mixed.duplicates), (2, 1));
    let again = server.publish_all(&tenant, &body);
    assert_eq!((again.accepted, again.duplicates), (0, 3));
    assert_eq!((again.first, again.last), (mixed.first, mixed.last));
    assert_eq!(stored(&server, &tenant), 3);
}

#[test]
fn the_same_key_with_another_body_is_refused_and_nothing_of_the_body_is_stored() {
    let mut server = Server::start();
    let tenant = new_tenant();
    server.publish(&tenant, &keyed("k1", 1));
    let check = |server: &Server| {
        let answer = publish_json(server, &tenant, keyed("k1", 2).to_string());
        assert_eq!(answer.problem(422)["field"], "key");
        let lines = format!("{}\n{}\n", keyed("k9", 9), keyed("k1", 2));
        let problem = publish_lines(server, &tenant, lines).problem(422);
        assert_eq!(
            (&problem["line"], &problem["field"]),
            (&json!(2), &json!("key"))
        );
        assert_eq!(stored(server, &tenant), 1);
    };
    check(&server);
    server.kill();
    server.start_again();
    check(&server);
    let within_a_body = format!("{}\n{}\n", keyed("k5", 1), keyed("k5", 2));
    assert_eq!(
        publish_lines(&server, &tenant, within_a_body).problem(422)["line"],
        2
    );
}

#[test]
fn keys_of_two_tenants_and_of_two_publishers_are_different_keys() {
    let server = Server::start();
    let (one, two) = (new_tenant(), new_tenant());
    assert_eq!(server.publish(&one, &keyed("k1", 1)).accepted, 1);
    assert_eq!(server.publish(&two, &keyed("k1", 2)).accepted, 1);
    let colleague = server.sign(&AccessToken::new("publisher-2", &one, "publisher"));
    let receipt = publish::must(
        server.address,
        &publish::one(&one, &colleague, &keyed("k1", 3)),
    );
    assert_eq!(receipt.accepted, 1);
}

#[test]
fn the_header_gives_every_line_a_key() {
    let server = Server::start();
    let tenant = new_tenant();
    let events: Vec<Value> = (0..5).map(|number| status("r1", number)).collect();
    let request = publish::many(&tenant, &server.publisher(&tenant), &events)
        .header("Idempotency-Key", "body-1");
    let first = publish::must(server.address, &request);
    assert_eq!((first.accepted, first.duplicates), (5, 0));
    let again = publish::must(server.address, &request);
    assert_eq!((again.accepted, again.duplicates), (0, 5));
    assert_eq!((&again.first, &again.last), (&first.first, &first.last));
    let other: Vec<Value> = (5..10).map(|number| status("r1", number)).collect();
    let request = publish::many(&tenant, &server.publisher(&tenant), &other)
        .header("Idempotency-Key", "body-1");
    server.exchange(&request).problem(422);
    assert_eq!(stored(&server, &tenant), 5);
}

#[test]
fn concurrent_repeats_of_a_keyed_event_store_it_once() {
    let server = Server::start();
    let tenant = new_tenant();
    let accepted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..50)
                        .map(|number| {
                            server
                                .publish(&tenant, &keyed(&format!("k{number}"), number))
                                .accepted
                        })
                        .sum::<u64>()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    });
    assert_eq!(accepted, 50);
    assert_eq!(stored(&server, &tenant), 50);
}

#[test]
fn who_may_publish_is_a_matter_of_the_role_and_the_tenant() {
    let server = Server::start();
    let (own, other) = (new_tenant(), new_tenant());
    let attempt = |access: &str, tenant: &str| {
        server
            .exchange(&publish::one(tenant, access, &status("r1", 1)))
            .status
    };
    assert_eq!(attempt(&server.publisher(&own), &own), 200);
    assert_eq!(attempt(&server.publisher(&own), &other), 403);
    assert_eq!(attempt(&server.viewer(&own), &own), 403);
    let operator = server.sign(&AccessToken::new("operator-1", &own, "tenant_operator"));
    assert_eq!(attempt(&operator, &own), 403);
    assert_eq!(attempt(&server.super_admin(), &own), 200);
    assert_eq!(attempt(&server.super_admin(), &other), 200);
    assert_eq!(attempt("x", &own), 401);
    let stream_token = server.stream_token(&server.publisher(&own));
    assert_eq!(attempt(&stream_token, &own), 401);
    let path = "/tenants/not-a-tenant/events";
    let request = Request::post(path)
        .bearer(&server.super_admin())
        .body("application/json", status("r1", 1).to_string());
    assert_eq!(
        server.exchange(&request).problem(422)["parameter"],
        "tenant_id"
    );
    assert_eq!(stored(&server, &own), 2);
    assert_eq!(stored(&server, &other), 1);
}

#[test]
fn an_api_key_is_bound_to_its_tenants_and_types() {
    let (own, other) = (new_tenant(), new_tenant());
    let secret = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
    let hash = Sha256::digest(secret.as_bytes())
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let publishers = format!(
        r#"[{{id = "poller", secret_sha256 = "{hash}", tenants = ["{own}"], types = ["metric_update"]}},
            {{id = "relay", secret_sha256 = "{hash}", tenants = "*"}}]"#
    );
    let server = Setup::new()
        .set("TIDINGS_AUTH__PUBLISHERS", &publishers)
        .start();
    let attempt = |key: &str, tenant: &str, event_type: &str| {
        let event = json!({"type": event_type, "data": {}});
        server.exchange(&publish::one(tenant, key, &event)).status
    };
    let poller = format!("tdk_poller_{secret}");
    assert_eq!(attempt(&poller, &own, "metric_update"), 200);
    assert_eq!(attempt(&poller, &own, "alert_fired"), 403);
    assert_eq!(attempt(&poller, &other, "metric_update"), 403);
    let relay = format!("tdk_relay_{secret}");
    assert_eq!(attempt(&relay, &own, "alert_fired"), 200);
    assert_eq!(attempt(&relay, &other, "metric_update"), 200);
    for wrong in [
        format!("tdk_poller_{}", &secret[1..]),
        format!("tdk_poller_{secret}0"),
        format!("tdk_nobody_{secret}"),
        format!("tdk_poller_{hash}"),
        "tdk_poller_".to_owned(),
        "tdk_".to_owned(),
    ] {
        assert_eq!(attempt(&wrong, &own, "metric_update"), 401, "{wrong}");
    }
    // It publishes and does nothing else.
    let answer = server.exchange(&Request::post("/auth/sse-token").bearer(&relay));
    answer.problem(401);
    server.stream_of(&own).bearer(&relay).refused().problem(401);
    let history = Request::get(&format!("/tenants/{own}/events")).bearer(&relay);
    server.exchange(&history).problem(401);
    // One line of a type that is not its own, and nothing is stored.
    let before = stored(&server, &own);
    let lines = [
        json!({"type": "metric_update", "data": {}}),
        json!({"type": "alert_fired", "data": {}}),
    ];
    let answer = server.exchange(&publish::many(&own, &poller, &lines));
    assert_eq!(answer.problem(403)["line"], 2);
    assert_eq!(stored(&server, &own), before);
}

#[test]
fn a_deployment_may_name_types_of_its_own() {
    let server = Setup::new()
        .set("TIDINGS_EVENT_TYPES", r#"["door_opened"]"#)
        .start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).query("types", "door_opened").open();
    server.publish(&tenant, &status("r1", 1));
    server.publish(
        &tenant,
        &json!({"type": "door_opened", "data": {"door": 4}}),
    );
    let event = stream.next_event();
    assert_eq!(
        (event.name.as_str(), &event.json()["door"]),
        ("door_opened", &json!(4))
    );
}

#[test]
fn a_body_may_come_in_chunks_and_pieces() {
    use std::io::Write as _;
    let server = Server::start();
    let tenant = new_tenant();
    let head = format!(
        "POST /tenants/{tenant}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.publisher(&tenant)
    );
    let body = format!("{}\n{}\n", status("r1", 1), status("r1", 2));
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(head.as_bytes()).expect("sends");
    for chunk in body.as_bytes().chunks(7) {
        let mut bytes = Vec::new();
        write!(bytes, "{:x}\r\n", chunk.len()).expect("to memory");
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        connection.send(&bytes).expect("sends");
    }
    connection.send(b"0\r\n\r\n").expect("sends");
    assert_eq!(
        Receipt::of(&connection.read_answer().expect("answers")).accepted,
        2
    );

    // A body that never comes whole is never stored, in part or otherwise.
    let mut connection = Connection::open(server.address).expect("connects");
    connection.send(head.as_bytes()).expect("sends");
    connection
        .send(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes())
        .expect("sends");
    drop(connection);
    server.publish(&tenant, &status("r1", 3));
    assert_eq!(stored(&server, &tenant), 3);
}
