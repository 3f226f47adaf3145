//! Streams over TLS, as a client has them.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::fd::OwnedFd;
use rustix::net::{self, RecvFlags, SendFlags};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What all streams to a server agree on.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Terms {
    /// TLS to a server on loopback that has this certificate.
    pub(crate) fn trusting(certificate: &Path) -> Result<Self> {
        let der = CertificateDer::from_pem_file(certificate).context("the certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(der)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Thousands of streams begin together; none comes back.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name: ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        })
    }

    /// A stream's side of TLS, which will send `request` first.
    pub(crate) fn begin(&self, request: &[u8]) -> Result<Line> {
        let mut connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        // It is kept until the handshake is over.
        connection.writer().write_all(request)?;
        Ok(Line { connection })
    }
}

/// TLS of one stream.
#[derive(Debug)]
pub(crate) struct Line {
    connection: ClientConnection,
}

impl Line {
    /// Goes on with the handshake and what is to be sent; true when there is nothing more of either.
    pub(crate) fn advance(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        loop {
            while self.connection.wants_write() {
                match self.connection.write_tls(&mut Wire(socket)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            match self.connection.read_tls(&mut Wire(socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            self.process()?;
        }
    }

    /// Whether it waits for room to send.
    pub(crate) fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Reads what there is, up to about half of `into`; 0 at the end.
    pub(crate) fn receive(&mut self, socket: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() / 2 {
            match self.connection.read_tls(&mut Wire(socket)) {
                Ok(0) => return Ok(filled),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            }
            self.process()?;
            loop {
                match self.connection.reader().read(&mut into[filled..]) {
                    Ok(0) => return Ok(filled),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(filled)
    }

    fn process(&mut self) -> io::Result<()> {
        let state = self.connection.process_new_packets();
        state.map_err(io::Error::other)?;
        Ok(())
    }
}

/// A socket as rustls reads and writes it.
struct Wire<'s>(&'s OwnedFd);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (count, _) = net::recv(self.0, into, RecvFlags::empty())?;
        Ok(count)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match net::send(self.0, bytes, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::NOTCONN) => Err(io::ErrorKind::WouldBlock.into()),
            sent => Ok(sent?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
