//! TLS of a listener: the handshake, and the certificate, which can be replaced while streams stay open.
//!
//! A connection keeps the terms that it was made under. So a new certificate is one more `Arc`, and nothing that
//! is open hears of it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::validity::Validity;
use crate::config::{ConfigError, TlsConfig};
use crate::connection::Rewound;
use crate::time::{rfc3339, unix_seconds};

/// The protocol that a client of HTTP/2 asks for by ALPN (RFC 9113, section 3.1).
pub const HTTP2: &[u8] = b"h2";

const HTTP1: &[u8] = b"http/1.1";

const CERTIFICATE_FILE: &str = "tls.certificate_file";
const KEY_FILE: &str = "tls.key_file";
const CLIENT_CA_FILE: &str = "tls.client_ca_file";

/// How often the log says that a certificate is about to end.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// TLS as configured, with the certificate that is served now.
pub struct Tls {
    options: TlsConfig,
    certificate_file: PathBuf,
    key_file: PathBuf,
    served: RwLock<Served>,
    /// What the files looked like when they were last read by themselves, or taken over.
    seen: Mutex<Vec<Stamp>>,
    handshakes: Semaphore,
}

/// What new connections are served with.
struct Served {
    config: Arc<ServerConfig>,
    validity: Option<Validity>,
    /// When the log last warned of its end.
    warned: Option<SystemTime>,
}

/// A certificate and key that were read again and are not served yet.
pub struct Renewal {
    config: Arc<ServerConfig>,
    validity: Option<Validity>,
    seen: Vec<Stamp>,
}

/// What tells that a file has changed: when it was written, its length, and which file it is.
type Stamp = Option<(SystemTime, u64, u64)>;

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key; `None` where TLS is off.
    ///
    /// # Errors
    ///
    /// Names the setting whose file can't be read or used.
    pub fn from_config(options: &TlsConfig) -> Result<Option<Self>, ConfigError> {
        if options.listen.is_none() {
            return Ok(None);
        }
        let missing = |key: &str| ConfigError::new(key, "tls.listen is set, which needs this too");
        let certificate_file = options.certificate_file.clone();
        let certificate_file = certificate_file.ok_or_else(|| missing(CERTIFICATE_FILE))?;
        let key_file = options.key_file.clone().ok_or_else(|| missing(KEY_FILE))?;
        let seen = stamps(options);
        let (config, validity) = load(options, &certificate_file, &key_file)?;
        let tls = Self {
            handshakes: Semaphore::new(options.handshakes),
            options: options.clone(),
            certificate_file,
            key_file,
            served: RwLock::new(Served {
                config: Arc::new(config),
                validity,
                warned: None,
            }),
            seen: Mutex::new(seen),
        };
        tls.warn_of_end(SystemTime::now());
        Ok(Some(tls))
    }

    /// Reads certificate and key again and serves connections made from now on with them; those that are open stay
    /// as they are.
    ///
    /// # Errors
    ///
    /// Names the setting whose file can't be used, and the old certificate stays.
    pub fn reload(&self) -> Result<(), ConfigError> {
        self.adopt(self.read_again()?);
        Ok(())
    }

    /// The first half of [`reload`](Self::reload), which changes nothing yet.
    ///
    /// # Errors
    ///
    /// Those of [`reload`](Self::reload).
    pub fn read_again(&self) -> Result<Renewal, ConfigError> {
        let seen = stamps(&self.options);
        let (config, validity) = load(&self.options, &self.certificate_file, &self.key_file)?;
        let now = unix_seconds(SystemTime::now());
        let is_over = |validity: &Validity| validity.ends <= now;
        let old_is_good = self.served.read().validity.is_none_or(|old| !is_over(&old));
        if let Some(new) = validity.filter(|new| old_is_good && is_over(new)) {
            let end = written(new.ends);
            return Err(ConfigError::new(
                CERTIFICATE_FILE,
                format!("its certificate has ended on {end}, and the one that is served has not"),
            ));
        }
        Ok(Renewal {
            config: Arc::new(config),
            validity,
            seen,
        })
    }

    /// The second half, which can't fail.
    pub fn adopt(&self, renewal: Renewal) {
        let Renewal {
            config,
            validity,
            seen,
        } = renewal;
        *self.seen.lock() = seen;
        *self.served.write() = Served {
            config,
            validity,
            warned: None,
        };
        let until = validity.map(|validity| written(validity.ends));
        tracing::info!(until, "a new certificate is served");
    }

    /// Makes the handshake on a connection that was accepted.
    ///
    /// # Errors
    ///
    /// The client and this server can't agree, the connection breaks, or it takes too long.
    pub async fn accept(&self, io: Rewound) -> io::Result<TlsStream<Rewound>> {
        let handshake = async {
            // Who says nothing, or a byte now and then, takes no turn from others.
            let hello = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
            let turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
            let config = Arc::clone(&self.served.read().config);
            let mut answering = pin!(hello.into_stream(config));
            // What is dear, the signature, is made when the hello is first looked at. For what the client says to it
            // others need not wait: it may say nothing.
            let answered = poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await;
            drop(turn);
            match answered {
                Poll::Ready(finished) => finished,
                Poll::Pending => answering.await,
            }
        };
        tokio::time::timeout(self.options.handshake_timeout, handshake)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Looks at the files now and then, serves what has changed, and warns before a certificate ends.
    pub async fn watch(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.options.watch) => {}
                () = stopping.cancelled() => return,
            }
            let tls = Arc::clone(&self);
            // The files may lie on a file system that hangs.
            let looked = tokio::task::spawn_blocking(move || tls.look()).await;
            if let Err(error) = looked {
                tracing::error!(%error, "looking at the certificate has panicked");
            }
        }
    }

    fn look(&self) {
        let now = stamps(&self.options);
        let has_changed = *self.seen.lock() != now;
        if has_changed && let Err(error) = self.reload() {
            tracing::error!(%error, "the new certificate can't be served; the old one stays");
            *self.seen.lock() = now;
        }
        self.warn_of_end(SystemTime::now());
    }

    /// Warns once a day when a certificate is about to end, and says so when it has.
    fn warn_of_end(&self, now: SystemTime) {
        let mut served = self.served.write();
        let Some(validity) = served.validity else {
            return;
        };
        let seconds = unix_seconds(now);
        let left = Duration::from_secs((validity.ends - seconds).try_into().unwrap_or(0));
        let lately =
            |warned: SystemTime| now.duration_since(warned).is_ok_and(|ago| ago < WARN_EVERY);
        let early = validity.begins > seconds;
        if (left > validity.warns_before() && !early) || served.warned.is_some_and(lately) {
            return;
        }
        served.warned = Some(now);
        drop(served);
        let end = written(validity.ends);
        if left.is_zero() {
            tracing::error!(%end, "the certificate has ended: clients refuse it");
        } else if early {
            let begin = written(validity.begins);
            tracing::error!(%begin, "the certificate is not good yet: clients refuse it");
        } else {
            tracing::warn!(%end, days = left.as_secs() / 86_400, "the certificate ends soon");
        }
    }
}

fn written(unix_seconds: i64) -> String {
    rfc3339(unix_seconds.saturating_mul(1_000_000))
}

fn stamps(options: &TlsConfig) -> Vec<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    let files = [
        &options.certificate_file,
        &options.key_file,
        &options.client_ca_file,
    ];
    files
        .into_iter()
        .map(|file| file.as_ref().and_then(stamp))
        .collect()
}

/// The terms of new connections, from the files.
fn load(
    options: &TlsConfig,
    certificate_file: &Path,
    key_file: &Path,
) -> Result<(ServerConfig, Option<Validity>), ConfigError> {
    let certificates = read_certificates(CERTIFICATE_FILE, certificate_file)?;
    let validity = certificates.first().and_then(|first| Validity::of(first));
    let key = read(KEY_FILE, key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| {
        let problem = format!("{} holds no private key in PEM", key_file.display());
        ConfigError::new(KEY_FILE, problem)
    })?;
    let provider = Arc::new(default_provider());
    let versions: &[_] = match options.minimum_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| ConfigError::new("tls.minimum_version", error.to_string()))?;
    let builder = match &options.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => builder.with_client_cert_verifier(
            client_verifier(file, provider)
                .map_err(|problem| ConfigError::new(CLIENT_CA_FILE, problem))?,
        ),
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| {
            let problem = format!(
                "the key in {} and the certificate in {} can't be used together: {error}",
                key_file.display(),
                certificate_file.display()
            );
            ConfigError::new(CERTIFICATE_FILE, problem)
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    // A client that comes back brings its session along, encrypted by a key that only this process has; so a crowd
    // that comes back costs no memory. Nothing is taken before the handshake is over (no early data).
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()
        .map_err(|error| ConfigError::new("tls", format!("no keys for tickets: {error}")))?;
    Ok((config, validity))
}

fn client_verifier(
    file: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let authorities = read_certificates(CLIENT_CA_FILE, file).map_err(|error| error.problem)?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let unusable = |error| format!("{}: {error}", file.display());
        roots.add(authority).map_err(unusable)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

fn read_certificates(
    key: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(key, file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(ConfigError::new(
            key,
            format!("{} holds no certificate in PEM", file.display()),
        )),
    }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file).map_err(|error| {
        let problem = format!("{} can't be read: {error}", file.display());
        ConfigError::new(key, problem)
    })
}

#[cfg(test)]
mod tests {
    use tidings_tests::Certificates;

    use super::*;
    use crate::config::Settings;

    fn tls(files: &Certificates) -> Tls {
        let settings = [
            ("tls.listen", "127.0.0.1:0".to_owned()),
            ("tls.certificate_file", files.path("server.pem")),
            ("tls.key_file", files.path("server.key")),
        ];
        let flags = settings.map(|(key, value)| (key.to_owned(), value));
        let settings = Settings::gather(&[], None, &[], &flags).unwrap();
        let config = crate::config::resolve(settings).unwrap().config;
        Tls::from_config(&config.tls).unwrap().unwrap()
    }

    fn served(tls: &Tls) -> *const ServerConfig {
        Arc::as_ptr(&tls.served.read().config)
    }

    #[test]
    fn a_certificate_that_has_ended_does_not_replace_one_that_has_not() {
        let files = Certificates::new();
        let tls = tls(&files);
        let before = served(&tls);
        files.end("server");
        let error = tls.reload().unwrap_err();
        assert!(error.problem.contains("has ended"), "{error}");
        assert_eq!(error.key, "tls.certificate_file");
        assert_eq!(served(&tls), before);
        tls.look();
        assert_eq!(served(&tls), before);
    }

    #[test]
    fn what_was_read_is_served_when_it_is_adopted_and_what_was_not_is_read_by_itself() {
        let files = Certificates::new();
        let tls = tls(&files);
        let before = served(&tls);
        tls.look();
        assert_eq!(served(&tls), before, "nothing has changed");
        let others = Certificates::new();
        for file in ["server.pem", "server.key"] {
            std::fs::copy(others.path(file), files.path(file)).unwrap();
        }
        let renewal = tls.read_again().unwrap();
        assert_eq!(served(&tls), before);
        drop(renewal);
        tls.look();
        let renewed = served(&tls);
        assert_ne!(renewed, before);
        tls.adopt(tls.read_again().unwrap());
        assert_ne!(served(&tls), renewed);
    }
}
