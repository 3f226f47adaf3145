//! Publishers' API keys: made, rotated, revoked; what each may do, and who may know of it. A key is shown once and stands
//! nowhere else, neither on disk nor in what the server writes.

use std::time::Instant;

use serde_json::{Value, json};
use tidings_tests::publish::{one, status};
use tidings_tests::server::run;
use tidings_tests::{AccessToken, Answer, Connection, GUARD, Request, Server, Setup, new_tenant};

fn call(server: &Server, method: &str, target: &str, access: &str, body: Option<&Value>) -> Answer {
    let mut request = Request::new(method, target).bearer(access);
    if let Some(body) = body {
        request = request.body("application/json", body.to_string());
    }
    server.exchange(&request)
}

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

/// A key that an operator of the tenant makes, and its id.
fn created(server: &Server, tenant: &str, body: &Value) -> (String, String) {
    let answer = call(
        server,
        "POST",
        "/keys",
        &operator(server, tenant),
        Some(body),
    );
    let issued = answer.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&issued["key"]), text(&issued["info"]["id"]))
}

fn publish(server: &Server, tenant: &str, key: &str, number: u64) -> u16 {
    server
        .exchange(&one(tenant, key, &status("r1", number)))
        .status
}

fn listed(server: &Server, access: &str) -> Vec<Value> {
    let list = call(server, "GET", "/keys", access, None).expect(200);
    list["keys"].as_array().expect("a list").clone()
}

fn ids(keys: &[Value]) -> Vec<&str> {
    keys.iter()
        .map(|key| key["id"].as_str().expect("an id"))
        .collect()
}

#[test]
fn a_key_publishes_what_it_is_bound_to_until_it_is_revoked_also_after_a_kill() {
    let mut server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let body = json!({"name": "poller 1", "types": ["device_status"]});
    let (key, id) = created(&server, &tenant, &body);
    assert!(key.starts_with(&format!("tdk_{id}_")), "{key}");
    assert_eq!(publish(&server, &tenant, &key, 1), 200);
    assert_eq!(publish(&server, &other, &key, 1), 403);
    let measured = json!({"type": "metric_update", "device_id": "r1", "data": {}});
    let measured = server.exchange(&one(&tenant, &key, &measured));
    assert_eq!(measured.problem(403)["field"], "type");
    // It is for publishing only.
    for target in ["/streams", "/keys", "/tenants"] {
        call(&server, "GET", target, &key, None).problem(401);
    }
    server
        .stream_of(&tenant)
        .bearer(&key)
        .refused()
        .problem(401);

    server.kill();
    server.start_again();
    assert_eq!(publish(&server, &tenant, &key, 2), 200);
    let operator = operator(&server, &tenant);
    let target = format!("/keys/{id}");
    assert_eq!(
        call(&server, "DELETE", &target, &operator, None).status,
        204
    );
    assert_eq!(publish(&server, &tenant, &key, 3), 401);
    assert!(listed(&server, &operator)[0]["last_used_at"].is_string());
    assert_eq!(
        call(&server, "DELETE", &target, &operator, None).status,
        204
    );
    server.kill();
    server.start_again();
    assert_eq!(publish(&server, &tenant, &key, 3), 401);
    let keys = listed(&server, &operator);
    assert_eq!(ids(&keys), [&*id]);
    assert!(keys[0]["revoked_at"].is_string(), "{keys:?}");
    let rotate = format!("/keys/{id}/rotate");
    call(&server, "POST", &rotate, &operator, None).problem(409);
}

#[test]
fn after_a_rotation_both_secrets_are_good_for_the_overlap() {
    let server = Server::start();
    let tenant = new_tenant();
    let operator = operator(&server, &tenant);
    let (first, id) = created(&server, &tenant, &json!({"name": "poller"}));
    let rotate = |body: Option<&Value>| {
        let answer = call(
            &server,
            "POST",
            &format!("/keys/{id}/rotate"),
            &operator,
            body,
        );
        let issued = answer.expect(200);
        (
            issued["key"].as_str().expect("a key").to_owned(),
            issued["info"].clone(),
        )
    };
    let (second, info) = rotate(None);
    assert_ne!(first, second);
    assert!(info["old_secret_until"].is_string(), "{info}");
    assert_eq!(
        (
            publish(&server, &tenant, &first, 1),
            publish(&server, &tenant, &second, 2)
        ),
        (200, 200)
    );
    // One that leaked is not to overlap.
    let (third, info) = rotate(Some(&json!({"overlap_seconds": 0})));
    assert_eq!(info["old_secret_until"], Value::Null);
    for (key, expected) in [(&first, 401), (&second, 401), (&third, 200)] {
        assert_eq!(publish(&server, &tenant, key, 3), expected);
    }
    let (fourth, _) = rotate(Some(&json!({"overlap_seconds": 1})));
    let deadline = Instant::now() + GUARD;
    while publish(&server, &tenant, &third, 4) == 200 {
        assert!(Instant::now() < deadline, "the overlap never ended");
    }
    assert_eq!(publish(&server, &tenant, &fourth, 5), 200);
    let long = json!({"overlap_seconds": 2_592_001});
    call(
        &server,
        "POST",
        &format!("/keys/{id}/rotate"),
        &operator,
        Some(&long),
    )
    .problem(422);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn a_key_ends_when_it_was_made_to_and_publishes_no_more_than_its_rate() {
    let server = Server::start();
    let tenant = new_tenant();
    let soon = "2026-01-01T00:00:00Z";
    let operator = operator(&server, &tenant);
    for body in [
        json!({"name": "late", "expires_at": soon}),
        json!({"name": "odd", "expires_at": "tomorrow"}),
        json!({"name": ""}),
        json!({"name": "a\nb"}),
        json!({"name": "x".repeat(65)}),
        json!({"name": "typo", "typs": []}),
        json!({"name": "unknown", "types": ["nothing"]}),
        json!({"types": []}),
    ] {
        call(&server, "POST", "/keys", &operator, Some(&body)).problem(422);
    }
    call(&server, "POST", "/keys", &operator, None).problem(422);
    let broken = Request::post("/keys").bearer(&operator);
    server
        .exchange(&broken.clone().body("application/json", "{"))
        .problem(400);
    server
        .exchange(&broken.body("text/plain", "{}"))
        .problem(415);
    assert!(listed(&server, &operator).is_empty());

    let (slow, _) = created(
        &server,
        &tenant,
        &json!({"name": "slow", "publish_rate": 2}),
    );
    let (fast, _) = created(&server, &tenant, &json!({"name": "fast"}));
    assert_eq!(publish(&server, &tenant, &slow, 0), 200);
    let deadline = Instant::now() + GUARD;
    let refused = loop {
        let answer = server.exchange(&one(&tenant, &slow, &status("r1", 1)));
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the rate never held");
    };
    refused.problem(429);
    // What one event of two a second takes, in whole seconds.
    assert_eq!(refused.header("retry-after"), Some("1"), "{}", refused.head);
    assert!((0..20).all(|number| publish(&server, &tenant, &fast, number) == 200));

    let command = |arguments: &[&str]| {
        let url = format!("http://{}", server.address);
        let variables = [
            ("TIDINGS_URL", &*url),
            ("TIDINGS_TOKEN", &*operator),
            ("TIDINGS_TENANT", &*tenant),
        ];
        run(arguments, &variables, &server.folder())
    };
    let made = command(&["keys", "create", "brief", "--lifetime", "1s"]);
    assert!(made.status.success(), "{}", made.said);
    let brief = made
        .said
        .lines()
        .find(|line| line.starts_with("tdk_"))
        .expect("a key")
        .to_owned();
    let deadline = Instant::now() + GUARD;
    while publish(&server, &tenant, &brief, 1) == 200 {
        assert!(Instant::now() < deadline, "the key never ended");
    }
    let refused = server
        .exchange(&one(&tenant, &brief, &status("r1", 1)))
        .problem(401);
    assert_eq!(refused["detail"], "the API key has expired");
    let shown = command(&["keys"]);
    assert!(
        shown.said.contains("brief") && shown.said.contains("slow"),
        "{}",
        shown.said
    );
    assert!(!shown.said.contains("tdk_"), "{}", shown.said);
    let id = brief.split('_').nth(1).expect("an id");
    let rotated = command(&["keys", "rotate", id]);
    assert!(
        rotated.status.success() && rotated.said.contains(&format!("tdk_{id}_")),
        "{}",
        rotated.said
    );
    assert!(command(&["keys", "revoke", id]).status.success());
    assert!(
        !command(&["keys", "revoke", "0123456789abcdef"])
            .status
            .success()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn an_operator_makes_and_knows_the_keys_of_its_own_tenant_only() {
    let configured = format!(
        "[{{id = \"static\", secret_sha256 = \"{}\", tenants = \"*\"}}]",
        "0".repeat(64)
    );
    let server = Setup::new()
        .set("TIDINGS_AUTH__PUBLISHERS", &configured)
        .start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let (own, root) = (operator(&server, &tenant), server.super_admin());
    let make = |access: &str, body: &Value| call(&server, "POST", "/keys", access, Some(body));
    for body in [
        json!({"name": "a", "tenants": [other]}),
        json!({"name": "a", "tenants": [tenant, other]}),
        json!({"name": "a", "tenants": []}),
        json!({"name": "a", "all_tenants": true}),
    ] {
        make(&own, &body).problem(403);
    }
    for access in [server.viewer(&tenant), server.publisher(&tenant)] {
        make(&access, &json!({"name": "a"})).problem(403);
        call(&server, "GET", "/keys", &access, None).problem(403);
    }
    let limited =
        AccessToken::new("operator-2", &tenant, "tenant_operator").claim("devices", json!(["r1"]));
    make(&server.sign(&limited), &json!({"name": "a"})).problem(403);
    let limited = AccessToken::new("operator-3", &tenant, "tenant_operator")
        .claim("types", json!(["device_status"]));
    let limited = server.sign(&limited);
    make(&limited, &json!({"name": "a"})).problem(403);
    make(
        &limited,
        &json!({"name": "a", "types": ["device_status", "metric_update"]}),
    )
    .problem(403);
    make(&limited, &json!({"name": "a", "types": ["device_status"]})).expect(201);

    let of_both = make(&root, &json!({"name": "both", "tenants": [tenant, other]})).expect(201);
    let of_other = make(&root, &json!({"name": "theirs", "tenants": [other]})).expect(201);
    let of_all = make(&root, &json!({"name": "all", "all_tenants": true})).expect(201);
    let for_own = make(&root, &json!({"name": "for you", "tenants": [tenant]})).expect(201);
    make(&root, &json!({"name": "nobody's"})).problem(422);

    let keys = listed(&server, &own);
    let names: Vec<_> = keys
        .iter()
        .map(|key| key["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names.len(), 2, "{keys:?}");
    assert!(names.contains(&"a") && names.contains(&"for you"));
    let given = keys
        .iter()
        .find(|key| key["name"] == "for you")
        .expect("it is listed");
    assert_eq!(
        given["created_by"],
        Value::Null,
        "of super admins an operator is told nothing"
    );
    assert_eq!(listed(&server, &operator(&server, &other)).len(), 1);
    let all = listed(&server, &root);
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(ids(&all).contains(&"static"));

    // What an operator may not know of is answered like what is not there.
    for issued in [&of_both, &of_other, &of_all] {
        let id = issued["info"]["id"].as_str().expect("an id");
        let unknown = call(&server, "DELETE", "/keys/0123456789abcdef", &own, None).problem(404);
        assert_eq!(
            call(&server, "DELETE", &format!("/keys/{id}"), &own, None).problem(404),
            unknown
        );
        call(&server, "POST", &format!("/keys/{id}/rotate"), &own, None).problem(404);
    }
    call(&server, "DELETE", "/keys/static", &own, None).problem(404);
    call(&server, "DELETE", "/keys/static", &root, None).problem(409);
    let id = for_own["info"]["id"].as_str().expect("an id");
    assert_eq!(
        call(&server, "DELETE", &format!("/keys/{id}"), &own, None).status,
        204
    );
    let key = of_all["key"].as_str().expect("a key");
    assert_eq!(publish(&server, &new_tenant(), key, 1), 200);
    let get = server.exchange(&Request::get(&format!("/keys/{id}/rotate")).bearer(&root));
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    let put = server.exchange(&Request::new("PUT", "/keys").bearer(&root));
    assert_eq!(
        (put.status, put.header("allow")),
        (405, Some("GET, HEAD, POST"))
    );
}

/// A new secret is as good as a new key: who may not make a key for all types was handed one by rotating another's.
#[test]
fn an_operator_that_is_limited_to_types_gets_no_hold_of_a_key_for_more() {
    let server = Server::start();
    let tenant = new_tenant();
    let limited = |types: Value| {
        let token = AccessToken::new("operator-2", &tenant, "tenant_operator");
        server.sign(&token.claim("types", types))
    };
    let access = limited(json!(["device_status"]));
    let (_, all) = created(&server, &tenant, &json!({"name": "all"}));
    let types = json!(["device_status", "metric_update"]);
    let (_, two) = created(&server, &tenant, &json!({"name": "two", "types": types}));
    let types = json!(["device_status"]);
    let (_, one) = created(&server, &tenant, &json!({"name": "one", "types": types}));
    let (rotate, revoke) = (
        |id: &str| ("POST", format!("/keys/{id}/rotate")),
        |id: &str| ("DELETE", format!("/keys/{id}")),
    );
    for (method, target) in [rotate(&all), rotate(&two), revoke(&all), revoke(&two)] {
        call(&server, method, &target, &access, None).problem(403);
    }
    let both = limited(json!(["metric_update", "device_status", "alert_fired"]));
    for (access, id) in [(&access, &one), (&both, &two)] {
        call(&server, "POST", &rotate(id).1, access, None).expect(200);
        assert_eq!(
            call(&server, "DELETE", &revoke(id).1, access, None).status,
            204
        );
    }
    let all_types = operator(&server, &tenant);
    call(&server, "POST", &rotate(&all).1, &all_types, None).expect(200);
}

/// A key's own rate holds instead of the configured one, which is the platform's.
#[test]
fn an_operator_gives_no_key_a_rate_above_the_configured_one() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__PUBLISH_RATE_PER_KEY", "5")
        .start();
    let tenant = new_tenant();
    let operator = operator(&server, &tenant);
    let body = json!({"name": "fast", "publish_rate": 1_000_000});
    let refused = call(&server, "POST", "/keys", &operator, Some(&body)).problem(403);
    assert_eq!(refused["field"], "publish_rate");
    let (_, id) = created(
        &server,
        &tenant,
        &json!({"name": "as all", "publish_rate": 5}),
    );
    assert!(!id.is_empty());
    // The platform's own operators may.
    let body = json!({"name": "fast", "publish_rate": 1_000_000, "tenants": [tenant]});
    call(&server, "POST", "/keys", &server.super_admin(), Some(&body)).expect(201);
}

#[test]
fn a_tenants_keys_are_limited_and_go_with_it() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__PUBLISHER_KEYS", "2")
        .start();
    let tenant = new_tenant();
    let operator = operator(&server, &tenant);
    let (first, id) = created(&server, &tenant, &json!({"name": "one"}));
    created(&server, &tenant, &json!({"name": "two"}));
    let third = json!({"name": "three"});
    call(&server, "POST", "/keys", &operator, Some(&third)).problem(409);
    call(&server, "DELETE", &format!("/keys/{id}"), &operator, None);
    let (third, _) = created(&server, &tenant, &third);
    assert_eq!(
        (
            publish(&server, &tenant, &first, 1),
            publish(&server, &tenant, &third, 1)
        ),
        (401, 200)
    );
    let purge = format!("/tenants/{tenant}?confirm={tenant}");
    let root = server.super_admin();
    call(&server, "DELETE", &purge, &root, None).expect(200);
    assert!(listed(&server, &root).is_empty());
    assert_eq!(publish(&server, &tenant, &third, 2), 401);
    let again = json!({"name": "again", "tenants": [tenant]});
    call(&server, "POST", "/keys", &root, Some(&again)).problem(410);
}

#[test]
fn a_key_stands_neither_on_disk_nor_in_the_log() {
    let mut server = Setup::new().set("TIDINGS_LOGGING__LEVEL", "trace").start();
    let tenant = new_tenant();
    let (key, id) = created(&server, &tenant, &json!({"name": "poller"}));
    assert_eq!(publish(&server, &tenant, &key, 1), 200);
    let wrong = format!("{key}x");
    assert_eq!(publish(&server, &tenant, &wrong, 2), 401);
    server.stop();
    let secret = key.strip_prefix(&format!("tdk_{id}_")).expect("its secret");
    let written = server.output.text_at_end();
    assert!(written.contains("key_created") && !written.contains(secret));
    for file in walk(&server.folder()) {
        let bytes = std::fs::read(&file).expect("a file of the server");
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{}", file.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// A body can take a minute to come in, and a key be revoked meanwhile.
#[test]
fn a_body_that_comes_in_after_its_credential_was_revoked_is_not_stored() {
    let server = Setup::new().set("TIDINGS_LIMITS__BODY_RATE", "0").start();
    let tenant = new_tenant();
    let root = server.super_admin();
    let (key, id) = created(&server, &tenant, &json!({"name": "poller"}));
    let user = server.sign(&AccessToken::new("ada", &tenant, "publisher"));
    let event = status("r1", 1).to_string();
    let (first, rest) = event.split_at(event.len() / 2);
    for (credential, revoke) in [
        (&key, format!("/keys/{id}")),
        (&user, "/users/ada/streams".to_owned()),
    ] {
        let mut connection = Connection::open(server.address).expect("a connection");
        // The server asks for the body once it knows who publishes.
        let head = format!(
            "POST /tenants/{tenant}/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {credential}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            event.len()
        );
        connection.send(head.as_bytes()).expect("a head goes out");
        assert_eq!(
            connection.read_head().expect("a word of the server").status,
            100
        );
        connection
            .send(first.as_bytes())
            .expect("half a body goes out");
        let revoked = call(&server, "DELETE", &revoke, &root, None).status;
        assert!(revoked == 204 || revoked == 200, "{revoked}");
        connection.send(rest.as_bytes()).expect("the rest goes out");
        connection.read_answer().expect("an answer").problem(401);
    }
    let events = server.history(&tenant, "");
    assert_eq!(
        events["events"].as_array().map(Vec::len),
        Some(0),
        "{events}"
    );
}
