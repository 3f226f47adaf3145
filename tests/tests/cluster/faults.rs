//! NATS away, frozen, killed, or out of reach of one node: what is known goes on, what can't be shared is refused,
//! and everybody agrees again when it is back.

use serde_json::json;
use tidings_tests::{NatsCluster, NatsOptions, NatsServer, Request, new_tenant};

use crate::support::{Node, assert_closed, issued, root, until};

#[test]
fn without_nats_a_node_goes_on_with_what_it_knows_and_refuses_changes() {
    let mut nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    assert_eq!(a.put_group(&tenant, "north", &["r1"]).status, 204);
    a.delete(&root(), "/users/eve/streams").expect(200);
    let bob = issued("bob", &tenant, "publisher", 10);
    let mut stream = b.watch(&tenant, &bob);
    until("the group on b", || b.group(&tenant, "north").is_some());

    nats.kill();
    until("a refusal", || {
        a.put_group(&tenant, "north", &["r2"]).status == 503
    });
    let purge = format!("/tenants/{tenant}?confirm={tenant}");
    for target in ["/users/bob/streams", &*purge] {
        let refused = a.delete(&root(), target);
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
    }
    // What was known is obeyed, and who was let in stays.
    let eve = issued("eve", &tenant, "viewer", 10);
    b.stream_of(&tenant).bearer(&eve).refused().problem(401);
    stream.next_named("stale");
    assert_eq!(b.group(&tenant, "north"), Some(json!(["r1"])));
    let listed = a
        .exchange(&Request::get("/streams").bearer(&root()))
        .expect(200);
    assert_eq!(listed["streams"], json!([]), "b's can't be known");

    nats.start_again();
    until("a change", || {
        a.delete(&root(), "/users/bob/streams").status == 200
    });
    assert_closed(&mut stream, "revoked");
    a.wait_until_it_knows(2);
}

#[test]
fn a_node_that_starts_without_nats_serves_nobody_until_it_knows_who_was_shut_out() {
    let mut nats = NatsServer::start(&NatsOptions::new());
    let a = Node::start("a", &nats.url());
    let mut b = Node::start("b", &nats.url());
    let tenant = new_tenant();
    a.delete(&root(), "/users/ada/streams").expect(200);
    nats.kill();
    b.stop();
    b.start_again_unready();
    let ada = issued("ada", &tenant, "viewer", 10);
    for request in [
        Request::post("/auth/sse-token"),
        Request::get(&format!("/tenants/{tenant}/events")),
        Request::get(&format!("/tenants/{tenant}/events/stream")),
        Request::get("/streams"),
    ] {
        let refused = b.exchange(&request.bearer(&ada));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(b.readiness().status, 503);
    nats.start_again();
    b.wait_until_ready();
    b.exchange(&Request::post("/auth/sse-token").bearer(&ada))
        .problem(401);
}

#[test]
fn changes_made_while_a_node_is_cut_off_reach_it_when_it_is_back() {
    // Otherwise the node would find another server.
    let cluster = NatsCluster::start_with(3, &NatsOptions::new().unadvertised());
    let away = (cluster.wait_for_leader() + 1) % 3;
    let others: Vec<String> = (0..3)
        .filter(|index| *index != away)
        .map(|index| cluster.servers[index].url())
        .collect();
    let a = Node::start_replicated("a", &others.join(","));
    let b = Node::start_replicated("b", &cluster.servers[away].url());
    a.wait_until_it_knows(2);
    let (tenant, purged) = (new_tenant(), new_tenant());
    let ada = issued("ada", &tenant, "publisher", 10);
    let mut stream = b.watch(&tenant, &ada);
    let mut doomed = b.watch(&purged, &issued("bob", &purged, "viewer", 10));

    // Frozen, not dead: the connection stays open and says nothing.
    cluster.servers[away].pause();
    until("a revocation", || {
        a.delete(&root(), "/users/ada/streams").status == 200
    });
    until("a purge", || {
        let answer = a.delete(&root(), &format!("/tenants/{purged}?confirm={purged}"));
        // A purge whose answer got lost is known by then.
        matches!(answer.status, 200 | 410)
    });
    until("a group", || {
        a.put_group(&tenant, "north", &["r1"]).status == 204
    });
    // It can't know, and goes on: its streams are told that they are not live.
    stream.next_named("stale");
    b.exchange(&Request::get(&format!("/tenants/{tenant}/events")).bearer(&ada))
        .expect(200);
    assert_eq!(b.group(&tenant, "north"), None);

    cluster.servers[away].resume();
    assert_closed(&mut stream, "revoked");
    assert_closed(&mut doomed, "deleted");
    until("the group", || b.group(&tenant, "north").is_some());
    a.wait_until_it_knows(2);
}

#[test]
fn what_was_answered_outlives_the_loss_of_any_server_and_of_all() {
    let mut cluster = NatsCluster::start(3);
    let a = Node::start_replicated("a", &cluster.url());
    let b = Node::start_replicated("b", &cluster.url());
    let tenant = new_tenant();
    let mut put = 0;
    for victim in 0..3 {
        let group = format!("group-{victim}");
        until("a change", || {
            a.put_group(&tenant, &group, &["r1"]).status == 204
        });
        put += 1;
        cluster.servers[victim].kill();
        let group = format!("without-{victim}");
        until("a change with one server gone", || {
            a.put_group(&tenant, &group, &["r2"]).status == 204
        });
        put += 1;
        cluster.start_all_again();
    }
    cluster.kill_all();
    until("a refusal", || {
        a.put_group(&tenant, "none", &[]).status == 503
    });
    cluster.start_all_again();
    let c = Node::start_replicated("c", &cluster.url());
    let count = |node: &Node| {
        let target = format!("/tenants/{tenant}/device-groups");
        let page = node
            .exchange(&Request::get(&target).bearer(&root()))
            .expect(200);
        let groups = page["groups"].as_array().expect("a list");
        groups
            .iter()
            .filter(|group| group["name"] != "none")
            .count()
    };
    for node in [&a, &b, &c] {
        until("all changes", || count(node) == put);
    }
}
