//! Tenants as such: what an operator is told of them, what is set for one of them alone, and the end of
//! one. A purged tenant is refused and hidden on every path at once, soon out of every file, and stays so.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tidings_tests::publish::{self, status};
use tidings_tests::server::run;
use tidings_tests::{AccessToken, Answer, Request, Server, Setup, new_tenant};

/// What stands in every event, device and group of the purged tenant, and nowhere else.
const MARK: &str = "nobody-may-find-this";

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

fn list(server: &Server, access: &str, query: &str) -> Answer {
    server.exchange(&Request::get(&format!("/tenants{query}")).bearer(access))
}

fn listed(server: &Server, access: &str) -> Vec<Value> {
    let page = list(server, access, "").expect(200);
    assert_eq!(page["next"], Value::Null);
    page["tenants"].as_array().expect("a list").clone()
}

fn one(server: &Server, access: &str, tenant: &str) -> Value {
    let all = listed(server, access);
    let found = all.iter().find(|other| other["id"] == tenant);
    found
        .unwrap_or_else(|| panic!("{tenant} in {all:?}"))
        .clone()
}

fn purge(server: &Server, tenant: &str) -> Answer {
    let target = format!("/tenants/{tenant}?confirm={tenant}");
    server.exchange(&Request::new("DELETE", &target).bearer(&server.super_admin()))
}

fn marked(number: u64) -> Value {
    json!({"type": "device_status", "device_id": MARK, "key": format!("{MARK}-{number}"),
           "data": {"status": "online", "n": number, "note": format!("{MARK} {}", "x".repeat(900))}})
}

fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = fs::read(&path)
            && memchr::memmem::find(&bytes, text.as_bytes()).is_some()
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn an_operator_is_told_of_its_own_tenant_and_a_super_admin_of_all() {
    let own = new_tenant();
    let setting =
        format!("{{ \"{own}\" = {{ name = \"North\", retention = \"2d\", streams = 7 }} }}");
    let server = Setup::new().set("TIDINGS_TENANTS", &setting).start();
    let other = new_tenant();
    let stream = server.watch(&own).open();
    // A super admin's stream is nobody's to know of, whatever tenant its token says.
    let root = AccessToken::new("root-2", &own, "super_admin");
    let _hidden = server.stream_of(&own).bearer(&server.sign(&root)).open();
    server.publish_all(&own, &[status("r1", 1), status("r1", 2)]);
    server.publish(&other, &status("r1", 3));

    let of_operator = listed(&server, &operator(&server, &own));
    let [info] = &of_operator[..] else {
        panic!("one tenant: {of_operator:?}");
    };
    assert_eq!(info["id"], own.as_str());
    assert_eq!(info["name"], "North");
    assert_eq!(info["events"], 2);
    assert!(info["bytes"].as_u64().expect("bytes") > 100);
    assert_eq!(info["streams"], 1, "that of {}", stream.connection_id());
    assert_eq!(info["settings"]["retention_seconds"], 172_800.0);
    assert_eq!(info["settings"]["streams"], 7);
    assert_eq!(info["settings"]["event_bytes"], 1 << 20);
    let time = server.history(&own, "")["events"][0]["time"].clone();
    assert_eq!(info["oldest_at"], time);
    assert_eq!(info["appended"], 2);

    let of_root = listed(&server, &server.super_admin());
    let mut ids = vec![own.as_str(), other.as_str()];
    ids.sort_unstable();
    let shown: Vec<&str> = of_root
        .iter()
        .filter_map(|info| info["id"].as_str())
        .collect();
    assert_eq!(shown, ids);
    let first = list(&server, &server.super_admin(), "?limit=1").expect(200);
    assert_eq!(first["next"], ids[0]);
    let second = list(
        &server,
        &server.super_admin(),
        &format!("?limit=1&after={}", ids[0]),
    );
    assert_eq!(second.expect(200)["tenants"][0]["id"], ids[1]);

    for role in ["viewer", "publisher"] {
        let access = server.sign(&AccessToken::new("u", &own, role));
        list(&server, &access, "").problem(403);
    }
    server.exchange(&Request::get("/tenants")).problem(401);
    for query in ["?limit=0", "?after=x"] {
        list(&server, &server.super_admin(), query).problem(422);
    }
}

#[test]
fn what_came_of_a_tenant_is_counted_on_where_its_retention_takes_as_much() {
    let tenant = new_tenant();
    let setting = format!("{{ \"{tenant}\" = {{ max_bytes = \"64KiB\" }} }}");
    let server = Setup::new().set("TIDINGS_TENANTS", &setting).start();
    let large = json!({"type": "device_status", "data": {"text": "x".repeat(8000)}});
    let body = vec![large; 10];
    let mut published = 0;
    // Until its bytes are taken back, whenever the log looks after that.
    let (before, after) = loop {
        let before = one(&server, &server.super_admin(), &tenant);
        server.publish_all(&tenant, &body);
        published += 10;
        let after = one(&server, &server.super_admin(), &tenant);
        assert_eq!(after["appended"], published);
        if after["events"].as_u64() < Some(published) {
            break (before, after);
        }
        assert!(published < 100_000, "the tenant's bytes are bounded");
    };
    assert_eq!(before["appended_since"], after["appended_since"]);
    assert!(after["appended"].as_u64() > before["appended"].as_u64());
}

#[test]
fn what_is_set_for_one_tenant_holds_for_it_alone() {
    let (own, other) = (new_tenant(), new_tenant());
    let setting =
        format!("{{ \"{own}\" = {{ streams = 1, event_bytes = \"2KiB\", publish_rate = 2 }} }}");
    let server = Setup::new().set("TIDINGS_TENANTS", &setting).start();
    let large = json!({"type": "device_status", "data": {"text": "x".repeat(3000)}});
    let refused = server.exchange(&publish::one(&own, &server.publisher(&own), &large));
    refused.problem(413);
    server.publish(&other, &large);

    let _stream = server.watch(&own).open();
    server.watch(&own).refused().problem(429);
    let _streams = [server.watch(&other).open(), server.watch(&other).open()];

    // The body that overdraws passes; the next one waits for five minutes' worth of credit.
    let body: Vec<Value> = (0..600).map(|number| status("r1", number)).collect();
    server.publish_all(&own, &body);
    let again = publish::one(&own, &server.publisher(&own), &status("r1", 600));
    server.exchange(&again).problem(429);
    server.publish_all(&other, &body);
    server.publish_all(&other, &body);
}

#[test]
fn a_purge_needs_a_super_admin_and_the_id_twice() {
    let server = Server::start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let delete = |query: &str| Request::new("DELETE", &format!("/tenants/{tenant}{query}"));
    let confirmed = format!("?confirm={tenant}");
    server.exchange(&delete(&confirmed)).problem(401);
    for role in ["viewer", "publisher", "tenant_operator"] {
        let access = server.sign(&AccessToken::new("u", &tenant, role));
        server
            .exchange(&delete(&confirmed).bearer(&access))
            .problem(403);
        server.exchange(&delete("").bearer(&access)).problem(403);
    }
    let root = server.super_admin();
    for query in [
        "",
        "?confirm=",
        "?confirm=yes",
        &format!("?confirm={}", new_tenant()),
    ] {
        let problem = server.exchange(&delete(query).bearer(&root)).problem(422);
        assert_eq!(problem["parameter"], "confirm");
    }
    assert_eq!(
        server.history(&tenant, "")["events"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

/// Every call for a purged tenant, by those who could make it before.
fn assert_gone(server: &Server, tenant: &str, early_token: Option<&str>) {
    let viewer = server.viewer(tenant);
    let root = server.super_admin();
    let publisher = server.publisher(tenant);
    let operating = operator(server, tenant);
    server
        .exchange(&Request::post("/auth/sse-token").bearer(&viewer))
        .problem(410);
    if let Some(token) = early_token {
        server.stream_of(tenant).token(token).refused().problem(410);
    }
    server
        .stream_of(tenant)
        .bearer(&viewer)
        .refused()
        .problem(410);
    server
        .stream_of(tenant)
        .bearer(&root)
        .refused()
        .problem(410);
    server
        .stream_of(tenant)
        .bearer(&root)
        .query("scope", "tenant")
        .refused()
        .problem(410);
    server
        .exchange(&publish::one(tenant, &publisher, &marked(1)))
        .problem(410);
    server
        .exchange(&publish::one(tenant, &root, &marked(1)))
        .problem(410);
    let group = format!("/tenants/{tenant}/device-groups/core");
    for (access, path) in [&viewer, &root].into_iter().flat_map(|access| {
        ["events", "state", "events/stream?snapshot=true"].map(|path| (access, path))
    }) {
        let target = format!("/tenants/{tenant}/{path}");
        server
            .exchange(&Request::get(&target).bearer(access))
            .problem(410);
    }
    for access in [&operating, &root] {
        server
            .exchange(&Request::get(&group).bearer(access))
            .problem(410);
        let put = Request::new("PUT", &group).bearer(access);
        let put = put.body("application/json", json!({"devices": [MARK]}).to_string());
        server.exchange(&put).problem(410);
    }
    for target in ["/tenants", "/streams"] {
        server
            .exchange(&Request::get(target).bearer(&operating))
            .problem(410);
    }
    purge(server, tenant).problem(410);
    // Who may not know of the tenant is not told that it was there.
    let stranger = server.viewer(&new_tenant());
    let target = format!("/tenants/{tenant}/events");
    server
        .exchange(&Request::get(&target).bearer(&stranger))
        .problem(403);
    server.exchange(&Request::get(&target)).problem(401);
}

/// What a stream of all tenants shows from the beginning, up to an event that is published for it now.
fn shown_to_all(server: &Server, other: &str) -> String {
    let last = server.publish(other, &status("last", 0)).last;
    let start = format!("{}.0", tidings_tests::epoch(&last));
    let mut stream = server
        .stream_of(other)
        .bearer(&server.super_admin())
        .query("last_event_id", &start)
        .open();
    let mut shown = String::new();
    loop {
        let event = stream.next_event();
        assert_ne!(event.name, "gap", "{}", event.data);
        shown.push_str(&event.data);
        if event.cursor() == last {
            return shown;
        }
    }
}

/// What a snapshot of all tenants shows.
fn snapshot_of_all(server: &Server, other: &str) -> String {
    let mut state = server
        .stream_of(other)
        .bearer(&server.super_admin())
        .query("snapshot", "true")
        .open();
    let mut subjects = String::new();
    loop {
        let event = state.next_of_any().expect("a snapshot ends");
        subjects.push_str(&event.data);
        if event.name == "snapshot_end" {
            return subjects;
        }
    }
}

/// Thirty events of one tenant, and of the other more in several files of the log, and a device group.
fn fill(server: &Server, gone: &str, kept: &str) {
    for round in 0..30 {
        let events: Vec<Value> = (0..40).map(|number| marked(40 * round + number)).collect();
        server.publish_all(gone, &events);
        server.publish(kept, &status("kept-device", round));
    }
    let group = Request::new("PUT", &format!("/tenants/{gone}/device-groups/core"));
    let group = group.bearer(&operator(server, gone));
    let group = group.body("application/json", json!({"devices": [MARK]}).to_string());
    assert_eq!(server.exchange(&group).status, 204);
}

#[test]
fn a_purged_tenant_is_refused_and_hidden_at_once_and_soon_out_of_every_file() {
    let mut server = Setup::new().set("TIDINGS_LOG__MAX_BYTES", "8MiB").start();
    let (gone, kept) = (new_tenant(), new_tenant());
    fill(&server, &gone, &kept);
    let early_token = server.stream_token(&server.viewer(&gone));
    let mut own = server.watch(&gone).open();
    let mut scoped = server
        .stream_of(&gone)
        .bearer(&server.super_admin())
        .query("scope", "tenant")
        .open();
    let mut all = server.stream_of(&kept).bearer(&server.super_admin()).open();
    let mut of_kept = server.watch(&kept).open();
    assert!(
        files_with(&server.folder(), MARK).len() > 1,
        "in segments and groups"
    );
    assert!(shown_to_all(&server, &kept).contains(MARK));

    let answer = purge(&server, &gone).expect(200);
    assert_eq!(answer["tenant_id"], gone.as_str());
    assert_eq!(answer["streams_closed"], 2);
    assert_eq!(answer["gone_within_seconds"], 3600.0);
    for stream in [&mut own, &mut scoped] {
        let closing = stream.next_event();
        assert_eq!(closing.name, "closing");
        assert_eq!(closing.json()["reason"], "deleted");
        assert!(stream.next_but_cursors().is_none());
    }
    assert_gone(&server, &gone, Some(&early_token));
    let shown = shown_to_all(&server, &kept);
    assert!(!shown.contains(MARK));
    assert_eq!(shown.matches("kept-device").count(), 30);
    let subjects = snapshot_of_all(&server, &kept);
    assert!(subjects.contains("kept-device"), "{subjects}");
    assert!(!subjects.contains(MARK), "{subjects}");
    // Others' streams were not so much as told.
    let receipt = server.publish(&kept, &status("kept-device", 99));
    for stream in [&mut all, &mut of_kept] {
        loop {
            let event = stream.next_event();
            assert_eq!(event.name, "device_status", "{}", event.data);
            if event.cursor() == receipt.last {
                break;
            }
        }
    }

    server.wait_for_log("tenant_gone", |line| line.contains("tenant_gone"));
    assert_eq!(files_with(&server.folder(), MARK), Vec::<String>::new());
    assert!(!files_with(&server.folder(), "kept-device").is_empty());
    let root = server.super_admin();
    let info = one(&server, &root, &gone);
    assert_eq!(info["events"], 0);
    assert_eq!(info["purged"]["by"], "root-1");
    assert_eq!(info["purged"]["on_disk"], false);
    assert_eq!(info["purged"]["at"], answer["purged_at"]);

    server.kill();
    server.start_again();
    assert_gone(&server, &gone, None);
    let shown = shown_to_all(&server, &kept);
    assert!(!shown.contains(MARK));
    assert_eq!(shown.matches("kept-device").count(), 31);
    assert_eq!(files_with(&server.folder(), MARK), Vec::<String>::new());
    let checked = run(
        &["log", "verify", &server.folder().display().to_string()],
        &[],
        &server.folder(),
    );
    assert!(checked.status.success(), "{}", checked.said);
}

#[test]
fn a_purge_that_the_process_does_not_live_to_finish_is_finished_by_the_next() {
    let mut server = Setup::new().set("TIDINGS_LOG__MAX_BYTES", "8MiB").start();
    let (gone, kept) = (new_tenant(), new_tenant());
    for round in 0..60 {
        let events: Vec<Value> = (0..40).map(|number| marked(40 * round + number)).collect();
        server.publish_all(&gone, &events);
        server.publish(&kept, &status("kept-device", round));
    }
    assert_eq!(purge(&server, &gone).status, 200);
    // Wherever the removal is by now.
    server.kill();
    server.start_again();
    assert_gone(&server, &gone, None);
    let shown = shown_to_all(&server, &kept);
    assert!(!shown.contains(MARK));
    assert_eq!(shown.matches("kept-device").count(), 60);
    let root = server.super_admin();
    if one(&server, &root, &gone)["purged"]["on_disk"] == true {
        server.wait_for_log("tenant_gone", |line| line.contains("tenant_gone"));
    }
    assert_eq!(files_with(&server.folder(), MARK), Vec::<String>::new());
}

#[test]
fn the_command_lists_tenants_and_purges_one() {
    let tenant = new_tenant();
    let setting = format!("{{ \"{tenant}\" = {{ name = \"North\", retention = \"2d\" }} }}");
    let server = Setup::new().set("TIDINGS_TENANTS", &setting).start();
    server.publish(&tenant, &status("r1", 1));
    let (url, root) = (format!("http://{}", server.address), server.super_admin());
    let command = |arguments: &[&str]| {
        let environment = [
            ("TIDINGS_URL", url.as_str()),
            ("TIDINGS_TOKEN", root.as_str()),
        ];
        run(arguments, &environment, &server.folder())
    };
    let listed = command(&["tenants"]);
    assert!(listed.status.success(), "{}", listed.said);
    let line = listed.said.lines().find(|line| line.starts_with(&tenant));
    let cells: Vec<&str> = line.expect("the tenant").split_whitespace().collect();
    assert_eq!((cells[1], cells[2]), ("North", "1"), "{}", listed.said);
    assert!(cells.contains(&"2d"), "{}", listed.said);

    let other = command(&["tenants", "purge", &tenant, "--confirm", &new_tenant()]);
    assert!(!other.status.success());
    assert!(other.said.contains("422"), "{}", other.said);
    server.publish(&tenant, &status("r1", 2));
    let purged = command(&["tenants", "purge", &tenant, "--confirm", &tenant]);
    assert!(purged.status.success(), "{}", purged.said);
    let json = command(&["tenants", "--json"]);
    let info: Value = serde_json::from_str(&json.said).expect("one object");
    assert_eq!(info["id"], tenant.as_str());
    assert_eq!(info["purged"]["by"], "root-1");
    assert_gone(&server, &tenant, None);
}

#[test]
fn a_key_of_a_purged_tenant_is_another_tenants_to_use() {
    let server = Server::start();
    let (gone, other) = (new_tenant(), new_tenant());
    server.publish(&gone, &marked(1));
    assert_eq!(purge(&server, &gone).status, 200);
    let receipt = server.publish(&other, &marked(1));
    assert_eq!((receipt.accepted, receipt.duplicates), (1, 0));
}

#[test]
fn a_lagging_stream_of_all_tenants_is_given_nothing_of_a_purged_one_any_more() {
    let server = Setup::new()
        .set("TIDINGS_STREAM__SEND_BUFFER", "4KiB")
        .start();
    let (gone, kept) = (new_tenant(), new_tenant());
    let first = server.publish(&kept, &status("first", 0)).first;
    let mut stalled = server
        .stream_of(&kept)
        .bearer(&server.super_admin())
        .query("last_event_id", &first)
        .receive_buffer(4096)
        .open();
    for round in 0..50 {
        let events: Vec<Value> = (0..40).map(|number| marked(40 * round + number)).collect();
        server.publish_all(&gone, &events);
    }
    // It has begun, so chunks and blocks with the tenant's events are at hand for it.
    assert!(stalled.next_event().data.contains(MARK));
    assert_eq!(purge(&server, &gone).status, 200);
    let last = server.publish(&kept, &status("last", 0)).last;
    let mut given = 1;
    loop {
        let event = stalled.next_event();
        assert_eq!(event.name, "device_status");
        if event.cursor() == last {
            break;
        }
        given += 1;
    }
    // What was with the kernel or on its way could not be called back: a few buffers' worth of 2,000.
    assert!(given < 500, "{given} events of the purged tenant");
}
