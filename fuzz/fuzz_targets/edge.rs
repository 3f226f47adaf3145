//! What proxies write in front of a request. The first byte chooses: a head of the PROXY protocol (`0`), or header lines,
//! separated by line ends, of `X-Forwarded-For` (`1`) or of `Forwarded` (`2`).
//!
//! Promises: a head is complete at one length and at no other, and what stands behind it changes nothing; whom the
//! request comes from is decided by what trusted proxies wrote, and nothing that a client has written in front of that
//! changes it.

#![no_main]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidings::config::{Sources, load};
use tidings::edge::{Network, Proxies, network, proxy_protocol};
use tidings_fuzz::deployment::SECRET;

/// More of a head is not cut at every byte.
const CUT: usize = 256;

fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((b'0', head)) => read_head(head),
    Some((b'1', lines)) => read_lines("x-forwarded-for", "198.51.100.66, ", lines),
    Some((b'2', lines)) => read_lines("forwarded", "for=198.51.100.66, ", lines),
    _ => {}
});

fn read_head(bytes: &[u8]) {
    let whole = proxy_protocol::parse(bytes);
    let Ok(Some(head)) = whole else {
        // What can be no head does not become one by more bytes.
        if whole.is_err() {
            assert!(proxy_protocol::parse(&[bytes, b"\r\n"].concat()).is_err());
        }
        return;
    };
    assert!(head.length <= bytes.len());
    assert_eq!(proxy_protocol::parse(&bytes[..head.length]), whole);
    assert_eq!(proxy_protocol::parse(&[bytes, b"\r\n"].concat()), whole);
    for cut in 0..head.length.min(CUT) {
        assert_eq!(proxy_protocol::parse(&bytes[..cut]), Ok(None));
    }
}

/// A deployment behind proxies, and which of its two headers it reads.
fn proxies(header: &str) -> &'static (Proxies, Vec<Network>) {
    static BOTH: OnceLock<[(Proxies, Vec<Network>); 2]> = OnceLock::new();
    let both = BOTH.get_or_init(|| {
        ["x-forwarded-for", "forwarded"].map(|header| {
            let variables = [
                ("TIDINGS_AUTH__JWT__SECRET", SECRET),
                ("TIDINGS_PROXIES__TRUSTED", "10.0.0.0/8,fd00::/8"),
                ("TIDINGS_PROXIES__HEADER", header),
            ];
            let sources = Sources {
                variables: variables
                    .map(|(name, value)| (name.into(), OsString::from(value)))
                    .into(),
                ..Sources::default()
            };
            let config = load(&sources).expect("a configuration").config;
            let proxies = Proxies::from_config(&config.proxies).expect("there are proxies");
            (proxies, config.proxies.trusted)
        })
    });
    &both[usize::from(header == "forwarded")]
}

fn read_lines(header: &'static str, prefix: &str, lines: &[u8]) {
    let (proxies, trusted) = proxies(header);
    let values = |first: Option<&str>| {
        let mut headers = HeaderMap::new();
        for line in first
            .map(str::as_bytes)
            .into_iter()
            .chain(lines.split(|&byte| byte == b'\n'))
        {
            let value = HeaderValue::from_bytes(line).ok()?;
            headers.append(HeaderName::from_static(header), value);
        }
        Some(headers)
    };
    let (Some(headers), Some(with_another)) =
        (values(None), values(Some(prefix.trim_end_matches(", "))))
    else {
        return;
    };
    let stranger: SocketAddr = "203.0.113.9:4711".parse().expect("an address");
    assert_eq!(proxies.client(stranger, &headers), stranger);

    let proxy: SocketAddr = "10.0.0.1:4711".parse().expect("an address");
    let client = proxies.client(proxy, &headers);
    assert!(client == proxy || client.port() == 0);
    if network::any_contains(trusted, client.ip()) {
        return;
    }
    // Somebody who is no proxy was found: what stands before was written by them or by nobody who counts.
    assert_eq!(proxies.client(proxy, &with_another), client);
    // A proxy closes its quotes; where it does not, nobody can tell what it has written from what was there.
    let first = lines
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    if first.iter().filter(|&&byte| byte == b'"').count() % 2 == 0 {
        let longer = [prefix.as_bytes(), lines].concat();
        let mut headers = HeaderMap::new();
        for line in longer.split(|&byte| byte == b'\n') {
            let value = HeaderValue::from_bytes(line).expect("as before, and a prefix in ASCII");
            headers.append(HeaderName::from_static(header), value);
        }
        assert_eq!(proxies.client(proxy, &headers), client);
    }
}
