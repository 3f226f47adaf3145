//! Publishing without any stream.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::clock;
use crate::histogram::Histogram;

/// Publishing without any stream.
#[derive(Clone, Debug, Args)]
pub struct Publish {
    /// How many publishers, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    publishers: usize,
    /// Events in a body.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// How many tenants, in turn.
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
}

impl Session {
    /// Publishes one event to each of `lanes`, as fast as it goes.
    pub(crate) fn publish_once(&mut self, lanes: std::ops::Range<usize>) -> Result<()> {
        let count = lanes.len() as u64;
        self.publish_all(lanes, 64, 1, |published| published < count)?;
        Ok(())
    }

    /// Publishes bodies of `batch` events to `lanes` in turn while `more` says so of the number of
    /// bodies begun. Returns how long each took to be acknowledged.
    pub(crate) fn publish_all(
        &mut self,
        lanes: std::ops::Range<usize>,
        publishers: usize,
        batch: usize,
        more: impl Fn(u64) -> bool,
    ) -> Result<Histogram> {
        let mut acknowledged = Histogram::default();
        let driver = &mut self.driver;
        driver.connect_requesters(publishers)?;
        let mut idle: Vec<usize> = (0..publishers).collect();
        let mut begun: u64 = 0;
        loop {
            while let Some(&publisher) = idle.last() {
                if lanes.is_empty() || !more(begun) {
                    break;
                }
                let lane = lanes.start + usize::try_from(begun)? % lanes.len();
                let now = clock::now();
                let request = driver.speaker.publish(&mut driver.lanes[lane], batch, now);
                driver.request(publisher, request, 0)?;
                idle.pop();
                begun += 1;
            }
            if idle.len() == publishers {
                return Ok(acknowledged);
            }
            driver.turn(clock::now() + 100_000)?;
            while let Some(answer) = driver.answers.pop_front() {
                driver.check(&answer);
                acknowledged.record(answer.latency);
                idle.push(answer.requester);
            }
        }
    }
}

impl Publish {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(self.tenants);
        let stretch = |session: &mut Session, seconds: f64| {
            let end = clock::after(seconds);
            session.publish_all(0..self.tenants, self.publishers, self.batch, |_| {
                clock::now() < end
            })
        };
        stretch(session, self.warmup)?;
        let before = session.probe.usage()?;
        let acknowledged = stretch(session, self.seconds)?;
        let used = session.probe.since(&before)?;
        let events = acknowledged.total() as f64 * self.batch as f64;
        let report = &mut session.report;
        report.set("events_per_s", events / used.elapsed);
        report.set("bodies_per_s", acknowledged.total() as f64 / used.elapsed);
        report.cpu("event", &used, events);
        report.set("server_cpu_share", used.cpu / used.elapsed);
        report.latency("publish", &acknowledged);
        Ok(())
    }
}
