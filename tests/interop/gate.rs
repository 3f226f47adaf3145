//! A gate in front of the server: it passes bytes on, and when it is shut every connection breaks
//! and none comes through.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tidings_tests::server::any_address;

/// Whether it is open, and what has come through.
struct Passing {
    open: bool,
    sockets: Vec<TcpStream>,
}

/// A gate; it lives as long as the test's process.
pub(crate) struct Gate {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    passing: Arc<Mutex<Passing>>,
}

impl Gate {
    /// An open gate before this address.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(any_address()).expect("binds");
        let address = listener.local_addr().expect("bound");
        let passing = Arc::new(Mutex::new(Passing {
            open: true,
            sockets: Vec::new(),
        }));
        let shared = Arc::clone(&passing);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Who finds it shut, or the server gone, is turned away: dropping the socket closes it.
                let _ = pass(client, server, &shared);
            }
        });
        Self { address, passing }
    }

    /// Breaks every connection and lets none through.
    pub(crate) fn shut(&self) {
        let mut passing = self.passing.lock().expect("nobody panics with it");
        passing.open = false;
        for socket in passing.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Lets them through again.
    pub(crate) fn open(&self) {
        self.passing.lock().expect("nobody panics with it").open = true;
    }
}

fn pass(client: TcpStream, server: SocketAddr, shared: &Mutex<Passing>) -> io::Result<()> {
    let mut passing = shared.lock().expect("nobody panics with it");
    if !passing.open {
        return Ok(());
    }
    let server = TcpStream::connect(server)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        passing.sockets.push(socket.try_clone()?);
    }
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            // As a proxy does: the end of one side is the end of the other.
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
