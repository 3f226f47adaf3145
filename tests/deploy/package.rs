//! The Debian package, installed where it does no harm: in a root that shows this machine's files and keeps what is
//! written to itself.

use std::process::Command;

use tidings_tests::server::any_address;

use crate::{made, output_of, repository};

#[test]
fn the_package_installs_runs_upgrades_and_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "bash"])
        .arg(repository("tests/deploy/install.sh"))
        .arg(made("TIDINGS_DEB"))
        .arg(folder.path())
        .args([any_address().to_string(), any_address().to_string()]);
    for name in ["TIDINGS_BIN", "TIDINGS_STATIC_BIN", "TIDINGS_DEB"] {
        command.env_remove(name);
    }
    let said = output_of(&mut command);
    assert!(said.trim_end().ends_with("all as it should be"), "{said}");
}
