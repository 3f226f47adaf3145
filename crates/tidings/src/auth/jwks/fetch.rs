//! One `GET`, over TLS or to this machine, bounded in size; whoever calls bounds the time.
//!
//! Redirections are not followed: where keys come from is what the operator wrote, and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// The largest answer that is read, in bytes: sixty-four large keys with their certificates fit.
pub(super) const MOST_BYTES: usize = 512 * 1024;

const AGENT: &str = concat!("tidings/", env!("CARGO_PKG_VERSION"));

/// Where something is fetched from, and what it takes.
pub(super) struct Fetcher {
    url: Uri,
    host: String,
    port: u16,
    /// `None` for plain HTTP.
    tls: Option<TlsConnector>,
    /// Whether plain HTTP may go to another machine.
    allow_http: bool,
}

impl Fetcher {
    /// Reads certificates; connects nowhere.
    ///
    /// # Errors
    ///
    /// The certificates can't be read, or the URL has no host.
    pub(super) fn new(url: &Uri, ca_file: Option<&Path>, allow_http: bool) -> Result<Self, String> {
        let host = url.host().ok_or("the URL names no host")?;
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls: is_tls.then(|| connector(ca_file)).transpose()?,
            allow_http,
            url: url.clone(),
        })
    }

    /// Fetches.
    ///
    /// # Errors
    ///
    /// What went wrong, for an operator to read.
    pub(super) async fn fetch(&self) -> Result<Bytes, String> {
        let socket = self.connect().await?;
        let Some(tls) = &self.tls else {
            return self.get(socket).await;
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| "the URL's host can't be in a certificate".to_owned())?;
        let socket = tls.connect(name, socket).await;
        self.get(socket.map_err(|error| format!("TLS: {error}"))?)
            .await
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let addresses = tokio::net::lookup_host((&*self.host, self.port)).await;
        let addresses =
            addresses.map_err(|error| format!("{} is not found: {error}", self.host))?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses.filter(|address| self.may_ask(address)) {
            match TcpStream::connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(format!("no connection to {}: {last}", self.host))
    }

    /// A name such as `localhost` must not lead plain HTTP to another machine.
    fn may_ask(&self, address: &SocketAddr) -> bool {
        self.tls.is_some() || self.allow_http || address.ip().to_canonical().is_loopback()
    }

    async fn get(
        &self,
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Bytes, String> {
        let broken = |error: hyper::Error| format!("the answer broke off: {error}");
        let (mut requests, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = self
            .url
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, AGENT)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = requests.send_request(request).await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!(
                    "the answer is a redirection ({status}), which is not followed; write the URL that it leads to"
                ));
            }
            status => return Err(format!("the answer is {status}")),
        }
        let body = Limited::new(response.into_body(), MOST_BYTES)
            .collect()
            .await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| format!("the answer can't be read: {error}"))
    }
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if certificates.is_empty() {
            return Err(format!("{}: there is no certificate in it", path.display()));
        }
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
    } else {
        let (added, _) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err(
                "this system trusts no authority; install its package of certificates (ca-certificates), or name a file"
                    .to_owned(),
            );
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}
