//! Many streams that resume at once.

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Receipt, Session};
use crate::clock;
use crate::driver::{Metronome, PATIENCE};
use crate::target::{Dialect, Wish};

/// Many streams that resume at once.
#[derive(Clone, Debug, Args)]
pub struct Resume {
    /// How many streams resume.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// How many events each is behind.
    #[arg(long, default_value_t = 100)]
    behind: u64,
    /// How many connect at a time.
    #[arg(long, default_value_t = 1_000)]
    at_once: usize,
    /// How many streams of another tenant are live meanwhile, at 50 events/s.
    #[arg(long, default_value_t = 100)]
    live: usize,
}

/// The lane of the streams that resume, that of those that are live, and its publisher.
const RESUMED: usize = 0;
const LIVE: usize = 1;
const LIVE_PUBLISHER: usize = 16;

impl Resume {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(2);
        let receipt = session.publish_for_receipt(100)?;
        let after = receipt.last;
        session.publish_for_receipt(usize::try_from(self.behind)?)?;
        let live = Wish {
            lane: LIVE,
            timed: true,
            ..Wish::default()
        };
        session.open(vec![live; self.live], 0, 64)?;
        session.driver.connect_requesters(LIVE_PUBLISHER + 1)?;
        session.driver.metronome = Some(Metronome {
            lane: LIVE,
            requester: LIVE_PUBLISHER,
            interval: 20_000,
            next: clock::now(),
        });
        session.driver.run_until(clock::after(1.0))?;
        session.driver.latency.clear();
        session.driver.run_until(clock::after(2.0))?;
        let live_before = session.driver.latency.clone();

        let wish = Wish {
            lane: RESUMED,
            after: Some(after),
            ..Wish::default()
        };
        let mut wishes = vec![wish; self.streams];
        if session.driver.speaker.needs_tokens() {
            session.mint(&mut wishes)?;
        }
        session.driver.latency.clear();
        let before = session.probe.usage()?;
        session.driver.open(wishes, self.behind, self.at_once)?;
        let opened = clock::now();
        let give_up = opened + PATIENCE;
        while session.driver.missing_in(RESUMED) > 0 && clock::now() < give_up {
            session.driver.run_until(clock::now() + 10_000)?;
        }
        let used = session.probe.since(&before)?;
        let live_during = session.driver.latency.clone();
        session.driver.metronome = None;
        session.driver.finish_requests()?;
        session.settle()?;
        let report = &mut session.report;
        report.set("opened_after_s", clock::seconds(opened - before.at));
        report.set("caught_up_after_s", used.elapsed);
        report.cpu("stream", &used, self.streams as f64);
        report.latency("live_before", &live_before);
        report.latency("live_during", &live_during);
        let ratio = live_during.quantile(0.99) as f64 / live_before.quantile(0.99) as f64;
        report.set("live_p99_during_over_before", ratio);
        report.set("server_memory_bytes", session.probe.memory()? as f64);
        Ok(())
    }
}

impl Session {
    /// Publishes `count` events to the first lane in one body and returns the receipt.
    pub(crate) fn publish_for_receipt(&mut self, count: usize) -> Result<Receipt> {
        let driver = &mut self.driver;
        anyhow::ensure!(
            driver.speaker.target.dialect != Dialect::Nchan,
            "this server gives no receipts"
        );
        driver.connect_requesters(1)?;
        let request = driver
            .speaker
            .publish(&mut driver.lanes[0], count, clock::now());
        driver.request(0, request, 0)?;
        while driver.answers.is_empty() {
            driver.turn(clock::now() + 100_000)?;
        }
        let answer = driver.answers.pop_front().context("no answer")?;
        driver.check(&answer);
        serde_json::from_slice(&answer.body).context("the receipt")
    }
}
