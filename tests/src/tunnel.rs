//! A port in the clear that leads to one over TLS: whatever a test does to a plain server, it can do to one under
//! TLS. The client's side of TLS is rustls, which takes an end without `close_notify` for a broken connection; here
//! that is a reset.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::Certificates;

/// How a tunnel speaks to the server.
#[derive(Clone, Debug)]
pub struct Way {
    authority: String,
    protocol: Option<&'static str>,
    version: &'static SupportedProtocolVersion,
    head: Vec<u8>,
    own: Option<(String, String)>,
}

impl Way {
    /// TLS 1.3 to a server whose certificate is of this authority.
    pub fn trusting(certificates: &Certificates) -> Self {
        Self {
            authority: certificates.path("ca.pem"),
            protocol: Some("http/1.1"),
            version: &rustls::version::TLS13,
            head: Vec::new(),
            own: None,
        }
    }

    /// Asks for this protocol by ALPN.
    #[must_use]
    pub const fn protocol(mut self, protocol: Option<&'static str>) -> Self {
        self.protocol = protocol;
        self
    }

    /// Speaks TLS 1.2.
    #[must_use]
    pub const fn old(mut self) -> Self {
        self.version = &rustls::version::TLS12;
        self
    }

    /// Sends this in front of the handshake.
    #[must_use]
    pub fn head(mut self, head: &[u8]) -> Self {
        self.head = head.to_vec();
        self
    }

    /// Shows the client's certificate.
    #[must_use]
    pub fn with_own(mut self, certificates: &Certificates) -> Self {
        self.own = Some((
            certificates.path("client.pem"),
            certificates.path("client.key"),
        ));
        self
    }

    fn connector(&self) -> TlsConnector {
        let read = |path: &str| std::fs::read(path).expect("a file of ours");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read(&self.authority)) {
            roots
                .add(certificate.expect("PEM"))
                .expect("a certificate of an authority");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .expect("a version of the provider's")
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(&read(certificate))
                    .collect::<Result<_, _>>()
                    .expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(&read(key)).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        let protocols = self.protocol.iter();
        config.alpn_protocols = protocols.map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

/// A tunnel; it is open as long as this is there.
#[derive(Debug)]
pub struct Tunnel {
    /// Where plain clients connect.
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Tunnel {
    /// A tunnel to a server.
    pub fn to(server: SocketAddr, way: &Way) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)))
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (connector, head) = (way.connector(), way.head.clone());
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, connector.clone(), head.clone()));
            }
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Carries a connection until both sides have ended. What breaks on one side is reset on the other.
async fn carry(mut near: TcpStream, server: SocketAddr, connector: TlsConnector, head: Vec<u8>) {
    let carried = async {
        let mut far = TcpStream::connect(server).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        far.write_all(&head).await?;
        let name = ServerName::IpAddress(server.ip().into());
        let mut far = connector.connect(name, far).await?;
        copy_bidirectional(&mut near, &mut far).await
    };
    if let Err(error) = carried.await {
        eprintln!("a tunnel to {server} broke: {error}");
        let _ = socket2::SockRef::from(&near).set_linger(Some(std::time::Duration::ZERO));
    }
}
