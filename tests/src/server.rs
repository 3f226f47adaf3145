//! The real `tidings` binary as a child process, with a folder and ports of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::GUARD;
use crate::access::AccessToken;
use crate::brokers::freeze;
use crate::http::{Answer, Request, exchange, try_exchange};
use crate::publish::{self, Receipt};
use crate::stream::Watch;

/// How often a process is asked whether it has ended or is ready; nothing is taken for granted after it.
const POLL: Duration = Duration::from_millis(10);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    /// It counts as started when it is alive, ready or not.
    may_be_unready: bool,
    /// It serves TLS beside the plain port.
    over_tls: bool,
}

impl Setup {
    /// As in the README: everything by default, heartbeats each second.
    pub fn new() -> Self {
        Self::default().set("TIDINGS_STREAM__HEARTBEAT", "1s")
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps stream tokens in the Redis at this URL, which may stand still for a while without counting as away.
    #[must_use]
    pub fn tokens_in(self, url: &str) -> Self {
        self.set("TIDINGS_TOKENS__KIND", "redis")
            .set("TIDINGS_REDIS__URL", url)
            .set("TIDINGS_REDIS__CONNECT_TIMEOUT", "10s")
            .set("TIDINGS_REDIS__RESPONSE_TIMEOUT", "10s")
    }

    /// Serves TLS too, with this certificate and key.
    #[must_use]
    pub fn over_tls(mut self, certificate: &str, key: &str) -> Self {
        self.over_tls = true;
        self.set("TIDINGS_TLS__CERTIFICATE_FILE", certificate)
            .set("TIDINGS_TLS__KEY_FILE", key)
    }

    /// Puts a command in front, such as `strace`, which runs the server as its own process.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Does not wait until it is ready, only until it answers; for one that can't be ready.
    #[must_use]
    pub const fn may_be_unready(mut self) -> Self {
        self.may_be_unready = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Server::start_in(self, folder)
    }
}

/// What a process has written, line by line, over all its lives.
#[derive(Debug, Default)]
pub struct Output {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Output {
    /// Takes in what comes over a pipe, line by line.
    pub fn collect(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                output.lines.lock().expect("no reader panics").push(line);
                output.changed.notify_all();
            }
        });
    }

    /// What the next life of the same process writes to, behind what is there.
    pub(crate) fn continued(&self) -> Arc<Self> {
        let lines = self.lines.lock().expect("no reader panics").clone();
        Arc::new(Self {
            lines: Mutex::new(lines),
            changed: Condvar::new(),
        })
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.lines.lock().expect("no reader panics").join("\n")
    }

    /// Waits for a line of which `matches` is true.
    pub fn wait_for(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + GUARD;
        let mut seen = 0;
        let mut lines = self.lines.lock().expect("no reader panics");
        loop {
            if let Some(line) = lines[seen..].iter().find(|line| matches(line)) {
                return line.clone();
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no line says {what}:\n{}",
                lines.join("\n")
            );
            lines = self
                .changed
                .wait_timeout(lines, left)
                .expect("no reader panics")
                .0;
        }
    }
}

/// A server that runs, or did. Dropping it kills it, and shows what it wrote where the test failed.
#[derive(Debug)]
pub struct Server {
    /// Where clients and publishers connect.
    pub address: SocketAddr,
    /// The same over TLS, where the set-up says so.
    pub tls: SocketAddr,
    /// Where `/readyz`, `/healthz` and `/metrics` are.
    pub admin: SocketAddr,
    /// The secret that signs access tokens.
    pub secret: String,
    /// What it has written to standard output and error.
    pub output: Arc<Output>,
    folder: TempDir,
    setup: Setup,
    child: Option<Child>,
}

impl Server {
    /// Starts a server with everything as in the README.
    pub fn start() -> Self {
        Setup::new().start()
    }

    fn start_in(setup: Setup, folder: TempDir) -> Self {
        raise_descriptor_limit();
        let mut server = Self {
            address: any_address(),
            tls: any_address(),
            admin: any_address(),
            secret: format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..)),
            output: Arc::default(),
            folder,
            setup,
            child: None,
        };
        // Between choosing a port and binding it another process may take it.
        for _ in 0..5 {
            match server.try_launch() {
                Ok(()) => return server,
                Err(said) if said.to_lowercase().contains("in use") => {
                    server.address = any_address();
                    server.tls = any_address();
                    server.admin = any_address();
                }
                Err(said) => panic!("the server did not start:\n{said}"),
            }
        }
        panic!("no free port in five attempts");
    }

    /// The folder of the log.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("a running server");
        Pid::from_child(child)
    }

    /// The command that starts this server again.
    pub fn command(&self) -> Command {
        let mut words = self.setup.wrapper.clone();
        words.push(binary().display().to_string());
        if self.setup.arguments.is_empty() {
            words.push("serve".to_owned());
        }
        words.extend(self.setup.arguments.iter().cloned());
        self.command_of(&words)
    }

    /// Another command of the same binary, with this server's settings.
    pub fn tool(&self, arguments: &[&str]) -> Command {
        let mut words = vec![binary().display().to_string()];
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        self.command_of(&words)
    }

    /// Runs another command of the same binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        run_to_end(self.tool(arguments))
    }

    fn command_of(&self, words: &[String]) -> Command {
        let mut command = bare(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.folder.path())
            .env("TIDINGS_LISTEN", self.address.to_string())
            .env("TIDINGS_ADMIN_LISTEN", self.admin.to_string())
            .env("TIDINGS_AUTH__JWT__SECRET", &self.secret)
            .env("TIDINGS_LOG__PATH", self.folder())
            .envs(
                self.setup
                    .over_tls
                    .then(|| ("TIDINGS_TLS__LISTEN", self.tls.to_string())),
            )
            .envs(
                self.setup
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn try_launch(&mut self) -> Result<(), String> {
        self.try_launch_until(200)
    }

    /// Starts it and waits until `/readyz` answers this.
    fn try_launch_until(&mut self, status: u16) -> Result<(), String> {
        let mut child = self.command().spawn().expect("the binary runs");
        let output = self.output.continued();
        output.collect(child.stdout.take().expect("piped"));
        output.collect(child.stderr.take().expect("piped"));
        self.output = output;
        let deadline = Instant::now() + GUARD;
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                // The pipes end with the process, so the reader soon has it all; the status is in any case known.
                return Err(format!("{status}\n{}", self.output.text_at_end()));
            }
            let question = if self.setup.may_be_unready && status == 200 {
                "/healthz"
            } else {
                "/readyz"
            };
            if try_exchange(self.admin, &Request::get(question))
                .is_ok_and(|answer| answer.status == status)
            {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = try_exchange(self.admin, &Request::get("/readyz"));
                let _ = child.kill();
                return Err(format!(
                    "never ready, at last {said:?}\n{}",
                    self.output.text()
                ));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process of ours");
    }

    /// Stops it where it is (SIGSTOP): connections stay open and nothing answers.
    pub fn freeze(&self) {
        freeze(self.pid());
    }

    /// Waits until the process is gone.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running server");
        child.wait().expect("a child of ours")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM; gives how it went.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Starts it again, at once, on the same ports and folder.
    pub fn start_again(&mut self) {
        self.try_launch()
            .unwrap_or_else(|said| panic!("the server did not start again:\n{said}"));
    }

    /// Starts it again, at once, and waits until it says that it is not ready.
    pub fn start_again_unready(&mut self) {
        self.try_launch_until(503)
            .unwrap_or_else(|said| panic!("the server did not start again:\n{said}"));
    }

    /// Starts it again with another setting.
    pub fn start_again_with(&mut self, name: &str, value: &str) {
        self.setup = self.setup.clone().set(name, value);
        self.start_again();
    }

    /// One request over a connection of its own.
    pub fn exchange(&self, request: &Request) -> Answer {
        exchange(self.address, request)
    }

    /// One request to the admin listener.
    pub fn ask_admin(&self, request: &Request) -> Answer {
        exchange(self.admin, request)
    }

    /// Signs an access token.
    pub fn sign(&self, token: &AccessToken) -> String {
        token.sign(&self.secret)
    }

    /// An access token of somebody in this tenant who may only watch.
    pub fn viewer(&self, tenant: &str) -> String {
        self.sign(&AccessToken::new("viewer-1", tenant, "viewer"))
    }

    /// An access token of somebody who may publish to this tenant.
    pub fn publisher(&self, tenant: &str) -> String {
        self.sign(&AccessToken::new("publisher-1", tenant, "publisher"))
    }

    /// An access token of a `super_admin`.
    pub fn super_admin(&self) -> String {
        self.sign(&AccessToken::super_admin("root-1"))
    }

    /// A stream token for this access token.
    pub fn stream_token(&self, access_token: &str) -> String {
        let answer = self.exchange(&Request::post("/auth/sse-token").bearer(access_token));
        let body = answer.expect(200);
        body["token"].as_str().expect("a token").to_owned()
    }

    /// A stream of this tenant, still without authority.
    pub fn stream_of(&self, tenant: &str) -> Watch {
        Watch::at(self.address, &format!("/tenants/{tenant}/events/stream"))
    }

    /// A stream of this tenant for somebody of it, opened the way a browser does.
    pub fn watch(&self, tenant: &str) -> Watch {
        self.stream_of(tenant)
            .token(&self.stream_token(&self.viewer(tenant)))
    }

    /// Publishes one event, which must be taken.
    pub fn publish(&self, tenant: &str, event: &Value) -> Receipt {
        publish::must(
            self.address,
            &publish::one(tenant, &self.publisher(tenant), event),
        )
    }

    /// Publishes these events in one body, which must be taken.
    pub fn publish_all<'a>(
        &self,
        tenant: &str,
        events: impl IntoIterator<Item = &'a Value>,
    ) -> Receipt {
        publish::must(
            self.address,
            &publish::many(tenant, &self.publisher(tenant), events),
        )
    }

    /// The history of this tenant with this query, which begins with `?` or is empty.
    pub fn history(&self, tenant: &str, query: &str) -> Value {
        let target = format!("/tenants/{tenant}/events{query}");
        self.exchange(&Request::get(&target).bearer(&self.viewer(tenant)))
            .expect(200)
    }

    /// Waits for a line of the server's log of which `matches` is true.
    pub fn wait_for_log(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.output.wait_for(what, matches)
    }
}

impl Output {
    /// Everything, of a process that has ended: waits for both pipes to be read out.
    pub fn text_at_end(self: &Arc<Self>) -> String {
        let deadline = Instant::now() + GUARD;
        while Arc::strong_count(self) > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.text()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the server at {} wrote:\n{}\n---",
                self.address,
                self.output.text()
            );
        }
    }
}

/// The end of a process that was never meant to serve.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub said: String,
}

/// Runs `tidings` with these arguments and nothing but these variables of `TIDINGS_…`, to its end.
pub fn run(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> Ended {
    let mut command = bare(binary());
    command
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    run_to_end(command)
}

/// A command that inherits no setting: the server refuses variables of `TIDINGS_…` that it does
/// not know, and those of the tests are none of its own.
fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end, which must come of itself.
pub fn run_to_end(mut command: Command) -> Ended {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let output = Arc::<Output>::default();
    output.collect(child.stdout.take().expect("piped"));
    output.collect(child.stderr.take().expect("piped"));
    let deadline = Instant::now() + GUARD;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end; it wrote:\n{}", output.text());
        }
        std::thread::sleep(POLL);
    };
    Ended {
        status,
        said: output.text_at_end(),
    }
}

/// An address of the loopback that nobody listens on.
///
/// The port is drawn from below the range that the kernel gives to outgoing connections: a port of
/// that range that a killed server leaves could be taken by any client of any test before the
/// server is back. No test of this process is given the same one later, for the same reason.
pub fn any_address() -> SocketAddr {
    static DRAWN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(16_384..32_768);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let is_new = DRAWN.lock().expect("no thread panics").insert(port);
        if is_new && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The binary under test: `TIDINGS_BIN`, or the one of this build, brought up to date once.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("TIDINGS_BIN") {
            let path = PathBuf::from(path);
            return path
                .canonicalize()
                .unwrap_or_else(|error| panic!("TIDINGS_BIN {}: {error}", path.display()));
        }
        // A test lies in target/PROFILE/deps; a binary that lies beside that folder may be of yesterday.
        let test = std::env::current_exe().expect("the path of this test");
        let profile = test
            .parent()
            .and_then(Path::parent)
            .expect("a target folder");
        let mut build = Command::new(env!("CARGO"));
        build
            .args([
                "build",
                "--quiet",
                "--package",
                "tidings",
                "--bin",
                "tidings",
            ])
            .arg("--target-dir")
            .arg(profile.parent().expect("a target folder"))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo runs");
        assert!(status.success(), "the server does not build");
        profile.join("tidings")
    })
}

/// A thousand clients and a server need more descriptors than a shell usually grants.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit anybody may go");
}
