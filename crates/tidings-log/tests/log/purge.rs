//! A purged tenant is gone: at once to every reader, soon from every file, and for good.

use std::path::Path;
use std::time::Duration;

use tidings_log::{AppendError, Resume, Scope, verify_with};

use crate::support::{Bench, NO_LIMIT, bulky, event, keyed, of_subject, tenant};

/// What stands in each of the purged tenant's events and in nobody else's.
const MARK: &str = "nobody-may-find-this";

/// Several sealed segments and an active one, in which three tenants alternate.
fn filled() -> Bench {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    fill(&bench);
    bench
}

fn fill(bench: &Bench) {
    for number in 0..45 {
        let (owner, data) = match number % 3 {
            1 => (1, format!("{MARK} {number} {}", "x".repeat(6_000))),
            other => (other, format!("{number} {}", "y".repeat(6_000))),
        };
        let owner = tenant(u8::try_from(owner).unwrap());
        bench.append(owner, vec![event(&data)]).unwrap();
    }
}

fn of_others(bench: &Bench) -> Vec<String> {
    let texts = bench.texts(Scope::All).into_iter();
    texts.filter(|text| !text.contains(MARK)).collect()
}

fn files_with_mark(bench: &Bench) -> Vec<String> {
    let names = bench.storage.names().into_iter();
    names
        .filter(|name| bench.storage.find(name, MARK.as_bytes()).is_some())
        .collect()
}

fn findings(bench: &mut Bench) -> Vec<String> {
    bench.close();
    let report = verify_with(&bench.storage, Path::new("/simulated")).unwrap();
    bench.open();
    report
        .findings
        .into_iter()
        .map(|found| found.what)
        .collect()
}

#[test]
fn a_purged_tenant_is_hidden_at_once_and_soon_gone_from_every_file() {
    let mut bench = filled();
    let others = of_others(&bench);
    assert!(
        files_with_mark(&bench).len() > 2,
        "several segments hold it"
    );
    bench.log().purge(tenant(1)).unwrap();
    // At once, whatever the files still hold.
    assert_eq!(bench.texts(Scope::Tenant(tenant(1))), Vec::<String>::new());
    assert_eq!(bench.texts(Scope::All), others);
    assert_eq!(bench.log().purge_count(), 1);
    bench.wait_for_purge(tenant(1));
    assert_eq!(files_with_mark(&bench), Vec::<String>::new());
    for _ in 0..2 {
        assert_eq!(bench.texts(Scope::All), others);
        assert_eq!(
            bench.lost(Scope::All),
            [],
            "nobody is told that something is missing"
        );
        assert_eq!(bench.log().resume_point(Scope::All, 0), Resume::Exact);
        for other in [0, 2] {
            let scope = Scope::Tenant(tenant(other));
            assert_eq!(bench.log().resume_point(scope, 0), Resume::Exact);
            assert_eq!(bench.read_all(scope, NO_LIMIT).len(), 15);
        }
        bench.kill_and_restart();
    }
    assert_eq!(findings(&mut bench), Vec::<String>::new());
}

/// The story: the store only marks the room of what was removed as free, so a purged tenant's subjects stood
/// in `state.redb` until something else happened to be written there.
#[test]
fn the_state_of_a_purged_tenant_is_gone_at_once_and_soon_from_its_file() {
    let mut bench = Bench::new();
    let subject = |key: &str, text: &str| vec![of_subject("device_status", key, text)];
    for number in 0..50 {
        let key = format!("{MARK}-{number}");
        bench.append(tenant(1), subject(&key, MARK)).unwrap();
        bench
            .append(tenant(2), subject(&key.replace(MARK, "r"), "stays"))
            .unwrap();
    }
    bench.log().state().checkpoint().unwrap();
    assert!(bench.storage.find("state.redb", MARK.as_bytes()).is_some());
    bench.log().purge(tenant(1)).unwrap();
    assert_eq!(bench.log().state().tenants(), [(tenant(2), 50)]);
    bench.wait_for_purge(tenant(1));
    assert_eq!(files_with_mark(&bench), Vec::<String>::new());
    for _ in 0..2 {
        assert_eq!(bench.state_texts(Scope::All), vec!["stays"; 50]);
        bench.kill_and_restart();
    }
    // Built anew from what is retained, it finds nothing of the tenant.
    bench.close();
    bench.storage.delete("state.redb");
    bench.open();
    assert_eq!(bench.state_texts(Scope::All), vec!["stays"; 50]);
}

#[test]
fn a_segment_of_a_purged_tenant_alone_is_no_gap_to_anybody_when_it_goes() {
    let mut bench = Bench::with(|options| options.retention = Duration::from_mins(10));
    bench.append(tenant(1), vec![event(MARK)]).unwrap();
    bench.log().purge(tenant(1)).unwrap();
    bench.wait_for_purge(tenant(1));
    bench.append(tenant(2), vec![event("stays")]).unwrap();
    bench.log().run_upkeep();
    for _ in 0..2 {
        assert_eq!(bench.log().resume_point(Scope::All, 0), Resume::Exact);
        assert_eq!(bench.texts(Scope::All), ["stays"]);
        bench.restart();
    }
}

/// The story: where bytes of a segment had once been damaged, everything that it spoke of counted as taken by
/// retention when it went, the purged tenant's positions too, and who reads all tenants was told of a gap in
/// which nothing is missing.
#[test]
fn a_damaged_segment_with_a_purged_tenant_is_no_gap_behind_what_expired_of_others() {
    let mut bench = Bench::with(|options| options.retention = Duration::from_mins(10));
    bench.put(tenant(2), &["old"]);
    let damaged = bench.put(tenant(2), &["damaged"]).last;
    bench.clock.pass(305_000_000);
    bench.put(tenant(1), &[MARK]);
    let (name, at) = bench.storage.find_in_segments(b"damaged");
    bench.storage.damage(&name, |bytes| bytes[at] ^= 1);
    assert_eq!(bench.lost(Scope::All).len(), 1);
    bench.log().purge(tenant(1)).unwrap();
    bench.wait_for_purge(tenant(1));
    bench.put(tenant(2), &["stays"]);
    bench.clock.pass(305_000_000);
    bench.log().run_upkeep();
    for _ in 0..2 {
        let Resume::Expired(expired) = bench.log().resume_point(Scope::All, damaged - 1) else {
            panic!("what was damaged may have been anybody's");
        };
        assert_eq!(expired.removed_through, damaged);
        let resume = bench.log().resume_point(Scope::All, damaged);
        assert_eq!(resume, Resume::Exact);
        assert_eq!(bench.texts(Scope::All), ["stays"]);
        bench.restart();
    }
}

#[test]
fn nothing_is_ever_stored_again_for_a_purged_tenant() {
    let mut bench = Bench::new();
    bench.append(tenant(1), vec![keyed("first", 1)]).unwrap();
    bench.log().purge(tenant(1)).unwrap();
    for _ in 0..2 {
        for body in [event("new"), keyed("first", 1)] {
            assert_eq!(
                bench.append(tenant(1), vec![body]),
                Err(AppendError::Purged)
            );
        }
        assert_eq!(bench.put(tenant(2), &["of another"]).accepted, 1);
        assert_eq!(bench.log().purged(), [tenant(1)]);
        bench.restart();
    }
    bench.wait_for_purge(tenant(1));
    assert_eq!(bench.log().is_on_disk(tenant(1)), Some(false));
    assert_eq!(bench.log().is_on_disk(tenant(2)), None);
    bench.kill_and_restart();
    assert_eq!(bench.log().is_on_disk(tenant(1)), Some(false));
    assert_eq!(bench.texts(Scope::All), ["of another", "of another"]);
}

#[test]
fn a_purge_stands_between_what_was_stored_before_and_what_is_refused_after() {
    let bench = Bench::new();
    let before: Vec<_> = (0..20)
        .map(|number| bench.submit(tenant(1), vec![bulky(number, 100)]))
        .collect();
    bench.log().purge(tenant(1)).unwrap();
    let after = bench.append(tenant(1), vec![event("late")]);
    assert_eq!(after, Err(AppendError::Purged));
    for answer in before {
        // Each was either stored before, and purged with the rest, or refused.
        let answer = answer.recv().unwrap();
        assert!(
            matches!(answer, Ok(_) | Err(AppendError::Purged)),
            "{answer:?}"
        );
    }
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
}

/// Whatever change of the disk is the last one before the power fails: after the next start the purge
/// goes on by itself, and of the others nothing is missing.
#[test]
fn a_purge_that_is_cut_off_anywhere_goes_on_at_the_next_start() {
    let mut cut_off = 0;
    for changes in 1.. {
        let mut bench = filled();
        let others = of_others(&bench);
        bench.storage.die_after_changes(changes);
        let purged = bench.log().purge(tenant(1));
        if purged.is_ok() {
            bench.wait_for_purge(tenant(1));
        }
        let died = bench.storage.has_died();
        let mut bits = changes.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        bench.lose_power(|| {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            bits % 2 == 0
        });
        bench.open();
        match (&purged, bench.log().is_on_disk(tenant(1))) {
            (Ok(()), None) => panic!("cut off after {changes} changes, the purge is forgotten"),
            // It was refused, and nothing of it has happened.
            (Err(_), None) => {
                assert_eq!(bench.texts(Scope::Tenant(tenant(1))).len(), 15);
                bench.log().purge(tenant(1)).unwrap();
            }
            _ => {}
        }
        assert_eq!(of_others(&bench), others, "cut off after {changes} changes");
        assert_eq!(
            bench.texts(Scope::All),
            others,
            "cut off after {changes} changes"
        );
        bench.wait_for_purge(tenant(1));
        assert_eq!(files_with_mark(&bench), Vec::<String>::new());
        assert_eq!(bench.texts(Scope::All), others);
        assert_eq!(bench.lost(Scope::All), []);
        if !died {
            break;
        }
        cut_off += 1;
    }
    assert!(cut_off > 20, "only {cut_off} places to cut it off");
}

#[test]
fn a_reader_that_is_under_way_is_told_of_no_loss_while_segments_are_rewritten() {
    let bench = filled();
    let others = of_others(&bench);
    std::thread::scope(|threads| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    while bench.log().is_on_disk(tenant(1)) != Some(false) {
                        assert_eq!(bench.lost(Scope::All), []);
                        assert_eq!(of_others(&bench), others);
                        assert_eq!(bench.lost(Scope::Tenant(tenant(1))), []);
                    }
                })
            })
            .collect();
        bench.log().purge(tenant(1)).unwrap();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(bench.lost(Scope::All), []);
}

#[test]
fn damaged_bytes_of_a_purged_tenant_go_too() {
    let mut bench = filled();
    bench.restart();
    // The frame's head no longer says whose it is; its payload stands there all the same.
    let (name, at) = bench.storage.find_in_segments(MARK.as_bytes());
    bench.storage.damage(&name, |bytes| bytes[at - 60] ^= 1);
    let others = of_others(&bench);
    let lost = bench.lost(Scope::All);
    assert_eq!(lost.len(), 1);
    bench.log().purge(tenant(1)).unwrap();
    bench.wait_for_purge(tenant(1));
    assert_eq!(files_with_mark(&bench), Vec::<String>::new());
    for _ in 0..2 {
        assert_eq!(of_others(&bench), others);
        assert_eq!(
            bench.lost(Scope::All),
            lost,
            "what was lost before stays said so"
        );
        bench.restart();
    }
}

/// Once it took a minute, or for ever: the upkeep thread, which waited for a new segment, nudged the writer as
/// often as the writer looked for room, and the writer looked only where nothing had come.
#[test]
fn a_purge_waits_for_room_and_goes_on_by_itself() {
    let bench = filled();
    bench.storage.set_full(true);
    bench.storage.set_full_for_writes(true);
    bench.log().purge(tenant(1)).unwrap();
    assert_eq!(bench.texts(Scope::Tenant(tenant(1))), Vec::<String>::new());
    bench.storage.set_full_for_writes(false);
    bench.storage.set_full(false);
    bench.wait_for_purge(tenant(1));
    assert_eq!(files_with_mark(&bench), Vec::<String>::new());
    bench.put(tenant(2), &["and the log goes on"]);
}

#[test]
fn a_log_that_has_failed_can_purge_too() {
    let mut bench = filled();
    // Whatever the upkeep thread had to sync is done: the fault meets the writer.
    bench.restart();
    bench.storage.fail_next_sync();
    bench.append(tenant(2), vec![event("x")]).unwrap_err();
    bench.log().purge(tenant(1)).unwrap();
    assert_eq!(bench.texts(Scope::Tenant(tenant(1))), Vec::<String>::new());
    bench.kill_and_restart();
    bench.wait_for_purge(tenant(1));
    assert_eq!(files_with_mark(&bench), Vec::<String>::new());
}
