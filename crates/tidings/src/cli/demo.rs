//! `tidings demo`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Failure, Outcome, SettingsArgs, block_on, values};
use crate::demo::{self, DemoOptions};

#[derive(Debug, Args)]
#[command(after_help = "\
The server keeps its events in ./demo-log unless told otherwise, and draws a secret where no key is configured. \
Standard output is one line with the URL of the page; everything else goes to standard error.

Examples:
  tidings demo
  tidings demo --devices 200 --tenants 5 --rate 50 --listen 127.0.0.1:9000")]
pub(super) struct DemoArgs {
    /// How many simulated devices
    #[arg(long, value_name = "N", default_value = "40", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// Over how many tenants they are spread
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tenants: u32,
    /// Simulated events a second, of all devices together
    #[arg(long, value_name = "N", default_value = "5", value_parser = rate)]
    rate: f64,
    /// Give the same course of events for the same number
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often this machine itself reports
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = values::interval)]
    interval: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 100000".to_owned()),
    }
}

pub(super) fn run(args: DemoArgs) -> Outcome {
    let flags = args.settings.flags();
    let loaded = demo::load(args.settings.config, flags).map_err(Failure::new)?;
    crate::logging::start(&loaded.config.logging);
    let options = DemoOptions {
        devices: args.devices as usize,
        tenants: args.tenants as usize,
        rate: args.rate,
        seed: args.seed,
        interval: args.interval,
    };
    block_on(async {
        Box::pin(demo::run(loaded, options)).await?;
        Ok(ExitCode::SUCCESS)
    })
}
