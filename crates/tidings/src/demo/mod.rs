//! The demo: a server, this machine and a simulated fleet in one process.
//!
//! - [`fleet`], [`scenario`], [`device`], [`catalogue`]: the fleet, a pure state machine from time to events.
//! - [`driver`]: publishes what it does over HTTP, through the public API.
//! - [`run`]: the server with a secret drawn for it, the machine's own agent, the fleet, and one line
//!   with the URL.

mod catalogue;
mod device;
mod driver;
pub mod fleet;
mod scenario;

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use tidings_client::{AccessToken, Client, ClientError};
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::auth::{AccessTokens, MintError, NewAccessToken};
use crate::config::{self, Config, ConfigError, ConfigErrors, Loaded, Source, Sources};
use crate::server::{Listeners, Server, StartError};
use crate::shutdown::Orders;
use crate::time::unix_seconds;
use fleet::{Fleet, FleetOptions};

/// What the demo prefers to the defaults of a server: a folder of its own that says what it is for, and
/// less of it, since nobody needs last week's simulation.
const FALLBACKS: [(&str, &str); 3] = [
    ("log.path", "./demo-log"),
    ("log.retention", "24h"),
    ("log.max_bytes", "1GiB"),
];
/// How long the token in the printed URL is valid.
const URL_TOKEN_LIFETIME: Duration = Duration::from_hours(24);
/// How long each token of the agent and the fleet is valid; a new one is made for every request.
const OWN_TOKEN_LIFETIME: Duration = Duration::from_mins(5);

/// How the demo plays.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// The fleet; its seed is drawn where there is none.
    pub devices: usize,
    /// Over how many tenants its devices are spread.
    pub tenants: usize,
    /// Events a second, of the whole fleet; 0 for a fleet that does nothing.
    pub rate: f64,
    /// For a course of events that can be repeated.
    pub seed: Option<u64>,
    /// How often this machine reports.
    pub interval: Duration,
}

/// Why the demo did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The server can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No access token can be minted.
    #[error("the demo can't mint access tokens: {0}; it needs auth.jwt.secret or none of the keys")]
    Mint(#[from] MintError),
    /// The server refused what the agent or the fleet published.
    #[error("{who} can't publish: {source}")]
    Publish {
        /// Which of them.
        who: &'static str,
        /// The refusal.
        source: ClientError,
    },
    /// Signals can't be watched.
    #[error("signals can't be watched: {0}")]
    Signals(#[from] io::Error),
}

/// The configuration of a demo: as a server's, with other defaults, and with a secret drawn for this run
/// where no key is configured.
///
/// # Errors
///
/// As [`config::load`], and when there is no randomness.
pub fn load(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Loaded, ConfigErrors> {
    let fallback = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut sources = Sources::of_process(file, flags);
    sources.fallbacks = FALLBACKS.into_iter().map(fallback).collect();
    let loaded = config::load(&sources)?;
    if loaded.config.auth.jwt.has_key() {
        return Ok(loaded);
    }
    let mut secret = [0_u8; 32];
    rand::fill(&mut secret).map_err(|_| {
        ConfigError::new(
            "auth.jwt.secret",
            "the operating system gave no random bytes to draw one from; set it",
        )
    })?;
    let secret = URL_SAFE_NO_PAD.encode(secret);
    sources
        .fallbacks
        .push(("auth.jwt.secret".to_owned(), secret));
    config::load(&sources)
}

/// Runs the demo until SIGTERM or SIGINT. Prints one line to standard output, with the URL of the page;
/// all else goes to the log.
///
/// # Errors
///
/// The server can't start, or refuses what the demo publishes.
pub async fn run(loaded: Loaded, options: DemoOptions) -> Result<(), DemoError> {
    let Loaded {
        mut config,
        settings,
    } = loaded;
    let minter = Arc::new(Minter {
        tokens: AccessTokens::from_config(&config.auth)?,
        role: config.auth.super_admin_role.clone(),
    });
    let url_token = minter.mint("demo", URL_TOKEN_LIFETIME)?;
    let movable = |key: &str| {
        matches!(
            settings.source(key),
            None | Some(Source::Default | Source::Command)
        )
    };
    // Its own publishers speak plain HTTP.
    let listen = config.listen;
    config.listen = listen.or(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let listeners = bind(&mut config, movable)?;
    let mount = config.mount.first().cloned().unwrap_or_default();
    tracing::info!(folder = %config.log.path.display(), "the demo's events are kept here");
    let mut orders = Orders::watch()?;
    let server = Server::start(config, listeners).await?;
    let origin = format!("http://{}", reachable(server.address()));
    announce(&format!("Tidings demo: {origin}/#token={url_token}"));

    let base_url = format!("{origin}{}", mount.trim_end_matches('/'));
    let played = play(&base_url, &minter, options, orders.next()).await;
    server.stop(&mut orders).await;
    played
}

/// The agent and the fleet, until the process is asked to stop.
async fn play(
    base_url: &str,
    minter: &Arc<Minter>,
    options: DemoOptions,
    asked_to_stop: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let started = Timestamp::now();
    let fleet_options = FleetOptions {
        devices: options.devices,
        tenants: options.tenants,
        rate: options.rate,
        seed: options.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let fleet = Fleet::new(fleet_options, started);
    let run = format!("demo-{:x}", started.as_microsecond());
    let client = |user: &'static str| {
        let minter = Arc::clone(minter);
        let access = AccessToken::provider(move || {
            let token = minter.mint(user, OWN_TOKEN_LIFETIME);
            async move { Ok(token?) }
        });
        let refused = |source| DemoError::Publish { who: user, source };
        Client::new(base_url, access).map_err(refused)
    };
    let (agent_client, fleet_client) = (client("agent")?, client("fleet")?);
    tracing::info!(?fleet_options, "the simulated fleet comes up");

    let stop = CancellationToken::new();
    let agent = agent::run(
        agent_client,
        this_machine(&fleet),
        options.interval,
        stop.clone().cancelled_owned(),
    );
    let mut agent = std::pin::pin!(agent);
    let of_agent = |source| DemoError::Publish {
        who: "agent",
        source,
    };
    let ended = tokio::select! {
        () = asked_to_stop => Ok(()),
        failed = driver::drive(fleet_client, fleet, &run) => {
            let Err(source) = failed;
            Err(DemoError::Publish { who: "fleet", source })
        }
        failed = &mut agent => return failed.map_err(of_agent),
    };
    // The machine takes leave while the server still listens.
    stop.cancel();
    ended.and(agent.await.map_err(of_agent))
}

fn this_machine(fleet: &Fleet) -> agent::Identity {
    let tenant = *fleet.tenants().first().expect("a fleet has a tenant");
    let (device, name) = agent::host_device().unwrap_or_else(|| {
        (
            "this-machine".parse().expect("well-formed"),
            "this machine".into(),
        )
    });
    agent::Identity {
        tenant,
        device,
        name,
        site: Some("This machine".to_owned()),
    }
}

/// Mints the demo's access tokens: all of a super admin, who may publish for every tenant.
struct Minter {
    tokens: AccessTokens,
    role: String,
}

impl Minter {
    fn mint(&self, user: &str, lifetime: Duration) -> Result<String, MintError> {
        let token = NewAccessToken {
            user: user.to_owned(),
            tenant: None,
            role: self.role.clone(),
            lifetime,
            types: None,
            devices: None,
            device_group: None,
        };
        self.tokens.mint(&token, unix_seconds(SystemTime::now()))
    }
}

/// Binds the configured addresses. A port that is taken is replaced by one that is free, unless somebody
/// asked for that very port.
fn bind(config: &mut Config, movable: impl Fn(&str) -> bool) -> Result<Listeners, StartError> {
    loop {
        let error = match Listeners::bind(config) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => error,
        };
        let StartError::Listen {
            key,
            address,
            source,
        } = &error
        else {
            return Err(error);
        };
        let taken = source.kind() == io::ErrorKind::AddrInUse && address.port() != 0;
        if !taken || !movable(key) {
            return Err(error);
        }
        tracing::warn!(%address, setting = key, "this port is taken; another one is used");
        match *key {
            "listen" => config
                .listen
                .iter_mut()
                .for_each(|listen| listen.set_port(0)),
            "tls.listen" => config
                .tls
                .listen
                .iter_mut()
                .for_each(|listen| listen.set_port(0)),
            _ => config.admin_listen.set_port(0),
        }
    }
}

/// The address as this machine's own programs reach it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The one line on standard output. Nobody needs to read it for the demo to go on.
fn announce(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// A UUID, version 4, from a source that can be seeded.
fn random_id(rng: &mut fastrand::Rng) -> String {
    uuid::Builder::from_random_bytes(rng.u128(..).to_ne_bytes())
        .into_uuid()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: SocketAddr) -> Config {
        let flags = [
            ("listen".to_owned(), listen.to_string()),
            ("admin_listen".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        let settings = config::Settings::gather(&[], None, &[], &flags).unwrap();
        config::resolve(settings).unwrap().config
    }

    #[test]
    fn a_port_that_is_taken_is_replaced_unless_it_was_asked_for() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();

        let listeners = bind(&mut config(address), |_| true).unwrap();
        let other = listeners.public.unwrap().local_addr().unwrap();
        assert_ne!(other.port(), address.port());

        let error = bind(&mut config(address), |key| key != "listen")
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(
            text.contains("listen") && text.contains(&address.to_string()),
            "{text}"
        );
    }

    #[test]
    fn an_unspecified_address_is_shown_as_one_that_can_be_opened() {
        let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(shown("[::]:80"), "[::1]:80");
        assert_eq!(shown("192.0.2.1:80"), "192.0.2.1:80");
    }
}
