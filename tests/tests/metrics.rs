//! What `/metrics` on the admin listener says: what has happened, to the number; and nothing that grows with who
//! calls, or names them.

#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which floats hold exactly"
)]

use serde_json::json;
use tidings_tests::publish::{self, status};
use tidings_tests::{
    AccessToken, Connection, GUARD, NatsOptions, RedisOptions, Request, Scrape, Server, Setup,
    Watch, new_tenant,
};

#[test]
fn what_is_published_and_given_is_counted_to_the_event() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut streams = [server.watch(&tenant).open(), server.watch(&tenant).open()];
    let keyed =
        json!({"type": "alert_fired", "device_id": "r1", "key": "k1", "data": {"alert_id": "a"}});
    let first = server.publish(&tenant, &keyed);
    server.publish(&tenant, &keyed);
    server.publish_all(&tenant, &[status("r1", 1), status("r1", 2)]);
    for stream in &mut streams {
        stream.events(3);
    }
    let resumed = server.watch(&tenant).after(&first.first).open();
    let refused = server.stream_of(&tenant).token("no such token").refused();
    assert_eq!(refused.status, 401);
    let answer = server.exchange(&publish::one(&tenant, "no token", &status("r1", 3)));
    assert_eq!(answer.status, 401);

    let scrape = Scrape::until(&server, "as many deliveries as there were", |scrape| {
        scrape.value("tidings_deliveries_total") >= 8.0
            && scrape.value(r#"tidings_streams{transport="http1",coding="identity"}"#) >= 3.0
    });
    for (series, expected) in [
        ("tidings_deliveries_total", 8.0),
        (
            r#"tidings_streams{transport="http1",coding="identity"}"#,
            3.0,
        ),
        (r#"tidings_streams{transport="http2",coding="zstd"}"#, 0.0),
        (r#"tidings_streams_opened_total{begin="tail"}"#, 2.0),
        (r#"tidings_streams_opened_total{begin="cursor"}"#, 1.0),
        (
            r#"tidings_stream_refusals_total{reason="unauthenticated"}"#,
            1.0,
        ),
        (r#"tidings_stream_tokens_total{result="ok"}"#, 3.0),
        (r#"tidings_publishes_total{result="ok"}"#, 3.0),
        (r#"tidings_publishes_total{result="unauthenticated"}"#, 1.0),
        ("tidings_published_events_total", 3.0),
        ("tidings_published_duplicates_total", 1.0),
        ("tidings_publish_seconds_count", 3.0),
        ("tidings_stream_open_seconds_count", 3.0),
        ("tidings_log_appended_events_total", 3.0),
        ("tidings_commit_seconds_count", 2.0),
        ("tidings_log_events", 3.0),
        ("tidings_log_tail_position", 3.0),
        ("tidings_log_segments", 1.0),
        (r#"tidings_log_health{state="healthy"}"#, 1.0),
        (r#"tidings_log_health{state="failed"}"#, 0.0),
        ("tidings_ready", 1.0),
        ("tidings_stale", 0.0),
        ("tidings_streams_lagging", 0.0),
    ] {
        assert_eq!(scrape.value(series), expected, "{series}\n{}", scrape.text);
    }
    let sent: usize = streams.iter().map(|stream| stream.raw.len()).sum();
    assert!(scrape.value("tidings_stream_sent_bytes_total") >= sent as f64);
    assert!(scrape.value("tidings_publish_to_write_seconds_count") >= 1.0);
    for some in [
        "tidings_log_bytes",
        "tidings_log_disk_free_bytes",
        "tidings_log_oldest_timestamp_seconds",
        "tidings_process_resident_memory_bytes",
        "tidings_process_open_descriptors",
        "tidings_process_descriptor_limit",
        "tidings_process_start_time_seconds",
    ] {
        assert!(scrape.value(some) > 0.0, "{some}");
    }
    // The kernel counts in pages, which it may have given back just now.
    assert!(scrape.value("tidings_kernel_tcp_memory_bytes") >= 0.0);

    drop(resumed);
    drop(streams);
    let scrape = Scrape::until(&server, "without streams", |scrape| {
        scrape.sum("tidings_streams") == 0.0
    });
    assert_eq!(scrape.sum("tidings_streams_closed_total"), 3.0);
}

#[test]
fn each_format_is_given_to_who_asks_for_it() {
    let server = Server::start();
    let ask = |accept: &str| {
        let answer = server.ask_admin(&Request::get("/metrics").header("Accept", accept));
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type").expect("a type").to_owned();
        (kind, answer.text().to_owned())
    };
    let (kind, text) = ask("text/plain");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE tidings_deliveries_total counter\n"));
    let (kind, open) = ask("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.contains("# TYPE tidings_deliveries counter\n"));
    assert!(open.ends_with("# EOF\n"));
    // The series are the same, so that a change of format breaks no history.
    let names = |text: &str| -> Vec<String> { Scrape::parse(text).series.into_keys().collect() };
    assert_eq!(names(&text), names(&open));
}

#[test]
fn the_number_of_series_does_not_depend_on_who_calls_or_what_they_say() {
    for (named, expected_tenants, callers) in [("0", 0, 200), ("3", 4, 1500)] {
        let server = Setup::new().set("TIDINGS_METRICS__TENANTS", named).start();
        let root = server.super_admin();
        server.publish(&new_tenant(), &status("r1", 0));
        let before = Scrape::of(&server);
        let mut connection = Connection::open(server.address).expect("a connection");
        for number in 0..callers {
            let tenant = new_tenant();
            let user = format!("user-{number}\"}} 1\ntidings_forged 1");
            let access = server.sign(&AccessToken::new(&user, &tenant, "viewer"));
            let requests = [
                publish::one(&tenant, &root, &status(&format!("device-{number}"), number)),
                Request::get(&format!("/nothing/{number}/{tenant}")),
                Request::post("/auth/sse-token").bearer(&access),
                Request::get(&format!("/tenants/{tenant}/events/stream?token={user:?}")),
                Request::get(&format!(
                    "/tenants/{tenant}/events/stream?last_event_id=none-{number}"
                ))
                .bearer("forged"),
            ];
            for request in requests {
                // What is malformed beyond repair ends the connection.
                if connection.exchange(&request).is_err() {
                    connection = Connection::open(server.address).expect("a connection");
                }
            }
        }
        let after = Scrape::of(&server);
        assert_eq!(after.kinds, before.kinds);
        assert!(!after.text.contains("forged"), "{}", after.text);
        let tenants = |scrape: &Scrape| {
            let of_tenants = scrape.series.keys();
            of_tenants
                .filter(|series| series.starts_with("tidings_tenant_"))
                .count()
        };
        assert_eq!(tenants(&after), 3 * expected_tenants, "{}", after.text);
        assert_eq!(
            after.series.len() - tenants(&after),
            before.series.len() - tenants(&before)
        );
        if expected_tenants > 0 {
            let events = after.sum("tidings_tenant_published_events_total");
            assert_eq!(events, 1.0 + callers as f64);
        }
    }
}

#[test]
fn nobody_is_named_and_the_public_has_no_metrics() {
    let server = Server::start();
    let (tenant, device) = (new_tenant(), "core-7");
    let access = server.sign(&AccessToken::new("ada", &tenant, "publisher"));
    let mut stream = Watch::at(server.address, &format!("/tenants/{tenant}/events/stream"))
        .bearer(&access)
        .open();
    publish::must(
        server.address,
        &publish::one(&tenant, &access, &status(device, 1)),
    );
    stream.next_event();
    let scrape = Scrape::of(&server);
    for secret in [tenant.as_str(), "ada", device, "127.0.0.1", access.as_str()] {
        assert!(!scrape.text.contains(secret), "{secret}\n{}", scrape.text);
    }
    for path in ["/metrics", "/api/metrics", "//metrics"] {
        let answer = server.exchange(&Request::get(path).bearer(&server.super_admin()));
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[test]
fn a_tenant_that_was_purged_is_named_no_more() {
    let server = Setup::new().set("TIDINGS_METRICS__TENANTS", "2").start();
    let (gone, stays) = (new_tenant(), new_tenant());
    for tenant in [&gone, &stays] {
        server.publish(tenant, &status("r1", 1));
    }
    assert!(Scrape::of(&server).text.contains(&gone));
    let purge = Request::new("DELETE", &format!("/tenants/{gone}?confirm={gone}"));
    server
        .exchange(&purge.bearer(&server.super_admin()))
        .expect(200);
    let scrape = Scrape::of(&server);
    assert!(!scrape.text.contains(&gone), "{}", scrape.text);
    assert!(scrape.text.contains(&stays));
    let answer = server.exchange(&publish::one(
        &gone,
        &server.super_admin(),
        &status("r1", 2),
    ));
    assert_eq!(answer.status, 410);
    assert!(!Scrape::of(&server).text.contains(&gone));
}

/// A client that reads nothing is behind, is seen to be, and is ended as stalled.
#[test]
fn a_client_that_reads_nothing_lags_and_then_stalls() {
    // For so long it is seen to lag.
    let server = Setup::new()
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "15s")
        .start();
    let tenant = new_tenant();
    let stuck = server.watch(&tenant).receive_buffer(4096).open();
    let padding = "x".repeat(10_000);
    let event = json!({"type": "metric_update", "data": {"n": 1, "p": padding}});
    let events = vec![event; 200];
    for _ in 0..3 {
        server.publish_all(&tenant, &events);
    }
    let scrape = Scrape::until(&server, "behind", |scrape| {
        scrape.value("tidings_streams_lagging") == 1.0
    });
    assert!(scrape.value("tidings_stream_lag_max_events") >= 1.0);
    assert!(scrape.value("tidings_stream_lapses_total") >= 1.0);
    // A scrape may come between the counter of what was closed and the gauge of what is open.
    Scrape::until(&server, "stalled", |scrape| {
        scrape.value(r#"tidings_streams_closed_total{reason="stalled"}"#) == 1.0
            && scrape.sum("tidings_streams") == 0.0
            && scrape.value("tidings_streams_lagging") == 0.0
            && scrape.value("tidings_stream_lag_max_events") == 0.0
    });
    drop(stuck);
}

#[test]
fn gaps_catch_ups_and_conflated_events_are_counted() {
    let server = Server::start();
    let tenant = new_tenant();
    let padding = "x".repeat(2_000);
    let metric = |number: u64| {
        json!({"type": "metric_update", "device_id": "r1",
            "data": {"type": "load", "value": number, "p": padding}})
    };
    let events: Vec<_> = (0..2_000).map(metric).collect();
    // More than the window's reach, so that who comes from the start reads the log.
    for _ in 0..10 {
        server.publish_all(&tenant, &events);
    }
    let mut lost = server.watch(&tenant).after("no-cursor").open();
    assert_eq!(lost.next_event().name, "gap");
    let mut slow = server.watch(&tenant).query("since", "2020-01-01T00:00:00Z");
    slow = slow.query("conflate", "default");
    let mut slow = slow.open();
    let last = server.publish(&tenant, &status("r1", 1));
    while slow.next_event().id.as_deref() != Some(last.last.as_str()) {}
    let scrape = Scrape::until(&server, "counted", |scrape| {
        scrape.value("tidings_conflated_events_total") > 0.0
    });
    assert_eq!(
        scrape.value(r#"tidings_gaps_total{reason="malformed"}"#),
        1.0
    );
    assert_eq!(scrape.value(r#"tidings_gaps_total{reason="expired"}"#), 0.0);
    assert!(scrape.value("tidings_catch_up_read_seconds_count") >= 1.0);
    assert_eq!(
        scrape.value(r#"tidings_streams_opened_total{begin="since"}"#),
        1.0
    );
}

#[test]
fn brokers_are_seen_to_be_there_and_to_be_away() {
    let mut nats = NatsOptions::new().start();
    let mut redis = RedisOptions::new().start();
    let server = Setup::new()
        .set("TIDINGS_LOG__KIND", "jetstream")
        .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
        .set("TIDINGS_NATS__URL", &nats.url())
        .tokens_in(&redis.url())
        .start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let scrape = Scrape::until(&server, "copied", |scrape| {
        scrape.sum("tidings_source_events_total") == 1.0
            && scrape.sum("tidings_source_lag_messages") == 0.0
            && scrape.sum("tidings_source_current") == 1.0
    });
    assert_eq!(scrape.value("tidings_nats_connected"), 1.0);
    assert_eq!(scrape.value("tidings_redis_connected"), 1.0);
    assert_eq!(scrape.value("tidings_broker_pending_bytes"), 0.0);
    assert_eq!(scrape.sum("tidings_source_skipped_total"), 0.0);
    nats.kill();
    redis.kill();
    let scrape = Scrape::until(&server, "away", |scrape| {
        scrape.value("tidings_nats_connected") == 0.0
            && scrape.value("tidings_redis_connected") == 0.0
            && scrape.value("tidings_stale") == 1.0
    });
    assert_eq!(scrape.value("tidings_ready"), 0.0);
}

/// What an operator's Prometheus does with a server whose engines are held up must not be a hang.
#[test]
fn a_scrape_is_answered_while_the_public_side_is_crowded() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let streams: Vec<_> = (0..200)
        .map(|_| server.stream_of(&tenant).bearer(&access).open())
        .collect();
    // Each has ten seconds for the rest.
    let half_requests: Vec<Connection> = (0..500)
        .map(|_| {
            let mut connection = Connection::open(server.address).expect("a connection");
            connection.send(b"GET / HTTP/1.1\r\n").expect("it goes out");
            connection
        })
        .collect();
    let begun = std::time::Instant::now();
    Scrape::until(&server, "with all streams and connections", |scrape| {
        scrape.sum("tidings_streams") == 200.0
            && scrape.value("tidings_process_open_descriptors") >= 700.0
    });
    assert!(begun.elapsed() < GUARD);
    drop((half_requests, streams));
}

#[test]
fn the_last_backup_is_told_also_after_a_restart_and_none_where_there_was_none() {
    const LAST: &str = "tidings_backup_last_success_timestamp_seconds";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path");
    let mut server = Setup::new().set("TIDINGS_LOG__BACKUP_PATH", path).start();
    let last = |server: &Server| Scrape::of(server).series.get(LAST).copied();
    assert_eq!(last(&server), None);
    let refused = Request::post("/backup").body("application/json", r#"{"target": "/etc"}"#);
    server.ask_admin(&refused).problem(403);
    assert_eq!(last(&server), None);
    let backup = Request::post("/backup").body("application/json", r#"{"target": "daily"}"#);
    server.ask_admin(&backup).expect(200);
    let at = last(&server).expect("a time");
    let now = tidings_tests::access::now() as f64;
    assert!((now - 3600.0..=now).contains(&at), "{at} is not now, {now}");
    server.kill();
    server.start_again();
    assert_eq!(last(&server), Some(at));
}
