//! What all nodes hold alike: who was purged, whose access is revoked, what groups there are.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::json;
use tidings_tests::access::now;
use tidings_tests::moments::seconds;
use tidings_tests::publish::{one, status};
use tidings_tests::{AccessToken, GUARD, NatsOptions, NatsServer, Request, new_tenant};

use crate::support::{Node, assert_closed, assert_counted, issued, nodes_of, root, sign, until};

/// Two nodes that know each other, where what ends a stream is not its next heartbeat.
fn without_heartbeats(url: &str) -> [Node; 2] {
    let nodes = ["a", "b"].map(|name| {
        Node::start_from(name, url, 1, |setup| {
            setup.set("TIDINGS_STREAM__HEARTBEAT", "1h")
        })
    });
    for node in &nodes {
        node.wait_until_it_knows(2);
    }
    nodes
}

#[test]
fn a_revocation_on_one_node_ends_streams_and_refuses_tokens_on_every_node_also_later() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = without_heartbeats(&nats.url());
    let tenant = new_tenant();
    let ada = issued("ada", &tenant, "viewer", 10);
    let mut on_a = a.watch(&tenant, &ada);
    let mut on_b = b.watch(&tenant, &ada);
    let minted = b
        .exchange(&Request::post("/auth/sse-token").bearer(&ada))
        .expect(200);
    let minted = minted["token"].as_str().expect("a token").to_owned();
    let mut other = b.watch(&tenant, &issued("bob", &tenant, "viewer", 10));

    let answer = a.delete(&root(), "/users/ada/streams").expect(200);
    assert_counted(&answer, 2);
    assert_closed(&mut on_a, "revoked");
    assert_closed(&mut on_b, "revoked");
    let revoked_at = seconds(answer["revoked_at"].as_str().expect("a time"));
    a.assert_closed_soon_after(revoked_at, on_a.connection_id());
    b.assert_closed_soon_after(revoked_at, on_b.connection_id());
    let history = Request::get(&format!("/tenants/{tenant}/events")).bearer(&ada);
    for node in [&a, &b] {
        node.exchange(&history).problem(401);
        node.stream_of(&tenant).bearer(&ada).refused().problem(401);
    }
    b.stream_of(&tenant).token(&minted).refused().problem(401);
    // That all obey is told where none is late to say so.
    let all = [("a".to_owned(), true), ("b".to_owned(), true)];
    until("the word of all nodes", || {
        let answer = a.delete(&root(), "/users/eve/streams");
        answer.status == 200 && nodes_of(&answer.json()) == all
    });

    // Nodes that come later, and one that comes back, know it before they serve.
    let c = Node::start("c", &nats.url());
    c.exchange(&history).problem(401);
    b.stop();
    assert!(other.next_named("closing").json()["reason"] == "draining");
    b.start_again();
    b.exchange(&history).problem(401);
}

#[test]
fn streams_on_every_node_end_at_the_exp_of_their_access_token() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = without_heartbeats(&nats.url());
    let tenant = new_tenant();
    let exp = now() + 12;
    let access = sign(&AccessToken::new("ada", &tenant, "viewer").claim("exp", exp));
    let mut streams = [&a, &b].map(|node| node.watch(&tenant, &access));
    for (node, stream) in [&a, &b].into_iter().zip(&mut streams) {
        assert_closed(stream, "expired");
        node.assert_closed_soon_after(exp as f64, stream.connection_id());
    }
}

#[test]
fn a_purge_on_one_node_purges_every_node_and_the_stream_in_nats() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = Node::start_all(["a", "b"], &nats.url());
    let (tenant, other) = (new_tenant(), new_tenant());
    let publisher = issued("p", &tenant, "publisher", 10);
    let others = issued("p", &other, "publisher", 10);
    for node in [&a, &b] {
        node.exchange(&one(&other, &others, &status("r1", 1)))
            .expect(200);
        node.exchange(&one(&tenant, &publisher, &status("r1", 1)))
            .expect(200);
    }
    let mut on_a = a.watch(&tenant, &publisher);
    let mut on_b = b.watch(&tenant, &publisher);

    let answer = a
        .delete(&root(), &format!("/tenants/{tenant}?confirm={tenant}"))
        .expect(200);
    assert_counted(&answer, 2);
    assert_closed(&mut on_a, "deleted");
    assert_closed(&mut on_b, "deleted");
    for node in [&a, &b] {
        let history = Request::get(&format!("/tenants/{tenant}/events"));
        node.exchange(&history.bearer(&root())).problem(410);
        let publish = one(&tenant, &publisher, &status("r1", 2));
        node.exchange(&publish).problem(410);
        until("the end of the purge", || {
            let tenants = node
                .exchange(&Request::get("/tenants").bearer(&root()))
                .expect(200);
            let purged = tenants["tenants"].as_array().expect("a list");
            let purged = purged.iter().find(|one| one["id"] == tenant.as_str());
            purged.is_some_and(|one| one["purged"]["on_disk"] == false)
        });
    }
    until("the end of the tenant's messages", || messages(&nats) == 2);

    // A node that is there when NATS is not still knows it.
    b.stop();
    drop(nats);
    let mut alone = b;
    alone.start_again_unready();
    let refused = alone
        .exchange(&Request::get("/tenants").bearer(&root()))
        .problem(503);
    assert!(
        refused["detail"].as_str().expect("text").contains("NATS"),
        "{refused}"
    );
}

/// Deletes a stream over NATS's text protocol, as an operator's tool does.
fn delete_stream(nats: &NatsServer, stream: &str) {
    let mut socket = TcpStream::connect(nats.address).expect("a server");
    socket.set_read_timeout(Some(GUARD)).expect("a timeout");
    write!(
        socket,
        "CONNECT {{\"verbose\":false}}\r\nSUB inbox 1\r\nPUB $JS.API.STREAM.DELETE.{stream} inbox 0\r\n\r\n"
    )
    .expect("a request goes out");
    let mut lines = BufReader::new(socket)
        .lines()
        .map(|line| line.expect("within the guard"));
    lines
        .find(|line| line.starts_with("MSG "))
        .expect("an answer");
    let answer = lines.next().expect("an answer");
    assert!(answer.contains("\"success\":true"), "{answer}");
}

fn messages(nats: &NatsServer) -> u64 {
    let page = nats.page("/jsz?streams=true");
    let streams = page["account_details"][0]["stream_detail"].as_array();
    let own = streams
        .and_then(|streams| streams.iter().find(|stream| stream["name"] == "TIDINGS"))
        .expect("the stream");
    own["state"]["messages"].as_u64().expect("a number")
}

#[test]
fn a_group_changed_on_one_node_is_changed_on_all_and_closes_the_streams_that_it_bounds() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    assert_eq!(
        a.put_group(&tenant, "north side", &["r2", "r1", "r2"])
            .status,
        204
    );
    let devices = json!(["r1", "r2"]);
    assert_eq!(a.group(&tenant, "north side").as_ref(), Some(&devices));
    until("the group on b", || {
        b.group(&tenant, "north side").as_ref() == Some(&devices)
    });

    let bounded =
        AccessToken::new("technician", &tenant, "viewer").claim("device_group", "north side");
    let mut on_b = b.watch(&tenant, &sign(&bounded));
    let mut free = b.watch(&tenant, &issued("bob", &tenant, "viewer", 10));
    // The same devices again are no change.
    assert_eq!(
        a.put_group(&tenant, "north side", &["r1", "r2"]).status,
        204
    );
    assert_eq!(a.put_group(&tenant, "north side", &["r3"]).status, 204);
    assert_closed(&mut on_b, "view_changed");
    assert_eq!(b.group(&tenant, "north side"), Some(json!(["r3"])));
    let publisher = issued("p", &tenant, "publisher", 10);
    b.exchange(&one(&tenant, &publisher, &status("r3", 4)))
        .expect(200);
    assert_eq!(free.next_event().json()["n"], 4, "others stay open");

    // What is removed while a node is away is gone when it comes back.
    b.stop();
    let target = format!("/tenants/{tenant}/device-groups/north%20side");
    assert_eq!(a.delete(&root(), &target).status, 204);
    a.delete(&root(), &target).problem(404);
    assert_eq!(a.put_group(&tenant, "south", &[]).status, 204);
    b.start_again();
    assert_eq!(b.group(&tenant, "north side"), None);
    assert_eq!(b.group(&tenant, "south"), Some(json!([])));
}

/// Two nodes that change one group at the same time: whoever came last by NATS stands on both.
#[test]
fn changes_of_one_group_on_two_nodes_at_once_come_to_the_same_on_both() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    std::thread::scope(|scope| {
        for (node, prefix) in [(&a, "a"), (&b, "b"), (&a, "c"), (&b, "d")] {
            let tenant = &tenant;
            scope.spawn(move || {
                for number in 0..25 {
                    let device = format!("{prefix}{number}");
                    let answer = node.put_group(tenant, "shared", &[&device]);
                    assert_eq!(answer.status, 204, "{}", answer.text());
                }
            });
        }
    });
    // An answer of a node means that it obeys, so the later of two answers is the state of both soon.
    until("agreement", || {
        a.group(&tenant, "shared") == b.group(&tenant, "shared")
    });
    let group = a.group(&tenant, "shared").expect("a group");
    let last = group[0].as_str().expect("a device");
    assert!(last.ends_with("24"), "{group}");
}

#[test]
fn a_bucket_that_is_lost_gets_back_what_the_nodes_know() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let (tenant, purged) = (new_tenant(), new_tenant());
    assert_eq!(a.put_group(&tenant, "north", &["r1"]).status, 204);
    a.delete(&root(), &format!("/tenants/{purged}?confirm={purged}"))
        .expect(200);
    a.delete(&root(), "/users/ada/streams").expect(200);
    until("the group on b", || b.group(&tenant, "north").is_some());

    for bucket in ["KV_TIDINGS_REGISTRY", "KV_TIDINGS_REVOCATIONS"] {
        delete_stream(&nats, bucket);
    }
    // A node with an empty folder learns it from what the others have brought back.
    let history = Request::get(&format!("/tenants/{tenant}/events"));
    let ada = issued("ada", &tenant, "viewer", 10);
    until("what was lost", || {
        let c = Node::start("c", &nats.url());
        let target = format!("/tenants/{purged}/events");
        c.group(&tenant, "north").is_some()
            && c.exchange(&Request::get(&target).bearer(&root())).status == 410
            && c.exchange(&history.clone().bearer(&ada)).status == 401
    });
}

#[test]
fn the_first_node_brings_what_it_knew_when_it_stood_alone() {
    let nats = NatsServer::start(&NatsOptions::new());
    let (tenant, purged) = (new_tenant(), new_tenant());
    let mut a = Node::start("a", &nats.url());
    assert_eq!(a.put_group(&tenant, "north", &["r1"]).status, 204);
    a.delete(&root(), &format!("/tenants/{purged}?confirm={purged}"))
        .expect(200);
    a.stop();
    // Another JetStream, which knows nothing.
    let fresh = NatsServer::start(&NatsOptions::new());
    a.move_to(&fresh.url());
    let b = Node::start("b", &fresh.url());
    assert_eq!(b.group(&tenant, "north"), Some(json!(["r1"])));
    let target = format!("/tenants/{purged}/events");
    b.exchange(&Request::get(&target).bearer(&root()))
        .problem(410);
}

#[test]
fn one_token_revoked_by_its_id_on_one_node_is_refused_by_all() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let with_id = |id: &str| sign(&AccessToken::new("ada", &tenant, "viewer").claim("jti", id));
    let (lost, kept) = (with_id("t-1"), with_id("t-2"));
    let mut on_b = b.watch(&tenant, &lost);
    let mut stays = b.watch(&tenant, &kept);
    let answer = a.delete(&root(), "/tokens/t-1/streams").expect(200);
    assert_counted(&answer, 1);
    assert_closed(&mut on_b, "revoked");
    let history = |access: &str| Request::get(&format!("/tenants/{tenant}/events")).bearer(access);
    for node in [&a, &b] {
        node.exchange(&history(&lost)).problem(401);
        node.exchange(&history(&kept)).expect(200);
    }
    let publisher = issued("p", &tenant, "publisher", 10);
    a.exchange(&one(&tenant, &publisher, &status("r1", 1)))
        .expect(200);
    assert_eq!(stays.next_event().json()["n"], 1);
}

#[test]
fn an_api_key_is_good_on_every_node_and_revoked_on_all_of_them() {
    let nats = NatsServer::start(&NatsOptions::new());
    let [a, mut b] = Node::start_all(["a", "b"], &nats.url());
    let tenant = new_tenant();
    let body = json!({"name": "poller", "tenants": [tenant]}).to_string();
    let made = Request::post("/keys")
        .bearer(&root())
        .body("application/json", body);
    let issued = a.exchange(&made).expect(201);
    let id = issued["info"]["id"].as_str().expect("an id").to_owned();
    let key = issued["key"].as_str().expect("a key").to_owned();
    let publish =
        |node: &Node, key: &str| node.exchange(&one(&tenant, key, &status("r1", 1))).status;
    until("the key on b", || publish(&b, &key) == 200);
    // Each node knows of the other's use, unless that one is late to tell.
    until("the use on b", || {
        let listed = a.exchange(&Request::get("/keys").bearer(&root()));
        listed.expect(200)["keys"][0]["last_used_at"].is_string()
    });

    b.stop();
    let rotate = Request::post(&format!("/keys/{id}/rotate")).bearer(&root());
    let rotate = rotate.body("application/json", r#"{"overlap_seconds":0}"#);
    let rotated = a.exchange(&rotate).expect(200);
    let new = rotated["key"].as_str().expect("a key").to_owned();
    b.start_again();
    assert_eq!((publish(&b, &key), publish(&b, &new)), (401, 200));

    // A node that was away does not bring it back.
    b.stop();
    assert_eq!(a.delete(&root(), &format!("/keys/{id}")).status, 204);
    assert_eq!(publish(&a, &new), 401);
    b.start_again();
    assert_eq!(publish(&b, &new), 401);
    assert_eq!(publish(&a, &new), 401);
    delete_stream(&nats, "KV_TIDINGS_REGISTRY");
    until("the key in the bucket that is made anew", || {
        let listed = b.exchange(&Request::get("/keys").bearer(&root()));
        listed.status == 200 && listed.json()["keys"][0]["revoked_at"].is_string()
    });
    assert_eq!((publish(&a, &new), publish(&b, &new)), (401, 401));
}
