//! Operators' calls over all nodes: listings, the end of a stream, audiences, and who is never shown what.

use std::collections::BTreeMap;

use serde_json::Value;
use tidings_tests::publish::{one, status};
use tidings_tests::{AccessToken, NatsOptions, NatsServer, Request, Stream, new_tenant};

use crate::support::{Node, assert_closed, assert_counted, issued, nodes_of, root, sign, until};

fn names(streams: &[Value]) -> Vec<&str> {
    let name = |stream: &Value| stream["connection_id"].as_str().map(ToOwned::to_owned);
    assert!(streams.is_sorted_by_key(name), "{streams:?}");
    streams
        .iter()
        .map(|stream| stream["connection_id"].as_str().expect("a name"))
        .collect()
}

#[test]
fn a_listing_on_any_node_has_every_nodes_streams_once_in_pages_of_any_size() {
    let nats = NatsServer::start(&NatsOptions::new());
    let nodes = Node::start_all(["a", "b", "c"], &nats.url());
    let tenant = new_tenant();
    let mut open: BTreeMap<String, (Stream, &str)> = BTreeMap::new();
    for (number, node) in nodes.iter().cycle().take(13).enumerate() {
        let access = issued(&format!("user-{number}"), &tenant, "viewer", 10);
        let stream = node.watch(&tenant, &access);
        open.insert(stream.connection_id().to_owned(), (stream, node.name()));
    }
    let expected: Vec<&str> = open.keys().map(String::as_str).collect();
    for node in &nodes {
        for limit in [1, 2, 5, 12, 13, 1000] {
            let listed = node.streams(&root(), limit);
            assert_eq!(names(&listed), expected, "limit {limit}");
            for stream in &listed {
                let name = stream["connection_id"].as_str().expect("a name");
                assert_eq!(stream["node"], open[name].1, "{stream}");
            }
        }
    }
    let user = nodes[1].listing(&root(), "/streams?user=user-3");
    assert_eq!(user["streams"].as_array().expect("a list").len(), 1);
    let none = nodes[1].listing(&root(), &format!("/streams?tenant={}", new_tenant()));
    assert_eq!(none["streams"].as_array().expect("a list").len(), 0);
}

#[test]
fn a_tenants_operator_sees_its_own_on_all_nodes_and_no_super_admin_on_any() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let (tenant, other) = (new_tenant(), new_tenant());
    let operator = issued("operator", &tenant, "tenant_operator", 10);
    let own = b.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    let foreign = b.watch(&other, &issued("ada", &other, "viewer", 10));
    let everything = b.watch(&tenant, &root());
    let scoped = b
        .stream_of(&tenant)
        .bearer(&root())
        .query("scope", "tenant")
        .open();
    let admin_of_tenant = AccessToken::super_admin("admin").claim("tenant_id", tenant.as_str());
    let of_tenant = b.watch(&tenant, &sign(&admin_of_tenant));

    let listed = a.streams(&operator, 100);
    assert_eq!(names(&listed), [own.connection_id()]);
    assert_eq!(a.streams(&root(), 100).len(), 5);
    for hidden in [&foreign, &everything, &scoped, &of_tenant] {
        a.finds_nothing(&operator, &format!("/streams/{}", hidden.connection_id()));
    }
    assert_eq!(a.streams(&root(), 100).len(), 5, "none of them was closed");
}

#[test]
fn a_stream_is_ended_wherever_it_is() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let operator = issued("operator", &tenant, "tenant_operator", 10);
    let mut stream = b.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    let target = format!("/streams/{}", stream.connection_id());
    if let Some(answer) = a.end(&operator, &target) {
        assert_eq!(answer.status, 204);
    }
    assert_closed(&mut stream, "disconnected");
    until("its end", || b.streams(&root(), 10).is_empty());
    a.finds_nothing(&operator, &target);
}

/// The node that is asked knows neither the stream nor its token.
#[test]
fn the_token_behind_a_stream_is_revoked_wherever_the_stream_is() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let operator = issued("operator", &tenant, "tenant_operator", 10);
    let lost = sign(&AccessToken::new("ada", &tenant, "viewer").claim("jti", "t-1"));
    let mut stream = b.watch(&tenant, &lost);
    let target = format!("/streams/{}?revoke=true", stream.connection_id());
    let other = issued("operator", &new_tenant(), "tenant_operator", 10);
    a.finds_nothing(&other, &target);
    if let Some(answer) = a.end(&operator, &target) {
        let answer = answer.expect(200);
        assert_eq!(answer["token_id"], "t-1");
        assert_counted(&answer, 1);
    }
    assert_closed(&mut stream, "revoked");
    for node in [&a, &b] {
        node.stream_of(&tenant).bearer(&lost).refused().problem(401);
    }
    let mut nameless = b.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    let target = format!("/streams/{}?revoke=true", nameless.connection_id());
    if let Some(answer) = a.end(&operator, &target) {
        let answer = answer.expect(200);
        assert!(answer["revoked_at"].is_null(), "{answer}");
    }
    assert_closed(&mut nameless, "disconnected");
}

#[test]
fn a_node_that_does_not_answer_is_named_and_nothing_is_called_missing_for_certain() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let stream = a.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    b.kill();
    let page = a
        .exchange(&Request::get("/streams").bearer(&root()))
        .expect(200);
    assert_eq!(
        nodes_of(&page),
        [("a".to_owned(), true), ("b".to_owned(), false)]
    );
    assert_eq!(
        names(page["streams"].as_array().expect("a list")),
        [stream.connection_id()]
    );
    let unknown = a.delete(&root(), "/streams/sse-000000000000").problem(503);
    let detail = unknown["detail"].as_str().expect("text");
    assert!(detail.contains("these don't answer: b"), "{detail}");
    let answer = a.delete(&root(), "/users/ada/streams").expect(200);
    assert_eq!(answer["streams_closed"], 1);
    assert_eq!(
        nodes_of(&answer),
        [("a".to_owned(), true), ("b".to_owned(), false)]
    );

    // One that says that it goes is not missed.
    let mut c = Node::start("c", &nats.url());
    until("c", || {
        a.nodes()
            .iter()
            .any(|(name, answered)| name == "c" && *answered)
    });
    c.stop();
    until("the end of c", || {
        a.nodes().iter().all(|(name, _)| name != "c")
    });
}

#[test]
fn an_audience_has_the_streams_of_all_nodes_wherever_it_is_asked_for() {
    let nats = NatsServer::start(&NatsOptions::new());
    let nodes = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let operator = issued("operator", &tenant, "tenant_operator", 10);
    let publisher = issued("p", &tenant, "publisher", 10);
    let mut expected = BTreeMap::new();
    let mut streams = Vec::new();
    for node in &nodes {
        let viewer = issued("ada", &tenant, "viewer", 10);
        let all = node.watch(&tenant, &viewer);
        let alerts = node.stream_of(&tenant).bearer(&viewer);
        let alerts = alerts.query("types", "alert_fired").open();
        let hidden = node.watch(&tenant, &root());
        expected.insert(all.connection_id().to_owned(), (node.name(), "sent"));
        expected.insert(
            alerts.connection_id().to_owned(),
            (node.name(), "types_filter"),
        );
        streams.extend([all, hidden]);
        streams.push(alerts);
    }
    let receipt = nodes[0]
        .exchange(&one(&tenant, &publisher, &status("r1", 1)))
        .expect(200);
    let cursor = receipt["last"].as_str().expect("a cursor").to_owned();
    for stream in streams.iter_mut().take(2) {
        assert_eq!(stream.next_event().cursor(), cursor);
    }
    let target = |limit: usize, after: &str| {
        format!("/tenants/{tenant}/events/{cursor}/audience?limit={limit}{after}")
    };
    for node in &nodes {
        // The other node may have copied the event a moment later.
        until("all outcomes", || {
            let (mut met, mut after) = (BTreeMap::new(), String::new());
            loop {
                let answer = node.exchange(&Request::get(&target(3, &after)).bearer(&operator));
                if answer.status != 200 {
                    return false;
                }
                let page = answer.json();
                assert_eq!(nodes_of(&page).len(), 2, "{page}");
                for stream in page["streams"].as_array().expect("a list") {
                    let text = |name: &str| stream[name].as_str().expect("text").to_owned();
                    met.insert(text("connection_id"), (text("node"), text("outcome")));
                }
                let Some(next) = page["next"].as_str() else {
                    break;
                };
                after = format!("&after={next}");
            }
            let names: Vec<&String> = met.keys().collect();
            assert!(
                names.iter().all(|name| expected.contains_key(*name)),
                "{met:?}"
            );
            met.len() == expected.len()
                && met
                    .iter()
                    .all(|(name, (node, outcome))| expected[name] == (&**node, &**outcome))
        });
    }
}

/// A node that is stopped by SIGSTOP keeps its connections and says nothing.
#[test]
fn a_frozen_node_is_named_and_holds_up_no_listing_for_longer_than_a_moment() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    b.signal(rustix::process::Signal::STOP);
    // The signal is on its way for a moment.
    let one_silent = [("a".to_owned(), true), ("b".to_owned(), false)];
    until("silence", || a.nodes() == one_silent);
    let tenant = new_tenant();
    let revoked = a.delete(&root(), "/users/ada/streams").expect(200);
    assert_eq!(
        nodes_of(&revoked),
        [("a".to_owned(), true), ("b".to_owned(), false)]
    );
    b.signal(rustix::process::Signal::CONT);
    let ada = issued("ada", &tenant, "viewer", 10);
    let history = Request::get(&format!("/tenants/{tenant}/events")).bearer(&ada);
    until("the revocation", || b.exchange(&history).status == 401);
    a.wait_until_it_knows(2);
}

/// What the page for operators tells them to allow is enough for everything that nodes do, and nothing is refused.
#[test]
fn the_documented_permissions_suffice_for_several_nodes() {
    let text = include_str!("../../../docs/nats.md");
    let (_, rest) = text
        .split_once("<!-- permissions -->")
        .expect("the section");
    let (_, rest) = rest.split_once("```").expect("a block");
    let (_, rest) = rest.split_once('\n').expect("its first line");
    let (block, _) = rest.split_once("```").expect("its end");
    let mut nats = NatsOptions::new().configuration(block).start();
    let [a, b] = ["a", "b"].map(|name| Node::start_as(name, &nats.url(), ("tidings", "change-me")));
    a.wait_until_it_knows(2);
    let (tenant, other) = (new_tenant(), new_tenant());
    let mut stream = b.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    assert_eq!(a.put_group(&tenant, "north", &["r1"]).status, 204);
    until("the group", || b.group(&tenant, "north").is_some());
    assert_eq!(a.streams(&root(), 10).len(), 1);
    a.delete(&root(), "/users/ada/streams").expect(200);
    assert_closed(&mut stream, "revoked");
    a.delete(&root(), &format!("/tenants/{tenant}?confirm={tenant}"))
        .expect(200);
    a.wait_for_log("the purge of the stream", |line| {
        line.contains("tenant_purged_from_stream")
    });
    // What is done when a connection was lost is allowed, too.
    nats.kill();
    nats.start_again();
    until("a change", || {
        a.put_group(&other, "north", &["r1"]).status == 204
    });
    until("the group", || b.group(&other, "north").is_some());
    a.wait_until_it_knows(2);
    for node in [&a, &b] {
        let said = node.output.text();
        assert!(!said.contains("nats_refused"), "{said}");
    }
}
