//! What was measured, as it is kept in `results/*.json`.

use std::collections::BTreeMap;

use bench_load::report::Report;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::server::Kind;

/// All rounds of one scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) scenario: String,
    /// When the run began, UTC.
    pub(crate) date: String,
    /// The commit of the server, with a mark where files were changed.
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// A smoke test, whose figures say nothing.
    pub(crate) quick: bool,
    pub(crate) cases: Vec<CaseResults>,
    /// Servers that were asked for and are not installed.
    pub(crate) skipped: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseResults {
    pub(crate) name: String,
    /// Arguments of the load generator.
    pub(crate) load: String,
    /// The report of each round, by server.
    pub(crate) rounds: BTreeMap<Kind, Vec<Report>>,
}

/// A median and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) count: usize,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let count = values.len();
        let median = f64::midpoint(values[(count - 1) / 2], values[count / 2]);
        Some(Self {
            median,
            least,
            most,
            count,
        })
    }
}

impl CaseResults {
    /// A metric of one server, round by round; a round without it counts as not a number.
    pub(crate) fn values(&self, kind: Kind, metric: &str) -> Vec<f64> {
        let rounds = self.rounds.get(&kind).map_or(&[][..], Vec::as_slice);
        rounds
            .iter()
            .map(|round| round.metrics.get(metric).copied().unwrap_or(f64::NAN))
            .collect()
    }

    pub(crate) fn spread(&self, kind: Kind, metric: &str) -> Option<Spread> {
        Spread::of(self.values(kind, metric))
    }

    /// The ratio of two servers' figures, round by round: those of a round were taken one right
    /// after the other, so that what drifts in the machine cancels out.
    pub(crate) fn ratios(&self, kind: Kind, metric: &str, over: Kind) -> Vec<f64> {
        let (above, below) = (self.values(kind, metric), self.values(over, metric));
        above
            .iter()
            .zip(&below)
            .map(|(above, below)| above / below)
            .collect()
    }

    /// Everything that was not as promised, with how often.
    pub(crate) fn faults(&self) -> BTreeMap<String, usize> {
        let mut faults = BTreeMap::new();
        for (kind, rounds) in &self.rounds {
            for fault in rounds.iter().flat_map(|round| &round.faults) {
                *faults
                    .entry(format!("{}: {fault}", kind.name()))
                    .or_default() += 1;
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_odd_and_even_counts_ignores_rounds_without_the_figure() {
        let spread = Spread::of(vec![3.0, f64::NAN, 1.0, 2.0]).unwrap();
        assert_eq!(
            (spread.median, spread.least, spread.most, spread.count),
            (2.0, 1.0, 3.0, 3)
        );
        assert!((Spread::of(vec![1.0, 2.0]).unwrap().median - 1.5).abs() < 1e-9);
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }
}
