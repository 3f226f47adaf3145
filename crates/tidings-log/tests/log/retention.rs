//! What retention takes, what it tells, and what it never does.

use std::time::{Duration, Instant};

use tidings_log::{Expired, ReadLimit, Resume, Scope};

use crate::support::{Bench, HOUR, NO_LIMIT, SECOND, bulky, keyed, tenant};

const DAY: i64 = 24 * HOUR;

fn by_age() -> Bench {
    Bench::with(|options| {
        options.max_bytes = 64 << 20;
        options.retention = Duration::from_hours(24);
    })
}

fn expired(resume_after: u64, removed_through: u64) -> Resume {
    Resume::Expired(Expired {
        resume_after,
        removed_through,
    })
}

#[test]
fn events_expire_exactly_when_they_are_old_enough() {
    let mut bench = by_age();
    bench.put(tenant(1), &["old"]);
    bench.clock.pass(HOUR);
    bench.put(tenant(2), &["newer"]);
    bench.clock.pass(DAY - HOUR);
    assert_eq!(
        bench.texts(Scope::All),
        ["old", "newer"],
        "exactly as old as is kept"
    );
    bench.clock.pass(1);
    // Its segment is still there, and active.
    assert_eq!(bench.texts(Scope::All), ["newer"]);
    assert_eq!(bench.texts(Scope::Tenant(tenant(1))), Vec::<String>::new());
    bench.restart();
    assert_eq!(bench.texts(Scope::All), ["newer"]);
    let (_, end) = bench.read(Scope::All, 0);
    assert_eq!(
        end.expired,
        Some(Expired {
            resume_after: 1,
            removed_through: 1
        })
    );
    bench.clock.pass(HOUR);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    let usage = bench.log().usage();
    assert_eq!(usage.oldest, None);
    bench.put(tenant(1), &["new"]);
    assert_eq!(bench.texts(Scope::All), ["new"]);
}

#[test]
fn a_tenant_is_told_only_of_its_own_removed_events() {
    let mut bench = by_age();
    bench.put(tenant(1), &["1", "2"]);
    bench.put(tenant(2), &["3"]);
    bench.clock.pass(HOUR);
    bench.put(tenant(2), &["4"]);
    bench.put(tenant(1), &["5"]);
    bench.clock.pass(DAY);
    bench.put(tenant(1), &["6"]);
    let check = |bench: &Bench| {
        let log = bench.log();
        assert_eq!(log.resume_point(Scope::Tenant(tenant(1)), 0), expired(2, 2));
        assert_eq!(log.resume_point(Scope::Tenant(tenant(1)), 1), expired(2, 2));
        assert_eq!(log.resume_point(Scope::Tenant(tenant(1)), 2), Resume::Exact);
        assert_eq!(log.resume_point(Scope::Tenant(tenant(2)), 2), expired(3, 3));
        assert_eq!(log.resume_point(Scope::Tenant(tenant(2)), 3), Resume::Exact);
        assert_eq!(log.resume_point(Scope::Tenant(tenant(3)), 0), Resume::Exact);
        assert_eq!(log.resume_point(Scope::All, 2), expired(3, 3));
        assert_eq!(log.resume_point(Scope::All, 3), Resume::Exact);
    };
    check(&bench);
    bench.restart();
    check(&bench);
    bench.kill_and_restart();
    check(&bench);
}

/// Looks at a log at a moment when the upkeep thread does not remove anything; `look` gets the
/// oldest position.
fn settled<T>(bench: &Bench, look: impl Fn(u64) -> T) -> T {
    loop {
        let oldest = bench.log().usage().oldest;
        let seen = look(oldest.expect("something is kept"));
        if bench.log().usage().oldest == oldest {
            return seen;
        }
    }
}

#[test]
fn what_was_unlinked_is_remembered_for_each_tenant() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    // Before the state's thread has begun retention takes nothing; so in the tests below.
    bench.wait_for_state();
    bench.put(tenant(7), &["early and never again"]);
    for number in 0..200 {
        let tenant = tenant(u8::try_from(number % 2).unwrap());
        bench.append(tenant, vec![bulky(number, 12_000)]).unwrap();
    }
    bench.log().run_upkeep();
    for _ in 0..2 {
        let usage = bench.log().usage();
        assert!(usage.bytes <= 1 << 20, "{usage:?}");
        let resume = |scope, after| bench.log().resume_point(scope, after);
        assert_eq!(resume(Scope::Tenant(tenant(7)), 0), expired(1, 1));
        assert_eq!(resume(Scope::Tenant(tenant(7)), 1), Resume::Exact);
        let (kept, oldest, answers) = settled(&bench, |oldest| {
            let kept = bench.read_all(Scope::All, NO_LIMIT);
            // Positions 2, 4, … are tenant 0's, 3, 5, … tenant 1's.
            let last = |number: u64| (2..oldest).rev().find(|at| at % 2 == number).unwrap();
            let answers = [0_u8, 1].map(|number| {
                let (scope, last) = (Scope::Tenant(tenant(number)), last(number.into()));
                (last, resume(scope, last - 1), resume(scope, last))
            });
            (kept, oldest, answers)
        });
        assert!(
            kept.len() > 40,
            "most of the cap is history: {}",
            kept.len()
        );
        assert_eq!(kept[0].position, oldest);
        for (last, before, at) in answers {
            assert_eq!(before, expired(last, last));
            assert_eq!(at, Resume::Exact);
        }
        bench.kill_and_restart();
    }
}

#[test]
fn a_reader_goes_on_while_its_segment_is_removed() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    bench.wait_for_state();
    for number in 0..60 {
        bench
            .append(tenant(1), vec![bulky(number, 12_000)])
            .unwrap();
    }
    let (first, _) = bench.read_limited(
        Scope::All,
        0,
        ReadLimit {
            events: 1,
            bytes: 1,
        },
    );
    let mut seen = Vec::new();
    let end = bench
        .log()
        .read(Scope::All, 0, NO_LIMIT, &mut |event| {
            if seen.is_empty() {
                // Meanwhile so much is published that everything read here is removed.
                for number in 0..120 {
                    bench
                        .append(tenant(1), vec![bulky(number, 12_000)])
                        .unwrap();
                }
                bench.log().run_upkeep();
            }
            seen.push(event.position);
        })
        .unwrap();
    assert_eq!(seen[0], first[0].position);
    assert!(seen.is_sorted());
    // What it could not read any more, the next read tells.
    let (_, next) = bench.read(Scope::All, end.examined_through);
    let removed = next.expired.expect("much was removed");
    assert!(removed.resume_after > end.examined_through);
}

#[test]
fn a_tenants_cap_takes_the_tenants_own_oldest_events_only() {
    let mut bench = Bench::with(|options| options.tenant_max_bytes = 20_000);
    for number in 0..30 {
        bench.append(tenant(1), vec![bulky(number, 2_000)]).unwrap();
        bench.put(tenant(2), &["small"]);
    }
    bench.log().run_upkeep();
    for _ in 0..2 {
        let kept = bench.read_all(Scope::Tenant(tenant(1)), NO_LIMIT);
        assert_eq!(kept.len(), 9, "nine frames of 2,136 bytes fit");
        assert_eq!(bench.read_all(Scope::Tenant(tenant(2)), NO_LIMIT).len(), 30);
        let oldest = kept[0].position;
        let removed = oldest - 2;
        let log = bench.log();
        assert_eq!(
            log.resume_point(Scope::Tenant(tenant(1)), 0),
            expired(removed, removed)
        );
        assert_eq!(
            log.resume_point(Scope::Tenant(tenant(1)), removed),
            Resume::Exact
        );
        assert_eq!(log.resume_point(Scope::Tenant(tenant(2)), 0), Resume::Exact);
        // A reader of all tenants still gets what is left of the others.
        assert_eq!(log.resume_point(Scope::All, 5), expired(5, removed));
        assert_eq!(log.resume_point(Scope::All, removed), Resume::Exact);
        let all = bench.read_all(Scope::All, NO_LIMIT);
        assert_eq!(all.len(), 39);
        bench.kill_and_restart();
    }
}

#[test]
fn a_single_event_above_the_tenants_cap_stays_until_the_next() {
    let bench = Bench::with(|options| options.tenant_max_bytes = 1_000);
    bench.append(tenant(1), vec![bulky(1, 5_000)]).unwrap();
    bench.log().run_upkeep();
    assert_eq!(bench.read_all(Scope::All, NO_LIMIT).len(), 1);
    bench.append(tenant(1), vec![bulky(2, 5_000)]).unwrap();
    bench.log().run_upkeep();
    let kept = bench.read_all(Scope::All, NO_LIMIT);
    assert_eq!(
        kept.iter().map(|event| event.position).collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn old_segments_are_unlinked_though_little_is_published() {
    let bench = by_age();
    bench.wait_for_state();
    for number in 0..20 {
        bench.append(tenant(1), vec![bulky(number, 100)]).unwrap();
        // After three hours the upkeep thread has the writer begin a new segment. It comes round
        // within its interval; wait for the segment rather than for the time.
        let newest = bench.storage.segments().pop();
        bench.clock.pass(4 * HOUR);
        // Under load this wait was once seen not to end, though the log had rolled: the file was made
        // before `newest` was read. Then there is nothing to wait for, and what counts is below.
        let patience = Instant::now() + Duration::from_secs(5);
        while bench.storage.segments().pop() <= newest && Instant::now() < patience {
            std::thread::yield_now();
        }
    }
    bench.log().run_upkeep();
    let kept = bench.read_all(Scope::All, NO_LIMIT);
    assert_eq!(kept.len(), 6, "24 hours, one every four");
    let usage = bench.log().usage();
    assert!(usage.events <= 7, "{usage:?}");
}

#[test]
fn a_horizon_does_not_move_back_when_the_clock_does() {
    let mut bench = by_age();
    bench.put(tenant(1), &["old"]);
    bench.clock.pass(DAY + SECOND);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    bench.clock.set_ahead(-10 * DAY);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    bench.restart();
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    assert_eq!(bench.log().resume_point(Scope::All, 0), expired(1, 1));
}

#[test]
fn a_clock_that_is_set_ahead_while_the_log_runs_expires_nothing() {
    let mut bench = by_age();
    bench.put(tenant(1), &["a"]);
    bench.clock.set_ahead(400 * DAY);
    bench.log().run_upkeep();
    bench.put(tenant(1), &["b"]);
    assert_eq!(bench.texts(Scope::All), ["a", "b"]);
    bench.clock.set_ahead(-400 * DAY);
    bench.put(tenant(1), &["c"]);
    bench.restart();
    assert_eq!(bench.texts(Scope::All), ["a", "b", "c"]);
    bench.clock.pass(DAY + 1);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
}

#[test]
fn a_log_that_was_closed_for_long_expires_what_is_old_at_once() {
    let mut bench = by_age();
    bench.put(tenant(1), &["a"]);
    bench.close();
    bench.clock.pass(2 * DAY);
    bench.open();
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
}

#[test]
fn a_start_with_a_clock_years_ahead_waits_before_it_expires_everything() {
    for corrected in [false, true] {
        let mut bench = by_age();
        bench.put(tenant(1), &["a"]);
        bench.close();
        bench.clock.set_ahead(3_650 * DAY);
        bench.open();
        bench.log().run_upkeep();
        bench.put(tenant(1), &["b"]);
        assert_eq!(bench.texts(Scope::All), ["a", "b"]);
        if corrected {
            bench.clock.set_ahead(-3_650 * DAY);
        }
        bench.clock.pass(11 * 60 * SECOND);
        let expected: &[&str] = if corrected { &["a", "b"] } else { &["b"] };
        assert_eq!(bench.texts(Scope::All), expected);
    }
}

#[test]
fn a_position_before_a_removed_time_says_that_something_is_missing() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    bench.wait_for_state();
    let start = bench.clock.wall();
    for number in 0..200 {
        bench.clock.pass(SECOND);
        bench
            .append(tenant(1), vec![bulky(number, 12_000)])
            .unwrap();
    }
    bench.log().run_upkeep();
    let log = bench.log();
    let early = log.position_before(start).unwrap();
    assert!(matches!(
        log.resume_point(Scope::All, early),
        Resume::Expired(_)
    ));
    let (kept, exact, resume, later) = settled(&bench, |_| {
        let kept = bench.read_all(Scope::All, NO_LIMIT);
        let exact = log.position_before(kept[0].appended_at).unwrap();
        let later = log.position_before(kept[9].appended_at - 1).unwrap();
        (kept, exact, log.resume_point(Scope::All, exact), later)
    });
    assert_eq!(exact, kept[0].position - 1);
    assert_eq!(resume, Resume::Exact);
    assert_eq!(later, kept[9].position - 1);
}

#[test]
fn when_the_removal_cannot_be_noted_nothing_is_removed() {
    // What is unlinked without a note would be silently gone after a restart.
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    for number in 0..40 {
        bench
            .append(tenant(1), vec![bulky(number, 12_000)])
            .unwrap();
    }
    bench.storage.refuse_meta_writes(true);
    let before = bench.read_all(Scope::All, NO_LIMIT);
    let mut appended = 0;
    while bench
        .append(tenant(1), vec![bulky(100 + appended, 12_000)])
        .is_ok()
    {
        appended += 1;
    }
    let now = bench.read_all(Scope::All, NO_LIMIT);
    assert_eq!(now.len(), before.len() + appended);
    bench.storage.refuse_meta_writes(false);
    bench.wait_for_health(|health| matches!(health, tidings_log::Health::Full { .. }));
    bench.wait_for_health(|health| *health == tidings_log::Health::Healthy);
    bench.append(tenant(1), vec![bulky(999, 12_000)]).unwrap();
}

#[test]
fn keys_outlive_the_retention_of_their_events_within_the_window() {
    let bench = Bench::with(|options| options.retention = Duration::from_secs(10));
    bench.append(tenant(1), vec![keyed("a", 1)]).unwrap();
    bench.clock.pass(60 * SECOND);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    let again = bench.append(tenant(1), vec![keyed("a", 1)]).unwrap();
    assert_eq!((again.duplicates, again.first), (1, 1));
}

#[test]
fn a_restart_counts_the_time_that_passed_only_once() {
    // The mark that closing writes once paired the last event's append time with the present run
    // time, so that every restart counted the time since that event again.
    let mut bench = by_age();
    bench.put(tenant(1), &["a"]);
    bench.clock.pass(10 * HOUR);
    for _ in 0..5 {
        bench.restart();
    }
    assert_eq!(bench.texts(Scope::All), ["a"]);
    bench.clock.pass(14 * HOUR + 1);
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
}
