//! The server of this configuration, where one runs on this machine: it is what the limits and rights are of.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::report::Finding;
use super::wire::{self, Target};
use crate::config::Config;

/// A server that has the log's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// The user that it runs as.
    pub user: u32,
}

impl Running {
    /// The process that the log's lock names, if it lives.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let holder = tidings_log::holder(&config.log.path)?;
        let pid = pid_of(&holder)?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        // A lock outlives its process as a text, and a number is given again.
        let name = std::fs::read_to_string(process.join("comm")).ok()?;
        if name.trim() != "tidings" {
            return None;
        }
        let user = std::fs::metadata(&process).ok()?.uid();
        Some(Self { pid, user })
    }

    /// How many descriptors it may have; none where there is no limit, or it can't be read.
    #[must_use]
    pub fn descriptors(&self) -> Option<u64> {
        let path = format!("/proc/{}/limits", self.pid);
        open_files(&std::fs::read_to_string(Path::new(&path)).ok()?)
    }
}

/// The holder of a lock is `pid 42, listening on 127.0.0.1:8080`.
fn pid_of(holder: &str) -> Option<u32> {
    let rest = holder.strip_prefix("pid ")?;
    rest.split(',').next()?.parse().ok()
}

/// The hard limit on open files in `/proc/PID/limits`; the server raises its own soft one to it.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// Whether a server runs, and what it says of itself.
pub async fn check(config: &Config, server: Option<&Running>) -> Vec<Finding> {
    let Some(server) = server else {
        return vec![match taken(config).await {
            None => Finding::good("server", "none runs with this log; its ports are free"),
            Some(address) => Finding::problem(
                "server",
                format!("none runs with this log, and something else listens on {address}"),
                "a start would be refused: stop what listens there, or set listen to another port",
            ),
        }];
    };
    let said = wire::get(&Target::plain(config.admin_listen), "/readyz").await;
    vec![match said {
        Ok((200, _)) => Finding::good(
            "server",
            format!("process {} runs and is ready", server.pid),
        ),
        Ok((status, body)) => Finding::problem(
            "server",
            format!(
                "process {} runs and is not ready ({status}): {body}",
                server.pid
            ),
            "see the reasons; docs/faults.md says of each what to do",
        ),
        Err(error) => Finding::problem(
            "server",
            format!(
                "process {} has the log, but its admin listener does not answer: {error}",
                server.pid
            ),
            "check that admin_listen is what it was started with; look at its log, and restart it where it hangs",
        ),
    }]
}

/// An address of the API that somebody else has.
async fn taken(config: &Config) -> Option<SocketAddr> {
    let addresses = [config.listen, config.tls.listen];
    for address in addresses.into_iter().flatten() {
        if address.port() != 0 && Target::plain(address).connect().await.is_ok() {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_what_it_wrote() {
        assert_eq!(pid_of("pid 42, listening on 127.0.0.1:8080"), Some(42));
        for text in ["", "pid , x", "pid", "another process"] {
            assert_eq!(pid_of(text), None, "{text}");
        }
    }

    #[test]
    fn the_hard_limit_counts() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(524_288));
        assert_eq!(open_files(&text.replace("524288", "unlimited")), None);
        assert_eq!(open_files(""), None);
    }
}
