//! Whose request it is, where proxies stand between.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

use super::network::{Network, any_contains};
use crate::config::ProxiesConfig;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where trusted proxies write whose request they pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Nowhere.
    None,
}

/// The proxies whose word counts.
#[derive(Clone, Debug)]
pub struct Proxies {
    trusted: Vec<Network>,
    header: ForwardedHeader,
}

impl Proxies {
    /// As configured; none where there are no proxies, or none that says anything.
    #[must_use]
    pub fn from_config(config: &ProxiesConfig) -> Option<Self> {
        let says = config.header != ForwardedHeader::None && !config.trusted.is_empty();
        says.then(|| Self {
            trusted: config.trusted.clone(),
            header: config.header,
        })
    }

    /// The address that the request of a connection from `peer` comes from: the rightmost one that is no trusted
    /// proxy's. What stands to the left of it was written by somebody who is not trusted. Where a trusted proxy
    /// wrote no address, the last known one counts: that proxy's own. The port is 0 where it is not the peer's.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let is_trusted = |address| any_contains(&self.trusted, address);
        let mut client = peer.ip();
        if !is_trusted(client) {
            return peer;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => &X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => &FORWARDED,
            ForwardedHeader::None => return peer,
        };
        'lines: for line in headers.get_all(name).iter().rev() {
            let Ok(mut left) = line.to_str() else {
                break;
            };
            loop {
                let (before, address) = self.last(left);
                let Some(address) = address else {
                    break 'lines;
                };
                client = address;
                if !is_trusted(client) {
                    break 'lines;
                }
                match before {
                    Some(before) => left = before,
                    None => break,
                }
            }
        }
        if client == peer.ip() {
            peer
        } else {
            SocketAddr::new(client.to_canonical(), 0)
        }
    }
}

impl Proxies {
    /// What stands before the last element of a line, if anything does, and the address in that element.
    fn last<'l>(&self, line: &'l str) -> (Option<&'l str>, Option<IpAddr>) {
        if self.header == ForwardedHeader::Forwarded {
            let (before, element) = last_forwarded(line);
            (before, read_forwarded(element))
        } else {
            let (before, element) = last_listed(line);
            (before, read_listed(element.trim()))
        }
    }
}

/// What stands behind the last comma, and what stands before it.
fn last_listed(line: &str) -> (Option<&str>, &str) {
    match line.rsplit_once(',') {
        Some((before, last)) => (Some(before), last),
        None => (None, line),
    }
}

/// An address, perhaps with a port.
fn read_listed(element: &str) -> Option<IpAddr> {
    if let Ok(address) = element.parse() {
        return Some(address);
    }
    if let Ok(address) = element.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bracketed = element.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse().ok().filter(IpAddr::is_ipv6)
}

/// What stands behind the last comma that is in no quotes, and what stands before it. It is looked for from the
/// right: a quote that an attacker has opened and not closed swallows only what stands to the left.
fn last_forwarded(line: &str) -> (Option<&str>, &str) {
    let mut quoted = false;
    for (index, byte) in line.bytes().enumerate().rev() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return (Some(&line[..index]), &line[index + 1..]),
            _ => {}
        }
    }
    (None, line)
}

/// The address behind `for=` (RFC 7239, section 6), which must be there once. Names that hide the address
/// (`unknown`, `_hidden`) are none.
fn read_forwarded(element: &str) -> Option<IpAddr> {
    if element.contains('\\') {
        return None;
    }
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("for") {
            continue;
        }
        let value = value.trim();
        let plain = match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"')?,
            None => value,
        };
        if found.replace(read_listed(plain)?).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        Proxies {
            trusted: ["10.0.0.0/8", "fd00::/8"]
                .map(|text| text.parse().unwrap())
                .into(),
            header,
        }
    }

    fn client_of(header: ForwardedHeader, peer: &str, lines: &[&[u8]]) -> String {
        let name = match header {
            ForwardedHeader::Forwarded => FORWARDED,
            _ => X_FORWARDED_FOR,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line).unwrap());
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        proxies(header).client(peer, &headers).ip().to_string()
    }

    fn listed(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client_of(ForwardedHeader::XForwardedFor, peer, &lines)
    }

    fn forwarded(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client_of(ForwardedHeader::Forwarded, peer, &lines)
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_counts() {
        assert_eq!(listed("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(
            listed("10.0.0.1", &["1.1.1.1, 203.0.113.9 , 10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(
            listed("10.0.0.1", &["1.1.1.1", "203.0.113.9,10.0.0.3", "10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(listed("fd00::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(listed("10.0.0.1", &["[2001:db8::7]:443"]), "2001:db8::7");
        assert_eq!(listed("10.0.0.1", &["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(listed("10.0.0.1", &["203.0.113.9:1234"]), "203.0.113.9");
        assert_eq!(listed("10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
        assert_eq!(
            listed("10.0.0.1", &["10.0.0.7, 10.0.0.8"]),
            "10.0.0.7",
            "all are trusted"
        );
        assert_eq!(listed("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn who_is_not_trusted_speaks_for_nobody() {
        assert_eq!(listed("203.0.113.1", &["198.51.100.1"]), "203.0.113.1");
        assert_eq!(listed("203.0.113.1", &["10.0.0.1"]), "203.0.113.1");
        assert_eq!(
            forwarded("203.0.113.1", &["for=198.51.100.1"]),
            "203.0.113.1"
        );
    }

    #[test]
    fn what_is_no_address_ends_the_search_at_the_proxy_that_wrote_it() {
        for text in [
            "unknown",
            "",
            "evil.example",
            "1.2.3.4.5",
            "300.1.1.1",
            "[203.0.113.9]",
            "203.0.113.9 x",
        ] {
            assert_eq!(listed("10.0.0.1", &[text]), "10.0.0.1", "{text}");
            let behind = format!("203.0.113.9, {text}, 10.0.0.2");
            assert_eq!(listed("10.0.0.1", &[&behind]), "10.0.0.2", "{text}");
        }
        let strange: &[&[u8]] = &[b"203.0.113.9, \xff"];
        assert_eq!(
            client_of(ForwardedHeader::XForwardedFor, "10.0.0.1", strange),
            "10.0.0.1"
        );
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_has_it() {
        assert_eq!(
            forwarded("10.0.0.1", &["for=203.0.113.9;proto=https;by=10.0.0.1"]),
            "203.0.113.9"
        );
        assert_eq!(
            forwarded("10.0.0.1", &["proto=https; For=\"[2001:db8::7]:4711\""]),
            "2001:db8::7"
        );
        assert_eq!(
            forwarded("10.0.0.1", &["for=1.1.1.1, for=203.0.113.9, for=10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(
            forwarded("10.0.0.1", &["for=1.1.1.1", "for=203.0.113.9"]),
            "203.0.113.9"
        );
        for hidden in [
            "for=unknown",
            "for=_hidden",
            "proto=https",
            "for=\"203.0.113.9",
            "for=203.0.113.9;for=1.1.1.1",
            "for",
        ] {
            assert_eq!(forwarded("10.0.0.1", &[hidden]), "10.0.0.1", "{hidden}");
        }
    }

    /// What a client wrote before the proxy came to it must not hide what the proxy wrote.
    #[test]
    fn a_quote_that_the_client_leaves_open_swallows_nothing_of_the_proxy() {
        assert_eq!(
            forwarded("10.0.0.1", &["for=\"1.1.1.1, for=203.0.113.9"]),
            "203.0.113.9"
        );
        assert_eq!(
            forwarded("10.0.0.1", &["for=\"1.1.1.1\\\", for=203.0.113.9"]),
            "203.0.113.9"
        );
        assert_eq!(
            forwarded("10.0.0.1", &["for=\"", "for=203.0.113.9"]),
            "203.0.113.9"
        );
    }

    proptest! {
        /// Whatever a client sends, the proxy appends its address, and that one counts.
        #[test]
        fn nothing_that_a_client_sends_changes_whose_request_it_is(sent in "[ -~]{0,60}", address: u32) {
            let address = IpAddr::from(address.to_be_bytes());
            prop_assume!(!any_contains(&proxies(ForwardedHeader::None).trusted, address));
            let expected = address.to_string();
            let line = format!("{sent}, {address}");
            prop_assert_eq!(listed("10.0.0.1", &[&line]), expected.clone());
            let line = format!("{sent}, for={address}");
            prop_assert_eq!(forwarded("10.0.0.1", &[&line]), expected.clone());
            let line = format!("{sent}, for=\"{address}:80\";proto=https");
            prop_assert_eq!(forwarded("10.0.0.1", &[&line]), expected);
        }
    }
}
