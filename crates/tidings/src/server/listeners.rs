//! The sockets that a server listens on: those that a service manager passes on (`sd_listen_fds(3)`), so that they
//! outlive the process and no connection is refused while it restarts, and its own for the rest.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use tokio::net::TcpListener as Watched;

use super::StartError;
use super::accept::watched;
use crate::config::Config;

/// What sockets are for, each named like the setting of its address, in the order in which sockets without such a
/// name are taken.
const USES: [&str; 3] = ["listen", "admin_listen", "tls.listen"];

/// The sockets that a server listens on, bound before anything else happens.
pub struct Listeners {
    /// For browsers, clients and publishers, in the clear.
    pub public: Option<TcpListener>,
    /// The same over TLS.
    pub tls: Option<TcpListener>,
    /// For health checks.
    pub admin: TcpListener,
}

impl Listeners {
    /// Takes the sockets that the process was started with, and binds the addresses of the configuration for what
    /// none of them is for.
    ///
    /// # Errors
    ///
    /// Names the address that can't be had, or the socket that is none to listen on.
    pub fn take(config: &Config) -> Result<Self, StartError> {
        let mut inherited = Inherited::of_process()?;
        let mut take = |key, address| match inherited.take(key) {
            None => bind_if(key, address),
            socket => Ok(socket),
        };
        let public = take("listen", config.listen)?;
        let tls = match config.tls.listen {
            // Without a certificate a socket is of no use.
            None => None,
            address => take("tls.listen", address)?,
        };
        let admin = match inherited.take("admin_listen") {
            None => bind("admin_listen", config.admin_listen)?,
            Some(socket) => socket,
        };
        let listeners = Self { public, tls, admin };
        inherited.tell_of_the_rest();
        Ok(listeners)
    }

    /// Binds the addresses of a configuration.
    ///
    /// # Errors
    ///
    /// Names the address that can't be had.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            public: bind_if("listen", config.listen)?,
            tls: bind_if("tls.listen", config.tls.listen)?,
            admin: bind("admin_listen", config.admin_listen)?,
        })
    }
}

/// The public listeners within the runtime, and where they are.
pub(super) struct Served {
    pub(super) public: Option<(Watched, SocketAddr)>,
    pub(super) tls: Option<(Watched, SocketAddr)>,
}

impl Served {
    pub(super) fn by(
        public: Option<TcpListener>,
        tls: Option<TcpListener>,
    ) -> Result<Self, StartError> {
        let public = public.map(|listener| served("listen", listener));
        let tls = tls.map(|listener| served("tls.listen", listener));
        Ok(Self {
            public: public.transpose()?,
            tls: tls.transpose()?,
        })
    }

    /// Where the API is, in the clear if it is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let any = self.public.as_ref().or(self.tls.as_ref());
        any.map(|(_, address)| *address)
    }
}

fn served(key: &'static str, listener: TcpListener) -> Result<(Watched, SocketAddr), StartError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = listener.local_addr();
    let not_usable = |source| StartError::Listen {
        key,
        address: *address.as_ref().unwrap_or(&nowhere),
        source,
    };
    let listener = watched(listener).map_err(not_usable)?;
    let address = listener.local_addr().map_err(not_usable)?;
    Ok((listener, address))
}

/// Sockets of the service manager, each with what it is for.
struct Inherited(Vec<(Option<&'static str>, TcpListener)>);

impl Inherited {
    fn of_process() -> Result<Self, StartError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for (number, use_) in uses(&names, passed.len()).into_iter().enumerate() {
            let socket = passed
                .take_tcp_listener(number)
                .and_then(|socket| socket.ok_or_else(|| io::Error::other("it was taken already")));
            let socket = socket.map_err(|source| StartError::Inherited { number, source })?;
            sockets.push((use_, socket));
        }
        Ok(Self(sockets))
    }

    fn take(&mut self, key: &'static str) -> Option<TcpListener> {
        let place = self.0.iter().position(|(use_, _)| *use_ == Some(key))?;
        let (_, socket) = self.0.swap_remove(place);
        tracing::info!(
            setting = key,
            "the service manager's socket is used in place of this address"
        );
        Some(socket)
    }

    fn tell_of_the_rest(&self) {
        if !self.0.is_empty() {
            let count = self.0.len();
            tracing::warn!(
                count,
                "the service manager passes on more sockets than there is use for"
            );
        }
    }
}

/// What each of so many sockets is for: by its name where that is a use's, otherwise the first use that no name
/// speaks of. Names are separated by colons and can be missing.
fn uses(names: &str, count: usize) -> Vec<Option<&'static str>> {
    let named = |name: &str| USES.into_iter().find(|&use_| use_ == name);
    let names: Vec<Option<&'static str>> = names.split(':').map(named).collect();
    let mut left = USES
        .into_iter()
        .filter(|&use_| !names.contains(&Some(use_)));
    (0..count)
        .map(|number| names.get(number).copied().flatten().or_else(|| left.next()))
        .collect()
}

fn bind_if(
    key: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    address.map(|address| bind(key, address)).transpose()
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || -> io::Result<TcpListener> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A server that was killed starts again at once on the same port.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|source| StartError::Listen {
        key,
        address,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_what_its_name_says_and_the_others_go_by_their_order() {
        let (public, admin) = (Some("listen"), Some("admin_listen"));
        assert_eq!(uses("", 0), []);
        assert_eq!(uses("", 1), [public]);
        assert_eq!(
            uses("tidings.socket:tidings-admin.socket", 2),
            [public, admin]
        );
        assert_eq!(uses("admin_listen", 1), [admin]);
        assert_eq!(uses("admin_listen:listen", 2), [admin, public]);
        assert_eq!(uses("unknown:listen", 2), [admin, public]);
        let tls = Some("tls.listen");
        assert_eq!(uses("listen", 4), [public, admin, tls, None]);
        assert_eq!(uses("tls.listen:listen", 2), [tls, public]);
    }
}
