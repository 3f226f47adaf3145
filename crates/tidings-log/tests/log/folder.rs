//! The folder on the real file system: who has it, which format it is in, what verify finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use tidings_log::{
    EventRef, Health, Listener, Log, LogOptions, OpenError, Scope, VerifyReport, verify,
};

use crate::support::{bulky, event, tenant};

struct Silent;

impl Listener for Silent {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

fn options(path: &Path) -> LogOptions {
    LogOptions {
        max_bytes: 4 << 20,
        owner: "pid 123, 127.0.0.1:8080".to_owned(),
        ..LogOptions::new(path)
    }
}

fn open(path: &Path) -> Result<Log, OpenError> {
    Log::open(options(path), Box::new(Silent))
}

fn append(log: &Log, events: Vec<tidings_log::NewEvent>) {
    let (sender, answer) = channel();
    log.submit(
        tenant(1),
        events,
        Box::new(move |outcome| sender.send(outcome).unwrap()),
    )
    .unwrap();
    answer.recv().unwrap().unwrap();
}

fn count(log: &Log) -> usize {
    let mut count = 0;
    let limit = crate::support::NO_LIMIT;
    log.read(Scope::All, 0, limit, &mut |_| count += 1).unwrap();
    count
}

#[test]
fn a_folder_in_use_names_its_holder_and_is_free_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    match open(folder.path()) {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, "pid 123, 127.0.0.1:8080"),
        other => panic!("{other:?}"),
    }
    log.close();
    let log = open(folder.path()).unwrap();
    drop(log);
    open(folder.path()).unwrap().close();
}

#[test]
fn a_newer_format_is_refused_naming_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().close();
    fs::write(folder.path().join("FORMAT"), "tidings-log 99\n").unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("format 99") && error.contains("up to 3"),
        "{error}"
    );
    assert!(
        verify(folder.path())
            .unwrap_err()
            .to_string()
            .contains("format 99")
    );
    fs::write(folder.path().join("FORMAT"), "a shopping list").unwrap();
    assert!(matches!(
        open(folder.path()),
        Err(OpenError::NotALog { .. })
    ));
}

/// Version 1 knew no subjects; apart from that its bytes are those of today.
#[test]
fn a_folder_of_the_version_before_subjects_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    append(&log, vec![event("old")]);
    log.close();
    let segment = folder.path().join("segments/0000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    for copy in [8, 2048 + 8] {
        assert_eq!(bytes[copy], 2);
        bytes[copy] = 1;
    }
    fs::write(&segment, bytes).unwrap();
    let format = folder.path().join("FORMAT");
    fs::write(&format, "tidings-log 1\n").unwrap();
    assert!(verify(folder.path()).unwrap().findings.is_empty());

    let log = open(folder.path()).unwrap();
    append(&log, vec![event("new")]);
    assert_eq!(count(&log), 2);
    log.close();
    // The version that wrote the folder would misread it from now on.
    assert_eq!(fs::read_to_string(&format).unwrap(), "tidings-log 2\n");
    assert!(verify(folder.path()).unwrap().findings.is_empty());
}

#[test]
fn segments_without_a_format_are_not_taken_for_a_new_log() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().close();
    fs::remove_file(folder.path().join("FORMAT")).unwrap();
    assert!(matches!(
        open(folder.path()),
        Err(OpenError::NotALog { .. })
    ));
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&one, &two] {
        let log = open(folder.path()).unwrap();
        append(&log, vec![event("mine")]);
        log.close();
    }
    let name = "segments/0000000001.log";
    fs::copy(one.path().join(name), two.path().join(name)).unwrap();
    assert!(matches!(open(two.path()), Err(OpenError::NotALog { .. })));
}

#[test]
fn a_log_on_a_real_disk_survives_restarts_and_keeps_its_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut epoch = None;
    for round in 0..5 {
        let log = open(folder.path()).unwrap();
        assert_eq!(*epoch.get_or_insert(log.epoch()), log.epoch());
        assert_eq!(count(&log), round * 10);
        for number in 0..10 {
            append(&log, vec![bulky(number, 10_000)]);
        }
        log.close();
    }
    let sound = verify(folder.path()).unwrap();
    assert_eq!(sound.findings, []);
    assert_eq!(
        (sound.events, sound.first, sound.last),
        (50, Some(1), Some(50))
    );
    assert_eq!(sound.epoch, epoch);
}

fn folder_with_sealed_segments() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    for number in 0..30 {
        append(&log, vec![bulky(number, 40_000)]);
    }
    log.close();
    let sound = verify(folder.path()).unwrap();
    assert_eq!(sound.findings, []);
    assert_eq!(sound.events, 30);
    assert!(sound.segments > 2);
    folder
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn findings(report: &VerifyReport) -> Vec<(String, bool)> {
    let findings = report.findings.iter();
    findings
        .map(|found| {
            (
                format!("{}: {}", found.file, found.what),
                found.loses_events,
            )
        })
        .collect()
}

#[test]
fn verify_finds_a_flipped_bit_wherever_it_is() {
    let folder = folder_with_sealed_segments();
    let segment = folder.path().join("segments/0000000001.log");
    // In a payload, in a frame's header, and in the first copy of the segment's own header.
    for (at, loses) in [(4096 + 5_000, true), (4096 + 20, true), (20, false)] {
        flip(&segment, at);
        let report = verify(folder.path()).unwrap();
        let found = findings(&report);
        assert!(
            found
                .iter()
                .any(|(what, lost)| what.contains("0000000001.log") && *lost == loses),
            "{at}: {found:?}"
        );
        assert_eq!(found.iter().any(|(_, lost)| *lost), loses, "{found:?}");
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.offset.is_some())
        );
        flip(&segment, at);
    }
    let index = folder.path().join("segments/0000000001.index");
    let length = fs::read(&index).unwrap().len();
    for at in [9, 20, 100, 230, length / 2, length - 3] {
        flip(&index, at);
        let found = findings(&verify(folder.path()).unwrap());
        assert!(
            matches!(&found[..], [(what, false)] if what.contains(".index")),
            "{at}: {found:?}"
        );
        flip(&index, at);
    }
    assert_eq!(verify(folder.path()).unwrap().findings, []);
}

#[test]
fn verify_finds_a_missing_segment_and_a_missing_index() {
    let folder = folder_with_sealed_segments();
    fs::remove_file(folder.path().join("segments/0000000002.index")).unwrap();
    let found = findings(&verify(folder.path()).unwrap());
    assert!(
        matches!(&found[..], [(what, false)] if what.contains("no index")),
        "{found:?}"
    );
    fs::remove_file(folder.path().join("segments/0000000002.log")).unwrap();
    let found = findings(&verify(folder.path()).unwrap());
    assert!(
        matches!(&found[..], [(what, true)] if what.contains("are lost")),
        "{found:?}"
    );
}

#[test]
fn verify_changes_nothing_and_needs_no_lock() {
    let folder = folder_with_sealed_segments();
    let log = open(folder.path()).unwrap();
    let report = verify(folder.path()).unwrap();
    assert!(report.findings.iter().all(|finding| !finding.loses_events));
    log.close();
    assert!(verify(folder.path().join("nowhere")).is_err());
    assert!(
        verify(tempfile::tempdir().unwrap().path()).is_err(),
        "an empty folder is no log"
    );
}
