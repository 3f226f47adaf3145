//! `floor append`: how fast bodies can be made durable with nothing around it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::Options;
use crate::journal::Journal;

/// Appends and syncs one body after the other and prints how many there were, as JSON.
pub(crate) fn run(options: &Options) -> Result<()> {
    let directory = options.sync.as_ref().context("append needs --sync")?;
    let mut journal = Journal::create(directory)?;
    let body = vec![b'x'; options.body_bytes];
    let start = Instant::now();
    let limit = Duration::from_secs(options.seconds);
    let mut appended: u64 = 0;
    while start.elapsed() < limit {
        journal.append(&body)?;
        appended += 1;
    }
    println!(
        "{{\"appends\":{appended},\"seconds\":{}}}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
