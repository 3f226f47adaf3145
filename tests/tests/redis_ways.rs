//! The ways to Redis: TLS, ACL users, a socket, a database, sentinels and a cluster. See `docs/redis.md`.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use tidings_tests::brokers::{RedisOptions, RedisServer, wait_for};
use tidings_tests::server::{any_address, run};
use tidings_tests::{AccessToken, Certificates, Redis, Request, Server, Setup, new_tenant};

/// Gives a token and uses it.
fn check(node: &Server) {
    let tenant = new_tenant();
    node.watch(&tenant).open();
}

/// Starts a node that can't be ready; gives what `/readyz` says of Redis.
fn reason(setup: Setup) -> String {
    let node = setup.may_be_unready().start();
    let mut said = String::new();
    wait_for("a reason in readyz", || {
        let answer = node.ask_admin(&Request::get("/readyz"));
        answer.text().clone_into(&mut said);
        said.contains("Redis") && !said.contains("not connected yet")
    });
    said
}

/// A Redis that speaks TLS only.
fn with_tls(certificates: &Certificates) -> RedisOptions {
    RedisOptions::new().tls(
        Path::new(&certificates.path("server.pem")),
        Path::new(&certificates.path("server.key")),
    )
}

#[test]
fn over_tls_the_certificate_must_be_of_the_configured_authority() {
    let certificates = Certificates::new();
    let redis = with_tls(&certificates).start();
    let trusting = |ca: &str| {
        Setup::new()
            .tokens_in(&redis.url())
            .set("TIDINGS_REDIS__CA_FILE", ca)
    };
    check(&trusting(&certificates.path("ca.pem")).start());
    let said = reason(trusting(&Certificates::new().path("ca.pem")));
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    // Those that the system trusts do not vouch for it either.
    let said = reason(Setup::new().tokens_in(&redis.url()));
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}

#[test]
fn a_client_certificate_is_shown_where_redis_wants_one() {
    let certificates = Certificates::new();
    let ca = certificates.path("ca.pem");
    let redis = with_tls(&certificates)
        .configuration(&format!("tls-auth-clients yes\ntls-ca-cert-file {ca}"))
        .start();
    let without = || {
        Setup::new()
            .tokens_in(&redis.url())
            .set("TIDINGS_REDIS__CA_FILE", &ca)
    };
    let with = without()
        .set(
            "TIDINGS_REDIS__CLIENT_CERTIFICATE_FILE",
            &certificates.path("client.pem"),
        )
        .set(
            "TIDINGS_REDIS__CLIENT_KEY_FILE",
            &certificates.path("client.key"),
        );
    check(&with.start());
    assert!(reason(without()).contains("Redis"));
}

/// The rights that `docs/redis.md` asks for, and no more.
const RIGHTS: &str = "resetchannels -@all +get +set +getdel ~tidings:token:*";
const RIGHTS_TO_SHARE: &str = "+del ~sse_token:*";
const RIGHTS_WITHOUT_GETDEL: &str = "resetchannels -@all +get +set +eval +del ~tidings:token:*";
const RIGHTS_IN_A_CLUSTER: &str = "+cluster|slots +ping +asking";

/// A Redis where only the user `tidings` with the password `same` has rights.
fn with_rights(rights: &str) -> RedisOptions {
    RedisOptions::new()
        .configuration("user default off")
        .configuration(&format!("user tidings on >same {rights}"))
}

/// A node that is this user.
fn as_user(redis: &RedisServer) -> Setup {
    Setup::new().tokens_in(&format!("redis://tidings:same@{}", redis.address))
}

#[test]
fn the_rights_in_the_documentation_are_enough() {
    check(&as_user(&with_rights(RIGHTS).start()).start());
    let script = with_rights(RIGHTS_WITHOUT_GETDEL).configuration("rename-command GETDEL \"\"");
    check(&as_user(&script.start()).start());

    let redis = with_rights(&format!("{RIGHTS} {RIGHTS_TO_SHARE}")).start();
    let sharing = as_user(&redis)
        .set("TIDINGS_TOKENS__SHARED", "true")
        .start();
    check(&sharing);
    let tenant = new_tenant();
    let bounded = AccessToken::new("ada", &tenant, "viewer").claim("devices", json!(["r1"]));
    let token = sharing.stream_token(&sharing.sign(&bounded));
    sharing.stream_of(&tenant).token(&token).open();
}

#[test]
fn the_password_can_be_in_a_file_or_in_the_url_and_is_never_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "s%same/open:it@s\n").expect("a file of ours");
    let redis = RedisOptions::new()
        .configuration("user default off")
        .configuration(&format!("user tidings on >s%same/open:it@s {RIGHTS}"))
        .start();
    let node = || {
        Setup::new()
            .tokens_in(&redis.url())
            .set("TIDINGS_REDIS__USER", "tidings")
    };
    let with_file = node()
        .set("TIDINGS_REDIS__PASSWORD_FILE", &file.display().to_string())
        .start();
    check(&with_file);
    let url = format!("redis://tidings:s%25same%2Fopen%3Ait%40s@{}", redis.address);
    let in_url = Setup::new().tokens_in(&url).start();
    check(&in_url);
    assert!(
        !in_url.output.text().contains("same"),
        "a password is in the log"
    );

    let said = reason(node().set("TIDINGS_REDIS__PASSWORD", "wrong-sesame"));
    assert!(
        said.contains("WRONGPASS") || said.contains("uthentication"),
        "{said}"
    );
    assert!(!said.contains("sesame"), "{said}");
}

#[test]
fn a_missing_right_is_named_and_the_node_is_not_ready() {
    for (rights, missing) in [
        ("+get +set +del ~tidings:token:*", "getdel"),
        ("+get +getdel +del ~tidings:token:*", "set"),
        ("+set +getdel +del ~tidings:token:*", "get"),
        ("+get +set +getdel +del ~other:*", "key"),
    ] {
        let redis = with_rights(&format!("-@all {rights}")).start();
        let said = reason(as_user(&redis));
        assert!(
            said.contains("permission") && said.contains(missing),
            "{said}"
        );
    }
    let redis = with_rights(RIGHTS).start();
    let said = reason(as_user(&redis).set("TIDINGS_TOKENS__SHARED", "true"));
    assert!(said.contains("permission"), "{said}");
}

#[test]
fn a_socket_and_a_database_can_be_named() {
    let redis = RedisOptions::new().start();
    let socket = redis.folder().join("redis.sock");
    let over_socket = format!("redis+unix://{}", socket.display());
    check(&Setup::new().tokens_in(&over_socket).start());

    let node = Setup::new()
        .tokens_in(&format!("{}/3", redis.url()))
        .start();
    node.stream_token(&node.viewer(&new_tenant()));
    let mut redis = Redis::connect(redis.address);
    let size = |redis: &mut Redis| redis.command(&["DBSIZE"]).integer();
    assert_eq!(size(&mut redis), 0);
    redis.command(&["SELECT", "3"]);
    assert_eq!(size(&mut redis), 1);
}

#[test]
fn files_that_do_not_hold_what_they_should_end_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").expect("a file of ours");
    let empty = empty.display().to_string();
    for (variable, key) in [
        ("TIDINGS_REDIS__PASSWORD_FILE", "redis.password_file"),
        ("TIDINGS_REDIS__CA_FILE", "redis.ca_file"),
    ] {
        for (path, problem) in [(empty.as_str(), ""), ("/nowhere/at/all", "can't be read")] {
            let environment = [
                (
                    "TIDINGS_AUTH__JWT__SECRET",
                    "0123456789abcdef0123456789abcdef",
                ),
                ("TIDINGS_LISTEN", "127.0.0.1:0"),
                ("TIDINGS_ADMIN_LISTEN", "127.0.0.1:0"),
                ("TIDINGS_TOKENS__KIND", "redis"),
                ("TIDINGS_REDIS__URL", "rediss://127.0.0.1:1"),
                (variable, path),
            ];
            let ended = run(&["serve"], &environment, folder.path());
            assert!(!ended.status.success(), "{}", ended.said);
            assert!(
                ended.said.contains(key)
                    && ended.said.contains(path)
                    && ended.said.contains(problem),
                "{}",
                ended.said
            );
        }
    }
}

fn sentinel(master: &RedisServer) -> RedisServer {
    let port = master.address.port();
    RedisOptions::new()
        .argument("--sentinel")
        .configuration(&format!(
            "sentinel monitor tokens 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds tokens 60000\n\
             sentinel failover-timeout tokens 2000"
        ))
        .start()
}

#[test]
fn sentinels_lead_to_the_master_and_after_a_failover_to_the_new_one() {
    let mut master = RedisOptions::new().start();
    let replica = RedisOptions::new()
        .configuration(&format!(
            "replicaof 127.0.0.1 {}\nrepl-diskless-sync-delay 0",
            master.address.port()
        ))
        .start();
    let sentinel = sentinel(&master);
    let mut control = Redis::connect(sentinel.address);
    wait_for("a sentinel that knows the replica", || {
        let known = control.command(&["SENTINEL", "REPLICAS", "tokens"]);
        format!("{known:?}").contains("master-link-status\"), Text(\"ok")
    });
    // The first one that is named does not run.
    let url = format!(
        "redis-sentinel://{},{}/tokens",
        any_address(),
        sentinel.address
    );
    let node = Setup::new().tokens_in(&url).start();
    check(&node);
    assert!(calls(master.address) > 0);

    let tenant = new_tenant();
    let mut open = node.watch(&tenant).open();
    // Not before: a master that only stands still for half a second would be taken for dead.
    control.command(&[
        "SENTINEL",
        "SET",
        "tokens",
        "down-after-milliseconds",
        "500",
    ]);
    master.kill();
    wait_for("that tokens are given again", || {
        let answer = node.exchange(&Request::post("/auth/sse-token").bearer(&node.viewer(&tenant)));
        assert!(matches!(answer.status, 200 | 503), "{}", answer.head);
        answer.status == 200
    });
    check(&node);
    assert!(calls(replica.address) > 0);
    let receipt = node.publish(&tenant, &tidings_tests::publish::status("r1", 1));
    assert_eq!(open.next_event().cursor(), receipt.last);

    // The old master comes back as a replica; nothing is written to it.
    master.start_again();
    check(&node);
}

/// How many tokens were taken from a server.
fn calls(address: SocketAddr) -> usize {
    let statistics = Redis::connect(address).command(&["INFO", "commandstats"]);
    let lines = statistics.text().lines();
    lines.filter(|line| line.contains("cmdstat_getdel")).count()
}

/// Three masters that share the slots.
fn cluster() -> Vec<RedisServer> {
    let masters: Vec<RedisServer> = (0..3)
        .map(|_| {
            RedisOptions::new()
                .configuration(&format!(
                    "cluster-enabled yes\ncluster-port {}\ncluster-node-timeout 15000\n\
                     cluster-require-full-coverage no\n\
                     user tidings on >same {RIGHTS} {RIGHTS_TO_SHARE} {RIGHTS_IN_A_CLUSTER}",
                    any_address().port()
                ))
                .start()
        })
        .collect();
    let mut links: Vec<Redis> = masters
        .iter()
        .map(|master| Redis::connect(master.address))
        .collect();
    for (link, (first, last)) in links
        .iter_mut()
        .zip([(0, 5460), (5461, 10922), (10923, 16383)])
    {
        link.command(&[
            "CLUSTER",
            "ADDSLOTSRANGE",
            &first.to_string(),
            &last.to_string(),
        ]);
    }
    for master in &masters[1..] {
        let port = master.address.port().to_string();
        let bus = Redis::connect(master.address).command(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.texts()[1].clone();
        links[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    wait_for("a cluster that is whole", || {
        links.iter_mut().all(|link| {
            let info = link.command(&["CLUSTER", "INFO"]);
            info.text().contains("cluster_state:ok")
                && info.text().contains("cluster_known_nodes:3")
                && info.text().contains("cluster_slots_assigned:16384")
        })
    });
    masters
}

#[test]
fn a_cluster_keeps_tokens_on_all_its_masters_and_goes_on_with_those_that_are_left() {
    let mut masters = cluster();
    let url = format!(
        "redis-cluster://tidings:same@{},{}",
        masters[0].address, masters[1].address
    );
    let nodes = [
        Setup::new()
            .tokens_in(&url)
            .set("TIDINGS_TOKENS__SHARED", "true")
            .start(),
        Setup::new()
            .tokens_in(&url)
            .set("TIDINGS_TOKENS__SHARED", "true")
            .start(),
    ];
    let tenant = new_tenant();
    for _ in 0..30 {
        let token = nodes[0].stream_token(&nodes[0].viewer(&tenant));
        nodes[1].stream_of(&tenant).token(&token).open();
        nodes[0]
            .stream_of(&tenant)
            .token(&token)
            .refused()
            .problem(401);
    }
    for master in &masters {
        assert!(calls(master.address) > 0, "a master was never asked");
    }
    masters[2].kill();
    // What the dead one would keep is refused; the rest is good.
    let mut given = 0;
    wait_for("tokens on the masters that are left", || {
        let answer =
            nodes[0].exchange(&Request::post("/auth/sse-token").bearer(&nodes[0].viewer(&tenant)));
        given += usize::from(answer.status == 200);
        assert!(matches!(answer.status, 200 | 503), "{}", answer.head);
        given == 5
    });
    masters[2].start_again();
    let mut in_a_row = 0;
    wait_for("tokens on all masters again", || {
        let answer =
            nodes[0].exchange(&Request::post("/auth/sse-token").bearer(&nodes[0].viewer(&tenant)));
        in_a_row = if answer.status == 200 {
            in_a_row + 1
        } else {
            0
        };
        in_a_row == 30
    });
    check(&nodes[0]);
}

#[test]
fn over_tls_sentinels_and_a_cluster_are_reached_too() {
    let certificates = Certificates::new();
    let ca = certificates.path("ca.pem");
    let replication = format!("tls-replication yes\ntls-ca-cert-file {ca}");
    let master = with_tls(&certificates).configuration(&replication).start();
    let sentinel = with_tls(&certificates)
        .argument("--sentinel")
        .configuration(&replication)
        .configuration("user finder on >watch -@all +sentinel|get-master-addr-by-name")
        .configuration(&format!(
            "sentinel monitor tokens 127.0.0.1 {} 1",
            master.address.port()
        ))
        .start();
    let url = format!("rediss-sentinel://{}/tokens", sentinel.address);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "watch\n").expect("written");
    let file = file.to_str().expect("plain");
    for password in [
        ("TIDINGS_REDIS__SENTINEL_PASSWORD", "watch"),
        ("TIDINGS_REDIS__SENTINEL_PASSWORD_FILE", file),
    ] {
        let node = Setup::new()
            .tokens_in(&url)
            .set("TIDINGS_REDIS__CA_FILE", &ca)
            .set("TIDINGS_REDIS__SENTINEL_USER", "finder")
            .set(password.0, password.1);
        check(&node.start());
    }

    let alone = with_tls(&certificates)
        .configuration(&format!(
            "cluster-enabled yes\ntls-cluster yes\ntls-ca-cert-file {ca}\ncluster-port {}",
            any_address().port()
        ))
        .start();
    let mut inside = Redis::connect_inside(&alone);
    inside.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_for("a cluster that is whole", || {
        inside
            .command(&["CLUSTER", "INFO"])
            .text()
            .contains("cluster_state:ok")
    });
    let node = Setup::new()
        .tokens_in(&format!("rediss-cluster://{}", alone.address))
        .set("TIDINGS_REDIS__CA_FILE", &ca);
    check(&node.start());
}
