//! This machine as a device: its own status and metrics, published through the public API.
//!
//! - [`payload`]: the built-in types' payloads, which the demo's fleet shares.
//! - [`machine`]: what the operating system says.
//! - [`run`]: reads and publishes at an interval until it is told to stop.

mod machine;
pub(crate) mod payload;

use std::time::Duration;

use jiff::Timestamp;
use machine::Machine;
pub use machine::{Identity, host_device};
use tidings_client::{Client, ClientError, NewEvent};
use tokio::time::MissedTickBehavior;

/// How long the last event may take when the agent stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Publishes the machine's readings every `interval`, first of all at once, until `stop` resolves; then an
/// `offline` status.
///
/// While the server is away the agent goes on reading and keeps nothing but its latest reading, which is
/// what the server gets when it is back: how a machine was an hour ago helps nobody, and memory stays
/// bounded.
///
/// # Errors
///
/// A refusal that repeating can't mend: the credential is not accepted or may not publish to this tenant,
/// or a payload is not.
pub async fn run(
    client: Client,
    identity: Identity,
    interval: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), ClientError> {
    let mut stop = std::pin::pin!(stop);
    let mut machine = Machine::new();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut away = false;
    // A load is measured between two readings; this is how long the first one needs.
    let settled = tokio::time::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
    tokio::select! {
        () = settled => {}
        () = &mut stop => return Ok(()),
    }
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
        let events;
        (machine, events) = read(machine, &identity).await;
        tokio::select! {
            published = publish(&client, &identity, &events, &mut away) => published?,
            () = &mut stop => break,
        }
    }
    let farewell = [machine.farewell(&identity, Timestamp::now())];
    let farewell = client.publish(identity.tenant, &farewell);
    match tokio::time::timeout(FAREWELL, farewell).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the device's last status was not published"),
        Err(_) => tracing::warn!("the device's last status was not published in time"),
    }
    Ok(())
}

/// Reads on a thread for blocking work: a file system that hangs must not hold up the runtime.
async fn read(mut machine: Machine, identity: &Identity) -> (Machine, Vec<NewEvent>) {
    let identity = identity.clone();
    tokio::task::spawn_blocking(move || {
        let events = machine.read(&identity, Timestamp::now());
        (machine, events)
    })
    .await
    .expect("reading the sensors does not panic")
}

async fn publish(
    client: &Client,
    identity: &Identity,
    events: &[NewEvent],
    away: &mut bool,
) -> Result<(), ClientError> {
    match client.publish(identity.tenant, events).await {
        Ok(_) => {
            if std::mem::take(away) {
                tracing::info!(device = %identity.device, "the server takes events again");
            }
            Ok(())
        }
        Err(error) if error.is_temporary() => {
            if !std::mem::replace(away, true) {
                tracing::warn!(%error, "the server takes no events; going on with the latest");
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}
