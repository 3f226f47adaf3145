//! Operators' calls: which streams are open, and ending one. Who is no operator learns nothing, and a
//! tenant's operator nothing of other tenants and of super admins.

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
    let opened = one["opened_at"].as_str().expect("a time");
    let event_time = server.history(&tenant, "")["events"][0]["time"].clone();
    assert!(
        opened <= event_time.as_str().expect("a time"),
        "{opened} {event_time}"
    );
}

#[test]
fn a_stream_that_does_not_read_shows_its_lag() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
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
