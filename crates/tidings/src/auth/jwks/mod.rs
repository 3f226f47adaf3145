//! Keys that issuers publish: JWKS (RFC 7517).
//!
//! - [`set`]: from the text of a JWKS to keys, of which each has its own list of algorithms.
//! - [`fetch`]: one `GET` over TLS, bounded in time and size.
//! - [`source`]: the keys of one issuer, kept up to date in the background.

mod fetch;
pub mod set;
mod source;

pub use source::SourceStatus;
pub(super) use source::{JwksSource, SourceOptions};
