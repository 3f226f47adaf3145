//! The paths of the API, and what is answered where there is none.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::audit_refusals;
use crate::error::Refusal;
use crate::{cors, history, ingest, openapi, operate, pages, state, stream};

/// The API with its description: what every mount prefix carries.
#[must_use]
pub fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(everyones())
        .merge(operators())
}

/// What publishers and viewers call.
fn everyones() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(stream::token::mint))
        .routes(routes!(stream::open::tenant_stream))
        .routes(routes!(stream::open::all_tenants_stream))
        .routes(routes!(history::history, ingest::publish::publish))
        .routes(routes!(state::read::state))
}

/// What [`crate::auth::Operator`]s call.
fn operators() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(operate::streams::list))
        .routes(routes!(operate::streams::disconnect))
        .routes(routes!(operate::revoke::user))
        .routes(routes!(operate::revoke::tenant))
        .routes(routes!(operate::revoke::token))
        .routes(routes!(operate::keys::list, operate::keys::create))
        .routes(routes!(operate::keys::rotate))
        .routes(routes!(operate::keys::revoke))
        .routes(routes!(operate::audit::audit))
        .routes(routes!(operate::tenants::list))
        .routes(routes!(operate::tenants::purge))
        .routes(routes!(operate::devices::remove))
        .routes(routes!(operate::audience::audience))
        .routes(routes!(operate::groups::list))
        .routes(routes!(
            operate::groups::get,
            operate::groups::put,
            operate::groups::remove
        ))
}

const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");

/// What every response of the public listener says.
pub(crate) fn forbid_sniffing(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFFING);
}

/// Everything that the public listener answers.
pub fn public(app: &Arc<App>) -> Router {
    let (everyones, _) = everyones().split_for_parts();
    let (operators, _) = operators().split_for_parts();
    let audited = middleware::from_fn_with_state(Arc::clone(app), audit_refusals);
    let api = everyones
        .merge(operators.route_layer(audited))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(app),
            only_when_informed,
        ));
    let mut router = Router::new();
    for prefix in &app.config().mount {
        router = match prefix.trim_end_matches('/') {
            "" => router.merge(api.clone()),
            prefix => router.nest(prefix, api.clone()),
        };
    }
    router
        .merge(pages::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(app), cors::layer))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            NO_SNIFFING,
        ))
        .with_state(Arc::clone(app))
}

/// Refuses every call while it is not known yet whom other nodes have shut out.
async fn only_when_informed(
    State(app): State<Arc<App>>,
    request: Request,
    next: middleware::Next,
) -> Response {
    match app.uninformed() {
        None => next.run(request).await,
        Some(reason) => Refusal::unavailable(reason, Duration::from_secs(1)).into_response(),
    }
}

async fn not_found(request: Request) -> Response {
    // The path is echoed without its query, which may hold a token.
    let detail = format!("there is nothing at {}", request.uri().path());
    Refusal::new(StatusCode::NOT_FOUND, detail).into_response()
}

/// Names the methods that the path takes, by the API's own description.
async fn method_not_allowed(request: Request) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let allow = path.and_then(|path| openapi::allowed_methods(path.as_str()));
    // What the description does not have are pages.
    Refusal::method_not_allowed(allow.unwrap_or("GET, HEAD")).into_response()
}

/// A handler has panicked: its request fails, the server stays.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a request handler has panicked");
    let detail = "the server has made a mistake; it is in its log";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_handler_answers_500_and_leaves_the_server_up() {
        let router = Router::new()
            .route("/panic", get(|| async { panic!("on purpose") as () }))
            .route("/fine", get(|| async { "fine" }))
            .layer(CatchPanicLayer::custom(panicked));
        let get = |path: &str| Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(get("/panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        let response = router.oneshot(get("/fine")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}
