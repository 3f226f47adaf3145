//! Nodes, and how they are met: over HTTP like any server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::cluster::{Cluster, ClusterOptions};
use tidings::config::{self, Config};
use tidings::nats::{Nats, NatsOptions};
use tidings::server::{Listeners, Server};
use tidings_tests::access::now;
use tidings_tests::http::{encode, exchange};
use tidings_tests::{AccessToken, Answer, GUARD, Request, Stream, Watch};
use tokio::runtime::Runtime;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A node that runs, or did: its folder outlives it.
pub(crate) struct Node {
    name: String,
    url: String,
    replicas: usize,
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    server: Server,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// A node that does not run yet, over the NATS servers at `url`.
    pub(crate) fn new(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            replicas: 1,
            folder: tempfile::tempdir().expect("a temporary folder"),
            running: None,
        }
    }

    /// A node that runs and serves.
    pub(crate) fn start(name: &str, url: &str) -> Self {
        let mut node = Self::new(name, url);
        node.launch();
        node.wait_until_ready();
        node
    }

    /// A node over three servers that runs and serves; what it shares is on each of them.
    pub(crate) fn start_replicated(name: &str, url: &str) -> Self {
        let mut node = Self::new(name, url);
        node.replicas = 3;
        node.launch();
        node.wait_until_ready();
        node
    }

    /// The same node and folder, over other NATS servers.
    pub(crate) fn moved_to(self, url: &str) -> Self {
        assert!(self.running.is_none());
        Self {
            url: url.to_owned(),
            ..self
        }
    }

    /// Several that run, serve, and know each other.
    pub(crate) fn start_all<const N: usize>(names: [&str; N], url: &str) -> [Self; N] {
        let nodes = names.map(|name| {
            let mut node = Self::new(name, url);
            node.launch();
            node
        });
        for node in &nodes {
            node.wait_until_ready();
            node.wait_until_it_knows(N);
        }
        nodes
    }

    /// Starts it, with what is in its folder.
    pub(crate) fn launch(&mut self) {
        assert!(self.running.is_none());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let config = self.config();
        let server = runtime.block_on(async {
            let options = NatsOptions::from_config(&config.nats, &self.name).expect("no secrets");
            let nats = Nats::connect(options).await.expect("good addresses");
            let options = ClusterOptions::from_config(&config);
            let cluster = Arc::new(Cluster::new(nats.client().clone(), options));
            let listeners = Listeners::bind(&config).expect("free ports");
            let server = Server::start_among(config, listeners, Some(cluster));
            server.expect("a server")
        });
        self.running = Some(Running {
            address: server.address(),
            admin: server.admin_address(),
            runtime,
            server,
        });
    }

    fn config(&self) -> Config {
        let path = self.folder().display().to_string();
        let replicas = self.replicas.to_string();
        let flags = [
            ("listen", "127.0.0.1:0"),
            ("admin_listen", "127.0.0.1:0"),
            ("node.name", &self.name),
            ("nats.url", &self.url),
            ("nats.replicas", &replicas),
            ("log.path", &path),
            ("auth.jwt.secret", SECRET),
            ("shutdown.drain", "2s"),
        ];
        let sources = config::Sources {
            flags: flags
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..config::Sources::default()
        };
        config::load(&sources).expect("a good configuration").config
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a node that runs")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running().address
    }

    /// SIGTERM, as it were.
    pub(crate) fn stop(&mut self) {
        let running = self.running.take().expect("a node that runs");
        running.runtime.block_on(running.server.stop());
    }

    /// Ends it without a word to anybody. What threads of its own it has goes on until they notice.
    pub(crate) fn die(&mut self) {
        let running = self.running.take().expect("a node that runs");
        running.runtime.shutdown_background();
    }

    pub(crate) fn exchange(&self, request: &Request) -> Answer {
        exchange(self.address(), request)
    }

    pub(crate) fn readiness(&self) -> Answer {
        exchange(self.running().admin, &Request::get("/readyz"))
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
        Watch::at(self.address(), &format!("/tenants/{tenant}/events/stream"))
    }

    /// The listing of open streams, all pages of it.
    pub(crate) fn streams(&self, access: &str, limit: usize) -> Vec<Value> {
        let (mut streams, mut after) = (Vec::new(), String::new());
        loop {
            let target = format!("/streams?limit={limit}{after}");
            let page = self
                .exchange(&Request::get(&target).bearer(access))
                .expect(200);
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

pub(crate) fn nodes_of(page: &Value) -> Vec<(String, bool)> {
    let nodes = page["nodes"].as_array().expect("nodes");
    let one = |node: &Value| {
        let name = node["node"].as_str().expect("a name").to_owned();
        (name, node["answered"].as_bool().expect("yes or no"))
    };
    nodes.iter().map(one).collect()
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
    let closing = stream.next_event();
    assert_eq!(closing.name, "closing", "{closing:?}");
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
