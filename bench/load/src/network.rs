//! Sockets: non-blocking, from many loopback addresses.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

/// How many connections come from one source address.
const PER_ADDRESS: u32 = 2_000;
/// The receive buffer of a stream that never reads: as a page that has been forgotten, not as one
/// that swallows megabytes first.
const DEAF_BUFFER: usize = 4 << 10;

/// Deals out source addresses of 127.0.0.0/8. One address has too few ports for many streams, and
/// those of connections just closed must rest.
#[derive(Debug)]
pub(crate) struct Sources {
    next: u32,
}

impl Sources {
    /// Begins at an address that depends on the process, so that runs in a row do not meet.
    pub(crate) fn new() -> Self {
        Self {
            next: (std::process::id() % 30_000) * 256 * PER_ADDRESS / 64,
        }
    }

    fn draw(&mut self) -> SocketAddrV4 {
        let host = self.next / PER_ADDRESS;
        self.next = self.next.wrapping_add(1);
        // 127.64.0.1 to 127.127.255.254: never 127.0.0.1, where the servers listen.
        let octets = [
            127,
            64 + (host / 64_516 % 64) as u8,
            (host / 254 % 254) as u8 + 1,
            (host % 254) as u8 + 1,
        ];
        SocketAddrV4::new(Ipv4Addr::from(octets), 0)
    }

    /// Begins to connect; the socket is writable when it is connected.
    pub(crate) fn connect(&mut self, address: SocketAddrV4, deaf: bool) -> Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .context("no socket: is the descriptor limit reached?")?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        // Closing resets, so that no port rests in TIME_WAIT.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        if deaf {
            sockopt::set_socket_recv_buffer_size(&socket, DEAF_BUFFER)?;
        }
        net::bind(&socket, &self.draw()).context("binding a source address")?;
        match net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error).context("connecting"),
        }
    }
}

/// Sends what the socket takes and returns how much that was; 0 while it is not connected.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize> {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(length) => Ok(length),
        Err(Errno::AGAIN | Errno::NOTCONN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
