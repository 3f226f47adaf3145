//! Where Redis is: the forms of `redis.url`.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::key::{Class, Kind};
use super::kinds::text;

/// The port of a server where the URL names none.
const SERVER_PORT: u16 = 6379;

/// The port of a sentinel where the URL names none.
const SENTINEL_PORT: u16 = 26379;

const FORMS: &str = "write redis://host:6379, rediss:// for TLS, redis+unix:///path/to/socket, \
    redis-sentinel://host:26379,host:26379/service or redis-cluster://host:6379,host:6379 (with rediss- in front for TLS)";

/// Where Redis is and as whom it is spoken to, as far as a URL says it.
#[derive(Clone, Debug)]
pub struct RedisUrl {
    /// The servers.
    pub servers: RedisServers,
    /// Whether they are spoken to over TLS.
    pub tls: bool,
    /// The ACL user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<SecretString>,
    /// The number of the database; a cluster has only 0.
    pub database: u32,
}

/// How the server with the tokens is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// It is this one.
    Single(RedisAddress),
    /// It is behind this socket of the same machine.
    Socket(PathBuf),
    /// One of these sentinels knows which is the service's master.
    Sentinels {
        /// The sentinels, asked in this order.
        addresses: Vec<RedisAddress>,
        /// What the sentinels call the master.
        service: String,
    },
    /// They share the keys among themselves; these tell who else there is.
    Cluster(Vec<RedisAddress>),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for RedisServers {
    /// Where they are, without a secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |addresses: &[RedisAddress]| {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        match self {
            Self::Single(address) => address.fmt(formatter),
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Sentinels { addresses, service } => {
                write!(formatter, "{service} of sentinels {}", listed(addresses))
            }
            Self::Cluster(addresses) => write!(formatter, "cluster {}", listed(addresses)),
        }
    }
}

pub(super) const REDIS_URL: Kind<Option<RedisUrl>> = Kind {
    name: "URL",
    class: Class::Url,
    read: |value| match text(value)? {
        "" => Ok(None),
        text => Ok(Some(RedisUrl::parse(text)?)),
    },
};

impl RedisUrl {
    /// Reads a URL. Errors quote nothing of it, since it may hold a password.
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("this is no URL of Redis; {FORMS}"))?;
        let (plain, tls) = match scheme.strip_prefix("rediss") {
            Some(rest) => (format!("redis{rest}"), true),
            None => (scheme.to_owned(), false),
        };
        if rest.contains(['?', '#']) {
            return Err(
                "parameters behind ? or # are not known here; each has a key of its own in redis"
                    .to_owned(),
            );
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (user, password) = credentials(userinfo)?;
        let (servers, database) = match plain.as_str() {
            "redis" => (
                RedisServers::Single(one_address(hosts)?),
                read_database(path)?,
            ),
            "redis+unix" | "unix" if !tls => (socket(hosts, path)?, 0),
            "redis-sentinel" => sentinels(hosts, path)?,
            "redis-cluster" if path.is_empty() => {
                (RedisServers::Cluster(addresses(hosts, SERVER_PORT)?), 0)
            }
            "redis-cluster" => {
                return Err(
                    "a cluster has one database only; leave out what follows the hosts".to_owned(),
                );
            }
            _ => return Err(format!("this is no URL of Redis; {FORMS}")),
        };
        Ok(Self {
            servers,
            tls,
            user,
            password,
            database,
        })
    }
}

/// `user:password`, either of which may be missing, percent-encoded.
fn credentials(userinfo: Option<&str>) -> Result<(Option<String>, Option<SecretString>), String> {
    let Some(userinfo) = userinfo else {
        return Ok((None, None));
    };
    let decoded = |part: &str| {
        percent_decode_str(part)
            .decode_utf8()
            .map(|text| Some(text.into_owned()).filter(|text| !text.is_empty()))
            .map_err(|_| "the user and password are not UTF-8 once percent-decoded".to_owned())
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    Ok((decoded(user)?, decoded(password)?.map(SecretString::from)))
}

fn socket(hosts: &str, path: &str) -> Result<RedisServers, String> {
    if !hosts.is_empty() || path.is_empty() {
        return Err("a socket's path follows three slashes: redis+unix:///run/redis/redis.sock; its user and password \
             have keys of their own"
            .to_owned());
    }
    Ok(RedisServers::Socket(format!("/{path}").into()))
}

fn sentinels(hosts: &str, path: &str) -> Result<(RedisServers, u32), String> {
    let (service, database) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err(
            "the name under which the sentinels know the service is missing; write redis-sentinel://host:26379,host:26379/service"
                .to_owned(),
        );
    }
    let servers = RedisServers::Sentinels {
        addresses: addresses(hosts, SENTINEL_PORT)?,
        service: service.to_owned(),
    };
    Ok((servers, read_database(database)?))
}

fn read_database(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        "what follows the host is the number of a database, such as in redis://host:6379/0"
            .to_owned()
    })
}

fn one_address(hosts: &str) -> Result<RedisAddress, String> {
    if hosts.contains(',') {
        return Err(format!("redis:// names one server; for several, {FORMS}"));
    }
    address(hosts, SERVER_PORT)
}

fn addresses(hosts: &str, port: u16) -> Result<Vec<RedisAddress>, String> {
    hosts.split(',').map(|host| address(host, port)).collect()
}

fn address(text: &str, default_port: u16) -> Result<RedisAddress, String> {
    let problem = || format!("a host, or host:port, is missing or malformed; {FORMS}");
    let (host, port) = match text.strip_prefix('[') {
        // RFC 3986, section 3.2.2: an IPv6 address stands in brackets.
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(problem)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| problem())?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(problem)?),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let bracketed = text.starts_with('[');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || !(bracketed || host.bytes().all(plain)) {
        return Err(problem());
    }
    let port = match port {
        None => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(problem)?,
    };
    Ok(RedisAddress {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn at(host: &str, port: u16) -> RedisAddress {
        RedisAddress {
            host: host.to_owned(),
            port,
        }
    }

    fn parsed(text: &str) -> RedisUrl {
        RedisUrl::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn every_form_says_where_redis_is() {
        let plain = parsed("redis://cache");
        assert_eq!(plain.servers, RedisServers::Single(at("cache", 6379)));
        assert!(!plain.tls && plain.user.is_none() && plain.password.is_none());
        let tls = parsed("rediss://[::1]:6380/3");
        assert_eq!(tls.servers, RedisServers::Single(at("::1", 6380)));
        assert_eq!((tls.tls, tls.database), (true, 3));
        assert_eq!(
            parsed("redis+unix:///run/redis/redis.sock").servers,
            RedisServers::Socket("/run/redis/redis.sock".into())
        );
        let sentinels = parsed("rediss-sentinel://a,b:26380/tokens/2");
        assert_eq!(
            sentinels.servers,
            RedisServers::Sentinels {
                addresses: vec![at("a", 26379), at("b", 26380)],
                service: "tokens".to_owned(),
            }
        );
        assert_eq!((sentinels.tls, sentinels.database), (true, 2));
        assert_eq!(
            parsed("redis-cluster://10.0.0.1:7000,10.0.0.2:7001").servers,
            RedisServers::Cluster(vec![at("10.0.0.1", 7000), at("10.0.0.2", 7001)])
        );
    }

    #[test]
    fn a_user_and_a_password_are_percent_decoded() {
        let url = parsed("redis://tid%40ings:p%2Fs%3As@cache:1/0");
        assert_eq!(url.user.as_deref(), Some("tid@ings"));
        assert_eq!(url.password.unwrap().expose_secret(), "p/s:s");
        let url = parsed("redis://:only@cache");
        assert!(url.user.is_none());
        assert_eq!(url.password.unwrap().expose_secret(), "only");
    }

    #[test]
    fn what_is_no_url_of_redis_is_told_without_quoting_it() {
        for text in [
            "cache:6379",
            "http://sesame@cache",
            "redis://",
            "redis://:sesame@",
            "redis://a,b",
            "redis://cache:0",
            "redis://cache:sesame",
            "redis://cache/sesame",
            "redis://ca che",
            "redis://[::1",
            "redis://cache?password=sesame",
            "rediss+unix:///run/sesame",
            "redis+unix://sesame",
            "redis-sentinel://a,b",
            "redis-cluster://a,b/1",
            "redis-cluster://a,,b",
        ] {
            let problem = RedisUrl::parse(text).expect_err(text);
            assert!(!problem.contains("sesame"), "{problem}");
        }
    }

    #[test]
    fn a_password_is_not_in_the_debug_output() {
        let shown = format!("{:?}", parsed("redis://ada:sesame@cache"));
        assert!(!shown.contains("sesame"), "{shown}");
    }
}
