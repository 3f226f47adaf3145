//! The image without an engine: what its file says is read, and the static binary runs as it would, in an empty root
//! and as the same user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::{exchange, try_exchange};
use tidings_tests::publish::{self, status};
use tidings_tests::server::any_address;
use tidings_tests::{AccessToken, RedisOptions, RedisServer, Request, Watch, new_tenant};

use crate::{made, text_of};

const FILE: &str = "deploy/container/Containerfile";

/// An instruction and what stands behind it.
type Instruction = (String, String);

/// The stages of the file, each with its name.
fn stages(text: &str) -> Vec<(String, Vec<Instruction>)> {
    let joined = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let mut stages: Vec<(String, Vec<Instruction>)> = Vec::new();
    for line in joined
        .replace("\\\n", " ")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (word, rest) = line
            .split_once(' ')
            .unwrap_or_else(|| panic!("no instruction: {line}"));
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        if word == "FROM" {
            let name = rest.split_once(" AS ").map_or("", |(_, name)| name);
            stages.push((name.to_owned(), Vec::new()));
        }
        let stage = stages.last_mut().expect("FROM comes first");
        stage.1.push((word.to_owned(), rest));
    }
    stages
}

/// What the image is run with.
struct Image {
    user: String,
    folder: String,
    environment: BTreeMap<String, String>,
    command: Vec<String>,
    health: Vec<String>,
}

impl Image {
    fn read() -> Self {
        let stages = stages(&text_of(FILE));
        let last = &stages.last().expect("a stage").1;
        let one = |word: &str| -> String {
            let found: Vec<&String> = last
                .iter()
                .filter(|(name, _)| name == word)
                .map(|(_, rest)| rest)
                .collect();
            assert_eq!(found.len(), 1, "{word} in the last stage: {found:?}");
            found[0].clone()
        };
        let words = |json: &str| -> Vec<String> {
            serde_json::from_str(json)
                .unwrap_or_else(|error| panic!("{error}: no shell is there for {json}"))
        };
        let (_, health) = one("HEALTHCHECK")
            .split_once("CMD ")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("CMD");
        let pairs = one("ENV");
        Self {
            user: one("USER"),
            folder: one("WORKDIR"),
            environment: pairs
                .split(' ')
                .map(|pair| {
                    let (name, value) = pair.split_once('=').expect("NAME=VALUE");
                    (name.to_owned(), value.to_owned())
                })
                .collect(),
            command: [words(&one("ENTRYPOINT")), words(&one("CMD"))].concat(),
            health: words(&health),
        }
    }
}

#[test]
fn the_file_of_the_image_is_sound() {
    const KNOWN: &str =
        "FROM WORKDIR COPY RUN USER VOLUME ENV EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD";
    let stages = stages(&text_of(FILE));
    assert_eq!(stages.len(), 2);
    for (number, (_, instructions)) in stages.iter().enumerate() {
        for (word, rest) in instructions {
            assert!(KNOWN.split(' ').any(|known| known == word), "{word}");
            if let Some(from) = rest.strip_prefix("--from=") {
                let name = from.split(' ').next();
                assert!(
                    stages[..number]
                        .iter()
                        .any(|(known, _)| Some(known.as_str()) == name),
                    "{rest}"
                );
            }
            if word == "FROM" && rest != "scratch" {
                let image = rest.split(' ').next().unwrap_or_default();
                assert!(
                    image.contains('/') && image.contains(':'),
                    "{image} is whatever there is that day"
                );
            }
        }
    }
    let (from, rest) = &stages[1].1[0];
    assert_eq!((from.as_str(), rest.as_str()), ("FROM", "scratch"));
    assert!(
        stages[1].1.iter().all(|(word, _)| word != "RUN"),
        "there is no shell"
    );
    // The compiler is the one that everything is tested with.
    let toolchain = text_of("rust-toolchain.toml");
    let version = toolchain.split('"').nth(1).expect("a version");
    let built_with = &stages[0].1[0].1;
    let minor = version.rsplit_once('.').expect("three numbers").0;
    assert!(
        built_with.contains(&format!("rust:{minor}-")),
        "{built_with} and {version}"
    );
    assert!(
        Image::read()
            .user
            .split(':')
            .all(|id| id.parse::<u32>().is_ok_and(|id| id > 0))
    );
    // What is left out of the build must not be what it needs: files that are read into the program.
    let ignored = text_of(&format!("{FILE}.dockerignore"));
    assert!(
        !ignored
            .lines()
            .any(|line| matches!(line, "spec" | "crates" | "tests" | "console"))
    );
}

/// A root with nothing but what the image has, and what an engine puts there.
struct Root {
    folder: TempDir,
    image: Image,
    environment: BTreeMap<String, String>,
}

impl Root {
    fn new(listen: u16, admin: u16, secret: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["usr/bin", "etc", "var/lib/tidings", "proc"] {
            std::fs::create_dir_all(at(path)).expect("a folder of ours");
        }
        std::fs::copy(made("TIDINGS_STATIC_BIN"), at("usr/bin/tidings")).expect("a file of ours");
        std::fs::write(at("etc/hosts"), "127.0.0.1 redis.test\n").expect("a file of ours");
        let image = Image::read();
        let mut environment = image.environment.clone();
        for (name, port) in [("TIDINGS_LISTEN", listen), ("TIDINGS_ADMIN_LISTEN", admin)] {
            let value = environment
                .get_mut(name)
                .expect("the image says where to listen");
            assert!(
                value.starts_with("0.0.0.0:"),
                "reachable from outside of the container"
            );
            *value = format!("0.0.0.0:{port}");
        }
        environment.insert("TIDINGS_AUTH__JWT__SECRET".to_owned(), secret.to_owned());
        if geteuid().is_root() {
            let (user, group) = image.user.split_once(':').expect("a user and a group");
            let number = |text: &str| text.parse().expect("a number");
            for path in [at(""), at("var/lib/tidings")] {
                std::os::unix::fs::chown(path, Some(number(user)), Some(number(group)))
                    .expect("as root");
            }
        }
        Self {
            folder,
            image,
            environment,
        }
    }

    /// A command in the root, as the image's user.
    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("unshare");
        if geteuid().is_root() {
            let (user, group) = self.image.user.split_once(':').expect("a user and a group");
            command.args(["--setuid", user, "--setgid", group]);
        } else {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "--root"])
            .arg(self.folder.path())
            .args(["--wd", &self.image.folder])
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> (ExitStatus, String) {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let done = self.command(&words).output().expect("unshare runs");
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        (done.status, said)
    }

    fn health(&self) -> ExitStatus {
        let words: Vec<&str> = self.image.health.iter().map(String::as_str).collect();
        self.run(&words).0
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("var/lib/tidings/log")
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("a process of ours");
        self.0.wait().expect("a child of ours")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_static_binary_serves_from_an_empty_root() {
    let (address, admin) = (any_address(), any_address());
    let secret = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
    let root = Root::new(address.port(), admin.port(), &secret);
    assert!(!root.health().success(), "there is no server yet");
    let command = root.command(&root.image.command);
    let server = Running(
        { command }
            .stderr(Stdio::inherit())
            .spawn()
            .expect("unshare runs"),
    );
    wait_for("a server that is ready", || {
        try_exchange(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200)
    });
    assert!(root.health().success());

    let tenant = new_tenant();
    let token = |role: &str| AccessToken::new("one", &tenant, role).sign(&secret);
    let answer = exchange(
        address,
        &Request::post("/auth/sse-token").bearer(&token("viewer")),
    );
    let stream_token = answer.expect(200)["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let path = format!("/tenants/{tenant}/events/stream");
    let mut stream = Watch::at(address, &path).token(&stream_token).open();
    let request = publish::one(&tenant, &token("publisher"), &status("r1", 1));
    let receipt = publish::must(address, &request);
    assert_eq!(stream.next_event().cursor(), receipt.last);
    assert!(is_log(&root.log()), "the log is in the volume");

    // unshare has become the server, so the engine's signal is for it.
    assert!(server.stop().success());
    assert!(!root.health().success());
}

fn is_log(folder: &Path) -> bool {
    folder.join("FORMAT").is_file()
}

/// A static C library looks up names by itself, in the files that an engine puts into a container.
#[test]
fn names_are_looked_up_without_a_libc_beside_it() {
    let redis = RedisServer::start(&RedisOptions::new());
    let mut root = Root::new(1, 2, "of-this-test-and-long-enough-for-hs256");
    let url = format!("redis://redis.test:{}", redis.address.port());
    root.environment
        .insert("TIDINGS_TOKENS__KIND".to_owned(), "redis".to_owned());
    root.environment
        .insert("TIDINGS_REDIS__URL".to_owned(), url);
    let (_, said) = root.run(&["/usr/bin/tidings", "doctor"]);
    assert!(said.contains("tokens can be kept and taken"), "{said}");
}
