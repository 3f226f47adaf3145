//! How a connection to Redis is made: to one server, to the master that sentinels name, or to a cluster.

use std::path::Path;
use std::time::Duration;

use ::redis::aio::{ConnectionLike as _, MultiplexedConnection};
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
    TlsMode, Value,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::{ConfigError, RedisAddress, RedisConfig, RedisServers, RedisUrl};

/// How many commands may wait to be written to one connection before those who send them wait.
const PIPELINE: usize = 1_024;

/// How often a cluster's connection follows a redirection or tries another node, within the time for an answer.
const CLUSTER_RETRIES: u32 = 3;

/// A connection that many use at once.
#[derive(Clone)]
pub(super) enum Connection {
    /// To one server.
    Server(MultiplexedConnection),
    /// To each server of a cluster. It looks after its parts itself: one of them being away is not the whole's.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends a command and waits for its answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Server(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        };
        answer?.extract_error()
    }
}

/// Everything that it takes to connect.
pub(super) struct Connector {
    servers: RedisServers,
    tls: Option<TlsCertificates>,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl Connector {
    /// Reads passwords and certificates; connects nowhere.
    ///
    /// # Errors
    /// A file can't be read or does not hold what it should.
    pub(super) fn new(config: &RedisConfig, url: &RedisUrl) -> Result<Self, ConfigError> {
        // A second provider in the process would be an error of ours; this one may be set already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let user = config.user.as_deref().or(url.user.as_deref());
        let password = secret(
            config.password.as_ref().or(url.password.as_ref()),
            "redis.password_file",
            config.password_file.as_deref(),
        )?;
        let sentinel_password = secret(
            config.sentinel_password.as_ref(),
            "redis.sentinel_password_file",
            config.sentinel_password_file.as_deref(),
        )?;
        let tls = url.tls.then(|| certificates(config)).transpose()?;
        Ok(Self {
            servers: url.servers.clone(),
            tls,
            login: login(user, password).set_db(url.database.into()),
            sentinel_login: login(config.sentinel_user.as_deref(), sentinel_password),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
        })
    }

    /// Makes a connection. It takes at most `redis.connect_timeout` for each server that is tried.
    ///
    /// # Errors
    /// Nobody answers, or not as a server does that takes this login.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        match &self.servers {
            RedisServers::Single(address) => self.server(self.address(address), &self.login).await,
            RedisServers::Socket(path) => {
                self.server(ConnectionAddr::Unix(path.clone()), &self.login)
                    .await
            }
            RedisServers::Sentinels { addresses, service } => {
                let master = self.master(addresses, service).await?;
                self.server(self.address(&master), &self.login).await
            }
            RedisServers::Cluster(addresses) => self.cluster(addresses).await,
        }
    }

    async fn server(
        &self,
        address: ConnectionAddr,
        login: &RedisConnectionInfo,
    ) -> RedisResult<Connection> {
        let tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let info = address
            .into_connection_info()?
            .set_redis_settings(login.clone());
        let client = match (&self.tls, tls) {
            (Some(certificates), true) => Client::build_with_tls(info, certificates.clone())?,
            _ => Client::open(info)?,
        };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        let connecting = client.get_multiplexed_async_connection_with_config(&settings);
        bounded(self.connect_timeout, connecting)
            .await
            .map(Connection::Server)
    }

    /// Asks one sentinel after the other for the service's master. Whether it is one, the probe behind the
    /// connection finds out: a sentinel can be behind the times.
    async fn master(&self, sentinels: &[RedisAddress], service: &str) -> RedisResult<RedisAddress> {
        let mut last = RedisError::from((ErrorKind::EmptySentinelList, "no sentinel"));
        for sentinel in sentinels {
            match self.ask_sentinel(sentinel, service).await {
                Ok(master) => return Ok(master),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(
        &self,
        sentinel: &RedisAddress,
        service: &str,
    ) -> RedisResult<RedisAddress> {
        let mut connection = self
            .server(self.address(sentinel), &self.sentinel_login)
            .await?;
        let mut command = ::redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(service);
        let answer = bounded(self.response_timeout, connection.send(&command)).await?;
        let found: Option<(String, u16)> = ::redis::from_redis_value(answer)?;
        let (host, port) = found.ok_or((
            ErrorKind::MasterNameNotFoundBySentinel,
            "the sentinels know no service of this name",
        ))?;
        Ok(RedisAddress { host, port })
    }

    async fn cluster(&self, addresses: &[RedisAddress]) -> RedisResult<Connection> {
        let nodes = addresses
            .iter()
            .map(|address| self.address(address).into_connection_info())
            .collect::<RedisResult<Vec<ConnectionInfo>>>()?;
        let mut builder = ClusterClient::builder(nodes)
            .connection_timeout(self.connect_timeout)
            .response_timeout(self.response_timeout)
            .retries(CLUSTER_RETRIES);
        if let Some(user) = self.login.username() {
            builder = builder.username(user);
        }
        if let Some(password) = self.login.password() {
            builder = builder.password(password);
        }
        if let Some(certificates) = &self.tls {
            builder = builder.tls(TlsMode::Secure).certs(certificates.clone());
        }
        let client = builder.build()?;
        // Two rounds: the nodes that are named, then those that they name.
        let connecting = client.get_async_connection();
        bounded(2 * self.connect_timeout, connecting)
            .await
            .map(Connection::Cluster)
    }

    fn address(&self, address: &RedisAddress) -> ConnectionAddr {
        let RedisAddress { host, port } = address.clone();
        if self.tls.is_some() {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }
}

/// What takes longer has failed.
pub(super) async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

fn login(user: Option<&str>, password: Option<SecretString>) -> RedisConnectionInfo {
    // The library's name is of no use to anybody, and servers before 7.2 answer it with an error.
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    login
}

/// A secret that is given, or in a file.
fn secret(
    given: Option<&SecretString>,
    key: &str,
    file: Option<&Path>,
) -> Result<Option<SecretString>, ConfigError> {
    let Some(path) = file else {
        return Ok(given.cloned());
    };
    let wrong = |problem: &str| ConfigError::new(key, format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(&format!("the file can't be read: {error}")))?;
    // Editors and `echo` end a file with a line end that nobody means to be part of the secret.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(wrong("the file is empty; it should hold the password"));
    }
    Ok(Some(text.to_owned().into()))
}

fn certificates(config: &RedisConfig) -> Result<TlsCertificates, ConfigError> {
    let file = |key: &str, path: &Path, good: fn(&[u8]) -> bool, what: &str| {
        let wrong =
            |problem: String| ConfigError::new(key, format!("{}: {problem}", path.display()));
        let bytes = std::fs::read(path)
            .map_err(|error| wrong(format!("the file can't be read: {error}")))?;
        if good(&bytes) {
            Ok(bytes)
        } else {
            Err(wrong(format!("it holds no {what} in PEM")))
        }
    };
    let has_certificates = |pem: &[u8]| {
        let mut read = CertificateDer::pem_slice_iter(pem).peekable();
        read.peek().is_some() && read.all(|certificate| certificate.is_ok())
    };
    let root_cert = config
        .ca_file
        .as_deref()
        .map(|path| file("redis.ca_file", path, has_certificates, "certificate"))
        .transpose()?;
    let client_tls = match (&config.client_certificate_file, &config.client_key_file) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: file(
                "redis.client_certificate_file",
                certificate,
                has_certificates,
                "certificate",
            )?,
            client_key: file(
                "redis.client_key_file",
                key,
                |pem| PrivateKeyDer::from_pem_slice(pem).is_ok(),
                "private key",
            )?,
        }),
        _ => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}
