//! What an engine does, with this machine's own tools: networks with names, and containers in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tempfile::TempDir;
use tidings_tests::brokers::wait_for;
use tidings_tests::server::Output;

use crate::{repository, run};

/// Whose names and addresses there are, on each network.
type Names = Arc<Mutex<Vec<(String, String, Ipv4Addr)>>>;

/// The networks of one test. Its process has a network and a mount namespace of its own.
pub(crate) struct Engine {
    networks: BTreeMap<String, Network>,
    names: Names,
    files: TempDir,
    count: usize,
}

struct Network {
    bridge: String,
    gateway: Ipv4Addr,
    given: u8,
}

impl Engine {
    /// An engine with these networks, each with the first three parts of its addresses.
    pub(crate) fn new(networks: &[(&str, [u8; 3])]) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // The names of network namespaces are files there; what this machine has there is hidden from this process alone.
            run("mount", &["-t", "tmpfs", "none", "/run"]);
            run("ip", &["link", "set", "lo", "up"]);
        });
        let names = Names::default();
        let bridged = networks.iter().map(|&(name, [a, b, c])| {
            let (bridge, gateway) = (format!("net-{a}-{b}-{c}"), Ipv4Addr::new(a, b, c, 1));
            run("ip", &["link", "add", &bridge, "type", "bridge"]);
            run(
                "ip",
                &["addr", "add", &format!("{gateway}/24"), "dev", &bridge],
            );
            run("ip", &["link", "set", &bridge, "up"]);
            let resolver = UdpSocket::bind((gateway, 53)).expect("a network of ours");
            let known = Arc::clone(&names);
            // Ends with the process.
            std::thread::spawn(move || answer_names(&resolver, &known));
            let network = Network {
                bridge,
                gateway,
                given: 1,
            };
            (name.to_owned(), network)
        });
        Self {
            networks: bridged.collect(),
            names: Arc::clone(&names),
            files: tempfile::tempdir().expect("a temporary folder"),
            count: 0,
        }
    }

    /// Starts a container.
    pub(crate) fn start(&mut self, plan: &Plan) -> Container {
        self.count += 1;
        // Interfaces' names are short.
        let id = format!("{}-{}", self.count, plan.name);
        let namespace = format!("/run/netns/{id}");
        run("ip", &["netns", "add", &id]);
        run("ip", &["-n", &id, "link", "set", "lo", "up"]);
        let mut addresses = BTreeMap::new();
        for (number, name) in plan.networks.iter().enumerate() {
            let address = self.join(&id, number, name);
            self.names.lock().expect("no thread panics").push((
                name.clone(),
                plan.name.clone(),
                address,
            ));
            addresses.insert(name.clone(), address);
        }
        for (name, value) in &plan.sysctls {
            let file = format!("/proc/sys/{}", name.replace('.', "/"));
            let write = format!("echo '{value}' >{file}");
            run(
                "nsenter",
                &[&format!("--net={namespace}"), "sh", "-c", &write],
            );
        }
        let child = self.spawn(plan, &id, &namespace);
        let mut container = Container {
            name: plan.name.clone(),
            id,
            addresses,
            output: Arc::default(),
            plan: plan.clone(),
            names: Arc::clone(&self.names),
            child,
        };
        container
            .output
            .collect(container.child.stdout.take().expect("piped"));
        container
            .output
            .collect(container.child.stderr.take().expect("piped"));
        container
    }

    /// A cable from a network to a namespace, and an address.
    fn join(&mut self, id: &str, number: usize, name: &str) -> Ipv4Addr {
        let network = self
            .networks
            .get_mut(name)
            .expect("a network that is declared");
        network.given += 1;
        let [a, b, c, _] = network.gateway.octets();
        let address = Ipv4Addr::new(a, b, c, network.given);
        let (near, far) = (
            format!("v{}-{b}-{c}-{}", number, network.given),
            format!("eth{number}"),
        );
        run(
            "ip",
            &[
                "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", id,
            ],
        );
        run(
            "ip",
            &["link", "set", &near, "master", &network.bridge, "up"],
        );
        run(
            "ip",
            &[
                "-n",
                id,
                "addr",
                "add",
                &format!("{address}/24"),
                "dev",
                &far,
            ],
        );
        run("ip", &["-n", id, "link", "set", &far, "up"]);
        address
    }

    fn spawn(&self, plan: &Plan, id: &str, namespace: &str) -> Child {
        let files = self.files.path().join(id);
        std::fs::create_dir(&files).expect("a folder of ours");
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for (name, address) in &plan.hosts {
            let _ = writeln!(hosts, "{address} {name}");
        }
        std::fs::write(files.join("hosts"), hosts).expect("a file of ours");
        let gateway = self.networks[&plan.networks[0]].gateway;
        std::fs::write(files.join("resolv.conf"), format!("nameserver {gateway}\n"))
            .expect("a file of ours");
        let (user, group) = plan.user.split_once(':').expect("a user and a group");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={namespace}"))
            .args(["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork"])
            .arg(repository("tests/deploy/contain.sh"))
            .arg(&plan.root)
            .arg(files)
            .args([user, group, &plan.folder, &plan.descriptors.to_string()])
            .args(&plan.mounts)
            .arg("--")
            .args(&plan.command);
        plan.give_environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("nsenter runs")
    }
}

/// How a container is started.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
    pub(crate) user: String,
    pub(crate) folder: String,
    pub(crate) descriptors: u64,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) command: Vec<String>,
    pub(crate) health: Vec<String>,
    pub(crate) networks: Vec<String>,
    pub(crate) hosts: Vec<(String, Ipv4Addr)>,
    pub(crate) sysctls: BTreeMap<String, String>,
    /// As `contain.sh` takes them.
    pub(crate) mounts: Vec<String>,
    pub(crate) stop: Signal,
}

/// How many descriptors a process may have here: not everybody who is root may raise that.
fn most_descriptors() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(1024 * 1024)
}

impl Plan {
    /// A program of this machine, on these networks.
    pub(crate) fn of_this_machine(name: &str, networks: &[&str], command: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            name: name.to_owned(),
            root: PathBuf::from("/"),
            user: "65532:65532".to_owned(),
            folder: "/".to_owned(),
            descriptors: most_descriptors(),
            environment: BTreeMap::new(),
            command: owned(command),
            health: Vec::new(),
            networks: owned(networks),
            hosts: Vec::new(),
            sysctls: BTreeMap::new(),
            mounts: Vec::new(),
            stop: Signal::TERM,
        }
    }

    fn give_environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .envs(&self.environment);
    }
}

/// A container that runs. What is in it does not outlive this.
pub(crate) struct Container {
    name: String,
    id: String,
    pub(crate) addresses: BTreeMap<String, Ipv4Addr>,
    pub(crate) output: Arc<Output>,
    plan: Plan,
    names: Names,
    child: Child,
}

impl Container {
    /// The first process of the container; `None` while there is none yet.
    fn first(&self) -> Option<i32> {
        let parent = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        children.ok()?.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.first()
            .unwrap_or_else(|| panic!("{} does not run:\n{}", self.name, self.output.text()))
    }

    /// What the kernel says of its first process.
    pub(crate) fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let text = text.expect("a process of ours");
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found
            .unwrap_or_else(|| panic!("no {field} in {text}"))
            .trim()
            .to_owned()
    }

    /// A command in the container, as its user, with these variables besides.
    pub(crate) fn execute(
        &self,
        words: &[String],
        variables: &[(&str, &str)],
    ) -> (ExitStatus, String) {
        let mut command = Command::new("nsenter");
        let (user, group) = self.plan.user.split_once(':').expect("a user and a group");
        command
            .args([
                "--target",
                &self.pid().to_string(),
                "--mount",
                "--net",
                "--ipc",
                "--uts",
                "--pid",
            ])
            .args(["--root", "--wd", "--setuid", user, "--setgid", group, "--"])
            .args(words)
            .stdin(Stdio::null());
        self.plan.give_environment(&mut command);
        command.envs(variables.iter().copied());
        let ended = command.output().expect("nsenter runs");
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        (ended.status, said)
    }

    /// Whether its health check says that it is well.
    pub(crate) fn is_well(&self) -> bool {
        self.first().is_some() && self.execute(&self.plan.health, &[]).0.success()
    }

    pub(crate) fn wait_until_well(&mut self) {
        let name = self.name.clone();
        wait_for(&format!("the health of {name}"), || {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("{name}: {status}\n{}", self.output.text_at_end());
            }
            self.is_well()
        });
    }

    /// Sends the signal that it is stopped with.
    pub(crate) fn order_to_stop(&self) {
        let first = Pid::from_raw(self.pid()).expect("a process");
        kill_process(first, self.plan.stop).expect("a process of ours");
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.child.wait().expect("a child of ours")
    }

    /// What `docker stop` does.
    pub(crate) fn stop(self) -> ExitStatus {
        self.order_to_stop();
        self.ended()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The end of the first process is the end of all others in its namespace.
        if let Some(first) = self.first().and_then(Pid::from_raw) {
            let _ = kill_process(first, Signal::KILL);
        }
        let _ = self.child.wait();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.id])
            .status();
        let mut names = self.names.lock().expect("no thread panics");
        names.retain(|(_, _, address)| !self.addresses.values().any(|own| own == address));
        drop(names);
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}\n---", self.name, self.output.text());
        }
    }
}

/// The engine's own name server: it knows the containers that are on a network with whoever asks, and nobody else.
fn answer_names(resolver: &UdpSocket, names: &Names) {
    let mut datagram = [0; 512];
    while let Ok((length, from)) = resolver.recv_from(&mut datagram) {
        let question = &datagram[..length];
        let Some((name, end)) = name_in(question) else {
            continue;
        };
        let is_of_version_4 = question[end..].starts_with(&[0, 1]);
        let known = names.lock().expect("no thread panics").clone();
        let of_asker = known.iter().filter(|(_, _, address)| from.ip() == *address);
        let asker: Vec<&String> = of_asker.map(|(_, name, _)| name).collect();
        let shared = |network: &String| {
            known
                .iter()
                .any(|(other, name, _)| other == network && asker.contains(&name))
        };
        let found = known
            .iter()
            .find(|(network, known, _)| *known == name && shared(network));
        // RFC 1035: the question again, behind it an answer whose name is the question's.
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, if found.is_some() { 0x80 } else { 0x83 }, 0, 1]);
        answer.extend([0, u8::from(found.is_some() && is_of_version_4), 0, 0, 0, 0]);
        answer.extend(&question[12..end + 4]);
        if let Some((_, _, address)) = found.filter(|_| is_of_version_4) {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address.octets());
        }
        let _ = resolver.send_to(&answer, from);
    }
}

/// The name that is asked for, and where it ends.
fn name_in(question: &[u8]) -> Option<(String, usize)> {
    let (mut parts, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            // Kind and class stand behind it.
            return (question.len() >= at + 4).then(|| (parts.join("."), at));
        }
        parts.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
        at += length;
    }
}
