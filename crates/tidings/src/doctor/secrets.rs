//! Keys and certificates: whether they can be used, for how long, and who else may read them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::validity;
use super::report::Finding;
use crate::auth::AccessTokens;
use crate::config::Config;

/// A certificate that is over sooner is said.
const SOON_DAYS: i64 = 14;

const DAY: i64 = 86_400;

/// Reads what the server would read.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = access_tokens(config);
    for (key, path) in secret_files(config) {
        findings.extend(readable_by_others(key, &path));
    }
    for (key, path) in certificate_files(config) {
        findings.extend(certificates(key, &path));
    }
    findings
}

fn access_tokens(config: &Config) -> Vec<Finding> {
    const SET: &str = "set auth.jwt.secret_file or auth.jwt.public_key_file (docs/configure.md)";
    if let Err(error) = config.require_jwt_key() {
        return vec![Finding::problem("keys", error.to_string(), SET)];
    }
    match AccessTokens::from_config(&config.auth) {
        Err(error) => vec![Finding::problem("keys", error.to_string(), SET)],
        Ok(tokens) if tokens.warnings().is_empty() => vec![Finding::good(
            "keys",
            "access tokens can be verified with what is configured",
        )],
        Ok(tokens) => tokens
            .warnings()
            .into_iter()
            .map(|warning| {
                let advice = "use a key of full length: head -c 32 /dev/urandom | base64";
                Finding::warning("keys", warning, advice)
            })
            .collect(),
    }
}

fn secret_files(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let (jwt, redis, nats) = (&config.auth.jwt, &config.redis, &config.nats);
    let issuers = jwt.issuers.iter();
    let issuers = issuers.map(|issuer| ("auth.jwt.issuers", &issuer.secret_file));
    [
        ("auth.jwt.secret_file", &jwt.secret_file),
        ("tls.key_file", &config.tls.key_file),
        ("redis.password_file", &redis.password_file),
        (
            "redis.sentinel_password_file",
            &redis.sentinel_password_file,
        ),
        ("redis.client_key_file", &redis.client_key_file),
        ("nats.password_file", &nats.password_file),
        ("nats.token_file", &nats.token_file),
        ("nats.nkey_file", &nats.nkey_file),
        ("nats.credentials_file", &nats.credentials_file),
        ("nats.tls.key_file", &nats.tls.key_file),
    ]
    .into_iter()
    .chain(issuers)
    .filter_map(|(key, path)| Some((key, path.clone()?)))
    .collect()
}

fn certificate_files(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let (redis, nats) = (&config.redis, &config.nats.tls);
    [
        ("auth.jwks.ca_file", &config.auth.jwks.ca_file),
        ("tls.certificate_file", &config.tls.certificate_file),
        ("tls.client_ca_file", &config.tls.client_ca_file),
        ("redis.ca_file", &redis.ca_file),
        (
            "redis.client_certificate_file",
            &redis.client_certificate_file,
        ),
        ("nats.tls.ca_file", &nats.ca_file),
        ("nats.tls.certificate_file", &nats.certificate_file),
    ]
    .into_iter()
    .filter_map(|(key, path)| Some((key, path.clone()?)))
    .collect()
}

fn readable_by_others(key: &str, path: &Path) -> Option<Finding> {
    let shown = path.display();
    // One that can't be read is told by whoever needs it.
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let others = mode % 0o10;
    Some(if others == 0 {
        Finding::good("secrets", format!("{key}: {shown} is not for everybody"))
    } else {
        Finding::problem(
            "secrets",
            format!(
                "{key}: every user of this machine may read {shown} (mode {:o})",
                mode & 0o777
            ),
            format!("chmod o= {shown}, and replace the secret if others use this machine"),
        )
    })
}

fn certificates(key: &str, path: &Path) -> Vec<Finding> {
    let unreadable = |what: String| {
        Finding::problem(
            "certificates",
            format!("{key}: {}: {what}", path.display()),
            "give it a PEM file with certificates",
        )
    };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => return vec![unreadable(error.to_string())],
    };
    let found: Vec<Finding> = CertificateDer::pem_slice_iter(&text)
        .map(
            |certificate| match certificate.ok().as_deref().and_then(validity) {
                Some(times) => judged(
                    &format!("{key} ({})", path.display()),
                    times,
                    Timestamp::now(),
                ),
                None => unreadable("there is something in it that is no certificate".to_owned()),
            },
        )
        .collect();
    if found.is_empty() {
        return vec![unreadable("there is no certificate in it".to_owned())];
    }
    found
}

/// Judges how long a certificate is still good.
pub(super) fn judged(
    whose: &str,
    (from, until): (Timestamp, Timestamp),
    now: Timestamp,
) -> Finding {
    let days = (until.as_second() - now.as_second()).div_euclid(DAY);
    if now < from {
        let what = format!("{whose} is good only from {from}");
        return Finding::problem(
            "certificates",
            what,
            "see whether this machine's clock is right",
        );
    }
    let what = format!("{whose} is good until {until}");
    let advice = "replace it, and have that done by something that runs each day";
    if until <= now {
        Finding::problem(
            "certificates",
            format!("{whose} is over since {until}"),
            advice,
        )
    } else if days < SOON_DAYS {
        Finding::warning("certificates", format!("{what}, {days} days more"), advice)
    } else {
        Finding::good("certificates", what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_the_days_that_are_left() {
        let at = |days: i64| Timestamp::from_second(1_800_000_000 + days * DAY).unwrap();
        for (now, weight) in [
            (-1, Weight::Problem),
            (0, Weight::Good),
            (76, Weight::Good),
            (77, Weight::Warning),
            (89, Weight::Warning),
            (90, Weight::Problem),
        ] {
            let finding = judged("one", (at(0), at(90)), at(now));
            assert_eq!(finding.weight, weight, "on day {now}: {}", finding.what);
        }
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "x").unwrap();
        for (mode, weight) in [
            (0o400, Weight::Good),
            (0o640, Weight::Good),
            (0o644, Weight::Problem),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let finding = readable_by_others("auth.jwt.secret_file", &path).unwrap();
            assert_eq!(finding.weight, weight, "{mode:o}");
        }
    }
}
