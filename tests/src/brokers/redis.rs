//! One `redis-server`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::{ANSWER, ATTEMPTS, Process, is_port_taken};
use crate::server::{Output, any_address};

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    configuration: String,
    is_tls: bool,
    arguments: Vec<String>,
}

impl RedisOptions {
    /// Keeps its data in memory; no TLS, anybody may connect.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text to the configuration file, such as `requirepass …`, `user … on >… ~tidings:* +@all` or `maxmemory 2mb`.
    #[must_use]
    pub fn configuration(mut self, text: &str) -> Self {
        let _ = writeln!(self.configuration, "{text}");
        self
    }

    /// What is written is there again after a kill.
    #[must_use]
    pub fn durable(self) -> Self {
        self.configuration("appendonly yes\nappendfsync always")
    }

    /// TLS and nothing else on the port, with this certificate and key (PEM); clients need none.
    #[must_use]
    pub fn tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.is_tls = true;
        let (certificate, key) = (certificate.display(), key.display());
        self.configuration(&format!(
            "tls-cert-file {certificate}\ntls-key-file {key}\ntls-auth-clients no"
        ))
    }

    /// Adds an argument of the command line, such as `--sentinel`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> RedisServer {
        RedisServer::start(&self)
    }
}

/// A `redis-server` that runs, or did.
#[derive(Debug)]
pub struct RedisServer {
    /// Where clients connect.
    pub address: SocketAddr,
    options: RedisOptions,
    folder: TempDir,
    process: Process,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start(options: &RedisOptions) -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self::new(options.clone());
            match server.try_launch() {
                Ok(()) => return server,
                Err(said) if is_port_taken(&said) => {}
                Err(said) => panic!("redis-server did not start:\n{said}"),
            }
        }
        panic!("no free port in {ATTEMPTS} attempts");
    }

    fn new(options: RedisOptions) -> Self {
        let address = any_address();
        Self {
            address,
            process: Process::new(format!("redis-server at {address}")),
            options,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn try_launch(&mut self) -> Result<(), String> {
        let file = self.folder.path().join("redis.conf");
        // A sentinel rewrites its file, and finds its way by it when it is started again.
        if !file.exists() {
            std::fs::write(&file, self.configuration()).expect("a file of ours");
        }
        let mut command = Command::new("redis-server");
        command
            .arg(file)
            .args(&self.options.arguments)
            .current_dir(self.folder.path());
        self.process.launch(command);
        let socket = self.socket();
        self.process.wait_until("ready", || answers(&socket))
    }

    fn configuration(&self) -> String {
        let RedisOptions {
            configuration,
            is_tls,
            ..
        } = &self.options;
        let port = self.address.port();
        let ports = if *is_tls {
            format!("port 0\ntls-port {port}")
        } else {
            format!("port {port}")
        };
        let (folder, socket) = (self.folder.path().display(), self.socket());
        let socket = socket.display();
        format!(
            "bind 127.0.0.1\n{ports}\nunixsocket {socket}\ndir {folder}\nsave \"\"\ndaemonize no\n{configuration}"
        )
    }

    /// A second way in that no stranger can have taken, and that needs no TLS.
    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The folder with its data and configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a client is configured with; `rediss://` where it was started with TLS.
    pub fn url(&self) -> String {
        let scheme = if self.options.is_tls {
            "rediss"
        } else {
            "redis"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
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

    /// Starts it again on the same port and folder, and waits until it answers.
    pub fn start_again(&mut self) {
        self.try_launch()
            .unwrap_or_else(|said| panic!("redis-server did not start again:\n{said}"));
    }

    /// Starts it again with other options.
    pub fn start_again_with(&mut self, options: RedisOptions) {
        self.options = options;
        std::fs::remove_file(self.folder.path().join("redis.conf")).expect("a file of ours");
        self.start_again();
    }
}

/// Whether commands are answered: with `PONG`, or with being asked who one is.
fn answers(socket: &Path) -> bool {
    let Ok(mut socket) = UnixStream::connect(socket) else {
        return false;
    };
    let _ = socket.set_read_timeout(Some(ANSWER));
    let mut line = String::new();
    socket.write_all(b"PING\r\n").is_ok()
        && BufReader::new(socket).read_line(&mut line).is_ok()
        && (line.starts_with("+PONG") || line.starts_with("-NOAUTH"))
}
