//! Streams that get nothing but heartbeats.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::clock;
use crate::probe::{slab, socket_buffers};
use crate::target::Wish;

/// Streams that get nothing but heartbeats.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    /// Numbers of streams at which memory is read, ascending.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,18000")]
    steps: Vec<usize>,
    /// Seconds that heartbeats are counted at the last step; 0: not at all.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds to wait before memory is read, for what opening needed to be given back.
    #[arg(long, default_value_t = 2.0)]
    rest: f64,
}

impl Idle {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(1);
        session.driver.run_until(clock::after(self.rest))?;
        let mut last = (0, session.probe.memory()?);
        let (buffers, slabs) = (socket_buffers()?, slab()?);
        session.report.set("memory_0_bytes", last.1 as f64);
        // The first step pays for what is there once; growth is counted from it.
        let mut first = None;
        for &step in &self.steps {
            let more = step - last.0;
            session.open(vec![Wish::default(); more], 0, 256)?;
            session.driver.run_until(clock::after(self.rest))?;
            let memory = session.probe.memory()?;
            let (from, bytes) = first.unwrap_or(last);
            let grown = (memory as f64 - bytes as f64) / (step - from) as f64;
            let report = &mut session.report;
            report.set(format!("memory_{step}_bytes"), memory as f64);
            let name = first.map_or_else(
                || format!("first_{step}_bytes_per_stream"),
                |(from, _)| format!("growth_{from}_to_{step}_bytes_per_stream"),
            );
            report.set(name, grown);
            first = first.or(Some((step, memory)));
            let kernel = (slab()? as f64 - slabs as f64) / step as f64;
            report.set(format!("kernel_slab_{step}_bytes_per_stream"), kernel);
            let kernel = (socket_buffers()? as f64 - buffers as f64) / step as f64;
            report.set(format!("kernel_buffers_{step}_bytes_per_stream"), kernel);
            last = (step, memory);
        }
        if self.seconds > 0.0 {
            let heard = session.driver.tally.heartbeats;
            let before = session.probe.usage()?;
            session.driver.run_until(clock::after(self.seconds))?;
            let used = session.probe.since(&before)?;
            let heard = (session.driver.tally.heartbeats - heard) as f64;
            let report = &mut session.report;
            report.set(
                "heartbeats_per_stream_per_s",
                heard / used.elapsed / last.0 as f64,
            );
            report.set("server_cpu_share", used.cpu / used.elapsed);
            if heard > 0.0 {
                report.cpu("heartbeat", &used, heard);
            }
        }
        let closed = session.driver.tally.closed;
        if closed > 0 {
            session
                .report
                .fault(format!("{closed} idle streams were closed"));
        }
        Ok(())
    }
}
