//! A node that breaks: it reads what it is asked, and hangs up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tidings_tests::proxies::Upstream;

/// An upstream that answers everything but streams and publishes, over connections that it keeps open. Of those it reads
/// the head and hangs up, as a node that is killed; it remembers their request lines. A stream for the token `warm` is
/// answered too, as one that is refused is.
pub(crate) struct Broken {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Broken {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let remembered = Arc::clone(&seen);
        // Ends with the process: a test has a handful of them.
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&remembered);
                std::thread::spawn(move || serve(socket, &seen));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn as_upstream(&self) -> Upstream {
        Upstream {
            address: self.address,
            admin: self.address,
        }
    }

    /// The request lines that it has hung up on.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no thread panics").clone()
    }
}

fn serve(mut socket: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            let mut chunk = [0; 4096];
            match socket.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => read.extend_from_slice(&chunk[..count]),
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).into_owned();
        read.drain(..end);
        let line = head.lines().next().unwrap_or_default().to_owned();
        let is_stream = line.contains("/events/stream") && !line.contains("token=warm");
        if line.starts_with("POST ") || is_stream {
            seen.lock().expect("no thread panics").push(line);
            return;
        }
        let answer = if line.contains("/busy") {
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Type: application/problem+json\r\n\
             Content-Length: 14\r\n\r\n{\"status\":503}"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        };
        if socket.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
