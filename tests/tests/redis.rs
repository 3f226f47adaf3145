//! Stream tokens in Redis: nodes that take each other's, another back end that takes ours and gives its own, and
//! what happens while Redis is away. See `spec/protocol.md`, "Getting a stream token".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidings_tests::access::now;
use tidings_tests::brokers::{RedisOptions, RedisServer, wait_for};
use tidings_tests::publish::status;
use tidings_tests::{AccessToken, GUARD, Redis, Reply, Request, Server, Setup, new_tenant};

const INVALID: &str = "Invalid or expired SSE token";

fn redis() -> RedisServer {
    RedisOptions::new().start()
}

/// A node whose stream tokens are in this Redis.
fn node(redis: &RedisServer) -> Setup {
    Setup::new().tokens_in(&redis.url())
}

fn sharing(redis: &RedisServer) -> Setup {
    node(redis).set("TIDINGS_TOKENS__SHARED", "true")
}

/// Under what a token stands in the layout of Tidings.
fn own_key(token: &str) -> String {
    format!("tidings:token:{:x}", Sha256::digest(token.as_bytes()))
}

fn keys(redis: &mut Redis) -> Vec<String> {
    let mut keys = redis.command(&["KEYS", "*"]).texts();
    // With this a node that connects tries out whether it may do what it will have to.
    keys.retain(|key| key != "tidings:token:probe");
    keys.sort();
    keys
}

/// What another back end does when it gives a token away.
fn give(redis: &mut Redis, token: &str, user: &Value) {
    let key = format!("sse_token:{token}");
    redis.command(&["SET", &key, &user.to_string(), "EX", "30"]);
}

fn user(tenant: &str) -> Value {
    json!({"user_id": "ada", "tenant_id": tenant, "role": "viewer"})
}

#[test]
fn a_token_of_one_node_opens_a_stream_of_another_once() {
    let redis = redis();
    let (first, second) = (node(&redis).start(), node(&redis).start());
    let tenant = new_tenant();
    let token = first.stream_token(&first.viewer(&tenant));
    let mut stream = second.stream_of(&tenant).token(&token).open();
    let receipt = second.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
    for node in [&first, &second] {
        let answer = node.stream_of(&tenant).token(&token).refused();
        assert_eq!(answer.problem(401)["detail"], INVALID);
    }
    assert_eq!(keys(&mut Redis::connect(redis.address)), [""; 0]);
}

#[test]
fn of_many_concurrent_uses_on_two_nodes_exactly_one_opens() {
    for share in [false, true] {
        let redis = redis();
        let setup = || if share { sharing(&redis) } else { node(&redis) };
        let nodes = [setup().start(), setup().start()];
        let tenant = new_tenant();
        let token = nodes[0].stream_token(&nodes[0].viewer(&tenant));
        assert_eq!(opened_of_a_hundred(&nodes, &tenant, &token), 1, "{share}");
        if share {
            let token = "of another back end";
            give(&mut Redis::connect(redis.address), token, &user(&tenant));
            assert_eq!(opened_of_a_hundred(&nodes, &tenant, token), 1);
        }
        assert_eq!(keys(&mut Redis::connect(redis.address)), [""; 0]);
    }
}

#[test]
fn a_crowd_that_comes_at_once_is_served() {
    const CROWD: usize = 2_000;
    let redis = redis();
    let node = sharing(&redis)
        .set("TIDINGS_STREAM__TOKEN_TTL", "10m")
        .start();
    let tenant = new_tenant();
    let access = node.viewer(&tenant);
    // All of them before the first connects, which has ten seconds for its head.
    let tokens: Vec<String> = (0..CROWD).map(|_| node.stream_token(&access)).collect();
    let sockets: Vec<(TcpStream, u8)> = tokens
        .iter()
        .map(|token| {
            let request = node.stream_of(&tenant).token(token).request().bytes();
            let (last, all_but_last) = request.split_last().expect("some bytes");
            let mut socket = TcpStream::connect(node.address).expect("connects");
            socket.set_read_timeout(Some(GUARD)).expect("takes it");
            socket.write_all(all_but_last).expect("sends");
            (socket, *last)
        })
        .collect();
    for (socket, last) in &sockets {
        (&*socket).write_all(&[*last]).expect("sends");
    }
    for (socket, _) in &sockets {
        let mut line = [0; 12];
        (&*socket).read_exact(&mut line).expect("a status");
        assert_eq!(String::from_utf8_lossy(&line), "HTTP/1.1 200");
    }
    assert!(!node.output.text().contains("redis_away"));
}

/// Uses a token a hundred times at once, half of them on each node; how many opened. All others must be 401.
fn opened_of_a_hundred(nodes: &[Server; 2], tenant: &str, token: &str) -> usize {
    let request = nodes[0].stream_of(tenant).token(token).request().bytes();
    let (last, all_but_last) = request.split_last().expect("some bytes");
    // Every connection has sent all but the last byte, so that the uses meet inside the servers.
    let sockets: Vec<TcpStream> = (0..100)
        .map(|index| {
            let mut socket = TcpStream::connect(nodes[index % 2].address).expect("connects");
            socket.set_nodelay(true).expect("takes it");
            socket.set_read_timeout(Some(GUARD)).expect("takes it");
            socket.write_all(all_but_last).expect("sends");
            socket
        })
        .collect();
    let barrier = Barrier::new(4);
    let statuses: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = sockets
            .chunks(25)
            .map(|sockets| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for mut socket in sockets {
                        socket.write_all(&[*last]).expect("sends");
                    }
                    let status = |mut socket: &TcpStream| {
                        let mut line = [0; 12];
                        socket.read_exact(&mut line).expect("a status");
                        String::from_utf8_lossy(&line).into_owned()
                    };
                    sockets.iter().map(status).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let with = |status: &str| {
        statuses
            .iter()
            .filter(|line| line.ends_with(status))
            .count()
    };
    assert_eq!(with("200") + with("401"), 100, "{statuses:?}");
    with("200")
}

#[test]
fn what_is_stored_is_the_whole_authority_under_a_hash_for_thirty_seconds() {
    let redis = redis();
    let node = node(&redis).start();
    let tenant = new_tenant();
    let exp = now() + 1_000;
    let access = AccessToken::new("ada", &tenant, "viewer")
        .claim("exp", exp)
        .claim("iat", now())
        .claim("jti", "login-7")
        .claim("devices", json!(["r1", "r2"]))
        .claim("types", json!(["alert_fired"]))
        .claim("device_group", "north");
    let token = node.stream_token(&node.sign(&access));
    let mut redis = Redis::connect(redis.address);
    assert_eq!(keys(&mut redis), [own_key(&token)]);
    let left = redis.command(&["PTTL", &own_key(&token)]).integer();
    assert!((1..=30_000).contains(&left), "{left}");
    let stored: Value =
        serde_json::from_str(redis.command(&["GET", &own_key(&token)]).text()).expect("JSON");
    assert_eq!(stored["user_id"], "ada");
    assert_eq!(stored["tenant_id"], *tenant);
    assert_eq!(stored["role"], "viewer");
    assert_eq!(stored["exp"], exp);
    assert!(stored["iat"].is_u64());
    assert_eq!(stored["jti"], "login-7");
    assert_eq!(stored["devices"], json!(["r1", "r2"]));
    assert_eq!(stored["types"], json!(["alert_fired"]));
    assert_eq!(stored["device_group"], "north");
    assert!(!stored.to_string().contains(&token));
}

#[test]
fn a_stream_of_another_node_obeys_the_claims_and_the_end_of_the_access_token() {
    let redis = redis();
    let (first, second) = (node(&redis).start(), node(&redis).start());
    let tenant = new_tenant();
    let access = AccessToken::new("ada", &tenant, "viewer")
        .claim("devices", json!(["r2"]))
        .claim("exp", now() + 12);
    let token = first.stream_token(&first.sign(&access));
    let mut stream = second.stream_of(&tenant).token(&token).open();
    second.publish(&tenant, &status("r1", 1));
    let seen = second.publish(&tenant, &status("r2", 1));
    assert_eq!(stream.next_event().cursor(), seen.last);
    let closing = stream.next_named("closing");
    assert_eq!(closing.json()["reason"], "expired");
}

#[test]
fn a_token_is_over_when_its_time_is() {
    let redis = redis();
    let node = node(&redis).set("TIDINGS_STREAM__TOKEN_TTL", "1s").start();
    let tenant = new_tenant();
    let token = node.stream_token(&node.viewer(&tenant));
    let mut redis = Redis::connect(redis.address);
    // The passing of time is what is tested, and Redis's clock is the one that counts.
    wait_for("the end of the token", || {
        redis.command(&["EXISTS", &own_key(&token)]) == Reply::Integer(0)
    });
    let answer = node.stream_of(&tenant).token(&token).refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
}

#[test]
fn a_token_shown_at_another_tenant_is_spent_on_all_nodes_and_by_head_on_none() {
    let redis = redis();
    let (first, second) = (node(&redis).start(), node(&redis).start());
    let (own, other) = (new_tenant(), new_tenant());
    let head = |tenant: &str, token: &str| {
        let path = format!("/tenants/{tenant}/events/stream?token={token}");
        let mut connection = tidings_tests::Connection::open(second.address).expect("connects");
        let answer = connection.exchange(&Request::new("HEAD", &path));
        answer.expect("an answer").status
    };
    let token = first.stream_token(&first.viewer(&own));
    assert_eq!(head(&other, &token), 403);
    assert_eq!(head(&own, &token), 200);
    first.stream_of(&own).token(&token).open();

    let token = first.stream_token(&first.viewer(&own));
    second
        .stream_of(&other)
        .token(&token)
        .refused()
        .problem(403);
    let answer = first.stream_of(&own).token(&token).refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
}

#[test]
fn a_token_of_ours_can_be_taken_by_another_back_end_and_only_once_in_all() {
    let redis = redis();
    let node = sharing(&redis).start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    let token = node.stream_token(&node.viewer(&tenant));
    let key = format!("sse_token:{token}");
    let left = redis.command(&["PTTL", &key]).integer();
    assert!((1..=30_000).contains(&left), "{left}");
    let taken = redis.command(&["GETDEL", &key]);
    let read: Value = serde_json::from_str(taken.text()).expect("JSON");
    assert_eq!(
        read,
        json!({"user_id": "viewer-1", "tenant_id": tenant, "role": "viewer"})
    );
    let answer = node.stream_of(&tenant).token(&token).refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);

    let token = node.stream_token(&node.viewer(&tenant));
    node.stream_of(&tenant).token(&token).open();
    let key = format!("sse_token:{token}");
    assert_eq!(redis.command(&["GETDEL", &key]), Reply::Nil);

    let token = node.stream_token(&node.super_admin());
    let taken = redis.command(&["GET", &format!("sse_token:{token}")]);
    let read: Value = serde_json::from_str(taken.text()).expect("JSON");
    assert_eq!(
        read,
        json!({"user_id": "root-1", "tenant_id": null, "role": "super_admin"})
    );
}

#[test]
fn a_token_of_another_back_end_opens_a_stream_once() {
    let redis = redis();
    let node = sharing(&redis).start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    // Opaque text: a JWT, spaces, whatever; of any length that a head has room for.
    let long = "x".repeat(20_000);
    for token in ["t", "a.b.c", "ünïcödé & more", &long] {
        give(&mut redis, token, &user(&tenant));
        let mut stream = node.stream_of(&tenant).token(token).open();
        let receipt = node.publish(&tenant, &status("r1", 1));
        assert_eq!(stream.next_event().cursor(), receipt.last);
        assert_eq!(keys(&mut redis), [""; 0]);
        let answer = node.stream_of(&tenant).token(token).refused();
        assert_eq!(answer.problem(401)["detail"], INVALID);
    }
    give(&mut redis, "spent", &user(&tenant));
    let answer = node.stream_of(&new_tenant()).token("spent").refused();
    answer.problem(403);
    assert_eq!(keys(&mut redis), [""; 0]);
}

#[test]
fn the_role_of_another_back_ends_token_decides_who_sees_all() {
    let redis = redis();
    let node = sharing(&redis)
        .set("TIDINGS_AUTH__SUPER_ADMIN_ROLE", "root")
        .start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    let role = |role: &str| json!({"user_id": 7, "tenant_id": null, "role": role});
    give(&mut redis, "a", &role("root"));
    let mut stream = node.stream_of(&new_tenant()).token("a").open();
    let receipt = node.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
    // Without a tenant only that role may be.
    give(&mut redis, "b", &role("super_admin"));
    let answer = node.stream_of(&tenant).token("b").refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
}

#[test]
fn a_stream_of_another_back_ends_token_lives_no_longer_than_configured() {
    let redis = redis();
    let node = sharing(&redis)
        .set("TIDINGS_TOKENS__SHARED_MAX_LIFETIME", "2s")
        .start();
    let tenant = new_tenant();
    give(&mut Redis::connect(redis.address), "t", &user(&tenant));
    let mut stream = node.stream_of(&tenant).token("t").open();
    let closing = stream.next_named("closing");
    assert_eq!(closing.json()["reason"], "expired");
}

#[test]
fn a_token_of_ours_keeps_its_own_end_also_where_it_is_shared() {
    let redis = redis();
    let (first, second) = (sharing(&redis).start(), sharing(&redis).start());
    let tenant = new_tenant();
    let access = AccessToken::new("ada", &tenant, "viewer").claim("exp", now() + 12);
    let token = first.stream_token(&first.sign(&access));
    let mut stream = second.stream_of(&tenant).token(&token).open();
    let closing = stream.next_named("closing");
    assert_eq!(closing.json()["reason"], "expired");
}

#[test]
fn a_revocation_reaches_tokens_that_wait_in_redis() {
    let redis = redis();
    for setup in [node(&redis), sharing(&redis)] {
        let node = setup.start();
        let mut redis = Redis::connect(redis.address);
        let tenant = new_tenant();
        let issued = |at: u64| AccessToken::new("ada", &tenant, "viewer").claim("iat", at);
        let before = node.stream_token(&node.sign(&issued(now())));
        let revoke = Request::new("DELETE", "/users/ada/streams").bearer(&node.super_admin());
        assert_eq!(node.exchange(&revoke).status, 200);
        node.stream_of(&tenant)
            .token(&before)
            .refused()
            .problem(401);
        // Who has logged in since is let in; what says nothing of when is not.
        let begun = std::time::Instant::now();
        let since = loop {
            let access = node.sign(&issued(now()));
            let minted = node.exchange(&Request::post("/auth/sse-token").bearer(&access));
            if minted.status == 200 {
                break minted.json()["token"].as_str().expect("a token").to_owned();
            }
            assert!(
                begun.elapsed() < tidings_tests::GUARD,
                "nobody gets in again"
            );
        };
        node.stream_of(&tenant).token(&since).open();
        give(&mut redis, "t", &user(&tenant));
        node.stream_of(&tenant).token("t").refused().problem(401);
    }
}

#[test]
fn a_token_with_claims_that_the_shared_layout_cannot_say_is_never_shared() {
    let redis = redis();
    let node = sharing(&redis).start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    let plain = AccessToken::new("ada", &tenant, "viewer");
    for (name, value) in [
        ("devices", json!(["r1"])),
        ("devices", json!([])),
        ("types", json!(["alert_fired"])),
        ("device_group", json!("north")),
    ] {
        let token = node.stream_token(&node.sign(&plain.clone().claim(name, value)));
        assert_eq!(keys(&mut redis), [own_key(&token)], "{name}");
        node.stream_of(&tenant).token(&token).open();
        assert_eq!(keys(&mut redis), [""; 0], "{name}");
    }
}

#[test]
fn a_value_that_could_hold_an_unknown_bound_opens_nothing() {
    let redis = redis();
    let node = sharing(&redis).start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    for wrong in [
        json!({"user_id": "ada", "tenant_id": tenant, "role": "viewer", "sites": ["a"]}),
        json!({"user_id": "ada", "tenant_id": tenant}),
        json!({"user_id": "ada", "tenant_id": "north", "role": "viewer"}),
        json!([1]),
    ] {
        give(&mut redis, "t", &wrong);
        let answer = node.stream_of(&tenant).token("t").refused();
        assert_eq!(answer.problem(401)["detail"], INVALID, "{wrong}");
    }
}

#[test]
fn without_sharing_nothing_is_written_or_taken_under_the_shared_keys() {
    let redis = redis();
    let node = node(&redis).start();
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    give(&mut redis, "t", &user(&tenant));
    let answer = node.stream_of(&tenant).token("t").refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
    let token = node.stream_token(&node.viewer(&tenant));
    let mut expected = [own_key(&token), "sse_token:t".to_owned()];
    expected.sort();
    assert_eq!(keys(&mut redis), expected);
}

#[test]
fn where_both_keys_hold_a_token_it_opens_one_stream_and_nothing_is_left() {
    let redis = redis();
    let nodes = [sharing(&redis).start(), sharing(&redis).start()];
    let mut redis = Redis::connect(redis.address);
    let tenant = new_tenant();
    let access = AccessToken::new("ada", &tenant, "viewer").claim("devices", json!(["r2"]));
    let token = nodes[0].stream_token(&nodes[0].sign(&access));
    // Somebody stores the same text as a token without bounds.
    give(&mut redis, &token, &user(&tenant));
    assert_eq!(opened_of_a_hundred(&nodes, &tenant, &token), 1);
    assert_eq!(keys(&mut redis), [""; 0]);
}

#[test]
fn a_server_without_getdel_takes_tokens_by_a_script() {
    let redis = RedisOptions::new()
        .configuration("rename-command GETDEL \"\"")
        .start();
    let nodes = [sharing(&redis).start(), sharing(&redis).start()];
    nodes[0].wait_for_log("the script", |line| line.contains("GETDEL"));
    let tenant = new_tenant();
    let token = nodes[0].stream_token(&nodes[0].viewer(&tenant));
    assert_eq!(opened_of_a_hundred(&nodes, &tenant, &token), 1);
    give(&mut Redis::connect(redis.address), "t", &user(&tenant));
    assert_eq!(opened_of_a_hundred(&nodes, &tenant, "t"), 1);
}
