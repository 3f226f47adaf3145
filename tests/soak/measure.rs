//! Memory and descriptors of one life of the server's process.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidings_tests::Server;

use crate::Soak;

/// Between two looks.
const STEP: Duration = Duration::from_secs(2);
/// For so long the first life fills up: keys are remembered for two minutes. Later ones find theirs in the log.
const FILLS: Duration = Duration::from_secs(130);
/// What a median may lie above an earlier one: the allocator and the kernel's own noise.
const SLACK_BYTES: u64 = 8 << 20;
const SLACK_DESCRIPTORS: u64 = 40;

/// What was seen, in order.
pub(crate) struct Life {
    number: usize,
    memory: Vec<u64>,
    descriptors: Vec<u64>,
}

/// Watches the server for so long.
pub(crate) fn over(server: &Server, span: Duration, soak: &Soak, number: usize) -> Life {
    let mut life = Life {
        number,
        memory: Vec::new(),
        descriptors: Vec::new(),
    };
    let folder = format!("/proc/{}", server.pid().as_raw_nonzero());
    let end = Instant::now() + span;
    while Instant::now() < end {
        std::thread::sleep(STEP.min(end.saturating_duration_since(Instant::now())));
        let status = std::fs::read_to_string(format!("{folder}/status")).expect("it runs");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .expect("a process has a resident size");
        life.memory.push(resident * 1024);
        let open = std::fs::read_dir(format!("{folder}/fd")).expect("it runs");
        life.descriptors.push(open.count() as u64);
        if life.memory.len().is_multiple_of(5) {
            println!(
                "life {number}: {:.1} MiB, {} descriptors, {} events read, {} streams opened",
                (resident as f64) / 1024.0,
                life.descriptors.last().expect("just seen"),
                soak.read.load(Ordering::Relaxed),
                soak.opened.load(Ordering::Relaxed),
            );
        }
    }
    life
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

impl Life {
    /// Holds what was seen last to what was seen before, once caches and windows are full: after a third of the life,
    /// and of the first not before [`FILLS`].
    pub(crate) fn must_be_flat(&self) {
        let mut full = self.memory.len() / 3;
        if self.number == 1 {
            let steps = FILLS.as_secs() / STEP.as_secs();
            full = full.max(usize::try_from(steps).expect("a few"));
        }
        let half = self.memory.len().saturating_sub(full) / 2;
        assert!(half > 3, "a life too short to say anything");
        let compare = |what: &str, values: &[u64], slack: u64| {
            let (before, after) = values[full..].split_at(half);
            let (before, after) = (median(before), median(after));
            println!("life {}: {what} {before}, then {after}", self.number);
            assert!(
                after <= before + before / 10 + slack,
                "{what} grows in life {}: {values:?}",
                self.number
            );
        };
        compare("bytes resident", &self.memory, SLACK_BYTES);
        compare("descriptors", &self.descriptors, SLACK_DESCRIPTORS);
    }
}
