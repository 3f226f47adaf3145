//! What can be put on a server.

mod broker;
mod burst;
mod idle;
mod open;
mod publish;
mod replay;
mod resume;
mod stalled;
mod steady;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use serde::Deserialize;

use crate::clock;
use crate::driver::Driver;
use crate::payload::Lane;
use crate::probe::Probe;
use crate::report::Report;
use crate::target::{Target, Wish};

/// One scenario and its numbers.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// Events at a steady rate to many streams: latency, and CPU per delivery.
    Steady(steady::Steady),
    /// Many events at once to many streams: deliveries per CPU second.
    Burst(burst::Burst),
    /// More and more streams, and what they cost the broker behind the server.
    Broker(broker::Broker),
    /// Streams that get nothing but heartbeats: memory, and CPU per heartbeat.
    Idle(idle::Idle),
    /// Streams opened as fast as they can be.
    Open(open::Open),
    /// Many streams that resume at once.
    Resume(resume::Resume),
    /// Streams that never read beside streams that do.
    Stalled(stalled::Stalled),
    /// Publishing without any stream.
    Publish(publish::Publish),
    /// Streams that read a large log from its beginning.
    Replay(replay::Replay),
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, target: Target) -> Result<Report> {
    let mut session = Session {
        probe: Probe::new(target.process),
        driver: Driver::new(target)?,
        report: Report::default(),
    };
    match scenario {
        Scenario::Steady(steady) => steady.run(&mut session),
        Scenario::Burst(burst) => burst.run(&mut session),
        Scenario::Broker(broker) => broker.run(&mut session),
        Scenario::Idle(idle) => idle.run(&mut session),
        Scenario::Open(open) => open.run(&mut session),
        Scenario::Resume(resume) => resume.run(&mut session),
        Scenario::Stalled(stalled) => stalled.run(&mut session),
        Scenario::Publish(publish) => publish.run(&mut session),
        Scenario::Replay(replay) => replay.run(&mut session),
    }?;
    Ok(session.finish())
}

/// What a scenario works with.
pub(crate) struct Session {
    pub(crate) driver: Driver,
    pub(crate) probe: Probe,
    pub(crate) report: Report,
}

/// As much of a publish receipt as is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) first: String,
    pub(crate) last: String,
}

/// The answer that carries a stream token.
#[derive(Debug, Deserialize)]
struct Grant {
    token: String,
}

impl Session {
    /// Draws a stream token for each wish.
    pub(crate) fn mint(&mut self, wishes: &mut [Wish]) -> Result<()> {
        const MINTERS: usize = 16;
        let driver = &mut self.driver;
        driver.connect_requesters(MINTERS)?;
        let mut next = 0;
        let mut done = 0;
        let mut last = clock::now();
        while done < wishes.len() {
            for minter in 0..MINTERS {
                if next < wishes.len() && !driver.busy(minter) {
                    let request = driver.speaker.mint(next, &driver.lanes[wishes[next].lane]);
                    driver.request(minter, request, next as u64)?;
                    next += 1;
                }
            }
            driver.turn(clock::now() + 100_000)?;
            while let Some(answer) = driver.answers.pop_front() {
                ensure!(
                    driver.check(&answer),
                    "no token: status {}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
                let grant: Grant = serde_json::from_slice(&answer.body).context("the grant")?;
                wishes[usize::try_from(answer.tag)?].token = Some(grant.token);
                done += 1;
                last = clock::now();
            }
            ensure!(clock::now() - last < 15_000_000, "a token stays away");
        }
        Ok(())
    }

    /// Opens streams, with tokens where they are needed, in portions that fit a token's life.
    pub(crate) fn open(&mut self, wishes: Vec<Wish>, behind: u64, at_once: usize) -> Result<()> {
        const PORTION: usize = 4_000;
        let at_once = at_once.min(self.driver.speaker.at_once());
        let mut wishes = wishes;
        while !wishes.is_empty() {
            let rest = wishes.split_off(wishes.len().min(PORTION));
            if self.driver.speaker.needs_tokens() && !wishes[0].everything {
                self.mint(&mut wishes)?;
            }
            self.driver.open(wishes, behind, at_once)?;
            wishes = rest;
        }
        Ok(())
    }

    /// One tenant for each of `count` lanes.
    pub(crate) fn tenants(&mut self, count: usize) {
        self.driver.lanes = (0..count).map(|tenant| Lane::new(tenant, 0)).collect();
    }

    /// Writes down what all streams saw and what was not as promised.
    fn finish(mut self) -> Report {
        let tally = self.driver.tally;
        self.report.set("streams_opened", tally.opened as f64);
        self.report.set("events_received", tally.events as f64);
        let wrong = [
            ("streams were refused", tally.refused),
            ("events came out of order or twice", tally.disordered),
            ("gaps were announced", tally.gaps),
            ("events are not the load generator's", tally.others),
        ];
        for (text, count) in wrong {
            if count > 0 {
                self.report.fault(format!("{count} {text}"));
            }
        }
        for complaint in self.driver.complaints {
            self.report.fault(complaint);
        }
        self.report
    }

    /// Waits for what is still due and complains where it does not come.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let missing = self.driver.settle()?;
        if missing > 0 {
            self.report
                .fault(format!("{missing} events were lost or came twice"));
        }
        Ok(())
    }
}
