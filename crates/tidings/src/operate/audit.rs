//! The audit log: `GET /audit`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use tidings_protocol::audit::AuditEntry;

use super::reading;
use crate::app::App;
use crate::audit::PageRequest;
use crate::auth::Operator;
use crate::error::Refusal;
use crate::stream::request::Query;

/// How many entries a page has where nothing is said, and at most.
const DEFAULT_PAGE: usize = 1_000;
const MAX_PAGE: usize = 10_000;

/// `GET /audit`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "operators",
    summary = "Export this node's audit log: who opened, was refused, published and changed what",
    description = "One entry a line, ascending by `id`; the `id` of the last is the `after` of the next page, and a page without a line is the end. A super admin is told all; a tenant's operator what is of its tenant, and nothing of super admins.",
    params(crate::openapi::AuditParameters),
    responses(
        (status = 200, description = "A page.", content((AuditEntry = "application/x-ndjson"))),
        crate::openapi::OperatorRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn audit(
    State(app): State<Arc<App>>,
    operator: Operator,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    operator.require_all_devices()?;
    let request = read_request(&operator, query.as_deref())?;
    let place = app.limits.read(operator.only_tenant())?;
    app.audit.settle().await;
    let turn = place.turn().await;
    let page = reading(&app, move |app| app.audit.page(&request)).await;
    let page = page.map_err(|error| {
        tracing::error!(%error, "the audit log can't be read");
        Refusal::unavailable(
            "the audit log can't be read at the moment",
            std::time::Duration::from_secs(5),
        )
    })?;
    drop(turn);
    let mut response = page.lines.into_response();
    response.extensions_mut().insert(Arc::new(place));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn read_request(operator: &Operator, query: Option<&str>) -> Result<PageRequest, Refusal> {
    let query = Query::parse(query)?;
    let after = match query.given("after").map(str::parse::<u64>) {
        None => 0,
        Some(Ok(after)) => after,
        Some(Err(_)) => {
            return Err(Refusal::parameter("after", "must be the id of an entry"));
        }
    };
    let limit = match query.get("limit").map(str::parse) {
        None => DEFAULT_PAGE,
        Some(Ok(limit)) if (1..=MAX_PAGE).contains(&limit) => limit,
        Some(_) => {
            let detail = format!("must be a number from 1 to {MAX_PAGE}");
            return Err(Refusal::parameter("limit", detail));
        }
    };
    let tenant = query.tenant()?;
    if let Some(tenant) = tenant {
        operator.check_tenant(tenant)?;
    }
    // Entries are numbered by their time, in microseconds.
    let number = |time: i64| u64::try_from(time).unwrap_or(0);
    let since = query.time("since")?.map_or(0, number);
    Ok(PageRequest {
        after: after.max(since.saturating_sub(1)),
        before: query.time("until")?.map(number),
        operator_of: operator.only_tenant(),
        tenant,
        limit,
    })
}
