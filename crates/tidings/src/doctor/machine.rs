//! Descriptors, and what of the kernel bounds how many clients can come.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::report::Finding;
use super::running::Running;
use crate::config::Config;
use crate::descriptors::{COMFORTABLE, Descriptors};

/// How many connections may wait to be accepted, as the server asks for.
const BACKLOG: u64 = 4096;

/// Looks at the server that runs, or else at this process: started alike, it has the same limits.
#[must_use]
pub fn check(config: &Config, server: Option<&Running>) -> Vec<Finding> {
    let (whose, limit) = match server {
        Some(server) => ("the server's", server.descriptors()),
        None => ("this shell's", getrlimit(Resource::Nofile).maximum),
    };
    let mut findings = vec![descriptors(whose, limit, config.limits.streams)];
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    findings.extend(backlog(number("/proc/sys/net/core/somaxconn")));
    findings
}

/// Judges a limit on descriptors; `streams` is how many the configuration lets in, 0 for any number.
fn descriptors(whose: &str, limit: Option<u64>, streams: u64) -> Finding {
    const RAISE: &str = "raise it: LimitNOFILE= in the systemd unit, --ulimit nofile= of a container, ulimit -n in a shell";
    let check = "descriptors";
    let Some(limit) = limit else {
        return Finding::good(
            check,
            format!("{whose} number of open files is not limited"),
        );
    };
    let room = Descriptors::room(limit);
    let what = format!("{whose} limit is {limit}, which is room for about {room} streams");
    if room < streams {
        let what = format!("{what}, and limits.streams allows {streams}");
        return Finding::problem(check, what, format!("{RAISE}; or lower limits.streams"));
    }
    if limit < COMFORTABLE && streams == 0 {
        return Finding::warning(check, what, RAISE);
    }
    Finding::good(check, what)
}

fn backlog(somaxconn: Option<u64>) -> Option<Finding> {
    let somaxconn = somaxconn?;
    let what = format!(
        "{} connections may wait to be accepted",
        somaxconn.min(BACKLOG)
    );
    Some(if somaxconn < BACKLOG {
        let advice = format!(
            "when all clients come back at once the others wait for a second or more: sysctl net.core.somaxconn={BACKLOG}"
        );
        Finding::warning("backlog", what, advice)
    } else {
        Finding::good("backlog", what)
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn a_limit_is_measured_by_what_the_configuration_lets_in() {
        for (limit, streams, weight) in [
            (Some(1024), 0, Weight::Warning),
            (Some(1024), 500, Weight::Good),
            (Some(1024), 769, Weight::Problem),
            (Some(1_048_576), 0, Weight::Good),
            (Some(20_000), 50_000, Weight::Problem),
            (None, 50_000, Weight::Good),
        ] {
            let finding = descriptors("the server's", limit, streams);
            assert_eq!(finding.weight, weight, "{limit:?} for {streams}");
            assert_eq!(finding.advice.is_some(), weight != Weight::Good);
        }
    }

    #[test]
    fn a_short_backlog_is_said() {
        assert_eq!(backlog(Some(128)).unwrap().weight, Weight::Warning);
        assert_eq!(backlog(Some(4096)).unwrap().weight, Weight::Good);
        assert_eq!(backlog(None), None);
    }
}
