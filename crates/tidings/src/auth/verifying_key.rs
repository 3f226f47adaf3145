//! Keys that verify access tokens, and which algorithms each may be used with.

use std::fmt;
use std::path::Path;

use aws_lc_rs::rsa;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretSlice};

use crate::config::{ConfigError, JwtConfig};

/// A secret below this many bytes is weaker than HS256 itself (RFC 7518, section 3.2).
const LEAST_SECRET_BYTES: usize = 32;

/// A key and the algorithms that it verifies. A key is never used with an algorithm that is not listed
/// with it, so a public key can't be mistaken for a secret.
pub(super) struct VerifyingKey {
    key: DecodingKey,
    /// Present where the key also signs, so where it is a shared secret.
    signing: Option<EncodingKey>,
    suits: &'static [Algorithm],
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VerifyingKey({:?})", self.key.family())
    }
}

impl VerifyingKey {
    /// Whether the key may be used with `algorithm`.
    pub(super) fn suits(&self, algorithm: Algorithm) -> bool {
        self.suits.contains(&algorithm)
    }

    /// The algorithm that is meant where the configuration names none.
    fn usual(&self) -> Algorithm {
        self.suits[0]
    }

    /// The key as a signing key, where it is a shared secret.
    pub(super) fn signing(&self) -> Option<&EncodingKey> {
        self.signing.as_ref()
    }

    /// Whether `signature` (base64url) is this key's under `message`; false for unsuitable algorithms.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.suits(algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm)
                .unwrap_or(false)
    }

    fn of_secret(secret: &[u8]) -> Self {
        Self {
            key: DecodingKey::from_secret(secret),
            signing: Some(EncodingKey::from_secret(secret)),
            suits: AlgorithmFamily::Hmac.algorithms_of(),
        }
    }
}

/// The families' algorithms, the usual one first.
trait Algorithms {
    fn algorithms_of(self) -> &'static [Algorithm];
}

impl Algorithms for AlgorithmFamily {
    fn algorithms_of(self) -> &'static [Algorithm] {
        match self {
            Self::Hmac => &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            Self::Rsa => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            Self::Ec => &[Algorithm::ES256, Algorithm::ES384],
            Self::Ed => &[Algorithm::EdDSA],
        }
    }
}

/// The configured keys, the algorithms that are accepted, and what an operator should be warned of.
#[derive(Debug)]
pub(super) struct VerifyingKeys {
    pub(super) keys: Vec<VerifyingKey>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) warnings: Vec<String>,
}

impl VerifyingKeys {
    /// Reads the configured keys, from files where the configuration names files.
    pub(super) fn from_config(config: &JwtConfig) -> Result<Self, ConfigError> {
        let mut keys = Vec::new();
        let mut warnings = Vec::new();
        if let Some((setting, secret)) = shared_secret(config)? {
            warnings.extend(check_secret(setting, secret.expose_secret())?);
            keys.push(VerifyingKey::of_secret(secret.expose_secret()));
        }
        if let Some(path) = &config.public_key_file {
            let problem = |problem: String| ConfigError::new("auth.jwt.public_key_file", problem);
            let text = std::fs::read_to_string(path)
                .map_err(|error| problem(format!("{} can't be read: {error}", path.display())))?;
            keys.extend(
                public_keys(&text)
                    .map_err(|what| problem(format!("{}: {what}", path.display())))?,
            );
        }
        let algorithms = algorithms(&config.algorithms, &keys)?;
        Ok(Self {
            keys,
            algorithms,
            warnings,
        })
    }
}

/// The shared secret and the setting that it came from.
fn shared_secret(
    config: &JwtConfig,
) -> Result<Option<(&'static str, SecretSlice<u8>)>, ConfigError> {
    if let Some(secret) = &config.secret {
        let secret = secret.expose_secret().as_bytes().to_vec();
        return Ok(Some(("auth.jwt.secret", secret.into())));
    }
    let Some(path) = &config.secret_file else {
        return Ok(None);
    };
    let setting = "auth.jwt.secret_file";
    read_secret(path)
        .map(|secret| Some((setting, secret)))
        .map_err(|problem| ConfigError::new(setting, format!("{}: {problem}", path.display())))
}

fn read_secret(path: &Path) -> Result<SecretSlice<u8>, String> {
    let mut secret =
        std::fs::read(path).map_err(|error| format!("the file can't be read: {error}"))?;
    // Editors and `echo` end a file with a line end that nobody means to be part of the secret.
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    if secret.is_empty() {
        return Err("the file is empty; it must hold the secret".to_owned());
    }
    Ok(secret.into())
}

/// Refuses what is no secret and warns of what is a weak one. A weak one is not refused, since those who
/// issue the tokens have it already and a server that does not start helps nobody.
fn check_secret(setting: &str, secret: &[u8]) -> Result<Option<String>, ConfigError> {
    let marker = b"-----BEGIN ";
    if secret.windows(marker.len()).any(|window| window == marker) {
        // Whoever knows the public key could sign with it (RFC 8725, section 2.1).
        return Err(ConfigError::new(
            setting,
            "this holds a PEM key, which is no shared secret; name its file in auth.jwt.public_key_file",
        ));
    }
    Ok((secret.len() < LEAST_SECRET_BYTES).then(|| {
        format!(
            "{setting} has {} bytes; a secret below {LEAST_SECRET_BYTES} bytes can be found by trying, from a single \
             access token",
            secret.len()
        )
    }))
}

/// The keys of a PEM file with one or more public keys.
fn public_keys(text: &str) -> Result<Vec<VerifyingKey>, String> {
    let end = "-----END ";
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let (label, _) = block.split_once("-----").unwrap_or((block, ""));
        let number = keys.len() + 1;
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            label if label.ends_with("PRIVATE KEY") => {
                return Err("this holds a private key, which belongs to those who issue tokens only; give the public key, \
                            `openssl pkey -in private.pem -pubout`"
                    .to_owned());
            }
            "CERTIFICATE" => {
                return Err("this holds a certificate; give its public key, `openssl x509 -in certificate.pem -noout -pubkey`"
                    .to_owned());
            }
            _ => {
                return Err(format!(
                    "block {number} is a {label}, where a PUBLIC KEY is expected"
                ));
            }
        }
        let (body, footer) = block
            .split_once(end)
            .ok_or_else(|| format!("block {number} has no end"))?;
        let footer = footer.lines().next().unwrap_or_default();
        let pem = format!("-----BEGIN {body}{end}{footer}\n");
        keys.push(public_key(&pem).map_err(|problem| format!("block {number} {problem}"))?);
    }
    if keys.is_empty() {
        return Err("there is no PEM block with a PUBLIC KEY in it".to_owned());
    }
    Ok(keys)
}

fn public_key(pem: &str) -> Result<VerifyingKey, String> {
    let unusable = || "is no RSA, P-256, P-384 or Ed25519 public key".to_owned();
    let (key, suits) = if let Ok(key) = DecodingKey::from_ed_pem(pem.as_bytes()) {
        (key, AlgorithmFamily::Ed.algorithms_of())
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem.as_bytes()) {
        // An uncompressed point: its length tells the curve (RFC 5480, section 2.2).
        let suits: &[Algorithm] = match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(65) => &[Algorithm::ES256],
            Ok(97) => &[Algorithm::ES384],
            _ => return Err(unusable()),
        };
        (key, suits)
    } else {
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| unusable())?;
        let der = key.try_get_as_bytes().map_err(|_| unusable())?;
        let bits = rsa::PublicKey::from_der(der)
            .map(|public| 8 * public.modulus_len())
            .map_err(|_| unusable())?;
        if bits < 2048 {
            return Err(format!(
                "is an RSA key of {bits} bits; fewer than 2048 can't be trusted (RFC 7518, section 3.3)"
            ));
        }
        (key, AlgorithmFamily::Rsa.algorithms_of())
    };
    Ok(VerifyingKey {
        key,
        signing: None,
        suits,
    })
}

/// The accepted algorithms: as configured, or the usual one for each key.
fn algorithms(
    configured: &[Algorithm],
    keys: &[VerifyingKey],
) -> Result<Vec<Algorithm>, ConfigError> {
    if configured.is_empty() {
        let mut algorithms: Vec<_> = keys.iter().map(VerifyingKey::usual).collect();
        algorithms.dedup();
        return Ok(algorithms);
    }
    for algorithm in configured {
        if !keys.iter().any(|key| key.suits(*algorithm)) {
            return Err(ConfigError::new(
                "auth.jwt.algorithms",
                format!(
                    "no configured key suits {algorithm:?}; HS algorithms need auth.jwt.secret or auth.jwt.secret_file, the \
                     others a key of their kind in auth.jwt.public_key_file"
                ),
            ));
        }
    }
    Ok(configured.to_vec())
}
