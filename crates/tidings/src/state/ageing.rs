//! Takes subjects away of which nothing was heard for too long: pushes and jobs that never say how they
//! ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_log::{NewEvent, Scope, StateEntry};
use tidings_protocol::{Cursor, TenantId};
use tokio_util::sync::CancellationToken;

use super::removal::removed;
use crate::app::App;
use crate::cursors::Standing;
use crate::ingest::store::{Stored, is_in_state, store};

/// How many subjects are taken away at a time.
const BATCH: usize = 1000;

/// How long a node that follows its sources is waited for to have copied what they are known to have.
const COPIED: Duration = Duration::from_secs(5);

/// Looks for overdue subjects from time to time, until told to stop.
pub async fn run(app: Arc<App>, stopping: CancellationToken) {
    let config = app.config();
    let ages = config.subjects.iter().filter_map(|rule| rule.max_age);
    let (Some(shortest), false) = (ages.min(), app.store.is_read_only()) else {
        return;
    };
    let interval = (shortest / 10).clamp(Duration::from_millis(100), Duration::from_mins(1));
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stopping.cancelled() => return,
        }
        if !knows_the_last(&app).await {
            continue;
        }
        while let Some(last) = take_away(&app).await {
            if !is_in_state(&app, &last).await {
                break;
            }
        }
    }
}

/// Whether the state has what was said last of every subject. A node that was cut off finds everything overdue when it
/// comes back, and would take away for all nodes what lives.
async fn knows_the_last(app: &Arc<App>) -> bool {
    let is_followed = || app.liveness.sources().is_none();
    if !is_followed() {
        return false;
    }
    if let Some(sources) = app.cursors.sources() {
        let last = |standing: Standing| Cursor {
            epoch: standing.epoch,
            position: standing.last,
        };
        let last: Vec<Cursor> = sources.standings().into_iter().map(last).collect();
        let copied = tokio::time::timeout(COPIED, sources.wait_for(&last)).await;
        if copied.is_err() {
            return false;
        }
    }
    super::current(app, Scope::All).await.is_ok() && is_followed()
}

/// Takes a batch of overdue subjects away. Gives what was stored last where there can be more.
async fn take_away(app: &Arc<App>) -> Option<Stored> {
    let looking = Arc::clone(app);
    let overdue = move || looking.log.state().overdue(BATCH);
    let overdue = tokio::task::spawn_blocking(overdue).await.ok()?;
    let more = overdue.len() == BATCH;
    let mut bodies: BTreeMap<TenantId, Vec<NewEvent>> = BTreeMap::new();
    for entry in overdue.iter().filter(|entry| is_last(app, entry)) {
        let body = bodies.entry(entry.tenant()).or_default();
        body.extend(removed(entry));
    }
    let mut last = None;
    for (tenant, body) in bodies {
        let count = body.len();
        if app.liveness.sources().is_some() {
            return None;
        }
        match store(app, tenant, body).await {
            Ok(stored) => {
                tracing::info!(tenant_id = %tenant, count, "subjects were taken away by their age");
                last = Some(stored);
            }
            Err(error) => {
                // They stay overdue and are met again.
                tracing::debug!(?error, "overdue subjects can't be taken away");
                return None;
            }
        }
    }
    last.filter(|_| more)
}

/// Nothing was heard of the subject since it was found overdue.
fn is_last(app: &App, entry: &StateEntry) -> bool {
    let latest = app
        .log
        .state()
        .latest(entry.tenant(), entry.kind(), entry.key());
    latest.is_some_and(|latest| latest.position() == entry.position())
}
