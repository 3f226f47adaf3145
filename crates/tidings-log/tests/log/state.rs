//! The state: what it says, what it survives, and what it keeps retention from.

use std::time::{Duration, Instant};

use tidings_log::{AppendError, Doubt, EventRef, NewEvent, Scope, StateError, Subject};
use tidings_protocol::TenantId;

use crate::support::{Bench, HOUR, SECOND, bulky, event, of_subject, removed, tenant};

const STATUS: &str = "device_status";
const ALERT: &str = "alert_fired";

/// A log whose state becomes durable only where a test asks for it.
fn bench() -> Bench {
    Bench::with(|options| options.state_checkpoint_interval = Duration::from_hours(1000))
}

fn say(bench: &Bench, tenant: TenantId, events: Vec<NewEvent>) {
    bench.append(tenant, events).expect("stored");
}

fn files_of_the_state(bench: &Bench) -> Vec<String> {
    let names = bench.storage.names().into_iter();
    names.filter(|name| name.starts_with("state")).collect()
}

#[test]
fn a_snapshot_has_the_last_event_of_each_living_subject_in_order() {
    let bench = bench();
    say(
        &bench,
        tenant(2),
        vec![
            of_subject(STATUS, "r2", "old"),
            of_subject(STATUS, "r1", "r1 on"),
            of_subject(ALERT, "a1", "fired"),
            event("of nothing"),
            of_subject(STATUS, "r2", "r2 off"),
        ],
    );
    say(
        &bench,
        tenant(1),
        vec![of_subject(STATUS, "r1", "another's")],
    );
    let resolved = NewEvent {
        event_type: "alert_resolved".parse().unwrap(),
        ..removed(ALERT, "a1")
    };
    let all = Scope::All;
    assert_eq!(
        bench.state_texts(all),
        ["another's", "fired", "r1 on", "r2 off"]
    );
    say(
        &bench,
        tenant(2),
        vec![resolved, removed(STATUS, "unknown")],
    );
    assert_eq!(bench.state_texts(all), ["another's", "r1 on", "r2 off"]);
    assert_eq!(
        bench.state_texts(Scope::Tenant(tenant(2))),
        ["r1 on", "r2 off"]
    );
    let snapshot = bench.state(Scope::Tenant(tenant(2)));
    assert_eq!((snapshot.through(), snapshot.len()), (8, 2));
    let read = bench.read_all(Scope::Tenant(tenant(2)), crate::support::NO_LIMIT);
    let last = snapshot.into_entries().last().unwrap();
    assert_eq!(last.event().appended_at, read[4].appended_at);
    assert_eq!(
        (last.position(), last.kind(), last.key()),
        (5, STATUS, "r2")
    );

    let state = bench.log().state();
    assert_eq!(state.latest(tenant(2), STATUS, "r2").unwrap().position(), 5);
    assert!(state.latest(tenant(2), ALERT, "a1").is_none());
    assert!(state.latest(tenant(3), STATUS, "r2").is_none());
    assert_eq!(state.count(tenant(2), STATUS), 2);
    assert_eq!(state.count(tenant(2), ALERT), 0);
    let mut tenants = state.tenants();
    tenants.sort_unstable();
    assert_eq!(tenants, [(tenant(1), 1), (tenant(2), 2)]);
}

#[test]
fn the_subjects_of_a_device_are_found_whatever_their_kind() {
    let bench = bench();
    let of_device = |event: NewEvent, device: &str| NewEvent {
        device: Some(device.parse().unwrap()),
        ..event
    };
    say(
        &bench,
        tenant(1),
        vec![
            of_device(of_subject(STATUS, "r1", "a"), "r1"),
            of_device(of_subject(STATUS, "r10", "b"), "r10"),
            of_device(of_subject(ALERT, "r1", "c"), "r10"),
            of_device(of_subject(ALERT, "x", "d"), "r1"),
            of_subject("job", "r1", "e"),
        ],
    );
    say(
        &bench,
        tenant(2),
        vec![of_device(of_subject(STATUS, "r1", "f"), "r1")],
    );
    bench.wait_for_state();
    let found = bench.log().state().subjects_of_device(tenant(1), "r1");
    let found: Vec<_> = found
        .iter()
        .map(|entry| (entry.kind(), entry.key()))
        .collect();
    assert_eq!(found, [(ALERT, "x"), (STATUS, "r1")]);
}

#[test]
fn a_subject_outlives_the_events_behind_it() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    // Before the state's thread has begun retention takes nothing.
    bench.wait_for_state();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "early")]);
    for number in 0..300 {
        say(&bench, tenant(2), vec![bulky(number, 12_000)]);
    }
    bench.log().run_upkeep();
    assert!(bench.log().usage().oldest > Some(1), "its event is gone");
    assert!(bench.log().usage().bytes <= 1 << 20);
    assert_eq!(bench.state_texts(Scope::All), ["early"]);
    bench.restart();
    assert_eq!(bench.state_texts(Scope::All), ["early"]);
    bench.kill_and_restart();
    assert_eq!(bench.state_texts(Scope::All), ["early"]);
}

#[test]
fn events_that_expired_while_the_log_was_closed_are_folded_all_the_same() {
    let mut bench = Bench::with(|options| {
        options.retention = Duration::from_hours(24);
        options.state_checkpoint_interval = Duration::from_hours(1000);
    });
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "before")]);
    bench.die();
    bench.clock.pass(48 * HOUR);
    bench.open();
    assert_eq!(bench.texts(Scope::All), Vec::<String>::new());
    assert_eq!(bench.state_texts(Scope::All), ["before"]);
}

#[test]
fn events_that_a_tenants_cap_takes_are_folded_all_the_same() {
    let mut bench = Bench::with(|options| {
        options.tenant_max_bytes = 4_000;
        options.state_checkpoint_interval = Duration::from_hours(1000);
    });
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "before")]);
    for number in 0..4 {
        say(&bench, tenant(1), vec![bulky(number, 2_000)]);
    }
    bench.kill_and_restart();
    assert_eq!(bench.read(Scope::Tenant(tenant(1)), 0).0.len(), 1);
    assert_eq!(bench.state_texts(Scope::All), ["before"]);
}

#[test]
fn a_state_that_is_missing_or_damaged_is_built_anew() {
    let mut bench = bench();
    let two = || {
        vec![
            of_subject(STATUS, "r1", "one"),
            of_subject(STATUS, "r2", "two"),
        ]
    };
    say(&bench, tenant(1), two());
    // Closed before its thread has begun, a log has no file of the state.
    bench.wait_for_state();
    let ways: [&dyn Fn(&Bench); 5] = [
        &|bench| bench.storage.delete("state.redb"),
        &|bench| bench.storage.replace("state.redb", b""),
        &|bench| bench.storage.replace("state.redb", b"a shopping list"),
        &|bench| {
            bench
                .storage
                .damage("state.redb", |bytes| bytes.truncate(bytes.len() / 2));
        },
        // In the middle of a subject: no database would notice.
        &|bench| {
            let at = bench
                .storage
                .find("state.redb", b"r2two")
                .or_else(|| bench.storage.find("state.redb", b"two"));
            bench
                .storage
                .damage("state.redb", |bytes| bytes[at.unwrap()] ^= 1);
        },
    ];
    for (number, spoil) in ways.into_iter().enumerate() {
        bench.close();
        assert!(files_of_the_state(&bench).contains(&"state.redb".to_owned()));
        spoil(&bench);
        bench.open();
        assert_eq!(
            bench.state_texts(Scope::All),
            ["one", "two"],
            "way {number}"
        );
    }
    // What was damaged is kept for whoever wants to look.
    bench.close();
    assert_eq!(
        files_of_the_state(&bench),
        ["state.redb", "state.redb.damaged"]
    );
}

#[test]
fn a_state_of_another_log_is_not_believed() {
    let (mut mine, mut other) = (bench(), bench());
    say(
        &other,
        tenant(1),
        vec![of_subject(STATUS, "r1", "another log's")],
    );
    say(&mine, tenant(1), vec![of_subject(STATUS, "r1", "mine")]);
    // Closed before their threads have begun, neither has a file of the state.
    other.wait_for_state();
    mine.wait_for_state();
    other.close();
    mine.close();
    mine.storage
        .replace("state.redb", &other.storage.content("state.redb"));
    mine.open();
    assert_eq!(mine.state_texts(Scope::All), ["mine"]);
}

#[test]
fn a_state_ahead_of_the_log_is_not_believed() {
    let mut bench = bench();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "kept")]);
    bench.close();
    let segment = bench.storage.segments().remove(0);
    let before = bench.storage.content(&segment);
    bench.open();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "lost")]);
    bench.wait_for_state();
    bench.close();
    bench.storage.replace(&segment, &before);
    bench.open();
    assert_eq!(bench.log().tail(), 1);
    assert_eq!(bench.state_texts(Scope::All), ["kept"]);
    // Also where the log has reached the state's position again before anybody looks.
    say(&bench, tenant(1), vec![of_subject(STATUS, "r2", "new")]);
    assert_eq!(bench.state_texts(Scope::All), ["kept", "new"]);
}

#[test]
fn retention_keeps_what_the_state_cannot_be_made_durable_of() {
    let mut bench = Bench::with(|options| {
        options.max_bytes = 1 << 20;
        options.state_checkpoint_interval = Duration::from_hours(1000);
    });
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "early")]);
    bench.wait_for_state();
    bench.storage.refuse_state(true);
    let error = bench.log().state().checkpoint().unwrap_err();
    assert!(matches!(error, StateError::Unwritten(_)), "{error}");
    let refused =
        (0..200).find_map(|number| bench.append(tenant(2), vec![bulky(number, 12_000)]).err());
    assert!(matches!(refused, Some(AppendError::Full(_))), "{refused:?}");
    bench.log().run_upkeep();
    let health = bench.log().state().health();
    assert_eq!((health.checkpointed, health.ready), (0, true));
    assert!(health.error.is_some());
    assert_eq!(bench.log().usage().oldest, Some(1), "it is still needed");
    bench.kill_and_restart();
    assert_eq!(bench.state_texts(Scope::All), ["early"]);

    // The disk takes it again.
    for number in 0..100 {
        say(&bench, tenant(2), vec![bulky(number, 12_000)]);
    }
    bench.wait_for_state();
    bench.log().run_upkeep();
    assert!(bench.log().usage().oldest > Some(1));
    let health = bench.log().state().health();
    assert_eq!(health.error, None);
    assert!(health.checkpointed > 1);
    bench.kill_and_restart();
    assert_eq!(bench.state_texts(Scope::All), ["early"]);
}

#[test]
fn a_state_that_is_not_ready_says_so_and_the_log_does_not_wait_for_it() {
    let mut bench = bench();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "one")]);
    let seen = loop {
        bench.close();
        bench.storage.refuse_state(true);
        let begun = Instant::now();
        bench.open();
        say(&bench, tenant(1), vec![of_subject(STATUS, "r2", "two")]);
        let state = bench.log().state();
        let snapshot = state.snapshot(Scope::All).map(|snapshot| snapshot.len());
        let waited = state.wait_through(0, Duration::ZERO);
        let seen = (snapshot, waited, state.overdue(10).len());
        // After three seconds the file is taken for damaged, and the state is built anew.
        if begun.elapsed() < Duration::from_secs(2) {
            break seen;
        }
    };
    let not_ready = StateError::NotReady { through: 0 };
    assert_eq!(seen, (Err(not_ready), false, 0));
    bench.storage.refuse_state(false);
    assert_eq!(bench.state_texts(Scope::All), ["one", "two"]);
}

#[test]
fn a_closed_log_still_tells_its_last_state() {
    let bench = bench();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "one")]);
    // Closed before its thread has begun, the state is left as it stands on the disk; so it was once, on a
    // busy machine.
    bench.wait_for_state();
    let log = bench.log().clone();
    bench.log().clone().close();
    assert!(log.state().wait_through(1, Duration::ZERO));
    assert!(!log.state().wait_through(2, Duration::from_mins(2)));
    assert_eq!(log.state().snapshot(Scope::All).unwrap().len(), 1);
    let stopped = log.state().checkpoint().unwrap_err();
    assert!(matches!(stopped, StateError::Stopped(_)), "{stopped}");
}

#[test]
fn subjects_are_overdue_by_the_time_that_passes_not_by_the_clock_on_the_wall() {
    let mut bench = Bench::with(|options| {
        options.state_max_age = [(ALERT.to_owned(), Duration::from_hours(24))].into();
    });
    let alerts = |bench: &Bench, limit| {
        bench.wait_for_state();
        let overdue = bench.log().state().overdue(limit);
        overdue
            .iter()
            .map(|entry| entry.key().to_owned())
            .collect::<Vec<_>>()
    };
    say(
        &bench,
        tenant(1),
        vec![
            of_subject(ALERT, "a1", "x"),
            of_subject(ALERT, "a2", "x"),
            of_subject(STATUS, "r1", "x"),
        ],
    );
    bench.clock.set_ahead(100 * HOUR);
    assert_eq!(alerts(&bench, 10), Vec::<String>::new());
    bench.clock.set_ahead(-100 * HOUR);
    bench.clock.pass(23 * HOUR);
    say(&bench, tenant(1), vec![of_subject(ALERT, "a2", "y")]);
    say(&bench, tenant(2), vec![of_subject(ALERT, "b", "y")]);
    bench.clock.pass(HOUR);
    assert_eq!(alerts(&bench, 10), Vec::<String>::new(), "as old as may be");
    bench.clock.pass(SECOND);
    assert_eq!(alerts(&bench, 10), ["a1"]);
    bench.restart();
    assert_eq!(alerts(&bench, 10), ["a1"]);
    say(&bench, tenant(1), vec![removed(ALERT, "a1")]);
    assert_eq!(alerts(&bench, 10), Vec::<String>::new());
    bench.close();
    // While it is closed, time passes by the wall clock; there is no other.
    bench.clock.pass(24 * HOUR);
    bench.open();
    let mut overdue = alerts(&bench, 10);
    overdue.sort_unstable();
    assert_eq!(overdue, ["a2", "b"]);
    assert_eq!(alerts(&bench, 1).len(), 1);
}

#[test]
fn a_body_that_would_bring_a_tenant_over_its_limit_is_told() {
    let bench = Bench::with(|options| options.state_subjects_per_kind = 3);
    say(
        &bench,
        tenant(1),
        vec![
            of_subject(STATUS, "r1", "x"),
            of_subject(STATUS, "r2", "x"),
            of_subject(ALERT, "a1", "x"),
        ],
    );
    bench.wait_for_state();
    let subject = |kind: &'static str, key: &'static str| Subject {
        kind,
        key,
        ends: false,
    };
    let ask =
        |tenant, subjects: &[Subject<'static>]| bench.log().state().would_exceed(tenant, subjects);
    let fresh = [
        subject(STATUS, "r3"),
        subject(STATUS, "r3"),
        subject(STATUS, "r1"),
    ];
    assert_eq!(ask(tenant(1), &fresh), None);
    let much = [
        subject(ALERT, "a2"),
        subject(STATUS, "r3"),
        subject(STATUS, "r4"),
    ];
    assert_eq!(ask(tenant(1), &much), Some(STATUS));
    assert_eq!(ask(tenant(2), &much), None, "limits are each tenant's own");
    let ending = much.map(|subject| Subject {
        ends: true,
        ..subject
    });
    assert_eq!(ask(tenant(1), &ending), None);
    // One that is over its limit can still be told of what it has.
    say(
        &bench,
        tenant(1),
        vec![of_subject(STATUS, "r3", "x"), of_subject(STATUS, "r4", "x")],
    );
    bench.wait_for_state();
    assert_eq!(ask(tenant(1), &[subject(STATUS, "r1")]), None);
    assert_eq!(ask(tenant(1), &[subject(STATUS, "r5")]), Some(STATUS));
}

#[test]
fn a_forgotten_tenant_does_not_come_back() {
    let mut bench = bench();
    for number in 1..=3 {
        let subject = of_subject(STATUS, "r1", &format!("of {number}"));
        say(&bench, tenant(number), vec![subject]);
    }
    bench.log().state().checkpoint().unwrap();
    // Neither what is durable already, nor what is not yet, nor what comes.
    say(&bench, tenant(2), vec![of_subject(STATUS, "r2", "more")]);
    let state = bench.log().state();
    state.forget_tenants(&[tenant(2), tenant(9)]).unwrap();
    assert_eq!(bench.state_texts(Scope::All), ["of 1", "of 3"]);
    assert!(bench.storage.find("state.redb", b"of 1").is_some());
    say(&bench, tenant(2), vec![of_subject(STATUS, "r3", "late")]);
    assert_eq!(bench.state_texts(Scope::All), ["of 1", "of 3"]);
    bench.kill_and_restart();
    assert_eq!(bench.state_texts(Scope::All), ["of 1", "of 3"]);
    // A state that was built anew has to be told again.
    bench.close();
    bench.storage.delete("state.redb");
    bench.open();
    bench
        .log()
        .state()
        .forget_tenants(&[tenant(2), tenant(9)])
        .unwrap();
    assert_eq!(bench.state_texts(Scope::All), ["of 1", "of 3"]);
    bench.restart();
    assert_eq!(bench.state_texts(Scope::All), ["of 1", "of 3"]);
    assert_eq!(bench.log().state().health().subjects, 2);
}

/// A copy whose source lost events before they could be copied: what they said of the source's subjects nobody knows.
#[test]
fn behind_missing_events_the_state_forgets_what_they_may_have_changed() {
    let covers = |lost: &EventRef<'_>, last: &EventRef<'_>| lost.origin == last.origin;
    let mut bench = Bench::with(|options| {
        options.state_checkpoint_interval = Duration::from_hours(1000);
        options.state_doubt = Some(Doubt {
            tenant: tenant(200),
            covers,
        });
    });
    let from = |source: &[u8], event: NewEvent| NewEvent {
        origin: Some(source.into()),
        ..event
    };
    let before = vec![
        from(b"x", of_subject(STATUS, "r1", "before")),
        from(b"y", of_subject(STATUS, "r2", "of another source")),
        from(b"x", of_subject(STATUS, "r3", "before")),
    ];
    say(&bench, tenant(1), before);
    assert_eq!(bench.state_texts(Scope::All).len(), 3);
    // In one batch with what comes before and behind, and alone.
    say(
        &bench,
        tenant(2),
        vec![from(b"x", of_subject(STATUS, "r4", "just before"))],
    );
    say(&bench, tenant(200), vec![from(b"x", event("lost"))]);
    say(
        &bench,
        tenant(1),
        vec![from(b"x", of_subject(STATUS, "r1", "behind"))],
    );
    let expected = ["behind", "of another source"];
    assert_eq!(bench.state_texts(Scope::All), expected);
    bench.kill_and_restart();
    bench.wait_for_state();
    assert_eq!(bench.state_texts(Scope::All), expected);
    // A state that is built anew forgets at the same place.
    bench.close();
    bench.storage.delete("state.redb");
    bench.open();
    bench.wait_for_state();
    assert_eq!(bench.state_texts(Scope::All), expected);

    // What is known of it from elsewhere is taken in before anybody is shown the state.
    let held = bench.log().hold_state();
    say(&bench, tenant(200), vec![from(b"y", event("lost"))]);
    let restored = vec![(
        tenant(1),
        from(b"y", of_subject(STATUS, "r2", "known elsewhere")),
    )];
    let state = bench.log().state();
    state.restore(restored).unwrap();
    assert!(matches!(
        state.snapshot(Scope::All),
        Err(StateError::NotReady { .. })
    ));
    assert!(!state.health().ready);
    drop(held);
    assert_eq!(bench.state_texts(Scope::All), ["behind", "known elsewhere"]);
}

#[test]
fn what_is_restored_stands_before_the_log_is_shown_to_no_reader_and_outlives_a_kill() {
    let mut bench = bench();
    say(&bench, tenant(1), vec![of_subject(STATUS, "r1", "known")]);
    bench.wait_for_state();
    let state = bench.log().state();
    state.forget_tenants(&[tenant(9)]).unwrap();
    let restored = |tenant, event| (tenant, event);
    let events = vec![
        restored(
            tenant(1),
            of_subject(STATUS, "r1", "older than what is known"),
        ),
        restored(tenant(1), of_subject(STATUS, "r2", "told by nobody else")),
        restored(tenant(2), of_subject(ALERT, "a1", "still open")),
        restored(tenant(2), removed(ALERT, "a2")),
        restored(tenant(2), event("of nothing")),
        restored(tenant(9), of_subject(STATUS, "r1", "of the forgotten")),
    ];
    state.restore(events.clone()).unwrap();
    state.restore(events).unwrap();
    let expected = ["known", "told by nobody else", "still open"];
    assert_eq!(bench.state_texts(Scope::All), expected);
    assert_eq!(state.latest(tenant(2), ALERT, "a1").unwrap().position(), 0);
    assert_eq!(state.health().subjects, 3);
    // Readers of events see the log and nothing else.
    assert_eq!(bench.texts(Scope::All), ["known"]);

    bench.kill_and_restart();
    bench.wait_for_state();
    assert_eq!(bench.state_texts(Scope::All), expected);
    // What the log is told from now on is later.
    say(
        &bench,
        tenant(2),
        vec![removed(ALERT, "a1"), of_subject(STATUS, "r3", "new")],
    );
    say(
        &bench,
        tenant(1),
        vec![of_subject(STATUS, "r2", "heard of again")],
    );
    bench.wait_for_state();
    let restored = vec![(tenant(1), of_subject(STATUS, "r2", "older again"))];
    bench.log().state().restore(restored).unwrap();
    assert_eq!(
        bench.state_texts(Scope::All),
        ["known", "heard of again", "new"]
    );
}
