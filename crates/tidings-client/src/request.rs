//! One request and its answer over a pooled connection.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use tidings_protocol::Problem;

use crate::connect::{Connector, tls_config};
use crate::error::ClientError;

/// Largest answer that is read whole; a history page of 1,000 long events fits.
const MAX_ANSWER: usize = 256 << 20;
/// Largest refusal that is read; what is longer is no problem document.
const MAX_REFUSAL: usize = 64 << 10;
const AGENT: &str = concat!("tidings-client/", env!("CARGO_PKG_VERSION"));

/// Where a server is, and its connections.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pool: Pool<Connector, Full<Bytes>>,
    /// Host and port, for messages.
    pub(crate) name: String,
    /// `https://host:port/prefix`, without a slash at the end.
    base: String,
}

/// A path with its query, built piece by piece.
pub(crate) struct Target(String, char);

impl Target {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self(path.into(), '?')
    }

    pub(crate) fn with(mut self, name: &str, value: Option<&str>) -> Self {
        let Some(value) = value else { return self };
        self.0.push(std::mem::replace(&mut self.1, '&'));
        self.0.push_str(name);
        self.0.push('=');
        self.encode(value);
        self
    }

    /// Adds a segment to the path; the query comes after the last one.
    pub(crate) fn segment(mut self, text: &str) -> Self {
        self.0.push('/');
        self.encode(text);
        self
    }

    fn encode(&mut self, text: &str) {
        for byte in text.bytes() {
            // RFC 3986, 2.3: the unreserved characters, and the comma that separates our lists.
            if byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                // Writing to a String can't fail.
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
    }
}

impl Server {
    pub(crate) fn new(base_url: &str, ca_file: Option<&Path>) -> Result<Self, ClientError> {
        let invalid = |reason: &str| ClientError::InvalidUrl {
            url: base_url.to_owned(),
            reason: reason.to_owned(),
        };
        let uri: Uri = base_url
            .parse()
            .map_err(|_| invalid("expected something like http://127.0.0.1:8080"))?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        if !is_secure && uri.scheme() != Some(&Scheme::HTTP) {
            return Err(invalid("it begins with neither https:// nor http://"));
        }
        if uri.query().is_some() {
            return Err(invalid("it has a query"));
        }
        let name = uri
            .authority()
            .ok_or_else(|| invalid("it names no host"))?
            .as_str()
            .to_owned();
        if name.contains('@') {
            return Err(invalid("it carries a user name"));
        }
        let scheme = if is_secure { "https" } else { "http" };
        let base = format!("{scheme}://{name}{}", uri.path().trim_end_matches('/'));
        let tls = is_secure.then(|| tls_config(ca_file)).transpose();
        let connector = Connector::new(tls.map_err(ClientError::NoTls)?);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_mins(1))
            .build(connector);
        Ok(Self { pool, name, base })
    }

    /// Sends one request and gives its answer once the head has come with a status of success.
    /// Any other answer is read as a problem.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: Target,
        access_token: Option<&str>,
        body: Option<(&'static str, Bytes)>,
        timeout: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(method, &target, access_token, body)?;
        let response = tokio::time::timeout(timeout, self.pool.request(request))
            .await
            .map_err(|_| self.silent(timeout))?
            .map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        tokio::time::timeout(timeout, self.refusal(response))
            .await
            .unwrap_or_else(|_| Err(self.silent(timeout)))
    }

    /// As [`send`](Self::send), and reads the answer's body as JSON.
    pub(crate) async fn send_for<T: DeserializeOwned>(
        &self,
        method: Method,
        target: Target,
        access_token: Option<&str>,
        body: Option<(&'static str, Bytes)>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let response = self
            .send(method, target, access_token, body, timeout)
            .await?;
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = tokio::time::timeout(timeout, body)
            .await
            .map_err(|_| self.silent(timeout))?
            .map_err(|source| ClientError::Connection {
                server: self.name.clone(),
                source,
            })?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.unexpected(error.to_string()))
    }

    fn request(
        &self,
        method: Method,
        target: &Target,
        access_token: Option<&str>,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let uri: Uri =
            format!("{}{}", self.base, target.0)
                .parse()
                .map_err(|_| ClientError::InvalidUrl {
                    // The query can hold a stream token, so it is not shown.
                    url: self.base.clone(),
                    reason: "the request's address is too long or malformed".to_owned(),
                })?;
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header(USER_AGENT, AGENT);
        if let Some(token) = access_token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|error| ClientError::AccessToken(error.into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let bytes = body.map_or_else(Bytes::new, |(content_type, bytes)| {
            if let Some(headers) = request.headers_mut() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            bytes
        });
        request
            .body(Full::new(bytes))
            .map_err(|error| self.unexpected(error.to_string()))
    }

    async fn refusal<T>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), MAX_REFUSAL)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        // A proxy in between answers in its own words; its status still counts.
        let mut problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::new(
                status.as_u16(),
                status.canonical_reason().unwrap_or("Refused"),
                format!("{} answered without a problem document", self.name),
            )
        });
        problem.status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS || status.is_redirection() {
            return Err(self.unexpected(format!("status {status}")));
        }
        Err(ClientError::Refused {
            problem: Box::new(problem),
            retry_after,
        })
    }

    pub(crate) fn silent(&self, after: Duration) -> ClientError {
        ClientError::Silent {
            server: self.name.clone(),
            after,
        }
    }

    pub(crate) fn broken(
        &self,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> ClientError {
        ClientError::Connection {
            server: self.name.clone(),
            source: Box::new(error),
        }
    }

    pub(crate) fn unexpected(&self, reason: String) -> ClientError {
        ClientError::Unexpected {
            server: self.name.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_percent_encoded_where_needed() {
        let target = Target::new("/events/stream")
            .with("since", Some("2026-11-23T18:00:00+01:00"))
            .with("types", None)
            .with("last_event_id", Some("1j8.41&x=ä"));
        assert_eq!(
            target.0,
            "/events/stream?since=2026-11-23T18%3A00%3A00%2B01%3A00&last_event_id=1j8.41%26x%3D%C3%A4"
        );
    }

    #[test]
    fn a_segment_of_a_path_is_one_segment_whatever_it_says() {
        let target = Target::new("/groups")
            .segment("a/b ?ü")
            .with("x", Some("1"));
        assert_eq!(target.0, "/groups/a%2Fb%20%3F%C3%BC?x=1");
    }

    #[test]
    fn a_base_url_that_is_none_is_refused_with_its_reason() {
        for (url, reason) in [
            ("127.0.0.1:8080", "http://"),
            ("ftp://example.org", "neither https://"),
            ("http://", "expected"),
            ("http://a@b", "user name"),
            ("http://a/?x=1", "query"),
        ] {
            let error = Server::new(url, None).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
        assert_eq!(
            Server::new("http://[::1]:80/api/", None).unwrap().base,
            "http://[::1]:80/api"
        );
    }

    #[test]
    fn a_file_of_authorities_that_can_not_be_used_is_named() {
        for (path, reason) in [
            ("/nowhere/ca.pem", "/nowhere/ca.pem"),
            ("/dev/null", "no certificate"),
        ] {
            let error = Server::new("https://example.org", Some(Path::new(path))).unwrap_err();
            assert!(matches!(error, ClientError::NoTls(_)), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        // Who speaks in the clear needs none.
        Server::new("http://example.org", Some(Path::new("/nowhere/ca.pem"))).unwrap();
    }
}
