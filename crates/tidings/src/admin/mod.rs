//! The admin listener: is the server alive, is it ready, how is it doing. On an address of its own, so that it
//! answers while the public one is busy and is never exposed with it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tidings_log::Health;

use crate::app::App;
use crate::error::Refusal;
use crate::metrics::exposition::Format;
use crate::metrics::scrape::scrape;

/// What the admin listener answers.
pub fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|| async { Json(json!({ "status": "alive" })) }),
        )
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            let there_is = "there are /healthz, /readyz and /metrics here";
            Refusal::new(StatusCode::NOT_FOUND, there_is)
        })
        .with_state(Arc::clone(app))
}

/// Why streams can't be opened or events published, if they can't.
pub(crate) fn not_ready(app: &App) -> Vec<String> {
    let mut reasons: Vec<String> = app.unready().into_iter().collect();
    if matches!(app.log.health(), Health::Full { .. }) {
        reasons.push("the disk under the log is full".to_owned());
    }
    reasons.extend(app.stream_tokens.away());
    reasons.extend(app.access_tokens.away());
    // Streams are read as before, and told that nothing new comes.
    if let Some(stale) = app.liveness.sources() {
        let since = crate::time::rfc3339(stale.since);
        reasons.push(format!(
            "the sources are not followed since {since}: {}",
            stale.reason
        ));
    }
    reasons
}

/// 200 where streams can be opened and events published, 503 with the reasons otherwise.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let reasons = not_ready(&app);
    if reasons.is_empty() {
        Json(json!({ "status": "ready", "streams": app.engines.stream_count() })).into_response()
    } else {
        let body = Json(json!({ "status": "not_ready", "reasons": reasons }));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

/// All metrics, in the format that `Accept` likes better.
async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept.unwrap_or_default());
    let text = scrape(&app, format).await;
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}
