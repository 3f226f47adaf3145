//! How a scrape is written: the text format of Prometheus (0.0.4) and that of `OpenMetrics` (1.0.0).

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use super::count::Observed;
use super::declared::{GROUPS, Kind, Metric};

/// A format of scrapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own.
    Prometheus,
    /// `OpenMetrics`, the standard that came of it.
    OpenMetrics,
}

impl Format {
    /// What a request's `Accept` likes better. Who says nothing gets Prometheus's own, which everybody reads.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (Self::Prometheus, 0.0);
        for item in accept.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let format = match parts.next() {
                Some("application/openmetrics-text") => Self::OpenMetrics,
                Some("text/plain") => Self::Prometheus,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q="));
            let quality = quality.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => write!(formatter, "{value}"),
            Self::Real(value) => write!(formatter, "{value:?}"),
        }
    }
}

/// A scrape that is being written.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
    written: HashSet<&'static str>,
}

impl Exposition {
    /// An empty one.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::with_capacity(16 * 1024),
            written: HashSet::new(),
        }
    }

    /// Begins a metric, whose samples follow.
    pub fn metric(&mut self, metric: &'static Metric) -> Samples<'_> {
        let news = self.written.insert(metric.name);
        debug_assert!(news, "{} is written twice", metric.name);
        let family = match (self.format, metric.kind) {
            (Format::OpenMetrics, Kind::Counter) => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
            _ => metric.name,
        };
        // Writing to a String can't fail, here and below.
        let _ = write!(self.text, "# HELP {family} ");
        let quotes = self.format == Format::OpenMetrics;
        escape(&mut self.text, &metric.help(), quotes);
        let _ = writeln!(self.text, "\n# TYPE {family} {}", metric.kind.name());
        Samples {
            text: &mut self.text,
            metric,
        }
    }

    /// Writes a metric that has one sample and no label.
    pub fn one(&mut self, metric: &'static Metric, value: impl Into<Value>) {
        self.metric(metric).sample(&[], value);
    }

    /// The same with a value that is not always known.
    pub fn one_if_known(&mut self, metric: &'static Metric, value: Option<impl Into<Value>>) {
        let mut samples = self.metric(metric);
        if let Some(value) = value {
            samples.sample(&[], value);
        }
    }

    /// The whole text. Metrics that nobody has written are named in it, without samples.
    #[must_use]
    pub fn finish(mut self) -> String {
        for metric in GROUPS.iter().flat_map(|group| group.metrics) {
            if !self.written.contains(metric.name) {
                self.metric(metric);
            }
        }
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Samples<'e> {
    text: &'e mut String,
    metric: &'static Metric,
}

impl Samples<'_> {
    /// Writes a sample, with a value for each of the metric's labels.
    pub fn sample(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    /// Writes what a histogram has observed.
    pub fn observed(&mut self, observed: &Observed) {
        let Kind::Histogram(bounds) = self.metric.kind else {
            debug_assert!(false, "{} is no histogram", self.metric.name);
            return;
        };
        let mut count = 0;
        let ends = bounds.iter().map(|bound| format!("{bound:?}"));
        let ends = ends.chain(std::iter::once("+Inf".to_owned()));
        for (end, more) in ends.zip(&observed.counts) {
            count += more;
            self.line("_bucket", &[], Some(&end), count.into());
        }
        self.line("_sum", &[], None, observed.seconds.into());
        self.line("_count", &[], None, count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[&str], end: Option<&str>, value: Value) {
        debug_assert_eq!(labels.len(), self.metric.labels.len());
        let text = &mut *self.text;
        text.push_str(self.metric.name);
        text.push_str(suffix);
        let end = end.map(|end| ("le", end));
        let named = self
            .metric
            .labels
            .iter()
            .copied()
            .zip(labels.iter().copied());
        let mut separator = '{';
        for (name, value) in named.chain(end) {
            text.push(separator);
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value, true);
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Line breaks and backslashes, and where it is asked for quotes, are escaped in both formats.
fn escape(text: &mut String, value: &str, quotes: bool) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::declared;

    #[test]
    fn the_format_is_the_one_that_is_liked_better() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus, Format::OpenMetrics),
            ("text/plain;version=0.0.4", Format::Prometheus),
            (
                "text/plain, application/openmetrics-text;q=0.9",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }

    #[test]
    fn a_value_can_not_break_out_of_its_label() {
        let mut exposition = Exposition::new(Format::Prometheus);
        let hostile = "a\"} 1\ntidings_ready 0 # \\";
        exposition
            .metric(&declared::BUILD_INFO)
            .sample(&[hostile], 1_u64);
        let text = exposition.finish();
        let line = text
            .lines()
            .find(|line| line.starts_with("tidings_build_info"));
        let expected = r#"tidings_build_info{version="a\"} 1\ntidings_ready 0 # \\"} 1"#;
        assert_eq!(line, Some(expected));
    }

    #[test]
    fn the_buckets_of_a_histogram_are_summed_up_and_end_with_all() {
        let Kind::Histogram(bounds) = declared::COMMIT_SECONDS.kind else {
            panic!("a histogram")
        };
        let mut counts = vec![0; bounds.len() + 1];
        counts[0] = 2;
        counts[1] = 3;
        *counts.last_mut().unwrap() = 1;
        let observed = Observed {
            counts,
            seconds: 12.5,
        };
        let mut exposition = Exposition::new(Format::OpenMetrics);
        exposition
            .metric(&declared::COMMIT_SECONDS)
            .observed(&observed);
        let text = exposition.finish();
        for line in [
            "# TYPE tidings_commit_seconds histogram",
            "tidings_commit_seconds_bucket{le=\"0.0001\"} 2",
            "tidings_commit_seconds_bucket{le=\"0.00025\"} 5",
            "tidings_commit_seconds_bucket{le=\"10.0\"} 5",
            "tidings_commit_seconds_bucket{le=\"+Inf\"} 6",
            "tidings_commit_seconds_sum 12.5",
            "tidings_commit_seconds_count 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_metric_is_named_in_every_scrape_and_counters_as_each_format_has_it() {
        for (format, counter) in [
            (
                Format::Prometheus,
                "# TYPE tidings_deliveries_total counter",
            ),
            (Format::OpenMetrics, "# TYPE tidings_deliveries counter"),
        ] {
            let mut exposition = Exposition::new(format);
            exposition.one(&declared::DELIVERIES, 7_u64);
            let text = exposition.finish();
            assert!(text.contains(counter), "{text}");
            assert!(text.contains("\ntidings_deliveries_total 7\n"), "{text}");
            let types = text.lines().filter(|line| line.starts_with("# TYPE "));
            let declared = GROUPS.iter().flat_map(|group| group.metrics);
            assert_eq!(types.count(), declared.count());
            assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
        }
    }
}
