//! A client that follows a stream and shows what it sees.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use tidings_tests::{Decoder, GUARD, Item};

/// An event as a client shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// What the client would resume with.
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: String,
}

impl Shown {
    /// Reads `{"id", "event", "data"}`.
    pub(crate) fn from_json(text: &str) -> Self {
        let value: serde_json::Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        let member = |name: &str| {
            let text = value[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {value}"));
            text.to_owned()
        };
        Self {
            id: member("id"),
            event: member("event"),
            data: member("data"),
        }
    }
}

/// A client at work. Dropping it ends its process.
pub(crate) struct Follower {
    shown: Receiver<Shown>,
    child: Option<Child>,
}

impl Follower {
    /// A client that somebody else runs, and who feeds what it shows.
    pub(crate) fn fed() -> (Sender<Shown>, Self) {
        let (show, shown) = channel();
        (show, Self { shown, child: None })
    }

    /// Starts a program that belongs to it.
    pub(crate) fn runs(&mut self, mut command: Command) {
        use std::os::unix::process::CommandExt as _;
        // A group of its own: browsers have children that must go with them.
        command.process_group(0);
        self.child = Some(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        );
    }

    /// A program that prints each event as one line of JSON.
    pub(crate) fn run(mut command: Command) -> Self {
        let (show, mut follower) = Self::fed();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        follower.runs(command);
        let child = follower.child.as_mut().expect("just started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if show.send(Shown::from_json(&line)).is_err() {
                    return;
                }
            }
        });
        follower
    }

    /// The next event of any name.
    pub(crate) fn next_of_any(&self) -> Shown {
        self.shown
            .recv_timeout(GUARD)
            .unwrap_or_else(|error| panic!("the client shows nothing more: {error}"))
    }

    /// The next event that is not a `cursor`.
    pub(crate) fn next_but_cursors(&self) -> Shown {
        loop {
            let shown = self.next_of_any();
            if shown.event != "cursor" {
                return shown;
            }
        }
    }

    /// The next events that are not `cursor`s.
    pub(crate) fn take(&self, count: usize) -> Vec<Shown> {
        (0..count).map(|_| self.next_but_cursors()).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// curl, as a person at a terminal would use it: called again with the last id when it has ended.
pub(crate) fn curl(stream: &str, access: &str, version: &str) -> Follower {
    let (show, follower) = Follower::fed();
    let (stream, access, version) = (stream.to_owned(), access.to_owned(), version.to_owned());
    std::thread::spawn(move || {
        let mut last = String::new();
        loop {
            let mut command = Command::new("curl");
            command
                .args(["--silent", "--no-buffer", "--fail", &version])
                .args(["--header", &format!("Authorization: Bearer {access}")]);
            if !last.is_empty() {
                command.args(["--header", &format!("Last-Event-ID: {last}")]);
            }
            command
                .arg(&stream)
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            let mut child = command.spawn().expect("curl runs");
            let mut output = child.stdout.take().expect("piped");
            let mut decoder = Decoder::default();
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                for item in decoder.feed(&chunk[..count]) {
                    let Item::Event(event) = item else { continue };
                    if event.id.is_some() {
                        last.clone_from(&event.last_event_id);
                    }
                    let shown = Shown {
                        id: event.last_event_id,
                        event: event.name,
                        data: event.data,
                    };
                    if show.send(shown).is_err() {
                        let _ = child.kill();
                        let _ = child.wait();
                        return;
                    }
                }
            }
            let _ = child.wait();
            // Not so often that it fills the process table while the gate is shut.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    follower
}
