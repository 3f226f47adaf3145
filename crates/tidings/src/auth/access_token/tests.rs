//! Tokens here are put together and signed by hand, so that the code under test does not vouch for itself.

use std::io::Write as _;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use tempfile::NamedTempFile;

use std::time::Duration;

use serde_json::json;

use super::super::mint::{MintError, NewAccessToken};
use super::*;
use crate::config::{Settings, resolve};

const SECRET: &str = "an example secret of 38 bytes for tests";
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const NOW: i64 = 1_800_000_000;

/// A public key whose private one can be computed by those who want to.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCv7KAKrHXU5v/YMR6izPDQZ+WV
qTYgXSGvul7OiN42ab2diXYq8AcDk1gaJQwWLv47uFC8+JcaRmTIT65QWhiJW9Ru
h1XBdTyegOL3g1PWQvD9xwhFPGPrYlQ8ie9ZfAZ6OXNiv4g9mvBaEMZdJAfR4yJs
GoJYfF1QOUD6IqTfNwIDAQAB
-----END PUBLIC KEY-----
";

/// A curve that no accepted algorithm uses.
const P_521: &str = "-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAjaQK18TPRG2N787289imRyHGPRWW
IqPz8vs25SXuwgwZnaUf9TEuefbAO1ise+3PU3bkezHv4Ebu7GQO8o73kYIBGTj4
U0wQwXlG16tEheqUmPpl729Vs3eyVJKkTHNag4J1GaoHM0QkFbEoo0/epTUwc5Gt
d3ThsHAsNozOortCPX8=
-----END PUBLIC KEY-----
";

fn config(flags: &[(&str, &str)]) -> AuthConfig {
    let flags: Vec<_> = flags
        .iter()
        .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
        .collect();
    let settings = Settings::gather(&[], None, &[], &flags).unwrap();
    resolve(settings).unwrap().config.auth
}

fn tokens_with(flags: &[(&str, &str)]) -> AccessTokens {
    let mut all = vec![("auth.jwt.secret", SECRET)];
    all.extend(flags);
    AccessTokens::from_config(&config(&all)).unwrap()
}

fn tokens() -> AccessTokens {
    tokens_with(&[])
}

fn hmac_sign(algorithm: hmac::Algorithm, secret: &[u8], message: &str) -> Vec<u8> {
    let key = hmac::Key::new(algorithm, secret);
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header), encode(claims))
}

fn jwt(header: &Value, claims: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let message = message(header, claims);
    let signature = URL_SAFE_NO_PAD.encode(sign(&message));
    format!("{message}.{signature}")
}

/// A token as the platform's back end makes them.
fn signed(claims: &Value) -> String {
    jwt(&json!({"alg": "HS256", "typ": "JWT"}), claims, |message| {
        hmac_sign(hmac::HMAC_SHA256, SECRET.as_bytes(), message)
    })
}

fn usual() -> Value {
    json!({"sub": "ada", "tenant_id": TENANT, "role": "viewer", "type": "access", "exp": NOW + 60, "iat": NOW - 1})
}

/// The usual claims, changed; a change to `"absent"` removes the claim.
fn with(changes: &Value) -> Value {
    let mut claims = usual();
    for (name, value) in changes.as_object().unwrap() {
        if value == "absent" {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn verify(changes: &Value) -> Result<Identity, AccessTokenError> {
    tokens().verify(&signed(&with(changes)), NOW)
}

fn missing(claim: &str) -> Result<Identity, AccessTokenError> {
    Err(AccessTokenError::MissingClaim {
        claim: claim.into(),
    })
}

fn is_malformed(result: &Result<Identity, AccessTokenError>, name: &str) -> bool {
    matches!(result, Err(AccessTokenError::MalformedClaim { claim, .. }) if &**claim == name)
}

#[test]
fn the_usual_token_gives_its_user() {
    let identity = verify(&json!({})).unwrap();
    assert_eq!(&*identity.user, "ada");
    assert_eq!(identity.tenant, Some(TENANT.parse().unwrap()));
    assert_eq!(&*identity.role, "viewer");
    assert!(!identity.super_admin);
    assert_eq!(identity.expires_at, NOW + 60);
    assert_eq!(identity.issued_at, Some(NOW - 1));
    assert_eq!(
        (
            identity.token_id,
            identity.devices,
            identity.types,
            identity.device_group
        ),
        (None, None, None, None)
    );
}

#[test]
fn restricting_claims_are_taken_over() {
    let claims = json!({"devices": ["r1", "r2"], "types": ["alert_fired"], "device_group": "core", "jti": "t1"});
    let identity = verify(&claims).unwrap();
    assert_eq!(identity.devices.unwrap().len(), 2);
    assert_eq!(identity.types.unwrap()[0].as_str(), "alert_fired");
    assert_eq!(identity.device_group.as_deref(), Some("core"));
    assert_eq!(identity.token_id.as_deref(), Some("t1"));
    let empty = verify(&json!({"devices": [], "types": []})).unwrap();
    assert_eq!(empty.devices.as_deref(), Some(&[][..]));
    assert_eq!(empty.types.as_deref(), Some(&[][..]));
}

#[test]
fn a_restricting_claim_that_cannot_be_read_never_lifts_the_restriction() {
    for (claim, values) in [
        (
            "devices",
            json!([null, "r1", 1, {}, [1], ["r 1"], ["r1", null], ["-"], true]),
        ),
        (
            "types",
            json!([null, "alert_fired", ["Alert"], ["snapshot"], [1], {}]),
        ),
        ("device_group", json!([null, "", 1, ["core"], "a\nb"])),
    ] {
        for value in values.as_array().unwrap() {
            let result = verify(&json!({claim: value}));
            assert!(is_malformed(&result, claim), "{claim} {value}: {result:?}");
        }
    }
}

#[test]
fn a_token_that_was_verified_before_is_over_at_its_exp_all_the_same() {
    let tokens = tokens();
    let token = signed(&usual());
    let first = tokens.verify(&token, NOW).unwrap();
    assert_eq!(tokens.verify(&token, NOW + 59), Ok(first));
    assert_eq!(
        tokens.verify(&token, NOW + 60),
        Err(AccessTokenError::Expired)
    );
    // One that differs in its signature alone is another token.
    let forged = format!("{}A", &token[..token.len() - 1]);
    let forged = if forged == token {
        format!("{}B", &token[..token.len() - 1])
    } else {
        forged
    };
    assert!(tokens.verify(&forged, NOW).is_err());
}

#[test]
fn an_access_token_ends_exactly_at_its_exp_whatever_the_leeway() {
    let token = signed(&usual());
    assert!(tokens().verify(&token, NOW + 59).is_ok());
    for leeway in ["0s", "10m"] {
        let tokens = tokens_with(&[("auth.jwt.leeway", leeway)]);
        assert_eq!(
            tokens.verify(&token, NOW + 60),
            Err(AccessTokenError::Expired)
        );
    }
    assert_eq!(verify(&json!({"exp": "absent"})), missing("exp"));
    assert_eq!(verify(&json!({"exp": null})), missing("exp"));
    for exp in [
        json!("1900000000"),
        json!(-1),
        json!(1e300),
        json!([]),
        json!(u64::MAX),
    ] {
        let result = verify(&json!({"exp": exp}));
        assert!(is_malformed(&result, "exp"), "{exp}: {result:?}");
    }
    assert_eq!(
        verify(&json!({"exp": NOW as f64 + 1.9}))
            .unwrap()
            .expires_at,
        NOW + 1
    );
}

#[test]
fn clocks_of_issuers_may_be_ahead_by_the_leeway() {
    for claim in ["nbf", "iat"] {
        assert!(verify(&json!({claim: NOW + 60})).is_ok());
        assert_eq!(
            verify(&json!({claim: NOW + 61})),
            Err(AccessTokenError::NotYetValid)
        );
        assert!(is_malformed(&verify(&json!({claim: "soon"})), claim));
        let strict = tokens_with(&[("auth.jwt.leeway", "0s")]);
        let token = signed(&with(&json!({claim: NOW + 1})));
        assert_eq!(
            strict.verify(&token, NOW),
            Err(AccessTokenError::NotYetValid)
        );
        assert!(strict.verify(&token, NOW + 1).is_ok());
    }
}

#[test]
fn other_kinds_of_tokens_are_no_access_tokens() {
    assert!(verify(&json!({"type": "absent"})).is_ok());
    for kind in [
        json!("refresh"),
        json!(""),
        json!(null),
        json!(["access"]),
        json!("ACCESS"),
    ] {
        let result = verify(&json!({"type": kind}));
        assert!(
            matches!(result, Err(AccessTokenError::WrongKind { .. })),
            "{kind}"
        );
    }
}

#[test]
fn only_a_super_admin_needs_no_tenant() {
    for absent in [json!("absent"), json!(null)] {
        let claims = json!({"tenant_id": absent, "role": "super_admin"});
        let identity = verify(&claims).unwrap();
        assert_eq!((identity.tenant, identity.super_admin), (None, true));
    }
    assert_eq!(
        verify(&json!({"tenant_id": "absent"})),
        missing("tenant_id")
    );
    assert!(is_malformed(
        &verify(&json!({"tenant_id": null})),
        "tenant_id"
    ));
    for role in ["viewer", "super_admin"] {
        for tenant in [json!(""), json!("acme"), json!(7), json!([TENANT])] {
            let result = verify(&json!({"tenant_id": tenant, "role": role}));
            assert!(is_malformed(&result, "tenant_id"), "{tenant}: {result:?}");
        }
    }
    let renamed = tokens_with(&[("auth.super_admin_role", "root")]);
    let of = |role| {
        renamed
            .verify(&signed(&with(&json!({"role": role}))), NOW)
            .unwrap()
    };
    assert!(of("root").super_admin);
    assert!(!of("super_admin").super_admin);
}

#[test]
fn users_are_bounded_text_or_whole_numbers() {
    assert_eq!(&*verify(&json!({"sub": 42})).unwrap().user, "42");
    assert_eq!(
        &*verify(&json!({"sub": "u".repeat(256)})).unwrap().user,
        "u".repeat(256)
    );
    for user in [
        json!(""),
        json!("u".repeat(257)),
        json!("a\nb"),
        json!("a\u{85}b"),
        json!(1.5),
        json!(true),
        json!({}),
    ] {
        assert!(
            is_malformed(&verify(&json!({"sub": user})), "sub"),
            "{user}"
        );
    }
    assert_eq!(verify(&json!({"sub": "absent"})), missing("sub"));
    assert_eq!(verify(&json!({"role": "absent"})), missing("role"));
    for role in [
        json!([1]),
        json!([["viewer"]]),
        json!({}),
        json!([""]),
        json!(7),
    ] {
        assert!(
            is_malformed(&verify(&json!({"role": role})), "role"),
            "{role}"
        );
    }
}

fn role_of(tokens: &AccessTokens, role: &Value) -> Option<String> {
    let token = signed(&with(&json!({"role": role})));
    match tokens.verify(&token, NOW) {
        Ok(identity) => Some(identity.role.to_string()),
        Err(AccessTokenError::NoRole { .. }) => None,
        Err(other) => panic!("{role}: {other}"),
    }
}

#[test]
fn of_several_roles_the_one_that_may_most_counts() {
    let tokens = tokens();
    for (roles, expected) in [
        (json!(["guest", "viewer"]), "guest"),
        (json!(["viewer", "publisher"]), "publisher"),
        (
            json!(["publisher", "tenant_operator", "x"]),
            "tenant_operator",
        ),
        (
            json!(["x", "super_admin", "tenant_operator"]),
            "super_admin",
        ),
    ] {
        assert_eq!(
            role_of(&tokens, &roles).as_deref(),
            Some(expected),
            "{roles}"
        );
    }
    assert_eq!(role_of(&tokens, &json!([])), None);
}

#[test]
fn roles_are_called_here_what_the_configuration_says_and_others_count_for_nothing() {
    let named = r#"{ Admin = "super_admin", noc = "tenant_operator" }"#;
    let tokens = tokens_with(&[("auth.jwt.roles", named)]);
    for (role, expected) in [
        (json!("Admin"), Some("super_admin")),
        (json!(["x", "noc"]), Some("tenant_operator")),
        (json!("super_admin"), None),
        (json!(["admin", "viewer"]), None),
    ] {
        assert_eq!(role_of(&tokens, &role).as_deref(), expected, "{role}");
    }
    let rest = r#"{ Admin = "super_admin", "*" = "viewer" }"#;
    let tokens = tokens_with(&[("auth.jwt.roles", rest)]);
    for (role, expected) in [
        ("Admin", "super_admin"),
        ("super_admin", "viewer"),
        ("x", "viewer"),
    ] {
        assert_eq!(
            role_of(&tokens, &json!(role)).as_deref(),
            Some(expected),
            "{role}"
        );
    }
}

#[test]
fn a_reload_replaces_all_issuers_or_none() {
    let tokens = tokens();
    let access = signed(&usual());
    assert!(tokens.verify(&access, NOW).is_ok());
    let missing = config(&[("auth.jwt.public_key_file", "/nowhere/key.pem")]);
    assert!(tokens.replace(&missing).is_err());
    assert!(tokens.verify(&access, NOW).is_ok());
    let other = config(&[("auth.jwt.secret", "another secret of more than 32 bytes")]);
    tokens.replace(&other).unwrap();
    assert_eq!(
        tokens.verify(&access, NOW),
        Err(AccessTokenError::BadSignature)
    );
}

#[test]
fn issuer_and_audience_must_match_where_they_are_configured() {
    let tokens = tokens_with(&[
        ("auth.jwt.issuer", "login"),
        ("auth.jwt.audience", "events"),
    ]);
    let verify = |changes: Value| tokens.verify(&signed(&with(&changes)), NOW);
    assert!(verify(json!({"iss": "login", "aud": "events"})).is_ok());
    assert!(verify(json!({"iss": "login", "aud": ["web", "events"]})).is_ok());
    assert_eq!(
        verify(json!({"iss": "other", "aud": "events"})),
        Err(AccessTokenError::WrongIssuer)
    );
    assert_eq!(
        verify(json!({"iss": ["login"], "aud": "events"})),
        Err(AccessTokenError::WrongIssuer)
    );
    assert_eq!(
        verify(json!({"iss": "login", "aud": ["web"]})),
        Err(AccessTokenError::WrongAudience)
    );
    assert_eq!(verify(json!({"aud": "events"})), missing("iss"));
    assert_eq!(verify(json!({"iss": "login"})), missing("aud"));
}

#[test]
fn claims_are_found_under_configured_names_and_paths() {
    let tokens = tokens_with(&[
        ("auth.jwt.claims.user", "uid"),
        ("auth.jwt.claims.role", "realm_access.role"),
        ("auth.jwt.claims.tenant", "https://example.com/tenant"),
    ]);
    let claims = json!({"uid": "ada", "realm_access": {"role": "viewer"}, "https://example.com/tenant": TENANT, "exp": NOW + 1,
        "sub": "eve", "role": "super_admin"});
    let identity = tokens.verify(&signed(&claims), NOW).unwrap();
    assert_eq!((&*identity.user, &*identity.role), ("ada", "viewer"));
    assert!(!identity.super_admin);
}

#[test]
fn a_minted_token_says_what_was_asked() {
    let tokens = tokens_with(&[
        ("auth.jwt.issuer", "login"),
        ("auth.jwt.audience", "events"),
        ("auth.jwt.algorithms", "HS512"),
        ("auth.jwt.claims.role", "realm_access.role"),
        ("auth.jwt.claims.tenant", "https://example.com/tenant"),
    ]);
    let mut new = NewAccessToken {
        user: "ada".to_owned(),
        tenant: Some(TENANT.parse().unwrap()),
        role: "viewer".to_owned(),
        lifetime: Duration::from_mins(1),
        types: Some(vec!["alert_fired".parse().unwrap()]),
        devices: Some(vec!["r1".parse().unwrap()]),
        device_group: Some("core".to_owned()),
    };
    let identity = tokens
        .verify(&tokens.mint(&new, NOW).unwrap(), NOW)
        .unwrap();
    assert_eq!((&*identity.user, &*identity.role), ("ada", "viewer"));
    assert_eq!(
        (identity.tenant, identity.expires_at),
        (new.tenant, NOW + 60)
    );
    assert_eq!(identity.issued_at, Some(NOW));
    assert!(identity.token_id.is_some());
    assert_eq!(identity.types.as_deref(), new.types.as_deref());
    assert_eq!(identity.devices.as_deref(), new.devices.as_deref());
    assert_eq!(identity.device_group.as_deref(), Some("core"));
    new.tenant = None;
    assert_eq!(
        tokens.mint(&new, NOW),
        Err(MintError::NoTenant("super_admin".into()))
    );
    new.user = "a\nb".to_owned();
    assert_eq!(tokens.mint(&new, NOW), Err(MintError::BadText));
}

/// Key pairs of each public kind, drawn once.
struct Pairs {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Pairs {
    fn draw() -> Self {
        Self {
            rsa: RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn public_ders(&self) -> [Vec<u8>; 3] {
        let der = |der: PublicKeyX509Der<'_>| der.as_ref().to_vec();
        [
            der(self.rsa.public_key().as_der().unwrap()),
            der(self.ec.public_key().as_der().unwrap()),
            der(self.ed.public_key().as_der().unwrap()),
        ]
    }

    /// A PEM file with the chosen public keys.
    fn file(&self, chosen: &[usize]) -> (NamedTempFile, String) {
        let ders = self.public_ders();
        let pem: String = chosen
            .iter()
            .map(|index| pem("PUBLIC KEY", &ders[*index]))
            .collect();
        (file_with(pem.as_bytes()), pem)
    }

    fn sign_rsa(&self, pss: bool, message: &str) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        let padding = if pss {
            &RSA_PSS_SHA256
        } else {
            &RSA_PKCS1_SHA256
        };
        self.rsa
            .sign(
                padding,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .unwrap();
        signature
    }

    fn sign_ec(&self, message: &str) -> Vec<u8> {
        let signature = self.ec.sign(&SystemRandom::new(), message.as_bytes());
        signature.unwrap().as_ref().to_vec()
    }

    fn sign_ed(&self, message: &str) -> Vec<u8> {
        self.ed.sign(message.as_bytes()).as_ref().to_vec()
    }

    /// What this pair can sign, by algorithm.
    fn sign(&self, algorithm: &str, message: &str) -> Option<Vec<u8>> {
        match algorithm {
            "RS256" => Some(self.sign_rsa(false, message)),
            "PS256" => Some(self.sign_rsa(true, message)),
            "ES256" => Some(self.sign_ec(message)),
            "EdDSA" => Some(self.sign_ed(message)),
            _ => None,
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn file_with(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn with_key_file(
    file: &NamedTempFile,
    flags: &[(&str, &str)],
) -> Result<AccessTokens, ConfigError> {
    let mut all = vec![("auth.jwt.public_key_file", file.path().to_str().unwrap())];
    all.extend(flags);
    AccessTokens::from_config(&config(&all))
}

#[test]
fn each_public_key_verifies_its_own_algorithm() {
    let pairs = Pairs::draw();
    let (file, _) = pairs.file(&[0, 1, 2]);
    let usual_ones = with_key_file(&file, &[]).unwrap();
    let all = with_key_file(
        &file,
        &[("auth.jwt.algorithms", "RS256, PS256, ES256, EdDSA")],
    )
    .unwrap();
    for algorithm in ["RS256", "ES256", "EdDSA", "PS256"] {
        let header = json!({"alg": algorithm});
        let token = jwt(&header, &usual(), |message| {
            pairs.sign(algorithm, message).unwrap()
        });
        assert!(all.verify(&token, NOW).is_ok(), "{algorithm}");
        assert_eq!(
            usual_ones.verify(&token, NOW).is_ok(),
            algorithm != "PS256",
            "{algorithm}"
        );
    }
}

#[test]
fn of_two_keys_of_a_kind_either_verifies() {
    let (old, new) = (Pairs::draw(), Pairs::draw());
    let both = format!("{}{}", old.file(&[2]).1, new.file(&[2]).1);
    let tokens = with_key_file(&file_with(both.as_bytes()), &[]).unwrap();
    for pairs in [&old, &new] {
        let token = jwt(&json!({"alg": "EdDSA"}), &usual(), |message| {
            pairs.sign_ed(message)
        });
        assert!(tokens.verify(&token, NOW).is_ok());
    }
    let token = jwt(&json!({"alg": "EdDSA"}), &usual(), |message| {
        Pairs::draw().sign_ed(message)
    });
    assert_eq!(
        tokens.verify(&token, NOW),
        Err(AccessTokenError::BadSignature)
    );
}

#[test]
fn the_public_key_is_no_secret() {
    // The classic confusion: the public key, which everybody has, used as the secret of an HS algorithm.
    let pairs = Pairs::draw();
    for key in 0..3 {
        let (file, pem) = pairs.file(&[key]);
        let tokens = with_key_file(&file, &[]).unwrap();
        let der = &pairs.public_ders()[key];
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), der] {
            let token = jwt(&json!({"alg": "HS256"}), &usual(), |message| {
                hmac_sign(hmac::HMAC_SHA256, secret, message)
            });
            assert_eq!(
                tokens.verify(&token, NOW),
                Err(AccessTokenError::WrongAlgorithm)
            );
        }
    }
    let pem = pairs.file(&[0]).1;
    let refused = AccessTokens::from_config(&config(&[("auth.jwt.secret", &pem)])).unwrap_err();
    assert!(refused.to_string().contains("public_key_file"), "{refused}");
}

#[test]
fn what_is_no_public_key_is_refused_with_a_way_out() {
    let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private = pem("PRIVATE KEY", b"x");
    let certificate = pem("CERTIFICATE", b"x");
    let garbage = pem("PUBLIC KEY", &der.as_ref()[..40]);
    for (text, says) in [
        ("", "no PEM block"),
        ("not a key", "no PEM block"),
        (&private, "openssl pkey"),
        (&certificate, "openssl x509"),
        (&garbage, "block 1"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA", "has no end"),
        (RSA_1024, "an RSA key of 1024 bits"),
        (P_521, "block 1 is no RSA, P-256"),
    ] {
        let error = with_key_file(&file_with(text.as_bytes()), &[]).unwrap_err();
        assert_eq!(error.key, "auth.jwt.public_key_file");
        assert!(error.to_string().contains(says), "{error}");
    }
    let missing = config(&[("auth.jwt.public_key_file", "/does/not/exist.pem")]);
    let error = AccessTokens::from_config(&missing).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist.pem"), "{error}");
}

#[test]
fn an_algorithm_without_a_key_for_it_is_a_configuration_error() {
    let error = AccessTokens::from_config(&config(&[
        ("auth.jwt.secret", SECRET),
        ("auth.jwt.algorithms", "HS256,RS256"),
    ]))
    .unwrap_err();
    assert_eq!(error.key, "auth.jwt.algorithms");
    assert!(error.to_string().contains("RS256"), "{error}");
}

#[test]
fn without_any_key_there_are_no_access_tokens() {
    let error = AccessTokens::from_config(&config(&[]))
        .unwrap_err()
        .to_string();
    for setting in [
        "auth.jwt.secret",
        "auth.jwt.secret_file",
        "auth.jwt.public_key_file",
    ] {
        assert!(error.contains(setting), "{error}");
    }
}

#[test]
fn a_secret_file_counts_without_its_line_end() {
    for end in ["", "\n", "\r\n"] {
        let file = file_with(format!("{SECRET}{end}").as_bytes());
        let path = file.path().to_str().unwrap();
        let tokens = AccessTokens::from_config(&config(&[("auth.jwt.secret_file", path)])).unwrap();
        assert!(tokens.verify(&signed(&usual()), NOW).is_ok());
    }
    let file = file_with(b"\n");
    let path = file.path().to_str().unwrap();
    let error = AccessTokens::from_config(&config(&[("auth.jwt.secret_file", path)])).unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
}

#[test]
fn a_short_secret_works_and_is_warned_of() {
    let short = AccessTokens::from_config(&config(&[("auth.jwt.secret", "hunter2")])).unwrap();
    assert_eq!(short.warnings().len(), 1);
    assert!(short.warnings()[0].contains("auth.jwt.secret has 7 bytes"));
    assert!(!short.warnings()[0].contains("hunter2"));
    assert!(tokens().warnings().is_empty());
}

#[test]
fn a_token_that_needs_an_unknown_extension_is_refused() {
    let header = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    let token = jwt(&header, &usual(), |message| {
        hmac_sign(hmac::HMAC_SHA256, SECRET.as_bytes(), message)
    });
    assert_eq!(
        tokens().verify(&token, NOW),
        Err(AccessTokenError::UnknownExtension)
    );
}

#[test]
fn what_is_no_jwt_is_refused_without_ado() {
    let token = signed(&usual());
    let (head, _) = token.split_once('.').unwrap();
    let not_an_object = jwt(&json!({"alg": "HS256"}), &json!([1]), |message| {
        hmac_sign(hmac::HMAC_SHA256, SECRET.as_bytes(), message)
    });
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        head,
        "ä.ö.ü",
        &format!("{token}="),
        &not_an_object,
    ] {
        let error = tokens().verify(text, NOW).unwrap_err();
        let expected = [AccessTokenError::Malformed, AccessTokenError::BadSignature];
        assert!(expected.contains(&error), "{text}: {error:?}");
    }
    let long = format!("{token}{}", "a".repeat(MAX_ACCESS_TOKEN_LENGTH));
    assert_eq!(tokens().verify(&long, NOW), Err(AccessTokenError::TooLong));
}

#[test]
fn no_credential_is_in_debug_output_or_errors() {
    let config = config(&[("auth.jwt.secret", SECRET)]);
    let tokens = AccessTokens::from_config(&config).unwrap();
    let token = signed(&with(&json!({"tenant_id": "my-own-tenant", "sub": "ada"})));
    let error = tokens.verify(&token, NOW).unwrap_err();
    let shown = format!("{config:?} {tokens:?} {error:?} {error}");
    let secret_bytes = format!("{:?}", SECRET.as_bytes());
    for hidden in [
        SECRET,
        &secret_bytes[1..secret_bytes.len() - 1],
        &token,
        "my-own-tenant",
    ] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

/// How somebody without the keys may go about it.
#[derive(Clone, Debug)]
enum Forgery {
    Unsigned,
    Garbage(Vec<u8>),
    OtherSecret(Vec<u8>),
    PublicKeyAsSecret {
        der: bool,
        which: usize,
    },
    OtherPair,
    /// A good signature of the deployment's own key, over other claims.
    Spliced,
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        Just(Forgery::Unsigned),
        prop::collection::vec(any::<u8>(), 1..300).prop_map(Forgery::Garbage),
        prop::collection::vec(any::<u8>(), 0..64)
            .prop_filter("not the secret", |secret| secret != SECRET.as_bytes())
            .prop_map(Forgery::OtherSecret),
        (any::<bool>(), 0..3_usize)
            .prop_map(|(der, which)| Forgery::PublicKeyAsSecret { der, which }),
        Just(Forgery::OtherPair),
        Just(Forgery::Spliced),
    ]
}

fn any_algorithm() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
        "ES384", "EdDSA", "none", "None", "NONE", "", "hs256", "ES256K",
    ])
}

fn any_claims() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["viewer", "publisher", "super_admin"]);
    (role, any::<Option<u32>>(), "[a-z]{1,8}", any::<bool>()).prop_map(
        |(role, more, user, tenant)| {
            json!({"sub": user, "role": role, "exp": NOW + 1 + i64::from(more.unwrap_or(0)),
            "tenant_id": if tenant { json!(TENANT) } else { json!(null) }})
        },
    )
}

fn hmac_algorithm(name: &str) -> hmac::Algorithm {
    match name {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    }
}

struct Deployment {
    pairs: Pairs,
    pem: [String; 3],
    /// By each combination of a secret and public keys.
    configured: Vec<AccessTokens>,
}

fn deployment() -> Deployment {
    let pairs = Pairs::draw();
    let mut configured = vec![
        tokens(),
        tokens_with(&[("auth.jwt.algorithms", "HS256,HS384,HS512")]),
    ];
    for (chosen, algorithms) in [
        (&[0][..], "RS256,RS384,RS512,PS256,PS384,PS512"),
        (&[1], "ES256"),
        (&[2], "EdDSA"),
        (&[0, 1, 2], "RS256,PS256,ES256,EdDSA"),
    ] {
        let (file, _) = pairs.file(chosen);
        configured.push(with_key_file(&file, &[("auth.jwt.algorithms", algorithms)]).unwrap());
        let both = format!("{algorithms},HS256,HS384,HS512");
        let flags = [
            ("auth.jwt.algorithms", both.as_str()),
            ("auth.jwt.secret", SECRET),
        ];
        configured.push(with_key_file(&file, &flags).unwrap());
    }
    let pem = [0, 1, 2].map(|which| pairs.file(&[which]).1);
    Deployment {
        pairs,
        pem,
        configured,
    }
}

impl Deployment {
    /// The signature of a forger, who has all that is public.
    fn forge(&self, forgery: &Forgery, other: &Pairs, algorithm: &str, message: &str) -> Vec<u8> {
        match forgery {
            Forgery::Unsigned => Vec::new(),
            Forgery::Garbage(bytes) => bytes.clone(),
            Forgery::OtherSecret(secret) => hmac_sign(hmac_algorithm(algorithm), secret, message),
            Forgery::PublicKeyAsSecret { der, which } => {
                let secret = if *der {
                    self.pairs.public_ders()[*which].clone()
                } else {
                    self.pem[*which].clone().into_bytes()
                };
                hmac_sign(hmac_algorithm(algorithm), &secret, message)
            }
            Forgery::OtherPair => other
                .sign(algorithm, message)
                .unwrap_or_else(|| other.sign_ed(message)),
            Forgery::Spliced => {
                let mine = format!("{message}A");
                self.pairs.sign(algorithm, &mine).unwrap_or_else(|| {
                    hmac_sign(hmac_algorithm(algorithm), SECRET.as_bytes(), &mine)
                })
            }
        }
    }
}

proptest! {
    #[test]
    fn what_the_configured_key_did_not_sign_never_verifies(
        cases in prop::collection::vec((forgery(), any_algorithm(), any_claims()), 64),
        header_key in any::<bool>(),
    ) {
        use std::sync::LazyLock;
        static DEPLOYMENT: LazyLock<(Deployment, Pairs)> = LazyLock::new(|| (deployment(), Pairs::draw()));
        let (deployment, other) = &*DEPLOYMENT;
        for (forgery, algorithm, claims) in cases {
            let mut header = json!({"alg": algorithm, "typ": "JWT"});
            if header_key {
                let x = URL_SAFE_NO_PAD.encode(other.ed.public_key().as_ref());
                header["jwk"] = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
            }
            let token = jwt(&header, &claims, |message| {
                deployment.forge(&forgery, other, algorithm, message)
            });
            for tokens in &deployment.configured {
                let verdict = tokens.verify(&token, NOW);
                let expected = [AccessTokenError::WrongAlgorithm, AccessTokenError::BadSignature];
                prop_assert!(verdict.as_ref().is_err_and(|error| expected.contains(error)), "{forgery:?} {header} {verdict:?}");
            }
        }
    }

    /// The other half, without which the property above would hold of a verifier that refuses all.
    #[test]
    fn what_the_configured_key_signed_verifies(claims in any_claims(), algorithm in prop::sample::select(vec!["HS256", "HS384", "HS512"])) {
        // However long they live.
        let settings = [("auth.jwt.algorithms", "HS256,HS384,HS512"), ("auth.revocations_kept", "0")];
        let tokens = tokens_with(&settings);
        let token = jwt(&json!({"alg": algorithm}), &claims, |message| {
            hmac_sign(hmac_algorithm(algorithm), SECRET.as_bytes(), message)
        });
        let allowed = claims["role"] == "super_admin" || claims["tenant_id"] == TENANT;
        prop_assert_eq!(tokens.verify(&token, NOW).is_ok(), allowed);
    }
}
