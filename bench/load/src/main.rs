//! `load`: one scenario against one server; prints a report as JSON.

use anyhow::Result;
use bench_load::scenario::{self, Scenario};
use bench_load::target::Target;
use clap::Parser;
use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

/// Puts load on an event-stream server and checks and measures what comes back.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    scenario: Scenario,
}

fn main() -> Result<()> {
    // The bench ends its children itself; this covers the bench being killed outright.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let arguments = Arguments::parse();
    let report = scenario::run(&arguments.scenario, arguments.target)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
