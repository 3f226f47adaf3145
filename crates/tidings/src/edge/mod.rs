//! What stands between a client and HTTP, in the order in which a connection meets it:
//!
//! - [`proxy_protocol`]: the head by which a proxy says for whom it connects.
//! - [`tls`]: the handshake, and the certificate, which can change while the server runs; [`validity`]: how long
//!   it is good.
//! - [`forwarded`]: whose request it is where a trusted proxy says so in a header; [`network`]: who is trusted.

pub mod forwarded;
pub mod network;
pub mod proxy_protocol;
pub mod tls;
pub mod validity;

use std::net::IpAddr;
use std::sync::Arc;

pub use forwarded::{ForwardedHeader, Proxies};
pub use network::Network;
pub use tls::{Renewal, Tls, TlsVersion};

use crate::config::Config;

/// What a listener expects in front of HTTP.
#[derive(Clone, Default)]
pub struct Edge {
    /// Every connection begins with a handshake.
    pub tls: Option<Arc<Tls>>,
    /// Those whose connections begin with a head of the PROXY protocol.
    heads_from: Arc<[Network]>,
}

impl Edge {
    /// A public listener's, with or without TLS.
    #[must_use]
    pub fn public(config: &Config, tls: Option<Arc<Tls>>) -> Self {
        let heads_from = if config.proxies.protocol {
            config.proxies.trusted.as_slice().into()
        } else {
            Arc::default()
        };
        Self { tls, heads_from }
    }

    /// Whether a connection from `address` must begin with a head of the PROXY protocol. From all others such a
    /// head is no HTTP, so that nobody else can say to be somebody else.
    #[must_use]
    pub fn expects_head_from(&self, address: IpAddr) -> bool {
        network::any_contains(&self.heads_from, address)
    }
}
