//! What a scenario hands back: numbers by name, and what went wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::probe::Used;

/// The outcome of one run of a scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Figures by name; the unit is the end of the name.
    pub metrics: BTreeMap<String, f64>,
    /// Everything that was not as promised; empty in a good run.
    pub faults: Vec<String>,
}

impl Report {
    /// Writes down one figure.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.metrics.insert(name.into(), value);
    }

    /// Writes down something that was not as promised.
    pub fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    /// Writes down the quantiles of a histogram in milliseconds, as `{name}_p50_ms` and so on.
    pub fn latency(&mut self, name: &str, histogram: &Histogram) {
        if histogram.total() == 0 {
            return;
        }
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.set(
                format!("{name}_{quantile}_ms"),
                histogram.quantile(share) as f64 / 1e3,
            );
        }
        self.set(format!("{name}_max_ms"), histogram.max() as f64 / 1e3);
    }

    /// Writes down CPU time, whole and for each of `count` things, as `{name}_cpu_us` and so on.
    pub fn cpu(&mut self, name: &str, used: &Used, count: f64) {
        for (part, seconds) in [
            ("cpu", used.cpu),
            ("user", used.user),
            ("system", used.system),
        ] {
            self.set(format!("{name}_{part}_us"), seconds * 1e6 / count.max(1.0));
        }
    }
}
