//! Clients that nobody here wrote, each through two resumes: curl, Python's httpx-sse, npm's
//! eventsource, the Rust crate eventsource-client, and the `EventSource` of a real Chromium and a
//! real Firefox. Each follows a stream through a gate that the test can shut: the connection is
//! cut, the server is killed and started again, more is published, the gate opens, and the client
//! must show exactly the rest.
//!
//! And one that nobody here wrote on the other side: `nats-py`, which publishes to the streams of the layout `fleet`.
//!
//! `scripts/test interop` puts in place what they need.

mod browser;
mod follower;
mod gate;

use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt;
use tidings_tests::publish::status;
use tidings_tests::{NatsClient, NatsOptions, NatsServer, Server, Setup, new_tenant};

use browser::Page;
use follower::{Follower, Shown};
use gate::Gate;

/// Where the clients' own files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

/// A server, a tenant, and a gate in front of both.
struct Scene {
    server: Server,
    tenant: String,
    gate: Gate,
}

impl Scene {
    fn new(setup: Setup) -> Self {
        // The clients come back as soon as they are told they may.
        let server = setup.set("TIDINGS_STREAM__RETRY", "100ms").start();
        Self {
            gate: Gate::before(server.address),
            tenant: new_tenant(),
            server,
        }
    }

    fn stream_url(&self) -> String {
        format!(
            "http://{}/tenants/{}/events/stream",
            self.gate.address, self.tenant
        )
    }

    fn mint_url(&self) -> String {
        format!("http://{}/auth/sse-token", self.gate.address)
    }

    fn access(&self) -> String {
        self.server.viewer(&self.tenant)
    }

    /// A client's program, told by its environment where to go.
    fn command(&self, program: &Path, script: &str) -> Command {
        assert!(
            program.exists(),
            "{} is missing; `scripts/test interop` installs it",
            program.display()
        );
        let mut command = Command::new(program);
        command
            .arg(folder().join(script))
            .env("STREAM_URL", self.stream_url())
            .env("MINT_URL", self.mint_url())
            .env("ACCESS_TOKEN", self.access());
        command
    }

    /// Publishes events with these numbers; gives what a client must show of them.
    fn publish(&self, numbers: std::ops::Range<u64>) -> Vec<Shown> {
        numbers
            .map(|number| {
                let event = status("r1", number);
                let receipt = self.server.publish(&self.tenant, &event);
                let data = event["data"].to_string();
                let own = data.strip_prefix('{').expect("an object");
                Shown {
                    id: receipt.last,
                    event: "device_status".to_owned(),
                    data: format!(r#"{{"tenant_id":"{}","device_id":"r1",{own}"#, self.tenant),
                }
            })
            .collect()
    }

    /// The story that every client goes through.
    fn play(&mut self, follower: &Follower) {
        assert_eq!(
            follower.next_of_any().event,
            "cursor",
            "the first that a stream says"
        );
        let published = self.publish(1..4);
        assert_eq!(follower.take(3), published);

        // The connection breaks, and nothing else.
        self.gate.shut();
        let missed = self.publish(4..7);
        self.gate.open();
        assert_eq!(follower.take(3), missed, "after the connection broke");
        let published = self.publish(7..8);
        assert_eq!(follower.take(1), published);

        // The server is killed, and more is published before the client is back.
        self.gate.shut();
        self.server.kill();
        self.server.start_again();
        let missed = self.publish(8..11);
        self.gate.open();
        assert_eq!(follower.take(3), missed, "after the server was killed");

        // A clean stop: the client is told, and comes back.
        assert!(self.server.stop().success());
        assert_eq!(follower.next_but_cursors().event, "closing");
        self.server.start_again();
        let rest = self.publish(11..14);
        assert_eq!(follower.take(3), rest, "after a clean stop");
    }
}

#[test]
fn curl_resumes_exactly() {
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let mut scene = Scene::new(Setup::new());
        let follower = follower::curl(&scene.stream_url(), &scene.access(), version);
        scene.play(&follower);
    }
}

#[test]
fn python_httpx_sse_resumes_exactly() {
    let mut scene = Scene::new(Setup::new());
    let python = folder().join(".venv/bin/python");
    let follower = Follower::run(scene.command(&python, "httpx_follow.py"));
    scene.play(&follower);
}

#[test]
fn npm_eventsource_resumes_exactly() {
    let mut scene = Scene::new(Setup::new());
    let node = folder().join("node_modules/.bin/node");
    let follower = Follower::run(scene.command(&node, "eventsource_follow.js"));
    scene.play(&follower);
}

#[test]
fn rust_eventsource_client_resumes_exactly() {
    use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
    let mut scene = Scene::new(Setup::new());
    let client = ClientBuilder::for_url(&scene.stream_url())
        .and_then(|client| client.header("authorization", &format!("Bearer {}", scene.access())))
        .expect("a client")
        .reconnect(
            ReconnectOptions::reconnect(true)
                .delay(std::time::Duration::from_millis(100))
                .backoff_factor(1)
                .build(),
        );
    let (show, follower) = Follower::fed();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let transport = launchdarkly_sdk_transport::HyperTransport::new().expect("a transport");
            let mut events = client.build_with_transport(transport).stream();
            let mut last = String::new();
            while let Some(event) = events.next().await {
                // An error is followed by an attempt to come back.
                let Ok(SSE::Event(event)) = event else {
                    continue;
                };
                last = event.id.unwrap_or(last);
                let shown = Shown {
                    id: last.clone(),
                    event: event.event_type,
                    data: event.data,
                };
                if show.send(shown).is_err() {
                    return;
                }
            }
        });
    });
    scene.play(&follower);
}

#[test]
fn what_python_nats_py_publishes_is_shown() {
    use std::io::Write as _;
    let nats = NatsServer::start(&NatsOptions::new());
    let mut operator = NatsClient::connect(nats.address);
    operator.create(("DEVICE_EVENTS", &["device.>", "config.>"]));
    operator.create(("ALERT_EVENTS", &["alert.>"]));
    let server = Setup::new()
        .set("TIDINGS_LOG__KIND", "jetstream")
        .set("TIDINGS_LOG__LAYOUT", "fleet")
        .set("TIDINGS_NATS__URL", &nats.url())
        .start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let mut stream = server.watch(&tenant).open();
    let mut python = Command::new(folder().join(".venv/bin/python"))
        .arg(folder().join("nats_publish.py"))
        .env("NATS_URL", nats.url())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("`scripts/test interop` installs it");
    let mut input = python.stdin.take().expect("piped");
    for (tenant, number) in [(&tenant, 1), (&other, 100), (&tenant, 2)] {
        let payload = format!(r#"{{"tenant_id": "{tenant}", "device_id": "r1", "n": {number}}}"#);
        writeln!(input, "device.status.r1 {payload}").expect("it reads");
    }
    let payload = format!(r#"{{"tenant_id": "{tenant}", "alert_event_id": "ä1", "n": 3}}"#);
    writeln!(input, "alert.fired.{tenant} {payload}").expect("it reads");
    drop(input);
    assert!(python.wait().expect("a child of ours").success());
    let shown = stream.events(3);
    // Two sources are read by two readers, and no order holds between them.
    let numbers_of = |name: &str| -> Vec<_> {
        shown
            .iter()
            .filter(|event| event.name == name)
            .map(|event| event.json()["n"].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(numbers_of("device_status"), [1, 2]);
    assert_eq!(numbers_of("alert_fired"), [3]);
}

/// A browser's own `EventSource`, in a page of another origin that the server allows.
fn in_a_browser(start: impl FnOnce(&str, &Path) -> Command) {
    let page = Page::bind();
    let origins = format!("[\"{}\"]", page.origin());
    let mut scene = Scene::new(Setup::new().set("TIDINGS_CORS__ORIGINS", &origins));
    let profile = tempfile::tempdir().expect("a folder for the browser's profile");
    let (show, mut follower) = Follower::fed();
    page.serve(
        &scene.stream_url(),
        &scene.mint_url(),
        &scene.access(),
        show,
    );
    follower.runs(start(&format!("{}/", page.origin()), profile.path()));
    scene.play(&follower);
    drop(follower);
}

#[test]
fn chromiums_eventsource_resumes_exactly() {
    in_a_browser(browser::chromium);
}

#[test]
fn firefoxs_eventsource_resumes_exactly() {
    in_a_browser(browser::firefox);
}
