//! Real proxies with the samples of `deploy/`, as child processes: only addresses, paths and times are replaced, and
//! what a test says it replaces. A guard that is dropped kills its process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::brokers::{ATTEMPTS, Process, is_port_taken, wait_for};
use crate::certificates::Certificates;
use crate::http::{Request, try_exchange};
use crate::server::{Output, Server, any_address};
use crate::stream::Watch;
use crate::tunnel::{Tunnel, Way};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// nginx.
    Nginx,
    /// `HAProxy`.
    Haproxy,
    /// Caddy.
    Caddy,
}

impl ProxyKind {
    /// All that there is a sample of.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];
}

/// A node behind a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// Where its API is.
    pub address: SocketAddr,
    /// Where `/readyz` is.
    pub admin: SocketAddr,
}

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    kind: ProxyKind,
    upstreams: Vec<Upstream>,
    edits: Vec<(String, String)>,
}

impl ProxyOptions {
    /// The sample in front of this server.
    pub fn new(kind: ProxyKind, server: &Server) -> Self {
        Self::in_front_of(
            kind,
            &[Upstream {
                address: server.address,
                admin: server.admin,
            }],
        )
    }

    /// The sample in front of these nodes.
    pub fn in_front_of(kind: ProxyKind, upstreams: &[Upstream]) -> Self {
        Self {
            kind,
            upstreams: upstreams.to_vec(),
            edits: Vec::new(),
        }
    }

    /// Replaces the minute after which the sample cuts a silent line.
    #[must_use]
    pub fn idle_timeout(self, time: &str) -> Self {
        self.replace("60s", time)
    }

    /// Replaces a text of the sample, which must have it.
    #[must_use]
    pub fn replace(mut self, text: &str, with: &str) -> Self {
        self.edits.push((text.to_owned(), with.to_owned()));
        self
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Proxy {
        for _ in 0..ATTEMPTS {
            let mut proxy = Proxy::new(self.clone());
            match proxy.launch() {
                Ok(()) => return proxy,
                Err(said) if is_port_taken(&said) => {}
                Err(said) => panic!("{:?} did not start:\n{said}", self.kind),
            }
        }
        panic!("no free port in {ATTEMPTS} attempts");
    }
}

/// A proxy that runs, or did.
#[derive(Debug)]
pub struct Proxy {
    /// Where a test speaks plain HTTP/1.1 to it, through a tunnel.
    pub address: SocketAddr,
    /// Where it speaks TLS.
    pub secure: SocketAddr,
    /// The certificate that it shows, and its authority.
    pub certificates: Certificates,
    options: ProxyOptions,
    process: Process,
    _tunnel: Tunnel,
    _journal: Option<Journal>,
    folder: TempDir,
}

impl Proxy {
    fn new(options: ProxyOptions) -> Self {
        let (secure, certificates) = (any_address(), Certificates::new());
        let tunnel = Tunnel::to(secure, &Way::trusting(&certificates));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let logs = folder.path().join("logs");
        std::fs::create_dir(&logs).expect("a folder of ours");
        let journal = (options.kind == ProxyKind::Haproxy).then(|| Journal::at(folder.path()));
        let proxy = Self {
            address: tunnel.address,
            secure,
            certificates,
            process: Process::new(format!("{:?} at {secure}", options.kind)),
            options,
            _tunnel: tunnel,
            _journal: journal,
            folder,
        };
        proxy.configure();
        proxy
    }

    fn configure(&self) {
        let (file, text) = match self.options.kind {
            ProxyKind::Nginx => ("tidings.conf", self.nginx()),
            ProxyKind::Haproxy => ("haproxy.cfg", self.haproxy()),
            ProxyKind::Caddy => ("Caddyfile", self.caddy()),
        };
        let sample = self
            .options
            .edits
            .iter()
            .fold(text, |sample, (text, with)| sample.replace(text, with));
        std::fs::write(self.path(file), sample.0).expect("a file of ours");
    }

    fn nginx(&self) -> Sample {
        // What Debian's own nginx.conf has, as far as it matters here.
        let folder = self.folder.path().display();
        let mut around = format!(
            "user root;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\ngzip on;\n"
        );
        for part in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(around, "{part}_temp_path {folder}/{part};");
        }
        let _ = writeln!(around, "include {folder}/tidings.conf;\n}}");
        std::fs::write(self.path("nginx.conf"), around).expect("a file of ours");
        let servers = self.upstreams(|_, node| format!("    server {};\n", node.address));
        Sample::read("nginx/tidings.conf")
            .replace("    server 127.0.0.1:8080;\n", &servers)
            .replace("listen 443 ", &format!("listen {} ", self.secure))
            .replace("/etc/ssl/events.pem", &self.certificates.path("server.pem"))
            .replace("/etc/ssl/events.key", &self.certificates.path("server.key"))
            .replace("/var/log/nginx", &format!("{folder}/logs"))
    }

    fn haproxy(&self) -> Sample {
        // One file holds the certificate and its key.
        let both: String = ["server.pem", "server.key"]
            .map(|name| std::fs::read_to_string(self.certificates.path(name)).expect("a file"))
            .concat();
        std::fs::write(self.path("both.pem"), both).expect("a file of ours");
        let servers = self.upstreams(|number, node| {
            let port = node.admin.port();
            format!("    server node-{number} {} port {port}\n", node.address)
        });
        Sample::read("haproxy/haproxy.cfg")
            .replace("/dev/log", &self.path("log.socket").display().to_string())
            .replace("bind :443", &format!("bind {}", self.secure))
            .replace(
                "/etc/ssl/events.pem",
                &self.path("both.pem").display().to_string(),
            )
            .replace("    server one 127.0.0.1:8080 port 8081\n", &servers)
    }

    fn caddy(&self) -> Sample {
        let servers = self.upstreams(|_, node| format!("{} ", node.address));
        let port = self.secure.port();
        let logs = format!("{}/logs", self.folder.path().display());
        Sample::read("caddy/Caddyfile")
            .replace("\tgrace_period 5s", "\tgrace_period 100ms\n\tadmin off")
            .replace(
                "events.example.com {",
                &format!(":{port} {{\n\tbind 127.0.0.1"),
            )
            .replace("/etc/ssl/events.pem", &self.certificates.path("server.pem"))
            .replace("/etc/ssl/events.key", &self.certificates.path("server.key"))
            .replace("/var/log/caddy", &logs)
            .replace("127.0.0.1:8080 ", &servers)
    }

    fn upstreams(&self, line: impl Fn(usize, &Upstream) -> String) -> String {
        let nodes = self.options.upstreams.iter().enumerate();
        nodes.map(|(number, node)| line(number, node)).collect()
    }

    fn launch(&mut self) -> Result<(), String> {
        let file = |name: &str| self.path(name).into_os_string();
        let mut command = match self.options.kind {
            ProxyKind::Nginx => {
                let mut command = Command::new("nginx");
                // One process, so that ending it leaves none behind.
                command.args([
                    "-e",
                    "stderr",
                    "-g",
                    "daemon off; master_process off;",
                    "-c",
                ]);
                command.arg(file("nginx.conf"));
                command
            }
            ProxyKind::Haproxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(file("haproxy.cfg"));
                command
            }
            ProxyKind::Caddy => {
                let mut command = Command::new("caddy");
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(file("Caddyfile"));
                command
            }
        };
        // Caddy keeps certificates and its last configuration at home.
        let folder = self.folder.path();
        command
            .env("HOME", folder)
            .env("XDG_DATA_HOME", folder)
            .env("XDG_CONFIG_HOME", folder);
        self.process.launch(command);
        let address = self.address;
        self.process.wait_until("ready", || {
            try_exchange(address, &Request::get("/openapi.json")).is_ok()
        })
    }

    /// Ends it as a service manager does, and waits until it is gone.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM);
    }

    /// Starts it again on the same ports, and waits until it answers.
    pub fn start_again(&mut self) {
        self.launch()
            .unwrap_or_else(|said| panic!("the proxy did not start again:\n{said}"));
    }

    /// What the process has written to standard output and error.
    pub fn output(&self) -> &Arc<Output> {
        &self.process.output
    }

    /// All that it has logged, to whatever place.
    pub fn logged(&self) -> String {
        let mut text = self.process.output.text();
        let files = std::fs::read_dir(self.folder.path().join("logs")).expect("a folder of ours");
        for file in files {
            let bytes = std::fs::read(file.expect("an entry").path()).expect("a file of ours");
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        text
    }

    /// Waits until what it has logged is as wanted.
    pub fn wait_for_log(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        wait_for(what, || is_so(&self.logged()));
        self.logged()
    }

    /// Another tunnel to it, for a client that speaks this protocol (ALPN).
    pub fn tunnel(&self, protocol: &'static str) -> Tunnel {
        let way = Way::trusting(&self.certificates).protocol(Some(protocol));
        Tunnel::to(self.secure, &way)
    }

    /// A stream of this tenant through the proxy, still without authority.
    pub fn stream_of(&self, tenant: &str) -> Watch {
        Watch::at(self.address, &format!("/tenants/{tenant}/events/stream"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The text of a file in `deploy/`.
#[derive(Debug)]
struct Sample(String);

impl Sample {
    fn read(path: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy")
            .join(path);
        let text = std::fs::read_to_string(&file);
        Self(text.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }

    /// A sample that no longer says it would be tested for nothing.
    fn replace(self, text: &str, with: &str) -> Self {
        assert!(self.0.contains(text), "the sample does not say {text:?}");
        Self(self.0.replace(text, with))
    }
}

/// What listens where `HAProxy` logs to, in place of the system's `/dev/log`, and writes it to a file.
#[derive(Debug)]
struct Journal {
    socket: PathBuf,
}

impl Journal {
    fn at(folder: &Path) -> Self {
        let socket = folder.join("log.socket");
        let listening = UnixDatagram::bind(&socket).expect("a path of ours");
        let file = folder.join("logs/haproxy.log");
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut datagram = vec![0; 64 * 1024];
            while let Ok(length) = listening.recv(&mut datagram) {
                // Nobody else sends an empty one: it is the end.
                if length == 0 {
                    return;
                }
                text.extend_from_slice(&datagram[..length]);
                text.push(b'\n');
                if std::fs::write(&file, &text).is_err() {
                    return;
                }
            }
        });
        Self { socket }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.send_to(&[], &self.socket);
        }
    }
}
