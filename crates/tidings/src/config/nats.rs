//! The section `nats`: how the NATS servers are reached, and what the log's own stream there is like.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::error::ConfigError;
use super::fleet::{FLEET, FleetStream};
use super::key::section;
use super::kinds;
use super::model::LogConfig;
use super::values::{LogKind, LogLayout};

section! {
    /// The NATS servers, and the stream in their JetStream that holds the log. Of the ways to show who one is
    /// (`user`, `token`, `nkey`, `credentials_file`) at most one is used.
    NatsConfig in "nats." {
        /// The servers, such as `nats://10.0.0.1:4222`; several of one cluster, so that one can be away. `tls://`
        /// demands TLS. Passwords don't belong here: they have keys of their own.
        url: Vec<String> = kinds::NATS_URLS, "[]";
        /// The user's name; with `password` or `password_file`.
        user: Option<String> = kinds::OPTIONAL_TEXT, "";
        /// The user's password.
        password: Option<SecretString> = kinds::SECRET, "";
        /// A file that holds the password instead; one line end behind it does not count.
        password_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A token.
        token: Option<SecretString> = kinds::SECRET, "";
        /// A file that holds the token instead; one line end behind it does not count.
        token_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// The seed of a user's NKEY (`SU…`).
        nkey: Option<SecretString> = kinds::SECRET, "";
        /// A file that holds the seed instead; one line end behind it does not count.
        nkey_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A credentials file, with a user's JWT and seed. It is read anew with every connection, so that
        /// it can be replaced while the server runs.
        credentials_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// The stream that holds the log in the layout `own`; it is made where it does not exist. What it has is
        /// never shrunk: where its retention, size, replicas or duplicate window are more than asked for, they stay.
        stream: String = kinds::STREAM, "TIDINGS";
        /// On how many servers the stream is kept: 1, or 3 or 5 of a cluster, so that one or two can be lost.
        replicas: usize = kinds::count::<1, 5>(), "1";
        /// For how long a key makes a repeated publish safe.
        duplicate_window: Duration = kinds::duration::<1_000, 86_400_000>(), "2m";
        /// What is read in the layout `fleet`: for each stream its subjects and the event type that each stands
        /// for. `{tenant}`, `{device}`, `{kind}` and `*` stand for one part of a subject, a last `>` for one or
        /// more; `{tenant}` and `{device}` must agree with the payload. Of several that fit, the one with more
        /// plain parts from the left counts. Empty: the streams and subjects of the protocol. Otherwise only what
        /// is given is read, as in `[nats.fleet.DEVICE_EVENTS]` with `"device.status.{device}" = "device_status"`.
        fleet: Vec<FleetStream> = FLEET, "{}";
    }
    sections {
        /// TLS to the NATS servers.
        tls: NatsTlsConfig;
    }
}

section! {
    /// TLS to the NATS servers.
    NatsTlsConfig in "nats.tls." {
        /// Whether a server that offers no TLS is refused. A server that demands TLS gets it in any case.
        required: bool = kinds::BOOL, "false";
        /// A PEM file with the certificates of the authorities that are trusted, instead of the system's.
        ca_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with this server's own certificate, where the NATS servers ask for one.
        certificate_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the private key of that certificate.
        key_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
    }
}

impl NatsConfig {
    /// Whether keys would be remembered for longer than their events. Without JetStream nobody asks for its window,
    /// and a short retention is none of its business.
    fn outlasts(&self, log: &LogConfig) -> bool {
        log.kind == LogKind::JetStream
            && !log.retention.is_zero()
            && self.duplicate_window > log.retention
    }

    /// What is wrong between values that are each good by themselves.
    pub(super) fn contradictions(&self, log: &LogConfig) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, problem: &str| errors.push(ConfigError::new(key, problem));
        match (log.kind, log.layout) {
            (LogKind::Embedded, LogLayout::Fleet) => wrong(
                "log.layout",
                "fleet is a layout of JetStream streams; set log.kind to jetstream too, or leave this out",
            ),
            (LogKind::JetStream, _) if self.url.is_empty() => wrong(
                "nats.url",
                "log.kind is jetstream, which needs NATS servers; set this to theirs, such as nats://127.0.0.1:4222",
            ),
            _ => {}
        }
        for (key, value, file) in [
            (
                "nats.password_file",
                self.password.is_some(),
                &self.password_file,
            ),
            ("nats.token_file", self.token.is_some(), &self.token_file),
            ("nats.nkey_file", self.nkey.is_some(), &self.nkey_file),
        ] {
            if value && file.is_some() {
                let other = key.strip_suffix("_file").unwrap_or(key);
                wrong(
                    key,
                    &format!("{other} is set too, so it is unclear which counts; set one of them"),
                );
            }
        }
        let password = self.password.is_some() || self.password_file.is_some();
        match (&self.user, password) {
            (None, true) => wrong("nats.user", "there is a password for a user, but no user"),
            (Some(_), false) => wrong(
                "nats.password",
                "there is a user but no password; set this or nats.password_file",
            ),
            _ => {}
        }
        let ways: Vec<&str> = [
            ("nats.user", self.user.is_some() || password),
            (
                "nats.token",
                self.token.is_some() || self.token_file.is_some(),
            ),
            ("nats.nkey", self.nkey.is_some() || self.nkey_file.is_some()),
            ("nats.credentials_file", self.credentials_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
        if let [first, second, ..] = *ways {
            wrong(
                second,
                &format!("{first} says who this server is already; set one of them"),
            );
        }
        match (&self.tls.certificate_file, &self.tls.key_file) {
            (Some(_), None) => wrong(
                "nats.tls.key_file",
                "there is a certificate but no key for it",
            ),
            (None, Some(_)) => wrong(
                "nats.tls.certificate_file",
                "there is a key but no certificate for it",
            ),
            _ => {}
        }
        if self.outlasts(log) {
            wrong(
                "nats.duplicate_window",
                "this can't be longer than log.retention: what is forgotten can't be recognised",
            );
        }
        errors
    }
}
