//! A door before a broker: whoever comes through it can be cut off from a broker that others reach.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Leads to a broker as long as it is open.
#[derive(Debug)]
pub struct Door {
    /// Where it is.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    closed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Door {
    /// An open door to a broker.
    pub fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let shared = Arc::new(Shared {
            to: address,
            closed: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let address = listener.local_addr().expect("an address");
        let serving = Arc::clone(&shared);
        // It ends with the process.
        thread::spawn(move || {
            for inner in listener.incoming().flatten() {
                let _ = serving.let_in(inner);
            }
        });
        Self { address, shared }
    }

    /// Its URL for NATS.
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts everybody off.
    pub fn close(&self) {
        let mut connections = self.shared.connections.lock().expect("no panic");
        self.shared.closed.store(true, Ordering::Release);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    pub fn open(&self) {
        self.shared.closed.store(false, Ordering::Release);
    }
}

impl Shared {
    fn let_in(&self, inner: TcpStream) -> io::Result<()> {
        let mut connections = self.connections.lock().expect("no panic");
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let outer = TcpStream::connect(self.to)?;
        connections.push(inner.try_clone()?);
        connections.push(outer.try_clone()?);
        let ways = [(inner.try_clone()?, outer.try_clone()?), (outer, inner)];
        for (mut from, mut to) in ways {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
