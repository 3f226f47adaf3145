//! Many events at once.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::clock;
use crate::coding::Coding;
use crate::target::Wish;

/// Many events at once to many streams of one tenant.
#[derive(Clone, Debug, Args)]
pub struct Burst {
    /// How many streams.
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// The content coding that streams ask for.
    #[arg(long, value_enum)]
    coding: Option<Coding>,
    /// How many events.
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    /// Events in a body.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// How many publishers, each with one body at a time.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
}

impl Burst {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(1);
        let wishes = (0..self.streams).map(|_| Wish {
            timed: true,
            coding: self.coding,
            ..Wish::default()
        });
        session.open(wishes.collect(), 0, 256)?;
        // A little first, so that no buffer is met for the first time while it is measured.
        session.publish_all(0..1, 1, self.batch, |begun| begun < 2)?;
        session.settle()?;

        session.driver.latency.clear();
        let received = session.driver.tally.events;
        let bytes = session.driver.tally.bytes;
        let bodies = self.events.div_ceil(self.batch as u64);
        let before = session.probe.usage()?;
        let acknowledged =
            session.publish_all(0..1, self.publishers, self.batch, |begun| begun < bodies)?;
        let published = clock::now();
        session.settle()?;
        let used = session.probe.since(&before)?;

        let deliveries = (session.driver.tally.events - received) as f64;
        let bytes = (session.driver.tally.bytes - bytes) as f64;
        let latency = std::mem::take(&mut session.driver.latency);
        let report = &mut session.report;
        report.set("deliveries", deliveries);
        report.set("bytes_per_delivery", bytes / deliveries.max(1.0));
        report.set("deliveries_per_cpu_s", deliveries / used.cpu);
        report.set("deliveries_per_s", deliveries / used.elapsed);
        report.set("published_after_s", clock::seconds(published - before.at));
        report.set("finished_after_s", used.elapsed);
        report.cpu("delivery", &used, deliveries);
        report.latency("delivery", &latency);
        report.latency("publish", &acknowledged);
        Ok(())
    }
}
