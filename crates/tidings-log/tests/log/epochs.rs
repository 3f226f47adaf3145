//! New epochs of a folder that stays where it is: a log that lacks what it showed, a copy that goes on by itself,
//! and the way back to a format that knows none.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;

use tidings_log::{
    Downgrade, EventRef, Health, Kinship, Listener, Log, LogOptions, NewEvent, OpenError, Scope,
    downgrade, fork, purged_in, verify,
};

use crate::support::{Bench, NO_LIMIT, SECOND, bulky, event, of_subject, tenant};

/// A log that has noted how far it is shown, with its newest segment's name.
fn shown() -> (Bench, String) {
    let mut bench = Bench::new();
    for number in 0..40 {
        bench
            .append(tenant(1), vec![bulky(number, 60_000)])
            .unwrap();
    }
    bench.put(tenant(1), &["last"]);
    bench.close();
    let newest = bench.storage.segments().pop().unwrap();
    (bench, newest)
}

#[test]
fn a_log_whose_newest_segment_is_missing_goes_on_in_a_new_epoch_that_forks_where_it_ends() {
    let (mut bench, newest) = shown();
    bench.open();
    let (old, tail) = (bench.log().epoch(), bench.log().tail());
    bench.close();
    bench.storage.delete(&newest);
    bench.open();
    let (new, fork) = (bench.log().epoch(), bench.log().tail());
    assert_ne!(new, old);
    assert!(fork < tail);
    let lineage = bench.log().lineage().clone();
    assert_eq!(lineage.kinship(old, fork), Kinship::Same);
    assert_eq!(lineage.kinship(old, fork + 1), Kinship::Parted(fork));
    // The position is given again, in another epoch.
    assert_eq!(bench.put(tenant(1), &["other"]).first, fork + 1);
    for _ in 0..3 {
        bench.kill_and_restart();
        assert_eq!(bench.log().lineage(), &lineage, "it is told once");
        bench.restart();
    }
    assert_eq!(bench.texts(Scope::All).last().unwrap(), "other");
}

#[test]
fn a_newest_segment_that_lost_its_end_is_noticed_where_the_end_was_noted() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["kept"]);
    let cut = bench.storage.content(&bench.storage.segments()[0]).len();
    bench.put(tenant(1), &["gone"]);
    let old = bench.log().epoch();
    bench.close();
    let name = bench.storage.segments()[0].clone();
    let at = bench.storage.find(&name, b"gone").unwrap();
    bench
        .storage
        .damage(&name, |bytes| bytes[at - 120..].fill(0));
    assert!(at < cut);
    bench.open();
    assert_ne!(bench.log().epoch(), old);
    assert_eq!(bench.texts(Scope::All), ["kept"]);
    assert_eq!(bench.log().lineage().kinship(old, 2), Kinship::Parted(1));
}

#[test]
fn no_kill_loss_of_power_or_retention_is_taken_for_a_loss() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    let epoch = bench.log().epoch();
    for round in 0..12 {
        for number in 0..12 {
            bench
                .append(tenant(1), vec![bulky(number, 30_000)])
                .unwrap();
            bench.clock.pass(11 * SECOND);
        }
        bench.log().run_upkeep();
        match round % 3 {
            0 => bench.kill_and_restart(),
            1 => {
                bench.lose_power(|| false);
                bench.open();
            }
            _ => bench.restart(),
        }
        assert_eq!(bench.log().epoch(), epoch);
        assert!(bench.log().lineage().ancestors().is_empty());
    }
}

/// A destroyed segment is another case: it is there, so its positions are known to have been given, and are given
/// to nobody else.
#[test]
fn a_destroyed_newest_segment_needs_no_new_epoch() {
    let (mut bench, newest) = shown();
    bench.open();
    let (epoch, tail) = (bench.log().epoch(), bench.log().tail());
    bench.close();
    bench.storage.damage(&newest, |bytes| bytes[..4096].fill(7));
    bench.open();
    assert_eq!(bench.log().epoch(), epoch);
    assert!(bench.put(tenant(1), &["next"]).first > tail);
}

struct Silent;

impl Listener for Silent {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

pub(crate) fn open(path: &Path) -> Result<Log, OpenError> {
    let options = LogOptions {
        max_bytes: 4 << 20,
        retention: std::time::Duration::ZERO,
        ..LogOptions::new(path)
    };
    Log::open(options, Box::new(Silent))
}

pub(crate) fn append(log: &Log, events: Vec<NewEvent>) -> u64 {
    let (sender, answer) = channel();
    log.submit(
        tenant(1),
        events,
        Box::new(move |outcome| sender.send(outcome).unwrap()),
    )
    .unwrap();
    answer.recv().unwrap().unwrap().last
}

pub(crate) fn texts(log: &Log) -> Vec<String> {
    let mut texts = Vec::new();
    log.read(Scope::All, 0, NO_LIMIT, &mut |event| {
        texts.push(String::from_utf8(event.data.to_vec()).unwrap());
    })
    .unwrap();
    texts
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_copied_folder_keeps_its_epoch_until_it_is_forked() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(one.path()).unwrap();
    append(&log, vec![event("shared")]);
    let old = log.epoch();
    assert!(matches!(fork(one.path()), Err(OpenError::Locked { .. })));
    log.close();
    copy_folder(one.path(), two.path());
    let copy = open(two.path()).unwrap();
    assert_eq!(copy.epoch(), old);
    copy.close();
    let forked = fork(two.path()).unwrap();
    assert_eq!((forked.parent, forked.fork), (old, 1));
    let (log, copy) = (open(one.path()).unwrap(), open(two.path()).unwrap());
    append(&log, vec![event("of one")]);
    append(&copy, vec![event("of the other")]);
    assert_eq!((log.epoch(), copy.epoch()), (old, forked.epoch));
    assert_eq!(copy.lineage().kinship(old, 1), Kinship::Same);
    assert_eq!(copy.lineage().kinship(old, 2), Kinship::Parted(1));
    assert_eq!(texts(&copy), ["shared", "of the other"]);
    copy.close();
    log.close();
    assert_eq!(verify(two.path()).unwrap().findings, []);
    assert_eq!(verify(two.path()).unwrap().epoch, Some(forked.epoch));
    let nowhere = tempfile::tempdir().unwrap();
    assert!(matches!(
        fork(nowhere.path()),
        Err(OpenError::NotALog { .. })
    ));
}

fn format(path: &Path) -> String {
    fs::read_to_string(path.join("FORMAT")).unwrap()
}

#[test]
fn a_folder_without_ancestors_stays_one_that_the_version_before_can_open() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    append(&log, vec![event("x")]);
    log.close();
    open(folder.path()).unwrap().close();
    assert_eq!(format(folder.path()), "tidings-log 2\n");
    assert_eq!(downgrade(folder.path(), 2).unwrap(), Downgrade::Unneeded(2));
    assert_eq!(downgrade(folder.path(), 1).unwrap(), Downgrade::Impossible);
}

#[test]
fn the_way_back_to_format_2_loses_the_ancestors_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let log = open(path).unwrap();
    let old = log.epoch();
    for number in 0..30 {
        append(&log, vec![bulky(number, 60_000)]);
    }
    append(&log, vec![of_subject("device_status", "core-1", "up")]);
    log.close();
    let forked = fork(path).unwrap();
    assert_eq!(format(path), "tidings-log 3\n");
    let log = open(path).unwrap();
    append(&log, vec![event("after the fork")]);
    let before = texts(&log);
    assert!(matches!(downgrade(path, 2), Err(OpenError::Locked { .. })));
    log.close();
    match downgrade(path, 2).unwrap() {
        Downgrade::Done { epoch, forgotten } => {
            assert_eq!(epoch, forked.epoch);
            assert_eq!((forgotten[0].epoch, forgotten[0].fork), (old, 31));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(format(path), "tidings-log 2\n");
    assert!(!path.join("EPOCHS").exists());
    // What the older program compares: the epoch of every header with that of meta.redb.
    for entry in fs::read_dir(path.join("segments")).unwrap() {
        let name = entry.unwrap().path();
        if name.extension().is_some_and(|kind| kind == "log") {
            let bytes = fs::read(name).unwrap();
            for copy in [0, 2048] {
                assert_eq!(bytes[copy + 8..copy + 12], 2_u32.to_le_bytes());
                assert_eq!(bytes[copy + 24..copy + 32], forked.epoch.0.to_le_bytes());
            }
        }
    }
    assert!(verify(path).unwrap().findings.is_empty());
    let log = open(path).unwrap();
    assert_eq!(texts(&log), before);
    assert_eq!(log.epoch(), forked.epoch);
    assert_eq!(log.lineage().kinship(old, 1), Kinship::Strange);
    let patience = std::time::Duration::from_mins(1);
    assert!(log.state().wait_through(log.tail(), patience));
    let subject = log.state().latest(tenant(1), "device_status", "core-1");
    assert_eq!(subject.unwrap().event().data, b"up");
    log.close();
}

#[test]
fn a_log_that_lost_the_list_of_its_ancestors_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().close();
    fork(folder.path()).unwrap();
    fs::remove_file(folder.path().join("EPOCHS")).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("EPOCHS"), "{error}");
    assert!(verify(folder.path()).is_err());
}

#[test]
fn who_was_purged_is_found_in_a_folder_that_is_otherwise_broken_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    append(&log, vec![event("x")]);
    log.purge(tenant(1)).unwrap();
    log.close();
    fs::remove_dir_all(folder.path().join("segments")).unwrap();
    fs::write(folder.path().join("FORMAT"), "nonsense").unwrap();
    let meta = fs::read(folder.path().join("meta.redb")).unwrap();
    assert_eq!(purged_in(folder.path()).unwrap(), [tenant(1)]);
    assert_eq!(fs::read(folder.path().join("meta.redb")).unwrap(), meta);
    fs::write(folder.path().join("meta.redb"), "nonsense").unwrap();
    assert!(purged_in(folder.path()).is_err());
    assert!(purged_in(folder.path().join("nowhere")).is_err());
}
