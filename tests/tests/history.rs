//! The history: pages by cursor, filters, and what it says of what is missing. See
//! `spec/protocol.md`, "The rest of the HTTP surface".

use serde_json::{Value, json};
use tidings_tests::http::encode;
use tidings_tests::publish::status;
use tidings_tests::{AccessToken, Request, Server, Setup, epoch, new_tenant, position};

fn numbers(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().expect("a list");
    let number = |event: &Value| event["data"]["n"].as_u64().expect("a number");
    events.iter().map(number).collect()
}

#[test]
fn pages_follow_one_another_without_gap_or_repeat() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    for number in 0..50 {
        server.publish(&other, &status("r9", 1000));
        server.publish(&tenant, &status("r1", number));
    }
    for limit in [1, 7, 25, 50, 1000] {
        let mut seen = Vec::new();
        let mut query = format!("?limit={limit}");
        loop {
            let page = server.history(&tenant, &query);
            let next = page["next"].as_str().expect("always a cursor").to_owned();
            let on_page = numbers(&page);
            assert!(on_page.len() <= limit);
            if on_page.is_empty() {
                break;
            }
            seen.extend(on_page);
            query = format!("?limit={limit}&after={next}");
        }
        assert!(seen.iter().copied().eq(0..50), "{limit}: {seen:?}");
    }
    // Without a limit it is a hundred.
    let events: Vec<Value> = (50..200).map(|number| status("r1", number)).collect();
    server.publish_all(&tenant, &events);
    assert!(numbers(&server.history(&tenant, "")).into_iter().eq(0..100));
}

#[test]
fn the_last_page_says_where_to_go_on_once_there_is_more() {
    let server = Server::start();
    let tenant = new_tenant();
    let empty = server.history(&tenant, "");
    let next = empty["next"].as_str().expect("always a cursor").to_owned();
    assert!(numbers(&empty).is_empty());
    let receipt = server.publish(&tenant, &status("r1", 1));
    let page = server.history(&tenant, &format!("?after={next}"));
    assert_eq!(numbers(&page), [1]);
    assert_eq!(
        position(page["next"].as_str().expect("a cursor")),
        position(&receipt.last)
    );
    // The cursors of the history and of a stream are the same.
    server.publish(&tenant, &status("r1", 2));
    let mut stream = server
        .watch(&tenant)
        .after(page["next"].as_str().expect("a cursor"))
        .open();
    assert_eq!(stream.next_event().json()["n"], 2);
}

#[test]
fn an_event_of_the_history_is_the_one_of_the_stream() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    server.publish(&tenant, &status("r1", 1));
    server.publish(
        &tenant,
        &json!({"type": "alert_fired", "data": {"a": [1.0, null]}, "time": "2020-05-05T05:05:05Z"}),
    );
    let live = stream.events(2);
    let page = server.history(&tenant, "");
    assert_eq!(
        page.as_object().expect("an object").len(),
        2,
        "no gap: {page}"
    );
    let events = page["events"].as_array().expect("a list");
    for (event, live) in events.iter().zip(&live) {
        assert_eq!(event["id"], live.cursor());
        assert_eq!(event["type"], live.name.as_str());
        assert_eq!(event["data"], live.json());
        assert_eq!(event.as_object().expect("an object").len(), 5, "{event}");
    }
    assert_eq!(events[0]["device_id"], "r1");
    assert_eq!(events[1]["device_id"], Value::Null);
}

#[test]
fn types_devices_and_times_bound_it() {
    let server = Server::start();
    let tenant = new_tenant();
    for number in 0..12_u64 {
        let event_type = ["device_status", "metric_update", "alert_fired"]
            [usize::try_from(number % 3).expect("small")];
        let device = ["r1", "r2"][usize::try_from(number % 2).expect("small")];
        server.publish(
            &tenant,
            &json!({"type": event_type, "device_id": device, "data": {"n": number}}),
        );
    }
    let of = |query: &str| numbers(&server.history(&tenant, query));
    assert_eq!(of("?types=metric_update"), [1, 4, 7, 10]);
    assert_eq!(
        of("?types=metric_update,alert_fired&device_id=r1"),
        [2, 4, 8, 10]
    );
    assert_eq!(of("?device_id=r1,r2&limit=3"), [0, 1, 2]);
    assert_eq!(of("?device_id=r3"), Vec::<u64>::new());
    assert_eq!(of("?until=2020-01-01T00:00:00Z"), Vec::<u64>::new());
    assert_eq!(of("?since=2100-01-01T00:00:00Z"), Vec::<u64>::new());
    let all = server.history(&tenant, "");
    let time = all["events"][6]["time"].as_str().expect("a time");
    let same_or_later: Vec<u64> = all["events"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["time"].as_str() >= Some(time))
        .map(|event| event["data"]["n"].as_u64().expect("a number"))
        .collect();
    assert_eq!(of(&format!("?since={}", encode(time))), same_or_later);
}

#[test]
fn a_span_of_time_is_what_begins_at_its_start_and_ends_before_its_end_on_every_page() {
    let server = Server::start();
    let (tenant, other) = (new_tenant(), new_tenant());
    for number in 0..30 {
        server.publish(&tenant, &status("r1", number));
        server.publish(&other, &status("r1", 100 + number));
    }
    let all = server.history(&tenant, "");
    let time = |number: usize| {
        all["events"][number]["time"]
            .as_str()
            .expect("a time")
            .to_owned()
    };
    // Events of one instant stand on the same side.
    let first_at = |number: usize| -> u64 {
        let first = (0..=number).find(|&earlier| time(earlier) == time(number));
        u64::try_from(first.expect("itself at least")).expect("small")
    };
    let (from, to) = (first_at(8), first_at(21));
    let span = format!("since={}&until={}", encode(&time(8)), encode(&time(21)));
    let expected: Vec<u64> = (from..to).collect();
    assert_eq!(
        numbers(&server.history(&tenant, &format!("?{span}"))),
        expected
    );
    let mut paged = Vec::new();
    let mut page = server.history(&tenant, &format!("?{span}&limit=5"));
    while !numbers(&page).is_empty() {
        assert!(numbers(&page).len() <= 5);
        paged.extend(numbers(&page));
        let after = page["next"].as_str().expect("a cursor").to_owned();
        let until = encode(&time(21));
        page = server.history(&tenant, &format!("?after={after}&until={until}&limit=5"));
    }
    assert_eq!(paged, expected);
    let empty = format!("?since={}&until={}", encode(&time(21)), encode(&time(8)));
    assert_eq!(numbers(&server.history(&tenant, &empty)), Vec::<u64>::new());
}

#[test]
fn a_parameter_that_is_wrong_is_named() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    for (name, value) in [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "-1"),
        ("limit", "ten"),
        ("since", "yesterday"),
        ("until", "tomorrow"),
        ("types", "Nothing"),
        ("device_id", "a/b"),
    ] {
        let target = format!("/tenants/{tenant}/events?{name}={value}");
        let answer = server.exchange(&Request::get(&target).bearer(&access));
        assert_eq!(answer.problem(422)["parameter"], name, "{name}={value}");
    }
    let answer = server.exchange(&Request::get("/tenants/acme/events").bearer(&access));
    assert_eq!(answer.problem(422)["parameter"], "tenant_id");
}

#[test]
fn only_the_tenants_own_people_and_super_admins_read_it() {
    let server = Server::start();
    let (own, other) = (new_tenant(), new_tenant());
    server.publish(&own, &status("r1", 1));
    server.publish(&other, &status("r1", 2));
    let of = |access: &str, tenant: &str| {
        server.exchange(&Request::get(&format!("/tenants/{tenant}/events")).bearer(access))
    };
    of(&server.viewer(&own), &other).problem(403);
    server
        .exchange(&Request::get(&format!("/tenants/{own}/events")))
        .problem(401);
    assert_eq!(numbers(&of(&server.super_admin(), &own).expect(200)), [1]);
    assert_eq!(numbers(&of(&server.super_admin(), &other).expect(200)), [2]);
    let bounded =
        server.sign(&AccessToken::new("viewer-2", &own, "viewer").claim("devices", json!(["r2"])));
    assert_eq!(numbers(&of(&bounded, &own).expect(200)), Vec::<u64>::new());
}

#[test]
fn what_is_missing_is_told_beside_the_events() {
    let server = Setup::new().set("TIDINGS_LOG__MAX_BYTES", "1MiB").start();
    let tenant = new_tenant();
    let first = server.publish(&tenant, &status("r1", 0)).last;
    let ahead = format!("{}.{}", epoch(&first), position(&first) + 1000);
    for (cursor, reason) in [
        ("zzzzz.1", "unknown_epoch"),
        (ahead.as_str(), "ahead_of_log"),
        ("nonsense", "malformed"),
    ] {
        let page = server.history(&tenant, &format!("?after={cursor}"));
        assert_eq!(page["gap"]["reason"], reason, "{page}");
        assert_eq!(page["gap"]["requested"], cursor, "{page}");
        let next = page["next"].as_str().expect("always a cursor");
        let again = server.history(&tenant, &format!("?after={next}"));
        assert!(again.get("gap").is_none(), "{again}");
    }
    let padding = "x".repeat(900);
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    loop {
        let events: Vec<Value> = (0..100)
            .map(|number| json!({"type": "metric_update", "data": {"n": number, "p": padding}}))
            .collect();
        server.publish_all(&tenant, &events);
        let page = server.history(&tenant, &format!("?after={first}"));
        if let Some(gap) = page.get("gap") {
            assert_eq!(gap["reason"], "expired");
            assert_eq!(gap["requested"], first);
            let oldest = page["events"][0]["id"].as_str().expect("a cursor");
            let resumed_at = position(gap["resumed_at"].as_str().expect("a cursor"));
            assert!(
                (position(&first)..position(oldest)).contains(&resumed_at),
                "{page}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing has expired");
    }
}

/// The history skipped damaged events without a word; a stream always told of them.
#[test]
fn damaged_events_are_announced_in_the_history_and_on_a_stream() {
    let mut server = Server::start();
    let tenant = new_tenant();
    for number in 0..300 {
        server.publish(&tenant, &status("r1", number));
    }
    let first = server.history(&tenant, "?limit=1");
    let cursor = first["next"].as_str().expect("a cursor").to_owned();
    server.stop();
    let segments = server.folder().join("segments");
    let mut files: Vec<_> = std::fs::read_dir(segments)
        .expect("segments")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).expect("a segment");
    let marker = b"\"n\":150";
    let place = bytes
        .windows(marker.len())
        .position(|window| window == marker)
        .expect("the event is in the file");
    bytes[place + 5] ^= 1;
    std::fs::write(&files[0], bytes).expect("written");
    server.start_again();

    let mut seen = Vec::new();
    let mut gaps = Vec::new();
    let mut query = "?limit=1000".to_owned();
    loop {
        let page = server.history(&tenant, &query);
        let on_page = numbers(&page);
        gaps.extend(page.get("gap").cloned());
        if on_page.is_empty() && page.get("gap").is_none() {
            break;
        }
        seen.extend(on_page);
        query = format!(
            "?limit=1000&after={}",
            page["next"].as_str().expect("a cursor")
        );
    }
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0]["reason"], "expired");
    assert!(
        seen.into_iter()
            .eq((0..300).filter(|&number| number != 150))
    );

    let mut stream = server.watch(&tenant).after(&cursor).open();
    let mut events = Vec::new();
    while events.last() != Some(&299) {
        let event = stream.next_but_cursors().expect("more events");
        match event.name.as_str() {
            "device_status" => events.push(event.json()["n"].as_u64().expect("a number")),
            "gap" => events.push(1000),
            _ => {}
        }
    }
    let expected = (1..150).chain([1000]).chain(151..300);
    assert!(events.into_iter().eq(expected));
}
