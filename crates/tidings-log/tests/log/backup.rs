//! Backups of a log that goes on, and the logs that are made of them: what comes back, what is told where
//! something is damaged, and what is left where it is cut off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings_log::storage::Storage;
use tidings_log::{
    BackupError, BackupReport, Kinship, Lost, OpenError, RestoreError, RestoreOptions,
    RestoreReport, Resume, Scope, restore_with, verify_with,
};
use tidings_protocol::TenantId;

use crate::simulated::SimulatedStorage;
use crate::support::{Bench, HOUR, NO_LIMIT, bulky, event, keyed, of_subject, tenant};

/// What stands in every event of a tenant that is purged.
const MARK: &str = "nobody-may-find-this";

pub(crate) fn back_up(
    bench: &Bench,
    target: &SimulatedStorage,
) -> Result<BackupReport, BackupError> {
    back_up_while(bench, target, &mut || {})
}

/// Makes a backup, and does something when the segments were copied.
fn back_up_while(
    bench: &Bench,
    target: &SimulatedStorage,
    meanwhile: &mut dyn FnMut(),
) -> Result<BackupReport, BackupError> {
    let storage: Arc<dyn Storage> = Arc::new(target.clone());
    let mut companions = || {
        meanwhile();
        Ok(vec![(
            "beside.txt".to_owned(),
            b"kept beside the log".to_vec(),
        )])
    };
    bench
        .log()
        .backup_with(&storage, Path::new("/target"), &mut companions, &|| false)
}

/// Restores into a disk.
pub(crate) fn restore_into(
    source: &SimulatedStorage,
    into: &SimulatedStorage,
    purge: &[TenantId],
) -> Result<RestoreReport, RestoreError> {
    let storage: Arc<dyn Storage> = Arc::new(into.clone());
    let options = RestoreOptions {
        purge: purge.to_vec(),
    };
    restore_with(
        (source, Path::new("/target")),
        (&storage, Path::new("/restored")),
        &options,
        &mut |_| Ok(()),
    )
}

/// A log that is open on what was restored, kept as another one is.
pub(crate) fn bench_on(storage: &SimulatedStorage, like: &Bench) -> Bench {
    let mut bench = Bench::with(|options| *options = like.options.clone());
    bench.close();
    bench.storage = storage.clone();
    bench.clock = Arc::clone(&like.clock);
    bench.open();
    bench
}

fn restored(source: &SimulatedStorage, like: &Bench) -> (Bench, RestoreReport) {
    let into = SimulatedStorage::new();
    let report = restore_into(source, &into, &[]).expect("it is restored");
    (bench_on(&into, like), report)
}

/// A log of several segments and tenants, with subjects.
fn filled() -> Bench {
    let bench = Bench::new();
    for number in 0..60 {
        let owner = tenant(1 + u8::try_from(number % 3).unwrap());
        bench
            .append(owner, vec![bulky(number, 60_000), event("small")])
            .unwrap();
        let key = format!("device-{number}");
        let text = format!("subject {number}");
        bench
            .append(owner, vec![of_subject("device_status", &key, &text)])
            .unwrap();
    }
    assert!(bench.storage.segments().len() > 3);
    bench
}

fn assert_same(one: &Bench, other: &Bench) {
    for scope in [
        Scope::All,
        Scope::Tenant(tenant(1)),
        Scope::Tenant(tenant(2)),
    ] {
        let of_one = one.read_all(scope, NO_LIMIT);
        let of_other = other.read_all(scope, NO_LIMIT);
        let counts = (of_one.len(), of_other.len());
        assert!(of_one == of_other, "{counts:?} events");
        assert_eq!(one.state_texts(scope), other.state_texts(scope));
        for after in [0, 7, 40] {
            let resume = |bench: &Bench| bench.log().resume_point(scope, after);
            assert_eq!(resume(one), resume(other), "{scope:?} after {after}");
        }
    }
}

/// A log that is kept by bytes removes more at any moment, each by how its own files are filled: the copy has what the log
/// has left since, and tells exactly of what it has not.
fn assert_has_what_is_left(copy: &Bench, log: &Bench) {
    let (all, left) = (
        copy.read_all(Scope::All, NO_LIMIT),
        log.read_all(Scope::All, NO_LIMIT),
    );
    assert!(
        all.ends_with(&left),
        "{} and {} events",
        all.len(),
        left.len()
    );
    assert_eq!(copy.lost(Scope::All), []);
    let Resume::Expired(expired) = copy.log().resume_point(Scope::All, 0) else {
        panic!("something was removed");
    };
    assert_eq!(expired.removed_through + 1, all[0].position);
}

/// A log on what was restored that is not kept by bytes.
fn restored_uncapped(source: &SimulatedStorage, like: &Bench) -> (Bench, RestoreReport) {
    let into = SimulatedStorage::new();
    let report = restore_into(source, &into, &[]).expect("it is restored");
    let mut copy = Bench::new();
    copy.close();
    copy.storage = into;
    copy.clock = Arc::clone(&like.clock);
    copy.open();
    (copy, report)
}

fn findings(storage: &SimulatedStorage) -> Vec<String> {
    let report = verify_with(storage, Path::new("/target")).unwrap();
    let findings = report.findings.iter();
    findings
        .map(|found| format!("{}: {} {}", found.file, found.what, found.loses_events))
        .collect()
}

#[test]
fn a_restored_log_is_the_log_as_it_was_in_a_new_epoch_that_knows_its_parent() {
    let bench = filled();
    let target = SimulatedStorage::new();
    let report = back_up(&bench, &target).unwrap();
    assert_eq!(report.through, bench.log().tail());
    assert_eq!((report.lost.len(), report.purged_since.len()), (0, 0));
    assert!(report.has_state);
    assert_eq!(findings(&target), Vec::<String>::new());

    let (copy, restore) = restored(&target, &bench);
    assert_eq!(restore.events, 180);
    assert_eq!((restore.lost, restore.findings), (vec![], vec![]));
    assert_same(&bench, &copy);
    assert_eq!(copy.storage.content("beside.txt"), b"kept beside the log");

    let (old, new) = (bench.log().epoch(), copy.log().epoch());
    assert_ne!(old, new);
    assert_eq!((restore.parent, restore.epoch), (old, new));
    // Both go on, each by itself.
    bench.put(tenant(1), &["only in the old one"]);
    copy.put(tenant(1), &["only in the new one"]);
    let lineage = copy.log().lineage();
    assert_eq!(lineage.kinship(old, 180), Kinship::Same);
    assert_eq!(lineage.kinship(old, 181), Kinship::Parted(180));
    assert_eq!(bench.log().lineage().kinship(new, 3), Kinship::Strange);
    let mut copy = copy;
    for _ in 0..2 {
        assert_eq!(
            copy.read(Scope::All, 180).0[0].text(),
            "only in the new one"
        );
        assert_eq!(copy.log().epoch(), new);
        copy.kill_and_restart();
    }
    copy.close();
    let found = verify_with(&copy.storage, Path::new("/restored")).unwrap();
    assert!(
        found.findings.iter().all(|found| !found.loses_events),
        "{found:?}"
    );
    assert_eq!(found.epoch, Some(new));
}

#[test]
fn a_backup_holds_what_retention_and_caps_left_and_tells_of_what_they_took() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    // Before the state's thread has begun retention takes nothing.
    bench.wait_for_state();
    for number in 0..40 {
        let owner = tenant(1 + u8::try_from(number % 2).unwrap());
        bench.append(owner, vec![bulky(number, 60_000)]).unwrap();
    }
    bench.log().run_upkeep();
    assert!(matches!(
        bench.log().resume_point(Scope::All, 0),
        Resume::Expired(_)
    ));
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let (copy, restore) = restored_uncapped(&target, &bench);
    assert_eq!(restore.lost, []);
    assert_has_what_is_left(&copy, &bench);
}

#[test]
fn keys_that_were_used_before_a_backup_are_known_after_its_restore() {
    let bench = Bench::new();
    let first = bench.append(tenant(1), vec![keyed("once", 1)]).unwrap();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let (copy, _) = restored(&target, &bench);
    let again = copy.append(tenant(1), vec![keyed("once", 1)]).unwrap();
    assert_eq!((again.accepted, again.first), (0, first.first));
}

#[test]
fn what_an_earlier_backup_has_is_not_copied_again() {
    let bench = filled();
    let target = SimulatedStorage::new();
    let first = back_up(&bench, &target).unwrap();
    assert_eq!(first.segments_copied, first.segments);
    for number in 0..40 {
        bench
            .append(tenant(1), vec![bulky(number, 60_000)])
            .unwrap();
    }
    // Their indexes are what it is told by that nothing has changed.
    let indexed = || {
        let names = bench.storage.names();
        names.iter().filter(|name| name.contains(".index")).count()
    };
    while indexed() < 5 {
        std::thread::yield_now();
    }
    let second = back_up(&bench, &target).unwrap();
    assert!(second.segments > first.segments);
    assert!(
        second.segments_copied <= second.segments - first.segments + 1,
        "{second:?}"
    );
    assert!(
        second.bytes_copied < second.bytes / 2 + (1 << 21),
        "{second:?}"
    );
    assert_eq!(findings(&target), Vec::<String>::new());
    assert_same(&bench, &restored(&target, &bench).0);
}

#[test]
fn a_backup_under_load_is_the_log_as_it_was_at_one_moment() {
    let bench = filled();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            for number in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("live-{}", number % 7);
                let body = vec![
                    bulky(number, 900),
                    of_subject("device_status", &key, "live"),
                ];
                bench.append(tenant(1), body).unwrap();
            }
        });
        for _ in 0..4 {
            let target = SimulatedStorage::new();
            let report = back_up(&bench, &target).unwrap();
            let (copy, restore) = restored(&target, &bench);
            assert_eq!((restore.fork, restore.lost), (report.through, vec![]));
            let all = bench.read_all(Scope::All, NO_LIMIT);
            let through = all.partition_point(|event| event.position <= report.through);
            assert_eq!(copy.read_all(Scope::All, NO_LIMIT), all[..through]);
            assert_eq!(copy.log().tail(), report.through);
            // As a whole body is stored or nothing of it, none was cut in two.
            assert_eq!((report.through - 180) % 2, 0);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

/// Whatever change of the target's disk is the last before it dies: the backup of before is there, or the new
/// one, and the log does not notice.
#[test]
fn a_backup_that_is_cut_off_anywhere_leaves_the_one_before() {
    let bench = filled();
    let mut cut_off = 0;
    for changes in (1..).step_by(3) {
        let target = SimulatedStorage::new();
        target.die_after_changes(changes);
        let first = back_up(&bench, &target);
        let has_died = target.has_died();
        let target = target.kill();
        match restore_into(&target, &SimulatedStorage::new(), &[]) {
            // Where it failed at the very end it is there all the same.
            Ok(restore) => assert_eq!((restore.events, restore.lost.len()), (180, 0)),
            Err(error) => {
                assert!(first.is_err());
                assert!(error.to_string().contains("no finished backup"), "{error}");
            }
        }
        // The next one takes the folder as it finds it.
        let again = back_up(&bench, &target).unwrap();
        assert_eq!(again.through, 180);
        if !has_died {
            break;
        }
        cut_off += 1;
    }
    assert!(cut_off > 10, "only {cut_off} places to cut it off");

    bench.append(tenant(3), vec![bulky(1, 1_000)]).unwrap();
    for changes in (1..).step_by(3) {
        let target = SimulatedStorage::new();
        // Made of the log when it was shorter.
        let old = filled();
        let before = back_up(&old, &target).unwrap();
        old.append(tenant(3), vec![bulky(1, 1_000)]).unwrap();
        target.die_after_changes(changes);
        let second = back_up(&old, &target);
        let has_died = target.has_died();
        let target = target.kill();
        let (copy, restore) = restored(&target, &old);
        assert_eq!(restore.lost, [], "cut off after {changes} changes");
        let through = copy.log().tail();
        match second {
            Ok(_) => assert_eq!(through, before.through + 1),
            Err(_) => assert!(through == before.through || through == before.through + 1),
        }
        if !has_died {
            return;
        }
    }
}

#[test]
fn a_restore_that_is_cut_off_anywhere_leaves_no_log_and_can_be_done_again() {
    let bench = filled();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let mut cut_off = 0;
    for changes in 1.. {
        let into = SimulatedStorage::new();
        into.die_after_changes(changes);
        let outcome = restore_into(&target, &into, &[]);
        let has_died = into.has_died();
        let into = into.kill();
        let before = into.names();
        // Where only the last word of it was not made durable, the log is there.
        let is_whole = before.iter().any(|name| name == "FORMAT")
            && !before.iter().any(|name| name == "RESTORING");
        if outcome.is_err() && !before.is_empty() && !is_whole {
            let mut on_it = Bench::with(|options| *options = bench.options.clone());
            on_it.close();
            on_it.storage = into.clone();
            match on_it.try_open() {
                Err(OpenError::NotALog { what, .. }) => assert!(what.contains("restore"), "{what}"),
                Ok(()) => {
                    // Cut off before its first word, nothing is there that could be taken for a part of a log.
                    assert!(
                        before.iter().all(|name| name == "RESTORING.new"),
                        "{before:?}"
                    );
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
            let error = verify_with(&into, Path::new("/restored")).unwrap_err();
            assert!(error.to_string().contains("restore"), "{error}");
        }
        if outcome.is_err() && !is_whole {
            let report = restore_into(&target, &into, &[]).unwrap();
            assert_eq!(report.lost, []);
        }
        assert_eq!(bench_on(&into, &bench).log().tail(), 180);
        if !has_died {
            break;
        }
        cut_off += 1;
    }
    assert!(cut_off > 20, "only {cut_off} places to cut it off");
}

#[test]
fn a_full_disk_under_a_backup_costs_neither_the_log_nor_the_backup_before() {
    let bench = filled();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let names = target.names();
    bench.append(tenant(1), vec![bulky(1, 1_000)]).unwrap();
    target.set_full_for_all(true);
    match back_up(&bench, &target) {
        Err(BackupError::Io { doing, source }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            assert!(doing.contains("segment-"), "{doing}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(target.names(), names, "what was made in vain is removed");
    bench.put(tenant(1), &["goes on"]);
    target.set_full_for_all(false);
    let later = back_up(&bench, &target).unwrap();
    assert_eq!(later.through, 182);

    let into = SimulatedStorage::new();
    into.set_full_for_all(true);
    let error = restore_into(&target, &into, &[]).unwrap_err();
    assert!(matches!(error, RestoreError::Write(_)), "{error}");
    into.set_full_for_all(false);
    restore_into(&target, &into, &[]).unwrap();
    assert_eq!(bench_on(&into, &bench).log().tail(), 182);
}

#[test]
fn a_damaged_frame_of_the_log_is_told_and_costs_the_backup_nothing_else() {
    let mut bench = filled();
    bench.restart();
    let target = SimulatedStorage::new();
    let (name, at) = bench.storage.find_in_segments(b"00000003xxx");
    let position = bench
        .read_all(Scope::All, NO_LIMIT)
        .iter()
        .find(|event| event.text().starts_with("00000003xxx"))
        .unwrap()
        .position;
    bench.storage.damage(&name, |bytes| bytes[at + 100] ^= 1);
    let report = back_up(&bench, &target).unwrap();
    let lost = Lost {
        first: position,
        last: position + 1,
    };
    assert_eq!(report.lost, [lost]);
    let (copy, restore) = restored(&target, &bench);
    assert_eq!(restore.lost, [lost]);
    assert_eq!(restore.events, 178);
    assert_eq!(copy.lost(Scope::All), [lost]);
    assert_eq!(copy.log().tail(), 180);
}

#[test]
fn a_good_copy_is_not_replaced_by_one_of_a_segment_that_was_damaged_since() {
    let mut bench = filled();
    bench.restart();
    let target = SimulatedStorage::new();
    assert_eq!(back_up(&bench, &target).unwrap().lost, []);
    let (name, at) = bench.storage.find_in_segments(b"00000003xxx");
    bench.storage.damage(&name, |bytes| bytes[at + 100] ^= 1);
    assert_eq!(bench.lost(Scope::All).len(), 1, "the log has met it");
    assert_eq!(back_up(&bench, &target).unwrap().lost, []);
    let (copy, restore) = restored(&target, &bench);
    assert_eq!((restore.events, restore.lost), (180, vec![]));
    assert_eq!(copy.read_all(Scope::All, NO_LIMIT).len(), 180);
}

fn file(target: &SimulatedStorage, part: &str) -> String {
    let names = target.names();
    let found = names.into_iter().find(|name| name.contains(part));
    found.unwrap_or_else(|| panic!("no {part} in {:?}", target.names()))
}

#[test]
fn of_a_damaged_backup_what_is_sound_is_restored_and_the_rest_told() {
    let bench = filled();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    // A payload in one segment, the whole head of another, one of two copies of what was remembered, the state.
    let first = file(&target, "segment-0000000001");
    let at = target.find(&first, b"00000003xxx").unwrap();
    target.damage(&first, |bytes| bytes[at + 100] ^= 1);
    let second = file(&target, "segment-0000000002");
    target.damage(&second, |bytes| bytes[..4096].fill(0xAA));
    let meta = file(&target, "files/meta.redb-");
    target.damage(&meta, |bytes| bytes.fill(0));
    let state = file(&target, "files/state.redb-");
    let state_copy = file(&target, "files/state.redb.copy-");
    for name in [&state, &state_copy] {
        target.damage(name, |bytes| bytes[5_000] ^= 1);
    }
    let found = findings(&target).join("\n");
    for name in [&first, &second, &meta, &state] {
        assert!(found.contains(name.as_str()), "{name}: {found}");
    }
    assert!(found.contains("are lost true"), "{found}");

    let (copy, restore) = restored(&target, &bench);
    assert_eq!(restore.events, 178);
    assert_eq!(restore.lost.len(), 1);
    assert!(!restore.has_state);
    assert!(restore.findings[0].contains("state.redb"), "{restore:?}");
    assert_eq!(copy.lost(Scope::All), restore.lost);
    // The state is built from what there is, which is everything but what was lost.
    assert_eq!(copy.state_texts(Scope::All), bench.state_texts(Scope::All));
}

#[test]
fn a_backup_that_has_lost_its_newest_segment_forks_where_it_ends() {
    let bench = filled();
    let target = SimulatedStorage::new();
    let report = back_up(&bench, &target).unwrap();
    let last = target
        .names()
        .into_iter()
        .rfind(|name| name.contains("segment-"))
        .unwrap();
    target.delete(&last);
    let (copy, restore) = restored(&target, &bench);
    assert!(restore.findings[0].contains(&last), "{restore:?}");
    assert!(restore.fork < report.through);
    assert_eq!(
        restore.lost,
        [Lost {
            first: restore.fork + 1,
            last: report.through
        }]
    );
    let next = copy.put(tenant(1), &["next"]).first;
    assert_eq!(next, restore.fork + 1);
    let kinship = copy.log().lineage().kinship(bench.log().epoch(), next);
    assert_eq!(kinship, Kinship::Parted(restore.fork));
}

#[test]
fn without_what_the_log_remembered_or_without_a_manifest_nothing_is_restored() {
    let bench = filled();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let (one, two) = (
        file(&target, "files/meta.redb-"),
        file(&target, "files/meta.redb.copy-"),
    );
    for name in [&one, &two] {
        target.damage(name, |bytes| bytes[10] ^= 1);
    }
    let error = restore_into(&target, &SimulatedStorage::new(), &[]).unwrap_err();
    assert!(error.to_string().contains("meta.redb"), "{error}");
    target.delete("BACKUP");
    let error = restore_into(&target, &SimulatedStorage::new(), &[]).unwrap_err();
    assert!(error.to_string().contains("no finished backup"), "{error}");
}

/// Files of a disk in which the mark stands.
fn files_with_mark(storage: &SimulatedStorage) -> Vec<String> {
    let mut names = storage.names();
    names.retain(|name| storage.find(name, MARK.as_bytes()).is_some());
    names
}

fn with_tenant_to_purge() -> Bench {
    let bench = filled();
    for number in 0..20 {
        let text = format!("{MARK} {number} {}", "x".repeat(30_000));
        let body = vec![of_subject("device_status", &text[..30], &text)];
        bench.append(tenant(9), body).unwrap();
        bench
            .append(tenant(1), vec![bulky(number, 30_000)])
            .unwrap();
    }
    bench
}

#[test]
fn a_backup_holds_nothing_of_a_purged_tenant_also_where_the_log_still_does() {
    let bench = with_tenant_to_purge();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    assert!(!files_with_mark(&target).is_empty());
    bench.log().purge(tenant(9)).unwrap();
    // Perhaps the log's files still hold it, perhaps not any more.
    let report = back_up(&bench, &target).unwrap();
    assert_eq!(report.purged_since, []);
    assert_eq!(files_with_mark(&target), Vec::<String>::new());
    bench.wait_for_purge(tenant(9));
    back_up(&bench, &target).unwrap();
    assert_eq!(files_with_mark(&target), Vec::<String>::new());
    assert_eq!(findings(&target), Vec::<String>::new());
    let (copy, restore) = restored(&target, &bench);
    assert_eq!(restore.purged, [tenant(9)]);
    assert!(copy.log().is_purged(tenant(9)));
    assert_same(&bench, &copy);
}

#[test]
fn a_purge_during_a_backup_leaves_nothing_in_it_or_is_told() {
    let bench = with_tenant_to_purge();
    let target = SimulatedStorage::new();
    let report = back_up_while(&bench, &target, &mut || {
        bench.log().purge(tenant(9)).unwrap();
    });
    assert_eq!(report.unwrap().purged_since, []);
    assert_eq!(files_with_mark(&target), Vec::<String>::new());

    // Where one purge follows the other for as long as it takes, the last one is told.
    let mut next = 10;
    for number in 10..30 {
        bench.put(tenant(number), &["x"]);
    }
    let report = back_up_while(&bench, &target, &mut || {
        bench.log().purge(tenant(next)).unwrap();
        next += 1;
    })
    .unwrap();
    assert_eq!(report.purged_since, [tenant(next - 1)]);
    assert_eq!(back_up(&bench, &target).unwrap().purged_since, []);
}

#[test]
fn a_tenant_that_was_purged_after_the_backup_is_purged_by_the_restore() {
    let bench = with_tenant_to_purge();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let into = SimulatedStorage::new();
    let report = restore_into(&target, &into, &[tenant(9)]).unwrap();
    assert_eq!(
        (report.purged.as_slice(), report.lost.len()),
        (&[tenant(9)][..], 0)
    );
    assert_eq!(files_with_mark(&into), Vec::<String>::new());
    let copy = bench_on(&into, &bench);
    assert!(copy.log().is_purged(tenant(9)));
    copy.wait_for_purge(tenant(9));
    assert_eq!(files_with_mark(&into), Vec::<String>::new());
    assert_eq!(copy.read_all(Scope::All, NO_LIMIT).len(), 200);
    assert_eq!(copy.lost(Scope::All), []);
    assert!(copy.state_texts(Scope::Tenant(tenant(9))).is_empty());
    assert_eq!(copy.state_texts(Scope::All), {
        bench.log().purge(tenant(9)).unwrap();
        bench.state_texts(Scope::All)
    });
}

#[test]
fn retention_goes_on_during_a_backup_and_what_it_takes_is_left_out() {
    let bench = Bench::with(|options| options.retention = Duration::from_hours(10));
    let target = SimulatedStorage::new();
    for number in 0..40 {
        bench
            .append(tenant(1), vec![bulky(number, 60_000)])
            .unwrap();
        bench.clock.pass(HOUR / 4);
    }
    let resume = || bench.log().resume_point(Scope::All, 0);
    let mut taken = false;
    let report = back_up_while(&bench, &target, &mut || {
        if !std::mem::replace(&mut taken, true) {
            bench.clock.pass(6 * HOUR);
            bench.log().run_upkeep();
        }
    })
    .unwrap();
    assert!(taken && matches!(resume(), Resume::Expired(_)));
    let (copy, restore) = restored(&target, &bench);
    assert_eq!((restore.fork, restore.lost), (report.through, vec![]));
    assert_same(&bench, &copy);
}

#[test]
fn retention_that_takes_everything_during_a_backup_has_it_begun_anew() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    let target = SimulatedStorage::new();
    for number in 0..10 {
        bench
            .append(tenant(1), vec![bulky(number, 60_000)])
            .unwrap();
    }
    let overtake = || {
        for number in 0..40 {
            bench
                .append(tenant(1), vec![bulky(number, 60_000)])
                .unwrap();
        }
        bench.log().run_upkeep();
    };
    // Each time the next attempt is overtaken too.
    assert!(matches!(
        back_up_while(&bench, &target, &mut || overtake()),
        Ok(_) | Err(BackupError::Overtaken)
    ));
    let report = back_up(&bench, &target).unwrap();
    assert_eq!(report.through, bench.log().tail());
    assert_has_what_is_left(&restored_uncapped(&target, &bench).0, &bench);
}

#[test]
fn a_folder_that_holds_anything_else_is_refused() {
    let (bench, other) = (filled(), filled());
    let refused = |target: &SimulatedStorage| match back_up(&bench, target) {
        Err(BackupError::Target { what, .. }) => what,
        outcome => panic!("{outcome:?}"),
    };
    let of_other = SimulatedStorage::new();
    back_up(&other, &of_other).unwrap();
    let what = refused(&of_other);
    assert!(what.contains(&other.log().epoch().to_string()), "{what}");
    assert!(refused(&other.storage).contains("a log"));
    let something = SimulatedStorage::new();
    something
        .open("letter.txt", tidings_log::storage::OpenMode::Create)
        .unwrap();
    assert!(refused(&something).contains("letter.txt"));
    match restore_into(&of_other, &something, &[]) {
        Err(RestoreError::Target { what, .. }) => {
            assert!(
                what.contains("letter.txt") && what.contains("--previous"),
                "{what}"
            );
        }
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(something.names(), ["letter.txt"]);
    // A backup is not taken for a log, nor made into one by being opened.
    let mut on_it = Bench::new();
    on_it.close();
    on_it.storage = of_other.clone();
    let error = on_it.try_open().unwrap_err().to_string();
    assert!(error.contains("tidings log restore"), "{error}");
}

#[test]
fn a_restored_log_can_be_backed_up_where_its_parent_was() {
    let bench = filled();
    let target = SimulatedStorage::new();
    back_up(&bench, &target).unwrap();
    let (copy, _) = restored(&target, &bench);
    copy.put(tenant(1), &["new"]);
    back_up(&copy, &target).unwrap();
    let (again, restore) = restored(&target, &bench);
    assert_eq!(restore.parent, copy.log().epoch());
    assert_same(&copy, &again);
    let lineage = again.log().lineage();
    assert_eq!(lineage.kinship(bench.log().epoch(), 180), Kinship::Same);
    assert_eq!(
        lineage.kinship(bench.log().epoch(), 181),
        Kinship::Parted(180)
    );
    assert_eq!(lineage.kinship(copy.log().epoch(), 181), Kinship::Same);
    assert_eq!(lineage.ancestors().len(), 2);
}

#[test]
fn a_backup_that_is_told_to_stop_leaves_nothing() {
    let bench = filled();
    let target = SimulatedStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(target.clone());
    let stop = || true;
    let outcome = bench.log().backup_with(
        &storage,
        Path::new("/target"),
        &mut || Ok(Vec::new()),
        &stop,
    );
    assert!(matches!(outcome, Err(BackupError::Stopped)));
    assert!(target.names().iter().all(|name| !name.contains("files/")));
    let (mut bench, log) = (bench, ());
    let clone = bench.log().clone();
    bench.close();
    let closed = clone.backup_with(
        &storage,
        Path::new("/target"),
        &mut || Ok(Vec::new()),
        &stop,
    );
    assert!(matches!(closed, Err(BackupError::Stopped)), "{log:?}");
}
