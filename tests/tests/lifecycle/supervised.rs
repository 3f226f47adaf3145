//! Under a service manager: what it is told, and sockets that it keeps over restarts.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tidings_tests::http::try_exchange;
use tidings_tests::server::{any_address, binary};
use tidings_tests::{Connection, GUARD, Request, Setup};

/// A socket as systemd makes one for `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(GUARD)).expect("a socket");
        Self { socket, folder }
    }

    fn setup(&self) -> Setup {
        let path = self.folder.path().join("notify");
        Setup::new().set("NOTIFY_SOCKET", path.to_str().expect("plain"))
    }

    /// The next message: assignments by name.
    fn told(&self) -> BTreeMap<String, String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        let text = std::str::from_utf8(&message[..length]).expect("text");
        let lines = text
            .lines()
            .map(|line| line.split_once('=').expect("an assignment"));
        lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The next message that says this.
    fn told_of(&self, name: &str) -> BTreeMap<String, String> {
        loop {
            let message = self.told();
            if message.contains_key(name) {
                assert!(name == "STATUS" || message[name] == "1", "{message:?}");
                return message;
            }
        }
    }
}

#[test]
fn the_manager_is_told_when_it_serves_and_when_it_stops() {
    let manager = Manager::new();
    let mut server = manager.setup().start();
    let ready = manager.told_of("READY");
    assert!(
        ready["STATUS"].contains(&server.address.to_string()),
        "{ready:?}"
    );
    server.signal(Signal::HUP);
    let reloading = manager.told_of("RELOADING");
    assert!(
        reloading["MONOTONIC_USEC"]
            .parse::<u64>()
            .is_ok_and(|now| now > 0)
    );
    manager.told_of("READY");
    server.signal(Signal::TERM);
    let stopping = manager.told_of("STOPPING");
    let takes = stopping["EXTEND_TIMEOUT_USEC"]
        .parse::<u64>()
        .expect("microseconds");
    assert!(takes >= 8_000_000, "{stopping:?}");
    assert!(server.wait().success());
}

#[test]
fn signs_of_life_come_as_long_as_everything_moves() {
    let manager = Manager::new();
    let mut server = manager.setup().set("WATCHDOG_USEC", "300000").start();
    // That none is left out can't be asked for: whatever stands still for a tenth of a second costs one.
    for _ in 0..5 {
        manager.told_of("WATCHDOG");
    }
    assert!(server.stop().success());
}

/// A server with sockets of a service manager, and addresses of its own that it could not have.
fn with_sockets(
    program: &str,
    arguments: &[&str],
    folder: &Path,
    admin: Option<SocketAddr>,
) -> Command {
    let admin = admin.map_or("192.0.2.1:2".to_owned(), |admin| admin.to_string());
    let path = folder.join("log").display().to_string();
    let settings = [
        ("TIDINGS_LISTEN", "192.0.2.1:1".to_owned()),
        ("TIDINGS_ADMIN_LISTEN", admin),
        ("TIDINGS_LOG__PATH", path),
        ("TIDINGS_AUTH__JWT__SECRET", "x".repeat(32)),
    ];
    let mut command = Command::new(program);
    command.args(arguments).env_remove("TIDINGS_BIN");
    for (name, value) in settings {
        if program == "systemd-socket-activate" {
            // It passes on what it is told to, and nothing else.
            command.arg("-E").arg(format!("{name}={value}"));
        } else {
            command.env(name, value);
        }
    }
    command.arg(binary()).arg("serve").current_dir(folder);
    command
}

/// Ends with the test.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("a process of ours");
        assert!(self.0.wait().expect("a child of ours").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until_ready(admin: SocketAddr) {
    let deadline = Instant::now() + GUARD;
    while !try_exchange(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200) {
        assert!(Instant::now() < deadline, "never ready");
        std::thread::yield_now();
    }
}

#[test]
fn systemd_s_sockets_are_used_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let [public, admin] = [any_address(), any_address()];
    let [public_text, admin_text] = [public, admin].map(|address| address.to_string());
    let arguments = [
        "--listen",
        &admin_text,
        "--listen",
        &public_text,
        "--fdname=admin_listen:listen",
    ];
    let mut command = with_sockets("systemd-socket-activate", &arguments, folder.path(), None);
    // It becomes the server when the first connection comes.
    let mut server = Running(
        command
            .stdin(Stdio::null())
            .spawn()
            .expect("systemd-socket-activate"),
    );
    wait_until_ready(admin);
    let answer = try_exchange(public, &Request::get("/openapi.json")).expect("an answer");
    assert_eq!(answer.status, 200);
    server.stop();
}

#[test]
fn over_a_restart_every_attempt_to_connect_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let public = socket.local_addr().expect("an address");
    let admin = any_address();
    // As a service manager does it: the socket is descriptor 3 of the process that it starts.
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=listen; exec \"$@\"";
    let start = || {
        let mut command = with_sockets("sh", &["-c", script, "sh"], folder.path(), Some(admin));
        let socket = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let server = Running(command.stdin(socket).spawn().expect("sh"));
        wait_until_ready(admin);
        server
    };
    let mut server = start();
    let request = Request::get("/openapi.json").bytes();
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let mut connection = Connection::open(public).expect("the socket is kept");
                let sent = connection.send(&request);
                // Who says nothing for half a second is not waited for at a stop.
                let is_late = begun.elapsed() > Duration::from_millis(400);
                match sent.and_then(|()| connection.read_answer()) {
                    Ok(answer) => assert_eq!(answer.status, 200),
                    Err(error) => assert!(is_late, "no answer: {error}"),
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            let before = answered.load(Ordering::Relaxed);
            while answered.load(Ordering::Relaxed) < before + 5 && !asking.is_finished() {
                std::thread::yield_now();
            }
            server.stop();
            server = start();
        }
        done.store(true, Ordering::Relaxed);
        asking.join().expect("every attempt was answered");
    });
    server.stop();
}
