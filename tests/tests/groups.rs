//! Device groups: a claim that names one shows its devices and no others, on every path; a change of the
//! group ends the streams that it bounds before it is answered, and nothing slips through meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tidings_tests::publish::{self, status};
use tidings_tests::{AccessToken, Answer, Request, Server, Setup, Stream, new_tenant};

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

fn target(tenant: &str, group: &str) -> String {
    format!("/tenants/{tenant}/device-groups/{group}")
}

fn try_put(server: &Server, access: &str, target: &str, devices: &Value) -> Answer {
    let body = json!({ "devices": devices }).to_string();
    let request = Request::new("PUT", target)
        .bearer(access)
        .body("application/json", body);
    server.exchange(&request)
}

fn put(server: &Server, tenant: &str, group: &str, devices: &[&str]) {
    let access = operator(server, tenant);
    let answer = try_put(server, &access, &target(tenant, group), &json!(devices));
    assert_eq!(answer.status, 204, "{}\n{}", answer.head, answer.text());
}

fn remove(server: &Server, tenant: &str, group: &str) -> Answer {
    let access = operator(server, tenant);
    server.exchange(&Request::new("DELETE", &target(tenant, group)).bearer(&access))
}

fn get(server: &Server, tenant: &str, path: &str) -> Answer {
    let access = operator(server, tenant);
    server
        .exchange(&Request::get(&format!("/tenants/{tenant}/device-groups{path}")).bearer(&access))
}

/// Somebody whose token names a group.
fn bounded(tenant: &str, group: &str) -> AccessToken {
    AccessToken::new("technician", tenant, "viewer").claim("device_group", group)
}

fn watch(server: &Server, tenant: &str, token: &AccessToken) -> Stream {
    let stream_token = server.stream_token(&server.sign(token));
    server.stream_of(tenant).token(&stream_token).open()
}

fn shown_by_history(server: &Server, tenant: &str, token: &AccessToken) -> Vec<u64> {
    let target = format!("/tenants/{tenant}/events");
    let page = server
        .exchange(&Request::get(&target).bearer(&server.sign(token)))
        .expect(200);
    let number = |event: &Value| event["data"]["n"].as_u64().expect("a number");
    page["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

fn assert_view_changed(stream: &mut Stream) {
    let closing = stream.next_event();
    assert_eq!(closing.name, "closing", "{closing:?}");
    assert_eq!(closing.json()["reason"], "view_changed");
    assert!(stream.next_but_cursors().is_none());
    assert!(!stream.reset);
}

#[test]
fn a_group_and_the_devices_claim_together_are_the_view_on_every_path() {
    let server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1", "r2"]);
    let cases = [
        (bounded(&tenant, "north"), vec![1, 2]),
        (
            bounded(&tenant, "north").claim("devices", vec!["r3"]),
            vec![1, 2, 3],
        ),
        (bounded(&tenant, "south"), vec![]),
        (
            bounded(&tenant, "south").claim("devices", vec!["r3"]),
            vec![3],
        ),
    ];
    let first = server.publish(&tenant, &status("r9", 0));
    let mut live: Vec<Stream> = cases
        .iter()
        .map(|(token, _)| watch(&server, &tenant, token))
        .collect();
    for number in 1..=4 {
        server.publish(&tenant, &status(&format!("r{number}"), number));
    }
    let no_device = json!({"type": "alert_fired", "data": {"n": 5}});
    let last = server.publish(&tenant, &no_device);
    for ((token, expected), live) in cases.iter().zip(&mut live) {
        let mut replayed = server
            .stream_of(&tenant)
            .token(&server.stream_token(&server.sign(token)))
            .after(&first.last)
            .open();
        for stream in [live, &mut replayed] {
            let mut seen = Vec::new();
            loop {
                let event = stream.next_of_any().expect("the stream stays open");
                if event.name != "cursor" {
                    seen.push(event.json()["n"].as_u64().expect("a number"));
                }
                if tidings_tests::position(event.cursor()) >= tidings_tests::position(&last.last) {
                    break;
                }
            }
            assert_eq!(&seen, expected, "{token:?}");
        }
        assert_eq!(&shown_by_history(&server, &tenant, token), expected);
    }
}

#[test]
fn a_change_ends_the_streams_that_the_group_bounds_and_no_others() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    put(&server, &tenant, "north", &["r1"]);
    put(&server, &tenant, "south", &["r1"]);
    put(&server, &other, "north", &["r1"]);
    let mut changed: Vec<Stream> = (0..5)
        .map(|_| watch(&server, &tenant, &bounded(&tenant, "north")))
        .collect();
    let mut unbounded = server.watch(&tenant).open();
    let mut of_another_group = watch(&server, &tenant, &bounded(&tenant, "south"));
    let mut of_another_tenant = watch(&server, &other, &bounded(&other, "north"));
    let before = server.publish(&tenant, &status("r1", 1));

    put(&server, &tenant, "north", &["r2"]);
    server.publish(&tenant, &status("r1", 2));
    let shown = server.publish(&tenant, &status("r2", 3));
    for stream in &mut changed {
        assert_eq!(stream.next_event().cursor(), before.last);
        assert_view_changed(stream);
    }
    let mut reopened = server
        .stream_of(&tenant)
        .bearer(&server.sign(&bounded(&tenant, "north")))
        .after(&before.last)
        .open();
    assert_eq!(reopened.next_event().cursor(), shown.last);
    assert_eq!(unbounded.events(3).len(), 3);
    assert_eq!(of_another_group.events(2)[1].json()["n"], 2);
    let elsewhere = server.publish(&other, &status("r1", 4));
    assert_eq!(of_another_tenant.next_event().cursor(), elsewhere.last);
}

#[test]
fn removing_a_group_shows_nothing_of_it_any_more() {
    let server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1"]);
    let token = bounded(&tenant, "north").claim("devices", vec!["r2"]);
    let mut stream = watch(&server, &tenant, &token);
    assert_eq!(remove(&server, &tenant, "north").status, 204);
    assert_view_changed(&mut stream);
    remove(&server, &tenant, "north").problem(404);
    get(&server, &tenant, "/north").problem(404);

    let mut stream = watch(&server, &tenant, &token);
    server.publish(&tenant, &status("r1", 1));
    server.publish(&tenant, &status("r2", 2));
    assert_eq!(stream.next_event().json()["n"], 2);
    assert_eq!(shown_by_history(&server, &tenant, &token), [2]);

    // A group that appears is a change for those who named it before.
    put(&server, &tenant, "north", &[]);
    assert_view_changed(&mut stream);
}

#[test]
fn a_put_of_the_same_devices_disturbs_nobody() {
    let server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1", "r2"]);
    let mut stream = watch(&server, &tenant, &bounded(&tenant, "north"));
    put(&server, &tenant, "north", &["r2", "r1", "r2"]);
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

#[test]
fn groups_survive_a_kill() {
    let mut server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r2", "r1"]);
    put(&server, &tenant, "gone", &["r1"]);
    assert_eq!(remove(&server, &tenant, "gone").status, 204);
    server.kill();
    server.start_again();
    let group = get(&server, &tenant, "/north").expect(200);
    assert_eq!(group, json!({"devices": ["r1", "r2"]}));
    let list = get(&server, &tenant, "").expect(200);
    assert_eq!(list, json!({"groups": [{"name": "north", "devices": 2}]}));
    let mut stream = watch(&server, &tenant, &bounded(&tenant, "north"));
    let receipt = server.publish(&tenant, &status("r2", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

#[test]
fn only_operators_whom_no_devices_bound_keep_groups() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    put(&server, &tenant, "north", &["r1"]);
    let north = target(&tenant, "north");
    let list = format!("/tenants/{tenant}/device-groups");
    let by_claim = |name: &str, value: Value| {
        AccessToken::new("operator-2", &tenant, "tenant_operator").claim(name, value)
    };
    let refused = [
        server.viewer(&tenant),
        server.publisher(&tenant),
        operator(&server, &other),
        // Who could change its own bounds would have none.
        server.sign(&by_claim("device_group", json!("north"))),
        server.sign(&by_claim("devices", json!(["r1"]))),
    ];
    for access in &refused {
        try_put(&server, access, &north, &json!(["r2"])).problem(403);
        for request in [
            Request::new("DELETE", &north),
            Request::get(&north),
            Request::get(&list),
        ] {
            server.exchange(&request.bearer(access)).problem(403);
        }
    }
    let unchanged = get(&server, &tenant, "/north").expect(200);
    assert_eq!(unchanged, json!({"devices": ["r1"]}));
    let answer = try_put(&server, &server.super_admin(), &north, &json!(["r2"]));
    assert_eq!(answer.status, 204);
}

#[test]
fn a_group_that_can_not_be_is_refused_and_leaves_the_old_one() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__DEVICE_GROUPS", "2")
        .set("TIDINGS_LIMITS__DEVICES_PER_GROUP", "3")
        .start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1"]);
    let access = operator(&server, &tenant);
    let north = target(&tenant, "north");
    let too_many = try_put(&server, &access, &north, &json!(["a", "b", "c", "d"])).problem(422);
    assert_eq!(too_many["field"], "devices");
    for devices in [
        json!(["-"]),
        json!([""]),
        json!([7]),
        json!(null),
        json!("r1"),
    ] {
        try_put(&server, &access, &north, &devices).problem(422);
    }
    let send = |content_type: &str, body: &str| {
        let request = Request::new("PUT", &north).bearer(&access);
        server.exchange(&request.body(content_type, body))
    };
    send("application/json", "{\"devices\":[").problem(400);
    send("application/json", "{}").problem(422);
    send("application/json", "{\"devices\":[],\"device\":[]}").problem(422);
    send("text/plain", "{\"devices\":[]}").problem(415);
    let long = target(&tenant, &"x".repeat(257));
    try_put(&server, &access, &long, &json!([])).problem(422);
    assert_eq!(
        get(&server, &tenant, "/north").expect(200),
        json!({"devices": ["r1"]})
    );

    put(&server, &tenant, "south", &[]);
    try_put(&server, &access, &target(&tenant, "west"), &json!([])).problem(409);
    put(&server, &tenant, "north", &["r1", "r2", "r3"]);
    assert_eq!(remove(&server, &tenant, "south").status, 204);
    put(&server, &tenant, "west", &[]);
    let name = "Standort%20%C3%9Cberlingen%2F1";
    assert_eq!(remove(&server, &tenant, "west").status, 204);
    put(&server, &tenant, name, &["r1"]);
    let list = get(&server, &tenant, "").expect(200);
    assert_eq!(list["groups"][0]["name"], "Standort Überlingen/1");
}

#[test]
fn a_bounded_publisher_speaks_for_the_groups_devices_only() {
    let server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1"]);
    let token = AccessToken::new("poller", &tenant, "publisher").claim("device_group", "north");
    let access = server.sign(&token);
    let publish =
        |device: &str| server.exchange(&publish::one(&tenant, &access, &status(device, 1)));
    publish("r1").expect(200);
    publish("r2").problem(403);
    put(&server, &tenant, "north", &["r2"]);
    publish("r1").problem(403);
    publish("r2").expect(200);
}

#[test]
fn a_group_of_a_tenant_bounds_no_view_of_all_tenants() {
    let server = Server::start();
    let tenant = new_tenant();
    put(&server, &tenant, "north", &["r1"]);
    let token = AccessToken::super_admin("root-1")
        .claim("device_group", "north")
        .claim("devices", vec!["r2"]);
    let access = server.sign(&token);
    let mut all = server.stream_of(&tenant).bearer(&access).open();
    let scoped = server.stream_of(&tenant).bearer(&access);
    let mut scoped = scoped.query("scope", "tenant").open();
    server.publish(&tenant, &status("r1", 1));
    server.publish(&tenant, &status("r2", 2));
    assert_eq!(all.next_event().json()["n"], 2);
    assert_eq!(scoped.next_event().json()["n"], 1);
}

/// Streams open all the time while the group swings between two devices. After each swing is answered,
/// an event of the device that is out is published, and one of the device that is in. Nobody ever
/// receives the former: every stream begins at the tail, so that it was opened before it, and by then
/// the swing was over.
#[test]
fn nothing_slips_through_while_a_group_changes() {
    let server = Server::start();
    let tenant = new_tenant();
    let swings: u64 = 60;
    put(&server, &tenant, "north", &["r0"]);
    let access = server.sign(&bounded(&tenant, "north"));
    let over = AtomicBool::new(false);
    let opened = std::sync::Barrier::new(5);
    let received: Vec<(BTreeSet<u64>, usize)> = std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = BTreeSet::new();
                    let mut ends = 0;
                    let mut first = true;
                    while !over.load(Ordering::SeqCst) {
                        // With a token that was handed out before, as browsers have it.
                        let token = server.stream_token(&access);
                        let mut stream = server.stream_of(&tenant).token(&token).open();
                        if std::mem::take(&mut first) {
                            opened.wait();
                        }
                        while let Some(event) = stream.next_but_cursors() {
                            if event.name == "closing" {
                                assert_eq!(event.json()["reason"], "view_changed");
                                ends += 1;
                            } else {
                                seen.insert(event.json()["n"].as_u64().expect("a number"));
                            }
                        }
                    }
                    (seen, ends)
                })
            })
            .collect();
        opened.wait();
        for swing in 1..=swings {
            let (inside, outside) = (swing % 2, (swing + 1) % 2);
            put(&server, &tenant, "north", &[&format!("r{inside}")]);
            server.publish(&tenant, &status(&format!("r{outside}"), 10 * swing));
            server.publish(&tenant, &status(&format!("r{inside}"), 10 * swing + 1));
        }
        over.store(true, Ordering::SeqCst);
        // The last ones hang on a stream that nothing else would end.
        while watchers.iter().any(|watcher| !watcher.is_finished()) {
            put(&server, &tenant, "north", &["last"]);
            put(&server, &tenant, "north", &[]);
        }
        watchers
            .into_iter()
            .map(|watcher| watcher.join().expect("no watcher panics"))
            .collect()
    });
    let mut shown = BTreeSet::new();
    for (seen, ends) in received {
        let leaked: Vec<&u64> = seen.iter().filter(|number| **number % 10 == 0).collect();
        assert!(
            leaked.is_empty(),
            "shown though out of the group: {leaked:?}"
        );
        assert!(ends > 0, "no stream was ever told");
        shown.extend(seen);
    }
    assert!(!shown.is_empty(), "the streams were never open in time");
}
