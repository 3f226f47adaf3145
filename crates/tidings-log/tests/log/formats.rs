//! Folders that older versions of the program have written, as they left them (`tests/fixtures/`): each opens, reads the
//! same, and goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidings_log::{Kinship, Resume, Scope, fork, verify};
use tidings_protocol::{Epoch, TenantId};

use crate::epochs::{append, copy_folder, open, texts};
use crate::support::event;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// A copy of what a version has left, of the format that it wrote.
fn left_by(format: u32) -> tempfile::TempDir {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixtures.join(format!("format-{format}")), folder.path());
    assert_eq!(format_of(folder.path()), format!("tidings-log {format}\n"));
    folder
}

fn format_of(folder: &Path) -> String {
    fs::read_to_string(folder.join("FORMAT")).unwrap()
}

/// What each of them holds.
fn events() -> Vec<String> {
    (1..=3)
        .map(|number| {
            format!(
                "{{\"tenant_id\":\"{TENANT}\",\"device_id\":\"core-{number}\",\"status\":\"online\",\"n\":{number}}}"
            )
        })
        .collect()
}

fn opens_and_goes_on(format: u32, epoch: &str) {
    let epoch: Epoch = epoch.parse().unwrap();
    let folder = left_by(format);
    assert!(verify(folder.path()).unwrap().findings.is_empty());
    let tenant: TenantId = TENANT.parse().unwrap();
    let mut expected = events();
    for round in 0..2 {
        let log = open(folder.path()).unwrap();
        assert_eq!(log.epoch(), epoch);
        assert_eq!(texts(&log), expected);
        for position in 0..3 {
            assert_eq!(log.lineage().kinship(epoch, position), Kinship::Same);
            let scope = Scope::Tenant(tenant);
            assert_eq!(log.resume_point(scope, position), Resume::Exact);
        }
        let more = format!("more {round}");
        assert_eq!(append(&log, vec![event(&more)]), 4 + round);
        expected.push(more);
        log.close();
        assert_eq!(format_of(folder.path()), "tidings-log 2\n");
    }
    // It can be forked like any other, and cursors that the older version gave lead on.
    fork(folder.path()).unwrap();
    let log = open(folder.path()).unwrap();
    assert_eq!(log.lineage().kinship(epoch, 3), Kinship::Same);
    assert_eq!(texts(&log), expected);
    log.close();
    assert!(verify(folder.path()).unwrap().findings.is_empty());
}

#[test]
fn a_folder_of_format_1_opens_reads_the_same_and_goes_on() {
    opens_and_goes_on(1, "3mv3qsdl");
}

#[test]
fn a_folder_of_format_2_opens_reads_the_same_and_goes_on() {
    opens_and_goes_on(2, "3wz0gjki");
    let folder = left_by(2);
    let log = open(folder.path()).unwrap();
    assert!(log.state().wait_through(3, Duration::from_mins(1)));
    let tenant: TenantId = TENANT.parse().unwrap();
    let subject = log.state().latest(tenant, "device_status", "core-2");
    let data = subject.unwrap().event().data.to_vec();
    assert_eq!(String::from_utf8(data).unwrap(), events()[1]);
    log.close();
}
