//! Streams that read a large log from its beginning.

use anyhow::{Context as _, Result};
use clap::Args;

use super::Session;
use crate::target::{Dialect, Wish};

/// Streams that read a large log from its beginning.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// How many events the log holds.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// One event of so many is the small tenant's.
    #[arg(long, default_value_t = 1_000)]
    share: u64,
}

/// Events in a body.
const BATCH: u64 = 500;
/// Tenants that share the rest of the log.
const OTHERS: usize = 9;

impl Replay {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(1 + OTHERS);
        let receipt = session.publish_for_receipt(1)?;
        let (epoch, _) = receipt
            .first
            .split_once('.')
            .context("a cursor without a dot")?;
        let start = format!("{epoch}.0");
        // The small tenant's events lie evenly over the whole log.
        let small = self.events / self.share;
        let bodies = (self.events / BATCH).max(1);
        let stretches = 10;
        let before = session.probe.usage()?;
        for _ in 0..stretches {
            let part = small.saturating_sub(1) / stretches;
            session.publish_all(0..1, 1, 1, |begun| begun < part)?;
            session.publish_all(1..1 + OTHERS, 8, usize::try_from(BATCH)?, |begun| {
                begun < bodies / stretches
            })?;
        }
        let used = session.probe.since(&before)?;
        let events: u64 = session.driver.lanes.iter().map(|lane| lane.published).sum();
        session
            .report
            .set("fill_events_per_s", events as f64 / used.elapsed);

        session.read("small_tenant", 0, false, &start)?;
        session.read("large_tenant", 1, false, &start)?;
        if session.driver.speaker.target.dialect == Dialect::Tidings {
            session.read("whole_log", 0, true, &start)?;
        }
        Ok(())
    }
}

impl Session {
    /// Opens one stream that reads everything after `start`, and measures how long that takes.
    fn read(&mut self, name: &str, lane: usize, everything: bool, start: &str) -> Result<()> {
        let lanes = &self.driver.lanes;
        let due = if everything {
            lanes.iter().map(|lane| lane.published).sum()
        } else {
            lanes[lane].published
        };
        let mut wishes = vec![Wish {
            lane,
            after: Some(start.to_owned()),
            everything,
            ..Wish::default()
        }];
        if self.driver.speaker.needs_tokens() && !everything {
            self.mint(&mut wishes)?;
        }
        let received = self.driver.tally.events;
        let before = self.probe.usage()?;
        self.driver.open(wishes, due, 1)?;
        // Not settle(), which looks again only after a while: a small tenant is read in milliseconds.
        let give_up = crate::clock::now() + 60_000_000;
        while self.driver.tally.events - received < due && crate::clock::now() < give_up {
            self.driver.turn(give_up)?;
        }
        let used = self.probe.since(&before)?;
        self.settle()?;
        let report = &mut self.report;
        report.set(format!("{name}_events"), due as f64);
        report.set(format!("{name}_events_per_s"), due as f64 / used.elapsed);
        report.set(format!("{name}_ms"), used.elapsed * 1e3);
        report.cpu(&format!("{name}_event"), &used, due as f64);
        self.driver.close_streams();
        Ok(())
    }
}
