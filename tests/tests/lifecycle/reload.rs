//! SIGHUP: a new configuration is obeyed whole, or refused whole.

use std::fmt::Write as _;
use std::path::PathBuf;

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};
use tidings_tests::brokers::wait_for;
use tidings_tests::publish::{one, status};
use tidings_tests::{
    AccessToken, Certificates, Request, Server, Setup, Tunnel, Watch, Way, new_tenant,
};

/// A server with a configuration file.
struct Configured {
    server: Server,
    file: PathBuf,
    _folder: tempfile::TempDir,
    /// How often it was told to read the file again.
    reloads: usize,
}

impl Configured {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidings.toml");
        std::fs::write(&file, text).expect("written");
        let path = file.to_str().expect("plain");
        Self {
            server: Setup::new().set("TIDINGS_CONFIG", path).start(),
            file,
            _folder: folder,
            reloads: 0,
        }
    }

    /// Writes the file and has it read; gives what the server said of it.
    fn reload(&mut self, text: &str) -> String {
        std::fs::write(&self.file, text).expect("written");
        self.hang_up()
    }

    /// Has the file read as it is; gives what the server said of it. Waits for this reload's own outcome: of two
    /// signals that come close together the second can be lost.
    fn hang_up(&mut self) -> String {
        let before = self.server.output.text().lines().count();
        self.server.signal(Signal::HUP);
        self.reloads += 1;
        let is_outcome = |line: &&str| {
            line.contains("configuration_reloaded") || line.contains("configuration_refused")
        };
        wait_for("what has come of the reload", || {
            let said = self.server.output.text();
            said.lines().filter(is_outcome).count() >= self.reloads
        });
        let said = self.server.output.text();
        said.lines().skip(before).collect::<Vec<_>>().join("\n")
    }
}

fn publisher(key: &str) -> String {
    let secret = key.strip_prefix("tdk_feed_").expect("a key");
    let digest = Sha256::digest(secret.as_bytes());
    let digest = digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    format!("[[auth.publishers]]\nid = \"feed\"\nsecret_sha256 = \"{digest}\"\ntenants = \"*\"\n")
}

#[test]
fn a_new_configuration_is_obeyed_without_dropping_a_stream() {
    let mut configured = Configured::start("");
    let tenant = new_tenant();
    let key = format!("tdk_feed_{}", "s".repeat(43));
    let with_key = one(&tenant, &key, &status("r1", 1));
    let from_page = Request::get("/openapi.json").header("Origin", "https://console.example.com");
    let allowed = |server: &Server| {
        let answer = server.exchange(&from_page);
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    let mut stream = configured.server.watch(&tenant).open();
    assert_eq!(configured.server.exchange(&with_key).status, 401);
    assert_eq!(allowed(&configured.server), None);

    let text = format!(
        "[limits]\nstreams_per_user = 1\npublish_rate = 1000\n[cors]\norigins = [\"https://console.example.com\"]\n{}",
        publisher(&key)
    );
    let said = configured.reload(&text);
    for changed in [
        "limits.streams_per_user",
        "limits.publish_rate",
        "cors.origins",
        "auth.publishers",
    ] {
        assert!(said.contains(changed), "{changed}: {said}");
    }
    let server = &configured.server;
    let receipt = server.exchange(&with_key).expect(200);
    assert_eq!(
        stream.next_event().cursor(),
        receipt["last"].as_str().expect("a cursor")
    );
    assert_eq!(
        server.watch(&tenant).refused().status,
        429,
        "the open stream counts"
    );
    assert_eq!(
        allowed(server).as_deref(),
        Some("https://console.example.com")
    );

    // How access tokens are verified, and a table of tenants.
    let text = format!(
        "[auth.jwt]\nissuer = \"https://id.example.com\"\n[tenants.\"{tenant}\"]\nname = \"First\"\nretention = \"1h\"\n"
    );
    let said = configured.reload(&text);
    assert!(
        said.contains(&format!("tenants.{tenant}.retention")),
        "{said}"
    );
    let server = &configured.server;
    assert_eq!(server.exchange(&with_key).status, 401, "the key is gone");
    let of_nobody = server.viewer(&tenant);
    let mint = |token: &str| {
        server
            .exchange(&Request::post("/auth/sse-token").bearer(token))
            .status
    };
    assert_eq!(mint(&of_nobody), 401);
    let of_issuer =
        AccessToken::new("viewer-1", &tenant, "viewer").claim("iss", "https://id.example.com");
    assert_eq!(mint(&server.sign(&of_issuer)), 200);
    let operator = AccessToken::super_admin("root-1").claim("iss", "https://id.example.com");
    let list = server
        .exchange(&Request::get("/tenants").bearer(&server.sign(&operator)))
        .expect(200);
    assert_eq!(list["tenants"][0]["name"], "First", "{list}");
    let default = 7.0 * 86_400.0;
    assert_eq!(
        list["tenants"][0]["settings"]["retention_seconds"], default,
        "{list}"
    );
}

#[test]
fn a_wrong_configuration_is_refused_whole_and_names_what_is_wrong() {
    let mut configured = Configured::start("[limits]\nstreams_per_user = 1\n");
    let tenant = new_tenant();
    let first = configured.server.watch(&tenant).open();
    let bad = [
        (
            "[limits]\nstreams_per_user = 5\nstreams = \"many\"\n",
            "limits.streams",
        ),
        (
            "[limits]\nstreams_per_user = 5\nstraems = 3\n",
            "limits.straems",
        ),
        (
            "[limits]\nstreams_per_user = 5\nevent_bytes = \"64MiB\"\n",
            "limits.event_bytes",
        ),
        (
            "[auth.jwt]\npublic_key_file = \"/nowhere.pem\"\n[limits]\nstreams_per_user = 5\n",
            "/nowhere.pem",
        ),
        ("limits = \n", "TOML"),
    ];
    for (text, named) in bad {
        let said = configured.reload(text);
        assert!(
            said.contains("configuration_refused") && said.contains(named),
            "{text}: {said}"
        );
        assert_eq!(
            configured.server.watch(&tenant).refused().status,
            429,
            "{text}"
        );
    }
    std::fs::remove_file(&configured.file).expect("it is there");
    // Once waited for any line that says so, which a case above had written: the next signal met this one, and
    // the test waited for ever for the outcome of both.
    let said = configured.hang_up();
    assert!(said.contains("can't be read"), "{said}");
    assert_eq!(configured.server.watch(&tenant).refused().status, 429);
    let said = configured.reload("[limits]\nstreams_per_user = 2\n");
    assert!(said.contains("configuration_reloaded"), "{said}");
    drop((first, configured.server.watch(&tenant).open()));
}

#[test]
fn what_holds_for_the_life_of_the_process_is_named() {
    let mut configured = Configured::start("");
    let said = configured.reload("[limits]\nstreams = 9\n[log]\nmax_bytes = \"1GiB\"\n[redis]\nurl = \"redis://u:secret@h:1\"\n");
    let line = said
        .lines()
        .find(|line| line.contains("until a restart"))
        .expect("a warning");
    assert!(
        line.contains("log.max_bytes") && line.contains("redis.url"),
        "{line}"
    );
    assert!(!line.contains("limits.streams"), "{line}");
    assert!(!said.contains("secret"), "{said}");
    let said = configured.reload("");
    assert!(!said.contains("until a restart"), "{said}");
}

#[test]
fn the_level_of_the_log_changes() {
    let mut configured = Configured::start("[logging]\nlevel = \"warn\"\n");
    let tenant = new_tenant();
    drop(configured.server.watch(&tenant).open());
    configured.reload("[logging]\nlevel = \"info\"\n");
    let stream = configured.server.watch(&tenant).open();
    let id = stream.connection_id().to_owned();
    let line = configured
        .server
        .wait_for_log("it", |line| line.contains("stream_requested"));
    assert!(
        line.contains(&id),
        "only what came behind the reload: {line}"
    );
}

#[test]
fn a_reload_serves_the_certificate_that_the_files_have_now() {
    let (first, second) = (Certificates::new(), Certificates::new());
    let [certificate, key] = ["server.pem", "server.key"].map(|name| first.path(name));
    let server = Setup::new()
        .over_tls(&certificate, &key)
        .set("TIDINGS_TLS__WATCH", "1d")
        .start();
    let tenant = new_tenant();
    let old = Tunnel::to(server.tls, &Way::trusting(&first));
    let path = format!("/tenants/{tenant}/events/stream");
    let watch = |tunnel: &Tunnel| Watch::at(tunnel.address, &path).bearer(&server.viewer(&tenant));
    let mut stream = watch(&old).open();
    for (from, to) in [("server.pem", &certificate), ("server.key", &key)] {
        std::fs::copy(second.path(from), to).expect("copied");
    }
    server.signal(Signal::HUP);
    server.wait_for_log("the change", |line| {
        line.contains("a new certificate is served")
    });
    let new = Tunnel::to(server.tls, &Way::trusting(&second));
    let mut late = watch(&new).open();
    let receipt = server.publish(&tenant, &status("r1", 1));
    for stream in [&mut stream, &mut late] {
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
}

/// Everything else in the file is well, and is not obeyed either.
#[test]
fn a_reload_with_a_bad_certificate_and_changed_limits_changes_neither() {
    let (first, second) = (Certificates::new(), Certificates::new());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidings.toml");
    std::fs::write(&file, "[limits]\nstreams_per_user = 1\n").expect("written");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| first.path(name));
    let server = Setup::new()
        .over_tls(&certificate, &key)
        .set("TIDINGS_TLS__WATCH", "1d")
        .set("TIDINGS_CONFIG", file.to_str().expect("plain"))
        .start();
    let tenant = new_tenant();
    let old = Tunnel::to(server.tls, &Way::trusting(&first));
    let path = format!("/tenants/{tenant}/events/stream");
    let watch = |tunnel: &Tunnel| Watch::at(tunnel.address, &path).bearer(&server.viewer(&tenant));
    let mut stream = watch(&old).open();
    let text = format!(
        "[limits]\nstreams_per_user = 2\n[cors]\norigins = [\"https://console.example.com\"]\n{}",
        publisher(&format!("tdk_feed_{}", "s".repeat(43)))
    );
    std::fs::write(&file, text).expect("written");
    let count = |word: &str| {
        let said = server.output.text();
        said.lines().filter(|line| line.contains(word)).count()
    };

    // No certificate at all, one of another key, and a key that is none.
    for (number, (from, to)) in [
        (None, &certificate),
        (Some(second.path("server.pem")), &certificate),
        (None, &key),
    ]
    .into_iter()
    .enumerate()
    {
        match from {
            Some(from) => drop(std::fs::copy(from, to).expect("copied")),
            None => std::fs::write(to, "nothing of the kind").expect("written"),
        }
        server.signal(Signal::HUP);
        wait_for("the refusal", || count("configuration_refused") > number);
        assert_eq!(count("configuration_reloaded"), 0);
        assert_eq!(watch(&old).refused().status, 429, "the limit of before");
        let from_page =
            Request::get("/openapi.json").header("Origin", "https://console.example.com");
        let answer = server.exchange(&from_page);
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);

    for (from, to) in [("server.pem", &certificate), ("server.key", &key)] {
        std::fs::copy(second.path(from), to).expect("copied");
    }
    server.signal(Signal::HUP);
    wait_for("the reload", || count("configuration_reloaded") == 1);
    let new = Tunnel::to(server.tls, &Way::trusting(&second));
    watch(&new).open();
}
