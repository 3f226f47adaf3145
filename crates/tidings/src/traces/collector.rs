//! How spans get to the collector: protobuf in the body of a POST (OTLP/HTTP).
//!
//! The SDK exports on a thread of its own, where there is no runtime. So its requests are handed to the server's,
//! and the thread waits for their outcome.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::SpanCounts;

/// How long the collector may take for a batch, all attempts together.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer is read; it says at most what was rejected.
const MAX_ANSWER: usize = 64 * 1024;

/// Exports, counts, and says now and then what goes wrong.
#[derive(Debug)]
pub(super) struct Exporter {
    inner: SpanExporter,
    counts: Arc<SpanCounts>,
}

impl Exporter {
    pub(super) fn new(endpoint: &Uri, counts: Arc<SpanCounts>) -> Result<Self, ExporterBuildError> {
        let client = Collector {
            runtime: Handle::current(),
        };
        let inner = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .build()?;
        Ok(Self { inner, counts })
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let outcome = self.inner.export(batch).await;
        match &outcome {
            Ok(()) => self.counts.exported.add(spans),
            Err(error) => {
                self.counts.failed.add(spans);
                tidings_log::seldom!(warn, spans, %error, "spans_lost");
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The client of the requests.
#[derive(Debug)]
struct Collector {
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // All of it on the runtime: here there is not even a clock.
        let posting = async { tokio::time::timeout(TIMEOUT, post(request)).await };
        self.runtime.spawn(posting).await??
    }
}

/// One request over a connection of its own: there is one every few seconds.
async fn post(mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("no authority")?.clone();
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let socket = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(connection);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    let host = HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().insert(header::HOST, host);
    let answer = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(head, body))
}
