//! How access tokens are verified: one issuer's keys and names directly, those of further ones in tables. As in
//! `model.rs`, the doc comments are what operators read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::Algorithm;
use secrecy::SecretString;

use super::error::ConfigError;
use super::issuers::{ISSUERS, IssuerConfig};
use super::key::section;
use super::kinds;

section! {
    /// How access tokens (JWT, RFC 7519) are verified.
    JwtConfig in "auth.jwt." {
        /// The algorithms that are accepted, of `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `PS256`,
        /// `PS384`, `PS512`, `ES256`, `ES384` and `EdDSA`. Empty: the usual one for each key, `HS256` for a secret
        /// and `RS256`, `ES256`, `ES384` or `EdDSA` for a public key of that kind; for a key of a JWKS the one that
        /// it names itself.
        algorithms: Vec<Algorithm> = kinds::ALGORITHMS, "[]", live;
        /// The secret that signs access tokens with an HS algorithm. It should have at least 32 bytes; a
        /// shorter one works and draws a warning.
        secret: Option<SecretString> = kinds::SECRET, "", live;
        /// A file that holds that secret instead; one line end behind it does not count.
        secret_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "", live;
        /// A PEM file with one or more public keys (`PUBLIC KEY` or `RSA PUBLIC KEY`) for the RS, PS, ES and
        /// `EdDSA` algorithms. Several keys allow one to follow another without an interruption.
        public_key_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "", live;
        /// A file with a JWKS (RFC 7517): public keys for the RS, PS, ES and `EdDSA` algorithms, each with its
        /// `kid`. It is read again as `auth.jwks.refresh` says.
        jwks_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "", live;
        /// Where the issuer publishes its JWKS, such as `https://login.example.com/.well-known/jwks.json`. The keys
        /// are fetched in the background; see `auth.jwks`.
        jwks_url: Option<Uri> = kinds::OPTIONAL_HTTP_URL, "", live;
        /// What `iss` must be. Without it `iss` is not looked at.
        issuer: Option<String> = kinds::OPTIONAL_TEXT, "", live;
        /// What `aud` must be or contain. Without it `aud` is not looked at.
        audience: Option<String> = kinds::OPTIONAL_TEXT, "", live;
        /// How far the clocks of those who issue tokens may be ahead: leeway for `nbf` and `iat`, never for `exp`.
        leeway: Duration = kinds::duration::<0, 600_000>(), "60s", live;
        /// What the issuer's roles are called here, as in `{ Admin = "super_admin", Ops = "tenant_operator" }`. A
        /// role that is not named counts for nothing, unless `"*"` names what all others are; where nothing is left
        /// the token is refused. Empty: roles are taken as they are.
        roles: BTreeMap<String, String> = kinds::ROLES, "{}", live;
        /// Further issuers, a table for each: `issuer` (exactly what `iss` says, by which a token's issuer is told),
        /// `audience`, `algorithms` and the keys as above (`secret_file`, `public_key_file`, `jwks_file`, `jwks_url`),
        /// and where they differ from those above `claims` (names as in `auth.jwt.claims`) and `roles`.
        /// `tenants` lists the tenants that the issuer may speak for; such an issuer has no super admins. With one
        /// tenant in the list a token needs no claim that names it. `tenants = "*"` is for an issuer that is trusted
        /// with all.
        issuers: Vec<IssuerConfig> = ISSUERS, "[]", live;
    }
    sections {
        /// The names of the claims.
        claims: ClaimNames;
    }
}

section! {
    /// The names of the claims. A name is looked up as it is; where there is no such claim its dots lead
    /// into objects, as in `realm_access.roles`.
    ClaimNames in "auth.jwt.claims." {
        /// The user's id: text, or a whole number, which is read as its digits.
        user: String = kinds::CLAIM, "sub", live;
        /// The tenant's id: a UUID, or null for a super admin.
        tenant: String = kinds::CLAIM, "tenant_id", live;
        /// The role, or a list of roles, of which the one that may most counts: super admin, operator, publisher,
        /// then the first.
        role: String = kinds::CLAIM, "role", live;
        /// When the token ends.
        expires: String = kinds::CLAIM, "exp", live;
        /// When the token was issued.
        issued_at: String = kinds::CLAIM, "iat", live;
        /// Before when the token is not valid.
        not_before: String = kinds::CLAIM, "nbf", live;
        /// The token's id.
        token_id: String = kinds::CLAIM, "jti", live;
        /// What kind of token it is: `access` where the claim is present.
        kind: String = kinds::CLAIM, "type", live;
        /// The event types that the user may see, a list.
        types: String = kinds::CLAIM, "types", live;
        /// The devices that the user may see, a list.
        devices: String = kinds::CLAIM, "devices", live;
        /// The device group that the user may see.
        device_group: String = kinds::CLAIM, "device_group", live;
    }
}

section! {
    /// How issuers' keys (JWKS) are kept up to date.
    JwksConfig in "auth.jwks." {
        /// How often they are fetched, or read from their file.
        refresh: Duration = kinds::duration::<1_000, 86_400_000>(), "5m", live;
        /// A token that names a key which is not known has the keys fetched at once, but at most once in this time.
        unknown_key_interval: Duration = kinds::duration::<100, 3_600_000>(), "10s", live;
        /// How long keys that can't be fetched anew stay good. After that, tokens of their issuer are answered 503.
        keep: Duration = kinds::duration::<1_000, 2_592_000_000>(), "24h", live;
        /// How long fetching them may take.
        timeout: Duration = kinds::duration::<100, 60_000>(), "5s", live;
        /// A PEM file with the certificates of the authorities that may vouch for issuers. Without it, those that
        /// the system trusts.
        ca_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "", live;
        /// Whether keys may be fetched by plain `http` from another machine. Who can change what comes over such a
        /// line can mint access tokens.
        allow_http: bool = kinds::BOOL, "false", live;
    }
}

impl JwtConfig {
    /// Whether any key to verify access tokens with is configured.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.has_own_key() || !self.issuers.is_empty()
    }

    /// Whether there is a key that is not one of the further issuers'.
    #[must_use]
    pub fn has_own_key(&self) -> bool {
        self.secret.is_some()
            || self.secret_file.is_some()
            || self.public_key_file.is_some()
            || self.jwks_file.is_some()
            || self.jwks_url.is_some()
    }

    /// Refuses a configuration without any key to verify access tokens with, naming the settings for one.
    pub fn require_key(&self) -> Result<(), ConfigError> {
        if self.has_key() {
            return Ok(());
        }
        Err(ConfigError::new(
            "auth.jwt.secret",
            "no key to verify access tokens with is configured, and there is no default; set auth.jwt.secret \
             (TIDINGS_AUTH__JWT__SECRET), auth.jwt.secret_file, auth.jwt.public_key_file, auth.jwt.jwks_url or \
             auth.jwt.jwks_file",
        ))
    }

    /// What is wrong between the settings of issuers.
    pub(super) fn contradictions(&self, jwks: &JwksConfig) -> Vec<ConfigError> {
        let mut errors = self.claims.clashes("auth.jwt.claims");
        let mut wrong = |key: String, problem: &str| errors.push(ConfigError::new(key, problem));
        if self.secret.is_some() && self.secret_file.is_some() {
            wrong(
                "auth.jwt.secret_file".to_owned(),
                "auth.jwt.secret is set too, so it is unclear which secret counts; set one of them",
            );
        }
        if jwks.keep < jwks.refresh {
            wrong(
                "auth.jwks.keep".to_owned(),
                "keys would go before they are fetched again; this must not be shorter than auth.jwks.refresh",
            );
        }
        let own = (
            "auth.jwt".to_owned(),
            self.jwks_file.is_some(),
            self.jwks_url.as_ref(),
        );
        let further = self.issuers.iter().enumerate().map(|(index, issuer)| {
            (
                format!("auth.jwt.issuers[{index}]"),
                issuer.jwks_file.is_some(),
                issuer.jwks_url.as_ref(),
            )
        });
        for (prefix, has_file, url) in std::iter::once(own).chain(further) {
            if has_file && url.is_some() {
                wrong(
                    format!("{prefix}.jwks_file"),
                    "jwks_url is set too, so it is unclear which keys count; set one of them",
                );
            }
            if !jwks.allow_http && url.is_some_and(|url| !is_safe(url)) {
                wrong(
                    format!("{prefix}.jwks_url"),
                    "who can change what comes over plain http can mint access tokens; use https, or set \
                     auth.jwks.allow_http where the line is safe",
                );
            }
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let taken = self.issuer.as_ref() == Some(&issuer.issuer)
                || self.issuers[..index]
                    .iter()
                    .any(|other| other.issuer == issuer.issuer);
            if taken {
                wrong(
                    format!("auth.jwt.issuers[{index}].issuer"),
                    "this issuer is there already; tokens are told by their issuer",
                );
            }
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let names = self.claims.with(&issuer.claims);
            errors.extend(names.clashes(&format!("auth.jwt.issuers[{index}].claims")));
        }
        errors
    }
}

/// Whether what comes from there is what its owner sent: by TLS, or from this machine.
fn is_safe(url: &Uri) -> bool {
    url.scheme() == Some(&http::uri::Scheme::HTTPS) || url.host().is_some_and(is_loopback)
}

/// Whether a host of a URL is this machine, by its name or address.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl ClaimNames {
    /// The names of the settings, and the claims that they name.
    fn named(&mut self) -> [(&'static str, &mut String); 11] {
        [
            ("user", &mut self.user),
            ("tenant", &mut self.tenant),
            ("role", &mut self.role),
            ("expires", &mut self.expires),
            ("issued_at", &mut self.issued_at),
            ("not_before", &mut self.not_before),
            ("token_id", &mut self.token_id),
            ("kind", &mut self.kind),
            ("types", &mut self.types),
            ("devices", &mut self.devices),
            ("device_group", &mut self.device_group),
        ]
    }

    /// These names, some of them replaced: by setting, the claim.
    #[must_use]
    pub fn with(&self, replaced: &BTreeMap<String, String>) -> Self {
        let mut names = self.clone();
        for (setting, name) in names.named() {
            if let Some(other) = replaced.get(setting) {
                name.clone_from(other);
            }
        }
        names
    }

    /// The settings that name claims.
    pub(super) const SETTINGS: [&str; 11] = [
        "user",
        "tenant",
        "role",
        "expires",
        "issued_at",
        "not_before",
        "token_id",
        "kind",
        "types",
        "devices",
        "device_group",
    ];

    /// Claims with one name, or with one inside another, could not be told apart.
    fn clashes(&self, prefix: &str) -> Vec<ConfigError> {
        let mut names = self.clone();
        let names = names.named();
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut errors = Vec::new();
        for (index, (key, name)) in names.iter().enumerate() {
            for (other_key, other) in &names[..index] {
                if within(name, other) || within(other, name) {
                    errors.push(ConfigError::new(
                        format!("{prefix}.{key}"),
                        format!(
                            "`{name}` and {prefix}.{other_key}, `{other}`, can't be told apart; name another claim"
                        ),
                    ));
                }
            }
        }
        errors
    }
}
