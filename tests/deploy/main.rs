//! Containers without an engine: what `deploy/container/` and `deploy/compose/` say is read, and done in namespaces, with
//! the static binary in the root that the image would have, and with real brokers and a real proxy.
//!
//! `scripts/test deploy` makes what this needs (the image's files, the compose file as JSON), and runs it as root in
//! namespaces of its own, so that networks are nobody else's and nothing outlives it.

mod compose;
mod container;
mod engine;
mod image;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Its text.
fn text_of(path: &str) -> String {
    let file = repository(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What `scripts/test deploy` has made.
fn made(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    PathBuf::from(path.unwrap_or_else(|| panic!("{variable} is not set; see scripts/test deploy")))
}

/// Runs a command that must succeed.
fn run(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output();
    let ended = ended.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
}
