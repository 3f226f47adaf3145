//! What a service manager is told and asks for: the protocol of `sd_notify(3)`, a few lines over a datagram socket.
//!
//! - [`watchdog`]: the sign of life, which is given only while everything moves.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything. Sockets that a manager passes on are taken by
//! [`Listeners`](crate::server::Listeners).

pub mod watchdog;

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a message waits for a manager that reads none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager, where there is one.
#[derive(Debug, Default)]
pub struct Supervisor {
    channel: Option<Channel>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Supervisor {
    /// The one that the environment of this process names. What is wrong with it is told, and it is gone without.
    #[must_use]
    pub fn of_process() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let channel = Channel::open(name.as_bytes())
            .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET can't be used"))
            .ok();
        let variable = |name| std::env::var(name).ok();
        Self {
            watchdog: channel.as_ref().and_then(|_| {
                let period = variable("WATCHDOG_USEC")?;
                watchdog_period(&period, variable("WATCHDOG_PID").as_deref())
            }),
            channel,
        }
    }

    /// How often the manager wants a sign of life at the least, if it does.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The server answers, or does so with new settings.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read anew. [`Supervisor::ready`] ends that.
    pub fn reloading(&self) {
        // By this clock the manager tells this reload from an earlier one (`Type=notify-reload`).
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The server is on its way out, which takes this long at most.
    pub fn stopping(&self, takes: Duration) {
        let takes = takes.as_micros();
        self.tell(&format!(
            "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={takes}"
        ));
    }

    /// What people see of the service.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}"));
    }

    /// Everything moves.
    fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, message: &str) {
        let Some(Channel { socket, address }) = &self.channel else {
            return;
        };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!(%error, message, "the service manager can't be told");
        }
    }
}

impl Channel {
    /// A path, or behind an `@` a name in the abstract namespace (unix(7)).
    fn open(name: &[u8]) -> io::Result<Self> {
        let address = match name {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name)))?,
            _ => {
                let problem = "neither an absolute path nor a name behind an @";
                return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address })
    }
}

/// Microseconds, which can be meant for another process.
fn watchdog_period(microseconds: &str, process: Option<&str>) -> Option<Duration> {
    let period = microseconds.parse().ok().filter(|&period| period > 0);
    let ours = process.is_none_or(|process| process == std::process::id().to_string());
    period.filter(|_| ours).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("tidings-test-{}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&address).unwrap();
        let places = [
            (at_path, path.as_os_str().as_bytes().to_vec()),
            (at_name, format!("@{name}").into_bytes()),
        ];
        for (manager, place) in places {
            let supervisor = Supervisor {
                channel: Some(Channel::open(&place).unwrap()),
                watchdog: None,
            };
            supervisor.ready("well");
            assert_eq!(received(&manager), "READY=1\nSTATUS=well");
            supervisor.reloading();
            let message = received(&manager);
            let (first, clock) = message.split_once('\n').unwrap();
            assert_eq!(first, "RELOADING=1");
            let clock = clock.strip_prefix("MONOTONIC_USEC=").unwrap();
            assert!(clock.parse::<u64>().unwrap() > 0);
        }
        assert!(Channel::open(b"vsock:2:1234").is_err());
        Supervisor::default().ready("nobody hears it");
    }

    #[test]
    fn a_watchdog_of_another_process_is_none_of_ours() {
        let second = Some(Duration::from_secs(1));
        let own = std::process::id().to_string();
        assert_eq!(watchdog_period("1000000", None), second);
        assert_eq!(watchdog_period("1000000", Some(&own)), second);
        assert_eq!(watchdog_period("1000000", Some("1")), None);
        assert_eq!(watchdog_period("0", None), None);
        assert_eq!(watchdog_period("soon", None), None);
    }
}
