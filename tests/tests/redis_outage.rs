//! Redis away and back: what is refused meanwhile and what goes on. See `spec/protocol.md`, "Tokens in Redis".

use std::sync::Barrier;

use tidings_tests::brokers::{RedisOptions, RedisServer, wait_for};
use tidings_tests::publish::status;
use tidings_tests::{Answer, Redis, Request, Server, Setup, new_tenant};

const INVALID: &str = "Invalid or expired SSE token";

fn start() -> (RedisServer, Server) {
    start_with(|setup| setup)
}

fn start_with(settings: impl FnOnce(Setup) -> Setup) -> (RedisServer, Server) {
    let redis = RedisOptions::new().start();
    let setup = Setup::new()
        .tokens_in(&redis.url())
        // A token outlives an outage.
        .set("TIDINGS_STREAM__TOKEN_TTL", "10m")
        // Failures of Redis must not count: two would shut this address out.
        .set("TIDINGS_LIMITS__FAILURES_PER_ADDRESS", "2");
    (redis, settings(setup).start())
}

fn mint(node: &Server, tenant: &str) -> Answer {
    node.exchange(&Request::post("/auth/sse-token").bearer(&node.viewer(tenant)))
}

/// A refusal of what needs Redis.
fn check_unavailable(answer: &Answer) {
    let problem = answer.problem(503);
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.contains("stream tokens"), "{detail}");
    let after = answer.header("retry-after").expect("Retry-After");
    assert!(after.parse::<u64>().expect("seconds") >= 1, "{after}");
}

fn ready(node: &Server) -> Answer {
    node.ask_admin(&Request::get("/readyz"))
}

fn wait_until_away(node: &Server) {
    wait_for("that readyz tells of Redis", || {
        let answer = ready(node);
        answer.status == 503 && answer.json()["reasons"][0]["reason"] == "redis_away"
    });
}

fn wait_until_back(node: &Server) {
    wait_for("that the node is ready again", || ready(node).status == 200);
}

/// What needs Redis is refused, and nothing else is.
fn check_away(node: &Server, tenant: &str, token: &str) {
    for _ in 0..5 {
        check_unavailable(&mint(node, tenant));
        check_unavailable(&node.stream_of(tenant).token(token).refused());
    }
    let mut stream = node.stream_of(tenant).bearer(&node.viewer(tenant)).open();
    let receipt = node.publish(tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
    let healthy = node.ask_admin(&Request::get("/healthz"));
    assert_eq!(healthy.status, 200);
}

#[test]
fn while_redis_is_dead_tokens_are_503_and_all_else_goes_on_until_it_is_back() {
    let (mut redis, node) = start();
    let tenant = new_tenant();
    let mut open = node.watch(&tenant).open();
    let token = node.stream_token(&node.viewer(&tenant));
    redis.kill();
    check_away(&node, &tenant, &token);
    wait_until_away(&node);
    check_away(&node, &tenant, &token);
    for _ in 0..2 {
        assert_eq!(open.next_event().name, "device_status");
    }
    redis.start_again();
    wait_until_back(&node);
    // It kept nothing, and says so of the old token; new ones are good. Not one failure was counted before.
    node.watch(&tenant).open();
    let answer = node.stream_of(&tenant).token(&token).refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
    let receipt = node.publish(&tenant, &status("r1", 2));
    assert_eq!(open.next_event().cursor(), receipt.last);
}

#[test]
fn while_redis_is_frozen_nobody_waits_for_it() {
    const CROWD: usize = 200;
    // Long enough for a Redis that is not frozen, and waited for in vain twice.
    let (redis, node) = start_with(|setup| setup.set("TIDINGS_REDIS__RESPONSE_TIMEOUT", "3s"));
    let tenant = new_tenant();
    let token = node.stream_token(&node.viewer(&tenant));
    let mut control = Redis::connect(redis.address);
    redis.pause();
    // All of them are answered while it is frozen.
    let answers = at_once(CROWD, || node.stream_of(&tenant).token(&token).refused());
    answers.iter().for_each(check_unavailable);
    wait_until_away(&node);
    check_away(&node, &tenant, &token);
    redis.resume();
    wait_until_back(&node);
    // Of that crowd's questions Redis has the one token left: nobody was given it.
    node.stream_of(&tenant).token(&token).open();
    let asked = calls(&mut control, "get");

    // Once it is known to be away, no question is even sent.
    redis.pause();
    wait_until_away(&node);
    let answers = at_once(CROWD, || mint(&node, &tenant));
    answers.iter().for_each(check_unavailable);
    let answers = at_once(CROWD, || node.stream_of(&tenant).token(&token).refused());
    answers.iter().for_each(check_unavailable);
    redis.resume();
    wait_until_back(&node);
    let more = calls(&mut control, "get") - asked;
    assert!(more < 20, "{more} questions while it was known to be away");
}

/// Runs this so many times at once.
fn at_once<T: Send>(count: usize, run: impl Fn() -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    run()
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, T>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    })
}

/// How often Redis has run a command.
fn calls(redis: &mut Redis, command: &str) -> u64 {
    let statistics = redis.command(&["INFO", "commandstats"]);
    statistics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")))
        .and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_node_starts_without_redis_and_is_ready_when_it_comes() {
    let mut redis = RedisOptions::new().start();
    redis.kill();
    let node = Setup::new()
        .tokens_in(&redis.url())
        .may_be_unready()
        .start();
    let tenant = new_tenant();
    wait_until_away(&node);
    check_away(&node, &tenant, "a token of before");
    redis.start_again();
    wait_until_back(&node);
    node.watch(&tenant).open();
}

#[test]
fn a_redis_that_is_full_gives_back_what_it_has() {
    let (redis, node) = start();
    let tenant = new_tenant();
    let token = node.stream_token(&node.viewer(&tenant));
    let mut control = Redis::connect(redis.address);
    control.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..3 {
        check_unavailable(&mint(&node, &tenant));
    }
    node.wait_for_log("why", |line| {
        line.contains("redis_refuses") && line.contains("OOM")
    });
    node.stream_of(&tenant).token(&token).open();
    control.command(&["CONFIG", "SET", "maxmemory", "0"]);
    node.watch(&tenant).open();
}

#[test]
fn no_token_is_logged_whatever_happens_to_redis() {
    let mut redis = RedisOptions::new().start();
    let mut node = Setup::new()
        .tokens_in(&redis.url())
        .set("TIDINGS_TOKENS__SHARED", "true")
        .set("TIDINGS_LOGGING__LEVEL", "trace")
        .start();
    let tenant = new_tenant();
    let mut control = Redis::connect(redis.address);
    let used = node.stream_token(&node.viewer(&tenant));
    node.stream_of(&tenant).token(&used).open();
    node.stream_of(&tenant).token(&used).refused().problem(401);
    let wrong = "token-with-a-value-of-another-shape";
    control.command(&["SET", &format!("sse_token:{wrong}"), "{}"]);
    node.stream_of(&tenant).token(wrong).refused().problem(401);
    // Redis quotes the key of a command that it refuses to run.
    let typed = "token-that-is-a-list";
    control.command(&["LPUSH", &format!("sse_token:{typed}"), "x"]);
    check_unavailable(&node.stream_of(&tenant).token(typed).refused());
    node.wait_for_log("the refusal", |line| line.contains("redis_refuses"));
    let lost = node.stream_token(&node.viewer(&tenant));
    redis.kill();
    check_unavailable(&node.stream_of(&tenant).token(&lost).refused());
    node.wait_for_log("the outage", |line| line.contains("redis_away"));
    // Once the process is gone, all that it wrote is there.
    assert!(node.stop().success());
    let written = node.output.text_at_end();
    for token in [&used, wrong, typed, &lost] {
        assert!(!written.contains(&token[..12]), "{token} is in the log");
    }
}
