//! HTTP as a browser speaks it: TLS by the authorities that the system trusts, HTTP/2 where it is offered, each
//! connection looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection may take to be made, with TLS and HTTP.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer that ends may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The most that is read of one.
const MOST: usize = 64 << 10;

/// Where to ask.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    port: u16,
    /// What stands before each path, without a slash at the end.
    prefix: String,
    tls: Option<Arc<ClientConfig>>,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// The name has no address, or nobody answers there.
    #[error("no connection to {0}")]
    Connection(String),
    /// Whoever answers can't be trusted, or speaks no TLS.
    #[error("no TLS with {0}")]
    Tls(String),
    /// It speaks no HTTP.
    #[error("no HTTP with {0}")]
    Http(String),
}

/// A connection.
pub struct Reached {
    sender: Sender,
    /// It speaks HTTP/2.
    pub is_http_2: bool,
    /// The server's own certificate (DER), where it has shown one.
    pub certificate: Option<Vec<u8>>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Target {
    /// A listener of this machine that speaks plain HTTP.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        // What listens everywhere listens here too.
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self {
            host: host.to_string(),
            port: address.port(),
            prefix: String::new(),
            tls: None,
        }
    }

    /// Reads a URL such as `https://events.example.com/api`. The authorities in `ca_file` are trusted too.
    ///
    /// # Errors
    /// What is wrong with either, for people.
    pub fn parse(url: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("{url}: {what}; write for example https://events.example.com");
        let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it begins with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong("a user name and a query have no place in it"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let default = if is_secure { 443 } else { 80 };
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(default),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls: is_secure.then(|| client_config(ca_file)).transpose()?,
        })
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether it is this machine by its address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// Connects, within ten seconds.
    ///
    /// # Errors
    /// How far it came.
    pub async fn connect(&self) -> Result<Reached, Unreached> {
        let late = |_| Unreached::Connection(format!("{} within {CONNECT:?}", self.authority()));
        tokio::time::timeout(CONNECT, self.try_connect())
            .await
            .map_err(late)?
    }

    async fn try_connect(&self) -> Result<Reached, Unreached> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.authority());
        let socket = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| Unreached::Connection(told(&error)))?;
        let _ = socket.set_nodelay(true);
        let Some(config) = &self.tls else {
            let sender = handshake(socket, false).await;
            return Ok(Reached {
                sender: sender.map_err(|error| Unreached::Http(told(&error)))?,
                is_http_2: false,
                certificate: None,
            });
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| Unreached::Tls(told(&error)))?;
        let secure = TlsConnector::from(Arc::clone(config))
            .connect(name, socket)
            .await
            .map_err(|error| Unreached::Tls(told(&error)))?;
        let (_, session) = secure.get_ref();
        let is_http_2 = session.alpn_protocol() == Some(b"h2");
        let certificate = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.to_vec());
        let sender = handshake(secure, is_http_2).await;
        Ok(Reached {
            sender: sender.map_err(|error| Unreached::Http(told(&error)))?,
            is_http_2,
            certificate,
        })
    }

    /// A request for a path behind the prefix, whose query is part of it.
    fn request(
        &self,
        is_http_2: bool,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Request<Full<Bytes>> {
        let authority = self.authority();
        let uri = if is_http_2 {
            let scheme = if self.is_secure() { "https" } else { "http" };
            format!("{scheme}://{authority}{}{path}", self.prefix)
        } else {
            format!("{}{path}", self.prefix)
        };
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        // The parts were read from a URL, and the paths are ours.
        *request.uri_mut() = uri.parse().unwrap_or_default();
        *request.headers_mut() = headers;
        if !is_http_2 && let Ok(host) = authority.parse() {
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }
}

impl Reached {
    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// What broke, for people; nothing of the request is in it.
    pub async fn send(
        &mut self,
        target: &Target,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, String> {
        let request = target.request(self.is_http_2, method, path, headers);
        let answer = match &mut self.sender {
            Sender::One(sender) => sender.send_request(request).await,
            Sender::Two(sender) => sender.send_request(request).await,
        };
        answer.map_err(|error| error.to_string())
    }
}

/// One request of its own, with what was answered: status and body.
///
/// # Errors
/// What broke, for people.
pub async fn get(target: &Target, path: &str) -> Result<(u16, String), String> {
    let mut reached = target.connect().await.map_err(|error| error.to_string())?;
    let answer = reached.send(target, Method::GET, path, HeaderMap::new());
    let answer = tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| format!("no answer within {ANSWER:?}"))??;
    let status = answer.status().as_u16();
    Ok((status, text(answer).await?))
}

/// The body of an answer that ends.
///
/// # Errors
/// What broke, for people.
pub async fn text(answer: Response<Incoming>) -> Result<String, String> {
    let body = Limited::new(answer.into_body(), MOST).collect();
    let body = tokio::time::timeout(ANSWER, body)
        .await
        .map_err(|_| format!("the answer does not end within {ANSWER:?}"))?
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

async fn handshake<T>(io: T, is_http_2: bool) -> hyper::Result<Sender>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Each connection goes on in a task that ends with it, or with the command.
    if is_http_2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Sender::Two(sender))
    } else {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Sender::One(sender))
    }
}

fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut config = tidings_client::tls_config(ca_file)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_connect_and_what_stands_before_paths() {
        for (url, authority, prefix, secure) in [
            (
                "https://events.example.com",
                "events.example.com:443",
                "",
                true,
            ),
            (
                "https://events.example.com/api/",
                "events.example.com:443",
                "/api",
                true,
            ),
            ("http://[::1]:8080", "[::1]:8080", "", false),
            ("http://10.0.0.1/x", "10.0.0.1:80", "/x", false),
        ] {
            let target = Target::parse(url, None).unwrap();
            assert_eq!(target.authority(), authority);
            assert_eq!(target.prefix, prefix);
            assert_eq!(target.is_secure(), secure);
        }
        for url in [
            "",
            "events.example.com",
            "ftp://a",
            "https://a@b",
            "https://a/?x=1",
            "https://",
        ] {
            assert!(Target::parse(url, None).is_err(), "{url}");
        }
    }

    #[test]
    fn what_listens_everywhere_is_asked_here() {
        let target = Target::plain("0.0.0.0:1".parse().unwrap());
        assert_eq!(target.authority(), "127.0.0.1:1");
        assert!(target.is_loopback());
        assert_eq!(
            Target::plain("[::]:1".parse().unwrap()).authority(),
            "[::1]:1"
        );
    }
}
