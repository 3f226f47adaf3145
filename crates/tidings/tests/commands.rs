//! The commands as processes: what they print, what they end with, what becomes of what they publish.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use tidings_tests::server::any_address;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const SECRET: &str = "of-these-tests-and-long-enough-for-hs256";
/// After this long something hangs; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_mins(1);

fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command.env("TIDINGS_AUTH__JWT__SECRET", SECRET);
    command
}

/// A process whose lines are read as they come; it does not outlive the test.
struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            lines: lines_of(child.stdout.take().unwrap()),
            errors: lines_of(child.stderr.take().unwrap()),
            child,
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let errors: Vec<_> = self.errors.try_iter().collect();
            panic!("{error}; standard error: {errors:#?}")
        })
    }

    /// The next line of standard error that says this.
    fn error_with(&self, text: &str) -> String {
        self.error_with_any(&[text])
    }

    /// The next line of standard error that says one of these.
    fn error_with_any(&self, texts: &[&str]) -> String {
        loop {
            let line = self.errors.recv_timeout(PATIENCE).unwrap();
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
        }
    }

    /// The next event of `tail --json` that is as wanted.
    fn event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event: Value = serde_json::from_str(&self.line()).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end, which is a success. What is left of standard error.
    fn ended(mut self) -> Vec<String> {
        let status = self.child.wait().unwrap();
        let errors: Vec<_> = self.errors.iter().collect();
        assert!(status.success(), "{status}; standard error: {errors:#?}");
        errors
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A demo and how to reach it.
struct Demo {
    process: Process,
    url: String,
    token: String,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start(listen: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let process = Process::start(
            tidings(&["demo", "--listen", listen, "--admin-listen", "127.0.0.1:0"])
                .args(["--log-path", path.to_str().unwrap()])
                .args(arguments),
        );
        let line = process.line();
        let rest = line.strip_prefix("Tidings demo: ").expect("the one line");
        let (url, token) = rest.split_once("/#token=").unwrap();
        Self {
            url: url.to_owned(),
            token: token.to_owned(),
            process,
            folder,
        }
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = tidings(arguments);
        command
            .env("TIDINGS_URL", &self.url)
            .env("TIDINGS_TOKEN", &self.token);
        command
    }

    fn publish(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .client(&["publish", "--tenant", TENANT])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}

fn is_of_this_machine(event: &Value) -> bool {
    event["data"]["site"] == "This machine"
}

/// Plays up to three times what a machine that stalls for seconds can spoil; `play` says where it has.
fn play_unspoilt(play: impl Fn() -> Result<(), &'static str>) {
    for _ in 0..2 {
        match play() {
            Ok(()) => return,
            Err(spoilt) => eprintln!("once more: {spoilt}"),
        }
    }
    play().unwrap();
}

/// Whether an agent that has ended could take leave in the seconds that it has for that.
fn took_leave(errors: &[String]) -> Result<(), &'static str> {
    let is_late = |line: &String| line.contains("last status was not published");
    if errors.iter().any(is_late) {
        return Err("the agent's last status came too late");
    }
    Ok(())
}

#[test]
fn a_demo_shows_a_fleet_and_this_machine_and_ends_cleanly() {
    play_unspoilt(|| {
        let demo = Demo::start(
            &any_address().to_string(),
            &["--rate", "300", "--interval", "200ms", "--seed", "7"],
        );
        let tail = Process::start(&mut demo.client(&["tail", "--json", "--since", "1h"]));
        see_a_fleet_and_this_machine(&tail);
        demo.process.signal("-TERM");
        // A tail that was behind when its stream was closed has not come to the reason.
        let told = tail.error_with_any(&["draining", "trying again"]);
        if !told.contains("draining") {
            return Err("the tail was behind");
        }
        let second = demo.process.lines.recv_timeout(PATIENCE);
        assert!(second.is_err(), "a second line: {second:?}");
        let Demo {
            process,
            url,
            folder,
            ..
        } = demo;
        took_leave(&process.ended())?;

        // The machine took leave, which the log shows where the stream was closed before it could: a server
        // on the same folder and port gives it to the tail, which resumes by itself.
        let address = url.strip_prefix("http://").unwrap();
        let path = folder.path().join("log");
        let server = Process::start(
            tidings(&[
                "serve",
                "--listen",
                address,
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--log-path", path.to_str().unwrap()]),
        );
        server.error_with("listening");
        tail.event(|event| is_of_this_machine(event) && event["data"]["status"] == "offline");
        tail.signal("-INT");
        tail.ended();
        server.signal("-TERM");
        server.ended();
        Ok(())
    });
}

fn see_a_fleet_and_this_machine(tail: &Process) {
    let mut missing = BTreeSet::from([
        "alert_fired",
        "config_push",
        "device_status",
        "firmware_progress",
        "metric_update",
        "this machine",
    ]);
    let mut tenants = BTreeSet::new();
    while !missing.is_empty() || tenants.len() < 3 {
        let event = tail.event(|_| true);
        missing.remove(event["type"].as_str().unwrap());
        if is_of_this_machine(&event) {
            assert_eq!(event["data"]["status"], "online");
            missing.remove("this machine");
        } else if event["type"] == "device_status" {
            assert_eq!(event["data"]["simulated"], true);
        }
        tenants.insert(event["data"]["tenant_id"].to_string());
    }
}

#[test]
fn publish_stores_exactly_what_stands_before_the_refused_line() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    let line = |number: u32| {
        format!("{{\"type\":\"alert_fired\",\"device_id\":\"d{number}\",\"data\":{{}}}}\n")
    };
    let mut input: String = (1..=7).map(line).collect();
    input.push_str(
        "{\"type\":\"alert_fired\",\"device_id\":\"d8\",\"data\":{\"device_id\":\"other\"}}\n",
    );
    input.push_str(&line(9));

    let refused = demo.publish(&["--batch", "5"], &input);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("7 accepted"), "{said}");
    assert!(said.contains("line 8 was refused"), "{said}");

    let tail = Process::start(&mut demo.client(&[
        "tail",
        "--json",
        "--since",
        "1h",
        "--types",
        "alert_fired",
        "--tenant",
        TENANT,
    ]));
    for number in 1..=7 {
        let event = tail.event(|_| true);
        assert_eq!(event["data"]["device_id"], format!("d{number}"));
    }
    // What comes next is what is published next, so nothing else was stored.
    let marker = demo.publish(
        &[
            "--type",
            "alert_fired",
            "--device",
            "marker",
            "--data",
            "{}",
        ],
        "",
    );
    assert!(marker.status.success());
    assert_eq!(tail.event(|_| true)["data"]["device_id"], "marker");
}

#[test]
fn state_shows_how_things_are_and_tail_can_begin_with_it() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    let input = "{\"type\":\"device_status\",\"device_id\":\"shown-1\",\"data\":{\"status\":\"offline\"}}\n\
                 {\"type\":\"device_status\",\"device_id\":\"shown-1\",\"data\":{\"status\":\"online\"}}\n";
    assert!(demo.publish(&[], input).status.success());
    let state = |arguments: &[&str]| {
        let command = [&["state", TENANT, "--device", "shown-1"], arguments].concat();
        let output = demo.client(&command).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&state(&["--json"])).unwrap();
    assert_eq!(json["subjects"].as_array().unwrap().len(), 1);
    assert_eq!(json["subjects"][0]["data"]["status"], "online");
    let table = state(&["--types", "device_status"]);
    assert!(
        table.contains("shown-1") && table.contains("1 subjects at "),
        "{table}"
    );

    let tail = Process::start(&mut demo.client(&[
        "tail",
        "--json",
        "--snapshot",
        "--conflate",
        "default",
        "--tenant",
        TENANT,
        "--device",
        "shown-1",
    ]));
    let first = tail.event(|_| true);
    assert_eq!(first["id"], json["subjects"][0]["id"]);
    tail.error_with("that is how things are at");
    assert!(
        demo.publish(&[], &input.replace("online", "back"))
            .status
            .success()
    );
    tail.event(|event| event["data"]["status"] == "back");
}

#[test]
fn publishing_again_with_the_same_keys_stores_nothing_twice() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    let input = "{\"type\":\"alert_fired\",\"data\":{}}\n".repeat(3);
    for expected in ["3 accepted, cursors", "0 accepted, 3 stored before"] {
        let output = demo.publish(&["--key-prefix", "again"], &input);
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn tail_ends_quietly_when_its_reader_has_seen_enough() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "100"]);
    let mut tail = demo
        .client(&["tail", "--since", "1h"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(tail.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(
        !first.contains('\x1b'),
        "colours without a terminal: {first}"
    );
    let output = tail.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said.lines()
            .filter(|line| !line.contains("following"))
            .count(),
        0,
        "{said}"
    );
}

#[test]
fn the_agent_reports_once_the_server_is_there_and_takes_leave() {
    let token = tidings(&["token", "--tenant", TENANT, "--role", "publisher"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&token.stderr).contains("for development"));
    let token = String::from_utf8(token.stdout).unwrap();
    play_unspoilt(|| {
        let address = any_address();
        let agent = Process::start(
            tidings(&["agent", "--device", "rack-3", "--interval", "100ms"])
                .env("TIDINGS_URL", format!("http://{address}"))
                .env("TIDINGS_TOKEN", token.trim()),
        );
        agent.error_with("the server takes no events");
        let demo = Demo::start(&address.to_string(), &["--rate", "0"]);
        agent.error_with("the server takes events again");
        let tail = Process::start(&mut demo.client(&[
            "tail", "--json", "--since", "1h", "--device", "rack-3", "--tenant", TENANT,
        ]));
        let mut missing = BTreeSet::from(["device_status", "health", "interfaces"]);
        while !missing.is_empty() {
            let event = tail.event(|_| true);
            missing.remove(event["type"].as_str().unwrap());
            missing.remove(event["data"]["type"].as_str().unwrap_or_default());
        }
        agent.signal("-TERM");
        took_leave(&agent.ended())?;
        tail.event(|event| event["data"]["status"] == "offline");
        Ok(())
    });
}

#[test]
fn a_credential_that_is_not_accepted_ends_a_command_with_the_reason() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    for arguments in [
        &["tail"][..],
        &["agent", "--tenant", TENANT],
        &[
            "publish",
            "--tenant",
            TENANT,
            "--type",
            "alert_fired",
            "--data",
            "{}",
        ],
    ] {
        let output = demo
            .client(arguments)
            .env("TIDINGS_TOKEN", "nonsense")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("401"), "{arguments:?}: {said}");
        assert!(!said.contains("nonsense"), "{arguments:?}: {said}");
    }
}

#[test]
fn serve_without_a_key_names_the_setting() {
    let output = tidings(&["serve"])
        .env_remove("TIDINGS_AUTH__JWT__SECRET")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("auth.jwt.secret")
    );
}

#[test]
fn scripts_and_pages_are_generated() {
    for (arguments, expected) in [
        (&["completions", "bash"][..], "_tidings"),
        (&["completions", "zsh"], "#compdef tidings"),
        (&["man"], ".TH tidings 1"),
        (&["openapi"], "\"openapi\": \"3.1"),
        (&["config", "reference"], "stream.heartbeat"),
    ] {
        let output = tidings(arguments).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(expected), "{arguments:?}");
    }
}

/// What a command prints; it must succeed.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn groups_are_put_shown_and_removed() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    let operate = |arguments: &[&str]| {
        let mut command = demo.client(arguments);
        command.env("TIDINGS_TENANT", TENANT);
        command
    };
    printed(&mut operate(&["groups", "put", "north side", "d1", "d2"]));
    let table = printed(&mut operate(&["groups"]));
    assert_eq!(table, "GROUP       DEVICES\nnorth side        2\n");
    assert_eq!(
        printed(&mut operate(&["groups", "show", "north side"])),
        "d1\nd2\n"
    );
    assert_eq!(
        printed(&mut operate(&["groups", "--json"])),
        "{\"name\":\"north side\",\"devices\":2}\n"
    );

    printed(&mut operate(&["groups", "remove", "north side"]));
    assert_eq!(printed(&mut operate(&["groups", "--json"])), "");
    let refused = operate(&["groups", "remove", "north side"])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("404"), "{said}");
}

#[test]
fn an_operator_sees_who_watches_and_who_saw_and_ends_streams() {
    let demo = Demo::start("127.0.0.1:0", &["--rate", "0"]);
    let operate = |arguments: &[&str]| {
        let mut command = demo.client(arguments);
        command.env("TIDINGS_TENANT", TENANT);
        command
    };
    printed(&mut operate(&["groups", "put", "north side", "d1"]));
    let token = printed(&mut tidings(&[
        "token",
        "--tenant",
        TENANT,
        "--user",
        "ada",
        "--device-group",
        "north side",
    ]));
    let follow = |arguments: &[&str]| {
        let mut command = demo.client(&["tail", "--json"]);
        command.args(arguments).env("TIDINGS_TOKEN", token.trim());
        let tail = Process::start(&mut command);
        tail.error_with("following");
        tail
    };
    let tail = follow(&[]);
    let other = follow(&["--types", "metric_update"]);
    let event = "{\"type\":\"alert_fired\",\"device_id\":\"d1\",\"data\":{}}\n";
    assert!(demo.publish(&[], event).status.success());
    let id = tail.event(|_| true)["id"].as_str().unwrap().to_owned();

    let streams = json_lines(&printed(&mut operate(&[
        "streams", "--user", "ada", "--json",
    ])));
    assert_eq!(streams.len(), 2, "{streams:?}");
    assert!(
        streams
            .iter()
            .all(|one| one["view"]["device_group"] == "north side")
    );
    let table = printed(&mut operate(&["streams"]));
    assert!(table.starts_with("STREAM "), "{table}");
    assert!(table.contains("11111111, group north side"), "{table}");

    let audience = json_lines(&printed(&mut operate(&["audience", &id, "--json"])));
    let mut outcomes: Vec<&str> = audience
        .iter()
        .filter(|one| one["user_id"] == "ada")
        .map(|one| one["outcome"].as_str().unwrap())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["sent", "types_filter"]);
    let table = printed(&mut operate(&["audience", &id]));
    assert!(table.contains("alert_fired, d1"), "{table}");
    assert!(
        table.contains("Sent to 1 of 2 streams, 1 types_filter."),
        "{table}"
    );

    let idle = streams.iter().find(|one| one["events"] == 0).unwrap();
    let name = idle["connection_id"].as_str().unwrap();
    printed(&mut operate(&["streams", "close", name]));
    other.error_with("disconnected");
    let mut put = operate(&["groups", "put", "north side", "-"]);
    let mut put = put.stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"d3\nd4 d5").unwrap();
    assert!(put.wait().unwrap().success());
    tail.error_with("view_changed");
    let revoked = printed(&mut operate(&["streams", "revoke", "--user", "ada"]));
    assert!(revoked.contains("streams were closed."), "{revoked}");
    tail.error_with("revoked");
    printed(&mut operate(&["groups", "remove", "north side"]));
    assert_eq!(printed(&mut operate(&["groups", "--json"])), "");
    let refused = operate(&["groups", "remove", "north side"])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("404"), "{said}");
}
