//! The kinds of values: how each is read, and what is said of one that won't do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::Algorithm;
use secrecy::SecretString;
use tidings_protocol::EventType;
use toml::Value;

use super::key::{Class, Fault, Kind};
use super::values::{LogFormat, LogKind, LogLayout};
use crate::engine::Coding;

pub(super) const TEXT: Kind<String> = Kind {
    name: "text",
    class: Class::Text,
    read: |value| Ok(filled(value)?.to_owned()),
};

pub(super) const OPTIONAL_TEXT: Kind<Option<String>> = Kind {
    name: "text",
    class: Class::Text,
    read: |value| Ok(optional(value)?.map(ToOwned::to_owned)),
};

pub(super) const SECRET: Kind<Option<SecretString>> = Kind {
    name: "secret text",
    class: Class::Secret,
    read: |value| Ok(optional(value)?.map(SecretString::from)),
};

pub(super) const PATH: Kind<PathBuf> = Kind {
    name: "path",
    class: Class::Text,
    read: |value| Ok(filled(value)?.into()),
};

pub(super) const OPTIONAL_PATH: Kind<Option<PathBuf>> = Kind {
    name: "path",
    class: Class::Text,
    read: |value| Ok(optional(value)?.map(PathBuf::from)),
};

pub(super) const ADDRESS: Kind<SocketAddr> = Kind {
    name: "address",
    class: Class::Text,
    read: |value| Ok(address(text(value)?)?),
};

pub(super) const OPTIONAL_ADDRESS: Kind<Option<SocketAddr>> = Kind {
    name: "address",
    class: Class::Text,
    read: |value| Ok(optional(value)?.map(address).transpose()?),
};

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "this is no IP address with a port; write for example 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".to_owned()
    })
}

/// A duration of `MIN` to `MAX` milliseconds.
pub(super) const fn duration<const MIN: u64, const MAX: u64>() -> Kind<Duration> {
    Kind {
        name: "duration",
        class: Class::Value,
        read: |value| {
            let read = parse_duration(value)?;
            let (least, most) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
            if (least..=most).contains(&read) {
                Ok(read)
            } else {
                Err(format!("this duration must be from {least:?} to {most:?}").into())
            }
        },
    }
}

/// For how long events are kept; 0 is for ever.
pub(super) const RETENTION: Kind<Duration> = duration::<0, 3_153_600_000_000>();

/// The largest event.
pub(super) const EVENT_BYTES: Kind<usize> = size::<1_024, 1_073_741_824>();

/// A number of bytes of any size.
pub(super) const SIZE: Kind<u64> = Kind {
    name: "size",
    class: Class::Value,
    read: |value| Ok(parse_size(value)?),
};

/// `MIN` to `MAX` bytes.
pub(super) const fn size<const MIN: u64, const MAX: u64>() -> Kind<usize> {
    Kind {
        name: "size",
        class: Class::Value,
        read: |value| within::<MIN, MAX>(parse_size(value)?, "bytes"),
    }
}

pub(super) const COUNT: Kind<u64> = Kind {
    name: "number",
    class: Class::Value,
    read: |value| Ok(parse_count(value)?),
};

/// `MIN` to `MAX` of something.
pub(super) const fn count<const MIN: u64, const MAX: u64>() -> Kind<usize> {
    Kind {
        name: "number",
        class: Class::Value,
        read: |value| within::<MIN, MAX>(parse_count(value)?, ""),
    }
}

/// A part of all, from 0 to 1.
pub(super) const PART: Kind<f64> = Kind {
    name: "part",
    class: Class::Value,
    read: |value| {
        let whole = || value.as_integer().map(|number| number as f64);
        let part = value.as_float().or_else(whole);
        part.filter(|part| (0.0..=1.0).contains(part))
            .ok_or_else(|| "this is a number from 0 to 1, such as 0.01".into())
    },
};

/// A collector of traces that is spoken to by OTLP over HTTP.
pub(super) const COLLECTOR: Kind<Option<Uri>> = Kind {
    name: "URL",
    class: Class::Url,
    read: |value| {
        let Some(text) = optional(value)? else {
            return Ok(None);
        };
        let url = text.strip_prefix("http://").and_then(|rest| {
            let path = rest.split_once('/').map_or("", |(_, path)| path);
            // What OTLP calls its place where nothing else is said.
            let place = if path.is_empty() { "/v1/traces" } else { "" };
            let whole = format!("{}{place}", text.trim_end_matches('/'));
            whole.parse::<Uri>().ok().filter(|url| url.host().is_some())
        });
        let problem = "write http:// and where the collector is, such as http://127.0.0.1:4318; TLS is not spoken to it, so put \
                       one beside the server";
        url.map(Some).ok_or_else(|| problem.into())
    },
};

pub(super) const MOUNTS: Kind<Vec<String>> = Kind {
    name: "list of paths",
    class: Class::List,
    read: |value| {
        let mounts = list(value, mount)?;
        if mounts.is_empty() {
            return Err("the API must answer somewhere; [\"/\"] is the usual".into());
        }
        Ok(mounts)
    },
};

pub(super) const NAMES: Kind<Vec<String>> = Kind {
    name: "list of texts",
    class: Class::List,
    read: |value| list(value, |item| Ok(filled(item)?.to_owned())),
};

pub(super) const EVENT_TYPES: Kind<Vec<EventType>> = Kind {
    name: "list of event types",
    class: Class::List,
    read: |value| list(value, parsed::<EventType>),
};

pub(super) const ALGORITHMS: Kind<Vec<Algorithm>> = Kind {
    name: "list of algorithms",
    class: Class::List,
    read: |value| {
        list(value, |item| {
            text(item)?.parse().map_err(|_| {
                "this algorithm is not known; HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                 ES384 and EdDSA are"
                    .to_owned()
            })
        })
    },
};

pub(super) const CODINGS: Kind<Vec<Coding>> = Kind {
    name: "list of codings",
    class: Class::List,
    read: |value| {
        list(value, |item| match text(item)? {
            "gzip" => Ok(Coding::Gzip),
            "zstd" => Ok(Coding::Zstd),
            _ => Err("this coding is not known; gzip and zstd are".to_owned()),
        })
    },
};

pub(super) const ORIGINS: Kind<Vec<String>> = Kind {
    name: "list of origins",
    class: Class::List,
    read: |value| list(value, origin),
};

pub(super) const COOKIE: Kind<String> = Kind {
    name: "text",
    class: Class::Text,
    read: |value| {
        let name = filled(value)?;
        // RFC 6265, section 4.1.1: a cookie's name is a token of RFC 9110.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.bytes().all(token) {
            Ok(name.to_owned())
        } else {
            Err("a cookie's name has letters, digits and !#$%&'*+-.^_`|~ only".into())
        }
    },
};

pub(super) const CLAIM: Kind<String> = Kind {
    name: "claim",
    class: Class::Text,
    read: |value| {
        let name = filled(value)?;
        if name.split('.').any(str::is_empty) {
            Err("a claim's name neither begins nor ends with a dot, nor has two in a row".into())
        } else {
            Ok(name.to_owned())
        }
    },
};

pub(super) const OPTIONAL_HTTP_URL: Kind<Option<Uri>> = Kind {
    name: "URL",
    class: Class::Text,
    read: |value| {
        let Some(text) = optional(value)? else {
            return Ok(None);
        };
        let url = text
            .parse::<Uri>()
            .ok()
            .filter(|url| matches!(url.scheme_str(), Some("http" | "https")))
            .filter(|url| {
                let authority = url.authority().map_or("", |authority| authority.as_str());
                !authority.is_empty() && !authority.contains('@')
            });
        match url {
            Some(url) => Ok(Some(url)),
            None => Err("this is no URL such as https://login.example.com/.well-known/jwks.json, without a user in it".into()),
        }
    },
};

pub(super) const ROLES: Kind<BTreeMap<String, String>> = Kind {
    name: "table of roles",
    class: Class::Value,
    read: |value| {
        let table = value
            .as_table()
            .ok_or("this is a table, such as { Admin = \"super_admin\" }")?;
        let mut roles = BTreeMap::new();
        for (theirs, ours) in table {
            let ours = filled(ours).map_err(|problem| Fault {
                within: format!(".{theirs}"),
                problem,
            })?;
            roles.insert(theirs.clone(), ours.to_owned());
        }
        Ok(roles)
    },
};

pub(super) const LOG_LEVEL: Kind<String> = Kind {
    name: "text",
    class: Class::Text,
    read: |value| {
        let directives = filled(value)?;
        let known = |directive: &str| {
            let level = directive.rsplit('=').next().unwrap_or_default().trim();
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|known| level.eq_ignore_ascii_case(known))
        };
        if directives.split(',').all(known) {
            Ok(directives.to_owned())
        } else {
            Err("a level is off, error, warn, info, debug or trace, or several such as info,tidings::auth=debug".into())
        }
    },
};

pub(super) const BOOL: Kind<bool> = Kind {
    name: "true or false",
    class: Class::Value,
    read: |value| {
        value
            .as_bool()
            .ok_or_else(|| "this is true or false, written without quotes".into())
    },
};

pub(super) const LOG_KIND: Kind<LogKind> = Kind {
    name: "embedded or jetstream",
    class: Class::Text,
    read: |value| match text(value)? {
        "embedded" => Ok(LogKind::Embedded),
        "jetstream" => Ok(LogKind::JetStream),
        _ => Err("the kinds of log are embedded and jetstream".into()),
    },
};

pub(super) const LOG_LAYOUT: Kind<LogLayout> = Kind {
    name: "own or fleet",
    class: Class::Text,
    read: |value| match text(value)? {
        "own" => Ok(LogLayout::Own),
        "fleet" => Ok(LogLayout::Fleet),
        _ => Err("the layouts are own and fleet".into()),
    },
};

pub(super) const NATS_URLS: Kind<Vec<String>> = Kind {
    name: "list of URLs",
    class: Class::List,
    read: |value| {
        // One URL needs no brackets, in a file either.
        let items = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        // What is wrong is not quoted: somebody may have put a password there.
        let read = |(index, item)| {
            nats_url(item).map_err(|problem| Fault {
                within: format!("[{index}]"),
                problem,
            })
        };
        items.iter().enumerate().map(read).collect()
    },
};

pub(super) const STREAM: Kind<String> = Kind {
    name: "text",
    class: Class::Text,
    read: |value| {
        let name = filled(value)?;
        if is_stream_name(name) {
            Ok(name.to_owned())
        } else {
            Err("a stream's name has 1 to 255 letters, digits, _ and -".into())
        }
    },
};

pub(super) const LOG_FORMAT: Kind<LogFormat> = Kind {
    name: "auto, pretty or json",
    class: Class::Text,
    read: |value| match text(value)? {
        "auto" => Ok(LogFormat::Auto),
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("the formats are auto, pretty and json".into()),
    },
};

/// Whether a stream can have this name; NATS allows a little more, but not everywhere.
pub(super) fn is_stream_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// The address of a NATS server, with its scheme.
fn nats_url(value: &Value) -> Result<String, String> {
    let problem = || {
        "an address of a NATS server is written nats://HOST:PORT, or tls://HOST:PORT for TLS"
            .to_owned()
    };
    let url = filled(value)?;
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    if rest.contains('@') {
        return Err(
            "a user and a password don't belong into the address; set nats.user and nats.password"
                .to_owned(),
        );
    }
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let well_formed =
        matches!(scheme, "nats" | "tls") && !address.is_empty() && address.bytes().all(plain);
    let url = format!("{scheme}://{address}");
    match url.parse::<async_nats::ServerAddr>() {
        Ok(_) if well_formed => Ok(url),
        _ => Err(problem()),
    }
}

fn mount(value: &Value) -> Result<String, String> {
    let path = text(value)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let segments = |rest: &str| {
        rest.split('/').all(|segment| {
            !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(plain)
        })
    };
    match path.strip_prefix('/') {
        Some("") => Ok("/".to_owned()),
        Some(rest) if segments(rest.strip_suffix('/').unwrap_or(rest)) => {
            Ok(path.trim_end_matches('/').to_owned())
        }
        _ => Err("a mount is a path such as / or /api, of letters, digits and -._~".to_owned()),
    }
}

/// An origin as browsers write it (WHATWG HTML, "serialization of an origin"): lower case, without a
/// path, and without a port that the scheme implies. Another spelling would never match.
fn origin(value: &Value) -> Result<String, String> {
    let origin = text(value)?;
    if origin == "*" {
        return Ok(origin.to_owned());
    }
    let problem = || {
        "an origin is written as browsers send it, such as https://console.example.com or http://localhost:5173: lower \
         case, no path, no final slash, no :443 or :80"
            .to_owned()
    };
    let (scheme, host) = origin.split_once("://").ok_or_else(problem)?;
    let implied = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    let well_formed = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b"+-.".contains(&byte))
        && !host.is_empty()
        && host.bytes().all(plain)
        && (implied.is_empty() || !host.ends_with(implied));
    if well_formed {
        Ok(origin.to_owned())
    } else {
        Err(problem())
    }
}

pub(super) fn list<T>(
    value: &Value,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, Fault> {
    let items = value
        .as_array()
        .ok_or("this is a list, written in brackets: [\"…\", \"…\"]")?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            read(item).map_err(|problem| Fault {
                within: format!("[{index}]"),
                problem: format!("{item}: {problem}"),
            })
        })
        .collect()
}

pub(super) fn parsed<T>(value: &Value) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text(value)?
        .parse()
        .map_err(|error: T::Err| error.to_string())
}

pub(super) fn text(value: &Value) -> Result<&str, String> {
    value
        .as_str()
        .ok_or_else(|| "this is text, written in quotes".to_owned())
}

fn filled(value: &Value) -> Result<&str, String> {
    match text(value)? {
        "" => Err("this can't be empty".to_owned()),
        filled => Ok(filled),
    }
}

/// Empty text means that nothing is set, as compose files and charts like to write it.
fn optional(value: &Value) -> Result<Option<&str>, String> {
    text(value).map(|text| Some(text).filter(|text| !text.is_empty()))
}

fn within<const MIN: u64, const MAX: u64>(number: u64, unit: &str) -> Result<usize, Fault> {
    if (MIN..=MAX).contains(&number) {
        usize::try_from(number).map_err(|_| "this is more than the machine can address".into())
    } else {
        Err(format!("this must be from {MIN} to {MAX} {unit}")
            .trim_end()
            .into())
    }
}

fn parse_count(value: &Value) -> Result<u64, String> {
    value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| "this is a whole number from 0, written without quotes".to_owned())
}

const DURATION_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// A number and its unit; only 0 needs none.
pub(super) fn parse_duration(value: &Value) -> Result<Duration, String> {
    let problem = || {
        "a duration is a whole number and its unit, such as 500ms, 15s, 5m, 24h or 7d".to_owned()
    };
    match value {
        Value::Integer(0) => Ok(Duration::ZERO),
        Value::String(text) if text == "0" => Ok(Duration::ZERO),
        Value::String(text) => with_unit(text, DURATION_UNITS)
            .map(Duration::from_millis)
            .ok_or_else(problem),
        _ => Err(problem()),
    }
}

/// A number of bytes, or a number and its unit.
fn parse_size(value: &Value) -> Result<u64, String> {
    let problem =
        || "a size is a whole number of bytes, or with a unit: 64KiB, 64MiB, 10GiB".to_owned();
    match value {
        Value::Integer(bytes) => u64::try_from(*bytes).map_err(|_| problem()),
        Value::String(text) => text
            .parse()
            .ok()
            .or_else(|| with_unit(text, SIZE_UNITS))
            .ok_or_else(problem),
        _ => Err(problem()),
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}
