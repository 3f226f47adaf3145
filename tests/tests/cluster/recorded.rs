//! Faults under load, each held against the recorder: none lost, none twice, none out of order, none to a wrong
//! tenant, whatever is killed, frozen, cut off, slow or full.
//!
//! Where a test lets time pass, that is the fault: how long something is frozen.

use std::thread;
use std::time::{Duration, Instant};

use tidings_tests::{
    Door, NatsClient, NatsCluster, NatsOptions, NatsServer, RedisOptions, Request,
};

use crate::recorder::Recorder;
use crate::support::{Node, issued, until};

/// How long a node is cut off.
const CUT_OFF: Duration = Duration::from_secs(30);

/// Waits until all of these know each other.
fn acquaint(nodes: &[&Node]) {
    for node in nodes {
        node.wait_until_it_knows(nodes.len());
    }
}

#[test]
fn a_killed_node_costs_its_clients_a_reconnect_and_a_redis_that_is_away_only_new_tokens() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut redis = RedisOptions::new().start();
    let (url, tokens) = (nats.url(), redis.url());
    let node = |name| Node::start_from(name, &url, 1, |setup| setup.tokens_in(&tokens));
    let mut nodes = [node("a"), node("b"), node("c")];
    let recorder = Recorder::start_with_stream_tokens(&nodes.each_ref());
    for node in &mut nodes {
        node.kill();
        recorder.wait_for_more(10);
        node.start_again();
        recorder.wait_for_more(10);
    }
    redis.kill();
    recorder.wait_for_refusals(503, 20);
    // Whoever has an access token does not notice.
    let tenant = recorder.tenant(0);
    nodes[0].watch(tenant, &issued("ada", tenant, "viewer", 0));
    assert!(nodes[0].readiness().text().contains("Redis"));
    recorder.wait_for_more(10);
    redis.start_again();
    for node in &nodes {
        node.wait_until_ready();
    }
    recorder.wait_for_more(10);
    recorder.finish();
}

#[test]
fn a_slow_broker_delays_and_loses_nothing() {
    let nats = NatsServer::start(&NatsOptions::new());
    let nodes = Node::start_all(["a", "b"], &nats.url());
    let recorder = Recorder::start(&nodes.each_ref());
    for _ in 0..20 {
        nats.pause();
        thread::sleep(Duration::from_millis(fastrand::u64(100..600)));
        nats.resume();
        thread::sleep(Duration::from_millis(fastrand::u64(5..60)));
    }
    // Long enough to be taken for dead.
    nats.pause();
    for node in &nodes {
        until("a node that is not ready", || {
            node.readiness().status == 503
        });
    }
    nats.resume();
    recorder.wait_for_more(10);
    recorder.finish();
}

#[test]
fn a_full_store_refuses_what_does_not_fit_and_goes_on_when_there_is_room() {
    let nats = NatsOptions::new().jetstream("max_file_store: 8MB").start();
    let url = nats.url();
    // What a stream may have at most is set aside for it; this one has to share.
    let node = |name| {
        Node::start_from(name, &url, 1, |setup| {
            setup.set("TIDINGS_LOG__MAX_BYTES", "0")
        })
    };
    let nodes = [node("a"), node("b")];
    acquaint(&nodes.each_ref());
    let recorder = Recorder::start(&nodes.each_ref());
    let mut client = NatsClient::connect(nats.address);
    client.create(("BALLAST", &["ballast"]));
    let ballast = format!("\"{}\"", "x".repeat(32 << 10));
    while client.try_ask("ballast", &ballast)["error"].is_null() {}
    recorder.wait_for_refusals(507, 20);
    for node in &nodes {
        assert_eq!(node.readiness().status, 200, "reading goes on");
    }
    client.delete("BALLAST");
    recorder.wait_for_more(10);
    recorder.finish();
}

#[test]
fn any_nats_server_can_be_killed_and_all_of_them() {
    let mut cluster = NatsCluster::start(3);
    let url = cluster.url();
    let nodes = ["a", "b"].map(|name| Node::start_replicated(name, &url));
    let recorder = Recorder::start(&nodes.each_ref());
    for victim in 0..3 {
        cluster.servers[victim].kill();
        recorder.wait_for_more(5);
        cluster.start_all_again();
        recorder.wait_for_more(5);
    }
    cluster.kill_all();
    for node in &nodes {
        until("a node that is not ready", || {
            node.readiness().status == 503
        });
    }
    recorder.wait_for_refusals(503, 5);
    cluster.start_all_again();
    recorder.wait_for_more(5);
    recorder.finish();
}

#[test]
fn a_node_cut_off_for_half_a_minute_keeps_its_streams_and_catches_up() {
    // Otherwise the node would find another server.
    let cluster = NatsCluster::start_with(3, &NatsOptions::new().unadvertised());
    let away = (cluster.wait_for_leader() + 1) % 3;
    let others: Vec<String> = (0..3)
        .filter(|index| *index != away)
        .map(|index| cluster.servers[index].url())
        .collect();
    let a = Node::start_replicated("a", &others.join(","));
    let b = Node::start_replicated("b", &others.join(","));
    let door = Door::to(cluster.servers[away].address);
    let cut_off = Node::start_replicated("c", &door.nats_url());
    let recorder = Recorder::start_with_steady_readers(&[&a, &b, &cut_off], &cut_off);

    // The connection stays open and says nothing.
    door.hold();
    let since = Instant::now();
    until("a word that the streams are stale", || {
        recorder.told("stale") >= 5
    });
    let unready = cut_off.readiness();
    assert_eq!(unready.status, 503, "{unready:?}");
    assert!(
        unready.text().contains("the sources are not followed"),
        "{unready:?}"
    );
    // What it has copied it still serves, to whoever comes.
    let tenant = recorder.tenant(0).to_owned();
    let ada = issued("ada", &tenant, "viewer", 0);
    let history = Request::get(&format!("/tenants/{tenant}/events")).bearer(&ada);
    cut_off.exchange(&history).expect(200);
    let heard = recorder.told("heartbeat");
    thread::sleep(CUT_OFF.saturating_sub(since.elapsed()));
    until("further heartbeats", || {
        recorder.told("heartbeat") >= heard + 5 * 10
    });
    assert_eq!(recorder.told("fresh"), 0);
    recorder.wait_for_more(1);

    door.open();
    until("a word that the streams are live again", || {
        recorder.told("fresh") >= 5
    });
    cut_off.wait_until_ready();
    recorder.wait_for_more(5);
    recorder.finish();
}
