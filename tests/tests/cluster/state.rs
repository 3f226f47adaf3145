//! The state in its bucket: a node that begins with an empty folder has the subjects of which the stream tells nothing
//! any more, whichever node has written them.

use serde_json::{Value, json};
use tidings_tests::publish::{many, must};
use tidings_tests::{NatsClient, NatsOptions, NatsServer, Request, new_tenant};

use crate::support::{Node, issued, root, until};

const BUCKET: &str = "KV_TIDINGS_STATE";

fn alert(id: &str, what: &str) -> Value {
    json!({"type": what, "device_id": "r1", "data": {"alert_event_id": id, "status": "open"}})
}

fn status(device: &str, status: &str) -> Value {
    json!({"type": "device_status", "device_id": device, "data": {"status": status}})
}

/// Publishes on a node; the cursor of the last.
fn publish(node: &Node, tenant: &str, events: &[Value]) -> String {
    let access = issued("poller", tenant, "publisher", 0);
    must(node.address, &many(tenant, &access, events)).last
}

/// The subjects of a tenant as a node has them.
pub(crate) fn subjects(node: &Node, tenant: &str) -> Value {
    let access = issued("ada", tenant, "viewer", 0);
    let request = Request::get(&format!("/tenants/{tenant}/state")).bearer(&access);
    node.exchange(&request).expect(200)["subjects"].clone()
}

/// Waits until the bucket has what was published up to a cursor.
pub(crate) fn wait_for_the_bucket(client: &mut NatsClient, cursor: &str) {
    use base64::Engine as _;
    let asked = json!({"last_by_subj": "$KV.TIDINGS_STATE.cursor"}).to_string();
    until(&format!("{cursor} in the bucket"), || {
        let answer = client.try_ask(&format!("$JS.API.STREAM.MSG.GET.{BUCKET}"), &asked);
        let written = answer["message"]["data"].as_str().unwrap_or_default();
        let written = base64::engine::general_purpose::STANDARD.decode(written);
        written.expect("base64") == cursor.as_bytes()
    });
}

fn count(client: &mut NatsClient, stream: &str) -> u64 {
    let info = client.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "");
    info["state"]["messages"].as_u64().expect("a number")
}

fn forget(client: &mut NatsClient) {
    client.ask("$JS.API.STREAM.PURGE.TIDINGS", "");
    assert_eq!(count(client, "TIDINGS"), 0);
}

#[test]
fn a_node_with_an_empty_folder_has_the_subjects_that_the_stream_does_not_tell_any_more() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    let mut a = Node::start("a", &nats.url());
    let (tenant, other) = (new_tenant(), new_tenant());
    publish(&a, &other, &[status("r9", "online")]);
    let events = [
        status("r1", "online"),
        alert("a1", "alert_fired"),
        alert("a2", "alert_fired"),
        status("r1", "offline"),
        alert("a1", "alert_resolved"),
        status("r2", "online"),
    ];
    let last = publish(&a, &tenant, &events);
    wait_for_the_bucket(&mut client, &last);
    // Each living subject once, and the cursor: of what has ended nothing is left.
    assert_eq!(count(&mut client, BUCKET), 5);
    forget(&mut client);

    let b = Node::start("b", &nats.url());
    assert_eq!(subjects(&b, &tenant).as_array().expect("a list").len(), 3);
    assert_eq!(subjects(&b, &tenant), subjects(&a, &tenant));
    assert_eq!(subjects(&b, &other), subjects(&a, &other));
    // It goes on from there like any other.
    let viewer = issued("ada", &tenant, "viewer", 0);
    let mut stream = b
        .stream_of(&tenant)
        .bearer(&viewer)
        .query("snapshot", "true")
        .open();
    let shown: Vec<_> = (0..3)
        .map(|_| stream.next_named("snapshot").json()["type"].clone())
        .collect();
    assert_eq!(shown, ["alert_fired", "device_status", "device_status"]);
    publish(
        &b,
        &tenant,
        &[alert("a2", "alert_resolved"), status("r3", "online")],
    );
    let resolved = stream.next_named("alert_resolved");
    assert_eq!(resolved.json()["alert_event_id"], "a2");

    // The one that has written is gone: another goes on, also with what it was told by the bucket itself.
    a.kill();
    let last = publish(&b, &tenant, &[status("r2", "offline")]);
    wait_for_the_bucket(&mut client, &last);
    forget(&mut client);
    let c = Node::start("c", &nats.url());
    assert_eq!(subjects(&c, &tenant), subjects(&b, &tenant));
    let states: Vec<_> = subjects(&c, &tenant)
        .as_array()
        .expect("a list")
        .iter()
        .map(|subject| subject["data"]["status"].clone())
        .collect();
    assert_eq!(states, ["offline", "offline", "online"]);
    assert_eq!(subjects(&c, &other), subjects(&b, &other));
}

#[test]
fn a_purged_tenant_leaves_the_bucket_and_is_in_no_state_of_a_node_that_begins() {
    let nats = NatsServer::start(&NatsOptions::new());
    let mut client = NatsClient::connect(nats.address);
    let a = Node::start("a", &nats.url());
    let (kept, purged) = (new_tenant(), new_tenant());
    publish(
        &a,
        &purged,
        &[status("r1", "online"), status("r2", "online")],
    );
    let last = publish(&a, &kept, &[status("r1", "online")]);
    wait_for_the_bucket(&mut client, &last);
    assert_eq!(count(&mut client, BUCKET), 4);
    a.delete(&root(), &format!("/tenants/{purged}?confirm={purged}"))
        .expect(200);
    until("the tenant's end in the bucket", || {
        count(&mut client, BUCKET) == 2
    });
    forget(&mut client);
    let b = Node::start("b", &nats.url());
    assert_eq!(subjects(&b, &kept), subjects(&a, &kept));
    let gone = Request::get(&format!("/tenants/{purged}/state")).bearer(&root());
    assert_eq!(b.exchange(&gone).status, 410);
}
