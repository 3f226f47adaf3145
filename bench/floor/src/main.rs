//! The floor: the least work with which one process can fan events out to many sockets.
//!
//! One thread, one epoll set, ready-made bytes, one `send` per event and socket, and one `send` of
//! everything a socket has not had when several events arrived together. It authorises nobody,
//! checks nothing and keeps a plain buffer for a log: what a server costs above it is the price of
//! what that server promises. The bytes on the wire are those that Tidings sends.
//!
//! ```text
//! floor --listen 127.0.0.1:8090 [--sync DIRECTORY] [--heartbeat-ms N] [--window-bytes N]
//! floor append --sync DIRECTORY --bytes N --seconds N      a bare append and fdatasync, no network
//! ```

mod append;
mod journal;
mod request;
mod room;
mod server;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

fn main() -> Result<()> {
    // The bench ends its children itself; this covers the bench being killed outright.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;

    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "append").is_some() {
        return append::run(&options(arguments)?);
    }
    let options = options(arguments)?;
    server::Server::start(&options)?.run()
}

/// What the command line says.
pub(crate) struct Options {
    /// Where to listen; port 0 lets the system choose. The address is printed.
    pub(crate) listen: SocketAddrV4,
    /// Make bodies durable in a file of this directory before they are answered and sent.
    pub(crate) sync: Option<PathBuf>,
    /// Send every stream a heartbeat once in this time.
    pub(crate) heartbeat: Option<Duration>,
    /// How many bytes of events a tenant keeps for streams that resume or lag.
    pub(crate) window_bytes: usize,
    /// `append`: bytes of one body.
    pub(crate) body_bytes: usize,
    /// `append`: how long to go on.
    pub(crate) seconds: u64,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        listen: SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0),
        sync: None,
        heartbeat: None,
        window_bytes: 64 << 20,
        body_bytes: 30_000,
        seconds: 5,
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => options.listen = value.parse().context("--listen")?,
            "--sync" => options.sync = Some(value.into()),
            "--heartbeat-ms" => {
                options.heartbeat = Some(Duration::from_millis(
                    value.parse().context("--heartbeat-ms")?,
                ));
            }
            "--window-bytes" => options.window_bytes = value.parse().context("--window-bytes")?,
            "--bytes" => options.body_bytes = value.parse().context("--bytes")?,
            "--seconds" => options.seconds = value.parse().context("--seconds")?,
            _ => bail!("unknown option {name}"),
        }
    }
    Ok(options)
}
