//! The dashboard and the alerts of `deploy/` against a server that runs: they ask for what there is, a real Prometheus
//! takes the metrics and the rules, and a healthy server sets off nothing.

#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which floats hold exactly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::{encode, try_exchange};
use tidings_tests::publish::status;
use tidings_tests::server::{Output, any_address, run_to_end};
use tidings_tests::{
    GUARD, NatsOptions, RedisOptions, Request, Scrape, Server, Setup, SigningKey, new_tenant,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A selector of an expression: a metric and the label values that it insists on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    metric: String,
    labels: Vec<(String, String)>,
}

/// The selectors of our metrics in an expression of `PromQL`. Matchers other than `=` are passed over.
fn selectors(expression: &str) -> Vec<Selector> {
    let part_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find("tidings_") {
        let from = &rest[start..];
        let end = from.find(|character| !part_of_name(character));
        let (metric, behind) = from.split_at(end.unwrap_or(from.len()));
        rest = behind;
        let matchers = rest
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let labels = matchers.map_or_else(Vec::new, |(matchers, _)| {
            let matchers = matchers.split(',').filter_map(|one| one.split_once("=\""));
            matchers
                .filter(|(name, _)| name.trim().chars().all(part_of_name))
                .map(|(name, value)| {
                    (
                        name.trim().to_owned(),
                        value.trim_end_matches('"').to_owned(),
                    )
                })
                .collect()
        });
        found.push(Selector {
            metric: metric.to_owned(),
            labels,
        });
    }
    found
}

/// Fails where an expression asks a scrape for what it does not have.
fn check(expression: &str, scrape: &Scrape) {
    let asked = selectors(expression);
    for Selector { metric, labels } in asked {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| {
            let family = metric.strip_suffix(suffix)?;
            (scrape.kinds.get(family).map(String::as_str) == Some("histogram")).then_some(family)
        });
        let known = family.is_some() || scrape.kinds.contains_key(&metric);
        assert!(known, "there is no metric {metric}: {expression}");
        let series = scrape.series.keys().any(|series| {
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            let has =
                |(label, value): &(String, String)| rest.contains(&format!("{label}=\"{value}\""));
            name == metric && labels.iter().filter(|(label, _)| label != "job").all(has)
        });
        assert!(
            series,
            "no series is selected by {metric} {labels:?}: {expression}"
        );
    }
}

/// A server that has all kinds of samples: with both brokers, with named tenants, used a little.
fn scrape_of_everything() -> Scrape {
    let (nats, redis) = (NatsOptions::new().start(), RedisOptions::new().start());
    let server = Setup::new()
        .set("TIDINGS_LOG__KIND", "jetstream")
        .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
        .set("TIDINGS_NATS__URL", &nats.url())
        .set("TIDINGS_METRICS__TENANTS", "1")
        .set(
            "TIDINGS_TRACES__ENDPOINT",
            &format!("http://{}", any_address()),
        )
        .tokens_in(&redis.url())
        .start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let mut scrape = Scrape::until(&server, "copied", |scrape| {
        scrape
            .series
            .contains_key("tidings_log_oldest_timestamp_seconds")
    });
    scrape
        .series
        .extend(scrape_of_one_that_stands_alone().series);
    scrape
}

/// What a server over a broker has not: a backup of its log. And an issuer that publishes its keys.
fn scrape_of_one_that_stands_alone() -> Scrape {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.json");
    let backups = folder.path().join("backups");
    let set = serde_json::json!({"keys": [SigningKey::new("one").jwk()]});
    fs::write(&keys, set.to_string()).expect("a file of ours");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let server = Setup::new()
        .set("TIDINGS_AUTH__JWT__SECRET", "")
        .set("TIDINGS_AUTH__JWT__JWKS_FILE", &text(&keys))
        .set("TIDINGS_LOG__BACKUP_PATH", &text(&backups))
        .start();
    let backup = Request::post("/backup").body("application/json", r#"{"target": "daily"}"#);
    server.ask_admin(&backup).expect(200);
    Scrape::of(&server)
}

struct Alert {
    name: String,
    expression: String,
    fields: BTreeMap<String, String>,
}

/// The alerts, as `promtool` has seen that they are YAML; what this reads of it is what this file writes.
fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut in_expression = false;
    for line in read("deploy/prometheus/tidings.rules.yml").lines() {
        let text = line.trim();
        if let Some(name) = text.strip_prefix("- alert: ") {
            alerts.push(Alert {
                name: name.to_owned(),
                expression: String::new(),
                fields: BTreeMap::new(),
            });
            continue;
        }
        let Some(alert) = alerts.last_mut() else {
            continue;
        };
        if let Some(expression) = text.strip_prefix("expr: ") {
            in_expression = expression == ">-";
            if !in_expression {
                expression.clone_into(&mut alert.expression);
            }
        } else if in_expression && line.starts_with("          ") {
            alert.expression.push_str(text);
            alert.expression.push(' ');
        } else if let Some((field, value)) = text.split_once(": ") {
            in_expression = false;
            alert.fields.insert(field.to_owned(), value.to_owned());
        }
    }
    alerts
}

#[test]
fn dashboard_and_alerts_ask_for_what_a_server_tells() {
    let scrape = scrape_of_everything();
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/tidings.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut asked, mut ids, mut places) = (0, BTreeSet::new(), BTreeSet::new());
    let mut metrics = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        let place = &panel["gridPos"];
        assert!(
            places.insert((place["x"].as_u64(), place["y"].as_u64())),
            "{panel}"
        );
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            // What is chosen in the dashboard is no label of ours.
            let expression = expression.replace("instance=~\"$instance\"", "");
            check(&expression, &scrape);
            metrics.extend(selectors(&expression).into_iter().map(|one| one.metric));
            asked += 1;
        }
    }
    assert!(asked > 50, "only {asked} expressions were found");
    let variable = dashboard["templating"]["list"][1]["definition"].as_str();
    check(variable.expect("the nodes"), &scrape);
    for name in scrape.kinds.keys() {
        let shown = metrics
            .iter()
            .any(|metric| metric.starts_with(name.as_str()));
        assert!(shown, "no panel shows {name}");
    }
    let alerts = alerts();
    assert!(
        alerts.len() >= 20,
        "only {} alerts were found",
        alerts.len()
    );
    for alert in &alerts {
        check(&alert.expression, &scrape);
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_the_other_way_round() {
    let runbook = read("docs/runbook.md");
    let sections: Vec<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let alerts = alerts();
    let names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sorted(sections), sorted(names));
    for alert in &alerts {
        let url = alert.fields.get("runbook_url").expect("a runbook");
        let expected = format!("docs/runbook.md#{}", alert.name.to_lowercase());
        assert_eq!(*url, expected);
        let severity = alert.fields.get("labels").expect("labels");
        let section = runbook.split(&format!("## {}\n", alert.name)).nth(1);
        let section = section.and_then(|rest| rest.split("\n## ").next());
        let section = section.expect("a section");
        for part in ["**Impact**", "**Look**", "**Do**"] {
            assert!(section.contains(part), "{part} of {}", alert.name);
        }
        let word = if severity.contains("critical") {
            "*critical*"
        } else {
            "*warning*"
        };
        assert!(section.trim_start().starts_with(word), "{}", alert.name);
        assert!(alert.fields.contains_key("summary"), "{}", alert.name);
    }
}

/// What the documentation names of metrics, there is.
#[test]
fn documents_name_metrics_that_there_are() {
    let reference = read("docs/metrics.md");
    for document in [
        "docs/observe.md",
        "docs/runbook.md",
        "docs/faults.md",
        "docs/operate.md",
    ] {
        for Selector { metric, .. } in selectors(&read(document)) {
            let family = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .unwrap_or(&metric);
            let known = reference.contains(&format!("`{family}`"));
            assert!(known, "{document} names {metric}");
        }
    }
}

fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .stdin(Stdio::null());
    let ended = run_to_end(command);
    assert!(
        ended.status.success(),
        "promtool {arguments:?}\n{}",
        ended.said
    );
}

#[test]
fn promtool_takes_the_rules_and_each_alert_fires_for_its_own_trouble_alone() {
    promtool(&["check", "rules", "--lint-fatal", "tidings.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "tidings.rules.test.yml"]);
}

/// `promtool check metrics` knows the conventions of names and reads the text with Prometheus's own parser.
#[test]
fn promtool_finds_nothing_to_say_about_a_scrape() {
    let scrape = scrape_of_everything();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("scrape");
    fs::write(&file, &scrape.text).expect("a file");
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).expect("a file"));
    let ended = run_to_end(command);
    assert!(
        ended.status.success() && ended.said.is_empty(),
        "{}",
        ended.said
    );
}

/// A Prometheus of the test's own.
struct Prometheus {
    address: std::net::SocketAddr,
    child: Child,
    output: Arc<Output>,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes a server each second, which is also how long a scrape may take, and judges by the rules more often.
    fn of(server: &Server) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let rules = root().join("deploy/prometheus/tidings.rules.yml");
        let rules = rules.canonicalize().expect("the rules");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 100ms }}\n\
             scrape_configs: [{{ job_name: tidings, static_configs: [{{ targets: [\"{}\"] }}] }}]\n\
             rule_files: [\"{}\"]\n",
            server.admin,
            rules.display()
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).expect("a file");
        let address = any_address();
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus runs");
        let output = Arc::<Output>::default();
        output.collect(child.stderr.take().expect("piped"));
        Self {
            address,
            child,
            output,
            _folder: folder,
        }
    }

    fn ask(&self, path: &str) -> Option<Value> {
        let answer = try_exchange(self.address, &Request::get(path)).ok()?;
        (answer.status == 200).then(|| answer.json()["data"].clone())
    }

    /// The value of an expression, as soon as it has one that will do.
    fn until(&self, expression: &str, holds: impl Fn(f64) -> bool) -> f64 {
        let path = format!("/api/v1/query?query={}", encode(expression));
        let deadline = Instant::now() + GUARD;
        loop {
            let data = self.ask(&path).unwrap_or_default();
            let value = data["result"][0]["value"][1].as_str();
            if let Some(value) = value.and_then(|text| text.parse().ok())
                && holds(value)
            {
                return value;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "{expression} is {value:?}\n{}", self.output.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_a_server_and_no_alert_is_set_off_by_a_healthy_one() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let prometheus = Prometheus::of(&server);
    prometheus.until("count_over_time(up{job=\"tidings\"}[1m])", |scrapes| {
        scrapes >= 5.0
    });
    server.publish(&tenant, &status("r1", 1));
    stream.next_event();
    prometheus.until("tidings_deliveries_total", |deliveries| deliveries == 1.0);
    assert_eq!(prometheus.until("max_over_time(up[1m])", |_| true), 1.0);
    let mut rules = Vec::new();
    wait_for("a judgement by every rule", || {
        let data = prometheus.ask("/api/v1/rules").expect("rules");
        rules.clone_from(data["groups"][0]["rules"].as_array().expect("rules"));
        rules.iter().all(|rule| rule["health"] != "unknown")
    });
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        match rule["name"].as_str().expect("a name") {
            // The disk is this machine's, and the tests themselves fill it.
            "TidingsDiskFillsUp" => {}
            // A machine that stalls makes one of these pending for a while.
            "TidingsDown" | "TidingsCommitsSlow" | "TidingsDeliveryLate" => {
                assert_ne!(rule["state"], "firing", "{rule}");
            }
            _ => assert_eq!(rule["state"], "inactive", "{rule}"),
        }
    }
}
