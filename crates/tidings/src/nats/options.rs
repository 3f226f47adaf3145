//! What a connection needs, read from the configuration and its files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};

use crate::config::{ConfigError, NatsConfig, NatsTlsConfig};

/// How often the servers are asked whether they are there. A connection that answers nothing is given up
/// after the third.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long an attempt to connect may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may go unanswered.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What the inboxes of replies begin with; a user needs to be allowed `_INBOX.tidings.>`.
const INBOX_PREFIX: &str = "_INBOX.tidings";

/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where the NATS servers are, who this node is to them, and how they are trusted.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    pub(super) urls: Vec<ServerAddr>,
    identity: Identity,
    tls: NatsTlsConfig,
    name: String,
}

/// How this node shows who it is.
#[derive(Clone)]
enum Identity {
    Nobody,
    User {
        user: String,
        password: SecretString,
    },
    Token(SecretString),
    Nkey(Arc<KeyPair>),
    /// Read with every connection, so that it can be replaced.
    Credentials(PathBuf),
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nobody => "Nobody",
            Self::User { .. } => "User",
            Self::Token(_) => "Token",
            Self::Nkey(_) => "Nkey",
            Self::Credentials(_) => "Credentials",
        })
    }
}

impl NatsOptions {
    /// Reads what the configuration names. `node` is what the node is called in the server's list of
    /// connections, `tidings <node>`.
    ///
    /// # Errors
    ///
    /// Names the setting whose file can't be read or holds something else, and the seed that is none.
    pub fn from_config(config: &NatsConfig, node: &str) -> Result<Self, ConfigError> {
        let urls = config
            .url
            .iter()
            .map(|url| {
                url.parse::<ServerAddr>()
                    .map_err(|error| ConfigError::new("nats.url", error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        check_tls(&config.tls)?;
        Ok(Self {
            urls,
            identity: Identity::from_config(config)?,
            tls: config.tls.clone(),
            name: format!("tidings {node}"),
        })
    }

    /// The options of a connection that shows who it is by `auth`, which is called with every attempt.
    pub(super) fn connect_options<F, Fut>(&self, auth: F) -> ConnectOptions
    where
        F: Fn(Vec<u8>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Auth, AuthError>> + Send + Sync + 'static,
    {
        // A second time it says that there is one already, which is as good.
        let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut options = ConnectOptions::with_auth_callback(auth)
            .name(&self.name)
            .custom_inbox_prefix(INBOX_PREFIX)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECTION_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .require_tls(self.tls.required);
        if let Some(file) = &self.tls.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.tls.certificate_file, &self.tls.key_file) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }

    /// Who this node is, for one attempt to connect.
    pub(super) async fn authenticate(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        self.identity.authenticate(nonce).await
    }
}

/// How long to wait before the attempt of this number, from 1.
pub(super) fn pause_before(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let exponent = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    let pause = Duration::from_millis(20)
        .saturating_mul(2_u32.saturating_pow(exponent))
        .min(LONGEST_PAUSE);
    // Nodes that lost the same server don't come back in step.
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Identity {
    fn from_config(config: &NatsConfig) -> Result<Self, ConfigError> {
        let secret =
            |key: &'static str, value: &Option<SecretString>, file: &Option<PathBuf>| match (
                value, file,
            ) {
                (Some(value), _) => Ok(Some((key, value.clone()))),
                (None, Some(path)) => {
                    read_secret(path)
                        .map(|secret| Some((key, secret)))
                        .map_err(|problem| {
                            ConfigError::new(
                                format!("{key}_file"),
                                format!("{}: {problem}", path.display()),
                            )
                        })
                }
                (None, None) => Ok(None),
            };
        if let Some(path) = &config.credentials_file {
            let wrong = |problem: String| {
                ConfigError::new(
                    "nats.credentials_file",
                    format!("{}: {problem}", path.display()),
                )
            };
            let text = std::fs::read_to_string(path)
                .map_err(|error| wrong(format!("the file can't be read: {error}")))?;
            credentials(&text).map_err(|problem| wrong(problem.to_owned()))?;
            return Ok(Self::Credentials(path.clone()));
        }
        if let Some((key, seed)) = secret("nats.nkey", &config.nkey, &config.nkey_file)? {
            let pair = KeyPair::from_seed(seed.expose_secret().trim());
            return pair.map(|pair| Self::Nkey(Arc::new(pair))).map_err(|_| {
                ConfigError::new(key, "this is no seed of an NKEY, which begins with SU")
            });
        }
        if let Some((_, token)) = secret("nats.token", &config.token, &config.token_file)? {
            return Ok(Self::Token(token));
        }
        let password = secret("nats.password", &config.password, &config.password_file)?;
        Ok(match (&config.user, password) {
            (Some(user), Some((_, password))) => Self::User {
                user: user.clone(),
                password,
            },
            _ => Self::Nobody,
        })
    }

    async fn authenticate(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::User { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose_secret().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.expose_secret().to_owned()),
            Self::Nkey(pair) => {
                auth.nkey = Some(pair.public_key());
                auth.signature = Some(pair.sign(nonce).map_err(AuthError::new)?);
            }
            Self::Credentials(path) => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|error| AuthError::new(format!("{}: {error}", path.display())))?;
                let (jwt, pair) = credentials(&text).map_err(AuthError::new)?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(pair.sign(nonce).map_err(AuthError::new)?);
            }
        }
        Ok(auth)
    }
}

/// The JWT and the keys of a credentials file: the texts between its first and second pair of lines of
/// hyphens.
fn credentials(text: &str) -> Result<(&str, KeyPair), &'static str> {
    let mut within = None;
    let mut found: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        let fence = line.starts_with("---");
        match within {
            None if fence => within = Some(None),
            Some(None) if !fence && !line.is_empty() => within = Some(Some(line)),
            Some(content) if fence => {
                found.extend(content);
                within = None;
            }
            _ => {}
        }
    }
    let [jwt, seed, ..] = *found else {
        return Err("this is no credentials file, which holds a user's JWT and its NKEY seed");
    };
    let pair = KeyPair::from_seed(seed).map_err(|_| "the seed in the credentials file is none")?;
    Ok((jwt, pair))
}

fn read_secret(path: &Path) -> Result<SecretString, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the file can't be read: {error}"))?;
    // Editors and `echo` end a file with a line end that nobody means to be part of the secret.
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err("the file is empty; it must hold the secret".to_owned());
    }
    Ok(secret.into())
}

/// Files that can't be read are told at the start, rather than with each attempt to connect.
fn check_tls(tls: &NatsTlsConfig) -> Result<(), ConfigError> {
    for (key, file, content) in [
        ("nats.tls.ca_file", &tls.ca_file, "CERTIFICATE-----"),
        (
            "nats.tls.certificate_file",
            &tls.certificate_file,
            "CERTIFICATE-----",
        ),
        ("nats.tls.key_file", &tls.key_file, "PRIVATE KEY-----"),
    ] {
        let Some(path) = file else { continue };
        let wrong =
            |problem: String| ConfigError::new(key, format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("the file can't be read: {error}")))?;
        if !text.contains(content) {
            return Err(wrong(format!(
                "this is no PEM file with -----BEGIN … {content}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_gives_its_token_and_its_keys() {
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
        );
        let (jwt, keys) = credentials(&text).unwrap();
        assert_eq!(jwt, "eyJ0.eyJq.c2ln");
        assert_eq!(keys.public_key(), pair.public_key());
        assert!(credentials("").is_err());
        assert!(credentials(&text.replace(&seed, "SUA")).is_err());
    }

    #[test]
    fn pauses_grow_and_stay_short() {
        assert_eq!(pause_before(1), Duration::ZERO);
        for attempt in 2..200 {
            let pause = pause_before(attempt);
            assert!(pause >= Duration::from_millis(10) && pause <= LONGEST_PAUSE);
        }
    }
}
