//! Who calls, and what they may.
//!
//! - [`identity`]: what an access token says of its user, the authority that a stream obeys.
//! - [`access_token`]: from a JWT to an [`Identity`]; `issuer` and `jwks` are whose word counts, and their keys.
//! - [`stream_token`]: the single-use secret that carries an [`Identity`] from `POST /auth/sse-token` to a stream.
//! - [`publisher_key`]: API keys of publishers; [`managed_key`]: those that operators make, as they are stored.
//! - [`revocation`]: whose access tokens are good no more.
//! - [`operator`]: who may operate, as an extractor for the handlers of operators' calls.
//!
//! No HTTP in the others: callers bring the text of a credential and get an answer. Errors and `Debug` output never
//! hold a credential, whole or in part.

pub mod access_token;
mod claims;
pub mod identity;
mod issuer;
pub mod jwks;
pub mod managed_key;
mod mint;
pub mod operator;
pub mod publisher_key;
pub mod revocation;
pub mod stream_token;
mod verified;
pub mod verifying_key;

use std::fmt::Write as _;

pub(crate) use claims::is_bounded_text;

pub use access_token::{AccessTokenError, AccessTokens};
pub use identity::Identity;
pub use jwks::SourceStatus;
pub use managed_key::{KeySecret, ManagedKey};
pub use mint::{MintError, NewAccessToken};
pub use operator::{Operator, audit_refusals};
pub use publisher_key::{NewPublisherKey, Publisher, PublisherKeyError, PublisherKeys};
pub use stream_token::{LinkKeeper, Looked, Outage, StreamTokens, Unavailable};

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// 32 random bytes in URL-safe base64, 43 characters: a secret for whatever needs one.
///
/// # Errors
/// The operating system gave no randomness; whoever needs a secret must then go without.
pub fn random_text() -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
