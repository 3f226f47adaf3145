//! Publishes what the fleet does through the public API, as real devices' pollers would.

use std::time::Duration;

use jiff::Timestamp;
use tidings_client::{Client, ClientError, NewEvent};
use tidings_protocol::TenantId;
use tokio::time::{Instant, MissedTickBehavior};

use super::fleet::Fleet;

/// How often the fleet is stepped; what it did in between goes out in one body a tenant.
const TICK: Duration = Duration::from_millis(100);
/// Most events of a body.
const BODY: usize = 500;
/// Waits between attempts while the server takes nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For how long a repeat is safe: the server knows keys for two minutes.
const KEYS_KNOWN: Duration = Duration::from_secs(110);

/// Steps `fleet` by the clock and publishes until dropped.
///
/// # Errors
///
/// A refusal that repeating can't mend.
pub(super) async fn drive(
    client: Client,
    mut fleet: Fleet,
    run: &str,
) -> Result<std::convert::Infallible, ClientError> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0_u64;
    loop {
        ticks.tick().await;
        for (tenant, mut events) in by_tenant(fleet.step(Timestamp::now())) {
            for event in &mut events {
                event.key = Some(format!("{run}-{number}"));
                number += 1;
            }
            for body in events.chunks(BODY) {
                publish(&client, tenant, body).await?;
            }
        }
    }
}

/// Publishes one body, again and again while the server is away: a stage that is left out would leave a
/// push hanging for those who watch.
async fn publish(client: &Client, tenant: TenantId, body: &[NewEvent]) -> Result<(), ClientError> {
    let mut wait = SHORTEST_WAIT;
    let give_up = Instant::now() + KEYS_KNOWN;
    loop {
        match client.publish(tenant, body).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_temporary() && Instant::now() < give_up => {
                tracing::warn!(%error, "the fleet's events were not taken; trying again");
                tokio::time::sleep(error.retry_after().unwrap_or(wait)).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(error) if error.is_temporary() => {
                tracing::warn!(%error, events = body.len(), "the fleet's events were given up");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// The events of each tenant, in order.
fn by_tenant(events: Vec<(TenantId, NewEvent)>) -> Vec<(TenantId, Vec<NewEvent>)> {
    let mut bodies: Vec<(TenantId, Vec<NewEvent>)> = Vec::new();
    for (tenant, event) in events {
        match bodies.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, body)) => body.push(event),
            None => bodies.push((tenant, vec![event])),
        }
    }
    bodies
}
