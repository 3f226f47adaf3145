//! The application that Pushpin asks about each stream: it says yes, and which channel.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// A thread that answers until this is dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddrV4,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts it on the core of the calling thread; streams are kept alive every `heartbeat` seconds.
    pub(crate) fn start(heartbeat: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Who asks badly gets no answer, and the load generator says what came of it.
                let _ = connection
                    .map_err(Into::into)
                    .and_then(|connection| answer(connection, heartbeat));
            }
        };
        let thread = std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(serve)?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a connection; this one is the last.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// One request a connection: what this costs is the application's, not Pushpin's.
fn answer(mut connection: TcpStream, heartbeat: u64) -> Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let length = connection.read(&mut buffer)?;
        ensure!(length > 0 && head.len() < 64 << 10, "no request");
        head.extend_from_slice(&buffer[..length]);
    }
    let head = String::from_utf8(head).context("the head is no text")?;
    connection.write_all(response(&head, heartbeat).as_bytes())?;
    Ok(())
}

/// The answer to a request for `/tenants/{tenant}/events/stream`, or for anything else.
fn response(head: &str, heartbeat: u64) -> String {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let tenant = path
        .strip_prefix("/tenants/")
        .and_then(|rest| rest.strip_suffix("/events/stream"));
    let hold = tenant.map_or_else(String::new, |tenant| {
        format!(
            "Content-Type: text/event-stream\r\nGrip-Hold: stream\r\nGrip-Channel: {tenant}\r\n\
             Grip-Keep-Alive: : heartbeat\\n; format=cstring; timeout={heartbeat}\r\n"
        )
    });
    format!("HTTP/1.1 200 OK\r\n{hold}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_are_held_each_on_the_channel_of_its_tenant() {
        let held = response("GET /tenants/ab-1/events/stream HTTP/1.1\r\n\r\n", 7);
        for field in [
            "Grip-Hold: stream\r\n",
            "Grip-Channel: ab-1\r\n",
            "Grip-Keep-Alive: : heartbeat\\n; format=cstring; timeout=7\r\n",
        ] {
            assert!(held.contains(field), "{field} is not in {held}");
        }
        let ready = response("GET /readyz HTTP/1.1\r\n\r\n", 7);
        assert!(ready.starts_with("HTTP/1.1 200 ") && !ready.contains("Grip"));
    }
}
