//! Operators' calls over all nodes: listings, the end of a stream, audiences, and who is never shown what.

use std::collections::BTreeMap;

use serde_json::Value;
use tidings_tests::{AccessToken, NatsOptions, NatsServer, Request, Stream, new_tenant};

use crate::support::{Node, assert_closed, issued, nodes_of, root, sign, until};

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
    let user = nodes[1]
        .exchange(&Request::get("/streams?user=user-3").bearer(&root()))
        .expect(200);
    assert_eq!(user["streams"].as_array().expect("a list").len(), 1);
    let of_other = format!("/streams?tenant={}", new_tenant());
    let none = nodes[1]
        .exchange(&Request::get(&of_other).bearer(&root()))
        .expect(200);
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
        let target = format!("/streams/{}", hidden.connection_id());
        a.delete(&operator, &target).problem(404);
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
    assert_eq!(a.delete(&operator, &target).status, 204);
    assert_closed(&mut stream, "disconnected");
    until("its end", || b.streams(&root(), 10).is_empty());
    a.delete(&operator, &target).problem(404);
}

#[test]
fn a_node_that_does_not_answer_is_named_and_nothing_is_called_missing_for_certain() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let stream = a.watch(&tenant, &issued("ada", &tenant, "viewer", 10));
    b.die();
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
