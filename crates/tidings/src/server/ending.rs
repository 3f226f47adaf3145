//! How a server ends: told to load balancers, streams led elsewhere, what is under way finished, the log closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::Server;
use crate::shutdown::{Orders, Stage};

/// Waits for this long in all, and no longer once another order to end comes.
struct Patience<'o> {
    until: Instant,
    orders: &'o mut Orders,
}

impl<'o> Patience<'o> {
    fn new(time: Duration, orders: &'o mut Orders) -> Self {
        Self {
            until: Instant::now() + time,
            orders,
        }
    }

    /// Whether the work ended in time.
    async fn waited_for(&mut self, work: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = work => true,
            () = self.orders.next() => {
                self.until = Instant::now();
                false
            }
            () = sleep_until(self.until.into()) => false,
        }
    }
}

/// What the end takes beyond the configured times: the log's last words, and streams that linger.
const LAST_STEPS: Duration = Duration::from_secs(30);

impl Server {
    /// How long [`Server::stop`] takes at most.
    #[must_use]
    pub fn stop_takes(&self) -> Duration {
        let times = self.app.config().shutdown.clone();
        times.delay + times.drain + times.grace + LAST_STEPS
    }

    /// Ends the server in stages: it says that it is not ready (`shutdown.delay`), leads the streams elsewhere
    /// (`shutdown.drain`), and finishes what is under way (`shutdown.grace`). Each further order ends the stage
    /// that it comes in.
    pub async fn stop(self, orders: &mut Orders) {
        let times = self.app.config().shutdown.clone();
        let life = &self.app.life;
        life.enter(Stage::Leaving);
        tracing::info!(streams = self.app.engines.stream_count(), "stopping");
        if !times.delay.is_zero() {
            let mut delay = Patience::new(times.delay, orders);
            delay.waited_for(std::future::pending()).await;
        }
        life.enter(Stage::Draining);
        let streams = self.app.engines.stream_count();
        tracing::info!(streams, "draining");
        let mut draining = self.app.engines.drain(times.drain);
        let hastened = tokio::select! {
            biased;
            () = draining.ended() => false,
            () = orders.next() => true,
        };
        if hastened {
            let streams = self.app.engines.stream_count();
            tracing::info!(streams, "the drain is cut short");
            self.app.engines.close_all();
            draining.ended().await;
        }
        life.enter(Stage::Stopping);
        self.finish(Patience::new(times.grace, orders)).await;
        tracing::info!("stopped");
    }

    /// What is under way ends, for as long as there is patience; then the parts, each after those that need it.
    async fn finish(self, mut grace: Patience<'_>) {
        tracing::info!(connections = self.tasks.len(), "what is under way ends");
        self.refusing.cancel();
        self.stopping.cancel();
        self.tasks.close();
        if !grace.waited_for(self.tasks.wait()).await {
            tracing::warn!(connections = self.tasks.len(), "connections were cut off");
        }
        self.app.operations.close();
        if !grace.waited_for(self.app.operations.wait()).await {
            tracing::warn!("an operator's change did not end in time");
        }
        if !grace.waited_for(self.app.purges.finish()).await {
            tracing::warn!("a purge did not end in time; the next start goes on with it");
        }
        self.alone.cancel();
        self.cluster_tasks.close();
        if !grace.waited_for(self.cluster_tasks.wait()).await {
            tracing::warn!("what goes on with the other nodes did not end in time");
        }
        if let Some(mirror) = self.mirror {
            mirror.stop().await;
        }
        let deadline = grace.until;
        let app = Arc::clone(&self.app);
        let ended = tokio::task::spawn_blocking(move || {
            app.engines.stop(deadline);
            app.audit.stop();
            app.log.clone().close();
            if let Some(traces) = &app.traces {
                traces.stop();
            }
        });
        if ended.await.is_err() {
            tracing::error!("the log's end has panicked");
        }
        // To the very end it says that the server is not ready, and why.
        self.admin.stop().await;
    }
}
