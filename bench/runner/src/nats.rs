//! A `nats-server` with JetStream beside what is measured, on the core that is otherwise the load generator's.

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::{LOAD_CORE, command, free_address, is_ready, on_core};

/// A server of its own. Dropping it ends it.
pub(crate) struct Nats {
    child: Child,
    /// Where clients connect.
    pub(crate) address: SocketAddrV4,
    /// Where its monitoring is.
    pub(crate) monitor: SocketAddrV4,
}

impl Nats {
    /// Starts one that keeps its streams in `directory`, and waits until JetStream is up.
    pub(crate) fn start(program: &Path, directory: &Path) -> Result<Self> {
        let (address, monitor) = (free_address()?, free_address()?);
        let output = std::fs::File::create(directory.join("nats.out"))?;
        let mut command = command(program);
        command
            .args(["--addr", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--http_port", &monitor.port().to_string()])
            .arg("--jetstream")
            .arg("--store_dir")
            .arg(directory.join("nats"))
            .stdout(Stdio::null())
            .stderr(output);
        let start = Instant::now();
        let child = on_core(LOAD_CORE, || command.spawn())?.context("starting nats-server")?;
        let mut nats = Self {
            child,
            address,
            monitor,
        };
        while !is_ready(monitor, "/healthz").unwrap_or(false) {
            if let Some(status) = nats.child.try_wait()? {
                bail!("nats-server ended with {status}");
            }
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "nats-server does not become ready"
            );
            // Polling: another program's start has no handshake with this one.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(nats)
    }

    /// Its process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where clients connect, as they are told.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
