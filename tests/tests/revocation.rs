//! Access tokens revoked by user or tenant: refused on every path from the answer on, their streams ended,
//! those issued later and everybody else's left alone; also after the server was killed.

use serde_json::{Value, json};
use tidings_tests::access::now;
use tidings_tests::publish::{one, status};
use tidings_tests::server::run;
use tidings_tests::{AccessToken, Answer, GUARD, Request, Server, Setup, Stream, new_tenant};

fn delete(server: &Server, access: &str, target: &str) -> Answer {
    server.exchange(&Request::new("DELETE", target).bearer(access))
}

fn operator(server: &Server, tenant: &str) -> String {
    server.sign(&AccessToken::new("operator-1", tenant, "tenant_operator"))
}

fn root(server: &Server) -> String {
    server.sign(&AccessToken::super_admin("root-1"))
}

/// Somebody's access token that was issued so many seconds ago.
fn issued(server: &Server, user: &str, tenant: &str, role: &str, ago: u64) -> String {
    server.sign(&AccessToken::new(user, tenant, role).claim("iat", now() - ago))
}

/// Somebody's access token, by an issuer whose clock is so many seconds ahead, that is issued after what was revoked: one
/// of the same second counts as issued before, so it may take another try or two.
fn logged_in_again(server: &Server, user: &str, tenant: &str, ahead: u64) -> String {
    let begun = std::time::Instant::now();
    loop {
        let access = AccessToken::new(user, tenant, "viewer").claim("iat", now() + ahead);
        let access = server.sign(&access);
        let minted = server.exchange(&Request::post("/auth/sse-token").bearer(&access));
        if minted.status == 200 {
            return access;
        }
        assert!(begun.elapsed() < GUARD, "nobody gets in again");
    }
}

fn open(server: &Server, tenant: &str, access: &str) -> Stream {
    let token = server.stream_token(access);
    server.stream_of(tenant).token(&token).open()
}

fn assert_revoked(stream: &mut Stream) {
    let closing = stream.next_event();
    assert_eq!(closing.name, "closing", "{closing:?}");
    assert_eq!(closing.json()["reason"], "revoked");
    assert!(stream.next_but_cursors().is_none());
    assert!(!stream.reset);
}

fn assert_open(server: &Server, tenant: &str, stream: &mut Stream, number: u64) {
    server.publish(tenant, &status("r1", number));
    assert_eq!(stream.next_event().json()["n"], number);
}

/// Every path that takes an access token refuses this one.
fn assert_refused_everywhere(server: &Server, tenant: &str, access: &str) {
    let requests = [
        Request::post("/auth/sse-token"),
        Request::get(&format!("/tenants/{tenant}/events/stream")),
        Request::get(&format!("/tenants/{tenant}/events")),
        Request::get(&format!("/tenants/{tenant}/state")),
        Request::get("/streams"),
        Request::get("/tenants"),
        Request::new("DELETE", "/users/eve/streams"),
    ];
    for request in requests {
        let answer = server.exchange(&request.bearer(access));
        let problem = answer.problem(401);
        assert_eq!(
            problem["detail"], "the access token was revoked",
            "{problem}"
        );
    }
    let publish = one(tenant, access, &status("r1", 0));
    assert_eq!(server.exchange(&publish).problem(401)["status"], 401);
}

#[test]
fn a_users_tokens_issued_before_are_refused_on_every_path_and_its_streams_end() {
    let server = Server::start();
    let tenant = new_tenant();
    let before = issued(&server, "ada", &tenant, "publisher", 10);
    let unused = server.stream_token(&before);
    let mut closed = open(&server, &tenant, &before);
    let mut other = open(
        &server,
        &tenant,
        &issued(&server, "bob", &tenant, "viewer", 10),
    );

    let answer = delete(&server, &operator(&server, &tenant), "/users/ada/streams").expect(200);
    assert_eq!(answer["streams_closed"], 1, "{answer}");
    assert!(answer["revoked_at"].is_string(), "{answer}");
    assert_revoked(&mut closed);
    assert_refused_everywhere(&server, &tenant, &before);
    let refused = server.stream_of(&tenant).token(&unused).refused();
    refused.problem(401);

    assert_open(&server, &tenant, &mut other, 1);
    let later = logged_in_again(&server, "ada", &tenant, 0);
    let mut stays = open(&server, &tenant, &later);
    assert_open(&server, &tenant, &mut stays, 2);
}

/// Tokens are taken up to a minute before the issuer's clock says that they exist: what it says is read by our clock, so
/// that one that was there is not taken for one that came later.
#[test]
fn what_an_issuer_whose_clock_is_ahead_has_issued_before_is_revoked_too() {
    let server = Server::start();
    let tenant = new_tenant();
    let by_fast_clock = |user: &str, at: u64| {
        server.sign(&AccessToken::new(user, &tenant, "publisher").claim("iat", at))
    };
    let seen = by_fast_clock("ada", now() + 45);
    // Issued half a minute ago, and not shown yet.
    let unseen = by_fast_clock("ada", now() + 15);
    let mut stream = open(&server, &tenant, &seen);
    let answer = delete(&server, &operator(&server, &tenant), "/users/ada/streams").expect(200);
    assert_eq!(answer["streams_closed"], 1, "{answer}");
    assert_revoked(&mut stream);
    for access in [&seen, &unseen] {
        assert_refused_everywhere(&server, &tenant, access);
    }
    let later = logged_in_again(&server, "ada", &tenant, 45);
    open(&server, &tenant, &later);
}

/// When the revocation is forgotten, nothing is left that it hit.
#[test]
fn a_token_that_would_outlive_its_revocation_is_refused() {
    let kept = |time: &str| {
        Setup::new()
            .set("TIDINGS_AUTH__REVOCATIONS_KEPT", time)
            .start()
    };
    let tenant = new_tenant();
    let status = |server: &Server, issued_ago: Option<u64>, left: u64| {
        let mut token = AccessToken::new("ada", &tenant, "viewer").claim("exp", now() + left);
        if let Some(ago) = issued_ago {
            token = token.claim("iat", now() - ago);
        }
        let mint = Request::post("/auth/sse-token").bearer(&server.sign(&token));
        let answer = server.exchange(&mint);
        if answer.status == 401 {
            let detail = answer.problem(401)["detail"].clone();
            let detail = detail.as_str().expect("text").to_owned();
            assert!(detail.contains("auth.revocations_kept"), "{detail}");
        }
        answer.status
    };
    let server = kept("2s");
    assert_eq!(status(&server, Some(0), 3600), 401);
    assert_eq!(status(&server, None, 3600), 401);
    let server = kept("1h");
    assert_eq!(status(&server, None, 3600), 200);
    assert_eq!(status(&server, Some(10), 3500), 200);
    assert_eq!(
        status(&server, Some(3600), 60),
        401,
        "it is that old already"
    );
    assert_eq!(status(&kept("0"), Some(0), 100_000_000), 200);
}

/// Closing a stream keeps nobody out: with what opened it, the next one opens at once.
#[test]
fn a_stream_is_revoked_with_the_token_that_opened_it() {
    let mut server = Server::start();
    let (tenant, other_tenant) = (new_tenant(), new_tenant());
    let with_id = |tenant: &str, id: &str| {
        let token = AccessToken::new("ada", tenant, "publisher").claim("jti", id);
        server.sign(&token)
    };
    let (lost, kept) = (with_id(&tenant, "t-1"), with_id(&tenant, "t-2"));
    let elsewhere = with_id(&other_tenant, "t-1");
    let mut named = open(&server, &tenant, &lost);
    let mut beside = open(&server, &tenant, &lost);
    let mut stays = open(&server, &tenant, &kept);
    let mut theirs = open(&server, &other_tenant, &elsewhere);
    let target = format!("/streams/{}?revoke=true", named.connection_id());
    let of_other = operator(&server, &other_tenant);
    delete(&server, &of_other, &target).problem(404);
    delete(&server, &server.viewer(&tenant), &target).problem(403);
    let answer = delete(&server, &operator(&server, &tenant), &target).expect(200);
    assert_eq!(answer["streams_closed"], 2, "{answer}");
    assert_eq!(answer["token_id"], "t-1");
    assert!(answer["revoked_at"].is_string(), "{answer}");
    assert_revoked(&mut named);
    assert_revoked(&mut beside);
    assert_refused_everywhere(&server, &tenant, &lost);
    assert_open(&server, &tenant, &mut stays, 1);
    assert_open(&server, &other_tenant, &mut theirs, 1);

    // By the command; what opened a super admin's stream is nobody's else.
    let root_token = server.sign(&AccessToken::super_admin("root-2").claim("jti", "t-2"));
    let mut all = server.stream_of(&tenant).bearer(&root_token).open();
    let url = format!("http://{}", server.address);
    let access = root(&server);
    let variables = [("TIDINGS_URL", &*url), ("TIDINGS_TOKEN", &*access)];
    let revoke = |stream: &Stream| {
        let arguments = ["revoke", "connection", stream.connection_id()];
        run(&arguments, &variables, &server.folder())
    };
    let done = revoke(&all);
    assert!(done.status.success(), "{}", done.said);
    assert_revoked(&mut all);
    assert_revoked(&mut stays);

    // Without an id there is nothing to revoke, and that is said.
    let nameless = issued(&server, "eve", &tenant, "viewer", 10);
    let mut stream = open(&server, &tenant, &nameless);
    let done = revoke(&stream);
    assert!(!done.status.success());
    let said = format!("tidings revoke user 'eve' --tenant {tenant}");
    assert!(done.said.contains(&said), "{}", done.said);
    assert_eq!(
        stream.next_named("closing").json()["reason"],
        "disconnected"
    );
    let mut again = open(&server, &tenant, &nameless);
    let target = format!("/streams/{}?revoke=true", again.connection_id());
    let answer = delete(&server, &root(&server), &target).expect(200);
    assert_eq!(answer["revoked_at"], Value::Null, "{answer}");
    assert_eq!(
        (&answer["user_id"], &answer["token_id"]),
        (&json!("eve"), &Value::Null)
    );
    assert_eq!(again.next_named("closing").json()["reason"], "disconnected");

    server.kill();
    server.start_again();
    for access in [&lost, &root_token] {
        assert_refused_everywhere(&server, &tenant, access);
    }
    open(&server, &other_tenant, &elsewhere);
}

/// An operator of one tenant could have any number remembered, each for a month, in everybody's memory and on disk.
#[test]
fn the_revocations_of_a_tenant_are_limited_and_the_whole_tenant_can_be_revoked_still() {
    let server = Setup::new().set("TIDINGS_LIMITS__REVOCATIONS", "2").start();
    let (tenant, other_tenant) = (new_tenant(), new_tenant());
    let access = operator(&server, &tenant);
    let ada = issued(&server, "ada", &tenant, "publisher", 10);
    delete(&server, &access, "/users/one/streams").expect(200);
    delete(&server, &access, "/tokens/t-1/streams").expect(200);
    for target in ["/users/ada/streams", "/tokens/t-2/streams"] {
        let problem = delete(&server, &access, target).problem(409);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("limits.revocations"), "{detail}");
        assert!(detail.contains("nothing was revoked"), "{detail}");
    }
    let mut stream = open(&server, &tenant, &ada);
    delete(&server, &access, "/users/one/streams").expect(200);
    let others = operator(&server, &other_tenant);
    delete(&server, &others, "/users/ada/streams").expect(200);
    let target = format!("/tenants/{tenant}/streams");
    delete(&server, &access, &target).expect(200);
    assert_revoked(&mut stream);
    assert_refused_everywhere(&server, &tenant, &ada);
}

#[test]
fn a_token_that_does_not_say_when_it_was_issued_counts_as_issued_before() {
    let server = Server::start();
    let tenant = new_tenant();
    let unknown = server.sign(&AccessToken::new("ada", &tenant, "viewer"));
    let mut stream = open(&server, &tenant, &unknown);
    delete(&server, &root(&server), "/users/ada/streams").expect(200);
    assert_revoked(&mut stream);
    assert_refused_everywhere(&server, &tenant, &unknown);
}

#[test]
fn a_tenants_users_are_revoked_together_but_neither_super_admins_nor_other_tenants() {
    let server = Server::start();
    let (tenant, other_tenant) = (new_tenant(), new_tenant());
    let ada = issued(&server, "ada", &tenant, "viewer", 10);
    let mut streams = [
        open(&server, &tenant, &ada),
        open(
            &server,
            &tenant,
            &issued(&server, "bob", &tenant, "viewer", 10),
        ),
    ];
    let mut elsewhere = open(
        &server,
        &other_tenant,
        &issued(&server, "ada", &other_tenant, "viewer", 10),
    );
    let old_root = AccessToken::super_admin("root-2")
        .claim("tenant_id", tenant.as_str())
        .claim("iat", now() - 10);
    let mut all = server
        .stream_of(&tenant)
        .bearer(&server.sign(&old_root))
        .open();

    let target = format!("/tenants/{tenant}/streams");
    let answer = delete(&server, &operator(&server, &tenant), &target).expect(200);
    assert_eq!(answer["streams_closed"], 2, "{answer}");
    for stream in &mut streams {
        assert_revoked(stream);
    }
    assert_refused_everywhere(&server, &tenant, &ada);
    assert_open(&server, &other_tenant, &mut elsewhere, 7);
    assert_eq!(all.next_event().json()["n"], 7);
}

#[test]
fn a_tenants_operator_revokes_nobody_of_another_tenant_and_no_super_admin() {
    let server = Server::start();
    let (tenant, other_tenant) = (new_tenant(), new_tenant());
    let mut elsewhere = open(
        &server,
        &other_tenant,
        &issued(&server, "ada", &other_tenant, "viewer", 10),
    );
    let old_root = AccessToken::super_admin("ada").claim("iat", now() - 10);
    let mut all = server
        .stream_of(&tenant)
        .bearer(&server.sign(&old_root))
        .open();
    let operator = operator(&server, &tenant);
    for target in [
        format!("/tenants/{other_tenant}/streams"),
        format!("/users/ada/streams?tenant={other_tenant}"),
    ] {
        delete(&server, &operator, &target).problem(403);
    }
    let viewer = issued(&server, "viewer-1", &tenant, "viewer", 10);
    delete(&server, &viewer, "/users/ada/streams").problem(403);
    let answer = delete(&server, &operator, "/users/ada/streams").expect(200);
    assert_eq!(answer["streams_closed"], 0, "{answer}");
    assert_open(&server, &other_tenant, &mut elsewhere, 1);
    assert_eq!(all.next_event().json()["n"], 1);

    // A super admin can mean one tenant's user, and everybody of that name.
    let target = format!("/users/ada/streams?tenant={other_tenant}");
    assert_eq!(
        delete(&server, &root(&server), &target).expect(200)["streams_closed"],
        1
    );
    assert_revoked(&mut elsewhere);
    assert_open_to_all(&server, &tenant, &mut all);
    let answer = delete(&server, &root(&server), "/users/ada/streams").expect(200);
    assert_eq!(answer["streams_closed"], 1, "{answer}");
    assert_revoked(&mut all);
}

/// A script's unset variable once meant everybody of that name.
#[test]
fn an_empty_tenant_revokes_nobody() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = open(
        &server,
        &tenant,
        &issued(&server, "ada", &tenant, "viewer", 10),
    );
    let refused = delete(&server, &root(&server), "/users/ada/streams?tenant=");
    assert_eq!(refused.problem(422)["parameter"], "tenant");
    assert_open(&server, &tenant, &mut stream, 1);
}

fn assert_open_to_all(server: &Server, tenant: &str, all: &mut Stream) {
    assert_open(server, tenant, all, 2);
}

#[test]
fn a_revocation_outlives_a_kill() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let access = issued(&server, "ada", &tenant, "viewer", 10);
    delete(&server, &operator(&server, &tenant), "/users/ada/streams").expect(200);
    server.kill();
    server.start_again();
    assert_refused_everywhere(&server, &tenant, &access);
}

#[test]
fn a_user_id_can_be_any_text_and_a_wrong_call_is_told() {
    let server = Server::start();
    let tenant = new_tenant();
    let name = "a/b c\u{e9}?*>";
    let access = issued(&server, name, &tenant, "viewer", 10);
    let mut stream = open(&server, &tenant, &access);
    let target = format!("/users/{}/streams", tidings_tests::http::encode(name));
    delete(&server, &operator(&server, &tenant), &target).expect(200);
    assert_revoked(&mut stream);

    let access = root(&server);
    let get = server.exchange(&Request::get("/users/ada/streams").bearer(&access));
    assert_eq!(get.status, 405);
    assert_eq!(get.header("allow"), Some("DELETE"));
    let get = server.exchange(&Request::get(&format!("/tenants/{tenant}/streams")).bearer(&access));
    assert_eq!((get.status, get.header("allow")), (405, Some("DELETE")));
    let wrong = delete(&server, &access, "/users/ada/streams?tenant=x").problem(422);
    assert_eq!(wrong["parameter"], json!("tenant"), "{wrong}");
    let control = delete(&server, &access, "/users/a%00b/streams").problem(422);
    assert_eq!(control["parameter"], Value::from("user_id"), "{control}");
}

#[test]
fn one_token_is_revoked_by_its_id_and_its_users_other_tokens_stay_good() {
    let mut server = Server::start();
    let (tenant, other_tenant) = (new_tenant(), new_tenant());
    let with_id = |user: &str, tenant: &str, id: &str| {
        // Issued by a clock that is ahead: which token is meant is told by its id alone.
        let token = AccessToken::new(user, tenant, "publisher").claim("iat", now() + 30);
        server.sign(&token.claim("jti", id))
    };
    let (lost, kept) = (
        with_id("ada", &tenant, "a/1 \u{e9}"),
        with_id("ada", &tenant, "a-2"),
    );
    let elsewhere = with_id("ada", &other_tenant, "a/1 \u{e9}");
    let old_root = AccessToken::super_admin("root-2")
        .claim("tenant_id", tenant.as_str())
        .claim("jti", "a/1 \u{e9}");
    let old_root = server.sign(&old_root);
    let unused = server.stream_token(&lost);
    let mut closed = [open(&server, &tenant, &lost), open(&server, &tenant, &lost)];
    let mut stays = open(&server, &tenant, &kept);
    let mut theirs = open(&server, &other_tenant, &elsewhere);
    let mut all = server.stream_of(&tenant).bearer(&old_root).open();
    let target = format!(
        "/tokens/{}/streams",
        tidings_tests::http::encode("a/1 \u{e9}")
    );

    let viewer = server.viewer(&tenant);
    delete(&server, &viewer, &target).problem(403);
    let abroad = format!("{target}?tenant={other_tenant}");
    delete(&server, &operator(&server, &tenant), &abroad).problem(403);
    let answer = delete(&server, &operator(&server, &tenant), &target).expect(200);
    assert_eq!(answer["streams_closed"], 2, "{answer}");
    for stream in &mut closed {
        assert_revoked(stream);
    }
    assert_refused_everywhere(&server, &tenant, &lost);
    server
        .stream_of(&tenant)
        .token(&unused)
        .refused()
        .problem(401);
    assert_open(&server, &tenant, &mut stays, 1);
    assert_eq!(
        all.next_event().json()["n"],
        1,
        "a super admin is no tenant's"
    );
    assert_open(&server, &other_tenant, &mut theirs, 2);
    assert_eq!(all.next_event().json()["n"], 2);

    let answer = delete(&server, &root(&server), &target).expect(200);
    assert_eq!(answer["streams_closed"], 2, "{answer}");
    assert_revoked(&mut theirs);
    assert_revoked(&mut all);
    server.kill();
    server.start_again();
    for (tenant, access) in [(&tenant, &lost), (&other_tenant, &elsewhere)] {
        assert_refused_everywhere(&server, tenant, access);
    }
    open(&server, &tenant, &kept);
    let control = delete(&server, &root(&server), "/tokens/a%00b/streams").problem(422);
    assert_eq!(control["parameter"], Value::from("token_id"), "{control}");
    let get = server.exchange(&Request::get("/tokens/a/streams").bearer(&root(&server)));
    assert_eq!((get.status, get.header("allow")), (405, Some("DELETE")));
}
