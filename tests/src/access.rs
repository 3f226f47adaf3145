//! Access tokens (JWT, RFC 7519, signed with HS256), made without the server's code, and broken on
//! purpose where a test asks for it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// The claims of an access token before it is signed.
#[derive(Clone, Debug)]
pub struct AccessToken {
    header: Value,
    claims: Map<String, Value>,
}

impl AccessToken {
    /// A token for `user` in `tenant` with `role`, good for an hour.
    pub fn new(user: &str, tenant: &str, role: &str) -> Self {
        Self::blank(user, json!(tenant), role)
    }

    /// A token for a `super_admin`, who belongs to no tenant.
    pub fn super_admin(user: &str) -> Self {
        Self::blank(user, Value::Null, "super_admin")
    }

    fn blank(user: &str, tenant: Value, role: &str) -> Self {
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(user));
        claims.insert("tenant_id".to_owned(), tenant);
        claims.insert("role".to_owned(), json!(role));
        claims.insert("type".to_owned(), json!("access"));
        claims.insert("exp".to_owned(), json!(now() + 3600));
        Self {
            header: json!({"alg": "HS256", "typ": "JWT"}),
            claims,
        }
    }

    /// Sets a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Says `algorithm` in the header; the signature stays HS256's.
    #[must_use]
    pub fn says_algorithm(mut self, algorithm: &str) -> Self {
        self.header["alg"] = json!(algorithm);
        self
    }

    /// Sets a member of the header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    /// Sets a member of the header, unless it has one already.
    #[must_use]
    pub fn header_if_missing(mut self, name: &str, value: impl Into<Value>) -> Self {
        if self.header.get(name).is_none() {
            self.header[name] = value.into();
        }
        self
    }

    /// The header and the claims, encoded and joined by a dot: what is signed.
    pub fn unsigned(&self) -> String {
        let header = URL_SAFE_NO_PAD.encode(self.header.to_string());
        let claims = URL_SAFE_NO_PAD.encode(Value::Object(self.claims.clone()).to_string());
        format!("{header}.{claims}")
    }

    /// The token, signed with this secret.
    pub fn sign(&self, secret: &str) -> String {
        let unsigned = self.unsigned();
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
        mac.update(unsigned.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{unsigned}.{signature}")
    }
}

/// The time in seconds since 1970, as in `exp`.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_other_tools_make() {
        // printf '%s' 'eyJhbGciOiJIUzI1NiJ9.e30' | openssl dgst -sha256 -hmac secret -binary | basenc --base64url
        let token = AccessToken {
            header: json!({"alg": "HS256"}),
            claims: Map::new(),
        };
        assert_eq!(
            token.sign("secret"),
            "eyJhbGciOiJIUzI1NiJ9.e30.XmNK3GpH3Ys_7wsYBfq4C3M6goz71I7dTgUkuIa5lyQ"
        );
    }
}
