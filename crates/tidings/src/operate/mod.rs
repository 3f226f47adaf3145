//! Operators' calls: what is open, who was shown what, who may see which devices.
//!
//! - [`part`]: pages that several nodes fill.
//! - [`audience`]: which streams were shown an event, and what kept it from the others.
//! - [`audit`]: who did what.
//! - [`devices`]: devices taken away.
//! - [`streams`]: the open streams, listed and ended.
//! - [`revoke`]: access tokens revoked, and their streams ended.
//! - [`groups`]: device groups, and the end of the streams that a changed one bounds.
//! - [`keys`]: API keys of publishers, made, rotated and revoked.
//! - [`tenants`]: what there is of each tenant, and the purge of one.
//!
//! Who may call is [`crate::auth::Operator`]'s to say.

pub mod audience;
pub mod audit;
pub mod devices;
pub mod groups;
pub mod keys;
pub(crate) mod part;
pub mod revoke;
pub mod streams;
pub mod tenants;

use tidings_protocol::TenantId;

use crate::app::App;
use crate::engine::ConnectionId;
use crate::error::Refusal;
use crate::stream::request::Query;
use crate::time;

/// How many streams a page lists where nothing is said.
const DEFAULT_PAGE: usize = 100;

/// How many streams a page lists at most.
const MAX_PAGE: usize = 1000;

/// A page of streams ends above this size, in bytes, whatever its limit: claims can be long lists.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Which page of a listing of streams is asked for.
struct PageRequest {
    after: Option<ConnectionId>,
    limit: usize,
}

impl PageRequest {
    fn read(query: &Query) -> Result<Self, Refusal> {
        let after = query.given("after").map(str::parse).transpose().map_err(
            |error: crate::engine::InvalidConnectionId| {
                Refusal::parameter("after", error.to_string())
            },
        )?;
        let limit = match query.get("limit").map(str::parse) {
            None => DEFAULT_PAGE,
            Some(Ok(limit)) if (1..=MAX_PAGE).contains(&limit) => limit,
            Some(_) => {
                return Err(Refusal::parameter(
                    "limit",
                    format!("must be a number from 1 to {MAX_PAGE}"),
                ));
            }
        };
        Ok(Self { after, limit })
    }
}

/// Fills a page from records that ascend by name, of which there may be more than fit. Gives the items,
/// and the name to go on after where there are more.
fn fill_page<R, T>(
    records: Vec<R>,
    limit: usize,
    name: impl Fn(&R) -> ConnectionId,
    mut item: impl FnMut(R) -> (T, usize),
) -> (Vec<T>, Option<String>) {
    let mut items = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    for record in records {
        if items.len() >= limit || bytes >= MAX_PAGE_BYTES {
            return (items, last.map(|name: ConnectionId| name.to_string()));
        }
        last = Some(name(&record));
        let (made, weight) = item(record);
        items.push(made);
        bytes += weight;
    }
    (items, None)
}

/// A time in whole seconds since the Unix epoch as RFC 3339.
fn rfc3339_seconds(seconds: i64) -> String {
    time::rfc3339(seconds.saturating_mul(1_000_000))
}

fn text_of(tenant: Option<TenantId>) -> Option<String> {
    tenant.map(|tenant| tenant.to_string())
}

/// A disk that refuses is told; what it says stands in the log only.
fn log_unreadable(error: &tidings_log::ReadError) -> Refusal {
    tidings_log::seldom!(error, %error, "the log can't be read for an operator");
    Refusal::unavailable(
        "the log can't be read at the moment",
        std::time::Duration::from_secs(2),
    )
}

/// Runs what reads the log where that may block, a few at a time.
async fn reading<T: Send + 'static>(
    app: &std::sync::Arc<App>,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> T {
    let permit = app.history_readers.acquire().await;
    let reader = std::sync::Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&reader)).await;
    drop(permit);
    match done {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Runs what waits for the disk where that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
