//! Tenants with settings of their own, and what there is of each.

use std::time::Duration;

use tidings_log::{Expired, Resume, Scope, TenantOptions, TenantUsage};

use crate::support::{Bench, HOUR, bulky, tenant};

const DAY: i64 = 24 * HOUR;

/// A day for all, an hour for tenant 1, a week for tenant 2, for ever for tenant 3.
fn bench() -> Bench {
    Bench::with(|options| {
        options.max_bytes = 64 << 20;
        options.retention = Duration::from_hours(24);
        for (number, hours) in [(1, 1), (2, 7 * 24), (3, 0)] {
            let own = TenantOptions {
                retention: Some(Duration::from_hours(hours)),
                max_bytes: None,
            };
            options.tenants.insert(tenant(number), own);
        }
    })
}

fn expired(resume_after: u64, removed_through: u64) -> Resume {
    Resume::Expired(Expired {
        resume_after,
        removed_through,
    })
}

#[test]
fn each_tenant_loses_its_events_at_its_own_time_and_is_told_of_them_alone() {
    let mut bench = bench();
    for number in [0, 1, 2, 3] {
        bench.put(tenant(number), &[&format!("old {number}")]);
    }
    bench.clock.pass(HOUR + 1);
    bench.put(tenant(1), &["new 1"]);
    let check = |bench: &Bench, all: &[&str], gaps: [Resume; 5]| {
        assert_eq!(bench.texts(Scope::All), all);
        let [of_all, of_others @ ..] = gaps;
        assert_eq!(bench.log().resume_point(Scope::All, 0), of_all);
        for (number, gap) in (0..).zip(of_others) {
            let scope = Scope::Tenant(tenant(number));
            assert_eq!(bench.log().resume_point(scope, 0), gap, "tenant {number}");
            let suffix = number.to_string();
            let own = all.iter().copied();
            let own: Vec<&str> = own.filter(|text| text.ends_with(&suffix)).collect();
            assert_eq!(bench.texts(scope), own, "tenant {number}");
        }
    };
    let exact = Resume::Exact;
    let after_an_hour = ["old 0", "old 2", "old 3", "new 1"];
    let gaps = [expired(0, 2), exact, expired(2, 2), exact, exact];
    check(&bench, &after_an_hour, gaps);
    bench.restart();
    check(&bench, &after_an_hour, gaps);
    assert_eq!(bench.log().resume_point(Scope::All, 2), exact);

    bench.clock.pass(DAY);
    let gaps = [expired(0, 5), expired(1, 1), expired(5, 5), exact, exact];
    check(&bench, &["old 2", "old 3"], gaps);
    bench.kill_and_restart();
    check(&bench, &["old 2", "old 3"], gaps);

    bench.clock.pass(7 * DAY);
    let gaps = [
        expired(0, 5),
        expired(1, 1),
        expired(5, 5),
        expired(3, 3),
        exact,
    ];
    check(&bench, &["old 3"], gaps);
}

#[test]
fn a_segment_stays_as_long_as_the_longest_retention_in_it() {
    let mut bench = bench();
    let segments = |bench: &Bench| bench.storage.segments();
    bench.append(tenant(1), vec![bulky(1, 5_000_000)]).unwrap();
    bench.append(tenant(0), vec![bulky(2, 5_000_000)]).unwrap();
    bench.append(tenant(2), vec![bulky(3, 5_000_000)]).unwrap();
    // A segment holds 8 MiB: each is alone.
    bench.append(tenant(3), vec![bulky(4, 5_000_000)]).unwrap();
    bench.append(tenant(1), vec![bulky(5, 5_000_000)]).unwrap();
    bench.restart();
    // Seen to fail on a busy machine: retention waits for the state, which reads on after a start in its own
    // time, and came by before it was ready.
    bench.wait_for_state();
    let all = segments(&bench);
    let left = |bench: &Bench| {
        bench.log().run_upkeep();
        all.iter()
            .filter(|name| segments(bench).contains(name))
            .count()
    };
    assert_eq!(left(&bench), 5);
    bench.clock.pass(HOUR + 1);
    assert_eq!(
        left(&bench),
        4,
        "what one tenant alone kept goes with its own time"
    );
    bench.clock.pass(DAY);
    assert_eq!(left(&bench), 3);
    bench.clock.pass(7 * DAY);
    assert_eq!(left(&bench), 2);
    bench.clock.pass(1_000 * DAY);
    assert_eq!(
        left(&bench),
        2,
        "the oldest is kept for ever, and what is behind it stays with it"
    );
    assert_eq!(bench.texts(Scope::All).len(), 1);
    bench.restart();
    assert_eq!(bench.texts(Scope::All).len(), 1);
}

#[test]
fn a_retention_of_its_own_counts_where_all_others_keep_for_ever() {
    let mut bench = Bench::with(|options| {
        let own = TenantOptions {
            retention: Some(Duration::from_hours(1)),
            max_bytes: None,
        };
        options.tenants.insert(tenant(1), own);
    });
    bench.put(tenant(0), &["kept"]);
    bench.put(tenant(1), &["an hour"]);
    bench.clock.pass(HOUR + 1);
    for _ in 0..2 {
        assert_eq!(bench.texts(Scope::All), ["kept"]);
        assert_eq!(
            bench.log().resume_point(Scope::Tenant(tenant(1)), 0),
            expired(2, 2)
        );
        assert_eq!(
            bench.log().resume_point(Scope::Tenant(tenant(0)), 0),
            Resume::Exact
        );
        bench.restart();
    }
}

#[test]
fn each_tenant_has_its_own_cap() {
    let mut bench = Bench::with(|options| {
        options.tenant_max_bytes = 30_000;
        for (number, max_bytes) in [(1, 15_000), (2, 0)] {
            let own = TenantOptions {
                retention: None,
                max_bytes: Some(max_bytes),
            };
            options.tenants.insert(tenant(number), own);
        }
    });
    for number in 0..30 {
        let owner = tenant(u8::try_from(number % 3).unwrap());
        bench.append(owner, vec![bulky(number, 4_800)]).unwrap();
    }
    for _ in 0..2 {
        bench.log().run_upkeep();
        let count = |number| bench.texts(Scope::Tenant(tenant(number))).len();
        assert_eq!([count(0), count(1), count(2)], [6, 3, 10]);
        bench.restart();
    }
}

#[test]
fn usage_is_told_by_tenant_and_counts_what_can_be_read() {
    let mut bench = bench();
    let usage = |bench: &Bench, number| {
        let usage = bench.log().tenant(tenant(number)).unwrap();
        let listed = bench.log().tenants().unwrap();
        let listed = listed.iter().find(|one| one.tenant == tenant(number));
        match listed {
            Some(listed) => assert_eq!(*listed, usage),
            None => assert_eq!((usage.events, usage.oldest_at), (0, None)),
        }
        usage
    };
    let begun = bench.clock.wall();
    bench.put(tenant(0), &["1", "2"]);
    bench.put(tenant(1), &["3"]);
    bench.clock.pass(HOUR);
    bench.put(tenant(0), &["4"]);
    for _ in 0..2 {
        let TenantUsage {
            events,
            bytes,
            oldest_at,
            ..
        } = usage(&bench, 0);
        assert_eq!((events, oldest_at), (3, Some(begun)));
        assert!((200..1_000).contains(&bytes), "{bytes}");
        assert_eq!(usage(&bench, 1).events, 1);
        assert_eq!(usage(&bench, 2).events, 0);
        bench.restart();
    }
    bench.clock.pass(1);
    assert_eq!(usage(&bench, 1).events, 0, "its hour is over");
    bench.clock.pass(23 * HOUR);
    let left = usage(&bench, 0);
    assert_eq!(
        (left.events, left.oldest_at),
        (1, Some(begun + HOUR)),
        "in the middle of a segment"
    );
    bench.log().purge(tenant(0)).unwrap();
    assert_eq!(usage(&bench, 0).events, 0);
    bench.wait_for_purge(tenant(0));
    assert!(bench.log().tenants().unwrap().is_empty());
}

#[test]
fn usage_over_many_segments_is_what_reading_finds() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    for number in 0..100 {
        let owner = tenant(u8::try_from(number % 3).unwrap());
        bench
            .append(owner, vec![bulky(number, 5_000), bulky(number, 10)])
            .unwrap();
    }
    for _ in 0..2 {
        for number in 0..3 {
            let read = bench.texts(Scope::Tenant(tenant(number))).len();
            let usage = bench.log().tenant(tenant(number)).unwrap();
            assert_eq!(usage.events, read as u64);
            assert!(bench.log().tenants().unwrap().contains(&usage));
        }
        bench.restart();
    }
}
