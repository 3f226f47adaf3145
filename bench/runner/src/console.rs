//! What the console costs in a browser: `bench/console` measures it, this writes it down.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::plot::{Across, Plot, Series, number};
use crate::results::Spread;

/// The most of one core that is asked for.
const CPU: f64 = 0.6;
/// What memory may be at the end over what it was at the beginning, to count as flat.
const GROWTH: f64 = 1.1;
/// Frames that came more than 100 ms after they were begun: what a person sees as a stutter.
const LATE: f64 = 0.0;
/// From input to the frame that shows it, 99 of 100, in milliseconds: what people feel as at once.
const INPUT: f64 = 100.0;

/// `results/console.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Console {
    date: String,
    commit: String,
    machine: String,
    browser: String,
    devices: u64,
    events_per_s: f64,
    seconds: f64,
    cpu: f64,
    cpu_by_process: BTreeMap<String, f64>,
    main_thread_busy: f64,
    watching: Traced,
    using: Traced,
    memory: Vec<Memory>,
}

/// What the browser's tracing said of one part of the run.
#[derive(Clone, Debug, Deserialize)]
struct Traced {
    trace_is_whole: bool,
    tasks_longer_than_50_ms: u64,
    longest_task_ms: Option<f64>,
    frames_shown: u64,
    frame_p50_ms: Option<f64>,
    frame_p99_ms: Option<f64>,
    frame_max_ms: Option<f64>,
    frames_later_than_100_ms: u64,
    frames_dropped: u64,
    frames_dropped_in_motion: u64,
    inputs: u64,
    input_p50_ms: Option<f64>,
    input_p99_ms: Option<f64>,
    input_max_ms: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Memory {
    seconds: f64,
    heap_mib: f64,
    resident_mib: f64,
}

/// Reads what was measured; nothing where nothing was.
pub(crate) fn read(bench: &Path) -> Result<Option<Console>> {
    let path = bench.join("results/console.json");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    let console = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some(console))
}

impl Console {
    /// Lines of the table of what was asked for and what was reached.
    pub(crate) fn verdicts(&self) -> String {
        let case = format!(
            "{} devices, {} events/s, {} s",
            self.devices,
            number(self.events_per_s),
            number(self.seconds)
        );
        let late = self.watching.frames_later_than_100_ms + self.using.frames_later_than_100_ms;
        let rows = [
            ("Chromium's CPU, of one core", CPU, Some(self.cpu)),
            ("heap, last third ÷ first", GROWTH, self.growth()),
            ("frames later than 100 ms", LATE, Some(late as f64)),
            ("ms to show input, p99", INPUT, self.using.input_p99_ms),
        ];
        let mut text = String::new();
        for (figure, limit, reached) in rows {
            let met = reached.is_some_and(|reached| reached <= limit);
            let _ = writeln!(
                text,
                "| console | {case} | {figure} | ≤ {limit} | {} | {} |",
                reached.map_or_else(|| "–".to_owned(), number),
                if met { "met" } else { "**not met**" }
            );
        }
        text
    }

    /// The median of the heap in the last third over that in the first.
    fn growth(&self) -> Option<f64> {
        let third = (self.memory.len() / 3).max(1);
        let heap = |part: &[Memory]| {
            let values = part.iter().map(|memory| memory.heap_mib).collect();
            Some(Spread::of(values)?.median)
        };
        let first = heap(self.memory.get(..third)?)?;
        let last = heap(self.memory.get(self.memory.len() - third..)?)?;
        Some(last / first)
    }

    pub(crate) fn section(&self) -> String {
        let mut text = format!(
            "## console\n\nThe fleet's page in {} beside `tidings demo`, watched for {} s while {} devices tell {} events/s, then \
             used: pointing, keys, searching, scrolling the list. CPU is that of all of Chromium's processes, headless and \
             without a graphics card, so that painting counts too. Tasks, frames and answers to keys are from the browser's own tracing; \
             a dropped frame is one whose change came with the next, 17 ms later. The heap is measured after collecting garbage. `bench/console` repeats it.\n\n{}, commit {}; {}.\n\n",
            self.browser,
            number(self.seconds),
            self.devices,
            number(self.events_per_s),
            self.date,
            self.commit,
            self.machine
        );
        let _ = writeln!(text, "| CPU, of one core | {} |", number(self.cpu));
        text.push_str("| --- | --- |\n");
        for (kind, share) in &self.cpu_by_process {
            let _ = writeln!(text, "| {kind} | {} |", number(*share));
        }
        let _ = writeln!(
            text,
            "| the page's thread, busy | {} |\n",
            number(self.main_thread_busy)
        );
        text.push_str("| | watching | using |\n| --- | --- | --- |\n");
        for (name, figure) in FIGURES {
            let _ = writeln!(
                text,
                "| {name} | {} | {} |",
                written(figure(&self.watching)),
                written(figure(&self.using))
            );
        }
        text.push('\n');
        if !(self.watching.trace_is_whole && self.using.trace_is_whole) {
            text.push_str("**Not as promised**: the browser lost a part of its trace.\n\n");
        }
        text
    }

    pub(crate) fn plot(&self) -> Plot<'static> {
        let line = |name: &str, colour, value: fn(&Memory) -> f64| Series {
            name: name.to_owned(),
            colour,
            points: self
                .memory
                .iter()
                .filter_map(|memory| Some((memory.seconds, Spread::of(vec![value(memory)])?)))
                .collect(),
        };
        Plot {
            title: "The console's memory over time",
            across: "seconds",
            up: "MiB",
            along: Across::Linear,
            series: vec![
                line("heap", "#0b6e4f", |memory| memory.heap_mib),
                line("resident ÷ 10", "#a0a0a0", |memory| {
                    memory.resident_mib / 10.0
                }),
            ],
        }
    }
}

type Figure = (&'static str, fn(&Traced) -> Option<f64>);

const FIGURES: [Figure; 13] = [
    ("tasks longer than 50 ms", |traced| {
        Some(traced.tasks_longer_than_50_ms as f64)
    }),
    ("longest task, ms", |traced| traced.longest_task_ms),
    ("frames shown", |traced| Some(traced.frames_shown as f64)),
    ("frame from begin to screen p50, ms", |traced| {
        traced.frame_p50_ms
    }),
    ("the same p99, ms", |traced| traced.frame_p99_ms),
    ("the same, longest, ms", |traced| traced.frame_max_ms),
    ("frames later than 100 ms", |traced| {
        Some(traced.frames_later_than_100_ms as f64)
    }),
    ("frames dropped", |traced| {
        Some(traced.frames_dropped as f64)
    }),
    ("of these in motion", |traced| {
        Some(traced.frames_dropped_in_motion as f64)
    }),
    ("inputs", |traced| Some(traced.inputs as f64)),
    ("input to the frame that shows it p50, ms", |traced| {
        traced.input_p50_ms
    }),
    ("the same p99, ms", |traced| traced.input_p99_ms),
    ("the same, longest, ms", |traced| traced.input_max_ms),
];

fn written(figure: Option<f64>) -> String {
    figure.map_or_else(|| "–".to_owned(), number)
}
