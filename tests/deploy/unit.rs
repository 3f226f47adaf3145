//! The unit of systemd: well formed, as tight as the documentation says, and not too tight for the server.

use std::collections::BTreeSet;
use std::process::Command;

use tidings_tests::publish::status;
use tidings_tests::server::binary;
use tidings_tests::{Setup, new_tenant};

use crate::{output_of, text_of};

const UNIT: &str = "deploy/systemd/tidings.service";

/// What systemd allows whatever a filter says (systemd.exec(5), `SystemCallFilter=`).
const IMPLICIT: &str = "execve exit exit_group getrlimit rt_sigreturn sigreturn clock_gettime clock_nanosleep nanosleep";

/// The values of a setting of the unit, in order.
fn values(unit: &str, name: &str) -> Vec<String> {
    let lines = unit.lines();
    lines
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
        .collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = text_of(UNIT).replace("/usr/bin/tidings", &binary().display().to_string());
    let path = folder.path().join("tidings.service");
    std::fs::write(&path, unit).expect("a file of ours");
    let said = output_of(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path),
    );
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("tidings"))
        .collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn the_unit_is_as_tight_as_the_documentation_says() {
    let unit = crate::repository(UNIT);
    let said = output_of(
        Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(unit),
    );
    let score = said
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for tidings.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .unwrap_or_else(|| panic!("no score: {said}"));
    let documented = text_of("docs/deploy.md");
    let documented = documented
        .split_once("an exposure of **")
        .and_then(|(_, rest)| rest.split_once("**"))
        .expect("the documentation has the score")
        .0;
    let number = |text: &str| {
        text.parse::<f64>()
            .unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    assert!(
        number(score) <= number(documented),
        "{score} is more than {documented}: {said}"
    );
}

/// All calls that the filter lets through, sets of sets worked out.
fn allowed(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in values(unit, "SystemCallFilter") {
        let (names, add) = match line.strip_prefix('~') {
            Some(names) => (names, false),
            None => (line.as_str(), true),
        };
        for name in names.split_whitespace() {
            for call in calls(name) {
                if add {
                    allowed.insert(call);
                } else {
                    allowed.remove(&call);
                }
            }
        }
    }
    allowed.extend(IMPLICIT.split(' ').map(str::to_owned));
    allowed
}

fn calls(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let said = output_of(Command::new("systemd-analyze").args(["syscall-filter", name]));
    let lines = said.lines().map(str::trim);
    let inner = lines.filter(|line| !line.is_empty() && !line.starts_with('#') && *line != name);
    inner.flat_map(calls).collect()
}

/// The calls that the server makes, as the kernel's record (`strace`) has them.
fn made(record: &str) -> BTreeSet<String> {
    let lines = record.lines();
    lines
        .filter_map(|line| {
            // `4711 name(…`, or `4711 <... name resumed>…`, or what has no call: exits and signals.
            let rest = line.split_once(' ')?.1.trim_start();
            let rest = rest.strip_prefix("<... ").unwrap_or(rest);
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
            (end > 0 && matches!(rest.as_bytes()[end], b'(' | b' ')).then(|| rest[..end].to_owned())
        })
        .collect()
}

/// A server that is started, streamed from, published to and stopped, and in its ways to Redis has to look up a name.
#[test]
fn the_unit_forbids_nothing_that_the_server_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let record = folder.path().join("record");
    let path = record.display().to_string();
    let mut server = Setup::new()
        .tokens_in("redis://localhost:1")
        .may_be_unready()
        .under(&["strace", "-f", "-qq", "-o", &path])
        .start();
    let tenant = new_tenant();
    let mut stream = server
        .stream_of(&tenant)
        .bearer(&server.viewer(&tenant))
        .open();
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
    // strace passes the signal on, and ends as the server does.
    assert!(server.stop().success());
    let record = std::fs::read_to_string(&record).expect("a record");

    let unit = text_of(UNIT);
    let (allowed, made) = (allowed(&unit), made(&record));
    assert!(
        made.contains("epoll_wait") && made.contains("fdatasync"),
        "{made:?}"
    );
    assert!(
        !allowed.contains("mount") && !allowed.contains("setuid"),
        "{allowed:?}"
    );
    let forbidden: Vec<&String> = made.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "the unit forbids {forbidden:?}");

    let families = values(&unit, "RestrictAddressFamilies").join(" ");
    for line in record.lines() {
        if let Some((_, family)) = line.split_once(" socket(") {
            let family = family.split(',').next().unwrap_or_default();
            // glibc asks the kernel for this machine's addresses when it looks up a name, and does without.
            assert!(
                families.contains(family) || family == "AF_NETLINK",
                "{line}"
            );
        }
        assert!(
            !line.contains("PROT_WRITE|PROT_EXEC"),
            "memory that is written and run: {line}"
        );
    }
}
