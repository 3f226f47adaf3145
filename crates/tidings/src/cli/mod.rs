//! The command line: what each command is called and takes, and one file for what each does.

mod agent;
mod audience;
mod audit;
mod config;
mod connect;
mod demo;
mod doctor;
mod generate;
mod groups;
mod key;
mod keys;
mod log;
mod publish;
mod revoke;
mod serve;
mod state;
mod streams;
mod summary;
mod table;
mod tail;
mod tenants;
mod token;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Streams what happens to a fleet of network devices, live and without loss, to everyone who may watch.
#[derive(Debug, Parser)]
#[command(
    name = "tidings",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "\
Examples:
  tidings demo                          A server, this machine and a simulated fleet
  tidings serve --config tidings.toml   The server
  tidings tail --since 10m              Follow what happens
  tidings state                         How things are
  tidings publish events.ndjson         Publish a file, one event a line")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Run a server with this machine and a simulated fleet in it
    Demo(demo::DemoArgs),
    /// Publish this machine's status and metrics, as a device
    Agent(agent::AgentArgs),
    /// Publish events from arguments, a file or standard input
    Publish(publish::PublishArgs),
    /// Follow a stream of events, as `tail -f` follows a file
    Tail(tail::TailArgs),
    /// Show how things are: the last event of each device, metric, alert, push and job
    State(state::StateArgs),
    /// List the open streams, or disconnect some
    Streams(streams::StreamsCommand),
    /// Revoke access tokens, of a user, a tenant or a single one, and end their streams
    Revoke(revoke::RevokeCommand),
    /// Tell who was shown an event, and what kept it from the others
    Audience(audience::AudienceArgs),
    /// Show who opened, was refused, published and changed what
    Audit(audit::AuditArgs),
    /// List the tenants and what is retained of each, or purge one
    Tenants(tenants::TenantsCommand),
    /// Keep device groups, which access tokens can name
    Groups(groups::GroupsCommand),
    /// Mint an access token for development
    Token(token::TokenArgs),
    /// List the API keys of publishers, or make, rotate or revoke one
    Keys(keys::KeysCommand),
    /// Make an API key for the configuration of a server
    Key(key::KeyArgs),
    /// Check and show the configuration
    Config(config::ConfigCommand),
    /// Look after a log's folder
    Log(log::LogCommand),
    /// Look for what would trouble a server, here and on the way to it, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Ask the server of this machine whether it is alive, or ready
    Health(doctor::HealthArgs),
    /// Print the description of the API, `OpenAPI` 3.1
    Openapi,
    /// Describe every metric, as Markdown
    Metrics,
    /// Print a shell's completions
    Completions(generate::CompletionsArgs),
    /// Print the manual page
    Man(generate::ManArgs),
}

/// Where settings come from, for the commands that are or need a server's configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct SettingsArgs {
    /// The configuration file, TOML; `TIDINGS_CONFIG` names it otherwise
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over the file and the variables; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::assignment)]
    set: Vec<(String, String)>,
    /// The address and port of the API (listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The address and port of health checks (`admin_listen`)
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// The folder of the log (log.path)
    #[arg(long, value_name = "FOLDER")]
    log_path: Option<String>,
}

impl SettingsArgs {
    /// The overrides by key; a flag of its own wins over `--set`.
    fn flags(&self) -> Vec<(String, String)> {
        let own = [
            ("listen", &self.listen),
            ("admin_listen", &self.admin_listen),
            ("log.path", &self.log_path),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        self.set.iter().cloned().chain(own).collect()
    }

    fn sources(&self) -> crate::config::Sources {
        crate::config::Sources::of_process(self.config.clone(), self.flags())
    }

    fn load(&self) -> Result<crate::config::Loaded, Failure> {
        crate::config::load(&self.sources()).map_err(Failure::new)
    }
}

/// Why a command failed: what people read on standard error.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// What a command comes to.
type Outcome = Result<ExitCode, Failure>;

/// The process: parses the command line, runs the command, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Tail(args) => tail::run(args),
        Command::State(args) => state::run(args),
        Command::Streams(command) => streams::run(command),
        Command::Revoke(command) => revoke::run(command),
        Command::Audience(args) => audience::run(&args),
        Command::Audit(args) => audit::run(args),
        Command::Tenants(command) => tenants::run(command),
        Command::Groups(command) => groups::run(command),
        Command::Token(args) => token::run(args),
        Command::Keys(command) => keys::run(command),
        Command::Key(args) => key::run(args),
        Command::Config(args) => config::run(args),
        Command::Log(args) => log::run(args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Health(args) => doctor::health(&args),
        Command::Openapi => print(&crate::openapi::document()),
        Command::Metrics => print(&crate::metrics::declared::reference()),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(args),
    };
    outcome.unwrap_or_else(|Failure(text)| {
        for line in text.lines() {
            eprintln!("tidings: {line}");
        }
        ExitCode::FAILURE
    })
}

/// Runs the work of a command that talks.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

/// Prints a text that ends a command. A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Outcome {
    use std::io::Write as _;

    let mut output = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(output, "{text}{end}").and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_of_its_own_wins_over_set() {
        let cli = Cli::try_parse_from([
            "tidings",
            "serve",
            "--set",
            "listen=127.0.0.1:1",
            "--listen",
            "127.0.0.1:2",
            "--set",
            "auth.jwt.secret=a=b",
        ])
        .unwrap();
        let Command::Serve(args) = cli.command else {
            panic!("another command");
        };
        let settings =
            crate::config::Settings::gather(&[], None, &[], &args.settings.flags()).unwrap();
        let loaded = crate::config::resolve(settings).unwrap();
        assert_eq!(loaded.config.listen.unwrap().port(), 2);
        assert!(loaded.config.auth.jwt.has_key());
    }
}
