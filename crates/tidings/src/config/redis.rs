//! The settings of stream tokens and of the Redis that may keep them. As in `model.rs`, the doc comments
//! are what operators read.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::error::ConfigError;
use super::key::{Class, Kind, section};
use super::kinds::{self, text};
use super::redis_url::{REDIS_URL, RedisServers, RedisUrl};
use super::values::TokensKind;

const TOKENS_KIND: Kind<TokensKind> = Kind {
    name: "memory or redis",
    class: Class::Text,
    read: |value| match text(value)? {
        "memory" => Ok(TokensKind::Memory),
        "redis" => Ok(TokensKind::Redis),
        _ => Err("stream tokens are kept in memory or redis".into()),
    },
};

section! {
    /// Stream tokens: the secrets that open one stream each. How long they can be used is `stream.token_ttl`.
    TokensConfig in "tokens." {
        /// Where they are kept until they are used: `memory`, for a single node, or `redis`, for nodes that take
        /// each other's.
        kind: TokensKind = TOKENS_KIND, "memory";
        /// Whether tokens are exchanged with another back end through the same Redis, under the keys
        /// `sse_token:{token}`: its tokens open streams here, and ours there. Set it alike on all nodes.
        shared: bool = kinds::BOOL, "false";
        /// How long a stream may live that was opened with another back end's token, which does not say when its
        /// user's authority ends.
        shared_max_lifetime: Duration = kinds::duration::<1_000, 86_400_000>(), "15m";
    }
}

section! {
    /// The Redis that keeps stream tokens with `tokens.kind = "redis"`, and nothing else.
    RedisConfig in "redis." {
        /// Where it is: `redis://host:6379/0`, `redis+unix:///path/to/socket`,
        /// `redis-sentinel://host:26379,host:26379/service/0` or `redis-cluster://host:6379,host:6379`. With TLS:
        /// `rediss://`, `rediss-sentinel://`, `rediss-cluster://`. A port can be left out where it is the one shown,
        /// and the number of the database where it is 0. `user:password@` may stand before the hosts,
        /// percent-encoded; a file is the better place for a password.
        url: Option<RedisUrl> = REDIS_URL, "";
        /// The ACL user. Without one the password is the default user's.
        user: Option<String> = kinds::OPTIONAL_TEXT, "";
        /// The password.
        password: Option<SecretString> = kinds::SECRET, "";
        /// A file that holds the password instead; one line end behind it does not count.
        password_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// The ACL user at the sentinels, where they ask for one.
        sentinel_user: Option<String> = kinds::OPTIONAL_TEXT, "";
        /// The password at the sentinels, where they ask for one.
        sentinel_password: Option<SecretString> = kinds::SECRET, "";
        /// A file that holds that password instead.
        sentinel_password_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the certificates of the authorities that may vouch for Redis. Without it, those that the
        /// system trusts.
        ca_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the certificate that is shown to Redis, and those between it and its authority.
        client_certificate_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// A PEM file with the private key of that certificate.
        client_key_file: Option<PathBuf> = kinds::OPTIONAL_PATH, "";
        /// How long making a connection may take, to each server that is tried.
        connect_timeout: Duration = kinds::duration::<10, 60_000>(), "2s";
        /// How long an answer may take. After that Redis counts as away, and what needs it is refused at once until
        /// it answers again.
        response_timeout: Duration = kinds::duration::<10, 60_000>(), "1s";
    }
}

/// What is wrong between the settings of tokens and of Redis.
pub(super) fn contradictions(tokens: &TokensConfig, redis: &RedisConfig) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |key: &str, problem: &str| errors.push(ConfigError::new(key, problem));
    if tokens.kind == TokensKind::Redis && redis.url.is_none() {
        wrong(
            "redis.url",
            "tokens.kind is redis, so it must be said where Redis is; set for example redis://127.0.0.1:6379",
        );
    }
    if tokens.kind != TokensKind::Redis && tokens.shared {
        wrong(
            "tokens.shared",
            "tokens are shared through Redis; set tokens.kind to redis and redis.url too, or leave this out",
        );
    }
    if redis.password.is_some() && redis.password_file.is_some() {
        wrong(
            "redis.password_file",
            "redis.password is set too, so it is unclear which password counts; set one of them",
        );
    }
    if redis.sentinel_password.is_some() && redis.sentinel_password_file.is_some() {
        wrong(
            "redis.sentinel_password_file",
            "redis.sentinel_password is set too, so it is unclear which password counts; set one of them",
        );
    }
    if redis.client_certificate_file.is_some() != redis.client_key_file.is_some() {
        let (missing, present) = if redis.client_key_file.is_none() {
            ("redis.client_key_file", "redis.client_certificate_file")
        } else {
            ("redis.client_certificate_file", "redis.client_key_file")
        };
        wrong(
            missing,
            &format!(
                "a certificate is shown together with its key; {present} is set, so set this too"
            ),
        );
    }
    let has_password = redis.password.is_some() || redis.password_file.is_some();
    if let Some(url) = &redis.url {
        with_url(redis, url, has_password, &mut wrong);
    }
    errors
}

fn with_url(
    redis: &RedisConfig,
    url: &RedisUrl,
    has_password: bool,
    wrong: &mut impl FnMut(&str, &str),
) {
    if url.password.is_some() && has_password {
        wrong(
            "redis.url",
            "it holds a password, and redis.password or redis.password_file is set too; set one of them",
        );
    }
    if url.user.is_some() && redis.user.is_some() {
        wrong(
            "redis.url",
            "it names a user, and redis.user is set too; set one of them",
        );
    }
    if (redis.user.is_some() || url.user.is_some()) && !has_password && url.password.is_none() {
        wrong(
            "redis.user",
            "a user has a password; set redis.password_file or redis.password",
        );
    }
    let certificates = [
        ("redis.ca_file", &redis.ca_file),
        (
            "redis.client_certificate_file",
            &redis.client_certificate_file,
        ),
    ];
    for (key, _) in certificates
        .iter()
        .filter(|(_, file)| file.is_some() && !url.tls)
    {
        wrong(
            key,
            "redis.url is without TLS, so no certificate would be looked at; write rediss in place of redis there, or leave this out",
        );
    }
    let sentinels = matches!(url.servers, RedisServers::Sentinels { .. });
    let keys = [
        ("redis.sentinel_user", redis.sentinel_user.is_some()),
        ("redis.sentinel_password", redis.sentinel_password.is_some()),
        (
            "redis.sentinel_password_file",
            redis.sentinel_password_file.is_some(),
        ),
    ];
    for (key, _) in keys.iter().filter(|(_, set)| *set && !sentinels) {
        wrong(
            key,
            "redis.url names no sentinels; leave this out, or write redis-sentinel://… there",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Loaded, Settings, resolve};

    const TOKENS: (&str, &str) = ("tokens.kind", "redis");
    const URL: (&str, &str) = ("redis.url", "redis://cache");

    fn load(flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let flags: Vec<_> = flags
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect();
        Settings::gather(&[], None, &[], &flags)
            .and_then(resolve)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn settings_that_contradict_each_other_are_named_with_what_would_be_right() {
        for (flags, key, remedy) in [
            (&[TOKENS][..], "redis.url", "redis://127.0.0.1:6379"),
            (&[("tokens.shared", "true")], "tokens.shared", "tokens.kind"),
            (
                &[URL, ("redis.password", "a"), ("redis.password_file", "b")],
                "redis.password_file",
                "set one of them",
            ),
            (
                &[
                    ("redis.url", "redis://:a@cache"),
                    ("redis.password_file", "b"),
                ],
                "redis.url",
                "set one of them",
            ),
            (
                &[("redis.url", "redis://ada:a@cache"), ("redis.user", "eve")],
                "redis.url",
                "set one of them",
            ),
            (
                &[URL, ("redis.user", "ada")],
                "redis.user",
                "redis.password_file",
            ),
            (
                &[URL, ("redis.ca_file", "ca.pem")],
                "redis.ca_file",
                "rediss",
            ),
            (
                &[
                    ("redis.url", "rediss://cache"),
                    ("redis.client_key_file", "key.pem"),
                ],
                "redis.client_certificate_file",
                "redis.client_key_file",
            ),
            (
                &[URL, ("redis.sentinel_password", "a")],
                "redis.sentinel_password",
                "redis-sentinel://",
            ),
            (&[("tokens.kind", "disk")], "tokens.kind", "memory or redis"),
            (
                &[("tokens.shared", "perhaps")],
                "tokens.shared",
                "true or false",
            ),
            (
                &[("redis.response_timeout", "2h")],
                "redis.response_timeout",
                "60s",
            ),
        ] {
            let errors = load(flags).expect_err(key);
            assert!(
                errors.starts_with(key) && errors.contains(remedy),
                "{flags:?}: {errors}"
            );
        }
    }

    #[test]
    fn the_password_in_a_url_is_shown_nowhere() {
        let loaded = load(&[TOKENS, ("redis.url", "redis://ada:ses@me@cache:7/1")]).unwrap();
        let shown = [
            loaded.settings.table(),
            loaded.settings.json().to_string(),
            format!("{loaded:?}"),
        ];
        for shown in shown {
            assert!(
                !shown.contains("ses@me") && !shown.contains("ses"),
                "{shown}"
            );
        }
        assert!(
            loaded
                .settings
                .table()
                .contains("redis://********@cache:7/1")
        );
        let errors = load(&[("redis.url", "http://ada:sesame@cache")]).unwrap_err();
        assert!(errors.contains("http://********@cache"), "{errors}");
        assert!(!errors.contains("sesame"), "{errors}");
    }
}
