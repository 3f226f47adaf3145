//! `bench/run`: servers and load side by side, round after round, and `RESULTS.md` from it.
//!
//! In the order of a run: [`cases`] says what is run, [`server`], [`nats`] and [`peers`] start what is measured, [`round`]
//! puts load on it, [`results`] keeps the figures, [`budgets`] says what was asked for, [`report`],
//! [`beside`], [`console`] and [`plot`] write it down.

mod beside;
mod budgets;
mod cases;
mod console;
mod machine;
mod nats;
mod origin;
mod peers;
mod plot;
mod report;
mod results;
mod round;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail, ensure};
use cases::{SCENARIOS, Scenario, Wish};
use clap::Parser;
use peers::Peers;
use results::{CaseResults, Results};
use server::{Kind, Programs};

/// Measures Tidings beside the bare epoll floor and its peers, on two cores of this machine, over
/// loopback, and writes results/*.json, RESULTS.md and its plots. Without names: all scenarios.
#[derive(Debug, Parser)]
#[command(name = "bench/run")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a command line"
)]
struct Arguments {
    /// Scenarios to run, of those that --list names.
    scenarios: Vec<String>,
    /// A smoke test of seconds: small numbers, one round. Its figures say nothing and are kept apart.
    #[arg(long)]
    quick: bool,
    /// Rounds of each case, the servers alternating.
    #[arg(long)]
    rounds: Option<usize>,
    /// Numbers of streams, instead of the scenarios' own.
    #[arg(long, value_delimiter = ',')]
    streams: Vec<usize>,
    /// Seconds that are measured in a round, instead of the scenarios' own.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these servers: floor, tidings, nchan, pushpin, append, raw.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// A setting of Tidings, `TIDINGS_SOMETHING=value`; can be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// A ready-built server instead of one built from the sources around the bench.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where servers put their logs; must be on a disk. A folder in the system's temporary one
    /// where it is not given.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Leave out peers that are not installed, even as root; otherwise their Debian packages are
    /// installed.
    #[arg(long)]
    no_install: bool,
    /// Only measure and print; write nothing.
    #[arg(long)]
    dry: bool,
    /// Only write RESULTS.md anew from results/*.json.
    #[arg(long)]
    report: bool,
    /// Only say which scenarios there are.
    #[arg(long)]
    list: bool,
    /// The bench's folder; `bench/run` fills it in.
    #[arg(long, hide = true)]
    bench: PathBuf,
    /// Where the floor and the load generator are; `bench/run` fills it in.
    #[arg(long, hide = true)]
    programs: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in &SCENARIOS {
            println!("{:18} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    if arguments.report {
        return report::write(&arguments.bench);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let scenarios = selected(&arguments)?;
    let kinds = kinds(&arguments)?;
    let mut skipped = Vec::new();
    let programs = programs(&arguments, &kinds, &mut skipped)?;
    let wish = Wish {
        quick: arguments.quick,
        streams: arguments.streams.clone(),
        seconds: arguments.seconds,
    };
    let rounds = arguments
        .rounds
        .unwrap_or(if arguments.quick { 1 } else { 9 });
    let bench = round::Bench {
        programs,
        scratch: arguments.scratch.clone().unwrap_or_else(std::env::temp_dir),
        stop,
    };
    bench.check_scratch()?;
    for scenario in scenarios {
        let results = run(
            scenario, &arguments, &wish, &kinds, rounds, &bench, &skipped,
        )?;
        print!("{}", report::text(&results));
        if !arguments.dry {
            report::keep(&arguments.bench, &results)?;
        }
    }
    if !arguments.dry && !arguments.quick {
        report::write(&arguments.bench)?;
    }
    Ok(())
}

fn selected(arguments: &Arguments) -> Result<Vec<&'static Scenario>> {
    for name in &arguments.scenarios {
        ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}; --list names them"
        );
    }
    let wanted = |scenario: &&Scenario| {
        arguments.scenarios.is_empty()
            || arguments.scenarios.iter().any(|name| name == scenario.name)
    };
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

fn kinds(arguments: &Arguments) -> Result<Vec<Kind>> {
    if arguments.servers.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let named = |name: &String| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let unknown = |name: &String| format!("there is no server {name}");
    arguments
        .servers
        .iter()
        .map(|name| named(name).with_context(|| unknown(name)))
        .collect()
}

fn programs(arguments: &Arguments, kinds: &[Kind], skipped: &mut Vec<String>) -> Result<Programs> {
    let tidings = match &arguments.server {
        Some(server) => server.clone(),
        None if kinds.contains(&Kind::Tidings) || kinds.contains(&Kind::TidingsTls) => {
            build(&arguments.bench)?
        }
        None => PathBuf::new(),
    };
    let peers = Peers::find(kinds, &arguments.bench, !arguments.no_install, skipped);
    let pair = |setting: &String| {
        let (name, value) = setting.split_once('=').context("--set takes NAME=VALUE")?;
        Ok((name.to_owned(), value.to_owned()))
    };
    Ok(Programs {
        floor: arguments.programs.join("floor"),
        load: arguments.programs.join("load"),
        raw: arguments.programs.join("raw"),
        tidings,
        peers,
        settings: arguments.settings.iter().map(pair).collect::<Result<_>>()?,
    })
}

/// Builds the server and says where it is.
fn build(bench: &Path) -> Result<PathBuf> {
    let root = bench
        .parent()
        .context("the bench has no folder around it")?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--bin", "tidings"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the server does not build");
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/tidings"))
}

fn run(
    scenario: &Scenario,
    arguments: &Arguments,
    wish: &Wish,
    kinds: &[Kind],
    rounds: usize,
    bench: &round::Bench,
    skipped: &[String],
) -> Result<Results> {
    let cases = scenario.cases(wish);
    let mut results = Results {
        scenario: scenario.name.to_owned(),
        date: machine::line_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"], &arguments.bench),
        commit: machine::commit(arguments.bench.parent().unwrap_or(&arguments.bench)),
        machine: machine::Machine::describe(),
        quick: arguments.quick,
        cases: Vec::new(),
        skipped: skipped.to_vec(),
    };
    for case in &cases {
        results.cases.push(CaseResults {
            name: case.name.clone(),
            load: case.load.join(" "),
            rounds: std::collections::BTreeMap::new(),
        });
    }
    // A round is every case with every server once; the order of servers turns with each round.
    for round in 0..rounds {
        for (case, kept) in cases.iter().zip(&mut results.cases) {
            let mut servers: Vec<Kind> = case
                .servers
                .iter()
                .copied()
                .filter(|kind| kinds.contains(kind))
                .collect();
            servers.retain(|kind| bench.programs.peers.have(*kind));
            let shift = round % servers.len().max(1);
            servers.rotate_left(shift);
            for kind in servers {
                eprintln!(
                    "{} · {} · round {} of {rounds} · {}",
                    scenario.name,
                    case.name,
                    round + 1,
                    kind.name()
                );
                let report = bench.measure(kind, case)?;
                for fault in &report.faults {
                    eprintln!("  fault: {fault}");
                }
                kept.rounds.entry(kind).or_default().push(report);
            }
        }
    }
    Ok(results)
}
