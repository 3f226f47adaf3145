//! A process of which parts are stuck: the admin listener answers, and the watchdog tells.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tidings::config::{Settings, resolve};
use tidings::server::{Listeners, Server};
use tidings::shutdown::Orders;
use tidings::supervisor::watchdog::{Pulse, Stuck};
use tokio::runtime::Runtime;

/// How many threads serve the API here.
const WORKERS: usize = 2;

/// A server in this process, whose threads can be blocked.
struct Blockable {
    runtime: Runtime,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Blockable {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = [
            ("listen", "127.0.0.1:0"),
            ("admin_listen", "127.0.0.1:0"),
            ("log.path", folder.path().to_str().expect("a name")),
            (
                "auth.jwt.secret",
                "a secret that is long enough to sign with",
            ),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = Settings::gather(&[], None, &[], &flags).expect("keys");
        let config = resolve(settings).expect("values").config;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .expect("a runtime");
        let listeners = Listeners::bind(&config).expect("ports");
        let server = runtime
            .block_on(Server::start(config, listeners))
            .expect("a server");
        let started = Self {
            runtime,
            server,
            _folder: folder,
        };
        while started.admin("/readyz") != 200 {
            // The state is being read.
            std::thread::yield_now();
        }
        started
    }

    fn admin(&self, path: &str) -> u16 {
        get(self.server.admin_address(), path)
    }

    /// Keeps every thread that answers requests busy until what it gives is dropped.
    fn block(&self) -> Vec<Sender<()>> {
        let all_blocked = Arc::new(Barrier::new(WORKERS + 1));
        let releases = (0..WORKERS)
            .map(|_| {
                let blocked = Arc::clone(&all_blocked);
                let (release, released) = channel();
                self.runtime.spawn(async move {
                    blocked.wait();
                    let _ = released.recv();
                });
                release
            })
            .collect();
        all_blocked.wait();
        releases
    }

    fn stop(self) {
        self.runtime.block_on(async {
            let mut orders = Orders::watch().expect("signals");
            self.server.stop(&mut orders).await;
        });
    }
}

/// The status of an answer.
fn get(address: SocketAddr, path: &str) -> u16 {
    status(&answer(address, path))
}

fn status(answer: &str) -> u16 {
    answer
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
}

/// An answer, head and body.
fn answer(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("a connection");
    socket
        .set_read_timeout(Some(Duration::from_mins(1)))
        .expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

/// It ran among the requests of clients, and was silent when publishes kept all threads busy.
#[test]
fn health_and_metrics_are_told_while_no_thread_of_the_api_is_free() {
    let process = Blockable::start();
    let blocked = process.block();
    assert_eq!(process.admin("/healthz"), 200);
    assert_eq!(process.admin("/readyz"), 200);
    assert_eq!(process.admin("/nothing"), 404);
    // Also what is counted: that is when an operator wants to know it.
    let scrape = answer(process.server.admin_address(), "/metrics");
    assert_eq!(status(&scrape), 200);
    assert!(scrape.contains("\ntidings_ready 1\n"), "{scrape}");
    drop(blocked);
    assert_eq!(get(process.server.address(), "/openapi.json"), 200);
    process.stop();
}

#[test]
fn a_watchdog_is_fed_only_while_everything_moves() {
    let process = Blockable::start();
    let mut pulse = Pulse::of(process.server.app(), process.runtime.handle().clone());
    assert_eq!(pulse.look(), Ok(()));
    while pulse.look().is_err() {
        std::thread::yield_now();
    }
    let blocked = process.block();
    let _ = pulse.look();
    assert_eq!(pulse.look(), Err(Stuck::Requests));
    drop(blocked);
    while pulse.look().is_err() {
        std::thread::yield_now();
    }
    process.stop();
}
