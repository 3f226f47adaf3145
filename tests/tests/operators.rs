//! Operators' calls: which streams are open, ending one, and who was shown an event. Who is no operator
//! learns nothing, and a tenant's operator nothing of other tenants and of super admins.

use std::collections::BTreeMap;

use serde_json::Value;
use tidings_tests::publish::status;
use tidings_tests::{AccessToken, Answer, Request, Server, Setup, Stream, new_tenant};

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

fn list(server: &Server, access: &str, query: &str) -> Answer {
    server.exchange(&Request::get(&format!("/streams{query}")).bearer(access))
}

fn streams(server: &Server, access: &str, query: &str) -> Vec<Value> {
    let page = list(server, access, query).expect(200);
    page["streams"].as_array().expect("a list").clone()
}

fn names(streams: &[Value]) -> Vec<&str> {
    let name =
        |stream: &Value| -> String { stream["connection_id"].as_str().expect("a name").to_owned() };
    assert!(streams.is_sorted_by_key(name));
    streams
        .iter()
        .map(|stream| stream["connection_id"].as_str().expect("a name"))
        .collect()
}

fn disconnect(server: &Server, access: &str, connection: &str) -> Answer {
    let target = format!("/streams/{connection}");
    server.exchange(&Request::new("DELETE", &target).bearer(access))
}

/// A time as text that sorts: fractions are written without final zeros.
fn moment(time: &Value) -> String {
    let text = time.as_str().expect("a time").trim_end_matches('Z');
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<9}")
}

#[test]
fn a_listing_says_whose_each_stream_is_what_it_sees_and_how_far_it_is() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = AccessToken::new("ada", &tenant, "viewer")
        .claim("types", vec!["device_status", "alert_fired"])
        .claim("devices", vec!["r1", "r2"]);
    let mut stream = server
        .stream_of(&tenant)
        .bearer(&server.sign(&token))
        .query("device_id", "r1")
        .query("types", "device_status")
        .open();
    let receipt = server.publish(&tenant, &status("r1", 1));
    let event = stream.next_event();
    assert_eq!(event.cursor(), receipt.last);

    let listed = streams(&server, &operator(&server, &tenant), "");
    let [one] = &listed[..] else {
        panic!("one stream: {listed:?}");
    };
    assert_eq!(one["connection_id"], stream.connection_id());
    assert_eq!(one["user_id"], "ada");
    assert_eq!(one["tenant_id"], tenant.as_str());
    assert_eq!(one["role"], "viewer");
    assert_eq!(one["view"]["tenant_id"], tenant.as_str());
    assert_eq!(one["view"]["types_claim"][1], "alert_fired");
    assert_eq!(one["view"]["devices_claim"][1], "r2");
    assert_eq!(one["view"]["types_filter"][0], "device_status");
    assert_eq!(one["view"]["device_filter"][0], "r1");
    assert!(one["view"].get("device_group").is_none());
    assert_eq!(one["cursor"], receipt.last);
    assert_eq!(one["events"], 1);
    assert_eq!(one["lag_events"], 0);
    assert_eq!(one["lag_exact"], true);
    assert_eq!(one["remote_address"], "127.0.0.1");
    assert!(one["bytes"].as_u64().expect("bytes") > 100);
    let event_time = &server.history(&tenant, "")["events"][0]["time"];
    assert!(moment(&one["opened_at"]) <= moment(event_time));
}

#[test]
fn a_stream_that_does_not_read_shows_its_lag() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        .start();
    let tenant = new_tenant();
    let stalled = server
        .stream_of(&tenant)
        .bearer(&server.viewer(&tenant))
        .query("device_id", "r1")
        .receive_buffer(4096)
        .open();
    let other = new_tenant();
    // Of what follows, a tenth is for this stream; others' events are none of its lag.
    for round in 0..50 {
        let noise: Vec<Value> = (0..90).map(|number| status("r2", number)).collect();
        let due: Vec<Value> = (0..10)
            .map(|number| status("r1", 10 * round + number))
            .collect();
        server.publish_all(&tenant, &noise);
        server.publish_all(&tenant, &due);
        server.publish_all(&other, &noise);
    }
    let listed = streams(&server, &operator(&server, &tenant), "");
    assert_eq!(names(&listed), [stalled.connection_id()]);
    let number = |field: &str| listed[0][field].as_u64().expect("a number");
    assert!(number("lag_events") > 0, "{}", listed[0]);
    assert_eq!(listed[0]["lag_exact"], true);
    assert!(listed[0]["lag_seconds"].as_f64().expect("seconds") > 0.0);
    // What lies in part with the server counts as an event given and as one still to be given.
    let sum = number("lag_events") + number("events");
    assert!((500..=501).contains(&sum), "{}", listed[0]);
}

#[test]
fn an_operator_sees_and_ends_what_is_its_own_only() {
    let server = Server::start();
    let (own, other) = (new_tenant(), new_tenant());
    let root = server.super_admin();
    let own_stream = server.watch(&own).open();
    let other_stream = server.watch(&other).open();
    let all = server.stream_of(&own).bearer(&root).open();
    let scoped = server
        .stream_of(&own)
        .bearer(&root)
        .query("scope", "tenant")
        .open();

    let operator_of_own = operator(&server, &own);
    assert_eq!(
        names(&streams(&server, &operator_of_own, "")),
        [own_stream.connection_id()],
        "neither another tenant's nor a super admin's"
    );
    list(&server, &operator_of_own, &format!("?tenant={other}")).problem(403);
    for hidden in [&other_stream, &all, &scoped] {
        disconnect(&server, &operator_of_own, hidden.connection_id()).problem(404);
    }
    assert_eq!(names(&streams(&server, &root, "")).len(), 4);
    let mut of_own = vec![own_stream.connection_id(), scoped.connection_id()];
    of_own.sort_unstable();
    assert_eq!(
        names(&streams(&server, &root, &format!("?tenant={own}"))),
        of_own
    );
    let of_user = streams(&server, &root, "?user=viewer-1");
    assert_eq!(names(&of_user).len(), 2);
    assert!(of_user.iter().all(|stream| stream["user_id"] == "viewer-1"));
    assert!(streams(&server, &root, "?user=nobody").is_empty());
}

#[test]
fn a_disconnected_stream_is_told_and_may_come_back() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut ended = server.watch(&tenant).open();
    let mut left_alone = server.watch(&tenant).open();
    let access = operator(&server, &tenant);
    let answer = disconnect(&server, &access, ended.connection_id());
    assert_eq!(answer.status, 204, "{}", answer.head);
    let receipt = server.publish(&tenant, &status("r1", 1));
    let closing = ended.next_event();
    assert_eq!(closing.name, "closing");
    assert_eq!(closing.json()["reason"], "disconnected");
    assert!(ended.next_but_cursors().is_none());
    assert_eq!(left_alone.next_event().cursor(), receipt.last);
    disconnect(&server, &access, ended.connection_id()).problem(404);
    disconnect(&server, &access, "sse-1").problem(422);

    let after = server.stream_of(&tenant).bearer(&server.viewer(&tenant));
    assert_eq!(
        after
            .query("last_event_id", &receipt.first)
            .open()
            .head
            .status,
        200
    );
}

#[test]
fn pages_are_all_streams_once() {
    let server = Server::start();
    let tenant = new_tenant();
    let open: Vec<Stream> = (0..23).map(|_| server.watch(&tenant).open()).collect();
    let access = operator(&server, &tenant);
    let mut seen = Vec::new();
    let mut query = "?limit=5".to_owned();
    loop {
        let page = list(&server, &access, &query).expect(200);
        let listed = page["streams"].as_array().expect("a list").clone();
        seen.extend(names(&listed).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=5&after={next}"),
            None => break,
        }
    }
    let mut expected: Vec<&str> = open.iter().map(Stream::connection_id).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn who_is_no_operator_is_refused() {
    let server = Server::start();
    let tenant = new_tenant();
    let stream = server.watch(&tenant).open();
    let delete = format!("/streams/{}", stream.connection_id());
    for (method, target) in [("GET", "/streams"), ("DELETE", delete.as_str())] {
        let request = || Request::new(method, target);
        server.exchange(&request()).problem(401);
        server
            .exchange(&request().bearer("e30.e30.e30"))
            .problem(401);
        for role in ["viewer", "publisher"] {
            let access = server.sign(&AccessToken::new("u", &tenant, role));
            server.exchange(&request().bearer(&access)).problem(403);
        }
        // The cookie is for stream tokens only.
        let cookie = format!("access_token={}", operator(&server, &tenant));
        server
            .exchange(&request().header("Cookie", &cookie))
            .problem(401);
    }
    let access = operator(&server, &tenant);
    for query in ["?limit=0", "?limit=1001", "?after=x", "?tenant=x"] {
        list(&server, &access, query).problem(422);
    }
}

fn audience(server: &Server, access: &str, tenant: &str, cursor: &str, query: &str) -> Answer {
    let target = format!("/tenants/{tenant}/events/{cursor}/audience{query}");
    server.exchange(&Request::get(&target).bearer(access))
}

/// The outcomes by connection id, and the whole answer.
fn outcomes(answer: &Answer) -> BTreeMap<String, String> {
    let body = answer.expect(200);
    let streams = body["streams"].as_array().expect("a list");
    let text = |stream: &Value, field: &str| stream[field].as_str().expect("text").to_owned();
    streams
        .iter()
        .map(|stream| (text(stream, "connection_id"), text(stream, "outcome")))
        .collect()
}

/// Reads a stream up to this cursor, and checks whether the event with it was shown.
fn saw(stream: &mut Stream, cursor: &str) -> bool {
    loop {
        let event = stream.next_of_any().expect("the stream stays open");
        if tidings_tests::position(event.cursor()) >= tidings_tests::position(cursor) {
            return event.name != "cursor";
        }
    }
}

/// One stream for each bound that can keep an event of `r1` out, and one that none keeps it from.
fn crowd(server: &Server, tenant: &str) -> [(&'static str, Stream); 6] {
    let group = format!("/tenants/{tenant}/device-groups/north");
    let put = Request::new("PUT", &group).bearer(&server.super_admin());
    let answer = server.exchange(&put.body("application/json", "{\"devices\":[\"r2\"]}"));
    assert_eq!(answer.status, 204);
    let viewer = |name: &str| AccessToken::new(name, tenant, "viewer");
    let watch = |token: &AccessToken| server.stream_of(tenant).bearer(&server.sign(token));
    let plain = viewer("plain");
    [
        ("sent", watch(&plain).open()),
        (
            "types_claim",
            watch(&viewer("a").claim("types", vec!["metric_update"])).open(),
        ),
        (
            "devices_claim",
            watch(&viewer("b").claim("devices", vec!["r2"])).open(),
        ),
        (
            "device_group",
            watch(&viewer("c").claim("device_group", "north")).open(),
        ),
        (
            "types_filter",
            watch(&plain).query("types", "alert_fired").open(),
        ),
        (
            "device_filter",
            watch(&plain).query("device_id", "r2,r3").open(),
        ),
    ]
}

fn wait_for_end_of(server: &Server, connection: &str) {
    server.wait_for_log("the end of a stream", |line| {
        line.contains("stream_closed") && line.contains(connection)
    });
}

#[test]
fn an_audience_has_who_was_shown_the_event_and_for_each_other_what_kept_it_out() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let root = server.super_admin();
    let plain = server.sign(&AccessToken::new("plain", &tenant, "viewer"));
    let watch = || server.stream_of(&tenant).bearer(&plain);
    let mut streams = crowd(&server, &tenant);
    let mut all = server.stream_of(&tenant).bearer(&root).open();
    let mut scoped = server
        .stream_of(&tenant)
        .bearer(&root)
        .query("scope", "tenant")
        .open();
    let elsewhere = server.watch(&other).open();
    let left_before = watch().open();
    let left_before_id = left_before.connection_id().to_owned();
    drop(left_before);
    wait_for_end_of(&server, &left_before_id);

    let cursor = server.publish(&tenant, &status("r1", 1)).last;
    for (expected, stream) in &mut streams {
        assert_eq!(saw(stream, &cursor), *expected == "sent", "{expected}");
    }
    assert!(saw(&mut all, &cursor) && saw(&mut scoped, &cursor));
    let late = watch().open();
    let late_id = late.connection_id().to_owned();
    let replayed = watch().query("since", "2020-01-01T00:00:00Z").open();

    let mut expected: BTreeMap<String, String> = streams
        .iter()
        .map(|(outcome, stream)| (stream.connection_id().to_owned(), (*outcome).to_owned()))
        .collect();
    expected.insert(left_before_id, "closed_before".to_owned());
    expected.insert(late_id.clone(), "opened_after".to_owned());
    expected.insert(replayed.connection_id().to_owned(), "sent".to_owned());
    let by_operator = audience(&server, &operator(&server, &tenant), &tenant, &cursor, "");
    assert_eq!(outcomes(&by_operator), expected);
    let event = &by_operator.json()["event"];
    assert_eq!(event["id"], cursor);
    assert_eq!(event["type"], "device_status");
    assert_eq!(event["device_id"], "r1");

    // What has ended is still known, and how it ended.
    drop(late);
    wait_for_end_of(&server, &late_id);
    for of_root in [&all, &scoped] {
        expected.insert(of_root.connection_id().to_owned(), "sent".to_owned());
    }
    let by_root = audience(&server, &root, &tenant, &cursor, "");
    assert_eq!(outcomes(&by_root), expected);
    assert!(!by_root.text().contains(elsewhere.connection_id()));
    let body = by_root.json();
    let find = |id: &str| {
        let streams = body["streams"].as_array().expect("a list");
        let found = streams.iter().find(|stream| stream["connection_id"] == id);
        found.expect("listed").clone()
    };
    let late = find(&late_id);
    assert_eq!(late["closed_because"], "client_left");
    assert!(moment(&late["closed_at"]) > moment(&late["opened_at"]));
    assert_eq!(late["user_id"], "plain");
    assert_eq!(find(replayed.connection_id())["closed_at"], Value::Null);
}

#[test]
fn a_stream_that_lags_has_still_to_be_given_the_event_and_may_end_before() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
        .start();
    let tenant = new_tenant();
    let stalled = server
        .stream_of(&tenant)
        .bearer(&server.viewer(&tenant))
        .receive_buffer(4096)
        .open();
    let id = stalled.connection_id().to_owned();
    let events: Vec<Value> = (0..2000).map(|number| status("r1", number)).collect();
    let receipt = server.publish_all(&tenant, &events);
    let access = operator(&server, &tenant);
    let outcome = |cursor: &str| {
        let found = outcomes(&audience(&server, &access, &tenant, cursor, ""));
        found.get(&id).cloned().expect("listed")
    };
    assert_eq!(outcome(&receipt.first), "sent");
    assert_eq!(outcome(&receipt.last), "not_yet");
    stalled.tear();
    wait_for_end_of(&server, &id);
    assert_eq!(outcome(&receipt.first), "sent");
    assert_eq!(outcome(&receipt.last), "closed_before");
}

#[test]
fn an_event_that_is_not_the_operators_to_know_is_like_one_that_is_not_there() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let mine = server.publish(&tenant, &status("r1", 1)).last;
    let theirs = server.publish(&other, &status("r1", 1)).last;
    let access = operator(&server, &tenant);
    let unknown = |cursor: &str| audience(&server, &access, &tenant, cursor, "").problem(404);
    let epoch = tidings_tests::epoch(&mine);
    let beyond = unknown(&format!("{epoch}.{}", tidings_tests::position(&theirs) + 1));
    assert_eq!(unknown(&theirs), beyond);
    assert_eq!(unknown(&format!("{epoch}.0")), beyond);
    assert_eq!(unknown("zz.1"), beyond);
    audience(&server, &access, &other, &theirs, "").problem(403);
    audience(&server, &access, &tenant, "x", "").problem(422);
    audience(&server, &server.viewer(&tenant), &tenant, &mine, "").problem(403);
    audience(&server, &access, &tenant, &mine, "?limit=0").problem(422);
    audience(&server, &server.super_admin(), &other, &theirs, "").expect(200);

    let bounded = |name: &str, value: &str| {
        let token = AccessToken::new("operator-2", &tenant, "tenant_operator");
        server.sign(&token.claim(name, vec![value]))
    };
    for (name, value, status) in [
        ("devices", "r2", 404),
        ("types", "metric_update", 404),
        ("devices", "r1", 200),
        ("types", "device_status", 200),
    ] {
        let answer = audience(&server, &bounded(name, value), &tenant, &mine, "");
        assert_eq!(answer.status, status, "{name} {value}");
    }
}

#[test]
fn an_expired_event_is_told() {
    let server = Setup::new().set("TIDINGS_LOG__RETENTION", "1s").start();
    let tenant = new_tenant();
    let first = server.publish(&tenant, &status("r1", 1)).last;
    let access = operator(&server, &tenant);
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    loop {
        let answer = audience(&server, &access, &tenant, &first, "");
        if answer.status == 410 {
            answer.problem(410);
            break;
        }
        answer.expect(200);
        assert!(std::time::Instant::now() < deadline, "it never expires");
        // Retention goes on with what is appended.
        server.publish(&tenant, &status("r1", 2));
    }
}

#[test]
fn an_audience_comes_in_pages_and_says_how_far_back_it_is_complete() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__ENDED_STREAMS", "5")
        .start();
    let tenant = new_tenant();
    let access = operator(&server, &tenant);
    let cursor = server.publish(&tenant, &status("r1", 1)).last;
    let complete_since = |answer: &Answer| moment(&answer.expect(200)["complete_since"]);
    let at_first = complete_since(&audience(&server, &access, &tenant, &cursor, ""));
    let mut names = Vec::new();
    for _ in 0..8 {
        let stream = server.watch(&tenant).open();
        let id = stream.connection_id().to_owned();
        drop(stream);
        wait_for_end_of(&server, &id);
        names.push(id);
    }
    let open: Vec<Stream> = (0..4).map(|_| server.watch(&tenant).open()).collect();
    let mut expected = names.split_off(3);
    expected.extend(open.iter().map(|stream| stream.connection_id().to_owned()));
    expected.sort_unstable();
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = audience(&server, &access, &tenant, &cursor, &query);
        assert!(complete_since(&page) > at_first, "three are forgotten");
        seen.extend(outcomes(&page).into_keys());
        match page.json()["next"].as_str() {
            Some(next) => query = format!("?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected);
}
