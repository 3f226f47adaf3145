//! The compose file, done as compose would: its networks, volumes, secrets, commands and variables, with the real HAProxy,
//! NATS and Redis of this machine in place of their images.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::{exchange, try_exchange};
use tidings_tests::publish::{self, Receipt, status};
use tidings_tests::{AccessToken, Certificates, Request, Stream, Tunnel, Watch, Way, new_tenant};

use crate::container::{assert_without_rights, at, secret};
use crate::engine::{Container, Engine, Plan};
use crate::image::Image;
use crate::{made, repository, text_of};

const FOLDER: &str = "deploy/compose";
const SECRET: &str = "of-this-test-and-long-enough-for-hs256";

/// All that may stand at a service: what is not known here would not be tested.
const KNOWN: &str = "image build command user environment volumes secrets networks healthcheck depends_on ports sysctls \
                     tmpfs ulimits restart read_only cap_drop security_opt stop_grace_period stop_signal";

fn words(value: &Value) -> Vec<String> {
    let text = |word: &Value| word.as_str().expect("a text").to_owned();
    value
        .as_array()
        .map(|list| list.iter().map(text).collect())
        .unwrap_or_default()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let text = |(name, value): (&String, &Value)| {
        (name.clone(), value.as_str().expect("a text").to_owned())
    };
    value
        .as_object()
        .map(|texts| texts.iter().map(text).collect())
        .unwrap_or_default()
}

/// The services that must be there first, and whether they must be well.
fn needed(service: &Value) -> BTreeMap<String, bool> {
    let plain = words(&service["depends_on"])
        .into_iter()
        .map(|name| (name, false));
    let asked = service["depends_on"].as_object().into_iter().flatten();
    let is_asked = |how: &Value| how["condition"] == "service_healthy";
    plain
        .chain(asked.map(|(name, how)| (name.clone(), is_asked(how))))
        .collect()
}

/// What `docker compose` knows of a project.
struct Project {
    file: Value,
    image: Image,
    engine: Engine,
    folder: TempDir,
    certificates: Certificates,
    running: BTreeMap<String, Container>,
}

impl Project {
    fn new() -> Self {
        let text =
            std::fs::read_to_string(made("TIDINGS_COMPOSE")).expect("the compose file as JSON");
        let file: Value = serde_json::from_str(&text).expect("JSON");
        let networks = file["networks"].as_object().expect("networks").iter();
        let networks: Vec<(&str, [u8; 3])> = networks
            .map(|(name, network)| (name.as_str(), parts_of(network)))
            .collect();
        let (engine, image) = (Engine::new(&networks), Image::build());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let volumes = folder.path().join("volumes");
        std::fs::create_dir(&volumes).expect("a folder of ours");
        Self {
            file,
            image,
            engine,
            folder,
            certificates: Certificates::new(),
            running: BTreeMap::new(),
        }
    }

    fn service(&self, name: &str) -> Value {
        self.file["services"][name].clone()
    }

    fn plan(&self, name: &str) -> Plan {
        let service = self.service(name);
        let networks = words(&service["networks"]);
        let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
        let is_ours = service["image"] == "tidings";
        let mut plan = if is_ours {
            self.image.plan(name, &networks)
        } else {
            Plan::of_this_machine(name, &networks, &[])
        };
        if !service["command"].is_null() {
            plan.command = words(&service["command"]);
        }
        if let Some(user) = service["user"].as_str() {
            user.clone_into(&mut plan.user);
        }
        plan.environment.extend(texts(&service["environment"]));
        if let Some(descriptors) = service["ulimits"]["nofile"].as_u64() {
            plan.descriptors = plan.descriptors.min(descriptors);
        }
        plan.sysctls = texts(&service["sysctls"]);
        let test = words(&service["healthcheck"]["test"]);
        plan.health = test
            .strip_prefix(&["CMD".to_owned()])
            .expect("a command without a shell")
            .to_vec();
        plan.mounts.extend(
            words(&service["tmpfs"])
                .iter()
                .map(|path| format!("tmpfs:{path}")),
        );
        plan.mounts.extend(
            words(&service["volumes"])
                .iter()
                .map(|volume| self.volume(volume, is_ours)),
        );
        for name in words(&service["secrets"]) {
            plan.mounts.push(format!(
                "{}:/run/secrets/{name}:ro",
                self.secret(&name, &plan.user)
            ));
        }
        if service["stop_signal"] != Value::Null {
            assert_eq!(service["stop_signal"], "SIGTERM");
        }
        plan.stop = Signal::TERM;
        plan
    }

    /// A volume or a file of the repository, as `contain.sh` takes it.
    fn volume(&self, volume: &str, is_ours: bool) -> String {
        if let Some(file) = volume.strip_prefix("./") {
            return repository(FOLDER).join(file).display().to_string();
        }
        let (name, target) = volume.split_once(':').expect("a volume and its place");
        assert!(
            self.file["volumes"]
                .as_object()
                .is_some_and(|all| all.contains_key(name)),
            "{name}"
        );
        let path = self.folder.path().join("volumes").join(name);
        if !path.exists() {
            if is_ours {
                assert_eq!(target, self.image.volume);
                self.image.new_volume(&path);
            } else {
                std::fs::create_dir(&path).expect("a folder of ours");
            }
        }
        format!("{}:{target}", path.display())
    }

    /// The operator's file, in a folder of this test's.
    fn secret(&self, name: &str, user: &str) -> String {
        let file = self.file["secrets"][name]["file"].as_str().expect("a file");
        assert_eq!(file, format!("./secrets/{name}"));
        let text = match name {
            "signing-key" => SECRET.to_owned(),
            "events.pem" => ["server.pem", "server.key"]
                .map(|name| std::fs::read_to_string(self.certificates.path(name)).expect("a file"))
                .concat(),
            other => panic!("{other} is a secret that nobody knows"),
        };
        let path = self.folder.path().join(name);
        if path.exists() {
            path.display().to_string()
        } else {
            secret(self.folder.path(), name, &text, user)
        }
    }

    /// `docker compose up`: each service as soon as those that it depends on are there.
    fn up(&mut self) {
        let services: Vec<String> = self.file["services"]
            .as_object()
            .expect("services")
            .keys()
            .cloned()
            .collect();
        while self.running.len() < services.len() {
            let before = self.running.len();
            for name in &services {
                let needed = needed(&self.service(name));
                if self.running.contains_key(name)
                    || !needed.keys().all(|other| self.running.contains_key(other))
                {
                    continue;
                }
                for (other, _) in needed.iter().filter(|(_, must_be_well)| **must_be_well) {
                    self.running
                        .get_mut(other)
                        .expect("it runs")
                        .wait_until_well();
                }
                self.start(name);
            }
            assert!(self.running.len() > before, "services wait for each other");
        }
        for container in self.running.values_mut() {
            container.wait_until_well();
        }
    }

    fn start(&mut self, name: &str) {
        let plan = self.plan(name);
        let container = self.engine.start(&plan);
        self.running.insert(name.to_owned(), container);
    }

    /// `docker compose stop` of some services, which end side by side.
    fn stop(&mut self, names: &[String]) {
        for name in names {
            self.running[name].order_to_stop();
        }
        for name in names {
            let ended = self.running.remove(name).expect("it runs").ended();
            if self.service(name)["image"] == "tidings" {
                assert_eq!(ended.code(), Some(0), "{name}");
            }
        }
    }

    /// `docker compose down`: nothing ends before those that depend on it.
    fn down(&mut self) {
        while !self.running.is_empty() {
            let needed: BTreeSet<String> = self
                .running
                .keys()
                .flat_map(|name| needed(&self.service(name)).into_keys())
                .collect();
            let last = self.running.keys().filter(|name| !needed.contains(*name));
            let last: Vec<String> = last.cloned().collect();
            assert!(!last.is_empty(), "services wait for each other");
            self.stop(&last);
        }
    }

    fn wait_until_ready(&self, node: &str) {
        let admin = at(&self.running[node], "front", 8081);
        wait_for("readiness", || {
            try_exchange(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200)
        });
    }
}

/// The first three numbers of a network's addresses.
fn parts_of(network: &Value) -> [u8; 3] {
    let subnet = network["ipam"]["config"][0]["subnet"]
        .as_str()
        .expect("a subnet");
    let (address, width) = subnet.split_once('/').expect("a network");
    assert_eq!(width, "24");
    let [a, b, c, _] = address
        .parse::<std::net::Ipv4Addr>()
        .expect("an address")
        .octets();
    [a, b, c]
}

/// What a client does, through whatever is published on this machine.
struct Client {
    tunnel: Tunnel,
    tenant: String,
}

impl Client {
    fn token(&self, role: &str) -> String {
        AccessToken::new("one", &self.tenant, role).sign(SECRET)
    }

    /// Waits until the proxy has found a node to be ready: while both start it takes them for gone.
    fn wait_until_let_in(&self) {
        let address = self.tunnel.address;
        wait_for("a way through the proxy", || {
            try_exchange(address, &Request::get("/openapi.json"))
                .is_ok_and(|answer| answer.status == 200)
        });
    }

    /// A stream, opened the way a browser does.
    fn open(&self, after: Option<&str>) -> Stream {
        let ask = Request::post("/auth/sse-token").bearer(&self.token("viewer"));
        let minted = exchange(self.tunnel.address, &ask).expect(200);
        let path = format!("/tenants/{}/events/stream", self.tenant);
        let watch =
            Watch::at(self.tunnel.address, &path).token(minted["token"].as_str().expect("a token"));
        after
            .map_or_else(|| watch.clone(), |cursor| watch.clone().after(cursor))
            .open()
    }

    fn publish(&self, number: u64) -> Receipt {
        let request = publish::one(
            &self.tenant,
            &self.token("publisher"),
            &status("r1", number),
        );
        publish::must(self.tunnel.address, &request)
    }

    /// The nodes that have streams.
    fn nodes(&self) -> BTreeSet<String> {
        let ask = Request::get("/streams").bearer(&AccessToken::super_admin("root").sign(SECRET));
        let page = exchange(self.tunnel.address, &ask).expect(200);
        let streams = page["streams"].as_array().expect("a list").iter();
        streams
            .map(|stream| stream["node"].as_str().expect("a name").to_owned())
            .collect()
    }
}

/// Publishes a port of the proxy on this machine, whatever its address is.
fn publish_port(engine_port: u16, to: std::net::SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", engine_port)).expect("a namespace of ours");
    // Ends with the process.
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else {
                continue;
            };
            for socket in [&near, &far] {
                socket.set_nodelay(true).expect("a socket");
            }
            for (mut from, mut to) in [
                (
                    near.try_clone().expect("a socket"),
                    far.try_clone().expect("a socket"),
                ),
                (far, near),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
}

#[test]
fn two_nodes_behind_a_proxy_serve_as_one_and_keep_what_they_have() {
    let mut project = Project::new();
    project.up();
    assert_eq!(
        project.service("proxy")["ports"],
        serde_json::json!(["443:443"])
    );
    publish_port(443, at(&project.running["proxy"], "front", 443));
    for name in ["node-1", "node-2"] {
        project.wait_until_ready(name);
    }
    for (name, container) in &project.running {
        let user = project.plan(name).user;
        assert_without_rights(container, &user);
    }
    let certified = Way::trusting(&project.certificates);
    let client = Client {
        tunnel: Tunnel::to(([127, 0, 0, 1], 443).into(), &certified),
        tenant: new_tenant(),
    };

    client.wait_until_let_in();

    // Streams at both nodes, with tokens that either gave, once the proxy has found both to be ready.
    let both = BTreeSet::from(["node-1", "node-2"].map(ToOwned::to_owned));
    let mut streams = Vec::new();
    wait_for("streams at both nodes", || {
        streams.push(client.open(None));
        client.nodes() == both
    });
    let first = client.publish(1);
    for stream in &mut streams {
        assert_eq!(stream.next_event().cursor(), first.last);
    }

    // One node goes: its clients come back to the other one, and get what they lack.
    project.stop(&["node-1".to_owned()]);
    let second = client.publish(2);
    let mut led = 0;
    for mut stream in streams {
        let mut event = stream.next_event();
        if event.name == "closing" {
            assert_eq!(event.json()["reason"], "draining");
            led += 1;
            stream = client.open(Some(&first.last));
            event = stream.next_event();
        }
        assert_eq!(event.cursor(), second.last);
    }
    assert!(led > 0, "nobody was at the node that went");

    // It comes back, with another address, and has streams again.
    project.start("node-1");
    project
        .running
        .get_mut("node-1")
        .expect("it runs")
        .wait_until_well();
    project.wait_until_ready("node-1");
    let mut opened = Vec::new();
    wait_for("a stream at the node that is back", || {
        opened.push(client.open(Some(&first.last)));
        client.nodes() == both
    });
    for stream in &mut opened {
        assert_eq!(stream.next_event().cursor(), second.last);
    }
    drop(opened);

    // All of it made anew has what was published.
    project.down();
    project.up();
    for name in ["node-1", "node-2"] {
        project.wait_until_ready(name);
        let address = at(&project.running[name], "front", 8080);
        let ask = Request::get(&format!("/tenants/{}/events", client.tenant))
            .bearer(&client.token("viewer"));
        let events = exchange(address, &ask).expect(200);
        assert_eq!(
            events["events"].as_array().map(Vec::len),
            Some(2),
            "{name}: {events}"
        );
    }
}

#[test]
fn services_have_no_more_than_they_need_and_no_secret_in_the_file() {
    let text = std::fs::read_to_string(made("TIDINGS_COMPOSE")).expect("the compose file as JSON");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    for (name, service) in file["services"].as_object().expect("services") {
        for key in service.as_object().expect("a table").keys() {
            assert!(KNOWN.split(' ').any(|known| known == key), "{name}: {key}");
        }
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(
            words(&service["security_opt"]),
            ["no-new-privileges:true"],
            "{name}"
        );
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert!(service["healthcheck"].is_object(), "{name}");
        let is_open = !service["ports"].is_null();
        assert_eq!(is_open, name == "proxy", "{name}");
        if service["image"] == "tidings" {
            let build = &service["build"];
            let context = repository(FOLDER).join(build["context"].as_str().expect("a folder"));
            assert!(
                Path::new(&context)
                    .join(build["dockerfile"].as_str().expect("a file"))
                    .is_file()
            );
            let secrets = texts(&service["environment"]);
            assert!(
                secrets
                    .keys()
                    .all(|key| !key.ends_with("__SECRET") && !key.ends_with("PASSWORD")),
                "{secrets:?}"
            );
        } else {
            let image = service["image"].as_str().expect("an image");
            assert!(
                image
                    .split_once(':')
                    .is_some_and(|(_, tag)| tag.contains('.')),
                "{image} is whatever there is that day"
            );
        }
    }
    assert_eq!(file["networks"]["back"]["internal"], true);
    let [a, b, c] = parts_of(&file["networks"]["front"]);
    let trusted = &file["services"]["node-1"]["environment"]["TIDINGS_PROXIES__TRUSTED"];
    assert_eq!(*trusted, format!("[\"{a}.{b}.{c}.0/24\"]"));
}

/// What the sample does for streams, it does here: the two part only in what a container changes.
#[test]
fn the_proxys_file_is_the_sample_but_for_the_container() {
    let body = |text: &str| {
        text.split_once("\nglobal\n")
            .expect("settings behind a comment")
            .1
            .to_owned()
    };
    let sample = body(&text_of("deploy/haproxy/haproxy.cfg"));
    let here = body(&text_of("deploy/compose/haproxy.cfg"));
    let section = |text: &str, begin: &str, end: &str| -> String {
        let (before, rest) = text.split_once(begin).expect("where it begins");
        let (_, after) = rest.split_once(end).expect("where it ends");
        format!("{before}{end}{after}")
    };
    let here = section(&here, "# The names are the engine's", "defaults\n");
    let here = section(&here, "# For the health check", "frontend public\n");
    let expected = sample
        .replace("log /dev/log local0", "log stdout format raw local0")
        .replace("/etc/ssl/events.pem", "/run/secrets/events.pem")
        .replace(
            "fall 2 rise 1\n",
            "fall 2 rise 1 resolvers engine init-addr libc,none\n",
        )
        .replace(
            "    server one 127.0.0.1:8080 port 8081\n",
            "    server node-1 node-1:8080 port 8081\n    server node-2 node-2:8080 port 8081\n",
        );
    assert_eq!(here, expected);
}
