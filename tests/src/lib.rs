//! What the end-to-end tests stand on. In the order in which a test meets it:
//!
//! - [`server`]: the real `tidings` binary as a child process: started, stopped, killed, started again.
//! - [`brokers`]: real `nats-server`s and `redis-server`s, one or a cluster.
//! - [`nats`]: a client of NATS, to publish what others publish and to look at streams.
//! - [`resp`]: a client of Redis, to look at what is stored and to be another back end.
//! - [`certificates`]: certificates of an authority of our own.
//! - [`tunnel`]: a port in the clear that leads to one over TLS, so that every test can go over TLS.
//! - [`access`]: access tokens, signed here and not by the server's code.
//! - [`issuer`]: who logs users in: keys of its own, published as a JWKS.
//! - [`http`]: HTTP/1 as bytes in and bytes out.
//! - [`publish`]: publishing, and what a receipt says.
//! - [`proxies`]: nginx, `HAProxy` and Caddy with the samples of `deploy/`.
//! - [`chunks`]: what a proxy frames a stream in.
//! - [`moments`]: points in time that a server has written.
//! - [`scrape`]: what `/metrics` says.
//! - [`sse`]: a decoder of event streams, written from the WHATWG text and not from the server's.
//! - [`stream`]: one open stream and what has come over it.
//!
//! Nothing here waits for time to pass. A test waits for an answer, an event or a line of the log;
//! [`GUARD`] only turns a hang into a failure.

#![allow(
    clippy::missing_panics_doc,
    reason = "a harness fails its test by panicking"
)]
#![allow(
    clippy::must_use_candidate,
    reason = "a test that ignores what it asked for is caught by reading it"
)]

use std::time::Duration;

pub mod access;
pub mod brokers;
pub mod certificates;
pub mod chunks;
pub mod http;
pub mod issuer;
pub mod moments;
pub mod nats;
pub mod proxies;
pub mod publish;
pub mod resp;
pub mod scrape;
pub mod server;
pub mod sse;
pub mod stream;
pub mod tunnel;

pub use access::AccessToken;
pub use brokers::{Door, NatsCluster, NatsOptions, NatsServer, RedisOptions, RedisServer};
pub use certificates::Certificates;
pub use http::{Answer, Connection, Request};
pub use issuer::{KeyServer, SigningKey};
pub use nats::NatsClient;
pub use proxies::{Proxy, ProxyKind, ProxyOptions};
pub use publish::Receipt;
pub use resp::{Redis, Reply};
pub use scrape::Scrape;
pub use server::{Server, Setup};
pub use sse::{Decoder, Event, Item};
pub use stream::{Heard, Stream, Watch};
pub use tunnel::{Tunnel, Way};

/// How long a test waits for something that must happen before it calls it a hang.
pub const GUARD: Duration = Duration::from_mins(1);

/// A tenant that no other test knows, a UUID of version 4.
pub fn new_tenant() -> String {
    uuid_from(fastrand::u128(..))
}

/// The UUID of version 4 with these random bits.
pub fn uuid_from(bits: u128) -> String {
    let bits = bits & !(0xf << 76) | (0x4 << 76);
    let bits = bits & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The position that a cursor of one source names (`EPOCH.POSITION`).
pub fn position(cursor: &str) -> u64 {
    cursor
        .split_once('.')
        .and_then(|(_, position)| position.parse().ok())
        .unwrap_or_else(|| panic!("{cursor:?} is no cursor over one source"))
}

/// The epoch that a cursor of one source names.
pub fn epoch(cursor: &str) -> &str {
    cursor
        .split_once('.')
        .unwrap_or_else(|| panic!("{cursor:?} is no cursor over one source"))
        .0
}
