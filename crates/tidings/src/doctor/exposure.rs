//! Who can reach the listeners, by their addresses alone.

use std::net::{IpAddr, SocketAddr};

use super::report::Finding;
use crate::config::Config;

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// This machine.
    Machine,
    /// A private network.
    Network,
    /// Every network that this machine is in.
    All,
    /// The internet, if nothing stands before it.
    Public,
}

fn reach(address: IpAddr) -> Reach {
    let address = address.to_canonical();
    let private = match address {
        IpAddr::V4(four) => four.is_private() || four.is_link_local(),
        IpAddr::V6(six) => six.is_unique_local() || six.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Reach::Machine
    } else if address.is_unspecified() {
        Reach::All
    } else if private {
        Reach::Network
    } else {
        Reach::Public
    }
}

/// Judges the listeners.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![admin(config.admin_listen)];
    findings.extend(config.listen.map(public));
    findings.extend(
        config
            .tls
            .listen
            .map(|address| Finding::good("exposure", format!("the API is at {address} over TLS"))),
    );
    findings
}

fn admin(address: SocketAddr) -> Finding {
    let what = format!("the admin listener is at {address}");
    let advice = "it asks nobody who they are: set admin_listen to 127.0.0.1 or to an address of a network for \
                  operators alone, and let a firewall keep others from it";
    match reach(address.ip()) {
        Reach::Machine => Finding::good("exposure", format!("{what}, for this machine alone")),
        Reach::Network => Finding::good("exposure", format!("{what}, a private network's")),
        Reach::All => Finding::warning(
            "exposure",
            format!("{what}, so on every network of this machine"),
            advice,
        ),
        Reach::Public => Finding::problem("exposure", format!("{what}, a public address"), advice),
    }
}

fn public(address: SocketAddr) -> Finding {
    let what = format!("the API is at {address}");
    let advice = "it speaks plain HTTP there, and access tokens can be read on the way: put a proxy with TLS in front \
                  (docs/behind-a-proxy.md) or use its own (docs/tls.md), and listen on 127.0.0.1 or a private address";
    match reach(address.ip()) {
        Reach::Machine => Finding::good("exposure", format!("{what}, for this machine alone")),
        Reach::Network => Finding::good("exposure", format!("{what}, a private network's")),
        Reach::All | Reach::Public => Finding::warning(
            "exposure",
            format!("{what}, open to other networks"),
            advice,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn an_admin_listener_on_a_public_address_is_a_problem() {
        for (address, weight) in [
            ("127.0.0.1:1", Weight::Good),
            ("[::1]:1", Weight::Good),
            ("10.1.2.3:1", Weight::Good),
            ("[fd00::1]:1", Weight::Good),
            ("[::ffff:192.168.1.1]:1", Weight::Good),
            ("0.0.0.0:1", Weight::Warning),
            ("[::]:1", Weight::Warning),
            ("203.0.113.7:1", Weight::Problem),
            ("[2001:db8::1]:1", Weight::Problem),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(admin(address).weight, weight, "{address}");
            let expected = weight.min(Weight::Warning);
            assert_eq!(public(address).weight, expected, "{address}");
        }
    }
}
