//! The servers under test: started, awaited, stopped; each a child of this process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bench_load::probe::Probe;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::nats::Nats;
use crate::origin::Origin;
use crate::peers::Peers;

/// The core of the server.
pub(crate) const SERVER_CORE: usize = 0;
/// The core of the load generator.
pub(crate) const LOAD_CORE: usize = 1;

/// Only ever used on loopback, by servers that live for seconds.
pub(crate) const SECRET: &str = "bench-secret-bench-secret-bench-secret";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Floor,
    Tidings,
    /// Tidings with its streams over TLS; what is published is in the clear.
    #[serde(rename = "tidings-tls")]
    TidingsTls,
    Nchan,
    Pushpin,
    /// No server: a bare append and sync of what would be published.
    Append,
    /// No server: the bare client of NATS, publishing to JetStream.
    Raw,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Floor,
        Self::Tidings,
        Self::TidingsTls,
        Self::Nchan,
        Self::Pushpin,
        Self::Append,
        Self::Raw,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Tidings => "tidings",
            Self::TidingsTls => "tidings-tls",
            Self::Nchan => "nchan",
            Self::Pushpin => "pushpin",
            Self::Append => "append",
            Self::Raw => "raw",
        }
    }

    /// What the load generator calls it.
    pub(crate) fn dialect(self) -> &'static str {
        match self {
            Self::TidingsTls => Self::Tidings.name(),
            other => other.name(),
        }
    }
}

/// How a server is started, where a case needs it otherwise than usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The heartbeat interval.
    pub(crate) heartbeat: Option<Duration>,
    /// How long a stream may take nothing before it is closed.
    pub(crate) stall_timeout: Option<Duration>,
    /// Let streams be compressed.
    pub(crate) compression: bool,
    /// Events of the body that [`Kind::Append`] appends.
    pub(crate) append_events: usize,
    /// The log is in NATS JetStream, on a server that is started for it.
    pub(crate) jetstream: bool,
    /// Start the server once more on its log when the load is done, and time that.
    pub(crate) restart: bool,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) floor: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) raw: PathBuf,
    pub(crate) tidings: PathBuf,
    pub(crate) peers: Peers,
    /// Settings of Tidings from the command line, `NAME=VALUE`.
    pub(crate) settings: Vec<(String, String)>,
}

/// A running server.
pub(crate) struct Server {
    pub(super) child: Child,
    pub(crate) address: SocketAddrV4,
    /// Where it takes what is published, where that is another address.
    pub(crate) publish_address: Option<SocketAddrV4>,
    /// The certificate of one whose streams are over TLS.
    pub(crate) certificate: Option<PathBuf>,
    /// What answers for the application behind it, where it needs one.
    pub(super) origin: Option<Origin>,
    /// Where its log is, if that is elsewhere.
    pub(crate) nats: Option<Nats>,
    /// How long it took until it was ready.
    pub(crate) ready_after: Duration,
}

/// Runs `action` with this thread on one core; children that it starts stay there.
pub(crate) fn on_core<T>(core: usize, action: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("no core {core}: two are needed"))?;
    let outcome = action();
    sched_setaffinity(None, &before)?;
    Ok(outcome)
}

/// A command whose process ends with this one, however this one ends. The Ctrl-C of a terminal
/// does not reach it: this process ends it.
pub(crate) fn command(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "TERM", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

pub(crate) fn free_address() -> Result<SocketAddrV4> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(SocketAddrV4::new(
        Ipv4Addr::LOCALHOST,
        listener.local_addr()?.port(),
    ))
}

/// A certificate for loopback, which vouches for itself.
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    fn make(directory: &Path) -> Result<Self> {
        let (certificate, key) = (directory.join("tls.pem"), directory.join("tls.key"));
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench \
                         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let made = Command::new("openssl")
            .args(arguments.split_whitespace())
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .context("openssl, which makes the certificate")?;
        ensure!(
            made.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(Self { certificate, key })
    }
}

impl Server {
    /// Starts a server that keeps what it stores in `directory`.
    pub(crate) fn start(
        kind: Kind,
        programs: &Programs,
        setup: &Setup,
        directory: &Path,
    ) -> Result<Self> {
        match kind {
            Kind::Floor => Self::start_floor(programs, setup, directory),
            Kind::Tidings => Self::start_tidings(programs, setup, directory, None),
            Kind::TidingsTls => {
                let tls = Tls::make(directory)?;
                Self::start_tidings(programs, setup, directory, Some(tls))
            }
            Kind::Nchan => programs.peers.start_nchan(setup, directory),
            Kind::Pushpin => programs.peers.start_pushpin(setup, directory),
            Kind::Append | Kind::Raw => bail!("{} is no server", kind.name()),
        }
    }

    fn start_floor(programs: &Programs, setup: &Setup, directory: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut command = command(&programs.floor);
        command.arg("--sync").arg(directory).stdout(Stdio::piped());
        if let Some(heartbeat) = setup.heartbeat {
            command
                .arg("--heartbeat-ms")
                .arg(heartbeat.as_millis().to_string());
        }
        let mut child = on_core(SERVER_CORE, || command.spawn())?.context("starting the floor")?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").map(str::parse);
        let Some(Ok(address)) = address else {
            // It has ended, or says what nobody understands.
            let _ = child.kill();
            let _ = child.wait();
            bail!("the floor does not say where it listens: {line:?}");
        };
        let mut floor = Self::new(child, address);
        floor.ready_after = start.elapsed();
        Ok(floor)
    }

    fn start_tidings(
        programs: &Programs,
        setup: &Setup,
        directory: &Path,
        tls: Option<Tls>,
    ) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let output = std::fs::File::create(directory.join("tidings.out"))?;
        let mut command = command(&programs.tidings);
        command
            .arg("serve")
            .env("TIDINGS_LISTEN", address.to_string())
            .env("TIDINGS_ADMIN_LISTEN", admin.to_string())
            .env("TIDINGS_AUTH__JWT__SECRET", SECRET)
            .env("TIDINGS_LOG__PATH", directory.join("log"))
            .stdout(output.try_clone()?)
            .stderr(output);
        // All of the load comes from few users and addresses; the counting goes on, only the
        // limits are out of reach.
        for limit in [
            "STREAMS",
            "STREAMS_PER_TENANT",
            "STREAMS_PER_USER",
            "STREAMS_PER_ADDRESS",
            "MINTS_PER_ADDRESS",
            "PUBLISH_RATE",
        ] {
            command.env(format!("TIDINGS_LIMITS__{limit}"), "10000000");
        }
        if let Some(heartbeat) = setup.heartbeat {
            command.env(
                "TIDINGS_STREAM__HEARTBEAT",
                format!("{}ms", heartbeat.as_millis()),
            );
        }
        if let Some(stall) = setup.stall_timeout {
            command.env(
                "TIDINGS_STREAM__STALL_TIMEOUT",
                format!("{}ms", stall.as_millis()),
            );
        }
        let nats = if setup.jetstream {
            Some(Nats::start(programs.peers.nats()?, directory)?)
        } else {
            None
        };
        if let Some(nats) = &nats {
            command
                .env("TIDINGS_LOG__KIND", "jetstream")
                .env("TIDINGS_LOG__MAX_BYTES", "1GiB")
                .env("TIDINGS_NATS__URL", nats.url());
        }
        if setup.compression {
            command.env("TIDINGS_STREAM__COMPRESSION", r#"["zstd","gzip"]"#);
        }
        let secure = free_address()?;
        if let Some(tls) = &tls {
            command
                .env("TIDINGS_TLS__LISTEN", secure.to_string())
                .env("TIDINGS_TLS__CERTIFICATE_FILE", &tls.certificate)
                .env("TIDINGS_TLS__KEY_FILE", &tls.key);
        }
        command.envs(programs.settings.iter().cloned());
        let start = Instant::now();
        let child = on_core(SERVER_CORE, || command.spawn())?.context("starting Tidings")?;
        let mut server = Self::new(child, address);
        server.nats = nats;
        if let Some(tls) = tls {
            server.address = secure;
            server.publish_address = Some(address);
            server.certificate = Some(tls.certificate);
        }
        let says = || {
            let text = std::fs::read_to_string(directory.join("tidings.out")).unwrap_or_default();
            text.chars().take(2_000).collect::<String>()
        };
        server.await_ready(admin, start, says)
    }

    pub(crate) fn new(child: Child, address: SocketAddrV4) -> Self {
        Self {
            child,
            address,
            publish_address: None,
            certificate: None,
            origin: None,
            nats: None,
            ready_after: Duration::ZERO,
        }
    }

    /// Asks `/readyz` until it answers 200.
    pub(crate) fn await_ready(
        mut self,
        address: SocketAddrV4,
        start: Instant,
        says: impl Fn() -> String,
    ) -> Result<Self> {
        loop {
            if is_ready(address, "/readyz").unwrap_or(false) {
                self.ready_after = start.elapsed();
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}: {}", says());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "the server does not become ready: {}",
                says()
            );
            // Polling: another program's start has no handshake with this one.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Asks the server to stop and waits until it has; a server that does not is killed.
    /// Returns whether it stopped as asked.
    pub(crate) fn stop(mut self) -> Result<bool> {
        self.end()
    }

    fn end(&mut self) -> Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(false);
        }
        // What it leaves behind would disturb all that follows. Descriptors, since numbers are used
        // again.
        let below: Vec<OwnedFd> = Probe::new(self.process())
            .processes()
            .into_iter()
            .skip(1)
            .filter_map(|process| Pid::from_raw(process.cast_signed()))
            .filter_map(|process| pidfd_open(process, PidfdFlags::empty()).ok())
            .collect();
        let stopped = self.end_first();
        for process in below {
            // Mostly it has ended already.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        stopped
    }

    fn end_first(&mut self) -> Result<bool> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After stop() it has ended already; on the way out of an error nothing more can be done.
        let _ = self.end();
    }
}

/// Whether a page answers 200.
pub(crate) fn is_ready(address: SocketAddrV4, page: &str) -> Result<bool> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let request = format!("GET {page} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut head = [0; 12];
    connection.read_exact(&mut head)?;
    Ok(head.ends_with(b" 200"))
}
