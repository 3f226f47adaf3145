//! A door before a broker: whoever comes through it can be cut off from a broker that others reach.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
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
    held: Mutex<bool>,
    released: Condvar,
}

impl Door {
    /// An open door to a broker.
    pub fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let shared = Arc::new(Shared {
            to: address,
            closed: AtomicBool::new(false),
            connections: Mutex::default(),
            held: Mutex::new(false),
            released: Condvar::new(),
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
        *self.shared.held.lock().expect("no panic") = false;
        self.shared.released.notify_all();
    }

    /// Lets nothing through, as a network that drops everything: connections stay open and nobody is told. What was
    /// sent meanwhile arrives when it is open again.
    pub fn hold(&self) {
        *self.shared.held.lock().expect("no panic") = true;
    }
}

impl Shared {
    /// Carries bytes from one side to the other, while it may.
    fn carry(&self, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from.read(&mut buffer)?;
            let held = self.held.lock().expect("no panic");
            drop(
                self.released
                    .wait_while(held, |held| *held)
                    .expect("no panic"),
            );
            if length == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..length])?;
        }
    }

    fn let_in(self: &Arc<Self>, inner: TcpStream) -> io::Result<()> {
        let mut connections = self.connections.lock().expect("no panic");
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let outer = TcpStream::connect(self.to)?;
        connections.push(inner.try_clone()?);
        connections.push(outer.try_clone()?);
        let ways = [(inner.try_clone()?, outer.try_clone()?), (outer, inner)];
        for (mut from, mut to) in ways {
            let shared = Arc::clone(self);
            thread::spawn(move || {
                let _ = shared.carry(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
