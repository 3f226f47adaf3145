//! Streams opened as fast as they can be.

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::target::Wish;

/// Streams opened as fast as they can be.
#[derive(Clone, Debug, Args)]
pub struct Open {
    /// How many streams.
    #[arg(long, default_value_t = 5_000)]
    streams: usize,
    /// How many are being opened at a time.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
}

impl Open {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        session.tenants(1);
        // What only the first stream costs is not what one stream costs.
        session.open(vec![Wish::default(); 100], 0, self.at_once)?;
        let count = self.streams as f64;
        let mut wishes = vec![Wish::default(); self.streams];
        let (mut cpu, mut elapsed) = (0.0, 0.0);
        if session.driver.speaker.needs_tokens() {
            let before = session.probe.usage()?;
            session.mint(&mut wishes)?;
            let used = session.probe.since(&before)?;
            session.report.cpu("token", &used, count);
            session.report.set("tokens_per_s", count / used.elapsed);
            (cpu, elapsed) = (used.cpu, used.elapsed);
        }
        let before = session.probe.usage()?;
        session.driver.open(wishes, 0, self.at_once)?;
        let used = session.probe.since(&before)?;
        session.report.cpu("open", &used, count);
        session.report.set("opens_per_s", count / used.elapsed);
        session
            .report
            .set("token_and_open_cpu_us", (cpu + used.cpu) * 1e6 / count);
        session
            .report
            .set("tokens_and_opens_per_s", count / (elapsed + used.elapsed));
        Ok(())
    }
}
