//! Streams that never read beside streams that do.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::clock;
use crate::probe::socket_buffers;
use crate::target::Wish;

/// Streams that never read beside streams that do.
#[derive(Clone, Debug, Args)]
pub struct Stalled {
    /// How many streams read.
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// How many never read.
    #[arg(long, default_value_t = 1_000)]
    deaf: usize,
    /// Events a second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds that are measured, without and with streams that never read.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Events published in one go to fill the buffers of those that never read.
    #[arg(long, default_value_t = 2_000)]
    fill: u64,
    /// How long to wait for the server to close those that never read, seconds; 0: not at all.
    #[arg(long, default_value_t = 0.0)]
    close_within: f64,
}

impl Stalled {
    /// Without, with, and without again: what drifts in the machine meanwhile cancels out.
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(1);
        let wish = Wish {
            timed: true,
            ..Wish::default()
        };
        session.open(vec![wish; self.streams], 0, 256)?;
        session.publish_steadily(0..1, 1, self.rate, 1.0)?;
        self.fill(session)?;
        let p99_before = self.measure(session, "before")?;

        let (memory, buffers) = (session.probe.memory()?, socket_buffers()?);
        let wish = Wish {
            deaf: true,
            ..Wish::default()
        };
        session.open(vec![wish; self.deaf], 0, 256)?;
        let opened = clock::now();
        self.fill(session)?;
        let p99_with = self.measure(session, "with")?;
        let stalled = self.deaf.max(1) as f64;
        let grown = session.probe.memory()? as f64 - memory as f64;
        session
            .report
            .set("memory_bytes_per_stalled", grown / stalled);
        let grown = socket_buffers()? as f64 - buffers as f64;
        session
            .report
            .set("kernel_buffers_bytes_per_stalled", grown / stalled);

        let give_up = clock::after(self.close_within);
        while clock::now() < give_up && session.driver.tally.closed < self.deaf as u64 {
            session.driver.turn(clock::now() + 100_000)?;
        }
        session
            .report
            .set("stalled_closed", session.driver.tally.closed as f64);
        session.report.set(
            "stalled_closed_after_s",
            clock::seconds(clock::now() - opened),
        );
        if self.close_within > 0.0 {
            let p99_after = self.measure(session, "after")?;
            session.report.set(
                "p99_with_over_without",
                p99_with / f64::midpoint(p99_before, p99_after),
            );
        } else {
            session
                .report
                .set("p99_with_over_without", p99_with / p99_before);
        }
        Ok(())
    }

    /// Publishes enough to fill the buffers of those that never read, and in the measurement
    /// without them the same, so that nothing else differs.
    fn fill(&self, session: &mut Session) -> Result<()> {
        let bodies = self.fill.div_ceil(100);
        session.publish_all(0..1, 1, 100, |begun| begun < bodies)?;
        session.settle()
    }

    /// Measures the latency of those that read; returns its p99 in microseconds.
    fn measure(&self, session: &mut Session, name: &str) -> Result<f64> {
        session.driver.latency.clear();
        let received = session.driver.tally.events;
        let before = session.probe.usage()?;
        session.publish_steadily(0..1, 1, self.rate, self.seconds)?;
        session.settle()?;
        let used = session.probe.since(&before)?;
        let latency = std::mem::take(&mut session.driver.latency);
        let deliveries = (session.driver.tally.events - received) as f64;
        session
            .report
            .latency(&format!("delivery_{name}"), &latency);
        session
            .report
            .cpu(&format!("delivery_{name}"), &used, deliveries);
        Ok(latency.quantile(0.99) as f64)
    }
}
