//! The results as text, as JSON and as `RESULTS.md` with its plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::beside;
use crate::budgets::BUDGETS;
use crate::cases::SCENARIOS;
use crate::console;
use crate::plot::{Across, Plot, Series, number};
use crate::results::{CaseResults, Results, Spread};
use crate::server::Kind;

/// Writes `results/<scenario>.json`; a smoke test's beside the real ones.
pub(crate) fn keep(bench: &Path, results: &Results) -> Result<()> {
    let folder = if results.quick {
        bench.join("results/quick")
    } else {
        bench.join("results")
    };
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.json", results.scenario));
    let mut text = serde_json::to_string_pretty(results)?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn read(bench: &Path) -> Result<Vec<Results>> {
    let mut all = Vec::new();
    for scenario in &SCENARIOS {
        let path = bench.join(format!("results/{}.json", scenario.name));
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        all.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
    }
    Ok(all)
}

/// Writes `RESULTS.md` and its plots from all results that there are.
pub(crate) fn write(bench: &Path) -> Result<()> {
    let all = read(bench)?;
    let mut text = String::from(
        "# What was measured\n\n\
         Written by `bench/run`, which repeats all of it; the figures of every round are in `results/*.json`.\n\n\
         The server is on one core, the load generator on another, all over loopback. *floor* is `bench/floor`, a bare \
         epoll loop that syncs its publishes as Tidings does; *nchan* is nginx with Nchan, *pushpin* is Pushpin with \
         all its processes; both keep their messages in memory and ask for no token. Servers alternate, a fresh process in each round. A figure is the median of all rounds with the least \
         and the most in brackets; a ratio is the median of the ratios of each round. CPU is the server process's, \
         kernel included. Events have 250 bytes.\n\n",
    );
    let console = console::read(bench)?;
    describe(&mut text, &all);
    asked_and_reached(&mut text, &all);
    if let Some(console) = &console {
        text.push_str(&console.verdicts());
    }
    text.push('\n');
    text.push_str(&beside::section(&all));
    for (name, plot) in plots(&all) {
        if let Some(svg) = plot.svg() {
            fs::write(bench.join(format!("results/{name}.svg")), svg)?;
            let _ = writeln!(text, "![{}](results/{name}.svg)\n", plot.title);
        }
    }
    for results in &all {
        let _ = write!(text, "{}", section(results));
    }
    if let Some(console) = &console {
        text.push_str(&console.section());
        if let Some(svg) = console.plot().svg() {
            fs::write(bench.join("results/console.svg"), svg)?;
            text.push_str("![The console's memory over time](results/console.svg)\n");
        }
    }
    fs::write(bench.join("RESULTS.md"), text)?;
    Ok(())
}

fn describe(text: &mut String, all: &[Results]) {
    let Some(first) = all.first() else {
        text.push_str("Nothing has been measured yet.\n");
        return;
    };
    let machine = &first.machine;
    let _ = writeln!(
        text,
        "Machine: {}, {} cores, {} GB, Linux {}, {} descriptors a process.\n",
        machine.processor, machine.cores, machine.memory_gb, machine.kernel, machine.descriptors
    );
    let mut skipped: Vec<&String> = all.iter().flat_map(|results| &results.skipped).collect();
    skipped.sort();
    skipped.dedup();
    for line in skipped {
        let _ = writeln!(text, "{line}\n");
    }
}

fn asked_and_reached(text: &mut String, all: &[Results]) {
    text.push_str("## What was asked for and what was reached\n\n| scenario | case | figure | asked | reached | |\n| --- | --- | --- | --- | --- | --- |\n");
    for results in all {
        for budget in BUDGETS
            .iter()
            .filter(|budget| budget.scenario == results.scenario)
        {
            for verdict in budget.verdicts(results) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} |",
                    results.scenario,
                    verdict.case,
                    verdict.text,
                    verdict.asked,
                    figure(verdict.reached),
                    if verdict.met { "met" } else { "**not met**" }
                );
            }
        }
    }
}

pub(crate) fn figure(spread: Spread) -> String {
    if spread.count == 1 {
        return number(spread.median);
    }
    format!(
        "{} ({}–{})",
        number(spread.median),
        number(spread.least),
        number(spread.most)
    )
}

/// One scenario: its cases, every figure of every server.
fn section(results: &Results) -> String {
    let about = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == results.scenario);
    let mut text = format!(
        "## {}\n\n{}\n\n{}, commit {}.\n\n",
        results.scenario,
        about.map_or("", |scenario| scenario.about),
        results.date,
        results.commit
    );
    for case in &results.cases {
        text.push_str(&table(case));
        if results.scenario == "idle" {
            text.push_str(&extrapolated(case).unwrap_or_default());
        }
    }
    text
}

/// What more idle streams would take than this machine has descriptors for: what the most that were measured took, and
/// the growth up to them for each one more.
fn extrapolated(case: &CaseResults) -> Option<String> {
    const STREAMS: f64 = 100_000.0;
    let rounds = case.rounds.get(&Kind::Tidings)?;
    let steps = rounds.iter().flat_map(|round| round.metrics.keys());
    let step = |name: &String| {
        name.strip_prefix("memory_")?
            .strip_suffix("_bytes")?
            .parse()
            .ok()
    };
    let most: u32 = steps.filter_map(step).max()?;
    let median = |metric: String| Some(case.spread(Kind::Tidings, &metric)?.median);
    let measured = median(format!("memory_{most}_bytes"))?;
    let growth = median(format!("growth_1000_to_{most}_bytes_per_stream"))?;
    let kernel = median(format!("kernel_slab_{most}_bytes_per_stream"))?;
    let own = measured + growth * (STREAMS - f64::from(most));
    Some(format!(
        "Extrapolated, not measured: {} idle streams would take {:.0} MB of Tidings' own memory, and the kernel {:.0} MB for both ends of \
         their connections.\n\n",
        number(STREAMS),
        own / 1e6,
        kernel * STREAMS / 1e6
    ))
}

fn table(case: &CaseResults) -> String {
    let kinds: Vec<Kind> = case.rounds.keys().copied().collect();
    let rounds = case.rounds.values().map(Vec::len).max().unwrap_or_default();
    let mut text = format!(
        "### {}\n\n`load {}`, {rounds} rounds\n\n| |",
        case.name, case.load
    );
    for kind in &kinds {
        let _ = write!(text, " {} |", kind.name());
    }
    let compared = kinds.contains(&Kind::Tidings) && kinds.contains(&Kind::Floor);
    text.push_str(if compared {
        " tidings ÷ floor |\n| --- |"
    } else {
        "\n| --- |"
    });
    text.push_str(&" --- |".repeat(kinds.len() + usize::from(compared)));
    text.push('\n');
    let mut metrics: Vec<&String> = case
        .rounds
        .values()
        .flatten()
        .flat_map(|round| round.metrics.keys())
        .collect();
    metrics.sort();
    metrics.dedup();
    for metric in metrics {
        let _ = write!(text, "| {} |", metric.replace('_', " "));
        for kind in &kinds {
            let spread = case.spread(*kind, metric);
            let _ = write!(text, " {} |", spread.map_or_else(|| "–".to_owned(), figure));
        }
        if compared {
            let ratio = Spread::of(case.ratios(Kind::Tidings, metric, Kind::Floor));
            let _ = write!(text, " {} |", ratio.map_or_else(|| "–".to_owned(), figure));
        }
        text.push('\n');
    }
    text.push('\n');
    for (fault, times) in case.faults() {
        let _ = writeln!(
            text,
            "**Not as promised** ({times}×): {}\n",
            fault.replace('\n', " ").replace('\r', "")
        );
    }
    text
}

/// A scenario's results as text for a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut text = section(results);
    for budget in BUDGETS
        .iter()
        .filter(|budget| budget.scenario == results.scenario)
    {
        for verdict in budget.verdicts(results) {
            let _ = writeln!(
                text,
                "{}: {}: asked {}, reached {}{}",
                verdict.case,
                verdict.text,
                verdict.asked,
                figure(verdict.reached),
                if verdict.met { "" } else { "  NOT MET" }
            );
        }
    }
    text
}

fn plots(all: &[Results]) -> Vec<(&'static str, Plot<'static>)> {
    let mut plots = Vec::new();
    let find = |name| all.iter().find(|results| results.scenario == name);
    if let Some(results) = find("streams") {
        plots.push((
            "latency",
            Plot {
                title: "Latency against streams",
                across: "streams",
                up: "ms from send to receipt",
                along: Across::Logarithmic,
                series: lines(
                    results,
                    &[("delivery_p50_ms", " p50"), ("delivery_p99_ms", " p99")],
                ),
            },
        ));
        plots.push((
            "cpu",
            Plot {
                title: "CPU per delivery against streams",
                across: "streams",
                up: "µs of the server's CPU per delivery",
                along: Across::Logarithmic,
                series: lines(results, &[("delivery_cpu_us", "")]),
            },
        ));
    }
    if let Some(results) = find("idle") {
        plots.push((
            "memory",
            Plot {
                title: "The server's own memory against idle streams",
                across: "streams",
                up: "MB (PSS)",
                along: Across::Logarithmic,
                series: over_steps(results.cases.first(), "memory_", "_bytes", 1e6),
            },
        ));
    }
    if let Some(results) = find("jetstream") {
        plots.push((
            "broker",
            Plot {
                title: "The broker's CPU per event against streams",
                across: "streams",
                up: "µs of nats-server's CPU per event",
                along: Across::Logarithmic,
                series: over_steps(results.cases.last(), "broker_cpu_us_per_event_", "", 1.0),
            },
        ));
    }
    plots
}

/// A server's colour, strong for its first line and pale for its second.
fn colours(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Floor | Kind::Append | Kind::Raw => ["#666666", "#a0a0a0"],
        Kind::Tidings | Kind::TidingsTls => ["#0b6e4f", "#5fb49c"],
        Kind::Nchan => ["#d1495b", "#edae49"],
        Kind::Pushpin => ["#30638e", "#8fb8de"],
    }
}

/// A line for each server and metric over the number of streams, which begins a case's name.
fn lines(results: &Results, metrics: &[(&str, &str)]) -> Vec<Series> {
    let mut series = Vec::new();
    for (index, (metric, suffix)) in metrics.iter().enumerate() {
        for kind in [Kind::Floor, Kind::Tidings, Kind::Nchan, Kind::Pushpin] {
            let point = |case: &CaseResults| {
                let streams = case.name.split(' ').next()?.parse().ok()?;
                Some((streams, case.spread(kind, metric)?))
            };
            let points: Vec<_> = results.cases.iter().filter_map(point).collect();
            if !points.is_empty() {
                series.push(Series {
                    name: format!("{}{suffix}", kind.name()),
                    colour: colours(kind)[index % 2],
                    points,
                });
            }
        }
    }
    series
}

/// A line for each server over the numbers that stand in its metrics' names, in so many units.
fn over_steps(case: Option<&CaseResults>, prefix: &str, suffix: &str, unit: f64) -> Vec<Series> {
    let mut series = Vec::new();
    let Some(case) = case else {
        return series;
    };
    for (kind, rounds) in &case.rounds {
        let names = rounds.iter().flat_map(|round| round.metrics.keys());
        let mut steps: Vec<u32> = names
            .filter_map(|name| {
                name.strip_prefix(prefix)?
                    .strip_suffix(suffix)?
                    .parse()
                    .ok()
            })
            .filter(|step| *step > 0)
            .collect();
        steps.sort_unstable();
        steps.dedup();
        let point = |step: &u32| {
            let values = case.values(*kind, &format!("{prefix}{step}{suffix}"));
            let values = values.into_iter().map(|value| value / unit).collect();
            Some((f64::from(*step), Spread::of(values)?))
        };
        let points = steps.iter().filter_map(point).collect();
        series.push(Series {
            name: kind.name().to_owned(),
            colour: colours(*kind)[0],
            points,
        });
    }
    series
}
