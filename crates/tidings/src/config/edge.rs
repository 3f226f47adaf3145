//! The sections `tls` and `proxies`: what stands between a client and HTTP. As in `model.rs`, the doc comments
//! are what operators read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::key::{Class, Kind, section};
use super::kinds::{self, list, parsed, text};
use super::model::Config;
use crate::edge::{ForwardedHeader, Network, TlsVersion};

const TLS_VERSION: Kind<TlsVersion> = Kind {
    name: "1.2 or 1.3",
    class: Class::Text,
    read: |value| match text(value)? {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => Err("the versions of TLS are 1.2 and 1.3".into()),
    },
};

const FORWARDED_HEADER: Kind<ForwardedHeader> = Kind {
    name: "x-forwarded-for, forwarded or none",
    class: Class::Text,
    read: |value| match text(value)? {
        "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
        "forwarded" => Ok(ForwardedHeader::Forwarded),
        "none" => Ok(ForwardedHeader::None),
        _ => Err("the headers are x-forwarded-for and forwarded, or none".into()),
    },
};

const NETWORKS: Kind<Vec<Network>> = Kind {
    name: "list of networks",
    class: Class::List,
    read: |value| list(value, parsed::<Network>),
};

section! {
    /// TLS for browsers, clients and publishers. The files are read again when they change, and what is open stays
    /// open; files that can't be used are refused with an error in the log, and what was served before is served on.
    TlsConfig in "tls." {
        /// The address and port of the API over TLS, such as `0.0.0.0:8443`. Empty: TLS is off. The plain `listen`
        /// stays beside it; set that to `""` to have TLS alone.
        listen: Option<SocketAddr> = kinds::OPTIONAL_ADDRESS, "";
        /// A PEM file with the server's certificate and, behind it, those between it and its authority.
        certificate_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the private key of that certificate.
        key_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the certificates of authorities. With it, only clients that have a certificate of one of
        /// these get a connection; they need a token as well.
        client_ca_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// The oldest version of TLS that is spoken.
        minimum_version: TlsVersion = TLS_VERSION, "1.2";
        /// How long a handshake may take.
        handshake_timeout: Duration = kinds::duration::<100, 600_000>(), "10s";
        /// How many handshakes are answered at a time, with what takes the processor. Others wait for their turn, for
        /// `tls.handshake_timeout` at most. Who has not said all that it says first, or leaves the answer unread,
        /// takes no turn.
        handshakes: usize = kinds::count::<1, 1_000_000>(), "1024";
        /// How often it is looked whether the files have changed.
        watch: Duration = kinds::duration::<100, 86_400_000>(), "10s";
        /// For how long browsers are to come back over TLS only (`Strict-Transport-Security`); 0: this is not said.
        /// It holds for all ports of the host, and can't be taken back before it is over.
        hsts: Duration = kinds::duration::<0, 63_072_000_000>(), "0";
    }
}

section! {
    /// Proxies in front. What they say of their clients' addresses is believed, and counts for limits by address, in
    /// logs and in listings; what anybody else says of it is not looked at.
    ProxiesConfig in "proxies." {
        /// The addresses and networks of the proxies, such as `["10.0.0.0/8", "::1"]`.
        trusted: Vec<Network> = NETWORKS, "[]";
        /// The header in which they append the address of whom they pass on: `x-forwarded-for`, `forwarded` (RFC
        /// 7239) or `none`. Of several addresses the rightmost counts that is not trusted. It must be the one that
        /// *your* proxies write: they pass on the other one as clients send it.
        header: ForwardedHeader = FORWARDED_HEADER, "x-forwarded-for";
        /// Whether connections from these addresses begin with a head of the PROXY protocol, version 1 or 2. It is
        /// demanded from them then, and from nobody else.
        protocol: bool = kinds::BOOL, "false";
    }
}

/// What is wrong between the addresses, TLS and the proxies.
pub(super) fn contradictions(config: &Config) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |key: &str, problem: String| errors.push(ConfigError::new(key, problem));
    let (tls, proxies) = (&config.tls, &config.proxies);
    if config.listen.is_none() && tls.listen.is_none() {
        wrong(
            "listen",
            "without it and without tls.listen there is no way to the API; set one of them"
                .to_owned(),
        );
    }
    let addresses = [
        ("listen", config.listen),
        ("tls.listen", tls.listen),
        ("admin_listen", Some(config.admin_listen)),
    ];
    for (index, (key, address)) in addresses.iter().enumerate() {
        for (other_key, other) in &addresses[..index] {
            if let Some(address) = address.filter(|address| address.port() != 0)
                && Some(address) == *other
            {
                wrong(
                    key,
                    format!("{address} is taken by {other_key}; give it a port of its own"),
                );
            }
        }
    }
    if tls.listen.is_some() {
        for (key, file) in [
            ("tls.certificate_file", &tls.certificate_file),
            ("tls.key_file", &tls.key_file),
        ] {
            if file.is_none() {
                wrong(key, "tls.listen is set, which needs this too".to_owned());
            }
        }
    } else if tls.certificate_file.is_some() {
        wrong(
            "tls.listen",
            "there is a certificate but no address to serve it at; set this, for example to 0.0.0.0:8443".to_owned(),
        );
    }
    if proxies.protocol && proxies.trusted.is_empty() {
        wrong(
            "proxies.protocol",
            "no address is trusted to speak it; name the proxies in proxies.trusted".to_owned(),
        );
    }
    errors
}
