//! Configuration: from text to validated types.
//!
//! In the order in which a setting passes through:
//!
//! - [`Sources`]: the file, the variables and the flags, as they were given.
//! - [`Settings`]: the effective text of each key and where it came from. Gathering has no side effects.
//! - [`Config`]: the validated values. Each field *is* a key: `config.stream.heartbeat` is
//!   `stream.heartbeat`, and its declaration in `model.rs` is the only place that says its default and
//!   what it is for.
//! - [`configuration_reference`], [`default_toml`] and [`Settings::table`]: what people read of it.
//!
//! Nothing here opens a port or reads a key file; [`crate::auth`] does the latter.

mod access;
mod edge;
mod error;
mod fleet;
mod gather;
mod issuers;
mod key;
mod kinds;
mod model;
mod nats;
mod publishers;
mod redis;
mod redis_url;
mod reference;
mod show;
mod subjects;
mod tenants;
mod values;
mod watching;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use access::{ClaimNames, JwksConfig, JwtConfig};
pub use edge::{ProxiesConfig, TlsConfig};
pub use error::{ConfigError, ConfigErrors, Source};
pub use fleet::{FleetStream, FleetSubject, SubjectPart};
pub use gather::{NOT_SETTINGS, Settings};
pub use issuers::IssuerConfig;
pub use key::Key;
pub use model::{
    AuditConfig, AuthConfig, Config, CorsConfig, LimitsConfig, LogConfig, LoggingConfig,
    NodeConfig, ShutdownConfig, StreamConfig,
};
pub use nats::{NatsConfig, NatsTlsConfig};
pub use redis::{RedisConfig, TokensConfig};
pub use redis_url::{RedisAddress, RedisServers, RedisUrl};
pub use reference::{configuration_reference, default_toml};
pub(crate) use values::is_publisher_id;
pub use values::{
    Bound, LogFormat, LogKind, LogLayout, PublisherConfig, SubjectConfig, SubjectEnd, TenantConfig,
    TenantSettings, TokensKind,
};
pub use watching::{MetricsConfig, TracesConfig};

/// The variable that names the configuration file where `--config` does not.
pub const CONFIG_VARIABLE: &str = "TIDINGS_CONFIG";

/// Where settings come from, lowest first: the built-in defaults, [`fallbacks`](Self::fallbacks), the
/// file, the variables, the flags.
#[derive(Clone, Default)]
pub struct Sources {
    /// Settings that the command itself prefers to the built-in defaults (`demo` has some), by key.
    pub fallbacks: Vec<(String, String)>,
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `TIDINGS_` are passed over.
    pub variables: Vec<(OsString, OsString)>,
    /// Overrides from the command line, by key: `("stream.heartbeat", "1s")`.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The sources of this process: its environment, `file` or else the one that `TIDINGS_CONFIG` names,
    /// and `flags`.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let file = file.or_else(|| {
            std::env::var_os(CONFIG_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        Self {
            fallbacks: Vec::new(),
            file,
            variables: std::env::vars_os().collect(),
            flags,
        }
    }
}

/// A configuration and where its parts came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The validated values.
    pub config: Config,
    /// The text of each setting, secrets masked, and its origin, for `config show`.
    pub settings: Settings,
}

/// Reads the file, if any, and resolves all sources into one configuration.
///
/// # Errors
/// All that is wrong with it at once: the file can't be read or is no TOML, unknown keys, bad values,
/// values that contradict each other. A missing JWT key is not among them, since not every command
/// needs one: see [`Config::require_jwt_key`].
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let text = sources.file.as_deref().map(read).transpose()?;
    let file = sources.file.as_deref().zip(text.as_deref());
    resolve(Settings::gather(
        &sources.fallbacks,
        file,
        &sources.variables,
        &sources.flags,
    )?)
}

/// Resolves gathered settings into typed values.
///
/// # Errors
/// Every bad value, or every contradiction between values that are good by themselves.
pub fn resolve(mut settings: Settings) -> Result<Loaded, ConfigErrors> {
    let mut reader = key::Reader::new(&settings);
    let config = Config::read(&mut reader);
    let mut errors = reader.into_errors();
    if let Some(config) = &config {
        errors.extend(config.contradictions());
    }
    match config {
        Some(config) if errors.is_empty() => {
            settings.forget_secrets();
            Ok(Loaded { config, settings })
        }
        _ => Err(ConfigErrors::new(
            errors
                .into_iter()
                .map(|error| settings.locate(error))
                .collect(),
        )),
    }
}

fn read(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| {
        ConfigErrors::from(ConfigError::file(
            path,
            None,
            format!("the file can't be read: {error}"),
        ))
    })
}

#[cfg(test)]
mod tests;
