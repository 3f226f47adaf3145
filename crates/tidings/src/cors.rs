//! Which web pages may call: CORS by allowlist (WHATWG Fetch, section 3.2).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::app::App;
use crate::config::CorsConfig;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS");
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Last-Event-ID, Idempotency-Key");
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Connection-Id, Retry-After");

/// Whether a page of this origin may call with the browser's credentials: only where the origin is
/// listed exactly.
#[must_use]
pub fn is_listed(config: &CorsConfig, origin: &str) -> bool {
    origin != "*" && config.origins.iter().any(|listed| listed == origin)
}

/// Adds to a response what lets the requesting page read it, if it may.
pub fn allow(config: &CorsConfig, request: &HeaderMap, response: &mut HeaderMap) {
    if config.origins.is_empty() {
        return;
    }
    // The answer depends on who asks, whatever it is, so caches must know.
    response.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = request.get(header::ORIGIN) else {
        return;
    };
    let listed = origin
        .to_str()
        .is_ok_and(|origin| is_listed(config, origin));
    if listed {
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    } else if config.origins.iter().any(|listed| listed == "*") {
        response.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
    } else {
        return;
    }
    response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Answers preflights and marks the other responses.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let config = app.config();
    let config = &config.cors;
    if config.origins.is_empty() {
        return next.run(request).await;
    }
    let asked = request.headers().clone();
    let preflight = request.method() == Method::OPTIONS
        && asked.contains_key(header::ORIGIN)
        && asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    // A stream over HTTP/2 carries them already, as one over HTTP/1 does.
    if !response
        .headers()
        .contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS)
    {
        allow(config, &asked, response.headers_mut());
    }
    if preflight
        && response
            .headers()
            .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("600"),
        );
    }
    response
}
