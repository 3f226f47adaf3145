//! Streams leave evenly while the rest is served; each further order ends a stage.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use tidings_tests::publish::{one, status};
use tidings_tests::{Request, Server, Setup, Stream, new_tenant};

/// The names of the reasons why a server is not ready.
fn reasons(server: &Server) -> BTreeSet<String> {
    let answer = server.ask_admin(&Request::get("/readyz")).expect(503);
    assert_eq!(answer["status"], "not_ready");
    let reasons = answer["reasons"].as_array().expect("a list").iter();
    reasons
        .map(|reason| {
            for member in ["since", "detail"] {
                assert!(reason[member].is_string(), "{member} of {reason}");
            }
            reason["reason"].as_str().expect("a name").to_owned()
        })
        .collect()
}

/// What a stream was given before it was led elsewhere: how many events, and the time to come back.
fn last_words(stream: &mut Stream) -> (usize, u64) {
    let mut events = 0;
    loop {
        let event = stream.next_event();
        if event.name == "closing" {
            let data = event.json();
            assert_eq!(data["reason"], "draining");
            assert!(stream.rest().is_empty(), "it was the last");
            return (events, data["retry"].as_u64().expect("milliseconds"));
        }
        events += 1;
    }
}

fn set(setup: Setup, times: &[(&str, &str)]) -> Setup {
    times.iter().fold(setup, |setup, (name, value)| {
        setup.set(&format!("TIDINGS_SHUTDOWN__{name}"), value)
    })
}

#[test]
fn streams_leave_evenly_while_all_else_is_served_and_no_new_one_opens() {
    // Few of them would be gone sooner than configured, and with them what there is to see.
    let mut server = set(Setup::new(), &[("DRAIN", "15s")]).start();
    let tenant = new_tenant();
    let viewer = server.viewer(&tenant);
    let watch = server.stream_of(&tenant).bearer(&viewer);
    let mut streams: Vec<Stream> = (0..1_000).map(|_| watch.open()).collect();
    server.signal(Signal::TERM);
    server.wait_for_log("the drain", |line| line.contains("draining"));

    let refused = watch.refused();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    assert!(reasons(&server).contains("draining"));
    assert_eq!(server.ask_admin(&Request::get("/healthz")).status, 200);

    // A publish each time that a stretch of the streams has gone: what comes later gets one event more.
    let mut given = Vec::new();
    let mut retries = BTreeSet::new();
    for (number, stream) in streams.iter_mut().enumerate() {
        let (events, retry) = last_words(stream);
        given.push(events);
        retries.insert(retry);
        if number % 50 == 49 && number < 700 {
            let publish = one(
                &tenant,
                &server.publisher(&tenant),
                &status("r1", number as u64),
            );
            assert_eq!(server.exchange(&publish).status, 200, "after {number}");
        }
    }
    let counts: BTreeSet<usize> = given.iter().copied().collect();
    assert!(
        counts.len() >= 5,
        "in how many slices they left: {counts:?}"
    );
    assert_eq!(given[0], 0, "the first left before anything was published");
    assert!(
        retries.iter().all(|retry| (1_500..=2_500).contains(retry)),
        "{retries:?}"
    );
    assert!(
        retries.len() > 500,
        "only {} different times to come back",
        retries.len()
    );
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_order_cuts_the_drain_short_and_the_clients_wait_in_its_place() {
    let mut server = set(Setup::new(), &[("DRAIN", "1h")]).start();
    let tenant = new_tenant();
    let watch = server.stream_of(&tenant).bearer(&server.viewer(&tenant));
    let mut streams: Vec<Stream> = (0..200).map(|_| watch.open()).collect();
    server.signal(Signal::TERM);
    server.wait_for_log("the drain", |line| line.contains("draining"));
    server.signal(Signal::TERM);
    let retries: Vec<u64> = streams
        .iter_mut()
        .map(|stream| last_words(stream).1)
        .collect();
    assert_eq!(server.wait().code(), Some(0));
    assert!(
        retries.iter().any(|&retry| retry > 60_000),
        "all would come back at once: {retries:?}"
    );
    server.wait_for_log("it", |line| line.contains("the drain is cut short"));
}

#[test]
fn during_the_delay_it_says_that_it_leaves_and_does_everything_as_before() {
    let mut server = set(Setup::new(), &[("DELAY", "1h")]).start();
    let tenant = new_tenant();
    let mut before = server.watch(&tenant).open();
    server.signal(Signal::TERM);
    server.wait_for_log("it", |line| line.contains("stopping"));
    assert_eq!(reasons(&server), BTreeSet::from(["draining".to_owned()]));
    let mut after = server.watch(&tenant).open();
    let receipt = server.publish(&tenant, &status("r1", 1));
    for stream in [&mut before, &mut after] {
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
    server.signal(Signal::INT);
    for stream in [&mut before, &mut after] {
        last_words(stream);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_third_order_does_not_wait_for_what_is_under_way() {
    let mut server = set(Setup::new(), &[("GRACE", "1h")]).start();
    let mut half = tidings_tests::Connection::open(server.address).expect("connects");
    let tenant = new_tenant();
    let publish =
        one(&tenant, &server.publisher(&tenant), &Value::Null).header("Expect", "100-continue");
    let request = publish.bytes();
    let head = request.len() - "null".len();
    half.send(&request[..head]).expect("sends");
    assert_eq!(
        half.read_head().expect("an answer").status,
        100,
        "it is under way"
    );
    server.signal(Signal::TERM);
    server.wait_for_log("the end of the drain", |line| {
        line.contains("what is under way")
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}
