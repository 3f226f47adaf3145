use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::gather::KEYS;
use super::*;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// What the sources hold, lowest first.
#[derive(Default)]
struct Given<'text> {
    fallbacks: &'text [(&'text str, &'text str)],
    file: Option<&'text str>,
    variables: &'text [(&'text str, &'text str)],
    flags: &'text [(&'text str, &'text str)],
}

impl Given<'_> {
    fn load(&self) -> Result<Loaded, ConfigErrors> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
                .collect()
        };
        let variables: Vec<_> = self
            .variables
            .iter()
            .map(|(name, text)| (name.into(), text.into()))
            .collect();
        let path = Path::new("tidings.toml");
        let file = self.file.map(|text| (path, text));
        let settings =
            Settings::gather(&owned(self.fallbacks), file, &variables, &owned(self.flags))?;
        resolve(settings)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// The errors, one a line.
    fn errors(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn file(text: &str) -> Given<'_> {
    Given {
        file: Some(text),
        ..Given::default()
    }
}

fn variables<'text>(variables: &'text [(&'text str, &'text str)]) -> Given<'text> {
    Given {
        variables,
        ..Given::default()
    }
}

fn flags<'text>(flags: &'text [(&'text str, &'text str)]) -> Given<'text> {
    Given {
        flags,
        ..Given::default()
    }
}

#[test]
fn the_defaults_are_those_that_are_promised() {
    let config = Given::default().config();
    assert_eq!(config.listen, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(config.admin_listen, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.mount, ["/"]);
    assert_eq!(config.log.path, Path::new("./tidings-data"));
    assert_eq!(config.log.retention, Duration::from_hours(7 * 24));
    assert_eq!(config.log.max_bytes, 10 << 30);
    assert_eq!(config.log.tenant_max_bytes, 0);
    assert_eq!(config.stream.heartbeat, Duration::from_secs(15));
    assert_eq!(config.stream.token_ttl, Duration::from_secs(30));
    assert_eq!(config.stream.stall_timeout, Duration::from_secs(30));
    assert_eq!(config.stream.retry, Duration::from_secs(2));
    assert_eq!(config.stream.send_buffer, 64 << 10);
    assert_eq!(config.stream.window_bytes, 64 << 20);
    assert_eq!(config.limits.body_bytes, 16 << 20);
    assert_eq!(config.limits.event_bytes, 1 << 20);
    assert_eq!(config.shutdown.drain, Duration::from_secs(5));
    assert_eq!(config.auth.publisher_roles, ["publisher"]);
    assert_eq!(config.auth.cookie, "access_token");
    assert_eq!(config.auth.jwt.leeway, Duration::from_mins(1));
    assert_eq!(config.auth.jwt.claims.tenant, "tenant_id");
    assert_eq!(config.logging.format, LogFormat::Auto);
    assert!(config.auth.jwt.secret.is_none());
    assert_eq!(config.known_types().len(), 6);
}

#[test]
fn every_default_allows_a_thousand_streams_and_ten_thousand_calls() {
    let limits = Given::default().config().limits;
    for streams in [
        limits.streams,
        limits.streams_per_tenant,
        limits.streams_per_user,
        limits.streams_per_address,
    ] {
        assert!(streams == 0 || streams >= 1_000);
    }
    for calls in [limits.mints_per_address, limits.failures_per_address] {
        assert!(calls == 0 || calls >= 10_000);
    }
}

#[test]
fn a_later_source_wins() {
    let mut given = Given {
        fallbacks: &[("stream.heartbeat", "1s"), ("stream.retry", "1s")],
        ..Given::default()
    };
    let heartbeat = |given: &Given<'_>| {
        let loaded = given.load().unwrap();
        let source = loaded
            .settings
            .source("stream.heartbeat")
            .unwrap()
            .to_string();
        (loaded.config.stream.heartbeat.as_secs(), source)
    };
    assert_eq!(heartbeat(&given), (1, "command".to_owned()));
    given.file = Some("\n[stream]\nheartbeat = '2s'");
    assert_eq!(heartbeat(&given), (2, "tidings.toml:3".to_owned()));
    given.variables = &[("TIDINGS_STREAM__HEARTBEAT", "3s")];
    assert_eq!(
        heartbeat(&given),
        (3, "TIDINGS_STREAM__HEARTBEAT".to_owned())
    );
    given.flags = &[("stream.heartbeat", "4s")];
    assert_eq!(heartbeat(&given), (4, "flag".to_owned()));
    assert_eq!(given.config().stream.retry, Duration::from_secs(1));
}

#[test]
fn the_example_of_the_handbook_works() {
    let config = variables(&[
        ("TIDINGS_LISTEN", "127.0.0.1:9090"),
        ("TIDINGS_ADMIN_LISTEN", "127.0.0.1:9091"),
        ("TIDINGS_AUTH__JWT__SECRET", "0123456789"),
        ("TIDINGS_LOG__PATH", "./log"),
        ("TIDINGS_STREAM__HEARTBEAT", "1s"),
        ("TIDINGS_MOUNT", r#"["/","/api"]"#),
        ("TIDINGS_CONFIG", "not-a-setting.toml"),
        ("PATH", "/bin"),
    ])
    .config();
    assert_eq!(
        config.listen,
        Some("127.0.0.1:9090".parse::<SocketAddr>().unwrap())
    );
    assert_eq!(
        config.auth.jwt.secret.unwrap().expose_secret(),
        "0123456789"
    );
    assert_eq!(config.log.path, Path::new("./log"));
    assert_eq!(config.mount, ["/", "/api"]);
}

#[test]
fn a_secret_is_the_text_as_it_stands() {
    for secret in [
        "12345",
        "true",
        "[1]",
        "\"quoted\"",
        "'a'",
        "{a=1}",
        " spaced ",
        "1979-05-27",
        "a\nb",
        "#",
        "\\n",
    ] {
        let config = variables(&[("TIDINGS_AUTH__JWT__SECRET", secret)]).config();
        assert_eq!(config.auth.jwt.secret.unwrap().expose_secret(), secret);
    }
    // In a file a number is no text, and guessing at one would hide a mistake such as a leading zero.
    let errors = file("[auth.jwt]\nsecret = 12345").errors();
    assert!(
        errors.contains("auth.jwt.secret (tidings.toml:2)"),
        "{errors}"
    );
    assert!(!errors.contains("12345"), "{errors}");
}

#[test]
fn text_that_looks_like_something_else_stays_text() {
    let config = variables(&[
        ("TIDINGS_LOG__PATH", "2026"),
        ("TIDINGS_AUTH__OPERATOR_ROLE", "true"),
        ("TIDINGS_AUTH__JWT__ISSUER", "\"https://login.example.com\""),
    ])
    .config();
    assert_eq!(config.log.path, Path::new("2026"));
    assert_eq!(config.auth.operator_role, "true");
    assert_eq!(
        config.auth.jwt.issuer.as_deref(),
        Some("https://login.example.com")
    );
}

#[test]
fn empty_text_is_not_set() {
    let config = variables(&[
        ("TIDINGS_AUTH__JWT__SECRET", ""),
        ("TIDINGS_AUTH__JWT__SECRET_FILE", ""),
        ("TIDINGS_AUTH__JWT__ISSUER", ""),
        ("TIDINGS_EVENT_TYPES", ""),
    ])
    .config();
    assert!(!config.auth.jwt.has_key());
    assert_eq!(config.auth.jwt.issuer, None);
    assert!(config.event_types.is_empty());
}

#[test]
fn lists_can_be_written_with_commas_and_sections_as_tables() {
    let config = variables(&[
        ("TIDINGS_EVENT_TYPES", "backup_done, backup_failed"),
        (
            "TIDINGS_AUTH__JWT__CLAIMS",
            r#"{user = "uid", tenant = "org"}"#,
        ),
        ("TIDINGS_LIMITS__STREAMS", "7"),
    ])
    .config();
    assert_eq!(config.event_types.len(), 2);
    assert_eq!(config.known_types().len(), 8);
    assert_eq!(config.auth.jwt.claims.user, "uid");
    assert_eq!(config.auth.jwt.claims.tenant, "org");
    assert_eq!(config.limits.streams, 7);
}

#[test]
fn durations_and_sizes_are_read_with_their_units() {
    for (text, milliseconds) in [
        ("500ms", 500),
        ("15s", 15_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("15 s", 15_000),
    ] {
        let config = flags(&[("stream.heartbeat", text)]).config();
        assert_eq!(
            config.stream.heartbeat,
            Duration::from_millis(milliseconds),
            "{text}"
        );
    }
    assert_eq!(
        flags(&[("log.retention", "0")]).config().log.retention,
        Duration::ZERO
    );
    assert_eq!(
        file("log.retention = 0").config().log.retention,
        Duration::ZERO
    );
    for (text, bytes) in [
        ("65536", 65_536),
        ("64KiB", 65_536),
        ("64 MiB", 64 << 20),
        ("10GiB", 10 << 30),
        ("1TiB", 1 << 40),
        ("5MB", 5_000_000),
        ("7B", 7),
        ("0", 0),
    ] {
        assert_eq!(
            flags(&[("log.max_bytes", text)]).config().log.max_bytes,
            bytes,
            "{text}"
        );
    }
    for text in [
        "",
        "15",
        "s",
        "-1s",
        "1.5s",
        "1 week",
        "15S",
        "1e3s",
        "99999999999999999999d",
        "300y",
        "true",
        "[]",
    ] {
        assert!(
            flags(&[("stream.heartbeat", text)]).load().is_err(),
            "{text}"
        );
    }
    for text in ["", "-1", "1.5MiB", "64 mib", "64M", "99999999TiB", "x"] {
        assert!(flags(&[("log.max_bytes", text)]).load().is_err(), "{text}");
    }
}

#[test]
fn a_bad_value_is_told_with_key_value_source_and_remedy() {
    assert_eq!(
        file("[stream]\n\nheartbeat = \"15\"").errors(),
        "stream.heartbeat = \"15\" (tidings.toml:3): a duration is a whole number and its unit, such as 500ms, 15s, 5m, 24h \
         or 7d"
    );
    assert_eq!(
        variables(&[("TIDINGS_LISTEN", "localhost:80")]).errors(),
        "listen = \"localhost:80\" (TIDINGS_LISTEN): this is no IP address with a port; write for example 127.0.0.1:8080, \
         0.0.0.0:8080 or [::]:8080"
    );
    assert_eq!(
        flags(&[("limits.streams", "many")]).errors(),
        "limits.streams = \"many\" (flag): this is a whole number from 0, written without quotes"
    );
    assert_eq!(
        file("event_types = [\n  \"ok\",\n  \"Not OK\",\n]").errors(),
        "event_types[1] (tidings.toml:3): \"Not OK\": an event type is a lower-case letter followed by up to 63 lower-case \
         letters, digits or underscores"
    );
}

#[test]
fn all_errors_are_told_at_once() {
    let errors = Given {
        file: Some("[stream]\nretry = 5\n"),
        variables: &[("TIDINGS_MOUNT", "api")],
        flags: &[("log.path", "")],
        ..Given::default()
    }
    .load()
    .unwrap_err();
    let keys: Vec<_> = errors
        .errors()
        .iter()
        .map(|error| error.key.as_str())
        .collect();
    assert_eq!(keys, ["mount[0]", "log.path", "stream.retry"]);
}

#[test]
fn an_unknown_key_is_told_with_the_nearest() {
    assert_eq!(
        file("listen = \"127.0.0.1:1\"\n[stream]\nhartbeat = \"1s\"").errors(),
        "stream.hartbeat (tidings.toml:3): there is no such key; did you mean stream.heartbeat?"
    );
    assert_eq!(
        variables(&[("TIDINGS_STREAM__HARTBEAT", "1s")]).errors(),
        "stream.hartbeat (TIDINGS_STREAM__HARTBEAT): there is no such key; did you mean TIDINGS_STREAM__HEARTBEAT?"
    );
    for (given, nearest) in [
        ("heartbeat", "stream.heartbeat"),
        ("jwt.secret", "auth.jwt.secret"),
        ("auth.secret", "auth.jwt.secret"),
        ("stream_heartbeat", "stream.heartbeat"),
        ("limits.stream", "limits.streams"),
        ("log.max_byte", "log.max_bytes"),
        ("Listen", "listen"),
    ] {
        let errors = flags(&[(given, "1")]).errors();
        assert_eq!(
            errors,
            format!("{given} (flag): there is no such key; did you mean {nearest}?")
        );
    }
}

#[test]
fn a_section_is_no_value() {
    let errors = file("stream = 5").errors();
    assert!(
        errors.starts_with("stream (tidings.toml:1): this is a section"),
        "{errors}"
    );
    assert!(
        variables(&[("TIDINGS_STREAM", "5")])
            .errors()
            .contains("this is a section")
    );
    let errors = file("[stream.heartbeat]\nseconds = 5").errors();
    assert!(errors.contains("a duration is"), "{errors}");
}

#[test]
fn a_syntax_error_names_its_line_and_shows_no_secret() {
    let errors = file("[auth.jwt]\n\nsecret = \"hunter2hunter2\nissuer = \"x\"").errors();
    assert!(
        errors.starts_with("tidings.toml:3: this is not TOML: "),
        "{errors}"
    );
    assert!(!errors.contains("hunter2"), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let sources = Sources {
        file: Some("/does/not/exist.toml".into()),
        ..Sources::default()
    };
    let errors = load(&sources).unwrap_err().to_string();
    assert!(
        errors.starts_with("/does/not/exist.toml: the file can't be read"),
        "{errors}"
    );
}

#[test]
fn a_file_is_read_and_its_path_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:1\"\n").unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        ..Sources::default()
    };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.listen.unwrap().port(), 1);
    let source = loaded.settings.source("listen").unwrap().to_string();
    assert_eq!(source, format!("{}:1", path.display()));
}

#[test]
fn serving_needs_a_key_and_the_error_says_which_settings_give_one() {
    let error = Given::default()
        .config()
        .require_jwt_key()
        .unwrap_err()
        .to_string();
    for setting in [
        "auth.jwt.secret",
        "auth.jwt.secret_file",
        "auth.jwt.public_key_file",
    ] {
        assert!(error.contains(setting), "{error}");
        assert!(flags(&[(setting, "x")]).config().require_jwt_key().is_ok());
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (given, key) in [
        (&[("listen", "127.0.0.1:8081")][..], "admin_listen"),
        (
            &[("auth.jwt.secret", "a"), ("auth.jwt.secret_file", "b")],
            "auth.jwt.secret_file",
        ),
        (&[("limits.body_bytes", "1KiB")], "limits.event_bytes"),
        (&[("auth.jwt.claims.user", "role")], "auth.jwt.claims.role"),
        (
            &[("auth.jwt.claims.user", "exp.at")],
            "auth.jwt.claims.expires",
        ),
        (&[("listen", "")], "listen"),
        (&[("tls.listen", "127.0.0.1:8443")], "tls.certificate_file"),
        (
            &[
                ("tls.listen", "127.0.0.1:8443"),
                ("tls.certificate_file", "a.pem"),
            ],
            "tls.key_file",
        ),
        (&[("tls.certificate_file", "a.pem")], "tls.listen"),
        (
            &[
                ("tls.listen", "127.0.0.1:8080"),
                ("tls.certificate_file", "a.pem"),
                ("tls.key_file", "a.key"),
            ],
            "tls.listen",
        ),
        (&[("proxies.protocol", "true")], "proxies.protocol"),
        (&[("proxies.trusted", "10.0.0.1/8")], "proxies.trusted[0]"),
    ] {
        let errors = flags(given).load().unwrap_err();
        assert_eq!(errors.errors()[0].key, key, "{errors}");
    }
    let any_port = flags(&[("listen", "127.0.0.1:0"), ("admin_listen", "127.0.0.1:0")]);
    assert_eq!(any_port.config().listen.unwrap().port(), 0);
}

#[test]
fn what_is_set_for_a_tenant_holds_for_it_and_the_rest_is_as_for_all() {
    let good = format!(
        "[log]\nretention = \"7d\"\n[tenants.\"{TENANT}\"]\nname = \"North\"\nretention = \"0\"\nstreams = 3\n"
    );
    let config = file(&good).config();
    let tenant = TENANT.parse().unwrap();
    let settings = config.tenant(tenant);
    assert_eq!(settings.name, Some("North"));
    assert_eq!(settings.retention, Duration::ZERO);
    assert_eq!((settings.streams, settings.publish_rate), (3, 0));
    assert_eq!(settings.event_bytes, config.limits.event_bytes);
    let other = config.tenant(TENANT.replace('1', "2").parse().unwrap());
    assert_eq!(other.name, None);
    assert_eq!(other.retention, config.log.retention);
    assert_eq!(other.streams, config.limits.streams_per_tenant);
    for (from, to, error) in [
        (
            "streams = 3",
            "stream = 3",
            format!(
                "tenants.{TENANT}.stream (tidings.toml:6): there is no such key; did you mean streams?"
            ),
        ),
        (
            "streams = 3",
            "streams = -3",
            format!("tenants.{TENANT}.streams (tidings.toml:6): this is a whole number"),
        ),
        (
            "streams = 3",
            "event_bytes = \"17MiB\"",
            format!("tenants.{TENANT}.event_bytes (tidings.toml:6): an event can't be larger"),
        ),
        (
            TENANT,
            "north",
            "tenants.north (tidings.toml:3): ".to_owned(),
        ),
    ] {
        let told = file(&good.replace(from, to)).errors();
        assert!(told.contains(&error), "{told}\n{error}");
    }
}

#[test]
fn publishers_are_read_whole_or_refused_by_field_and_line() {
    let hash = "ab".repeat(32);
    let good = format!(
        "[[auth.publishers]]\nid = \"poller-1\"\nsecret_sha256 = \"{hash}\"\ntenants = [\"{TENANT}\"]\ntypes = \
         [\"device_status\"]\n\n[[auth.publishers]]\nid = \"other\"\nsecret_sha256 = \"{hash}\"\ntenants = \"*\"\n"
    );
    let publishers = file(&good).config().auth.publishers;
    assert_eq!(publishers[0].secret_sha256, [0xab; 32]);
    assert!(publishers[0].tenants.allows(&TENANT.parse().unwrap()));
    assert!(
        !publishers[0]
            .tenants
            .allows(&TENANT.replace('1', "2").parse().unwrap())
    );
    assert!(!publishers[0].types.allows(&"alert_fired".parse().unwrap()));
    assert_eq!(
        (&publishers[1].tenants, &publishers[1].types),
        (&Bound::All, &Bound::All)
    );
    for (from, to, error) in [
        (
            "\"other\"",
            "\"poller-1\"",
            "auth.publishers[1].id (tidings.toml:8): there is a publisher poller-1 already",
        ),
        (
            "\"other\"",
            "\"a_b\"",
            "auth.publishers[1].id (tidings.toml:8): a publisher's id",
        ),
        (
            "tenants = \"*\"",
            "tenants = \"all\"",
            "auth.publishers[1].tenants (tidings.toml:10): this is a list",
        ),
        (
            "tenants = \"*\"",
            "",
            "auth.publishers[1].tenants (tidings.toml:7): this is missing",
        ),
        (
            "tenants = \"*\"",
            "tenant = \"*\"",
            "auth.publishers[1].tenant (tidings.toml:10): there is no such key; did you mean tenants?",
        ),
        (
            "[\"device_status\"]",
            "[\"snapshot\"]",
            "auth.publishers[0].types (tidings.toml:5): this event type is the server's own",
        ),
    ] {
        let errors = file(&good.replace(from, to)).errors();
        assert!(errors.starts_with(error), "{errors}");
    }
    let errors = file(&good.replace(&hash, "abc")).errors();
    assert!(errors.contains("64 hexadecimal digits"), "{errors}");
}

#[test]
fn mounts_and_origins_have_one_spelling() {
    let mounts = flags(&[("mount", r#"["/", "/api/", "/a/b-c"]"#)])
        .config()
        .mount;
    assert_eq!(mounts, ["/", "/api", "/a/b-c"]);
    for mount in ["[]", "api", "//", "/a//b", "/a?b", "/../x", "/a b", "/{id}"] {
        assert!(flags(&[("mount", mount)]).load().is_err(), "{mount}");
    }
    let origins = "https://console.example.com,http://localhost:5173,*";
    assert_eq!(
        flags(&[("cors.origins", origins)])
            .config()
            .cors
            .origins
            .len(),
        3
    );
    for origin in [
        "console.example.com",
        "https://a/",
        "https://A",
        "https://a:443",
        "http://a:80",
        "null",
        "https://",
    ] {
        assert!(
            flags(&[("cors.origins", origin)]).load().is_err(),
            "{origin}"
        );
    }
}

#[test]
fn algorithms_are_of_a_list_without_none() {
    for algorithm in ["none", "None", "HS1", "hs256", ""] {
        let list = format!("[\"{algorithm}\"]");
        assert!(
            flags(&[("auth.jwt.algorithms", &list)]).load().is_err(),
            "{algorithm}"
        );
    }
    let all = "HS256,HS384,HS512,RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA";
    assert_eq!(
        flags(&[("auth.jwt.algorithms", all)])
            .config()
            .auth
            .jwt
            .algorithms
            .len(),
        12
    );
}

#[test]
fn log_levels_are_checked() {
    for level in ["info", "WARN", "info,tidings::auth=debug", "off"] {
        assert_eq!(
            flags(&[("logging.level", level)]).config().logging.level,
            level
        );
    }
    for level in ["", "verbose", "tidings=loud", "info,"] {
        assert!(
            flags(&[("logging.level", level)]).load().is_err(),
            "{level}"
        );
    }
    assert!(flags(&[("logging.format", "xml")]).load().is_err());
}

#[test]
fn what_is_shown_says_where_it_came_from_and_hides_secrets() {
    let hash = "ab".repeat(32);
    let text =
        format!("[[auth.publishers]]\nid = \"p\"\nsecret_sha256 = \"{hash}\"\ntenants = \"*\"\n");
    let loaded = Given {
        file: Some(&text),
        variables: &[("TIDINGS_AUTH__JWT__SECRET", "hunter2")],
        flags: &[("stream.heartbeat", "1s")],
        ..Given::default()
    }
    .load()
    .unwrap();
    let table = loaded.settings.table();
    let row = |key: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("{key} ")))
            .unwrap();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        row("auth.jwt.secret"),
        "\"********\" TIDINGS_AUTH__JWT__SECRET"
    );
    assert_eq!(row("auth.jwt.secret_file"), "- default");
    assert_eq!(row("stream.heartbeat"), "\"1s\" flag");
    assert_eq!(row("mount"), "[\"/\"] default");
    let json = loaded.settings.json();
    assert_eq!(
        json["stream.heartbeat"],
        serde_json::json!({"value": "1s", "source": {"kind": "flag"}})
    );
    assert_eq!(
        json["auth.jwt.secret_file"]["value"],
        serde_json::Value::Null
    );
    assert_eq!(json["auth.publishers"]["value"][0]["id"], "p");
    assert_eq!(json["auth.publishers"]["source"]["line"], 1);
    assert_eq!(json["limits.streams"]["value"], 0);
    for shown in [
        table,
        json.to_string(),
        format!("{loaded:?}"),
        format!("{:?}", loaded.config),
    ] {
        assert!(
            !shown.contains("hunter2") && !shown.contains(&hash),
            "{shown}"
        );
        assert!(!shown.contains(&format!("{:?}", [0xab_u8; 32])), "{shown}");
    }
}

#[test]
fn a_secret_is_held_once() {
    let loaded = variables(&[("TIDINGS_AUTH__JWT__SECRET", "hunter2")])
        .load()
        .unwrap();
    assert_eq!(
        loaded.config.auth.jwt.secret.unwrap().expose_secret(),
        "hunter2"
    );
    assert_ne!(
        loaded.settings.get("auth.jwt.secret").value.as_str(),
        Some("hunter2")
    );
}

#[test]
fn the_reference_has_every_key_its_default_and_its_variable() {
    let reference = configuration_reference();
    for key in KEYS.iter() {
        assert!(
            reference.contains(&format!("### `{}`", key.name)),
            "{}",
            key.name
        );
        assert!(
            reference.contains(&format!("`{}`", key.variable())),
            "{}",
            key.name
        );
        assert!(!key.documentation().is_empty());
    }
    assert!(
        reference.contains("Duration, default `\"15s\"`, variable `TIDINGS_STREAM__HEARTBEAT`"),
        "{reference}"
    );
    assert!(reference.contains("Number, default `0`"));
    assert!(reference.contains("## limits\n\nLimits. Those that count"));
    assert!(reference.contains("List of paths, default `[\"/\"]`"));
    let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
}

#[test]
fn the_commented_file_is_the_default_configuration() {
    let text = default_toml();
    assert!(file(&text).load().is_ok());
    // Taking the comment off every setting must give the same configuration again.
    let set: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if KEYS.iter().any(|key| {
                    rest.starts_with(&format!("{} = ", key.name.rsplit('.').next().unwrap()))
                }) =>
            {
                rest
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let uncommented = file(&set).load().unwrap();
    for key in KEYS.iter() {
        let source = uncommented.settings.source(key.name).unwrap();
        assert!(
            matches!(source, Source::File { .. }),
            "{}: {source}",
            key.name
        );
    }
    let shown = |config: &Config| format!("{config:?}");
    assert_eq!(
        shown(&uncommented.config),
        shown(&Given::default().config())
    );
}

#[test]
fn rules_of_subjects_are_read_whole_or_refused_by_field_and_line() {
    let good = "event_types = [\"door_state\", \"door_gone\"]\n\n[subjects.door_state]\nfields = [\"site\", \
                \"door|device_id\"]\nfinal_field = \"stage\"\nfinal_values = [\"removed\"]\nmax_age = \"1d\"\n\n\
                [subjects.door_gone]\nfields = [\"door\"]\nkind = \"door_state\"\nends = true\n";
    let rules = file(good).config().subjects;
    let of = |name: &str| {
        rules
            .iter()
            .find(|rule| rule.event_type.as_str() == name)
            .unwrap()
    };
    assert_eq!(
        of("door_state").fields[1],
        [Box::<str>::from("door"), "device_id".into()]
    );
    assert_eq!(of("door_state").max_age, Some(Duration::from_hours(24)));
    assert_eq!(of("door_gone").kind.as_str(), "door_state");
    assert_eq!(of("alert_resolved").kind.as_str(), "alert_fired");
    for (from, to, error) in [
        (
            "\"site\"",
            "\"si te\"",
            "subjects.door_state.fields (tidings.toml:4): \"si te\": a field is",
        ),
        (
            "\"site\"",
            "1",
            "subjects.door_state.fields (tidings.toml:4): this is text",
        ),
        (
            "final_field = \"stage\"\n",
            "",
            "subjects.door_state.final_field (tidings.toml:3): this is missing beside final_values",
        ),
        (
            "ends = true",
            "end = true",
            "subjects.door_gone.end (tidings.toml:12): there is no such key; did you mean ends?",
        ),
        (
            "ends = true",
            "ends = true\nfinal_field = \"stage\"",
            "subjects.door_gone.ends (tidings.toml:12): final_field and final_values say when",
        ),
        (
            "ends = true",
            "max_age = \"1d\"",
            "subjects.door_gone.max_age (tidings.toml:12): set it in subjects.door_state",
        ),
        (
            ", \"door_gone\"]",
            "]",
            "subjects.door_gone (tidings.toml:9): door_gone is no event type here",
        ),
        (
            "kind = \"door_state\"",
            "kind = \"door\"",
            "subjects.door_gone.kind (tidings.toml:11): door is no event type here",
        ),
        (
            "[subjects.door_gone]",
            "[subjects.removed]",
            "subjects.removed (tidings.toml:9): this event type is the server's own",
        ),
    ] {
        let errors = file(&good.replace(from, to)).errors();
        assert!(errors.starts_with(error), "{errors}");
    }
}

#[test]
fn the_log_is_embedded_unless_it_is_said_where_nats_is() {
    let config = Given::default().config();
    assert_eq!(config.log.kind, LogKind::Embedded);
    assert_eq!(config.log.layout, LogLayout::Own);
    assert!(config.nats.url.is_empty());
    assert_eq!(config.nats.stream, "TIDINGS");
    assert_eq!(config.nats.replicas, 1);
    assert_eq!(config.nats.duplicate_window, Duration::from_mins(2));
    // What only JetStream needs binds no embedded log: its retention may be shorter than that window.
    assert_eq!(
        flags(&[("log.retention", "1s")]).config().log.retention,
        Duration::from_secs(1)
    );

    let config = file(
        "[log]\nkind = \"jetstream\"\nlayout = \"fleet\"\n[nats]\nurl = \"10.0.0.1\"\n[nats.tls]\nrequired = true",
    )
    .config();
    assert_eq!(config.log.kind, LogKind::JetStream);
    assert_eq!(config.log.layout, LogLayout::Fleet);
    assert_eq!(config.nats.url, ["nats://10.0.0.1"]);
    assert!(config.nats.tls.required);
    let urls = variables(&[("TIDINGS_NATS__URL", "nats://a:4222,tls://b:4223")]).config();
    assert_eq!(urls.nats.url, ["nats://a:4222", "tls://b:4223"]);
}

#[test]
fn settings_of_nats_that_do_not_go_together_are_told() {
    let kind = ("log.kind", "jetstream");
    let url = ("nats.url", "nats://127.0.0.1:4222");
    for (given, key) in [
        (&[kind][..], "nats.url"),
        (&[("log.layout", "fleet")], "log.layout"),
        (&[("nats.user", "tidings")], "nats.password"),
        (&[("nats.password", "s3cr3t")], "nats.user"),
        (
            &[("nats.token", "t0k3n"), ("nats.token_file", "/t")],
            "nats.token_file",
        ),
        (
            &[("nats.token", "t0k3n"), ("nats.credentials_file", "/c")],
            "nats.credentials_file",
        ),
        (
            &[("nats.tls.certificate_file", "/c.pem")],
            "nats.tls.key_file",
        ),
        (
            &[("nats.tls.key_file", "/k.pem")],
            "nats.tls.certificate_file",
        ),
        (
            &[
                kind,
                url,
                ("log.retention", "1m"),
                ("nats.duplicate_window", "2m"),
            ],
            "nats.duplicate_window",
        ),
    ] {
        let told = flags(given).errors();
        assert!(told.starts_with(key), "{given:?}: {told}");
        assert!(
            !told.contains("t0k3n") && !told.contains("s3cr3t"),
            "{told}"
        );
    }
    flags(&[kind, url, ("nats.user", "u"), ("nats.password", "p")]).config();
    // An embedded log has no such window, however short it is kept.
    flags(&[("log.retention", "1s")]).config();
    for bad in [
        "http://a:4222",
        "nats://u:s3cr3t@a:4222",
        "nats://",
        "nats://a b",
    ] {
        let told = flags(&[("nats.url", bad)]).errors();
        assert!(told.contains("nats.url[0]"), "{told}");
    }
    assert!(
        flags(&[("nats.stream", "a.b")])
            .errors()
            .contains("nats.stream")
    );
}

#[test]
fn the_fleets_subjects_are_the_protocols_or_those_that_are_given() {
    let streams = |config: &Config| -> Vec<String> {
        config
            .nats
            .fleet
            .iter()
            .flat_map(|stream| {
                stream
                    .subjects
                    .iter()
                    .map(|subject| format!("{} {subject} {}", stream.name, subject.event_type))
            })
            .collect()
    };
    assert_eq!(
        streams(&Given::default().config()),
        [
            "DEVICE_EVENTS config.push.alert.> config_push",
            "DEVICE_EVENTS config.push.rollback.> config_push",
            "DEVICE_EVENTS config.push.{tenant}.{device} config_push",
            "DEVICE_EVENTS device.metrics.*.{device} metric_update",
            "DEVICE_EVENTS device.status.{device} device_status",
            "ALERT_EVENTS alert.fired.{tenant} alert_fired",
            "ALERT_EVENTS alert.resolved.{tenant} alert_resolved",
            "OPERATION_EVENTS firmware.progress.{tenant}.{device} firmware_progress",
        ]
    );
    let own = file(
        "event_types = [\"door_state\"]\n[nats.fleet.DOORS]\n\"door.{tenant}.>\" = \"door_state\"",
    );
    assert_eq!(streams(&own.config()), ["DOORS door.{tenant}.> door_state"]);
    for (table, what) in [
        ("{ \"A.B\" = {} }", "a stream's name"),
        ("{ A = 1 }", "table of subjects"),
        (
            "{ A = { \"a..b\" = \"device_status\" } }",
            "part of a subject",
        ),
        ("{ A = { \">.a\" = \"device_status\" } }", "comes last"),
        (
            "{ A = { \"{device}.{device}\" = \"device_status\" } }",
            "comes twice",
        ),
        ("{ A = { \"a\" = \"cursor\" } }", "server's own"),
        ("{ A = { \"a\" = \"door_state\" } }", "no event type here"),
        (
            "{ A = { \"a.*\" = \"device_status\", \"a.{kind}\" = \"device_status\" } }",
            "comes twice",
        ),
    ] {
        let told = flags(&[
            ("log.kind", "jetstream"),
            ("log.layout", "fleet"),
            ("nats.url", "nats://a"),
            ("nats.fleet", table),
        ])
        .errors();
        assert!(told.contains("nats.fleet.A"), "{told}");
        assert!(told.contains(what), "{what}: {told}");
    }
}
