//! `tidings doctor` beside real servers, brokers and proxies, well and ill: it must find what is wrong, say what to do,
//! and find nothing where nothing is. `tidings health` beside it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use tidings_tests::server::{Ended, any_address, run};
use tidings_tests::{
    NatsOptions, Proxy, ProxyKind, ProxyOptions, RedisOptions, RedisServer, Server, Setup,
    new_tenant,
};

/// What a doctor said.
struct Said {
    findings: Vec<Value>,
    status: Option<i32>,
    text: String,
}

impl Said {
    fn of(ended: Ended) -> Self {
        let lines = ended.said.lines();
        Self {
            findings: lines
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", ended.said)))
                .collect(),
            status: ended.status.code(),
            text: ended.said,
        }
    }

    /// The findings of a check, each with its weight.
    fn of_check(&self, check: &str) -> Vec<(&str, &Value)> {
        let all = self.findings.iter();
        all.filter(|finding| finding["check"] == check)
            .map(|finding| (finding["weight"].as_str().expect("a weight"), finding))
            .collect()
    }

    /// Each of these checks was made, and found nothing.
    fn all_good(&self, checks: &[&str]) {
        for check in checks {
            let found = self.of_check(check);
            assert!(
                !found.is_empty(),
                "{check} was not looked at: {}",
                self.text
            );
            let good = found.iter().all(|(weight, _)| *weight == "good");
            assert!(good, "{check}: {found:?}");
        }
    }

    /// This check found something of this weight that says this, and says what to do.
    fn finds(&self, check: &str, weight: &str, what: &str, advice: &str) {
        let found = self.of_check(check);
        let says = |finding: &Value, member: &str, text: &str| {
            finding[member]
                .as_str()
                .is_some_and(|said| said.contains(text))
        };
        assert!(
            found.iter().any(|(found, finding)| *found == weight
                && says(finding, "what", what)
                && says(finding, "advice", advice)),
            "{check} does not say {what:?} and {advice:?}: {}",
            self.text
        );
        assert_eq!(
            self.status,
            Some(i32::from(
                self.findings
                    .iter()
                    .any(|finding| finding["weight"] == "problem")
            )),
            "{}",
            self.text
        );
    }
}

/// Looks at the machine with the configuration of this server, and what is given besides.
fn beside(server: &Server, more: &[(&str, &str)]) -> Said {
    let (listen, admin) = (server.address.to_string(), server.admin.to_string());
    let log = server.folder().display().to_string();
    let mut environment = vec![
        ("TIDINGS_LISTEN", listen.as_str()),
        ("TIDINGS_ADMIN_LISTEN", &admin),
        ("TIDINGS_LOG__PATH", &log),
        ("TIDINGS_AUTH__JWT__SECRET", &server.secret),
    ];
    environment.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    environment.extend_from_slice(more);
    Said::of(run(&["doctor", "--json"], &environment, Path::new("/")))
}

/// Looks at the way through this proxy with an access token of this tenant.
fn through(proxy: &Proxy, server: &Server, more: &[&str], environment: &[(&str, &str)]) -> Said {
    let (url, ca_file) = (
        format!("https://{}", proxy.secure),
        proxy.certificates.path("ca.pem"),
    );
    let token = server.viewer(&new_tenant());
    let mut arguments = vec![
        "doctor",
        "--json",
        "--way-only",
        "--url",
        &url,
        "--ca-file",
        &ca_file,
    ];
    arguments.extend_from_slice(more);
    let mut variables = vec![
        ("TIDINGS_TOKEN", token.as_str()),
        ("TIDINGS_STREAM__HEARTBEAT", "1s"),
    ];
    variables.retain(|(name, _)| environment.iter().all(|(other, _)| other != name));
    variables.extend_from_slice(environment);
    let said = Said::of(run(&arguments, &variables, Path::new("/")));
    assert!(
        !said.text.contains(&token[..20]),
        "a token is told: {}",
        said.text
    );
    said
}

#[test]
fn a_way_that_is_well_is_found_well_through_each_proxy() {
    for kind in ProxyKind::ALL {
        let server = Server::start();
        let proxy = ProxyOptions::new(kind, &server).start();
        // On a busy machine what is sent at once can take its time.
        let said = through(&proxy, &server, &["--patience", "50s"], &[]);
        said.all_good(&[
            "way",
            "buffering",
            "heartbeat",
            "refusals",
            "compression",
            "clock",
        ]);
        // The one thing that is wrong, since certificates of tests are good for two days.
        said.finds("certificates", "warning", "days more", "replace it");
        assert_eq!(said.status, Some(0));
    }
}

#[test]
fn a_proxy_that_buffers_is_found() {
    let server = Server::start();
    let proxy = ProxyOptions::new(ProxyKind::Nginx, &server)
        .replace(
            "proxy_buffering off;",
            "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
        )
        .start();
    let said = through(&proxy, &server, &["--patience", "10s"], &[]);
    said.finds("buffering", "problem", "within 10s", "proxy_buffering off");
}

#[test]
fn a_proxy_that_cuts_silent_lines_is_found() {
    let hour = ("TIDINGS_STREAM__HEARTBEAT", "1h");
    let server = Setup::new().set(hour.0, hour.1).start();
    let proxy = ProxyOptions::new(ProxyKind::Haproxy, &server)
        .idle_timeout("5s")
        .start();
    let said = through(&proxy, &server, &["--patience", "50s"], &[hour]);
    said.finds(
        "heartbeat",
        "problem",
        "cut off before a heartbeat",
        "idle timeout",
    );
}

#[test]
fn a_proxy_that_compresses_changes_heads_or_errors_is_found() {
    let server = Server::start();
    let proxy = ProxyOptions::new(ProxyKind::Nginx, &server)
        .replace(
            "gzip off;",
            "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;",
        )
        .replace("proxy_next_upstream off;", "proxy_intercept_errors on; error_page 401 = @gone;")
        .replace("    location / {", "    proxy_hide_header X-Connection-Id;\n    proxy_hide_header Cache-Control;\n    location @gone { return 401 nobody; }\n    location / {")
        .replace("listen ", "server_tokens off; listen ")
        .replace(" ssl http2;", " ssl;")
        .start();
    let said = through(&proxy, &server, &[], &[]);
    said.finds("compression", "warning", "compressed by gzip", "gzip off");
    said.finds(
        "refusals",
        "warning",
        "not in the server's words",
        "proxy_intercept_errors off",
    );
    said.finds(
        "transform",
        "warning",
        "X-Connection-Id",
        "let the header pass",
    );
    said.finds("transform", "warning", "Cache-Control", "no-transform");
    said.finds("way", "warning", "HTTP/2 is not offered", "http2");
}

#[test]
fn a_way_that_leads_nowhere_is_told_by_how_far_it_goes() {
    let mut server = Server::start();
    let proxy = ProxyOptions::new(ProxyKind::Nginx, &server).start();
    let url = format!("https://{}", proxy.secure);
    let untrusted = run(
        &["doctor", "--json", "--way-only", "--url", &url],
        &[],
        Path::new("/"),
    );
    Said::of(untrusted).finds("way", "problem", "no TLS", "--ca-file");
    let said = through(
        &proxy,
        &server,
        &[],
        &[("TIDINGS_TOKEN", "nobodys-token-at-all-here")],
    );
    said.finds(
        "way",
        "problem",
        "the server answers 401",
        "access token that is good",
    );
    server.kill();
    let said = through(&proxy, &server, &[], &[]);
    said.finds(
        "way",
        "problem",
        "502, and not the server's own",
        "does not reach the server",
    );
    let nowhere = format!("http://{}", any_address());
    let said = Said::of(run(
        &["doctor", "--json", "--way-only", "--url", &nowhere],
        &[],
        Path::new("/"),
    ));
    said.finds("way", "problem", "no connection", "firewall");
}

#[test]
fn a_machine_that_is_well_is_found_well() {
    let server = Server::start();
    let said = beside(&server, &[]);
    said.all_good(&["server", "keys", "exposure", "clock"]);
    let process = server.pid().as_raw_nonzero().to_string();
    assert!(
        said.text
            .contains(&format!("process {process} runs and is ready")),
        "{}",
        said.text
    );
    // The machine of a test may have few descriptors and its folder in memory; that is said, then.
    assert!(!said.of_check("descriptors").is_empty() && said.of_check("disk").len() >= 3);
    // Nothing of the looking stays behind.
    let left = std::fs::read_dir(server.folder()).expect("the log's folder");
    let names = left.map(|entry| entry.expect("an entry").file_name());
    assert!(
        !names
            .into_iter()
            .any(|name| name.to_string_lossy().contains("doctor"))
    );
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_with_what_to_do() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, &server.secret).expect("a file of ours");
    let everybody = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&secret, everybody).expect("a file of ours");
    let path = secret.display().to_string();
    let admin = format!("0.0.0.0:{}", server.admin.port());
    let said = beside(
        &server,
        &[
            ("TIDINGS_AUTH__JWT__SECRET", ""),
            ("TIDINGS_AUTH__JWT__SECRET_FILE", &path),
            ("TIDINGS_ADMIN_LISTEN", &admin),
            ("TIDINGS_LIMITS__STREAMS", "100000000"),
            ("TIDINGS_LOG__MAX_BYTES", "0"),
        ],
    );
    said.finds(
        "secrets",
        "problem",
        "every user of this machine may read",
        "chmod o=",
    );
    said.finds("exposure", "warning", "on every network", "admin_listen");
    said.finds(
        "descriptors",
        "problem",
        "limits.streams allows",
        "LimitNOFILE",
    );
    said.finds("disk", "warning", "log.max_bytes is 0", "set log.max_bytes");

    let said = beside(&server, &[("TIDINGS_STREAM__HEARTBEAT", "soon")]);
    said.finds(
        "configuration",
        "problem",
        "stream.heartbeat",
        "config reference",
    );
    let said = beside(&server, &[("TIDINGS_AUTH__JWT__SECRET", "")]);
    said.finds(
        "keys",
        "problem",
        "no key to verify access tokens",
        "auth.jwt.secret_file",
    );
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = memory.path().display().to_string();
    let said = beside(&server, &[("TIDINGS_LOG__PATH", &path)]);
    said.finds(
        "disk",
        "problem",
        "gone with the machine's next start",
        "on a disk",
    );
    said.finds(
        "server",
        "problem",
        "something else listens",
        "another port",
    );
}

#[test]
fn redis_and_nats_are_asked_as_a_server_would() {
    let server = Server::start();
    let redis = RedisServer::start(&RedisOptions::new().configuration(
        "maxmemory 100mb\nmaxmemory-policy allkeys-lru\n\
         user narrow on nopass resetchannels -@all +get +set ~tidings:token:*",
    ));
    let nats = NatsOptions::new().start();
    let (redis_url, nats_url) = (redis.url(), format!("[\"{}\"]", nats.url()));
    let both = [
        ("TIDINGS_TOKENS__KIND", "redis"),
        ("TIDINGS_REDIS__URL", redis_url.as_str()),
        ("TIDINGS_LOG__KIND", "jetstream"),
        ("TIDINGS_NATS__URL", &nats_url),
    ];
    let said = beside(&server, &both);
    said.all_good(&["nats", "clock"]);
    said.finds("redis", "warning", "allkeys-lru", "noeviction");
    assert!(said.text.contains("Redis 7."), "{}", said.text);
    assert!(
        said.text.contains("the stream TIDINGS will be made"),
        "{}",
        said.text
    );

    let narrow = [
        ("TIDINGS_REDIS__USER", "narrow"),
        ("TIDINGS_REDIS__PASSWORD", "any"),
    ];
    let said = beside(&server, &[&both[..2], &narrow[..]].concat());
    said.finds("redis", "problem", "getdel", "docs/redis.md");
    let nowhere = format!("redis://{}", any_address());
    let said = beside(&server, &[both[0], ("TIDINGS_REDIS__URL", &nowhere)]);
    said.finds("redis", "problem", "Redis at", "redis.url");
}

#[test]
fn health_is_the_exit_status() {
    let mut server = Server::start();
    let admin = server.admin.to_string();
    let environment = [("TIDINGS_ADMIN_LISTEN", admin.as_str())];
    for arguments in [&["health"][..], &["health", "--ready"]] {
        let ended = run(arguments, &environment, Path::new("/"));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    }
    server.kill();
    let ended = run(&["health"], &environment, Path::new("/"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
    // Alive, and not ready without its Redis.
    let nowhere = format!("redis://{}", any_address());
    let server = Setup::new().tokens_in(&nowhere).may_be_unready().start();
    let admin = server.admin.to_string();
    let environment = [("TIDINGS_ADMIN_LISTEN", admin.as_str())];
    assert!(
        run(&["health"], &environment, Path::new("/"))
            .status
            .success()
    );
    let ended = run(&["health", "--ready"], &environment, Path::new("/"));
    assert!(
        !ended.status.success() && ended.said.contains("Redis"),
        "{}",
        ended.said
    );
}
