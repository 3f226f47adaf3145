//! `tidings doctor` and `tidings health`.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tidings_protocol::TenantId;

use super::connect::tenant_of;
use super::summary::visible;
use super::{Failure, Outcome, SettingsArgs, block_on, values};
use crate::config::Config;
use crate::doctor::wire::{self, Target};
use crate::doctor::{Finding, Way, Weight};

#[derive(Args)]
#[command(after_help = "\
Looks at descriptors, clock, disk, keys and certificates, listeners, Redis and NATS, as the configuration has them; \
with --url also at the way that clients take, through every proxy in between, by opening a stream. Says of each what \
is wrong and what to do. Run it as the server's user, on its machine. Nothing is published, and nothing that lasts is \
changed. Ends with 1 where there is a problem; warnings end with 0.

Examples:
  tidings doctor --config /etc/tidings/tidings.toml
  TIDINGS_TOKEN=$(tidings token --tenant $TENANT) tidings doctor --url https://events.example.com")]
pub(super) struct DoctorArgs {
    /// The URL that clients have; looks at the way there
    #[arg(long, value_name = "URL", env = "TIDINGS_URL")]
    url: Option<String>,
    /// An access token to open a stream with at --url; best given as the variable
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TIDINGS_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// The tenant whose stream to open; where the access token names one, that is the default
    #[arg(long, value_name = "UUID", env = "TIDINGS_TENANT")]
    tenant: Option<TenantId>,
    /// A PEM file with authorities to trust at --url, besides the system's
    #[arg(long, value_name = "FILE", env = "TIDINGS_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// How long to wait for what should be there at once
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = values::interval)]
    patience: Duration,
    /// Look at the way only, and at nothing of this machine
    #[arg(long, requires = "url")]
    way_only: bool,
    /// One JSON object a line: check, weight (good, warning, problem), what, advice
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl std::fmt::Debug for DoctorArgs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DoctorArgs")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

pub(super) fn doctor(args: &DoctorArgs) -> Outcome {
    let mut teller = Teller::new(args.json);
    let config = match args.settings.load() {
        Ok(loaded) => Some(loaded.config),
        Err(Failure(text)) => {
            for line in text.lines() {
                let advice = "mend it; `tidings config reference` describes every key";
                teller.tell(&Finding::problem("configuration", line, advice));
            }
            None
        }
    };
    block_on(async {
        let mut tell = |finding: Finding| teller.tell(&finding);
        if let Some(config) = config.as_ref().filter(|_| !args.way_only) {
            crate::doctor::examine(config, &mut tell).await;
        }
        if let Some(way) = args.way(config.as_ref()) {
            way.examine(&mut tell).await;
        }
        Ok(())
    })?;
    teller.end()
}

impl DoctorArgs {
    fn way(&self, config: Option<&Config>) -> Option<Way> {
        let token = self.token.as_deref().map(str::trim);
        let access_token = token.filter(|token| !token.is_empty());
        Some(Way {
            url: self.url.clone().filter(|url| !url.is_empty())?,
            ca_file: self.ca_file.clone(),
            access_token: access_token.map(str::to_owned),
            tenant: self.tenant.or_else(|| access_token.and_then(tenant_of)),
            heartbeat: config.map_or(Duration::from_secs(15), |config| config.stream.heartbeat),
            codings: config.map_or_else(Vec::new, |config| {
                let codings = config.stream.compression.iter();
                let named = codings.filter_map(|coding| coding.name());
                named.map(str::to_owned).collect()
            }),
            patience: self.patience,
        })
    }
}

/// Writes findings as they come, and counts them.
struct Teller {
    json: bool,
    colours: bool,
    problems: usize,
    warnings: usize,
    /// What went wrong with writing, if anything did.
    broken: Option<std::io::Error>,
}

impl Teller {
    fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            json,
            colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            problems: 0,
            warnings: 0,
            broken: None,
        }
    }

    fn tell(&mut self, finding: &Finding) {
        match finding.weight {
            Weight::Problem => self.problems += 1,
            Weight::Warning => self.warnings += 1,
            Weight::Good => {}
        }
        let text = if self.json {
            serde_json::to_string(finding).unwrap_or_default()
        } else {
            self.line(finding)
        };
        self.write(&text);
    }

    fn line(&self, finding: &Finding) -> String {
        let (word, colour) = match finding.weight {
            Weight::Good => ("good", "\x1b[32m"),
            Weight::Warning => ("warning", "\x1b[33m"),
            Weight::Problem => ("problem", "\x1b[31m"),
        };
        let (colour, plain) = if self.colours {
            (colour, "\x1b[0m")
        } else {
            ("", "")
        };
        let mut line = format!(
            "{colour}{word:8}{plain} {:13} {}",
            finding.check,
            visible(&finding.what)
        );
        if let Some(advice) = &finding.advice {
            let _ = write!(line, "\n{:23}do: {}", "", visible(advice));
        }
        line
    }

    fn write(&mut self, text: &str) {
        let mut output = std::io::stdout().lock();
        if let Err(error) = writeln!(output, "{text}").and_then(|()| output.flush()) {
            self.broken.get_or_insert(error);
        }
    }

    fn end(mut self) -> Outcome {
        if !self.json {
            let text = match (self.problems, self.warnings) {
                (0, 0) => "All is well.".to_owned(),
                (problems, warnings) => format!("{problems} problems, {warnings} warnings."),
            };
            self.write(&text);
        }
        match self.broken {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::from(u8::from(self.problems > 0))),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
For health checks of containers and service managers. Ends with 0 where the server answers, with 1 otherwise.

Example:
  tidings health --ready --config /etc/tidings/tidings.toml")]
pub(super) struct HealthArgs {
    /// Whether it is ready to serve, not only alive
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn health(args: &HealthArgs) -> Outcome {
    let config = args.settings.load()?.config;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let target = Target::plain(config.admin_listen);
    let (status, body) = block_on(async {
        let asked = wire::get(&target, path).await;
        asked.map_err(|error| Failure::new(format_args!("{}: {error}", config.admin_listen)))
    })?;
    if status == 200 {
        super::print(&body)
    } else {
        Err(Failure::new(format_args!("{status}: {body}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_with_what_to_do() {
        let teller = Teller {
            json: false,
            colours: false,
            problems: 0,
            warnings: 0,
            broken: None,
        };
        assert_eq!(
            teller.line(&Finding::problem("disk", "it is full", "make room")),
            "problem  disk          it is full\n                       do: make room"
        );
        assert_eq!(
            teller.line(&Finding::good("clock", "it goes evenly")),
            "good     clock         it goes evenly"
        );
    }
}
