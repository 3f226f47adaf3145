//! What is acknowledged is durable, and what is not durable is not shown.

use std::sync::mpsc::channel;

use tidings_log::{AppendError, Appended, Chain, Health, NewEvent, Scope};

use crate::simulated::Operation;
use crate::support::{Bench, Heard, NO_LIMIT, bulky, event, keyed, tenant};

#[test]
fn nothing_is_shown_or_answered_before_the_sync_returned() {
    let bench = Bench::new();
    bench.wait_for_health(|health| *health == Health::Healthy);
    bench.storage.hold_syncs();
    let answer = bench.submit(tenant(1), vec![event("one")]);
    bench.storage.wait_for_held_sync();
    assert_eq!(bench.storage.journal().last(), Some(&Operation::Write));
    assert!(answer.try_recv().is_err(), "not answered");
    assert!(bench.heard.lock().unwrap().try_recv().is_err(), "not shown");
    assert_eq!(bench.log().tail(), 0);
    assert!(bench.read(Scope::All, 0).0.is_empty(), "not readable");
    bench.storage.release_syncs();
    let appended = answer.recv().unwrap().unwrap();
    assert_eq!(
        (appended.first, appended.last, appended.accepted),
        (1, 1, 1)
    );
    // The listener heard of it before the publisher did.
    let heard = bench.heard.lock().unwrap().try_recv().unwrap();
    assert!(matches!(heard, Heard::Committed(events) if events.len() == 1));
    assert_eq!(bench.texts(Scope::All), ["one"]);
}

#[test]
fn bodies_that_arrive_during_a_sync_share_the_next() {
    let bench = Bench::new();
    bench.storage.hold_syncs();
    let first = bench.submit(tenant(1), vec![event("first")]);
    bench.storage.wait_for_held_sync();
    let others: Vec<_> = (0..50)
        .map(|number| bench.submit(tenant(2), vec![event(&format!("other {number}"))]))
        .collect();
    let before = synced(&bench);
    bench.storage.release_syncs();
    first.recv().unwrap().unwrap();
    for (number, other) in others.into_iter().enumerate() {
        assert_eq!(other.recv().unwrap().unwrap().first, number as u64 + 2);
    }
    assert_eq!(synced(&bench) - before, 2);
}

fn synced(bench: &Bench) -> usize {
    let journal = bench.storage.journal();
    journal
        .iter()
        .filter(|done| **done == Operation::Synced)
        .count()
}

#[test]
fn a_duplicate_in_the_same_group_is_answered_only_after_the_sync() {
    let bench = Bench::new();
    bench.storage.hold_syncs();
    let blocker = bench.submit(tenant(1), vec![event("blocker")]);
    bench.storage.wait_for_held_sync();
    let original = bench.submit(tenant(1), vec![keyed("same", 1)]);
    let repeated = bench.submit(tenant(1), vec![keyed("same", 1)]);
    let conflicting = bench.submit(tenant(1), vec![event("fine"), keyed("different", 1)]);
    bench.storage.fail_next_sync();
    bench.storage.release_syncs();
    assert!(matches!(
        blocker.recv().unwrap(),
        Err(AppendError::Failed(_))
    ));
    // The original never became durable, so the repetition must not be told that it did.
    assert!(matches!(
        original.recv().unwrap(),
        Err(AppendError::Failed(_))
    ));
    assert!(matches!(
        repeated.recv().unwrap(),
        Err(AppendError::Failed(_))
    ));
    // Nor must the third be told of a conflict with it.
    assert!(matches!(
        conflicting.recv().unwrap(),
        Err(AppendError::Failed(_))
    ));
    assert!(bench.texts(Scope::All).is_empty());
}

#[test]
fn keys_make_a_repetition_harmless_and_a_conflict_stores_nothing() {
    let mut bench = Bench::new();
    let first = bench
        .append(tenant(1), vec![keyed("a", 1), keyed("b", 2)])
        .unwrap();
    assert_eq!((first.accepted, first.first, first.last), (2, 1, 2));
    let again = bench
        .append(tenant(1), vec![keyed("b", 2), keyed("c", 3)])
        .unwrap();
    assert_eq!((again.accepted, again.duplicates), (1, 1));
    assert_eq!((again.first, again.last), (2, 3));
    let conflict = bench.append(tenant(1), vec![event("d"), keyed("not b", 2)]);
    assert_eq!(conflict, Err(AppendError::KeyConflict { index: 1 }));
    let within = bench.append(tenant(1), vec![keyed("e", 5), keyed("not e", 5)]);
    assert_eq!(within, Err(AppendError::KeyConflict { index: 1 }));
    // The body that was refused has left no key behind.
    let kept = bench.append(tenant(1), vec![keyed("not e", 5)]).unwrap();
    assert_eq!(kept.accepted, 1);
    // Another tenant's key is another key.
    assert_eq!(
        bench
            .append(tenant(2), vec![keyed("a", 1)])
            .unwrap()
            .accepted,
        1
    );
    for end in [Bench::restart, Bench::kill_and_restart] {
        end(&mut bench);
        let after = bench.append(tenant(1), vec![keyed("b", 2)]).unwrap();
        assert_eq!(
            (after.accepted, after.first),
            (0, 2),
            "remembered over a restart"
        );
    }
    bench.clock.pass(121 * 1_000_000);
    let late = bench.append(tenant(1), vec![keyed("b", 2)]).unwrap();
    assert_eq!(late.accepted, 1, "the window has passed");
    assert_eq!(bench.texts(Scope::All), ["a", "b", "c", "not e", "a", "b"]);
}

#[test]
fn keys_are_bounded_in_number() {
    let bench = Bench::with(|options| options.max_keys = 2);
    bench
        .append(tenant(1), vec![keyed("a", 1), keyed("b", 2)])
        .unwrap();
    let full = bench.append(tenant(1), vec![keyed("c", 3)]);
    assert_eq!(full, Err(AppendError::KeyWindowFull));
    assert_eq!(
        bench
            .append(tenant(1), vec![keyed("b", 2)])
            .unwrap()
            .duplicates,
        1
    );
    bench.put(tenant(1), &["without a key"]);
    bench.clock.pass(121 * 1_000_000);
    assert_eq!(
        bench
            .append(tenant(1), vec![keyed("c", 3)])
            .unwrap()
            .accepted,
        1
    );
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["durable"]);
    bench.storage.fail_next_sync();
    let failed = bench.append(tenant(1), vec![event("uncertain")]);
    assert!(matches!(failed, Err(AppendError::Failed(_))), "{failed:?}");
    assert!(matches!(bench.log().health(), Health::Failed { .. }));
    let refused = bench.append(tenant(1), vec![event("too late")]);
    assert!(
        matches!(refused, Err(AppendError::Failed(_))),
        "{refused:?}"
    );
    assert_eq!(bench.texts(Scope::All), ["durable"]);

    // The page cache still has what the disk refused. What a restart shows must be on the disk then.
    bench.kill_and_restart();
    let shown = bench.texts(Scope::All);
    bench.lose_power(|| false);
    bench.open();
    assert_eq!(bench.texts(Scope::All), shown);
    bench.put(tenant(1), &["after"]);
}

#[test]
fn a_torn_write_stops_the_log_and_a_restart_discards_it() {
    for torn_after in [0, 1, 40, 87, 88, 100, 130] {
        let mut bench = Bench::new();
        bench.put(tenant(1), &["whole"]);
        bench.storage.tear_next_write(torn_after);
        let outcome = bench.append(tenant(1), vec![event("torn"), event("apart")]);
        assert!(
            matches!(outcome, Err(AppendError::Failed(_))),
            "{outcome:?}"
        );
        bench.kill_and_restart();
        assert_eq!(
            bench.texts(Scope::All),
            ["whole"],
            "torn after {torn_after}"
        );
        bench.put(tenant(1), &["later"]);
        bench.kill_and_restart();
        assert_eq!(bench.texts(Scope::All), ["whole", "later"]);
        let (_, end) = bench.read(Scope::All, 0);
        assert_eq!(end.lost, None, "nothing that was acknowledged is lost");
    }
}

#[test]
fn a_full_disk_refuses_bodies_reads_on_and_recovers_by_itself() {
    let bench = Bench::with(|options| options.max_bytes = 32 << 20);
    bench.wait_for_health(|health| *health == Health::Healthy);
    bench.storage.set_full(true);
    // Whatever fits into what was reserved is still stored.
    let mut stored = 0;
    let reason = loop {
        match bench.append(tenant(1), vec![bulky(stored, 100 << 10)]) {
            Ok(_) => stored += 1,
            Err(AppendError::Full(reason)) => break reason,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(reason.contains("no space left"), "{reason}");
    assert!(stored > 10);
    bench.wait_for_health(|health| matches!(health, Health::Full { .. }));
    assert_eq!(bench.read_all(Scope::All, NO_LIMIT).len(), stored);
    bench.storage.set_full(false);
    bench.wait_for_health(|health| *health == Health::Healthy);
    bench
        .append(tenant(1), vec![bulky(stored, 100 << 10)])
        .unwrap();
    assert_eq!(bench.read_all(Scope::All, NO_LIMIT).len(), stored + 1);
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_write_leaves_nothing_of_it() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["before"]);
    bench.storage.set_full_for_writes(true);
    bench.storage.set_full(true);
    let refused = bench.append(tenant(1), vec![keyed("refused", 1), event("too")]);
    assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
    bench.storage.set_full_for_writes(false);
    bench.storage.set_full(false);
    bench.wait_for_health(|health| matches!(health, Health::Full { .. }));
    bench.wait_for_health(|health| *health == Health::Healthy);
    let again = bench.append(tenant(1), vec![keyed("refused", 1)]).unwrap();
    assert_eq!((again.accepted, again.first), (1, 2));
    for _ in 0..2 {
        bench.kill_and_restart();
        assert_eq!(bench.texts(Scope::All), ["before", "refused"]);
    }
}

#[test]
fn a_body_is_stored_in_one_piece_or_refused() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    let empty = bench.append(tenant(1), Vec::new());
    assert!(matches!(empty, Err(AppendError::TooLarge { .. })));
    let huge = bench.append(tenant(1), vec![bulky(0, 300 << 10)]);
    assert!(
        matches!(huge, Err(AppendError::TooLarge { .. })),
        "{huge:?}"
    );
    // Larger than an ordinary segment, but not than a quarter of the cap.
    bench.append(tenant(1), vec![bulky(1, 200 << 10)]).unwrap();
    bench.put(tenant(1), &["small"]);
    let read = bench.read_all(Scope::All, NO_LIMIT);
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].data.len(), 8 + (200 << 10));
}

#[test]
fn what_was_submitted_before_closing_is_stored_and_answered() {
    let mut bench = Bench::new();
    bench.storage.hold_syncs();
    let answers: Vec<_> = (0..20)
        .map(|number| bench.submit(tenant(1), vec![event(&number.to_string())]))
        .collect();
    let log = bench.log().clone();
    bench.storage.wait_for_held_sync();
    bench.storage.release_syncs();
    bench.close();
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    let (sender, late) = std::sync::mpsc::channel();
    log.submit(
        tenant(1),
        vec![event("late")],
        Box::new(move |outcome| sender.send(outcome).unwrap()),
    )
    .unwrap();
    assert_eq!(late.recv().unwrap(), Err(AppendError::Closed));
    bench.open();
    assert_eq!(bench.texts(Scope::All).len(), 20);
}

#[test]
fn a_publisher_whose_answer_panics_harms_nobody() {
    let bench = Bench::new();
    bench
        .log()
        .submit(
            tenant(1),
            vec![event("a")],
            Box::new(|_| panic!("on purpose")),
        )
        .unwrap();
    bench.put(tenant(1), &["b"]);
    assert_eq!(bench.texts(Scope::All), ["a", "b"]);
}

#[test]
fn a_body_that_repeats_an_unfinished_one_waits_until_that_is_durable() {
    // Both once shared a commit. When power failed in it, the second, of which only the new part is
    // written, could reach the disk without the first, and so be there by half.
    let bench = Bench::new();
    bench.storage.hold_syncs();
    let blocker = bench.submit(tenant(1), vec![event("blocker")]);
    bench.storage.wait_for_held_sync();
    let before = synced(&bench);
    let original = bench.submit(tenant(1), vec![keyed("same", 1)]);
    let partly = bench.submit(tenant(1), vec![keyed("same", 1), event("new")]);
    bench.storage.release_syncs();
    blocker.recv().unwrap().unwrap();
    assert_eq!(original.recv().unwrap().unwrap().first, 2);
    let partly = partly.recv().unwrap().unwrap();
    assert_eq!((partly.duplicates, partly.first, partly.last), (1, 2, 3));
    assert_eq!(synced(&bench) - before, 3, "each in a commit of its own");
}

#[test]
fn of_a_chain_the_first_bodies_are_stored_or_none_behind_the_one_that_was_not() {
    let bench = Bench::with(|options| options.max_bytes = 1 << 20);
    bench.put(tenant(1), &["first"]);
    bench.storage.set_full(true);
    let chain = Chain::default();
    let submit = |body: NewEvent| {
        let (sender, receiver) = channel();
        let answer = Box::new(move |outcome: Result<Appended, AppendError>| {
            sender.send(outcome.map(|_| ())).unwrap();
        });
        let log = bench.log();
        log.submit_chained(&chain, tenant(1), vec![body], answer)
            .unwrap();
        receiver
    };
    // The segment that is there has room for small bodies, not for the large one.
    let bodies = [event("a"), bulky(1, 200_000), event("b"), event("c")];
    let answers: Vec<_> = bodies.into_iter().map(submit).collect();
    let outcomes: Vec<_> = answers
        .iter()
        .map(|answer| answer.recv().unwrap())
        .collect();
    assert_eq!(outcomes[0], Ok(()));
    assert!(
        matches!(outcomes[1], Err(AppendError::Full(_))),
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes[2..],
        [Err(AppendError::Unchained), Err(AppendError::Unchained)]
    );
    assert!(chain.is_broken());
    // Others are not held up.
    bench.put(tenant(1), &["d"]);
    assert_eq!(bench.texts(Scope::All), ["first", "a", "d"]);
}
