//! A proxy that can be smuggled through, and one that only listens.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tidings_tests::Connection;

/// Passes requests on over one connection for all clients, each with its body and without its length: what is behind
/// a head is the next request to the server.
pub(crate) struct Leaky {
    pub(crate) address: SocketAddr,
}

impl Leaky {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let upstream = Arc::new(Mutex::new(None));
        // Ends with the process.
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let upstream = Arc::clone(&upstream);
                std::thread::spawn(move || {
                    // A client that leaves.
                    let _ = pass_on(socket, server, &upstream);
                });
            }
        });
        Self { address }
    }
}

fn pass_on(
    mut socket: TcpStream,
    server: SocketAddr,
    upstream: &Mutex<Option<Connection>>,
) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            fill(&mut socket, &mut read)?;
        };
        let head = String::from_utf8_lossy(&read[..end]).into_owned();
        let is_length = |line: &str| line.starts_with("Content-Length: ");
        let length = head.split("\r\n").find(|line| is_length(line));
        let length = length.and_then(|line| line[16..].parse::<usize>().ok());
        let whole = end + length.unwrap_or_default();
        while read.len() < whole {
            fill(&mut socket, &mut read)?;
        }
        let left_out = |line: &&str| !is_length(line) && *line != "Connection: close";
        let lines: Vec<&str> = head.split("\r\n").filter(left_out).collect();
        let mut passed = lines.join("\r\n").into_bytes();
        passed.extend_from_slice(&read[end..whole]);
        read.drain(..whole);
        let mut upstream = upstream.lock().expect("no thread panics");
        let mut connection = match upstream.take() {
            Some(connection) => connection,
            None => Connection::open(server)?,
        };
        connection.send(&passed)?;
        let answer = connection.read_answer()?;
        if answer.header("connection") != Some("close") {
            *upstream = Some(connection);
        }
        drop(upstream);
        socket.write_all(answer.head.as_bytes())?;
        socket.write_all(b"\r\n\r\n")?;
        socket.write_all(&answer.body)?;
        if head.contains("Connection: close") {
            return Ok(());
        }
    }
}

fn fill(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    match socket.read(&mut chunk)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            read.extend_from_slice(&chunk[..count]);
            Ok(())
        }
    }
}

/// What stands between a proxy and the server and notes what was said on each connection.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let said = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let noted = Arc::clone(&said);
        // Ends with the process.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else {
                    continue;
                };
                let number = {
                    let mut noted = noted.lock().expect("no thread panics");
                    noted.push(Vec::new());
                    noted.len() - 1
                };
                let noted = Arc::clone(&noted);
                let back = (far.try_clone(), near.try_clone());
                let (Ok(from), Ok(to)) = back else { continue };
                std::thread::spawn(move || carry(from, to, |_| ()));
                std::thread::spawn(move || {
                    carry(near, far, |bytes| {
                        noted.lock().expect("no thread panics")[number].extend_from_slice(bytes);
                    });
                });
            }
        });
        Self { address, said }
    }

    /// Whether both were said on one connection.
    pub(crate) fn has_shared(&self, one: &str, other: &str) -> bool {
        let said = self.said.lock().expect("no thread panics");
        said.iter().any(|bytes| {
            // Proxies write names as they like.
            let text = String::from_utf8_lossy(bytes).to_lowercase();
            text.contains(&one.to_lowercase()) && text.contains(&other.to_lowercase())
        })
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
