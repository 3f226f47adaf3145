//! Keys that issuers publish: which tokens they verify, how they follow each other, what happens while an issuer is
//! away, and what an attacker who knows everything public can't do with it. And several issuers, each with its bounds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;
use tidings_tests::publish::{one, status};
use tidings_tests::{
    AccessToken, Answer, Certificates, GUARD, KeyServer, Request, Server, Setup, SigningKey,
    new_tenant,
};

/// A server that knows no key but those of this issuer, which it asks often.
fn obeying(issuer: &KeyServer) -> Setup {
    Setup::new()
        .set("TIDINGS_AUTH__JWT__SECRET", "")
        .set("TIDINGS_AUTH__JWT__JWKS_URL", &issuer.url())
        .set("TIDINGS_AUTH__JWKS__REFRESH", "1s")
        .set("TIDINGS_AUTH__JWKS__UNKNOWN_KEY_INTERVAL", "100ms")
}

fn viewer(tenant: &str) -> AccessToken {
    AccessToken::new("ada", tenant, "viewer")
}

fn read(server: &Server, tenant: &str, access: &str) -> Answer {
    let history = format!("/tenants/{tenant}/events");
    server.exchange(&Request::get(&history).bearer(access))
}

/// Asks until `is_so`; for what only asking tells.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::yield_now();
    }
}

#[test]
fn a_token_of_a_published_key_is_taken_on_every_path() {
    let key = SigningKey::new("one");
    let issuer = KeyServer::start(&[&key]);
    let server = obeying(&issuer).start();
    let tenant = new_tenant();
    let access = key.sign(&AccessToken::new("ada", &tenant, "publisher"));
    server
        .exchange(&one(&tenant, &access, &status("r1", 1)))
        .expect(200);
    read(&server, &tenant, &access).expect(200);
    let minted = server.stream_token(&access);
    server.stream_of(&tenant).token(&minted).open();
    server.stream_of(&tenant).bearer(&access).open();
    // Without a name each key is tried.
    let unnamed = key.sign_as_it_is(&viewer(&tenant).says_algorithm("RS256"));
    read(&server, &tenant, &unnamed).expect(200);
}

/// Everything public is known to an attacker: the keys, their names, the algorithms.
#[test]
fn nobody_but_the_issuer_can_sign_whatever_a_header_says() {
    let key = SigningKey::new("one");
    let issuer = KeyServer::start(&[&key]);
    let own = SigningKey::new("one");
    let trap = KeyServer::start(&[&own]);
    let server = obeying(&issuer).start();
    let tenant = new_tenant();
    let wanted = AccessToken::new("mallory", &tenant, "super_admin");
    let as_secret = [
        key.public_pem(),
        key.public_pem().trim_end().to_owned(),
        key.jwk().to_string(),
        json!({"keys": [key.jwk()]}).to_string(),
        key.jwk()["n"].as_str().expect("a modulus").to_owned(),
        String::new(),
    ];
    let mut attempts: Vec<String> = as_secret
        .iter()
        .flat_map(|secret| {
            let named = wanted.clone().header("kid", "one");
            [wanted.sign(secret), named.sign(secret)]
        })
        .collect();
    let genuine = key.sign(&wanted.clone().claim("role", "viewer"));
    for algorithm in [
        "none", "None", "NONE", "", "HS256", "RS512", "PS256", "ES256", "RS256 ",
    ] {
        let unsigned = wanted
            .clone()
            .header("kid", "one")
            .says_algorithm(algorithm);
        attempts.push(format!("{}.", unsigned.unsigned()));
        let signature = genuine.rsplit('.').next().expect("a signature");
        attempts.push(format!("{}.{signature}", unsigned.unsigned()));
    }
    let rs = wanted.clone().says_algorithm("RS256");
    let chain = json!(["MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"]);
    for header in [
        rs.clone().header("kid", "one"),
        rs.clone(),
        rs.clone().header("jwk", own.jwk()),
        rs.clone().header("kid", "one").header("jwk", own.jwk()),
        rs.clone().header("kid", "one").header("jku", trap.url()),
        rs.clone()
            .header("kid", trap.url())
            .header("x5u", trap.url()),
        rs.clone()
            .header("kid", "../../../../dev/null")
            .header("x5c", chain),
        rs.clone().header("kid", json!({"one": 1})),
        rs.clone().header("kid", json!(["one"])),
    ] {
        attempts.push(own.sign_as_it_is(&header));
    }
    let critical = wanted.clone().header("crit", json!(["exp"]));
    attempts.push(key.sign(&critical));
    attempts.push(format!("{genuine}A"));
    attempts.push(genuine.replacen('.', "..", 1));
    for (index, attempt) in attempts.iter().enumerate() {
        let answer = read(&server, &tenant, attempt);
        assert_eq!(
            answer.status,
            401,
            "attempt {index}: {attempt}\n{}",
            answer.text()
        );
    }
    assert_eq!(
        trap.fetches(),
        0,
        "where keys come from is the operator's to say"
    );
    read(&server, &tenant, &genuine).expect(200);
}

#[test]
fn a_shared_secret_in_a_set_verifies_nothing() {
    let key = SigningKey::new("one");
    let issuer = KeyServer::start(&[&key]);
    let secret = "a secret that somebody has published";
    let encoded = "YSBzZWNyZXQgdGhhdCBzb21lYm9keSBoYXMgcHVibGlzaGVk";
    let oct = json!({"kty": "oct", "kid": "two", "alg": "HS256", "k": encoded});
    issuer.answer(200, &json!({"keys": [oct, key.jwk()]}).to_string());
    let server = obeying(&issuer).start();
    let tenant = new_tenant();
    read(&server, &tenant, &key.sign(&viewer(&tenant))).expect(200);
    let access = viewer(&tenant).header("kid", "two").sign(secret);
    read(&server, &tenant, &access).problem(401);
    server.wait_for_log("that the secret is left out", |line| line.contains("oct"));
}

/// The issuer changes its key while requests come all the time, and signs with the new one from the moment that it is
/// published. None of them is refused.
#[test]
fn keys_follow_each_other_under_load_without_a_refused_token() {
    let keys: Vec<SigningKey> = ["a", "b", "c", "d"].map(SigningKey::new).into();
    let issuer = KeyServer::start(&[&keys[0]]);
    // Only tokens have the keys fetched.
    let server = obeying(&issuer)
        .set("TIDINGS_AUTH__JWKS__REFRESH", "1h")
        .set("TIDINGS_AUTH__JWKS__UNKNOWN_KEY_INTERVAL", "100ms")
        .start();
    let tenant = new_tenant();
    let tokens: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let one = |user: u32| {
                key.sign(&AccessToken::new(
                    &format!("user-{user}"),
                    &tenant,
                    "viewer",
                ))
            };
            (0..8).map(one).collect()
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|number| {
                let (done, server, tenant, tokens) = (&done, &server, &tenant, &tokens);
                scope.spawn(move || {
                    let mut answered = 0_u64;
                    while !done.load(Ordering::SeqCst) {
                        // The first key stays published all along.
                        let answer = read(server, tenant, &tokens[0][number]);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for new in 1..keys.len() {
            let fetches = issuer.fetches();
            issuer.publish(&[&keys[0], &keys[new]]);
            for access in &tokens[new] {
                let answer = read(&server, &tenant, access);
                assert_eq!(answer.status, 200, "key {new}: {}", answer.text());
            }
            assert_eq!(issuer.fetches(), fetches + 1, "one fetch finds a key");
            // What was fetched for a token is not fetched again within the interval.
            let asked = Instant::now();
            until("the end of the interval", || {
                asked.elapsed().as_millis() > 100
            });
        }
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().expect("no refusal") > 0);
        }
    });
}

#[test]
fn a_withdrawn_key_is_good_no_more_also_for_a_token_that_was_seen_before() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let issuer = KeyServer::start(&[&old]);
    let server = obeying(&issuer).start();
    let tenant = new_tenant();
    let access = old.sign(&viewer(&tenant));
    read(&server, &tenant, &access).expect(200);
    issuer.publish(&[&new]);
    until("the end of the old key", || {
        read(&server, &tenant, &access).status == 401
    });
    read(&server, &tenant, &new.sign(&viewer(&tenant))).expect(200);
}

#[test]
fn a_flood_of_unknown_keys_causes_one_fetch() {
    let (key, unknown) = (SigningKey::new("one"), SigningKey::new("other"));
    let issuer = KeyServer::start(&[&key]);
    let server = obeying(&issuer)
        .set("TIDINGS_AUTH__JWKS__REFRESH", "1h")
        .set("TIDINGS_AUTH__JWKS__UNKNOWN_KEY_INTERVAL", "1h")
        .start();
    let tenant = new_tenant();
    let good = key.sign(&viewer(&tenant));
    read(&server, &tenant, &good).expect(200);
    assert_eq!(issuer.fetches(), 1);
    let flood: Vec<String> = (0..40)
        .map(|number| unknown.sign(&viewer(&tenant).header("kid", format!("kid-{number}"))))
        .collect();
    std::thread::scope(|scope| {
        for part in flood.chunks(10) {
            let (server, tenant) = (&server, &tenant);
            scope.spawn(move || {
                for access in part.iter().cycle().take(50) {
                    read(server, tenant, access).problem(401);
                }
            });
        }
    });
    assert_eq!(
        issuer.fetches(),
        2,
        "one at the start, one for all that came"
    );
    read(&server, &tenant, &good).expect(200);
}

#[test]
fn while_an_issuer_is_away_its_keys_stay_good_for_a_time_and_then_it_is_told() {
    let (key, new) = (SigningKey::new("one"), SigningKey::new("new"));
    let issuer = KeyServer::start(&[&key]);
    let server = obeying(&issuer)
        .set("TIDINGS_AUTH__JWKS__KEEP", "8s")
        .set("TIDINGS_AUTH__JWKS__TIMEOUT", "300ms")
        .start();
    let tenant = new_tenant();
    let access = key.sign(&viewer(&tenant));
    let mut stream = server.stream_of(&tenant).bearer(&access).open();
    issuer.fall_silent();
    server.wait_for_log("that the issuer is away", |line| {
        line.contains("keys can't be fetched") && line.contains("auth.jwt.jwks_url")
    });
    read(&server, &tenant, &access).expect(200);
    // Whether a new key is one of the issuer's nobody can know.
    let unknown = read(&server, &tenant, &new.sign(&viewer(&tenant)));
    unknown.problem(503);
    assert!(unknown.header("retry-after").is_some());

    until("the end of the keys", || {
        server.ask_admin(&Request::get("/readyz")).status == 503
    });
    let told = server.ask_admin(&Request::get("/readyz")).expect(503);
    let reason = &told["reasons"][0];
    assert_eq!(reason["reason"], "jwks_unavailable", "{told}");
    let detail = reason["detail"].as_str().expect("a sentence");
    assert!(detail.contains("auth.jwt.jwks_url"), "{told}");
    let refused = read(&server, &tenant, &access);
    refused.problem(503);
    assert!(refused.header("retry-after").is_some());

    issuer.publish(&[&key, &new]);
    until("the return of the issuer", || {
        server.ask_admin(&Request::get("/readyz")).status == 200
    });
    let publisher = key.sign(&AccessToken::new("p", &tenant, "publisher"));
    server
        .exchange(&one(&tenant, &publisher, &status("r1", 7)))
        .expect(200);
    assert_eq!(
        stream.next_event().json()["n"],
        7,
        "the open stream went on"
    );
    read(&server, &tenant, &new.sign(&viewer(&tenant))).expect(200);
}

#[test]
fn a_server_starts_while_its_issuer_is_away_and_what_is_no_set_is_not_obeyed() {
    let key = SigningKey::new("one");
    let issuer = KeyServer::start(&[&key]);
    issuer.answer(302, "");
    let server = obeying(&issuer).may_be_unready().start();
    let tenant = new_tenant();
    let access = key.sign(&viewer(&tenant));
    read(&server, &tenant, &access).problem(503);
    server.wait_for_log("that redirections are not followed", |line| {
        line.contains("redirection")
    });
    server.ask_admin(&Request::get("/readyz")).expect(503);
    issuer.publish(&[&key]);
    until("readiness", || {
        server.ask_admin(&Request::get("/readyz")).status == 200
    });
    read(&server, &tenant, &access).expect(200);
    let fetched = issuer.fetches();
    for (status, body) in [
        (200, "<html>"),
        (500, "{\"keys\":[]}"),
        (200, &*"x".repeat(600_000)),
    ] {
        let before = issuer.fetches();
        issuer.answer(status, body);
        until("two more fetches", || issuer.fetches() > before + 1);
        read(&server, &tenant, &access).expect(200);
    }
    assert!(issuer.fetches() > fetched);
}

#[test]
fn a_set_in_a_file_is_read_again_when_a_token_names_a_new_key() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let write = |keys: &[&SigningKey]| {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        std::fs::write(&path, json!({ "keys": keys }).to_string()).expect("a file of ours");
    };
    write(&[&old]);
    let server = Setup::new()
        .set("TIDINGS_AUTH__JWT__SECRET", "")
        .set(
            "TIDINGS_AUTH__JWT__JWKS_FILE",
            path.to_str().expect("a path"),
        )
        .start();
    let tenant = new_tenant();
    read(&server, &tenant, &old.sign(&viewer(&tenant))).expect(200);
    write(&[&old, &new]);
    read(&server, &tenant, &new.sign(&viewer(&tenant))).expect(200);
}

#[test]
fn keys_come_over_tls_from_whom_the_named_authority_vouches_for() {
    let certificates = Certificates::new();
    let key = SigningKey::new("one");
    let folder = tempfile::tempdir().expect("a folder");
    let set = json!({ "keys": [key.jwk()] }).to_string();
    std::fs::write(folder.path().join("jwks.json"), set).expect("a file of ours");
    let address = tidings_tests::server::any_address();
    let mut issuer = std::process::Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-WWW",
            "-accept",
            &address.to_string(),
        ])
        .args(["-cert", &certificates.path("server.pem")])
        .args(["-key", &certificates.path("server.key")])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("openssl runs");
    let setup = Setup::new()
        .set("TIDINGS_AUTH__JWT__SECRET", "")
        .set(
            "TIDINGS_AUTH__JWT__JWKS_URL",
            &format!("https://{address}/jwks.json"),
        )
        .set("TIDINGS_AUTH__JWKS__REFRESH", "1s");
    let tenant = new_tenant();
    let access = key.sign(&viewer(&tenant));
    {
        let trusting = setup
            .clone()
            .set("TIDINGS_AUTH__JWKS__CA_FILE", &certificates.path("ca.pem"))
            .may_be_unready()
            .start();
        until("the keys", || {
            read(&trusting, &tenant, &access).status == 200
        });
        // `openssl s_server` serves one after the other, and is not a web server by trade.
        let other = Certificates::new();
        let wary = setup
            .set("TIDINGS_AUTH__JWKS__CA_FILE", &other.path("ca.pem"))
            .may_be_unready()
            .start();
        wary.wait_for_log("that the certificate is not believed", |line| {
            line.contains("TLS:")
        });
        read(&wary, &tenant, &access).problem(503);
    }
    issuer.kill().expect("a child of ours");
    issuer.wait().expect("a child of ours");
}

#[test]
fn several_issuers_each_speak_for_their_own_tenants_by_their_own_keys_and_names() {
    let (ours, theirs) = (SigningKey::new("k"), SigningKey::new("k"));
    let issuer = KeyServer::start(&[&theirs]);
    let own = KeyServer::start(&[&ours]);
    let (tenant, other) = (new_tenant(), new_tenant());
    let further = format!(
        r#"[{{ issuer = "https://customer.example", jwks_url = "{}", tenants = ["{tenant}"], audience = "tidings",
            claims = {{ role = "realm_access.roles", user = "preferred_username" }},
            roles = {{ "noc-admin" = "tenant_operator", "noc" = "viewer", "evil" = "super_admin" }} }}]"#,
        issuer.url()
    )
    .replace('\n', " ");
    let server = Setup::new()
        .set("TIDINGS_AUTH__JWT__JWKS_URL", &own.url())
        .set("TIDINGS_AUTH__JWT__ISSUERS", &further)
        .start();
    let claimed = |roles: &[&str]| {
        AccessToken::new("unused", &tenant, "super_admin")
            .without("role")
            .without("sub")
            .claim("preferred_username", "ada")
            .claim("realm_access", json!({ "roles": roles }))
            .claim("iss", "https://customer.example")
            .claim("aud", json!(["other", "tidings"]))
    };
    let access = theirs.sign(&claimed(&["offline_access", "noc", "noc-admin"]));
    // It is ready as soon as one issuer's keys are there.
    until("the customer's keys", || {
        read(&server, &tenant, &access).status == 200
    });
    let streams = server.exchange(&Request::get("/streams").bearer(&access));
    streams.expect(200);
    // One tenant is the whole of what it may speak for, so it need not be named.
    let unnamed = theirs.sign(&claimed(&["noc"]).without("tenant_id"));
    read(&server, &tenant, &unnamed).expect(200);
    server
        .exchange(&Request::get("/streams").bearer(&unnamed))
        .problem(403);

    let refused = [
        (
            "another tenant",
            theirs.sign(&claimed(&["noc"]).claim("tenant_id", other.as_str())),
        ),
        (
            "no tenant",
            theirs.sign(&claimed(&["evil"]).claim("tenant_id", json!(null))),
        ),
        ("a super admin", theirs.sign(&claimed(&["evil"]))),
        (
            "no known role",
            theirs.sign(&claimed(&["guest", "super_admin"])),
        ),
        (
            "another audience",
            theirs.sign(&claimed(&["noc"]).claim("aud", "other")),
        ),
        ("another's key", ours.sign(&claimed(&["noc"]))),
        (
            "nobody's word",
            theirs.sign(&claimed(&["noc"]).without("iss")),
        ),
        (
            "another's name",
            theirs.sign(&claimed(&["noc"]).claim("iss", "https://customer.example/")),
        ),
        ("the shared secret", claimed(&["noc"]).sign(&server.secret)),
    ];
    for (what, access) in refused {
        assert_eq!(read(&server, &tenant, &access).status, 401, "{what}");
    }
    // The one that is configured directly goes on as before, with its secret and its keys.
    for access in [server.viewer(&other), ours.sign(&viewer(&other))] {
        read(&server, &other, &access).expect(200);
    }
}
