//! The admin listener: is the server alive, is it ready, how is it doing.
//!
//! - [`listener`]: its own thread, so that it answers while the public one is busy.
//! - [`backup`]: have the server make a backup.
//!
//! It is on an address of its own, so that it is never exposed with the public one.

mod listener;

pub(crate) mod backup;
pub mod last_backup;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use crate::app::App;
use crate::error::Refusal;
use crate::metrics::exposition::Format;
use crate::metrics::scrape::scrape;
use crate::readiness;
pub use listener::AdminListener;

/// What the admin listener answers.
pub fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|| async { Json(json!({ "status": "alive" })) }),
        )
        .route("/readyz", get(ready))
        .route("/backup", post(backup::make))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            let there_is = "there are /healthz, /readyz, /metrics and POST /backup here";
            Refusal::new(StatusCode::NOT_FOUND, there_is)
        })
        .with_state(Arc::clone(app))
}

/// 200 where streams can be opened and events published, 503 with the reasons otherwise.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let reasons = readiness::reasons(&app);
    let streams = app.engines.stream_count();
    if reasons.is_empty() {
        Json(json!({ "status": "ready", "streams": streams })).into_response()
    } else {
        let body = json!({ "status": "not_ready", "streams": streams, "reasons": reasons });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
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
