//! Reading by tenant and by position, within limits, from wherever.

use proptest::prelude::*;
use tidings_log::{NewEvent, NewSubject, ReadLimit, Resume, Scope, Subject};
use tidings_protocol::{EventType, TenantId};

use crate::support::{Bench, HOUR, NO_LIMIT, Read, SECOND, bulky, event, tenant};

/// A log of several segments, the first sealed and indexed: (tenant, text) in order.
fn filled(bench: &Bench) -> Vec<(TenantId, String)> {
    let mut all = Vec::new();
    for number in 0..400_usize {
        let tenant = tenant(u8::try_from(number % 7 % 3).unwrap());
        let events: Vec<_> = (0..=number % 4)
            .map(|part| bulky(number * 10 + part, 400 * (number % 5)))
            .collect();
        for event in &events {
            all.push((tenant, String::from_utf8(event.data.clone()).unwrap()));
        }
        bench.append(tenant, events).unwrap();
    }
    all
}

fn of(all: &[(TenantId, String)], wanted: TenantId) -> Vec<String> {
    all.iter()
        .filter(|(tenant, _)| *tenant == wanted)
        .map(|(_, text)| text.clone())
        .collect()
}

fn texts(events: &[Read]) -> Vec<String> {
    events.iter().map(|event| event.text().to_owned()).collect()
}

#[test]
fn subjects_and_origins_are_read_back_as_they_were_appended() {
    let bench = Bench::new();
    let subject = |kind: EventType, key: &str, ends| NewSubject {
        kind,
        key: key.parse().unwrap(),
        ends,
    };
    let status: EventType = "device_status".parse().unwrap();
    let subjects = [
        Some(subject(status.clone(), "router-1", false)),
        Some(subject("alert_fired".parse().unwrap(), "a 1/ä", true)),
        None,
    ];
    let mut events: Vec<NewEvent> = subjects
        .iter()
        .map(|subject| NewEvent {
            subject: subject.clone(),
            origin: subject.as_ref().map(|_| [0, 255, 10].into()),
            ..event("x")
        })
        .collect();
    events.push(NewEvent {
        event_type: EventType::removed(),
        subject: Some(subject(status, "router-1", true)),
        ..event("y")
    });
    bench.append(tenant(1), events.clone()).unwrap();
    let mut read = Vec::new();
    bench
        .log()
        .read(Scope::Tenant(tenant(1)), 0, NO_LIMIT, &mut |event| {
            let subject = event.subject.map(|subject| {
                let Subject { kind, key, ends } = subject;
                (kind.to_owned(), key.to_owned(), ends)
            });
            let origin = event.origin.map(Box::from);
            read.push((
                event.event_type.to_owned(),
                origin,
                event.data.to_vec(),
                subject,
            ));
        })
        .unwrap();
    let appended: Vec<_> = events
        .iter()
        .map(|event| {
            let subject = event.subject.as_ref().map(|subject| {
                let Subject { kind, key, ends } = subject.as_ref();
                (kind.to_owned(), key.to_owned(), ends)
            });
            let event_type = event.event_type.as_str().to_owned();
            let origin = event.origin.clone();
            (event_type, origin, event.data.clone(), subject)
        })
        .collect();
    assert_eq!(read, appended);
}

#[test]
fn every_scope_reads_back_whole_whatever_the_limit() {
    let mut bench = Bench::with(|options| options.max_bytes = 2 << 20);
    let all = filled(&bench);
    for _ in 0..2 {
        assert!(bench.storage.segments().len() > 2);
        for events in [1, 3, 100, usize::MAX] {
            let limit = ReadLimit {
                events,
                bytes: usize::MAX,
            };
            let everything = bench.read_all(Scope::All, limit);
            assert_eq!(everything.len(), all.len());
            assert!(
                everything
                    .iter()
                    .zip(1..)
                    .all(|(event, position)| event.position == position)
            );
            for (event, (tenant, text)) in everything.iter().zip(&all) {
                assert_eq!((event.tenant, event.text()), (*tenant, text.as_str()));
            }
            for number in 0..3 {
                let read = bench.read_all(Scope::Tenant(tenant(number)), limit);
                assert_eq!(texts(&read), of(&all, tenant(number)));
            }
        }
        bench.restart();
    }
    assert_eq!(bench.read_all(Scope::Tenant(tenant(9)), NO_LIMIT), []);
}

#[test]
fn a_read_stops_at_its_limits_and_goes_on_where_it_stopped() {
    let bench = Bench::new();
    bench.put(tenant(1), &["aaaa", "bbbb", "cccc", "dddd"]);
    bench.put(tenant(2), &["other"]);
    let limit = ReadLimit {
        events: 3,
        bytes: usize::MAX,
    };
    let (events, end) = bench.read_limited(Scope::Tenant(tenant(1)), 0, limit);
    assert_eq!(
        (events.len(), end.examined_through, end.reached_tail),
        (3, 3, false)
    );
    let (events, end) = bench.read_limited(Scope::Tenant(tenant(1)), 3, limit);
    assert_eq!(texts(&events), ["dddd"]);
    assert_eq!(
        (end.examined_through, end.reached_tail),
        (5, true),
        "past the others' events"
    );
    // Type and device count too; one event is visited whatever the limit.
    let one = ReadLimit {
        events: 10,
        bytes: 1,
    };
    assert_eq!(bench.read_limited(Scope::All, 1, one).0.len(), 1);
    let none = ReadLimit {
        events: 0,
        bytes: 0,
    };
    assert_eq!(bench.read_limited(Scope::All, 1, none).0.len(), 1);
    let (events, end) = bench.read(Scope::All, 5);
    assert!(events.is_empty() && end.reached_tail && end.examined_through == 5);
    // A cursor ahead of the log is not moved back.
    assert_eq!(bench.read(Scope::All, 90).1.examined_through, 90);
}

#[test]
fn a_large_body_is_read_in_parts() {
    let bench = Bench::with(|options| options.max_bytes = 32 << 20);
    let body: Vec<_> = (0..5_000).map(|number| bulky(number, 200)).collect();
    bench.append(tenant(1), body).unwrap();
    let limit = ReadLimit {
        events: 333,
        bytes: usize::MAX,
    };
    for scope in [Scope::All, Scope::Tenant(tenant(1))] {
        let read = bench.read_all(scope, limit);
        assert_eq!(read.len(), 5_000);
        assert!(
            read.iter()
                .zip(1..)
                .all(|(event, position)| event.position == position)
        );
    }
}

#[test]
fn what_is_stored_comes_back_as_it_was_given() {
    let bench = Bench::new();
    let mut given = event("{\"a\":\"\u{1F980}\"}");
    given.time = Some(-12);
    given.device = Some("AA:BB.c_d-1".parse().unwrap());
    let mut plain = event("");
    plain.device = None;
    bench.append(tenant(3), vec![given.clone(), plain]).unwrap();
    let mut seen = 0;
    bench
        .log()
        .read(Scope::All, 0, NO_LIMIT, &mut |event| {
            seen += 1;
            assert_eq!(event.tenant, tenant(3));
            assert_eq!(event.appended_at, bench.clock.wall());
            assert_eq!(event.event_type, "device_status");
            if event.position == 1 {
                assert_eq!(event.device, Some("AA:BB.c_d-1"));
                assert_eq!((event.time, event.data), (Some(-12), &given.data[..]));
            } else {
                assert_eq!((event.device, event.time), (None, None));
                assert_eq!(event.data, b"");
            }
        })
        .unwrap();
    assert_eq!(seen, 2);
}

/// By the steps beside each segment, not by a scan: what it costs does not grow with the log.
#[test]
fn the_position_before_a_time_is_found_by_reading_a_few_pages() {
    let mut bench = Bench::with(|options| options.max_bytes = 64 << 20);
    let mut times = Vec::new();
    for number in 0..3_000 {
        bench.clock.pass(1_000);
        let body = vec![event(&format!("{number} {}", "x".repeat(3_000)))];
        bench.append(tenant(1), body).unwrap();
        times.push(bench.clock.wall());
    }
    // With the index on the disk, and nothing of it in memory.
    bench.restart();
    let log: usize = bench
        .storage
        .segments()
        .iter()
        .map(|name| bench.storage.content(name).len())
        .sum();
    assert!(log > 8 << 20, "{log} bytes");
    for place in [0, 1_499, 2_999] {
        let before = bench.storage.bytes_read();
        let found = bench.log().position_before(times[place]).unwrap();
        assert_eq!(found, place as u64);
        let read = bench.storage.bytes_read() - before;
        assert!(read <= 256 << 10, "{read} bytes of {log}");
    }
}

#[test]
fn the_position_before_a_time_is_found() {
    let mut bench = Bench::with(|options| options.max_bytes = 2 << 20);
    let mut times = Vec::new();
    for number in 0..300 {
        bench.clock.pass(SECOND * (number % 3));
        times.push(bench.clock.wall());
        let body = bulky(usize::try_from(number).unwrap(), 3_000);
        bench.append(tenant(1), vec![body]).unwrap();
    }
    assert!(bench.storage.segments().len() > 3);
    for _ in 0..2 {
        for offset in [-SECOND, -1, 0, 1] {
            for time in &times {
                let expected = times.iter().filter(|at| **at < time + offset).count() as u64;
                assert_eq!(
                    bench.log().position_before(time + offset).unwrap(),
                    expected
                );
            }
        }
        assert_eq!(bench.log().position_before(i64::MAX).unwrap(), 300);
        assert_eq!(bench.log().position_before(i64::MIN).unwrap(), 0);
        bench.restart();
    }
}

#[test]
fn append_times_never_go_back() {
    let mut bench = Bench::new();
    bench.put(tenant(1), &["a"]);
    bench.clock.set_ahead(-HOUR);
    bench.put(tenant(1), &["b"]);
    bench.restart();
    bench.put(tenant(1), &["c"]);
    bench.clock.set_ahead(3 * HOUR);
    bench.put(tenant(1), &["d"]);
    let times: Vec<i64> = bench
        .read_all(Scope::All, NO_LIMIT)
        .iter()
        .map(|event| event.appended_at)
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(times[0], times[2]);
    assert_eq!(bench.log().position_before(times[3]).unwrap(), 3);
}

#[test]
fn usage_says_what_is_there() {
    let bench = Bench::new();
    assert_eq!(bench.log().usage().oldest, None);
    bench.put(tenant(1), &["a", "b"]);
    let usage = bench.log().usage();
    assert_eq!((usage.events, usage.oldest), (2, Some(1)));
    assert_eq!(usage.oldest_at, Some(bench.clock.wall()));
    assert!(usage.bytes >= 1 << 20);
    assert_eq!(bench.log().resume_point(Scope::All, 0), Resume::Exact);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reading_from_anywhere_gives_exactly_what_follows(
        after in 0..1_100_u64, events in 1..200_usize, bytes in 1..100_000_usize, number in 0..4_u8
    ) {
        thread_local! {
            static FILLED: (Bench, Vec<(TenantId, String)>) = {
                let bench = Bench::with(|options| options.max_bytes = 2 << 20);
                let all = filled(&bench);
                (bench, all)
            };
        }
        FILLED.with(|(bench, all)| {
            let limit = ReadLimit { events, bytes };
            let scope = if number == 3 { Scope::All } else { Scope::Tenant(tenant(number)) };
            let (read, end) = bench.read_limited(scope, after, limit);
            let expected: Vec<(u64, &String)> = (1..)
                .zip(all)
                .filter(|(position, (owner, _))| {
                    *position > after && (number == 3 || *owner == tenant(number))
                })
                .map(|(position, (_, text))| (position, text))
                .collect();
            prop_assert!(read.len() <= events);
            prop_assert!(read.len() <= expected.len());
            for (event, (position, text)) in read.iter().zip(&expected) {
                prop_assert_eq!((event.position, event.text()), (*position, text.as_str()));
            }
            if end.reached_tail {
                prop_assert_eq!(read.len(), expected.len());
            } else {
                prop_assert_eq!(end.examined_through, read.last().unwrap().position);
                prop_assert!(read.len() < expected.len());
                let size = |text: &str| text.len() + "device_status".len() + "router-1".len();
                let total: usize = read.iter().map(|event| size(event.text())).sum();
                prop_assert!(read.len() == events || total >= bytes);
            }
            Ok(())
        })?;
    }
}
