//! Real brokers for the tests: `nats-server` and `redis-server` as child processes, each on free ports
//! of the loopback and with a temporary folder of its own. A guard that is dropped kills its process.
//!
//! - [`NatsServer`]: one server with JetStream.
//! - [`NatsCluster`]: several that are routed to each other, with one replicated JetStream.
//! - [`RedisServer`]: one server.
//! - [`Door`]: stands before one, and can be closed.
//!
//! Each can be killed, stopped, frozen (`SIGSTOP`) and started again on the same ports and folder.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::GUARD;
use crate::server::Output;

mod door;
mod nats;
mod nats_cluster;
mod redis;

pub use door::Door;
pub use nats::{NatsOptions, NatsServer};
pub use nats_cluster::NatsCluster;
pub use redis::{RedisOptions, RedisServer};

/// How often a condition is asked for again; nothing is taken for granted after it.
const POLL: Duration = Duration::from_millis(10);

/// How long one question to a broker that is not known to be well may take.
const ANSWER: Duration = Duration::from_secs(2);

/// How many sets of ports are tried: between choosing a port and binding it another process may take it.
pub(crate) const ATTEMPTS: usize = 5;

/// One broker's process over all its lives. Dropping it kills it, and shows what it wrote where the test failed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pub(crate) output: Arc<Output>,
    child: Option<Child>,
}

impl Process {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            output: Arc::default(),
            child: None,
        }
    }

    pub(crate) fn launch(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        self.output = self.output.continued();
        self.output.collect(child.stdout.take().expect("piped"));
        self.output.collect(child.stderr.take().expect("piped"));
        self.child = Some(child);
    }

    /// Waits until `is_ready`. Errors: what the process wrote, where it ended instead.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        is_ready: impl Fn() -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + GUARD;
        loop {
            let child = self.child.as_mut().expect("a running broker");
            if let Some(status) = child.try_wait().expect("a child of ours") {
                self.child = None;
                return Err(format!("{status}\n{}", self.output.text_at_end()));
            }
            if is_ready() {
                return Ok(());
            }
            assert!(
                Instant::now() < deadline,
                "{} is never {what}; it wrote:\n{}",
                self.name,
                self.output.text()
            );
            std::thread::sleep(POLL);
        }
    }

    fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref();
        Pid::from_child(child.unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process of ours");
    }

    fn freeze(&self) {
        freeze(self.pid());
    }

    /// Sends this and waits until the process is gone.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut child = self.child.take().expect("a running broker");
        child.wait().expect("a child of ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = self.output.text();
            eprintln!("--- {} wrote:\n{text}\n---", self.name);
        }
    }
}

/// Whether a start failed for a port that somebody else took first.
pub(crate) fn is_port_taken(said: &str) -> bool {
    said.to_lowercase().contains("in use")
}

/// Stops a process of ours where it is, and waits until it stands: a signal is on its way for a while.
pub(crate) fn freeze(process: Pid) {
    kill_process(process, Signal::STOP).expect("a process of ours");
    let threads = format!("/proc/{}/task", process.as_raw_nonzero());
    wait_for("the stop of a process", || {
        let mut threads = std::fs::read_dir(&threads).expect("a process of ours");
        threads.all(|thread| {
            let file = thread.expect("an entry").path().join("stat");
            // The state stands behind the name in parentheses (proc(5)).
            std::fs::read_to_string(file).is_ok_and(|text| {
                text.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            })
        })
    });
}

/// Waits until `is_so`, which must come; `what` says what did not.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(POLL);
    }
}

/// A connection whose reads and writes end within [`ANSWER`].
fn connect(address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let socket = std::net::TcpStream::connect_timeout(&address, ANSWER)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.set_write_timeout(Some(ANSWER))?;
    Ok(socket)
}
