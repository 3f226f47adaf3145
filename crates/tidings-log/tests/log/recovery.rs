//! What a start makes of a folder that a crash, or a bad disk, has left.

use std::sync::Arc;

use tidings_log::{Lost, OpenError, Scope, verify_with};

use crate::simulated::SimulatedStorage;
use crate::support::{Bench, NO_LIMIT, bulky, event, keyed, tenant};

fn findings(storage: &SimulatedStorage) -> Vec<String> {
    let report = verify_with(storage, "/simulated".as_ref()).unwrap();
    let findings = report.findings.into_iter();
    findings
        .map(|found| format!("{}: {}", found.file, found.what))
        .collect()
}

#[test]
fn resume_after_restart_repeats_nothing() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a", "b"]);
    for (end, text) in [
        (Bench::restart as fn(&mut Bench), "c"),
        (Bench::kill_and_restart, "d"),
    ] {
        end(&mut bench);
        let tail = bench.log().tail();
        bench.put(tenant(1), &[text]);
        let (read, _) = bench.read(Scope::All, tail);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].position, tail + 1);
    }
    assert_eq!(bench.texts(Scope::All), ["a", "b", "c", "d"]);
}

#[test]
fn power_loss_keeps_every_acknowledged_event() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.append(tenant(1), vec![keyed("b", 1)]).unwrap();
    bench.lose_power(|| false);
    bench.open();
    assert_eq!(bench.texts(Scope::All), ["a", "b"]);
    assert_eq!(
        bench
            .append(tenant(1), vec![keyed("b", 1)])
            .unwrap()
            .duplicates,
        1
    );
}

#[test]
fn of_a_group_that_power_cut_off_each_body_is_there_whole_or_not_at_all() {
    // All ways in which the sectors of an unfinished group can reach the disk, by a simple generator.
    for seed in 1..60_u64 {
        let mut bench = Bench::new();
        bench.put(tenant(1), &["acknowledged"]);
        bench.storage.hold_syncs();
        let held = bench.submit(tenant(1), vec![event("held")]);
        bench.storage.wait_for_held_sync();
        let bodies: Vec<_> = (0..4)
            .map(|body| {
                let events = (0..3).map(|part| bulky(body * 10 + part, 300)).collect();
                bench.submit(tenant(2), events)
            })
            .collect();
        // The next sync, which would make the four bodies durable, never happens.
        bench.storage.die_after(3);
        bench.storage.release_syncs();
        held.recv().unwrap().unwrap();
        for body in bodies {
            body.recv().unwrap().unwrap_err();
        }
        let mut state = seed;
        bench.lose_power(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 3 != 0
        });
        bench.open();
        let (events, end) = bench.read(Scope::All, 0);
        assert_eq!(end.lost, None, "what was never acknowledged is not lost");
        assert_eq!(events[0].text(), "acknowledged");
        assert_eq!(events[1].text(), "held");
        for body in events[2..].chunks(3) {
            let numbers: Vec<usize> = body
                .iter()
                .map(|event| event.text()[..8].parse().unwrap())
                .collect();
            assert!(
                numbers.len() == 3 && numbers[0].is_multiple_of(10) && numbers[2] == numbers[0] + 2,
                "{numbers:?}"
            );
        }
        assert!(events.is_sorted_by_key(|event| event.position));
        // What was found stays, whatever happens next.
        bench.put(tenant(1), &["next"]);
        let all = bench.read_all(Scope::All, NO_LIMIT);
        bench.kill_and_restart();
        assert_eq!(bench.read_all(Scope::All, NO_LIMIT), all);
        assert_eq!(bench.read(Scope::All, 0).1.lost, None);
        assert!(all.last().unwrap().position > events.last().unwrap().position);
    }
}

#[test]
fn a_damaged_frame_before_durable_ones_is_lost_and_said_so() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.put(tenant(1), &["lost one", "lost two"]);
    bench.put(tenant(1), &["b"]);
    bench.put(tenant(2), &["c"]);
    bench.die();
    let (name, at) = bench.storage.find_in_segments(b"lost one");
    bench.storage.damage(&name, |bytes| bytes[at] ^= 1);
    assert!(
        findings(&bench.storage)
            .iter()
            .any(|what| what.contains("the events 2 to 3 are lost"))
    );
    for _ in 0..3 {
        bench.open();
        for scope in [Scope::All, Scope::Tenant(tenant(1))] {
            let (events, end) = bench.read(scope, 0);
            assert_eq!(events.len(), 1, "up to the damage");
            assert_eq!(end.lost, Some(Lost { first: 2, last: 3 }));
            assert_eq!((end.examined_through, end.reached_tail), (3, false));
            let (events, end) = bench.read(scope, end.examined_through);
            assert_eq!(events[0].text(), "b");
            assert_eq!((end.lost, end.reached_tail), (None, true));
            let (_, end) = bench.read(scope, 2);
            assert_eq!(end.lost, Some(Lost { first: 3, last: 3 }));
        }
        bench.put(tenant(1), &["later"]);
        bench.close();
    }
}

#[test]
fn damage_to_the_last_acknowledged_frame_is_noticed_after_a_clean_stop() {
    // Without the mark that closing writes, this would look like a write that was cut off.
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.put(tenant(1), &["the last"]);
    bench.close();
    let (name, at) = bench.storage.find_in_segments(b"the last");
    bench.storage.damage(&name, |bytes| bytes[at + 3] ^= 0x40);
    bench.open();
    let (events, end) = bench.read(Scope::All, 0);
    assert_eq!(events.len(), 1);
    assert_eq!(end.lost, Some(Lost { first: 2, last: 2 }));
    assert_eq!(
        bench.put(tenant(1), &["next"]).first,
        3,
        "no position is used twice"
    );
}

#[test]
fn positions_of_a_discarded_write_are_not_given_out_again() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.storage.tear_next_frame_with_events(120);
    bench
        .append(tenant(1), vec![event("b"), event("c")])
        .unwrap_err();
    bench.kill_and_restart();
    assert_eq!(bench.log().tail(), 1);
    assert_eq!(bench.put(tenant(1), &["d"]).first, 4);
    bench.kill_and_restart();
    let (events, end) = bench.read(Scope::All, 0);
    assert_eq!(
        events
            .iter()
            .map(|event| event.position)
            .collect::<Vec<_>>(),
        [1, 4]
    );
    assert_eq!(end.lost, None);
    assert_eq!(findings(&bench.storage), Vec::<String>::new());
}

#[test]
fn a_payload_that_looks_like_a_frame_is_not_taken_for_one() {
    // Whoever can read the file could write a payload that begins with the segment's salt, but a
    // publisher can't know it. Even so: a copied frame stands at another offset.
    let mut bench = Bench::new();
    bench.put(tenant(1), &["original"]);
    let (name, at) = bench.storage.find_in_segments(b"original");
    let start = at - "device_statusrouter-1".len() - 8 - 88;
    let frame = bench.storage.content(&name)[start..at + 8].to_vec();
    let mut copy = event("");
    copy.data = [frame.clone(), frame.clone(), frame].concat();
    bench.append(tenant(2), vec![copy]).unwrap();
    bench.put(tenant(1), &["after"]);
    bench.die();
    // Damage the frame that holds the copies, so that the scan searches within it.
    let (name, at) = bench.storage.find_in_segments(b"after");
    bench.storage.damage(&name, |bytes| bytes[at - 300] ^= 1);
    bench.open();
    assert_eq!(bench.texts(Scope::All), ["original", "after"]);
    assert_eq!(
        bench.read(Scope::All, 0).1.lost,
        Some(Lost { first: 2, last: 2 })
    );
}

/// Several segments, all but the last with an index.
fn sealed() -> (Bench, Vec<String>) {
    let bench = Bench::with(|options| options.max_bytes = 2 << 20);
    for number in 0..60 {
        let tenant = tenant(u8::try_from(number % 2).unwrap());
        bench.append(tenant, vec![bulky(number, 12_000)]).unwrap();
    }
    let texts = bench.texts(Scope::All);
    assert_eq!(texts.len(), 60);
    (bench, texts)
}

fn indexes(bench: &Bench) -> Vec<String> {
    let names = bench.storage.names().into_iter();
    names
        .filter(|name| name.strip_suffix(".index").is_some())
        .collect()
}

#[test]
fn a_missing_or_damaged_index_is_built_anew() {
    let (mut bench, texts) = sealed();
    bench.close();
    let names = indexes(&bench);
    assert!(names.len() >= 2);
    let originals: Vec<_> = names
        .iter()
        .map(|name| bench.storage.content(name))
        .collect();
    bench.storage.delete(&names[0]);
    bench.storage.damage(&names[1], |bytes| bytes[30] ^= 1);
    bench.open();
    assert_eq!(bench.texts(Scope::All), texts);
    bench.restart();
    bench.close();
    for (name, original) in names.iter().zip(&originals) {
        assert_eq!(
            &bench.storage.content(name),
            original,
            "{name} says the same again"
        );
    }
    assert_eq!(findings(&bench.storage), Vec::<String>::new());
}

#[test]
fn an_index_that_is_damaged_while_the_log_runs_costs_nothing() {
    for part in [2, 3, 5, 8] {
        let (mut bench, texts) = sealed();
        bench.restart();
        let name = &indexes(&bench)[0];
        let from = 210;
        let at = from + (bench.storage.content(name).len() - from) * (part - 1) / part;
        bench.storage.damage(name, |bytes| bytes[at] ^= 1);
        let both: usize = (0..2)
            .map(|number| {
                bench
                    .read_all(Scope::Tenant(tenant(number)), NO_LIMIT)
                    .len()
            })
            .sum();
        assert_eq!(both, 60);
        assert_eq!(bench.texts(Scope::All), texts);
        assert_eq!(bench.read(Scope::All, 0).1.lost, None);
        bench.restart();
        assert_eq!(bench.texts(Scope::All), texts);
    }
}

#[test]
fn damage_in_a_sealed_segment_costs_only_the_frame_that_has_it() {
    for in_header in [false, true] {
        let (mut bench, texts) = sealed();
        bench.restart();
        let (name, at) = bench.storage.find_in_segments(b"00000003");
        let at = if in_header { at - 60 } else { at + 6_000 };
        bench.storage.damage(&name, |bytes| bytes[at] ^= 1);
        for _ in 0..2 {
            assert_eq!(bench.read(Scope::All, 0).0.len(), 3);
            assert_eq!(bench.lost(Scope::All), [Lost { first: 4, last: 4 }]);
            let rest: Vec<_> = texts
                .iter()
                .filter(|text| !text.starts_with("00000003"))
                .collect();
            assert_eq!(bench.texts(Scope::All).iter().collect::<Vec<_>>(), rest);
            let odd = bench.read_all(Scope::Tenant(tenant(1)), NO_LIMIT);
            assert_eq!(odd.len(), 29);
            bench.restart();
        }
    }
}

#[test]
fn a_bad_sector_costs_only_the_frame_that_has_it() {
    let (mut bench, texts) = sealed();
    let (name, at) = bench.storage.find_in_segments(b"00000005");
    bench.storage.add_bad_sector(&name, at + 100);
    for _ in 0..2 {
        let rest: Vec<_> = texts
            .iter()
            .filter(|text| !text.starts_with("00000005"))
            .collect();
        assert_eq!(bench.texts(Scope::All).iter().collect::<Vec<_>>(), rest);
        let odd = bench.read_all(Scope::Tenant(tenant(1)), NO_LIMIT);
        assert_eq!(odd.len(), 29);
        bench.restart();
    }
}

#[test]
fn damage_in_the_active_segment_costs_only_the_frame_that_has_it() {
    let bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.put(tenant(1), &["damaged"]);
    bench.put(tenant(1), &["b"]);
    let (name, at) = bench.storage.find_in_segments(b"damaged");
    bench.storage.damage(&name, |bytes| bytes[at] ^= 1);
    assert_eq!(bench.texts(Scope::All), ["a", "b"]);
    assert_eq!(
        bench.read(Scope::All, 0).1.lost,
        Some(Lost { first: 2, last: 2 })
    );
    bench.put(tenant(1), &["c"]);
    assert_eq!(bench.texts(Scope::Tenant(tenant(1))), ["a", "b", "c"]);
}

#[test]
fn a_destroyed_segment_is_set_aside_and_its_positions_are_lost() {
    let (mut bench, texts) = sealed();
    bench.close();
    let name = bench.storage.segments()[1].clone();
    bench
        .storage
        .damage(&name, |bytes| bytes[..4096].fill(0xEE));
    bench.open();
    let (first, end) = bench.read(Scope::All, 0);
    let lost = end.lost.expect("a segment is gone");
    assert_eq!(lost.first, first.len() as u64 + 1);
    let rest = bench.texts(Scope::All);
    let gone = usize::try_from(lost.last - lost.first + 1).unwrap();
    assert_eq!(rest.len(), texts.len() - gone);
    assert!(bench.storage.names().contains(&format!("{name}.damaged")));
    bench.restart();
    assert_eq!(bench.texts(Scope::All), rest);
    assert!(
        findings(&bench.storage)
            .iter()
            .any(|what| what.contains("set aside"))
    );
}

#[test]
fn when_the_newest_segment_is_destroyed_no_position_is_used_twice() {
    let (mut bench, texts) = sealed();
    let tail = bench.log().tail();
    bench.close();
    let name = bench.storage.segments().pop().unwrap();
    let active = if bench.storage.find(&name, texts[59].as_bytes()).is_some() {
        name
    } else {
        bench.storage.find_in_segments(texts[59].as_bytes()).0
    };
    bench
        .storage
        .damage(&active, |bytes| bytes[..4096].fill(0xEE));
    for _ in 0..2 {
        bench.open();
        let appended = bench.put(tenant(1), &["new"]);
        assert!(appended.first > tail);
        bench.close();
    }
    bench.open();
    let lost = bench
        .read(Scope::All, 0)
        .1
        .lost
        .expect("positions are lost");
    assert!(lost.last >= tail);
}

#[test]
fn a_missing_segment_is_a_lost_stretch() {
    let (mut bench, _) = sealed();
    bench.close();
    let names = bench.storage.segments();
    bench.storage.delete(&names[1]);
    bench.open();
    let lost = bench.read(Scope::All, 0).1.lost.expect("a segment is gone");
    assert!(lost.first > 1 && lost.last < 60);
    let texts = bench.texts(Scope::All);
    assert_eq!(texts.len() as u64, 60 - (lost.last - lost.first + 1));
}

#[test]
fn a_crash_between_sealing_and_indexing_is_made_up_for() {
    let (mut bench, texts) = sealed();
    bench.close();
    for name in indexes(&bench) {
        bench.storage.delete(&name);
    }
    bench.open();
    assert_eq!(bench.texts(Scope::All), texts);
    bench.put(tenant(1), &["more"]);
    bench.close();
    assert!(!indexes(&bench).is_empty(), "the indexes are written again");
    assert_eq!(findings(&bench.storage), Vec::<String>::new());
}

#[test]
fn a_log_that_was_cut_off_while_being_made_is_made_again() {
    for operations in 1..6 {
        let mut bench = Bench::with(|_| {});
        bench.close();
        bench.storage = SimulatedStorage::new();
        bench.storage.die_after(operations);
        let outcome = bench.try_open();
        drop(outcome);
        bench.lose_power(|| true);
        bench.open();
        bench.put(tenant(1), &["a"]);
        assert_eq!(bench.texts(Scope::All), ["a"]);
    }
}

#[test]
fn a_held_folder_is_refused_and_free_after_the_holder_died() {
    let mut bench = Bench::new();
    let second = tidings_log::Log::open_with(
        bench.options.clone(),
        Arc::new(bench.storage.clone()),
        bench.clock.clone(),
        Box::new(Nobody),
    );
    match second {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, "pid 7, the test"),
        other => panic!("{other:?}"),
    }
    bench.kill_and_restart();
}

struct Nobody;

impl tidings_log::Listener for Nobody {
    fn committed(&mut self, _: &[tidings_log::EventRef<'_>]) {}
    fn health_changed(&mut self, _: &tidings_log::Health) {}
}

/// Changes the header of a frame of events in the first segment and makes its checksum right.
fn forge(bench: &Bench, number: usize, change: impl Fn(&mut [u8])) {
    const FRAMES_BEGIN: usize = 4096;
    const HEADER: usize = 88;
    const KIND: usize = 80;
    const EVENTS: u8 = 0;
    let (name, _) = bench.storage.find_in_segments(b"first");
    bench.storage.damage(&name, |bytes| {
        let (mut at, mut before) = (FRAMES_BEGIN, number);
        // Others count for nothing: a writer that was idle for a moment has left a mark.
        while before > 0 || bytes[at + KIND] != EVENTS {
            before -= usize::from(bytes[at + KIND] == EVENTS);
            let length = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
            at += (HEADER + length as usize).next_multiple_of(8);
        }
        change(&mut bytes[at..at + HEADER]);
        let mut sum = crc32fast::Hasher::new();
        sum.update(&(at as u64).to_le_bytes());
        sum.update(&bytes[at + 12..at + HEADER]);
        bytes[at + 8..at + 12].copy_from_slice(&sum.finalize().to_le_bytes());
    });
}

fn set(header: &mut [u8], at: usize, value: u64) {
    header[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A checksum was taken for a proof of what it covers: a frame with a right one and a position near the end of all
/// numbers, or behind the frame before it, was taken in, and when its segment was sealed the list of frames in its
/// index overflowed (`frame.position - position`, `frame.last() + 1`): the upkeep thread panicked in a debug build,
/// and a release build wrote an index that pointed anywhere.
#[test]
fn a_frame_with_forged_positions_and_the_right_checksum_is_damage_like_any_other() {
    let positions = [
        (u64::MAX - 1, 2),
        (u64::MAX, u64::MAX - 1),
        (1 << 62, 2),
        // Back to the beginning, and to where it follows itself.
        (1, 0),
        (3, 3),
    ];
    for (position, follows) in positions {
        let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
        for text in ["first", "second", "forged", "fourth"] {
            bench.put(tenant(1), &[text]);
        }
        bench.die();
        forge(&bench, 2, |header| {
            set(header, 24, position);
            set(header, 32, follows);
        });
        bench.open();
        let lost = Some(Lost { first: 3, last: 3 });
        for _ in 0..2 {
            let (events, end) = bench.read(Scope::All, 0);
            let texts: Vec<_> = events.iter().map(|event| event.text().to_owned()).collect();
            assert_eq!(
                (texts, end.lost),
                (vec!["first".into(), "second".into()], lost)
            );
            assert_eq!(bench.texts(Scope::All)[..3], ["first", "second", "fourth"]);
            // Until its segment is sealed and indexed.
            for number in 0..30 {
                bench.append(tenant(1), vec![bulky(number, 9_000)]).unwrap();
            }
            bench.restart();
        }
    }
}

/// Positions so high that what is appended behind them could not be told from a forged one any more.
#[test]
fn a_log_that_has_no_positions_left_is_refused_as_damaged() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["first"]);
    bench.put(tenant(1), &["forged"]);
    bench.die();
    forge(&bench, 1, |header| set(header, 24, 1 << 61));
    match bench.try_open() {
        Err(OpenError::Damaged { what, .. }) => assert!(what.contains("position"), "{what}"),
        other => panic!("{other:?}"),
    }
}

/// An index was believed for its segment, and a frame that had been changed since led a reader of everything past all
/// that stood behind it, where a reader of one tenant was told of the damage.
#[test]
fn a_frame_that_was_forged_since_its_segment_was_indexed_is_found_by_whoever_reads() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    for text in ["first", "forged", "third"] {
        bench.put(tenant(1), &[text]);
    }
    // Until there is a second segment, and an index of the first.
    for number in 0..30 {
        bench.append(tenant(1), vec![bulky(number, 9_000)]).unwrap();
    }
    bench.close();
    let (name, _) = bench.storage.find_in_segments(b"first");
    let index = name.replace(".log", ".index");
    assert!(bench.storage.names().contains(&index), "{index}");
    for scope in [Scope::All, Scope::Tenant(tenant(1))] {
        forge(&bench, 1, |header| set(header, 24, 3_000_000));
        bench.open();
        assert_eq!(bench.lost(scope), [Lost { first: 2, last: 2 }]);
        let texts = bench.texts(scope);
        assert_eq!(texts[..2], ["first", "third"]);
        assert_eq!(texts.len(), 32);
        bench.close();
    }
}

/// Whoever reads goes by positions, so that one of the segments would be passed over without a word.
#[test]
fn segments_that_contradict_each_other_are_refused_as_damage() {
    let mut bench = Bench::with(|options| options.max_bytes = 1 << 20);
    bench.put(tenant(1), &["first"]);
    bench.put(tenant(1), &["forged"]);
    // Until there is a second segment. Its index is built anew.
    for number in 0..30 {
        bench.append(tenant(1), vec![bulky(number, 9_000)]).unwrap();
    }
    bench.die();
    let (name, _) = bench.storage.find_in_segments(b"first");
    let index = name.replace(".log", ".index");
    if bench.storage.names().contains(&index) {
        bench.storage.delete(&index);
    }
    forge(&bench, 1, |header| set(header, 24, 1_000_000));
    match bench.try_open() {
        Err(OpenError::Damaged { what, .. }) => {
            assert!(what.contains("begins with position"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn times_that_nobody_can_have_had_are_damage_too() {
    for at in [48, 56] {
        for time in [i64::MAX, i64::MIN, 1 << 61] {
            let mut bench = Bench::new();
            for text in ["first", "forged", "third"] {
                bench.put(tenant(1), &[text]);
            }
            bench.die();
            forge(&bench, 1, |header| set(header, at, time.cast_unsigned()));
            bench.open();
            assert_eq!(bench.texts(Scope::All), ["first", "third"]);
        }
    }
}

/// The frames behind one that claims far too much all go back, so that the log goes on behind it. A reader was led over
/// what was written there.
#[test]
fn what_is_appended_behind_a_frame_that_claims_far_too_much_is_read_back() {
    for number in 0..4 {
        let mut bench = Bench::new();
        for text in ["first", "second", "third", "fourth"] {
            bench.put(tenant(1), &[text]);
        }
        bench.die();
        forge(&bench, number, |header| set(header, 24, 5 << 56));
        for text in ["later", "latest"] {
            bench.open();
            bench.put(tenant(1), &[text]);
            assert_eq!(bench.texts(Scope::All).last().unwrap(), text);
            bench.die();
        }
        bench.open();
        let texts = bench.texts(Scope::All);
        assert!(
            texts.ends_with(&["later".to_owned(), "latest".to_owned()]),
            "{texts:?}"
        );
        assert_eq!(texts.len(), number + 3);
    }
}
