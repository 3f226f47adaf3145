//! Access tokens: HS256 JWTs, as a login would issue them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Signs access tokens with a shared secret.
#[derive(Clone, Debug)]
pub struct Signer {
    key: Hmac<Sha256>,
    expires: u64,
}

impl Signer {
    /// A signer whose tokens are good for an hour.
    ///
    /// # Panics
    ///
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            key: Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length"),
            expires: now + 3600,
        }
    }

    /// The access token of `user`, who watches `tenant`.
    #[must_use]
    pub fn viewer(&self, user: &str, tenant: &str) -> String {
        self.sign(&format!(
            "{{\"sub\":\"{user}\",\"tenant_id\":\"{tenant}\",\"role\":\"viewer\",\"type\":\"access\",\"exp\":{}}}",
            self.expires
        ))
    }

    /// The access token of `user`, who watches `tenant` within the bounds of some more claims.
    #[must_use]
    pub fn bounded(&self, user: &str, tenant: &str, bounds: &str) -> String {
        self.sign(&format!(
            "{{\"sub\":\"{user}\",\"tenant_id\":\"{tenant}\",\"role\":\"viewer\",\"type\":\"access\",\"exp\":{},{bounds}}}",
            self.expires
        ))
    }

    /// The access token of one who may publish to, and watch, every tenant.
    #[must_use]
    pub fn super_admin(&self) -> String {
        self.sign(&format!(
            "{{\"sub\":\"bench\",\"tenant_id\":null,\"role\":\"super_admin\",\"type\":\"access\",\"exp\":{}}}",
            self.expires
        ))
    }

    fn sign(&self, claims: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let mut key = self.key.clone();
        key.update(signed.as_bytes());
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(key.finalize().into_bytes())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected signature was made with Python's `hmac` module.
    #[test]
    fn a_token_has_three_parts_and_a_signature_that_depends_on_all_of_it() {
        let signer = Signer::new("0123456789abcdef0123456789abcdef");
        let one = signer.viewer("u1", "t");
        let other = signer.viewer("u2", "t");
        assert_eq!(one.split('.').count(), 3);
        assert_ne!(
            one.rsplit_once('.').unwrap().1,
            other.rsplit_once('.').unwrap().1
        );
        let text = Signer {
            key: signer.key,
            expires: 1,
        }
        .sign("{}");
        assert_eq!(
            text,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.svo3sQiBr6VRrugrrB1OoHS7Y-c0pzdPFYhCfjX7elM"
        );
    }
}
