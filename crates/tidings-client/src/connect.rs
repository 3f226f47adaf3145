//! One connector for both schemes: a socket, and TLS over it where the URL says `https`.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::access::BoxError;

/// How long a connection may take to be made, and then a handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How TLS is spoken to servers whose certificates are of the system's authorities, or of one of those in `ca_file`,
/// a PEM file.
///
/// # Errors
///
/// The file can't be read or holds no certificate, or there is nobody to trust at all; for people to read.
pub fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    // Some of a system's may be of kinds that nobody uses any more.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut any = false;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
            any = true;
        }
        if !any {
            return Err(wrong(&"there is no certificate in it"));
        }
    } else if roots.is_empty() {
        return Err(
            "this system trusts no authority; install its package of certificates (ca-certificates), or name a file"
                .to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Makes connections for the pool.
#[derive(Clone)]
pub(crate) struct Connector {
    sockets: HttpConnector,
    /// `None` for a server that is spoken to in the clear.
    tls: Option<TlsConnector>,
}

impl Connector {
    pub(crate) fn new(tls: Option<ClientConfig>) -> Self {
        let mut sockets = HttpConnector::new();
        sockets.set_nodelay(true);
        sockets.set_connect_timeout(Some(CONNECT_TIMEOUT));
        sockets.enforce_http(false);
        Self {
            sockets,
            tls: tls.map(|config| Arc::new(config).into()),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Line;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Line, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.sockets.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let (host, is_secure) = (host.to_owned(), uri.scheme() == Some(&Scheme::HTTPS));
        let socket = self.sockets.call(uri);
        Box::pin(async move {
            let socket = socket.await?;
            let Some(tls) = tls else {
                // Never in the clear what was to be secret.
                if is_secure {
                    return Err("there is no TLS for this connection".into());
                }
                return Ok(Line::Plain(socket));
            };
            let name = ServerName::try_from(host)?;
            let handshake = tls.connect(name, socket.into_inner());
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no end of the handshake"))?
                .map_err(|error| format!("TLS: {error}"))?;
            Ok(Line::Secure(Box::new(TokioIo::new(stream))))
        })
    }
}

/// A connection.
pub(crate) enum Line {
    /// In the clear.
    Plain(TokioIo<TcpStream>),
    /// Over TLS; boxed, since it is large.
    Secure(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(socket) => socket.inner().connected(),
            Self::Secure(stream) => stream.inner().get_ref().0.connected(),
        }
    }
}

/// Calls a method of hyper's `Read` or `Write` of whatever the connection is.
macro_rules! through {
    ($line:expr, $method:ident ( $($argument:expr),* )) => {
        match $line.get_mut() {
            Line::Plain(socket) => Pin::new(socket).$method($($argument),*),
            Line::Secure(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl Read for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        through!(self, poll_read(context, buffer))
    }
}

impl Write for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        through!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        through!(self, poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, poll_shutdown(context))
    }
}
