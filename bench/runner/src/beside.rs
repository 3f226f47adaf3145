//! The figures in which servers of different make can be compared, beside each other.

use std::fmt::Write as _;

use crate::report::figure;
use crate::results::Results;
use crate::server::Kind;

const SERVERS: [Kind; 4] = [Kind::Floor, Kind::Tidings, Kind::Nchan, Kind::Pushpin];

/// Scenario, the beginning of the metric's name, how it is called.
const FIGURES: [(&str, &str, &str); 11] = [
    ("peers", "delivery_cpu_us", "CPU µs per delivery"),
    ("peers", "delivery_p50_ms", "latency p50, ms"),
    ("peers", "delivery_p99_ms", "latency p99, ms"),
    ("peers", "first_", "bytes a stream, the first"),
    ("peers", "growth_", "bytes a stream, growth"),
    ("cpu-per-delivery", "delivery_cpu_us", "CPU µs per delivery"),
    ("latency", "delivery_p50_ms", "latency p50, ms"),
    ("latency", "delivery_p99_ms", "latency p99, ms"),
    ("burst", "deliveries_per_cpu_s", "deliveries per CPU second"),
    ("idle", "first_", "bytes a stream, the first"),
    ("idle", "growth_", "bytes a stream, growth"),
];

/// The section of `RESULTS.md`; it says so where no peer was measured.
pub(crate) fn section(all: &[Results]) -> String {
    let mut text = String::from(
        "## Beside the peers\n\n\
         The peers sync nothing and check no token, and Nchan filters nothing: what a delivery costs them is to be read \
         beside what Tidings promises. A dash is what a server was not measured in; the scenarios say why.\n\n",
    );
    if !all.iter().any(measures_a_peer) {
        text.push_str("No peer has been measured.\n\n");
        return text;
    }
    text.push_str("| figure | case |");
    for kind in SERVERS {
        let _ = write!(text, " {} |", kind.name());
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" --- |".repeat(SERVERS.len()));
    text.push('\n');
    for (scenario, metric, name) in FIGURES {
        let found = all.iter().find(|results| results.scenario == scenario);
        if let Some(results) = found {
            rows(&mut text, results, metric, name);
        }
    }
    text.push('\n');
    text
}

fn measures_a_peer(results: &Results) -> bool {
    let mut kinds = results.cases.iter().flat_map(|case| case.rounds.keys());
    kinds.any(|kind| matches!(kind, Kind::Nchan | Kind::Pushpin))
}

/// A row for each case, and for each metric that begins so.
fn rows(text: &mut String, results: &Results, beginning: &str, name: &str) {
    for case in &results.cases {
        let rounds = case.rounds.values().flatten();
        let mut metrics: Vec<&String> = rounds
            .flat_map(|round| round.metrics.keys())
            .filter(|metric| metric.starts_with(beginning))
            .collect();
        metrics.sort();
        metrics.dedup();
        for metric in metrics {
            let which = metric[beginning.len()..]
                .trim_end_matches("_bytes_per_stream")
                .replace('_', " ");
            let name = format!("{name} {which}");
            let _ = write!(text, "| {} | {} |", name.trim_end(), case.name);
            for kind in SERVERS {
                let spread = case.spread(kind, metric);
                let _ = write!(text, " {} |", spread.map_or_else(|| "–".to_owned(), figure));
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use bench_load::report::Report;

    use super::*;
    use crate::machine::Machine;
    use crate::results::CaseResults;

    fn results(kinds: &[(Kind, f64)]) -> Results {
        let round = |(kind, value): &(Kind, f64)| {
            let mut report = Report::default();
            report.set("delivery_cpu_us", *value);
            (*kind, vec![report])
        };
        Results {
            scenario: "cpu-per-delivery".to_owned(),
            date: String::new(),
            commit: String::new(),
            machine: Machine::describe(),
            quick: false,
            cases: vec![CaseResults {
                name: "9 streams".to_owned(),
                load: String::new(),
                rounds: kinds.iter().map(round).collect(),
            }],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn servers_stand_in_one_row_and_those_without_a_figure_have_a_dash() {
        let text = section(&[results(&[(Kind::Tidings, 8.0), (Kind::Pushpin, 42.5)])]);
        let row = "| CPU µs per delivery | 9 streams | – | 8 | – | 42.5 |\n";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn without_peers_there_is_no_table() {
        let text = section(&[results(&[(Kind::Floor, 7.0), (Kind::Tidings, 8.0)])]);
        assert!(text.contains("No peer has been measured"), "{text}");
    }
}
