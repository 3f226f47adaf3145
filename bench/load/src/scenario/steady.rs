//! Events at a steady rate.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::clock;
use crate::coding::Coding;
use crate::payload::Lane;
use crate::probe::Probe;
use crate::target::{Bound, Wish};

/// Events at a steady rate to many streams.
#[derive(Clone, Debug, Args)]
pub struct Steady {
    /// How many streams.
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Over how many tenants they are spread.
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Further tenants, with one event each and no stream.
    #[arg(long, default_value_t = 0)]
    other_tenants: usize,
    /// Streams are of one tenant and filter by device, this many devices; 0: no filter. Where the
    /// server can't filter, a device is a tenant of its own.
    #[arg(long, default_value_t = 0)]
    devices: usize,
    /// The content coding that streams ask for.
    #[arg(long, value_enum)]
    coding: Option<Coding>,
    /// Events a second, of all lanes together.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Publishers, each with one request at a time; a lane's events all come from one of them.
    #[arg(long, default_value_t = 8)]
    publishers: usize,
}

/// What became of one stretch of publishing.
pub(crate) struct Stretch {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) acknowledged: crate::histogram::Histogram,
}

impl Session {
    /// Publishes one event at a time, `rate` a second in all, to `lanes` in turn. Where the server
    /// does not keep up, fewer are published: the report says how many.
    pub(crate) fn publish_steadily(
        &mut self,
        lanes: std::ops::Range<usize>,
        publishers: usize,
        rate: f64,
        seconds: f64,
    ) -> Result<Stretch> {
        let driver = &mut self.driver;
        driver.connect_requesters(publishers)?;
        let start = clock::now();
        let mut stretch = Stretch {
            events: 0,
            seconds: 0.0,
            acknowledged: crate::histogram::Histogram::default(),
        };
        let end = start + clock::microseconds(seconds);
        let mut next: u64 = 0;
        while (next as f64) < rate * seconds && clock::now() < end {
            let due = start + clock::microseconds(next as f64 / rate);
            let lane = lanes.start + usize::try_from(next)? % lanes.len();
            let publisher = lane % publishers;
            let now = clock::now();
            if now >= due && !driver.busy(publisher) {
                let request = driver.speaker.publish(&mut driver.lanes[lane], 1, now);
                driver.request(publisher, request, 0)?;
                stretch.events += 1;
                next += 1;
            }
            // While the lane's publisher is busy its answer ends the wait.
            let wait = if driver.busy(publisher) {
                now + 10_000
            } else {
                due
            };
            driver.turn(wait.min(end))?;
            while let Some(answer) = driver.answers.pop_front() {
                driver.check(&answer);
                stretch.acknowledged.record(answer.latency);
            }
        }
        driver.run_until(end)?;
        stretch.seconds = clock::seconds(clock::now() - start);
        driver.finish_requests()?;
        Ok(stretch)
    }
}

impl Steady {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        let lanes = if self.devices > 0 {
            self.devices
        } else {
            self.tenants
        };
        let filtered = self.devices > 0 && session.driver.speaker.filters();
        session.driver.lanes = (0..lanes)
            .map(|lane| {
                if filtered {
                    Lane::new(0, lane)
                } else {
                    Lane::new(lane, 0)
                }
            })
            .collect();
        let others = lanes..lanes + self.other_tenants;
        session
            .driver
            .lanes
            .extend(others.clone().map(|tenant| Lane::new(tenant, 0)));
        session.publish_once(others)?;
        let speaker = &session.driver.speaker;
        if speaker.filters() && speaker.target.bound == Some(Bound::Group) {
            session.driver.connect_requesters(1)?;
            let request = session.driver.speaker.make_group(&session.driver.lanes[0]);
            session.driver.request(0, request, 0)?;
            session.driver.finish_requests()?;
        }

        let wishes = (0..self.streams).map(|stream| Wish {
            lane: stream % lanes,
            timed: true,
            coding: self.coding,
            filtered,
            ..Wish::default()
        });
        session.open(wishes.collect(), 0, 256)?;
        session.publish_steadily(0..lanes, self.publishers, self.rate, self.warmup)?;
        session.settle()?;

        session.driver.latency.clear();
        let received = session.driver.tally.events;
        let bytes = session.driver.tally.bytes;
        let this_process = Probe::of_this_process();
        let own = this_process.usage()?;
        let before = session.probe.usage()?;
        let stretch =
            session.publish_steadily(0..lanes, self.publishers, self.rate, self.seconds)?;
        session.settle()?;
        let used = session.probe.since(&before)?;
        let load = this_process.since(&own)?;

        let deliveries = (session.driver.tally.events - received) as f64;
        let bytes = (session.driver.tally.bytes - bytes) as f64;
        let latency = std::mem::take(&mut session.driver.latency);
        let report = &mut session.report;
        report.set("events_per_s", stretch.events as f64 / stretch.seconds);
        report.set("deliveries", deliveries);
        report.set("bytes_per_delivery", bytes / deliveries.max(1.0));
        report.cpu("delivery", &used, deliveries);
        report.set("server_cpu_share", used.cpu / used.elapsed);
        report.set("load_cpu_share", load.cpu / load.elapsed);
        report.latency("delivery", &latency);
        report.latency("publish", &stretch.acknowledged);
        Ok(())
    }
}
