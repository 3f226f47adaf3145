//! What a listener answers requests with: its router, and a short way past it for what is published.
//!
//! Publishers send one request after the other, and what a router and its layers do for each costs as much as to
//! read and to store a small event. So a publish is told by its path and goes to its handler directly. Everything
//! that is not plainly one goes through the router, which answers the same.

mod framing;

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderValue, Method, Request, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tower::ServiceExt as _;

use crate::app::App;
use crate::config::TlsConfig;
use crate::connection::{AnswerBody, HandOver, Held, Progress};
use crate::edge::Proxies;
use crate::error::Refusal;
use crate::ingest::publish;
use crate::limits::ReadPlace;
use crate::routes;

/// Up to which size, in bytes, an answer is no matter of memory: as many as there may be requests have room.
const SMALL: u64 = 32 * 1024;

/// Says of a response that it is no answer to be read and done with: a stream, over which the engine watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unhurried;

/// Says of a response that its bytes are the binary's own, so that it takes no memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfTheBinary;

/// Answers the requests of a listener.
#[derive(Clone)]
pub struct Front {
    router: Router,
    publishing: Option<Publishing>,
    /// Whose limit on requests at once holds here.
    bounded: Option<Arc<App>>,
    /// Whose word counts for whom a request comes from.
    proxies: Option<Arc<Proxies>>,
    /// For how long browsers are to come back over TLS only; never said in the clear (RFC 6797, section 7.2).
    strict_transport: Option<HeaderValue>,
}

/// Where publishes go past the router.
#[derive(Clone)]
struct Publishing {
    app: Arc<App>,
    /// What their paths begin with, up to the tenant.
    under: Arc<[String]>,
}

impl Front {
    /// Answers by the router alone.
    #[must_use]
    pub fn of(router: Router) -> Self {
        Self {
            router,
            publishing: None,
            bounded: None,
            proxies: None,
            strict_transport: None,
        }
    }

    /// The public API's.
    #[must_use]
    pub fn public(app: &Arc<App>) -> Self {
        let config = app.config();
        let prefixes = config.mount.iter();
        let under = prefixes.map(|prefix| format!("{}/tenants/", prefix.trim_end_matches('/')));
        Self {
            router: routes::public(app),
            publishing: Some(Publishing {
                app: Arc::clone(app),
                under: under.collect(),
            }),
            bounded: Some(Arc::clone(app)),
            proxies: Proxies::from_config(&config.proxies).map(Arc::new),
            strict_transport: None,
        }
    }

    /// The same for connections over TLS.
    #[must_use]
    pub fn over_tls(self, tls: &TlsConfig) -> Self {
        let seconds = tls.hsts.as_secs();
        let said = (seconds > 0).then(|| format!("max-age={seconds}"));
        Self {
            strict_transport: said.and_then(|said| said.try_into().ok()),
            ..self
        }
    }

    /// Answers one request. Over HTTP/1 a handler can hand its stream over. `progress` is that of writing the answer.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        peer: SocketAddr,
        hand_over: Option<HandOver>,
        progress: Progress,
    ) -> http::Response<AnswerBody> {
        let strict_transport = self.strict_transport.clone();
        let bounded = self.bounded.clone();
        let room = bounded.as_ref().map(|app| app.limits.request());
        let mut response = match (framing::check(&request), &room) {
            (Err(refused), _) => framing::refuse(refused),
            (Ok(()), Some(None)) => overloaded(),
            (Ok(()), _) => self.answer_anywhere(request, peer, hand_over).await,
        };
        let room = room.flatten();
        if let Some(said) = strict_transport {
            response
                .headers_mut()
                .insert(header::STRICT_TRANSPORT_SECURITY, said);
        }
        if response.extensions().get::<Unhurried>().is_some() {
            return response.map(AnswerBody::unhurried);
        }
        let Some(app) = bounded else {
            return whole(response, Held::default(), progress, UNREAD);
        };
        let patience = app.config().limits.unread_time;
        let size = response.body().size_hint().exact().unwrap_or(0);
        let takes_memory = size > SMALL && response.extensions().get::<OfTheBinary>().is_none();
        let read = response.extensions_mut().remove::<Arc<ReadPlace>>();
        let memory = if takes_memory && read.as_ref().is_none_or(|read| read.hold(size)) {
            app.limits.answer(size)
        } else {
            None
        };
        if takes_memory && memory.is_none() {
            response = unread();
        }
        let held = Held {
            // What is read holds its place among the requests until it is written, since it costs the more of them
            // there are, and each tenant has so many only. Were it so of all answers, then whoever leaves a few
            // pages unread, on a few connections and without a token, would take up everybody's places.
            room: room.filter(|_| read.is_some()),
            memory,
            read,
        };
        whole(response, held, progress, patience)
    }

    async fn answer_anywhere(
        self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        hand_over: Option<HandOver>,
    ) -> Response {
        let client = match &self.proxies {
            Some(proxies) => proxies.client(peer, request.headers()),
            None => peer,
        };
        if let Some(publishing) = &self.publishing
            && request.method() == Method::POST
            && let Some(tenant) = publishing.tenant(request.uri().path())
            // Where pages of other origins may call, each answer has headers that the router's layer knows.
            && publishing.app.config().cors.origins.is_empty()
        {
            let tenant = tenant.to_owned();
            return publishing.answer(&tenant, client, request).await;
        }
        request.extensions_mut().insert(client);
        if let Some(hand_over) = hand_over {
            request.extensions_mut().insert(hand_over);
        }
        let answered = self.router.oneshot(request.map(Body::new)).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

impl Publishing {
    /// The tenant in the path of a publish. Escapes are the router's to resolve.
    fn tenant<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = self
            .under
            .iter()
            .find_map(|under| path.strip_prefix(under.as_str()))?;
        let tenant = rest.strip_suffix("/events")?;
        let plain = !tenant.is_empty() && !tenant.contains(['/', '%']);
        plain.then_some(tenant)
    }

    async fn answer(&self, tenant: &str, peer: SocketAddr, request: Request<Incoming>) -> Response {
        let (Parts { headers, .. }, body) = request.into_parts();
        let body = Body::new(body);
        let stored = publish::take_in(&self.app, tenant, peer, headers, body);
        let mut response = match caught(stored).await {
            Ok(stored) => stored.into_response(),
            Err(panic) => routes::panicked(panic),
        };
        routes::forbid_sniffing(response.headers_mut());
        response
    }
}

/// Said at once, since whatever waited would make the next wait longer.
fn overloaded() -> Response {
    let detail = "the server is answering as many requests as it can (limits.requests)";
    Refusal::unavailable(detail, Duration::from_secs(1)).into_response()
}

fn unread() -> Response {
    let detail = "too many large answers are not read yet (limits.answers_in_memory)";
    Refusal::unavailable(detail, Duration::from_secs(1)).into_response()
}

/// How long answers that no configuration bounds may be left unread.
const UNREAD: Duration = Duration::from_secs(30);

fn whole(
    response: Response,
    held: Held,
    progress: Progress,
    patience: Duration,
) -> http::Response<AnswerBody> {
    response.map(|body| AnswerBody::hurried(body, held, progress, patience))
}

/// What a future gives, or the panic that it ends with.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        // After a panic it is not looked at again.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_wherever_it_arises() {
        assert_eq!(caught(async { 7 }).await.unwrap(), 7);
        let late = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        let panic = caught::<()>(late).await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(routes::panicked(panic).status(), 500);
    }
}
