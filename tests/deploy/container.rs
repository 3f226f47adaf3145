//! The image as a container: what it serves, what it may, and how it ends.

use std::net::SocketAddr;
use std::path::Path;

use tidings_tests::brokers::wait_for;
use tidings_tests::http::{exchange, try_exchange};
use tidings_tests::publish::{self, status};
use tidings_tests::{AccessToken, Request, Watch, new_tenant};

use crate::engine::{Container, Engine, Plan};
use crate::image::Image;
use crate::run;

const SECRET: &str = "of-this-test-and-long-enough-for-hs256";

/// A file that only this user may read, as a secret is.
pub(crate) fn secret(folder: &Path, name: &str, text: &str, user: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file of ours");
    let path = path.display().to_string();
    run("chown", &[user, &path]);
    run("chmod", &["400", &path]);
    path
}

impl Image {
    /// A container of it, without anything that somebody might configure.
    pub(crate) fn plan(&self, name: &str, networks: &[&str]) -> Plan {
        Plan {
            root: self.root().to_owned(),
            user: self.user.clone(),
            folder: self.folder.clone(),
            environment: self.environment.clone(),
            command: self.command.clone(),
            health: self.health.clone(),
            ..Plan::of_this_machine(name, networks, &[])
        }
    }

    /// A new volume, with what an engine puts into it: what the image has there.
    pub(crate) fn new_volume(&self, path: &Path) -> String {
        let target = path.display().to_string();
        let source = format!("{}{}", self.root().display(), self.volume);
        run("cp", &["-a", "--no-target-directory", &source, &target]);
        target
    }
}

pub(crate) fn at(container: &Container, network: &str, port: u16) -> SocketAddr {
    SocketAddr::from((container.addresses[network], port))
}

/// What an engine that confines a container as `compose.yaml` demands leaves to it.
pub(crate) fn assert_without_rights(container: &Container, user: &str) {
    let uid = user.split_once(':').expect("a user and a group").0;
    assert_eq!(container.status("Uid").split_whitespace().next(), Some(uid));
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(container.status(field), "0000000000000000", "{field}");
    }
    assert_eq!(container.status("NoNewPrivs"), "1");
}

#[test]
fn the_image_serves_stops_and_has_its_log_again() {
    let image = Image::build();
    let mut engine = Engine::new(&[("one", [172, 30, 90])]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = secret(folder.path(), "signing-key", SECRET, &image.user);
    let volume = image.new_volume(&folder.path().join("volume"));
    let mut plan = image.plan("tidings", &["one"]);
    plan.mounts = vec![
        format!("{key}:/run/secrets/signing-key:ro"),
        format!("{volume}:{}", image.volume),
    ];
    let setting = ("TIDINGS_AUTH__JWT__SECRET_FILE", "/run/secrets/signing-key");
    plan.environment
        .insert(setting.0.to_owned(), setting.1.to_owned());

    let mut container = engine.start(&plan);
    container.wait_until_well();
    assert_without_rights(&container, &image.user);
    let (address, admin) = (at(&container, "one", 8080), at(&container, "one", 8081));
    wait_for("readiness", || {
        try_exchange(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200)
    });
    let mounts =
        std::fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).expect("of ours");
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .expect("a root");
    assert!(
        root.split(' ')
            .nth(5)
            .is_some_and(|how| how.starts_with("ro,")),
        "{root}"
    );
    // The allocator gives memory back by threads of its own, which it finds by a way that not every static program has.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", container.pid())).expect("of ours");
    let names: Vec<String> = tasks
        .map(|task| {
            std::fs::read_to_string(task.expect("a task").path().join("comm")).unwrap_or_default()
        })
        .collect();
    assert!(
        names.iter().any(|name| name.starts_with("jemalloc_bg")),
        "{names:?}"
    );

    let tenant = new_tenant();
    let token = |role: &str| AccessToken::new("one", &tenant, role).sign(SECRET);
    let path = format!("/tenants/{tenant}/events/stream");
    let minted = exchange(
        address,
        &Request::post("/auth/sse-token").bearer(&token("viewer")),
    )
    .expect(200);
    let mut stream = Watch::at(address, &path)
        .token(minted["token"].as_str().expect("a token"))
        .open();
    let event = |number| publish::one(&tenant, &token("publisher"), &status("r1", number));
    let first = publish::must(address, &event(1));
    assert_eq!(stream.next_event().cursor(), first.last);
    let second = publish::must(address, &event(2));
    // As the first process of its namespace it would not hear a signal that it does not handle.
    assert_eq!(container.stop().code(), Some(0));

    let mut container = engine.start(&plan);
    container.wait_until_well();
    let mut stream = Watch::at(at(&container, "one", 8080), &path)
        .bearer(&token("viewer"))
        .after(&first.last)
        .open();
    assert_eq!(stream.next_event().cursor(), second.last);
    assert_eq!(container.stop().code(), Some(0));
}

/// A static C library looks names up by itself, in the files that an engine puts into a container.
#[test]
fn names_are_found_in_a_file_and_by_dns() {
    let image = Image::build();
    let mut engine = Engine::new(&[("two", [172, 30, 91])]);
    let command = ["redis-server", "--save", "", "--protected-mode", "no"];
    let mut redis = Plan::of_this_machine("redis", &["two"], &command);
    redis.health = ["redis-cli", "ping"].map(ToOwned::to_owned).to_vec();
    let mut redis = engine.start(&redis);
    redis.wait_until_well();
    let mut plan = image.plan("tidings", &["two"]);
    plan.hosts = vec![("by-file.test".to_owned(), redis.addresses["two"])];
    plan.mounts = vec![format!("tmpfs:{}", image.volume)];
    for (name, value) in [
        ("AUTH__JWT__SECRET", SECRET),
        ("TOKENS__KIND", "redis"),
        ("REDIS__URL", "redis://redis:6379"),
    ] {
        plan.environment
            .insert(format!("TIDINGS_{name}"), value.to_owned());
    }
    let mut container = engine.start(&plan);
    container.wait_until_well();
    for (name, is_found) in [
        ("redis", true),
        ("by-file.test", true),
        ("nobody.test", false),
    ] {
        let url = format!("redis://{name}:6379");
        let words = ["/usr/bin/tidings", "doctor"].map(ToOwned::to_owned);
        let (_, said) = container.execute(&words, &[("TIDINGS_REDIS__URL", &url)]);
        assert_eq!(
            said.contains("tokens can be kept and taken"),
            is_found,
            "{name}: {said}"
        );
    }
}
