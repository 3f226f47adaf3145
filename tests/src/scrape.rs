//! What `/metrics` says, read from the text that Prometheus reads (its format 0.0.4).

use std::collections::BTreeMap;
use std::time::Instant;

use crate::GUARD;
use crate::http::Request;
use crate::server::Server;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The text as it came.
    pub text: String,
    /// Kinds by the names of metrics.
    pub kinds: BTreeMap<String, String>,
    /// Values by series, as they are written: `name{label="value"}`.
    pub series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes a server.
    pub fn of(server: &Server) -> Self {
        let answer = server.ask_admin(&Request::get("/metrics"));
        assert_eq!(answer.status, 200, "{}\n{}", answer.head, answer.text());
        Self::parse(answer.text())
    }

    /// Takes a text apart.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self {
            text: text.to_owned(),
            kinds: BTreeMap::new(),
            series: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                let news = scrape.kinds.insert(name.to_owned(), kind.to_owned());
                assert!(news.is_none(), "{name} comes twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value = value.parse().unwrap_or_else(|_| panic!("a value: {line}"));
                let news = scrape.series.insert(series.to_owned(), value);
                assert!(news.is_none(), "{series} comes twice");
            }
        }
        scrape
    }

    /// The value of a series, which must be there.
    pub fn value(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no series {series} in\n{}", self.text))
    }

    /// The sum of all series of a metric.
    pub fn sum(&self, metric: &str) -> f64 {
        let of_metric = self
            .series
            .iter()
            .filter(|(series, _)| series.split('{').next().is_some_and(|name| name == metric));
        of_metric.map(|(_, value)| value).sum()
    }

    /// Scrapes until `holds` says so.
    pub fn until(server: &Server, what: &str, holds: impl Fn(&Self) -> bool) -> Self {
        let deadline = Instant::now() + GUARD;
        loop {
            let scrape = Self::of(server);
            if holds(&scrape) {
                return scrape;
            }
            assert!(Instant::now() < deadline, "never {what}:\n{}", scrape.text);
            std::thread::yield_now();
        }
    }
}
