//! One server, one load, one report.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bench_load::payload::Lane;
use bench_load::report::Report;
use rustix::fs::statfs;

use crate::cases::Case;
use crate::nats::Nats;
use crate::server::{Kind, LOAD_CORE, Programs, SECRET, SERVER_CORE, Server, command, on_core};

/// Everything that a round needs.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) scratch: PathBuf,
    /// Set by Ctrl-C.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Bench {
    /// Refuses a folder in memory, where a sync costs nothing.
    pub(crate) fn check_scratch(&self) -> Result<()> {
        const TMPFS: u64 = 0x0102_1994;
        let kind = statfs(&self.scratch).context("the scratch folder")?.f_type;
        ensure!(
            kind.cast_unsigned() != TMPFS,
            "{} is in memory, where durability costs nothing; give --scratch a folder on a disk",
            self.scratch.display()
        );
        Ok(())
    }

    /// Starts a server, puts the case's load on it, stops it.
    pub(crate) fn measure(&self, kind: Kind, case: &Case) -> Result<Report> {
        let directory = tempfile::Builder::new()
            .prefix("tidings-bench-")
            .tempdir_in(&self.scratch)?;
        if kind == Kind::Append {
            return self.append(case, directory.path());
        }
        if kind == Kind::Raw {
            return self.raw(case, directory.path());
        }
        let server = match Server::start(kind, &self.programs, &case.setup, directory.path()) {
            Ok(server) => server,
            Err(error) => return Ok(failed(&format!("it did not start: {error}"))),
        };
        let mut load = command(&self.programs.load);
        load.args(["--address", &server.address.to_string()])
            .args(["--dialect", kind.dialect()])
            .args(["--process", &server.process().to_string()])
            .args(["--secret", SECRET]);
        if let Some(address) = server.publish_address {
            load.args(["--publish-address", &address.to_string()]);
        }
        if let Some(nats) = &server.nats {
            load.args(["--broker", &nats.process().to_string()])
                .args(["--broker-monitor", &nats.monitor.to_string()]);
        }
        if let Some(certificate) = &server.certificate {
            load.arg("--certificate").arg(certificate);
        }
        load.args(&case.load);
        // A broker has a core of its own, as it has beside the bare client.
        let core = match server.nats {
            Some(_) => SERVER_CORE,
            None => LOAD_CORE,
        };
        let outcome = self.output(load, core, case.limit);
        let mut report = match outcome {
            Ok(output) => serde_json::from_str(&output).context("the report")?,
            Err(error) if self.stop.load(Ordering::Relaxed) => return Err(error),
            // The other rounds are still worth having.
            Err(error) => failed(&format!("the load generator failed: {error:#}")),
        };
        report.set("ready_ms", server.ready_after.as_secs_f64() * 1e3);
        if !server.stop()? && kind != Kind::Nchan {
            report.fault("the server did not stop by itself when asked");
        }
        if case.setup.restart {
            let again = Server::start(kind, &self.programs, &case.setup, directory.path())?;
            report.set("ready_again_ms", again.ready_after.as_secs_f64() * 1e3);
            again.stop()?;
        }
        Ok(report)
    }

    /// A bare append and sync of the bytes that the case publishes.
    fn append(&self, case: &Case, directory: &std::path::Path) -> Result<Report> {
        let mut body = Vec::new();
        for _ in 0..case.setup.append_events {
            Lane::new(0, 0).write_event(&mut body, 250, 0);
        }
        let seconds = case.seconds().unwrap_or(5.0);
        let mut append = command(&self.programs.floor);
        append
            .arg("append")
            .arg("--sync")
            .arg(directory)
            .args(["--bytes", &body.len().to_string()])
            .args(["--seconds", &format!("{:.0}", seconds.max(1.0))]);
        let output = self.output(append, SERVER_CORE, case.limit)?;
        let value: serde_json::Value = serde_json::from_str(&output)?;
        let number = |name: &str| value[name].as_f64().context("no number from append");
        let bodies = number("appends")? / number("seconds")?;
        let mut report = Report::default();
        report.set("bodies_per_s", bodies);
        report.set("events_per_s", bodies * case.setup.append_events as f64);
        Ok(report)
    }

    /// The bare client of NATS, on the core of the server that it stands in for.
    fn raw(&self, case: &Case, directory: &std::path::Path) -> Result<Report> {
        let nats = Nats::start(self.programs.peers.nats()?, directory)?;
        let mut raw = command(&self.programs.raw);
        raw.args(["--url", &nats.url()])
            .args(["--seconds", &case.seconds().unwrap_or(5.0).to_string()]);
        let output = self.output(raw, SERVER_CORE, case.limit)?;
        let value: serde_json::Value = serde_json::from_str(&output)?;
        let number = |name: &str| value[name].as_f64().context("no number from raw");
        let mut report = Report::default();
        report.set("events_per_s", number("events")? / number("seconds")?);
        Ok(report)
    }

    /// Runs a program on a core and returns what it prints; ends it on Ctrl-C and after `limit`.
    fn output(&self, mut command: Command, core: usize, limit: Duration) -> Result<String> {
        let mut child = on_core(core, || command.stdout(Stdio::piped()).spawn())??;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if self.stop.load(Ordering::Relaxed) {
                end(&mut child)?;
                bail!("stopped");
            }
            if start.elapsed() > limit {
                end(&mut child)?;
                bail!("not done after {} s", limit.as_secs());
            }
            // Rarely, so as not to take part in what is measured.
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut text = String::new();
        child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut text)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(text)
    }
}

/// The report of a round that came to nothing.
fn failed(why: &str) -> Report {
    let mut report = Report::default();
    report.fault(why);
    report
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
