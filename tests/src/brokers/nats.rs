//! One `nats-server` with JetStream.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::{ATTEMPTS, Process, connect, is_port_taken, wait_for};
use crate::server::{Output, any_address};

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    configuration: String,
    jetstream: String,
    pub(super) is_unadvertised: bool,
}

impl NatsOptions {
    /// JetStream without limits; no TLS, anybody may connect.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text to the configuration file: `authorization { … }`, `accounts { … }`, `tls { … }`, `max_payload: …`.
    #[must_use]
    pub fn configuration(mut self, text: &str) -> Self {
        let _ = writeln!(self.configuration, "{text}");
        self
    }

    /// Adds text to the block `jetstream { … }`, such as `max_file_store: 8MB`.
    #[must_use]
    pub fn jetstream(mut self, text: &str) -> Self {
        let _ = writeln!(self.jetstream, "{text}");
        self
    }

    /// Servers of a cluster do not tell clients of each other: a client knows those that it is configured with.
    #[must_use]
    pub fn unadvertised(mut self) -> Self {
        self.is_unadvertised = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> NatsServer {
        NatsServer::start(&self)
    }
}

/// A `nats-server` that runs, or did.
#[derive(Debug)]
pub struct NatsServer {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where its monitoring is (`/varz`, `/jsz`, `/connz`, …), over plain HTTP.
    pub monitor: SocketAddr,
    /// The `server_name` it goes by.
    pub name: String,
    options: NatsOptions,
    /// The block `cluster { … }` of a server that is routed to others.
    cluster: String,
    folder: TempDir,
    process: Process,
}

impl NatsServer {
    /// Starts one and waits until clients can connect and JetStream is up.
    pub fn start(options: &NatsOptions) -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self::new(options.clone(), any_address(), String::new());
            server.launch();
            match server.wait() {
                Ok(()) => return server,
                Err(said) if is_port_taken(&said) => {}
                Err(said) => panic!("nats-server did not start:\n{said}"),
            }
        }
        panic!("no free ports in {ATTEMPTS} attempts");
    }

    pub(super) fn new(options: NatsOptions, address: SocketAddr, cluster: String) -> Self {
        let name = format!("nats-{:08x}", fastrand::u32(..));
        Self {
            address,
            monitor: any_address(),
            process: Process::new(format!("nats-server {name} at {address}")),
            name,
            options,
            cluster,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Starts the process; [`Self::wait`] says what becomes of it.
    pub(super) fn launch(&mut self) {
        let file = self.folder.path().join("nats.conf");
        std::fs::write(&file, self.configuration()).expect("a file of ours");
        let mut command = Command::new("nats-server");
        command.arg("--config").arg(file);
        self.process.launch(command);
    }

    /// Waits until clients can connect and, where the server stands alone, JetStream is up: one of a
    /// cluster has JetStream only with the others.
    pub(super) fn wait(&mut self) -> Result<(), String> {
        let (address, monitor) = (self.address, self.monitor);
        let (name, is_alone) = (self.name.clone(), self.cluster.is_empty());
        self.process.wait_until("ready", || {
            answers_as(address, &name)
                && (!is_alone
                    || ask(monitor, "/healthz?js-enabled=true")
                        .is_some_and(|answer| is_well(&answer)))
        })
    }

    fn configuration(&self) -> String {
        let Self {
            address,
            monitor,
            name,
            cluster,
            ..
        } = self;
        let NatsOptions {
            configuration,
            jetstream,
            ..
        } = &self.options;
        let store = self.folder().display();
        format!(
            "server_name: {name}\nlisten: \"{address}\"\nhttp: \"{monitor}\"\n\
             jetstream {{\nstore_dir: \"{store}\"\n{jetstream}}}\n{cluster}{configuration}"
        )
    }

    /// The folder with what JetStream has stored.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a client is configured with; a server with TLS takes `tls://` and [`Self::address`].
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Whether it was started and not ended since by this guard.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// What it has written.
    pub fn output(&self) -> &Arc<Output> {
        &self.process.output
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.end(Signal::KILL);
    }

    /// SIGTERM; gives how it went.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.end(Signal::TERM)
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process.freeze();
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again on the same ports and folder, and waits until clients can connect.
    pub fn start_again(&mut self) {
        self.launch();
        self.wait()
            .unwrap_or_else(|said| panic!("nats-server did not start again:\n{said}"));
    }

    /// Starts it again with other options.
    pub fn start_again_with(&mut self, options: NatsOptions) {
        self.options = options;
        self.start_again();
    }

    /// What a page of its monitoring answers, such as `/jsz?streams=true`; `None` where it does not answer.
    pub fn monitoring(&self, target: &str) -> Option<Value> {
        ask(self.monitor, target)
    }

    /// What a page of its monitoring answers in the end, of a server that runs.
    pub fn page(&self, target: &str) -> Value {
        let mut page = None;
        wait_for(&format!("an answer to {target}"), || {
            page = self.monitoring(target);
            page.is_some()
        });
        page.expect("just seen")
    }
}

/// Whether the server that answers there is this one and not a stranger that took its port.
fn answers_as(address: SocketAddr, name: &str) -> bool {
    let Ok(socket) = connect(address) else {
        return false;
    };
    let mut line = String::new();
    // A server speaks first, before TLS and before anybody logs in.
    BufReader::new(socket).read_line(&mut line).is_ok()
        && line.starts_with("INFO ")
        && line.contains(&format!("\"server_name\":\"{name}\""))
}

fn is_well(answer: &Value) -> bool {
    answer["status"] == "ok"
}

/// Asks by HTTP/1.0, whose answer ends with the connection.
fn ask(address: SocketAddr, target: &str) -> Option<Value> {
    let mut socket = connect(address).ok()?;
    write!(socket, "GET {target} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
