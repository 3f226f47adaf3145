//! Stream tokens: `POST /auth/sse-token`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use tidings_protocol::api::StreamTokenGrant;
use tidings_protocol::audit::AuditKind;

use super::request::bearer;
use crate::app::App;
use crate::cors;
use crate::error::Refusal;

/// `POST /auth/sse-token`.
///
/// # Errors
///
/// 401 without a good access token, 403 for a page that may not use the cookie, 429 over the limits.
#[utoipa::path(
    post,
    path = "/auth/sse-token",
    tag = "streams",
    summary = "Exchange an access token for a single-use stream token",
    description = "The token opens one stream, once, within `expires_in` seconds.",
    responses(
        (status = 200, description = "The token opens one stream within `expires_in` seconds.", body = StreamTokenGrant),
        crate::openapi::TokenRefusals,
    ),
    security(("access_token" = []), ("access_token_cookie" = []))
)]
pub async fn mint(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let address = peer.ip();
    let minted = mint_for(&app, address, &headers).await;
    let status = minted.as_ref().map_or_else(Refusal::status, |_| 200);
    app.metrics.stream_tokens.note(status);
    minted.inspect_err(|refusal| {
        app.audit
            .refused(AuditKind::TokenRefused, refusal, None, None, address);
    })
}

async fn mint_for(app: &App, address: IpAddr, headers: &HeaderMap) -> Result<Response, Refusal> {
    app.limits.failures_exceeded(address)?;
    let token = access_token(app, headers)?;
    let identity = app.authenticate(&token, address).await?;
    if let Some(tenant) = identity.tenant.filter(|_| !identity.super_admin) {
        app.check_living(tenant)?;
    }
    app.limits.mint_allowed(address)?;
    let token = app.stream_tokens.mint(identity).await.map_err(|_| {
        Refusal::unavailable(
            "stream tokens can't be stored at the moment",
            Duration::from_secs(2),
        )
    })?;
    let expires_in = app.config().stream.token_ttl.as_secs();
    let mut response = Json(StreamTokenGrant { token, expires_in }).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The access token: of the header, or else of the cookie where the request can't have been made
/// by another site's page.
fn access_token(app: &App, headers: &HeaderMap) -> Result<String, Refusal> {
    if let Some(token) = bearer(headers) {
        return Ok(token.to_owned());
    }
    let config = app.config();
    let name = &config.auth.cookie;
    let token = cookie(headers, name).ok_or_else(|| {
        Refusal::unauthorized(format!(
            "send the access token as Authorization: Bearer, or as the cookie {name}"
        ))
    })?;
    check_origin(app, headers)?;
    Ok(token.to_owned())
}

/// A browser says where a request comes from; other clients say nothing.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text("sec-fetch-site");
    let origin = text("origin");
    let listed = origin.is_some_and(|origin| cors::is_listed(&app.config().cors, origin));
    match (site, origin) {
        (None, None) | (Some("same-origin"), _) => Ok(()),
        _ if listed => Ok(()),
        _ => Err(Refusal::forbidden(
            "the cookie is taken from pages of this origin and of those in cors.origins only",
        )),
    }
}

/// The value of a cookie (RFC 6265, section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(found, value)| (found == name && !value.is_empty()).then_some(value))
}
