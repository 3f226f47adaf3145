//! The compose file without an engine: read by docker-compose, and its processes started with its commands and variables,
//! on ports of the loopback instead of names of a network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::{exchange, try_exchange};
use tidings_tests::publish::{self, status};
use tidings_tests::server::{any_address, binary};
use tidings_tests::{AccessToken, Request, Watch, new_tenant};

use crate::{output_of, repository};

const FILE: &str = "deploy/compose/compose.yaml";
const SECRET: &str = "of-this-test-and-long-enough-for-hs256";

/// The file as docker-compose reads it, with what is merged and filled in.
fn read() -> Value {
    let file = repository(FILE);
    output_of(
        Command::new("docker-compose")
            .arg("--file")
            .arg(&file)
            .args(["config", "--quiet"])
            .env("TIDINGS_SECRET", SECRET),
    );
    // What it prints is YAML again; Python reads both.
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let json = output_of(Command::new("python3").args(["-c", program]).arg(&file));
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn without_a_secret_nothing_is_started() {
    let done = Command::new("docker-compose")
        .arg("--file")
        .arg(repository(FILE))
        .args(["config", "--quiet"])
        .env_remove("TIDINGS_SECRET")
        .output()
        .expect("docker-compose runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        !done.status.success() && said.contains("must be the secret"),
        "{said}"
    );
}

/// Processes that do not outlive the test.
#[derive(Default)]
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Processes {
    fn start(&mut self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn();
        self.0
            .push(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }
}

/// Each `name:port` of the network, as an address of the loopback.
#[derive(Default)]
struct Network(BTreeMap<String, SocketAddr>);

impl Network {
    fn address(&mut self, name: &str) -> SocketAddr {
        *self.0.entry(name.to_owned()).or_insert_with(any_address)
    }

    fn replace(&self, text: &str) -> String {
        let names = self.0.iter();
        names.fold(text.to_owned(), |text, (name, address)| {
            text.replace(name, &address.to_string())
        })
    }
}

fn words(value: &Value) -> Vec<String> {
    let list = value.as_array().expect("a list of words");
    list.iter()
        .map(|word| word.as_str().expect("a word").to_owned())
        .collect()
}

#[test]
fn two_nodes_three_brokers_and_a_redis_serve_any_client() {
    let services = read()["services"].take();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut network = Network::default();
    let brokers = ["nats-1", "nats-2", "nats-3"];
    for name in brokers {
        network.address(&format!("{name}:4222"));
        network.address(&format!("{name}:6222"));
    }
    let redis = network.address("redis:6379");
    let mut processes = Processes::default();
    for name in brokers {
        let store = folder.path().join(name).display().to_string();
        let (own, routed) = (
            network.address(&format!("{name}:4222")),
            network.address(&format!("{name}:6222")),
        );
        let mut command = Command::new("nats-server");
        for word in words(&services[name]["command"]) {
            let word = word
                .replace("0.0.0.0:6222", &routed.to_string())
                .replace("/data", &store);
            command.arg(network.replace(&word));
        }
        command
            .args(["--addr", "127.0.0.1", "--port", &own.port().to_string()])
            .stderr(Stdio::null());
        processes.start(command);
    }
    let line = words(&services["redis"]["command"]);
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .args(["--bind", "127.0.0.1", "--port", &redis.port().to_string()]);
    command.current_dir(folder.path());
    processes.start(command);

    let nodes = ["node-1", "node-2"].map(|name| {
        let (listen, admin) = (any_address(), any_address());
        let mut command = Command::new(binary());
        command.arg("serve");
        let given = services[name]["environment"]
            .as_object()
            .expect("variables");
        for (variable, value) in given {
            let value = value.as_str().expect("a text");
            let value = if value.starts_with("${TIDINGS_SECRET") {
                SECRET
            } else {
                value
            };
            command.env(variable, network.replace(value));
        }
        command
            .env_remove("TIDINGS_BIN")
            .env_remove("TIDINGS_STATIC_BIN")
            .env_remove("TIDINGS_DEB")
            .env("TIDINGS_LISTEN", listen.to_string())
            .env("TIDINGS_ADMIN_LISTEN", admin.to_string())
            .env("TIDINGS_LOG__PATH", folder.path().join(name))
            .stderr(Stdio::null());
        processes.start(command);
        (listen, admin)
    });
    for (_, admin) in nodes {
        wait_for("a node that is ready", || {
            try_exchange(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200)
        });
    }

    // Asked for at one node, opened at the other, published at the first.
    let tenant = new_tenant();
    let token = |role: &str| AccessToken::new("one", &tenant, role).sign(SECRET);
    let [(one, _), (other, _)] = nodes;
    let answer = exchange(
        one,
        &Request::post("/auth/sse-token").bearer(&token("viewer")),
    );
    let stream_token = answer.expect(200)["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let path = format!("/tenants/{tenant}/events/stream");
    let mut stream = Watch::at(other, &path).token(&stream_token).open();
    let request = publish::one(&tenant, &token("publisher"), &status("r1", 1));
    let receipt = publish::must(one, &request);
    assert_eq!(stream.next_event().cursor(), receipt.last);
}
