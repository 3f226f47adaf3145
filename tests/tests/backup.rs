//! Backups of a server that runs, and what is served after a restore: clients come back with the cursors that they
//! had. See `spec/protocol.md`, "Cursors", and `docs/operate.md`, "Backups".

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tidings_tests::brokers::{NatsOptions, NatsServer, wait_for};
use tidings_tests::publish::{self, status};
use tidings_tests::server::Ended;
use tidings_tests::{
    AccessToken, Connection, Event, GUARD, Receipt, Request, Server, Setup, epoch, new_tenant,
    position,
};

/// What stands in every event of a tenant that is purged, and nowhere else.
const MARK: &str = "nobody-may-find-this";

/// A server that may be asked for backups, and the folder for them.
struct Backed {
    server: Server,
    backups: tempfile::TempDir,
}

impl Backed {
    fn start() -> Self {
        Self::start_with(Setup::new())
    }

    fn start_with(setup: Setup) -> Self {
        let backups = tempfile::tempdir().expect("a temporary folder");
        let server = setup
            .set(
                "TIDINGS_LOG__BACKUP_PATH",
                &backups.path().display().to_string(),
            )
            .start();
        Self { server, backups }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.backups.path().join(name)
    }

    fn back_up(&self, name: &str) -> Ended {
        let folder = self.folder(name);
        self.server.run(&["log", "backup", text(&folder)])
    }

    /// Stops the server, puts the backup in the place of its log, and starts it again.
    fn restore(&mut self, name: &str) -> Ended {
        let (log, old) = (
            self.server.folder(),
            self.server.folder().with_extension("old"),
        );
        let _ = fs::remove_dir_all(&old);
        fs::rename(&log, &old).expect("the log is moved aside");
        let source = self.folder(name);
        let restored = self.server.run(&[
            "log",
            "restore",
            text(&source),
            "--to",
            text(&log),
            "--previous",
            text(&old),
        ]);
        assert!(restored.status.success(), "{}", restored.said);
        self.server.start_again();
        restored
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn number(event: &Event) -> u64 {
    event.json()["n"]
        .as_u64()
        .unwrap_or_else(|| panic!("{event:?}"))
}

/// The cursor that a backup goes through, from what the command says.
fn through(made: &Ended) -> String {
    assert!(made.status.success(), "{}", made.said);
    let said = made.said.split("up to ").nth(1).expect("a cursor");
    said.split(',').next().expect("a cursor").to_owned()
}

/// A flag that is raised when this goes.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Backs up while somebody publishes the whole time; gives what the command said, and the cursors of what was published.
fn back_up_under_load(backed: &Backed, tenant: &str) -> (Ended, Vec<String>) {
    let access = backed.server.publisher(tenant);
    let (address, stop) = (backed.server.address, AtomicBool::new(false));
    let published = AtomicUsize::new(0);

    // Published one after the other the whole time, by one who notes the cursors.
    std::thread::scope(|threads| {
        let publisher = threads.spawn(|| {
            let mut connection = Connection::open(address).expect("a connection");
            let mut cursors = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let event = status("core-1", cursors.len() as u64);
                let request = publish::one(tenant, &access, &event);
                let answer = connection.exchange(&request).expect("an answer");
                cursors.push(Receipt::of(&answer).last);
                published.store(cursors.len(), Ordering::SeqCst);
            }
            cursors
        });
        // Whatever fails here, the publisher must end.
        let stopping = Raised(&stop);
        wait_for("what a backup is to have", || {
            published.load(Ordering::SeqCst) >= 2
        });
        let first = backed.back_up("daily");
        assert!(first.status.success(), "{}", first.said);
        // What the folder has is kept; the backup is the later one.
        let made = backed.back_up("daily");
        let after = backed.server.publish(tenant, &status("core-2", 0));
        assert!(position(&after.last) > position(&through(&made)));
        drop(stopping);
        (made, publisher.join().expect("the publisher lives"))
    })
}

#[test]
fn clients_resume_exactly_up_to_where_a_restored_backup_ends_and_are_told_beyond() {
    let mut backed = Backed::start();
    let tenant = new_tenant();
    let (made, cursors) = back_up_under_load(&backed, &tenant);
    let fork = through(&made);
    for _ in 0..20 {
        backed.server.publish(&tenant, &status("core-1", 1_000_000));
    }
    let beyond = backed
        .server
        .publish(&tenant, &status("core-1", 1_000_000))
        .last;
    let verified = backed
        .server
        .run(&["log", "verify", text(&backed.folder("daily"))]);
    assert!(
        verified.status.success() && verified.said.contains("The backup is sound"),
        "{}",
        verified.said
    );

    backed.server.kill();
    let said = backed.restore("daily").said;
    assert!(said.contains(&fork), "{said}");
    let server = &backed.server;
    let new = server.publish(&tenant, &status("core-1", 2_000_000)).last;
    assert_ne!(epoch(&new), epoch(&fork));
    assert_eq!(position(&new), position(&fork) + 1);

    // From any cursor up to the fork: exactly the rest of before, then what is new.
    let kept: Vec<&str> = cursors
        .iter()
        .map(String::as_str)
        .filter(|cursor| position(cursor) <= position(&fork))
        .collect();
    assert!(kept.len() > 1, "only {} events before the fork", kept.len());
    check_exact(server, &tenant, &kept, &new);
    let mut at_the_fork = server.watch(&tenant).after(&fork).open();
    assert_eq!(number(&at_the_fork.next_event()), 2_000_000);
    // Beyond it they are told, also where the log has grown past it.
    check_told(server, &tenant, &beyond, (&fork, &new));
    let many: Vec<Value> = (0..400).map(|n| status("core-3", n)).collect();
    server.publish_all(&tenant, &many);
    let last = server.publish(&tenant, &status("x", 1)).last;
    assert!(position(&last) > position(&beyond));
    check_told(server, &tenant, &beyond, (&fork, &new));

    // An older cursor still names its event, for operators too.
    let operator = server.sign(&AccessToken::new("o", &tenant, "tenant_operator"));
    let audience = |cursor: &str| {
        let target = format!("/tenants/{tenant}/events/{cursor}/audience");
        server.exchange(&Request::get(&target).bearer(&operator))
    };
    audience(kept[1]).expect(200);
    audience(&beyond).problem(404);
    let strange = server
        .watch(&tenant)
        .after("zzzz.5")
        .open()
        .next_named("gap")
        .json();
    assert_eq!(strange["reason"], "unknown_epoch");
}

/// Cursors of before the restore lead to the rest of what they led to, and then to what is new.
fn check_exact(server: &Server, tenant: &str, kept: &[&str], new: &str) {
    for at in [0, kept.len() / 2, kept.len() - 1] {
        let mut stream = server.watch(tenant).after(kept[at]).open();
        for (n, cursor) in kept.iter().enumerate().skip(at + 1) {
            let event = stream.next_event();
            assert_eq!(number(&event), n as u64);
            assert_eq!(position(event.cursor()), position(cursor));
            assert_eq!(epoch(event.cursor()), epoch(new));
        }
        let event = stream.next_event();
        assert_eq!((number(&event), event.cursor()), (2_000_000, new));
    }
}

/// A cursor from beyond the fork is told, on streams and in the history, and given all of what is here instead.
fn check_told(server: &Server, tenant: &str, beyond: &str, (fork, new): (&str, &str)) {
    let mut stream = server.watch(tenant).after(beyond).open();
    let gap = stream.next_named("gap").json();
    assert_eq!(gap["reason"], "ahead_of_log", "{gap}");
    assert_eq!(gap["requested"], beyond);
    let resumed = gap["resumed_at"].as_str().expect("a cursor");
    assert_eq!(
        (epoch(resumed), position(resumed)),
        (epoch(new), position(fork))
    );
    assert_eq!(number(&stream.next_event()), 2_000_000);
    let page = server.history(tenant, &format!("?after={beyond}"));
    assert_eq!(page["gap"]["reason"], "ahead_of_log", "{page}");
    assert_eq!(page["events"][0]["id"], new);
    // With a snapshot, what is told is followed by how things are.
    let watch = server.watch(tenant).query("snapshot", "true");
    let mut stream = watch.after(beyond).open();
    for name in ["gap", "snapshot"] {
        assert_eq!(stream.next_of_any().expect("the stream lives").name, name);
    }
}

#[test]
fn a_restored_log_can_be_backed_up_and_restored_again_and_knows_all_its_ancestors() {
    let mut backed = Backed::start();
    let tenant = new_tenant();
    let mut cursors = Vec::new();
    for round in 0..3_u64 {
        cursors.push(
            backed
                .server
                .publish(&tenant, &status("core-1", round))
                .last,
        );
        let name = format!("round-{round}");
        through(&backed.back_up(&name));
        backed.server.publish(&tenant, &status("core-1", 77));
        assert!(backed.server.stop().success());
        backed.restore(&name);
    }
    let server = &backed.server;
    let last = server.publish(&tenant, &status("core-1", 3)).last;
    for (round, cursor) in cursors.iter().enumerate() {
        let mut stream = server.watch(&tenant).after(cursor).open();
        for n in round + 1..=3 {
            assert_eq!(number(&stream.next_event()), n as u64);
        }
        assert_ne!(epoch(cursor), epoch(&last));
    }
    // The second epoch's event behind its fork is not this log's.
    let parted = format!("{}.{}", epoch(&cursors[1]), position(&cursors[1]) + 1);
    let gap = server
        .watch(&tenant)
        .after(&parted)
        .open()
        .next_named("gap")
        .json();
    assert_eq!(gap["reason"], "ahead_of_log");
}

fn files_with(folder: &Path, mark: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, mark));
        } else if memchr::memmem::find(&fs::read(&path).expect("a file"), mark.as_bytes()).is_some()
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_was_purged_or_revoked_since_a_backup_stays_so_after_its_restore() {
    let mut backed = Backed::start();
    let (kept, purged) = (new_tenant(), new_tenant());
    let marked = json!({"type": "device_status", "device_id": MARK, "data": {"note": MARK}});
    backed.server.publish(&purged, &marked);
    backed.server.publish(&kept, &status("core-1", 1));
    let group = format!("/tenants/{purged}/device-groups/{MARK}");
    let root = backed.server.super_admin();
    let put = Request::new("PUT", &group)
        .bearer(&root)
        .body("application/json", r#"{"devices":["a"]}"#);
    assert_eq!(backed.server.exchange(&put).status, 204);
    let operator = backed
        .server
        .sign(&AccessToken::new("o", &kept, "tenant_operator"));
    let make = Request::post("/keys")
        .bearer(&operator)
        .body("application/json", r#"{"name":"poller"}"#);
    let key = backed.server.exchange(&make).expect(201);
    through(&backed.back_up("daily"));
    assert!(!files_with(&backed.folder("daily"), MARK).is_empty());

    let server = &backed.server;
    let login = AccessToken::new("ada", &kept, "viewer").claim("iat", tidings_tests::access::now());
    let access = server.sign(&login);
    let target = format!("/tenants/{purged}?confirm={purged}");
    server
        .exchange(&Request::new("DELETE", &target).bearer(&root))
        .expect(200);
    server
        .exchange(&Request::new("DELETE", "/users/ada/streams").bearer(&root))
        .expect(200);
    let id = key["info"]["id"].as_str().expect("an id");
    let revoke = Request::new("DELETE", &format!("/keys/{id}")).bearer(&operator);
    assert!(server.exchange(&revoke).status < 300);
    assert!(backed.server.stop().success());
    let said = backed.restore("daily").said;
    assert!(said.contains(&purged), "{said}");

    let server = &backed.server;
    let history = |tenant: &str, access: &str| {
        server.exchange(&Request::get(&format!("/tenants/{tenant}/events")).bearer(access))
    };
    history(&purged, &server.viewer(&purged)).problem(410);
    history(&kept, &access).problem(401);
    let secret = key["key"].as_str().expect("a key");
    let refused = server.exchange(&publish::one(&kept, secret, &status("core-1", 9)));
    refused.problem(401);
    assert_eq!(server.history(&kept, "")["events"][0]["data"]["n"], 1);
    assert_eq!(files_with(&server.folder(), MARK), Vec::<PathBuf>::new());
    let after = server.publish(&kept, &status("core-1", 2));
    assert_eq!(position(&after.last), 3);

    // The next backup of the same folder holds nothing of it either.
    through(&backed.back_up("daily"));
    assert_eq!(
        files_with(&backed.folder("daily"), MARK),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn a_running_server_writes_backups_in_the_folder_for_them_and_nowhere_else() {
    let mut backed = Backed::start();
    let tenant = new_tenant();
    backed.server.publish(&tenant, &status("core-1", 1));
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let elsewhere = elsewhere.path().join("out");
    let refused = backed.server.run(&["log", "backup", text(&elsewhere)]);
    assert!(!refused.status.success());
    assert!(refused.said.contains("log.backup_path"), "{}", refused.said);
    let ask = |body: &str| {
        let request = Request::post("/backup").body("application/json", body);
        backed.server.ask_admin(&request)
    };
    for target in ["/etc/x", "../x", "a/../../x"] {
        ask(&json!({"target": target}).to_string()).problem(403);
    }
    assert!(ask("{}").status >= 400 && ask("not json").status >= 400);
    assert!(!elsewhere.exists());
    // On the public listener there is no such path.
    let public = Request::post("/backup").body("application/json", r#"{"target":"x"}"#);
    backed.server.exchange(&public).problem(404);
    // Another log's backup is not written over.
    let other = Backed::start();
    other.server.publish(&tenant, &status("core-1", 1));
    through(&other.back_up("daily"));
    fs::rename(other.folder("daily"), backed.folder("of-another")).expect("it is moved");
    ask(r#"{"target":"of-another"}"#).problem(409);

    // Stopped, it is the command that writes, wherever it may.
    let name = elsewhere.clone();
    assert!(backed.server.stop().success());
    through(&backed.server.run(&["log", "backup", text(&name)]));
    let verified = backed.server.run(&["log", "verify", text(&name)]);
    assert!(
        verified.said.contains("A backup: 1 events"),
        "{}",
        verified.said
    );
    // A backup is not served.
    let mut serve = backed.server.command();
    serve.env("TIDINGS_LOG__PATH", &name);
    let refused = tidings_tests::server::run_to_end(serve);
    assert!(
        refused.said.contains("tidings log restore"),
        "{}",
        refused.said
    );
    // And nothing is restored over what is there.
    let folder = backed.server.folder();
    let refused = backed
        .server
        .run(&["log", "restore", text(&name), "--to", text(&folder)]);
    assert!(!refused.status.success());
    assert!(refused.said.contains("--previous"), "{}", refused.said);
}

#[test]
fn without_a_folder_for_backups_a_running_server_makes_none() {
    let server = Server::start();
    let request = Request::post("/backup").body("application/json", r#"{"target":"x"}"#);
    let problem = server.ask_admin(&request).problem(403);
    assert!(
        problem["detail"]
            .as_str()
            .expect("a detail")
            .contains("log.backup_path")
    );
}

/// Waits until there is something at a path.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + GUARD;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never {what}");
        std::thread::yield_now();
    }
}

/// Whatever moment it is: a backup or a restore that is killed leaves nothing that is taken for a whole one.
#[test]
fn a_kill_in_the_middle_of_a_backup_or_a_restore_leaves_what_is_told_and_can_be_repeated() {
    let mut backed = Backed::start();
    let tenant = new_tenant();
    let padding = "p".repeat(60_000);
    let large: Vec<Value> = (0..100)
        .map(|n| json!({"type": "metric_update", "data": {"n": n, "p": padding}}))
        .collect();
    for _ in 0..5 {
        backed.server.publish_all(&tenant, &large);
    }
    let folder = backed.folder("daily");
    let mut command = backed.server.tool(&["log", "backup", text(&folder)]);
    let mut asking = command.spawn().expect("the binary runs");
    wait_until("begun", || folder.join("files").exists());
    backed.server.kill();
    let told = asking.wait().expect("a child of ours");
    if !folder.join("BACKUP").exists() {
        assert!(!told.success());
        let verified = backed.server.run(&["log", "verify", text(&folder)]);
        assert!(!verified.status.success(), "{}", verified.said);
    }
    backed.server.start_again();
    let cursor = through(&backed.back_up("daily"));
    assert_eq!(position(&cursor), 500);
    backed.server.kill();

    let log = backed.server.folder();
    fs::rename(&log, log.with_extension("old")).expect("it is moved");
    let arguments = ["log", "restore", text(&folder), "--to", text(&log)];
    let mut restoring = backed
        .server
        .tool(&arguments)
        .spawn()
        .expect("the binary runs");
    wait_until("begun", || log.join("segments").exists());
    restoring.kill().expect("a child of ours");
    restoring.wait().expect("a child of ours");
    if log.join("RESTORING").exists() {
        let refused = tidings_tests::server::run_to_end(backed.server.command());
        assert!(refused.said.contains("restore"), "{}", refused.said);
        let again = backed.server.run(&arguments);
        assert!(again.status.success(), "{}", again.said);
    }
    backed.server.start_again();
    let after = format!("{}.499", epoch(&cursor));
    let mut stream = backed.server.watch(&tenant).after(&after).open();
    assert_eq!(position(stream.next_event().cursor()), 500);
}

#[test]
fn a_copied_folder_is_forked_and_a_forked_one_is_made_readable_for_the_version_before() {
    let mut backed = Backed::start();
    let tenant = new_tenant();
    let first = backed.server.publish(&tenant, &status("core-1", 1)).last;
    let held = backed.server.run(&["log", "fork"]);
    assert!(held.said.contains("in use"), "{}", held.said);
    assert!(backed.server.stop().success());
    let forked = backed.server.run(&["log", "fork"]);
    assert!(
        forked.status.success() && forked.said.contains(&first),
        "{}",
        forked.said
    );
    backed.server.start_again();
    let second = backed.server.publish(&tenant, &status("core-1", 2)).last;
    assert_ne!(epoch(&first), epoch(&second));
    let mut stream = backed.server.watch(&tenant).after(&first).open();
    assert_eq!(number(&stream.next_event()), 2);
    drop(stream);
    assert!(backed.server.stop().success());
    let back = backed.server.run(&["log", "downgrade", "--to", "2"]);
    assert!(
        back.status.success() && back.said.contains("unknown_epoch"),
        "{}",
        back.said
    );
    let format = fs::read_to_string(backed.server.folder().join("FORMAT")).expect("a file");
    assert_eq!(format, "tidings-log 2\n");
    backed.server.start_again();
    let events = backed.server.history(&tenant, "")["events"].clone();
    assert_eq!(events.as_array().expect("events").len(), 2);
    let gap = backed
        .server
        .watch(&tenant)
        .after(&first)
        .open()
        .next_named("gap")
        .json();
    assert_eq!(gap["reason"], "unknown_epoch");
}

#[test]
fn a_node_over_jetstream_makes_no_backup_of_its_copy() {
    let nats = NatsServer::start(&NatsOptions::new());
    let setup = Setup::new()
        .set("TIDINGS_LOG__KIND", "jetstream")
        .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
        .set("TIDINGS_NATS__URL", &nats.url());
    let backed = Backed::start_with(setup);
    let request = Request::post("/backup").body("application/json", r#"{"target":"x"}"#);
    let problem = backed.server.ask_admin(&request).problem(409);
    assert!(
        problem["detail"]
            .as_str()
            .expect("a detail")
            .contains("NATS")
    );
    let refused = backed.back_up("x");
    assert!(
        !refused.status.success() && refused.said.contains("NATS"),
        "{}",
        refused.said
    );
}
