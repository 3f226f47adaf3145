//! The sink of a stream over TLS: a socket, and the connection that encrypts for it.
//!
//! What is encrypted must be sent, all of it and in order. So at most one record is encrypted ahead of what the
//! socket takes: while some of it waits, the sink takes nothing more, and its stream is blocked as one is whose plain
//! socket is full. A byte that was taken is in that record, or sent.

use std::io::{self, BufRead as _, IoSlice, Write};
use std::net::Shutdown;

use rustls::{ProtocolVersion, ServerConnection};
use smallvec::SmallVec;

use super::sink::Taken;

/// The most plaintext of one record (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// How many records are sent under one key of TLS 1.2, which has no way to change it. AES-GCM wears out at 2^24.5
/// (RFC 8446, section 5.5); the stream's client comes back before.
const RECORDS_OF_TLS12: u32 = 1 << 23;

/// A connection over TLS that was taken back from hyper.
#[derive(Debug)]
pub struct TlsSocket {
    socket: std::net::TcpStream,
    connection: ServerConnection,
}

impl TlsSocket {
    /// The connection and its socket, which must be non-blocking. What was read ahead is thrown away: a stream takes
    /// nothing from its client.
    #[must_use]
    pub fn new(socket: std::net::TcpStream, mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(RECORD));
        discard(&mut connection);
        Self { socket, connection }
    }

    pub(super) fn into_sink(self) -> TlsSink {
        let tls12 = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        TlsSink {
            socket: mio::net::TcpStream::from_std(self.socket),
            connection: self.connection,
            records_left: tls12.then_some(RECORDS_OF_TLS12),
            ended: false,
        }
    }
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// How many bytes the peer sent.
    pub(super) count: usize,
    /// It sends no more.
    pub(super) ended: bool,
}

/// The engine's side of a stream over TLS.
#[derive(Debug)]
pub(super) struct TlsSink {
    pub(super) socket: mio::net::TcpStream,
    connection: ServerConnection,
    /// How many more records may be sent, where that is limited.
    records_left: Option<u32>,
    /// The end of what is sent was said.
    ended: bool,
}

impl TlsSink {
    /// Encrypts and sends as much as can be taken without waiting.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Taken> {
        if !self.drain()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut rest: SmallVec<[IoSlice<'_>; 4]> = parts.iter().copied().collect();
        let mut rest = &mut rest[..];
        let mut taken = 0;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = self.encrypt(rest)?;
            taken += count;
            IoSlice::advance_slices(&mut rest, count);
            if !self.drain()? {
                return Ok(Taken {
                    bytes: taken,
                    full: true,
                });
            }
        }
        Ok(Taken {
            bytes: taken,
            full: false,
        })
    }

    /// Encrypts one record of what is offered, and gives how much of it is in there.
    fn encrypt(&mut self, offered: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(left) = &mut self.records_left {
            *left = left
                .checked_sub(1)
                .ok_or(io::ErrorKind::ConnectionAborted)?;
        }
        let mut writer = self.connection.writer();
        let count = match offered {
            [only] => writer.write(only)?,
            _ => writer.write_vectored(offered)?,
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(count)
    }

    /// Sends what is encrypted already. False where some of it still waits for the socket.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Outlet(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads once what the peer has sent, throws its data away and does what its TLS asks for. That can leave
    /// something to [`drain`](Self::drain).
    pub(super) fn read(&mut self) -> io::Result<Read> {
        let count = self.connection.read_tls(&mut &self.socket)?;
        let state = self.connection.process_new_packets();
        let state = state.map_err(|error| {
            // The alert that says so, if the socket takes it.
            let _ = self.drain();
            io::Error::new(io::ErrorKind::InvalidData, error)
        })?;
        discard(&mut self.connection);
        Ok(Read {
            count,
            ended: count == 0 || state.peer_has_closed(),
        })
    }

    /// Whether the peer has said in what was read already that it sends no more.
    pub(super) fn has_heard_the_end(&mut self) -> bool {
        matches!(self.connection.process_new_packets(), Ok(state) if state.peer_has_closed())
    }

    /// Says that nothing more is sent, behind all that was, and ends the sending side. False where that waits for the
    /// socket; it is to be called again then.
    pub(super) fn end(&mut self) -> io::Result<bool> {
        if !self.ended {
            self.ended = true;
            self.connection.send_close_notify();
        }
        if !self.drain()? {
            return Ok(false);
        }
        self.socket.shutdown(Shutdown::Write)?;
        Ok(true)
    }
}

/// Throws away what the peer sent. Nothing of it stays in memory.
fn discard(connection: &mut ServerConnection) {
    let mut reader = connection.reader();
    while let Ok(data) = reader.fill_buf() {
        let count = data.len();
        if count == 0 {
            return;
        }
        reader.consume(count);
    }
}

/// A socket as rustls writes to it: one record is one plain write.
struct Outlet<'s>(&'s mio::net::TcpStream);

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match parts {
            [only] => self.0.write(only),
            _ => self.0.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;

    use std::io::Read as _;

    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
    use tidings_tests::Certificates;

    use super::*;

    /// Both sides' terms.
    struct Terms {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
    }

    fn terms(version: &'static rustls::SupportedProtocolVersion) -> Terms {
        let files = Certificates::new();
        let read = |name: &str| std::fs::read(files.path(name)).unwrap();
        let certificate = |name: &str| CertificateDer::from_pem_slice(&read(name)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate("server.pem")], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Terms {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }

    /// A client that has made its handshake.
    struct Client {
        connection: ClientConnection,
        socket: TcpStream,
    }

    impl Client {
        /// Reads what is there now; what it amounts to is appended.
        fn read(&mut self, received: &mut Vec<u8>) {
            self.socket.set_nonblocking(true).unwrap();
            while self
                .connection
                .read_tls(&mut self.socket)
                .is_ok_and(|count| count > 0)
            {
                self.connection.process_new_packets().unwrap();
                let _ = self.connection.reader().read_to_end(received);
            }
            self.socket.set_nonblocking(false).unwrap();
            while self.connection.wants_write() {
                self.connection.write_tls(&mut self.socket).unwrap();
            }
        }
    }

    fn pair(terms: &Terms, send_buffer: usize) -> (TlsSink, Client) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket2::SockRef::from(&socket)
            .set_recv_buffer_size(send_buffer)
            .unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let mut connection = ClientConnection::new(Arc::clone(&terms.client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&terms.server)).unwrap();
        let serving = std::thread::spawn(move || {
            while server.is_handshaking() || server.wants_write() {
                server.complete_io(&mut far).unwrap();
            }
            (server, far)
        });
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut socket).unwrap();
        }
        let (server, far) = serving.join().unwrap();
        far.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&far)
            .set_send_buffer_size(send_buffer)
            .unwrap();
        let sink = TlsSocket::new(far, server).into_sink();
        (sink, Client { connection, socket })
    }

    fn is_blocked(outcome: &io::Result<Taken>) -> bool {
        matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes all of `bytes` in parts of these sizes while the client reads now and then, and gives what arrived.
    fn carried(sink: &mut TlsSink, client: &mut Client, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut received = Vec::new();
        let (mut start, mut turn) = (0, 0);
        while start < bytes.len() {
            let mut parts = Vec::new();
            let mut end = start;
            for _ in 0..=turn % 3 {
                let size = sizes[turn % sizes.len()].min(bytes.len() - end);
                parts.push(IoSlice::new(&bytes[end..end + size]));
                end += size;
                turn += 1;
            }
            let taken = sink.write(&parts);
            if is_blocked(&taken) {
                client.read(&mut received);
                continue;
            }
            let taken = taken.unwrap();
            assert!(taken.bytes == end - start || taken.full);
            start += taken.bytes;
        }
        while !sink.end().unwrap() {
            client.read(&mut received);
        }
        while !client
            .connection
            .process_new_packets()
            .unwrap()
            .peer_has_closed()
        {
            client.read(&mut received);
        }
        received
    }

    #[test]
    fn every_byte_that_is_taken_arrives_once_and_in_order() {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let terms = terms(version);
            proptest!(ProptestConfig::with_cases(24), |(
                sizes in proptest::collection::vec(0..60_000_usize, 1..12),
                length in 1..600_000_usize,
                send_buffer in 2_000..100_000_usize,
            )| {
                let sizes: Vec<usize> = sizes.iter().map(|size| size + 1).collect();
                let (mut sink, mut client) = pair(&terms, send_buffer);
                let bytes: Vec<u8> = (0..=250_u8).cycle().take(length).collect();
                let received = carried(&mut sink, &mut client, &bytes, &sizes);
                prop_assert!(received == bytes);
            });
        }
    }

    #[test]
    fn a_sink_that_is_full_holds_one_record_and_says_when_it_has_let_go_of_it() {
        let (mut sink, mut client) = pair(&terms(&rustls::version::TLS13), 4_096);
        let bytes = vec![b'x'; 10_000_000];
        let mut taken = 0;
        loop {
            let written = sink.write(&[IoSlice::new(&bytes)]);
            if is_blocked(&written) {
                // The client's kernel takes a while for the last of it, which can make room once more.
                if !sink.drain().unwrap() {
                    break;
                }
                continue;
            }
            let written = written.unwrap();
            assert!(written.full && written.bytes < bytes.len());
            taken += written.bytes;
        }
        let held = sink
            .connection
            .process_new_packets()
            .unwrap()
            .tls_bytes_to_write();
        assert!((1..=RECORD + 64).contains(&held), "{held}");
        let mut received = Vec::new();
        while !sink.drain().unwrap() {
            client.read(&mut received);
        }
        while received.len() < taken {
            client.read(&mut received);
        }
        assert_eq!(received.len(), taken);
    }

    fn read_once(sink: &mut TlsSink) -> Read {
        loop {
            match sink.read() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                read => return read.unwrap(),
            }
        }
    }

    #[test]
    fn a_client_can_have_new_keys_and_what_it_says_is_thrown_away() {
        let (mut sink, mut client) = pair(&terms(&rustls::version::TLS13), 100_000);
        client.connection.refresh_traffic_keys().unwrap();
        client
            .connection
            .writer()
            .write_all(b"nobody listens")
            .unwrap();
        client.connection.write_tls(&mut client.socket).unwrap();
        assert!(!read_once(&mut sink).ended);
        assert!(sink.drain().unwrap(), "the answer, this side's new keys");
        sink.write(&[IoSlice::new(b"event")]).unwrap();
        let mut received = Vec::new();
        while received.is_empty() {
            client.read(&mut received);
        }
        assert_eq!(received, b"event");
        client.connection.send_close_notify();
        client.connection.write_tls(&mut client.socket).unwrap();
        assert!(read_once(&mut sink).ended);
    }

    #[test]
    fn the_end_is_found_also_where_it_was_read_before_the_sink_was_made() {
        let terms = terms(&rustls::version::TLS13);
        let (sink, mut client) = pair(&terms, 100_000);
        client
            .connection
            .writer()
            .write_all(b"and no more")
            .unwrap();
        client.connection.send_close_notify();
        client.connection.write_tls(&mut client.socket).unwrap();
        let TlsSink {
            socket,
            mut connection,
            ..
        } = sink;
        while !connection.process_new_packets().unwrap().peer_has_closed() {
            let _ = connection.read_tls(&mut &socket);
        }
        let mut sink = TlsSocket::new(socket.into(), connection).into_sink();
        assert!(sink.has_heard_the_end());
    }

    #[test]
    fn a_stream_over_tls_12_ends_before_its_key_is_worn_out() {
        let (mut sink, mut client) = pair(&terms(&rustls::version::TLS12), 100_000);
        assert_eq!(sink.records_left, Some(RECORDS_OF_TLS12));
        sink.records_left = Some(1);
        sink.write(&[IoSlice::new(b"last")]).unwrap();
        let error = sink.write(&[IoSlice::new(b"one too many")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let mut received = Vec::new();
        while received.len() < 4 {
            client.read(&mut received);
        }
        assert_eq!(received, b"last");
    }
}
