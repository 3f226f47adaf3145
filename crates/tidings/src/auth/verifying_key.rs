//! Keys that verify access tokens, and which algorithms each may be used with.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rsa;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::config::{ConfigError, IssuerConfig, JwtConfig};

/// A secret below this many bytes is weaker than HS256 itself (RFC 7518, section 3.2).
const LEAST_SECRET_BYTES: usize = 32;

/// A key and the algorithms that it verifies. A key is never used with an algorithm that is not listed
/// with it, so a public key can't be mistaken for a secret.
pub struct VerifyingKey {
    key: DecodingKey,
    /// Present where the key also signs, so where it is a shared secret.
    signing: Option<EncodingKey>,
    /// What tokens call it, where its JWKS names it.
    id: Option<Box<str>>,
    /// What it could be used with.
    suits: &'static [Algorithm],
    /// What it is used with here, the usual one first.
    accepted: Vec<Algorithm>,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VerifyingKey({:?})", self.key.family())
    }
}

impl VerifyingKey {
    /// A key that is used with those of `configured` that suit it, or where none is with the usual one.
    fn new(key: DecodingKey, suits: &'static [Algorithm], configured: &[Algorithm]) -> Self {
        let accepted = if configured.is_empty() {
            vec![suits[0]]
        } else {
            let suiting = configured.iter().filter(|one| suits.contains(one));
            suiting.copied().collect()
        };
        Self {
            key,
            signing: None,
            id: None,
            suits,
            accepted,
        }
    }

    /// A public key of a JWKS, which may name itself and the one algorithm that it is meant for. `None` where that
    /// is not accepted here.
    pub(super) fn of_jwks(
        key: DecodingKey,
        suits: &'static [Algorithm],
        id: Option<Box<str>>,
        meant_for: Option<Algorithm>,
        configured: &[Algorithm],
    ) -> Option<Self> {
        let mut made = Self::new(key, suits, configured);
        if let Some(algorithm) = meant_for {
            let accepted = suits.contains(&algorithm)
                && (configured.is_empty() || configured.contains(&algorithm));
            made.accepted = accepted.then_some(algorithm).into_iter().collect();
        }
        made.id = id;
        (!made.accepted.is_empty()).then_some(made)
    }

    /// Whether the key is used with `algorithm`.
    #[must_use]
    pub fn accepts(&self, algorithm: Algorithm) -> bool {
        self.accepted.contains(&algorithm)
    }

    /// What tokens call it, if they can.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The key as a signing key, where it is a shared secret, and what it signs with.
    pub(super) fn signing(&self) -> Option<(&EncodingKey, Algorithm)> {
        Some((self.signing.as_ref()?, *self.accepted.first()?))
    }

    /// Whether `signature` (base64url) is this key's under `message`; false for algorithms that are not accepted.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.accepts(algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm)
                .unwrap_or(false)
    }

    fn of_secret(secret: &[u8], configured: &[Algorithm]) -> Self {
        let key = DecodingKey::from_secret(secret);
        Self {
            signing: Some(EncodingKey::from_secret(secret)),
            ..Self::new(key, AlgorithmFamily::Hmac.algorithms_of(), configured)
        }
    }
}

/// The families' algorithms, the usual one first.
pub(super) trait Algorithms {
    /// Those of the family.
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

/// Where an issuer's keys are, but those of its JWKS.
pub(super) struct KeySettings<'a> {
    /// What the settings begin with: `auth.jwt` or `auth.jwt.issuers[0]`.
    prefix: String,
    secret: Option<&'a SecretString>,
    secret_file: Option<&'a PathBuf>,
    public_key_file: Option<&'a PathBuf>,
    /// Accepted algorithms; empty for the usual ones.
    algorithms: &'a [Algorithm],
    /// Whether there are further keys, of a JWKS.
    has_jwks: bool,
}

impl<'a> KeySettings<'a> {
    /// Those of `auth.jwt` itself.
    pub(super) fn own(config: &'a JwtConfig) -> Self {
        Self {
            prefix: "auth.jwt".to_owned(),
            secret: config.secret.as_ref(),
            secret_file: config.secret_file.as_ref(),
            public_key_file: config.public_key_file.as_ref(),
            algorithms: &config.algorithms,
            has_jwks: config.jwks_file.is_some() || config.jwks_url.is_some(),
        }
    }

    /// Those of a further issuer.
    pub(super) fn further(config: &'a IssuerConfig, index: usize) -> Self {
        Self {
            prefix: format!("auth.jwt.issuers[{index}]"),
            secret: None,
            secret_file: config.secret_file.as_ref(),
            public_key_file: config.public_key_file.as_ref(),
            algorithms: config.algorithms.as_deref().unwrap_or_default(),
            has_jwks: config.jwks_file.is_some() || config.jwks_url.is_some(),
        }
    }
}

/// The configured keys, and what an operator should be warned of.
#[derive(Debug)]
pub struct VerifyingKeys {
    pub(super) keys: Vec<VerifyingKey>,
    pub(super) warnings: Vec<String>,
}

impl VerifyingKeys {
    /// Reads the configured keys, from files where the configuration names files.
    pub(super) fn from_config(settings: &KeySettings<'_>) -> Result<Self, ConfigError> {
        let mut keys = Vec::new();
        let mut warnings = Vec::new();
        let configured = settings.algorithms;
        if let Some((setting, secret)) = shared_secret(settings)? {
            warnings.extend(check_secret(&setting, secret.expose_secret())?);
            keys.push(VerifyingKey::of_secret(secret.expose_secret(), configured));
        }
        if let Some(path) = settings.public_key_file {
            let setting = format!("{}.public_key_file", settings.prefix);
            let problem = |problem: String| ConfigError::new(&*setting, problem);
            let text = std::fs::read_to_string(path)
                .map_err(|error| problem(format!("{} can't be read: {error}", path.display())))?;
            keys.extend(
                public_keys(&text, configured)
                    .map_err(|what| problem(format!("{}: {what}", path.display())))?,
            );
        }
        check_algorithms(settings, &keys)?;
        Ok(Self { keys, warnings })
    }
}

/// The shared secret and the setting that it came from.
fn shared_secret(
    settings: &KeySettings<'_>,
) -> Result<Option<(String, SecretSlice<u8>)>, ConfigError> {
    if let Some(secret) = settings.secret {
        let secret = secret.expose_secret().as_bytes().to_vec();
        return Ok(Some((format!("{}.secret", settings.prefix), secret.into())));
    }
    let Some(path) = settings.secret_file else {
        return Ok(None);
    };
    let setting = format!("{}.secret_file", settings.prefix);
    match read_secret(path) {
        Ok(secret) => Ok(Some((setting, secret))),
        Err(problem) => Err(ConfigError::new(
            setting,
            format!("{}: {problem}", path.display()),
        )),
    }
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
    let json = serde_json::from_slice::<serde_json::Value>(secret).unwrap_or_default();
    if json.get("kty").is_some() || json.get("keys").is_some() {
        return Err(ConfigError::new(
            setting,
            "this holds a JWK, which is no shared secret; name its file in auth.jwt.jwks_file",
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
fn public_keys(text: &str, configured: &[Algorithm]) -> Result<Vec<VerifyingKey>, String> {
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
        keys.push(
            public_key(&pem, configured).map_err(|problem| format!("block {number} {problem}"))?,
        );
    }
    if keys.is_empty() {
        return Err("there is no PEM block with a PUBLIC KEY in it".to_owned());
    }
    Ok(keys)
}

fn public_key(pem: &str, configured: &[Algorithm]) -> Result<VerifyingKey, String> {
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
    Ok(VerifyingKey::new(key, suits, configured))
}

/// Refuses algorithms that no key is for.
fn check_algorithms(settings: &KeySettings<'_>, keys: &[VerifyingKey]) -> Result<(), ConfigError> {
    for algorithm in settings.algorithms {
        // Which keys a JWKS has is seen when it is there; secrets it never has.
        let can_be_fetched = settings.has_jwks && algorithm.family() != AlgorithmFamily::Hmac;
        if !can_be_fetched && !keys.iter().any(|key| key.suits.contains(algorithm)) {
            return Err(ConfigError::new(
                format!("{}.algorithms", settings.prefix),
                format!(
                    "no configured key suits {algorithm:?}; HS algorithms need auth.jwt.secret or auth.jwt.secret_file, the \
                     others a key of their kind in auth.jwt.public_key_file or a JWKS"
                ),
            ));
        }
    }
    Ok(())
}
