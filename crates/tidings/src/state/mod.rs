//! The state as the server uses it: the last event of each living subject.
//!
//! - [`read`]: `GET /tenants/{tenant_id}/state`.
//! - [`ageing`]: takes subjects away of which nothing was heard for too long.
//! - [`removal`]: the server's own event that takes a subject away.
//! - [`bucket`]: the state of all nodes in JetStream, for nodes that begin with an empty folder.
//!
//! The log keeps it (`tidings_log::State`); what a reader may see of it is [`View`](crate::fanout::View)'s
//! to say.

pub mod ageing;
pub mod bucket;
pub mod read;
pub mod removal;

use std::sync::Arc;
use std::time::Duration;

use tidings_log::{Scope, StateError, StateSnapshot};

use crate::app::App;
use crate::error::Refusal;

/// How long a request waits for the state to come to what was durable when it came.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of a scope as it is now.
///
/// # Errors
///
/// 503 while it can't be had.
pub fn snapshot(app: &App, scope: Scope) -> Result<StateSnapshot, Refusal> {
    app.log
        .state()
        .snapshot(scope)
        .map_err(|error| unavailable(&error.to_string()))
}

/// Refuses while there is no state to be had.
///
/// # Errors
///
/// 503.
pub fn check_ready(app: &App) -> Result<(), Refusal> {
    let health = app.log.state().health();
    if health.ready {
        return Ok(());
    }
    Err(unavailable("it is still being read"))
}

/// The state of a scope, true at least at what is durable now.
///
/// # Errors
///
/// 503 where that takes too long.
pub async fn current(app: &Arc<App>, scope: Scope) -> Result<StateSnapshot, Refusal> {
    let tail = app.log.tail();
    if app.log.state().folded() < tail || !app.log.state().health().ready {
        let waiting = Arc::clone(app);
        let permit = app.state_readers.acquire().await;
        let wait = move || waiting.log.state().wait_through(tail, PATIENCE);
        let came = tokio::task::spawn_blocking(wait).await;
        drop(permit);
        match came {
            Ok(true) => {}
            Ok(false) => return Err(unavailable("it has not come far enough in time")),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    snapshot(app, scope)
}

fn unavailable(reason: &str) -> Refusal {
    tracing::debug!(reason, "the state can't be had");
    Refusal::unavailable(
        "the state can't be had at the moment",
        Duration::from_secs(2),
    )
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        unavailable(&error.to_string())
    }
}
