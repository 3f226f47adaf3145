//! What `deploy/` has besides the samples of proxies, tried as it would be used: the unit, the image, compose, and the
//! Debian package. `scripts/test deploy` makes the static binary and the package first, and installs what this calls.

mod compose;
mod container;
mod package;
mod unit;

use std::path::{Path, PathBuf};

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
    let path = PathBuf::from(
        path.unwrap_or_else(|| panic!("{variable} is not set; see scripts/test deploy")),
    );
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{variable}: {}: {error}", path.display()))
}

/// What a command that must succeed prints.
fn output_of(command: &mut std::process::Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, error) = (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    );
    assert!(
        done.status.success(),
        "{command:?}: {}\n{out}\n{error}",
        done.status
    );
    format!("{out}{error}")
}
