//! Nodes, and how they are met: over HTTP like any server.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::access::now;
use tidings_tests::http::encode;
use tidings_tests::{AccessToken, Answer, GUARD, Request, Server, Setup, Stream, Watch};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A node: a server of its own, over a log in JetStream.
pub(crate) struct Node {
    name: String,
    server: Server,
}

impl Deref for Node {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Node {
    /// A node that serves, over the NATS servers at `url`, separated by commas.
    pub(crate) fn start(name: &str, url: &str) -> Self {
        Self::start_with(name, url, 1)
    }

    /// The same over three servers; what it shares is on each of them.
    pub(crate) fn start_replicated(name: &str, url: &str) -> Self {
        Self::start_with(name, url, 3)
    }

    /// The same as this user of NATS.
    pub(crate) fn start_as(name: &str, url: &str, (user, password): (&str, &str)) -> Self {
        Self::start_from(name, url, 1, |setup| {
            setup
                .set("TIDINGS_NATS__USER", user)
                .set("TIDINGS_NATS__PASSWORD", password)
        })
    }

    fn start_with(name: &str, url: &str, replicas: usize) -> Self {
        Self::start_from(name, url, replicas, |setup| setup)
    }

    /// A node over a log with so many replicas, with settings of its own.
    pub(crate) fn start_from(
        name: &str,
        url: &str,
        replicas: usize,
        settings: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let setup = Setup::new()
            .set("TIDINGS_NODE__NAME", name)
            .set("TIDINGS_AUTH__JWT__SECRET", SECRET)
            .set("TIDINGS_LOG__KIND", "jetstream")
            .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
            .set("TIDINGS_NATS__URL", &urls(url))
            .set("TIDINGS_NATS__REPLICAS", &replicas.to_string());
        Self {
            name: name.to_owned(),
            server: settings(setup).start(),
        }
    }

    /// Several that serve and know each other.
    pub(crate) fn start_all<const N: usize>(names: [&str; N], url: &str) -> [Self; N] {
        let nodes = names.map(|name| Self::start(name, url));
        for node in &nodes {
            node.wait_until_it_knows(N);
        }
        nodes
    }

    /// Starts it again over other NATS servers.
    pub(crate) fn move_to(&mut self, url: &str) {
        self.server
            .start_again_with("TIDINGS_NATS__URL", &urls(url));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn readiness(&self) -> Answer {
        self.ask_admin(&Request::get("/readyz"))
    }

    pub(crate) fn wait_until_ready(&self) {
        until(&format!("readiness of {}", self.name), || {
            self.readiness().status == 200
        });
    }

    /// Waits until this node asks so many nodes, itself among them, and all answer.
    pub(crate) fn wait_until_it_knows(&self, count: usize) {
        until(&format!("{count} nodes for {}", self.name), || {
            let nodes = self.nodes();
            nodes.len() == count && nodes.iter().all(|(_, answered)| *answered)
        });
    }

    /// The nodes that a listing names, and whether each has answered.
    pub(crate) fn nodes(&self) -> Vec<(String, bool)> {
        let page = self
            .exchange(&Request::get("/streams").bearer(&root()))
            .expect(200);
        nodes_of(&page)
    }

    pub(crate) fn delete(&self, access: &str, target: &str) -> Answer {
        self.exchange(&Request::new("DELETE", target).bearer(access))
    }

    /// Ends something on whichever node it is; gives the answer, or none where it is gone and nobody says by what: of a
    /// node that was late it is not known what it did.
    pub(crate) fn end(&self, access: &str, target: &str) -> Option<Answer> {
        let (mut answered, mut was_late) = (None, false);
        until(&format!("the end of {target}"), || {
            let answer = self.delete(access, target);
            match answer.status {
                503 => {
                    was_late = true;
                    return false;
                }
                404 if was_late => {}
                _ => answered = Some(answer),
            }
            true
        });
        answered
    }

    /// Asserts that no node has this for the caller to end, once none is late to say so.
    pub(crate) fn finds_nothing(&self, access: &str, target: &str) {
        until(&format!("what all nodes say of {target}"), || {
            let answer = self.delete(access, target);
            if answer.status == 503 {
                return false;
            }
            answer.problem(404);
            true
        });
    }

    pub(crate) fn put_group(&self, tenant: &str, name: &str, devices: &[&str]) -> Answer {
        let target = format!("/tenants/{tenant}/device-groups/{}", encode(name));
        let body = json!({ "devices": devices }).to_string();
        let request = Request::new("PUT", &target).bearer(&root());
        self.exchange(&request.body("application/json", body))
    }

    /// A group's devices; `None` where there is no such group.
    pub(crate) fn group(&self, tenant: &str, name: &str) -> Option<Value> {
        let target = format!("/tenants/{tenant}/device-groups/{}", encode(name));
        let answer = self.exchange(&Request::get(&target).bearer(&root()));
        (answer.status == 200).then(|| answer.json()["devices"].clone())
    }

    /// Opens a stream of this tenant with an access token.
    pub(crate) fn watch(&self, tenant: &str, access: &str) -> Stream {
        self.stream_of(tenant).bearer(access).open()
    }

    pub(crate) fn stream_of(&self, tenant: &str) -> Watch {
        Watch::at(self.address, &format!("/tenants/{tenant}/events/stream"))
    }

    /// A page of a listing that all nodes have answered: one that is late is left out.
    pub(crate) fn listing(&self, access: &str, target: &str) -> Value {
        let request = Request::get(target).bearer(access);
        let mut page = Value::Null;
        until(&format!("what all nodes say to {target}"), || {
            page = self.exchange(&request).expect(200);
            have_all_answered(&page)
        });
        page
    }

    /// The listing of open streams, all pages of it, once all nodes answer.
    pub(crate) fn streams(&self, access: &str, limit: usize) -> Vec<Value> {
        let (mut streams, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.listing(access, &format!("/streams?limit={limit}{after}"));
            let listed = page["streams"].as_array().expect("a list");
            assert!(listed.len() <= limit, "{page}");
            streams.extend(listed.iter().cloned());
            let Some(next) = page["next"].as_str() else {
                return streams;
            };
            after = format!("&after={next}");
        }
    }
}

/// The addresses as a list of the configuration.
fn urls(url: &str) -> String {
    let urls: Vec<&str> = url.split(',').collect();
    json!(urls).to_string()
}

pub(crate) fn nodes_of(page: &Value) -> Vec<(String, bool)> {
    let nodes = page["nodes"].as_array().expect("nodes");
    let one = |node: &Value| {
        let name = node["node"].as_str().expect("a name").to_owned();
        (name, node["answered"].as_bool().expect("yes or no"))
    };
    nodes.iter().map(one).collect()
}

fn have_all_answered(page: &Value) -> bool {
    nodes_of(page).iter().all(|(_, answered)| *answered)
}

/// Asserts how many streams a call has closed; those of a node that was late to answer are not counted.
pub(crate) fn assert_counted(answer: &Value, closed: u64) {
    let counted = answer["streams_closed"].as_u64().expect("a number");
    let is_so = counted == closed || counted < closed && !have_all_answered(answer);
    assert!(is_so, "not {closed}: {answer}");
}

/// An access token of a super admin, issued after whatever is revoked within half a minute.
pub(crate) fn root() -> String {
    AccessToken::super_admin("root")
        .claim("iat", now() + 30)
        .sign(SECRET)
}

/// An access token of somebody of a tenant, issued so many seconds ago.
pub(crate) fn issued(user: &str, tenant: &str, role: &str, ago: u64) -> String {
    AccessToken::new(user, tenant, role)
        .claim("iat", now() - ago)
        .sign(SECRET)
}

pub(crate) fn sign(token: &AccessToken) -> String {
    token.sign(SECRET)
}

pub(crate) fn assert_closed(stream: &mut Stream, reason: &str) {
    let closing = stream.next_named("closing");
    assert_eq!(closing.json()["reason"], reason);
    assert!(stream.next_but_cursors().is_none());
}

/// Asks until `is_so`; for what only asking tells.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}
