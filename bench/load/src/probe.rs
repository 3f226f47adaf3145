//! What a server process has used, read from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::clock;

/// CPU time that a process and all below it have used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// When it was read, by [`clock::now`].
    pub at: u64,
    /// Nanoseconds on a CPU, from `schedstat`, exact.
    pub cpu: u64,
    /// Clock ticks (10 ms) in user mode and in the kernel, as the kernel tells them apart.
    pub user_ticks: u64,
    /// See `user_ticks`.
    pub system_ticks: u64,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Seconds between the readings.
    pub elapsed: f64,
    /// Seconds of CPU.
    pub cpu: f64,
    /// Of these, in user mode: `cpu` divided as the ticks are.
    pub user: f64,
    /// Of these, in the kernel.
    pub system: f64,
}

/// A server process, watched from outside.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    process: u32,
}

impl Probe {
    /// A probe of the process with this id and of all below it: nginx works in a child, Pushpin in
    /// several.
    #[must_use]
    pub fn new(process: u32) -> Self {
        Self { process }
    }

    /// A probe of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::new(std::process::id())
    }

    /// The process and all below it, each behind the one that started it.
    #[must_use]
    pub fn processes(self) -> Vec<u32> {
        let mut processes = vec![self.process];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            // Each thread has the children that it started.
            let tasks = fs::read_dir(format!("/proc/{process}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                let children = children.split_whitespace().map(str::parse::<u32>);
                processes.extend(children.flatten());
            }
            next += 1;
        }
        processes
    }

    /// Reads what has been used so far.
    pub fn usage(self) -> Result<Usage> {
        let mut usage = Usage {
            at: clock::now(),
            ..Usage::default()
        };
        for process in self.processes() {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))
                .context("the server is gone")?;
            // The command in the second field may hold anything but ends at the last bracket.
            let fields = stat.rsplit_once(')').context("stat without a command")?.1;
            let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
            usage.user_ticks += ticks.next().context("no utime")??;
            usage.system_ticks += ticks.next().context("no stime")??;
            for task in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
                // A thread may end between the two readings.
                let schedstat =
                    fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let on_cpu = schedstat.split_whitespace().next().map(str::parse::<u64>);
                usage.cpu += on_cpu.transpose()?.unwrap_or(0);
            }
        }
        Ok(usage)
    }

    /// What was used since `before`.
    pub fn since(self, before: &Usage) -> Result<Used> {
        let now = self.usage()?;
        let user = now.user_ticks.saturating_sub(before.user_ticks) as f64;
        let system = now.system_ticks.saturating_sub(before.system_ticks) as f64;
        let cpu = now.cpu.saturating_sub(before.cpu) as f64 / 1e9;
        let user_share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        Ok(Used {
            elapsed: clock::seconds(now.at - before.at),
            cpu,
            user: cpu * user_share,
            system: cpu * (1.0 - user_share),
        })
    }

    /// The memory that is the server's own: PSS, in bytes.
    pub fn memory(self) -> Result<u64> {
        let mut total = 0;
        for process in self.processes() {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
                .context("the server is gone")?;
            total += kilobytes(&rollup, "Pss:").context("no Pss")?;
        }
        Ok(total)
    }
}

/// What the kernel holds for TCP, in bytes: data in socket buffers, of all sockets of the machine,
/// so of both ends of a loopback connection.
pub fn socket_buffers() -> Result<u64> {
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    let line = sockstat
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .context("no TCP")?;
    let pages = line.rsplit_once("mem ").context("no mem")?.1;
    Ok(pages.trim().parse::<u64>()? * rustix::param::page_size() as u64)
}

/// The kernel's slab memory, in bytes: socket structures and much else of the machine.
pub fn slab() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    kilobytes(&meminfo, "Slab:").context("no Slab")
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()
        .map(|value| value * 1024)
}
