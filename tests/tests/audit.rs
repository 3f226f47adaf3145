//! The audit log: who opened, who was refused and why, who published by which key, who changed what; who may see it; that
//! no secret stands in it; that it outlives a kill.

use std::collections::HashSet;

use serde_json::{Value, json};
use tidings_tests::http::encode;
use tidings_tests::publish::{one, status};
use tidings_tests::server::run;
use tidings_tests::{AccessToken, GUARD, Request, Server, Setup, new_tenant};

fn page(server: &Server, access: &str, query: &str) -> Vec<Value> {
    let answer = server.exchange(&Request::get(&format!("/audit{query}")).bearer(access));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines = answer.text().lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a JSON object"))
        .collect()
}

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

fn of<'a>(entries: &'a [Value], what: &str) -> Vec<&'a Value> {
    entries
        .iter()
        .filter(|entry| entry["what"] == what)
        .collect()
}

fn call(server: &Server, method: &str, target: &str, access: &str, body: Option<&Value>) -> u16 {
    let mut request = Request::new(method, target).bearer(access);
    if let Some(body) = body {
        request = request.body("application/json", body.to_string());
    }
    server.exchange(&request).status
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn it_tells_who_opened_was_refused_published_and_changed_what_also_after_a_kill() {
    let mut server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let ada = server.sign(&AccessToken::new("ada", &tenant, "viewer"));
    let operator = operator(&server, &tenant);
    let stream = server
        .stream_of(&tenant)
        .token(&server.stream_token(&ada))
        .open();
    server
        .stream_of(&tenant)
        .token("unknown")
        .refused()
        .problem(401);
    server.stream_of(&other).bearer(&ada).refused().problem(403);
    let expired = server.sign(&AccessToken::new("ada", &tenant, "viewer").claim("exp", 1));
    assert_eq!(
        call(
            &server,
            "GET",
            &format!("/tenants/{tenant}/events"),
            &expired,
            None
        ),
        401
    );
    assert_eq!(
        call(&server, "POST", "/auth/sse-token", &expired, None),
        401
    );
    assert_eq!(call(&server, "GET", "/streams", &ada, None), 403);

    let made = Request::post("/keys").bearer(&operator);
    let made = made.body(
        "application/json",
        json!({"name": "poller", "types": ["device_status"]}).to_string(),
    );
    let made = server.exchange(&made).expect(201);
    let (id, key) = (
        made["info"]["id"].clone(),
        made["key"].as_str().expect("a key").to_owned(),
    );
    for number in 0..5 {
        server
            .exchange(&one(&tenant, &key, &status("r1", number)))
            .expect(200);
    }
    server
        .exchange(&one(&other, &key, &status("r1", 1)))
        .problem(403);
    let measured = json!({"type": "metric_update", "device_id": "r1", "data": {}});
    server.exchange(&one(&tenant, &key, &measured)).problem(403);
    server.publish(&tenant, &status("r1", 9));
    let id_text = id.as_str().expect("an id");
    for (method, target, body) in [
        ("POST", format!("/keys/{id_text}/rotate"), None),
        ("DELETE", format!("/keys/{id_text}"), None),
        (
            "PUT",
            format!("/tenants/{tenant}/device-groups/north"),
            Some(json!({"devices": ["r1"]})),
        ),
        (
            "DELETE",
            format!("/tenants/{tenant}/device-groups/north"),
            None,
        ),
        ("DELETE", format!("/tenants/{tenant}/devices/r1"), None),
        (
            "DELETE",
            format!("/streams/{}", stream.connection_id()),
            None,
        ),
        ("DELETE", "/users/ada/streams".to_owned(), None),
        ("DELETE", "/tokens/t-1/streams".to_owned(), None),
    ] {
        let status = call(&server, method, &target, &operator, body.as_ref());
        assert!((200..300).contains(&status), "{method} {target}: {status}");
    }

    // Who has published is in the files within a second or so; looking at them does not hurry it.
    let begun = std::time::Instant::now();
    let before = loop {
        let before = page(&server, &server.super_admin(), "");
        let published = of(&before, "published");
        let is_told =
            |name: &str, value: &Value| published.iter().any(|entry| entry[name] == *value);
        if is_told("key_id", &id) && is_told("user_id", &json!("publisher-1")) {
            break before;
        }
        assert!(begun.elapsed() < GUARD, "{published:?}");
    };
    server.kill();
    server.start_again();
    let entries = page(&server, &server.super_admin(), "");
    assert_eq!(
        entries[..before.len()],
        before[..],
        "what was shown outlives a kill"
    );
    let opened = of(&entries, "stream_opened");
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0]["user_id"], "ada");
    assert_eq!(opened[0]["connection_id"], stream.connection_id());
    assert_eq!(opened[0]["address"], "127.0.0.1");
    let refused = of(&entries, "stream_refused");
    let told: Vec<_> = refused
        .iter()
        .map(|entry| (&entry["status"], &entry["user_id"], &entry["tenant_id"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!(401), &Value::Null, &json!(tenant)),
            (&json!(403), &json!("ada"), &json!(tenant)),
        ]
    );
    assert!(refused.iter().all(|entry| entry["reason"].is_string()));
    for (what, count) in [
        ("read_refused", 1),
        ("token_refused", 1),
        ("operation_refused", 1),
        ("publish_refused", 2),
    ] {
        assert_eq!(of(&entries, what).len(), count, "{what}: {entries:?}");
    }
    assert!(
        of(&entries, "publish_refused")
            .iter()
            .all(|entry| entry["key_id"] == id)
    );
    let published = of(&entries, "published");
    let by_key: u64 = published
        .iter()
        .filter(|entry| entry["key_id"] == id)
        .filter_map(|entry| entry["events"].as_u64())
        .sum();
    let by_user: u64 = published
        .iter()
        .filter(|entry| entry["user_id"] == "publisher-1")
        .filter_map(|entry| entry["count"].as_u64())
        .sum();
    // Numbers of the last minute may go with a kill, names do not.
    assert!((1..=5).contains(&by_key) && by_user == 1, "{published:?}");
    for what in [
        "key_created",
        "key_rotated",
        "key_revoked",
        "group_put",
        "group_removed",
        "device_removed",
        "stream_disconnected",
    ] {
        let told = of(&entries, what);
        assert_eq!(told.len(), 1, "{what}");
        assert_eq!(
            (&told[0]["user_id"], &told[0]["tenant_id"]),
            (&json!("operator-1"), &json!(tenant))
        );
    }
    let revoked: Vec<_> = of(&entries, "access_revoked")
        .iter()
        .map(|entry| entry["target"].clone())
        .collect();
    assert_eq!(revoked, [json!("user ada"), json!("token t-1")]);
    let ids: Vec<_> = entries
        .iter()
        .map(|entry| entry["id"].as_u64().expect("a number"))
        .collect();
    assert!(ids.is_sorted() && ids.iter().collect::<HashSet<_>>().len() == ids.len());

    // Pages, and the command.
    let mut paged = Vec::new();
    loop {
        let after = paged
            .last()
            .map_or(0, |entry: &Value| entry["id"].as_u64().expect("a number"));
        let next = page(
            &server,
            &server.super_admin(),
            &format!("?limit=7&after={after}"),
        );
        if next.is_empty() {
            break;
        }
        assert!(next.len() <= 7);
        paged.extend(next);
    }
    assert_eq!(paged[..entries.len()], entries[..]);
    let url = format!("http://{}", server.address);
    let root = server.super_admin();
    let variables = [("TIDINGS_URL", &*url), ("TIDINGS_TOKEN", &*root)];
    let shown = run(&["audit", "--json"], &variables, &server.folder());
    assert!(
        shown.status.success() && shown.said.lines().count() >= entries.len(),
        "{}",
        shown.said
    );
    let shown = run(&["audit"], &variables, &server.folder());
    assert!(shown.said.contains("stream_refused"), "{}", shown.said);
    for wrong in [
        "?limit=0",
        "?limit=10001",
        "?after=x",
        "?since=yesterday",
        "?tenant=x",
    ] {
        let answer = server.exchange(&Request::get(&format!("/audit{wrong}")).bearer(&root));
        answer.problem(422);
    }
    assert!(page(&server, &root, "?until=2020-01-01T00:00:00Z").is_empty());
    assert!(page(&server, &root, "?since=2100-01-01T00:00:00Z").is_empty());
}

/// Who was an operator and asked for more than its own once left no trace.
#[test]
fn it_tells_which_operator_asked_for_what_is_not_its_own() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let whole = operator(&server, &tenant);
    let claims = AccessToken::new("bounded", &tenant, "tenant_operator");
    let bounded = server.sign(&claims.claim("devices", json!(["r1"])));
    let foreign_key = json!({"name": "poller", "tenants": [other]});
    let foreign = [
        ("GET", format!("/streams?tenant={other}"), None),
        ("GET", format!("/audit?tenant={other}"), None),
        ("DELETE", format!("/tenants/{other}"), None),
        ("DELETE", format!("/tenants/{other}/streams"), None),
        ("DELETE", format!("/users/eve/streams?tenant={other}"), None),
        (
            "DELETE",
            format!("/tokens/t-1/streams?tenant={other}"),
            None,
        ),
        ("DELETE", format!("/tenants/{other}/devices/r1"), None),
        (
            "DELETE",
            format!("/tenants/{other}/device-groups/all"),
            None,
        ),
        ("POST", "/keys".to_owned(), Some(&foreign_key)),
    ];
    for (method, target, body) in &foreign {
        let status = call(&server, method, target, &whole, *body);
        assert_eq!(status, 403, "{method} {target}");
    }
    let own = format!("/tenants/{tenant}/devices/r1");
    assert_eq!(call(&server, "DELETE", &own, &bounded, None), 403);

    let entries = page(&server, &server.super_admin(), "");
    let refused = of(&entries, "operation_refused");
    let users = refused.iter().map(|entry| entry["user_id"].as_str());
    let expected = [Some("operator-1")]
        .repeat(foreign.len())
        .into_iter()
        .chain([Some("bounded")]);
    assert_eq!(users.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for entry in refused {
        assert_eq!(
            (&entry["tenant_id"], &entry["status"], &entry["address"]),
            (&json!(tenant), &json!(403), &json!("127.0.0.1")),
        );
        assert!(entry["reason"].is_string());
        assert!(!entry.to_string().contains(&other), "{entry}");
    }
}

/// Each look at the log once had the next 200 refusals told one by one, whoever looked.
#[test]
fn who_looks_at_it_lifts_no_bound_on_refusals_and_a_stop_loses_no_number() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let access = operator(&server, &tenant);
    let begun = std::time::Instant::now();
    for _ in 0..3 {
        for _ in 0..250 {
            call(&server, "GET", "/streams", "x", None);
        }
        page(&server, &access, "");
    }
    let passed = begun.elapsed().as_secs();
    for number in 0..7 {
        server.publish(&tenant, &status("r1", number));
    }
    server.stop();
    server.start_again();
    let entries = page(&server, &server.super_admin(), "?limit=10000");
    let told = of(&entries, "operation_refused").len() as u64;
    // By time there are 200 in ten seconds, however long this took.
    assert!(told <= 200 * (2 + passed / 10), "{told} in {passed} s");
    let untold = of(&entries, "more_refused");
    let untold: u64 = untold
        .iter()
        .filter_map(|entry| entry["count"].as_u64())
        .sum();
    assert_eq!(told + untold, 750, "each is counted");
    let published = of(&entries, "published");
    let published: u64 = published
        .iter()
        .filter_map(|entry| entry["events"].as_u64())
        .sum();
    assert_eq!(published, 7);
}

#[test]
fn an_operator_is_told_of_its_own_tenant_and_nothing_of_super_admins() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let root = server.super_admin();
    let theirs = server.sign(&AccessToken::new("eve", &other, "viewer"));
    let mut streams = vec![
        server.watch(&tenant).open(),
        server.stream_of(&other).bearer(&theirs).open(),
        server.stream_of(&tenant).bearer(&root).open(),
    ];
    // Somebody of another tenant tries this one, and the other way about.
    server
        .stream_of(&tenant)
        .bearer(&theirs)
        .refused()
        .problem(403);
    server
        .stream_of(&other)
        .bearer(&server.viewer(&tenant))
        .refused()
        .problem(403);
    let key = json!({"name": "of both", "tenants": [tenant, other]}).to_string();
    let made = Request::post("/keys")
        .bearer(&root)
        .body("application/json", key);
    let key = server.exchange(&made).expect(201)["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    server
        .exchange(&one(&new_tenant(), &key, &status("r1", 1)))
        .problem(403);
    assert_eq!(
        call(
            &server,
            "DELETE",
            &format!("/users/x/streams?tenant={tenant}"),
            &root,
            None
        ),
        200
    );

    let own = page(&server, &operator(&server, &tenant), "");
    assert!(
        own.iter().all(|entry| entry["tenant_id"] == *tenant),
        "{own:?}"
    );
    let text = serde_json::to_string(&own).expect("text");
    for hidden in ["eve", "root-1", other.as_str(), "super_admin"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    let whats: Vec<_> = own
        .iter()
        .map(|entry| entry["what"].as_str().expect("text"))
        .collect();
    assert_eq!(whats, ["stream_opened", "stream_refused"]);
    let query = format!("?tenant={other}");
    let abroad = Request::get(&format!("/audit{query}")).bearer(&operator(&server, &tenant));
    server.exchange(&abroad).problem(403);
    for access in [server.viewer(&tenant), server.publisher(&tenant)] {
        server
            .exchange(&Request::get("/audit").bearer(&access))
            .problem(403);
    }
    let limited =
        AccessToken::new("operator-2", &tenant, "tenant_operator").claim("devices", json!(["r1"]));
    server
        .exchange(&Request::get("/audit").bearer(&server.sign(&limited)))
        .problem(403);
    let of_other = page(&server, &root, &query);
    assert!(of_other.len() >= 2 && of_other.iter().all(|entry| entry["tenant_id"] == *other));
    streams.clear();
}

/// Tokens, keys and payloads are shown in every place that a request has.
#[test]
fn no_secret_and_no_payload_stands_in_it() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let minted = server.stream_token(&access);
    let made = Request::post("/keys").bearer(&operator(&server, &tenant));
    let made = made.body("application/json", json!({"name": "poller"}).to_string());
    let key = server.exchange(&made).expect(201)["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let payload = "a-payload-that-nobody-may-audit";
    let mut event = status("r1", 1);
    event["data"]["note"] = json!(payload);
    server.exchange(&one(&tenant, &key, &event)).expect(200);
    event["type"] = json!("metric_update");
    server.exchange(&one(&tenant, &access, &event)).problem(403);
    let secrets = [
        access.clone(),
        access.rsplit('.').next().expect("a signature").to_owned(),
        minted.clone(),
        key.clone(),
        key.rsplit('_').next().expect("a secret").to_owned(),
        payload.to_owned(),
        server.secret.clone(),
    ];
    for secret in &secrets {
        let encoded = encode(secret);
        for target in [
            format!("/tenants/{tenant}/events/stream?token={encoded}x"),
            format!("/tenants/{tenant}/events/stream?token=x&types={encoded}"),
            format!("/tenants/{tenant}/events/stream?token=x&last_event_id={encoded}"),
            format!("/tenants/{encoded}/events/stream?token=x"),
            format!("/tenants/{tenant}/events?after={encoded}"),
            format!("/streams/{encoded}"),
            format!("/audit?after={encoded}"),
        ] {
            for credential in [format!("{secret}x"), "x".to_owned(), access.clone()] {
                server.exchange(&Request::get(&target).bearer(&credential));
            }
        }
        server.exchange(&one(&tenant, &format!("{secret}x"), &status("r1", 1)));
        server.exchange(&Request::post("/auth/sse-token").bearer(&format!("{secret}x")));
    }
    let shown = page(&server, &server.super_admin(), "?limit=10000");
    assert!(of(&shown, "stream_refused").len() > 10, "{shown:?}");
    server.stop();
    let folder = server.folder().join("audit");
    let mut written = serde_json::to_vec(&shown).expect("text");
    for file in std::fs::read_dir(folder).expect("a folder") {
        written.extend(std::fs::read(file.expect("a file").path()).expect("a file"));
    }
    for secret in &secrets {
        let found = written
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{secret} stands in the audit log");
    }
}

#[test]
fn it_can_be_left_out() {
    let server = Setup::new().set("TIDINGS_AUDIT__ENABLED", "false").start();
    drop(server.watch(&new_tenant()).open());
    assert!(page(&server, &server.super_admin(), "").is_empty());
    assert!(!server.folder().join("audit").exists());
}
