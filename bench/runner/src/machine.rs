//! The machine that was measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gb: f64,
    pub(crate) kernel: String,
    /// The most descriptors of one process.
    pub(crate) descriptors: u64,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name| {
            let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kilobytes = memory
            .trim_end_matches(" kB")
            .parse::<f64>()
            .unwrap_or_default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: (kilobytes / 1e5).round() / 10.0,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            descriptors: limit.maximum.unwrap_or(u64::MAX),
        }
    }
}

/// The first line that a program prints; empty where there is none.
pub(crate) fn line_of(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The commit of a repository, with a mark where tracked files are changed.
pub(crate) fn commit(directory: &Path) -> String {
    let commit = line_of("git", &["rev-parse", "--short=12", "HEAD"], directory);
    let changed = line_of(
        "git",
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            "crates",
        ],
        directory,
    );
    if changed.is_empty() {
        commit
    } else {
        format!("{commit} with changes")
    }
}
