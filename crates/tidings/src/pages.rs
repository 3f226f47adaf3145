//! The pages for people: the console at `/`, the API's description at `/docs` and `/openapi.json`.
//!
//! The files are part of the binary; none of them asks another host for anything.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, header};

use crate::app::App;
use crate::front::OfTheBinary;
use crate::openapi;

/// Only what this server sends may run, and nobody may put the page into theirs.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the binary: its path, its media type, its bytes.
type Asset = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The console's files are what `console/` builds; `scripts/test console` sees that they are.
const ASSETS: [Asset; 6] = [
    ("/", HTML, include_bytes!("../assets/console/index.html")),
    (
        "/assets/console.css",
        CSS,
        include_bytes!("../assets/console/console.css"),
    ),
    (
        "/assets/console.js",
        SCRIPT,
        include_bytes!("../assets/console/console.js"),
    ),
    ("/docs", HTML, include_bytes!("../assets/docs.html")),
    (
        "/assets/docs.css",
        CSS,
        include_bytes!("../assets/docs.css"),
    ),
    (
        "/assets/docs.js",
        SCRIPT,
        include_bytes!("../assets/docs.js"),
    ),
];

static DOCUMENT: LazyLock<String> = LazyLock::new(openapi::document);

/// The pages' routes.
pub fn router() -> Router<Arc<App>> {
    let mut router = Router::new().route("/openapi.json", get(description));
    for (path, media_type, bytes) in ASSETS {
        router = router.route(path, get(move || async move { file(media_type, bytes) }));
    }
    router
}

async fn description() -> Response {
    file("application/json", DOCUMENT.as_bytes())
}

fn file(media_type: &'static str, bytes: &'static [u8]) -> Response {
    let mut response = bytes.into_response();
    response.extensions_mut().insert(OfTheBinary);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // A new version of the server brings new files under the same names.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Other sites' pages get no hold of a window with the console in it, and can't have its files as their own.
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-opener-policy", same_origin.clone());
    headers.insert("cross-origin-resource-policy", same_origin);
    response
}
