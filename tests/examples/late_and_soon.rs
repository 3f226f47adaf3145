//! Measures, and judges nothing: how late a stream is that reads a tenth of what is published, with and
//! without conflation, and how soon a snapshot of ten thousand devices comes.
//!
//! `cargo run -p tidings-tests --example late_and_soon`; the server is the one that `TIDINGS_BIN` names,
//! or the one that the tests use.

use serde_json::{Value, json};
use tidings_tests::{Request, Server, new_tenant, publish};

fn main() {
    how_soon_a_snapshot_of_ten_thousand_devices_comes();
    how_late_a_stream_is_that_reads_a_tenth();
}

/// How late statuses and alerts are on a line that carries a tenth of what is published.
#[expect(
    clippy::too_many_lines,
    reason = "a program that is read from top to bottom"
)]
fn how_late_a_stream_is_that_reads_a_tenth() {
    use std::time::{Duration, Instant};
    const SECONDS: u32 = 20;
    let (server, tenant) = (Server::start(), new_tenant());
    let access = server.viewer(&tenant);
    let start = Instant::now();
    let micros = move || u64::try_from(start.elapsed().as_micros()).expect("soon");
    for conflate in [Some("metric_update"), None] {
        let mut watch = server
            .stream_of(&tenant)
            .bearer(&access)
            .receive_buffer(4096);
        if let Some(types) = conflate {
            watch = watch.query("conflate", types);
        }
        let mut stream = watch.open();
        let published = std::sync::atomic::AtomicU64::new(0);
        let done = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // 100 bodies a second of 10 events: 1,000 events, of which 20 are statuses and alerts.
                let publisher = server.publisher(&tenant);
                let mut connection =
                    tidings_tests::Connection::open(server.address).expect("a connection");
                let begun = Instant::now();
                for body in 0..SECONDS * 100 {
                    let events: Vec<Value> = (0..10)
                        .map(|place| {
                            let number = body * 10 + place;
                            let device = format!("r{}", number % 50);
                            let mut data = json!({"at": micros(), "padding": "x".repeat(180)});
                            let event_type = match number % 100 {
                                0 => "device_status",
                                50 => "alert_fired",
                                _ => "metric_update",
                            };
                            data["type"] = ["health", "interfaces", "wireless"]
                                [number as usize / 50 % 3]
                                .into();
                            data["alert_event_id"] = format!("a{number}").into();
                            json!({"type": event_type, "device_id": device, "data": data})
                        })
                        .collect();
                    let request = publish::many(&tenant, &publisher, &events);
                    let answer = connection.exchange(&request).expect("an answer");
                    assert_eq!(answer.status, 200);
                    published.fetch_add(10, order);
                    let next = begun + Duration::from_millis(10) * (body + 1);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                done.store(true, order);
            });
            // A line that carries a tenth, whatever is on it: 100 events' bytes a second.
            let (begun, before) = (Instant::now(), stream.raw.len());
            let (mut late, mut metrics) = (Vec::new(), 0);
            while !done.load(order) {
                let event = stream.next_event();
                let now = micros();
                if event.name == "metric_update" {
                    metrics += 1;
                } else {
                    late.push(now - event.json()["at"].as_u64().expect("a time"));
                }
                let read = u32::try_from(stream.raw.len() - before).expect("little");
                let due = begun + Duration::from_micros(1_000_000 / 100 * u64::from(read) / 400);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let bytes = stream.raw.len() - before;
            late.sort_unstable();
            let at = |percent: usize| Duration::from_micros(late[(late.len() - 1) * percent / 100]);
            println!(
                "conflate {conflate:?}: {} published, {metrics} metrics and {} statuses and alerts read, {} KB/s; these were \
                 late by p50 {:.2?}, p99 {:.2?}, at most {:.2?}",
                published.load(order),
                late.len(),
                bytes / 1000 / SECONDS as usize,
                at(50),
                at(99),
                at(100),
            );
        });
    }
}

/// How soon the first and the last subject of a large snapshot come.
fn how_soon_a_snapshot_of_ten_thousand_devices_comes() {
    use std::time::Instant;
    let (server, tenant) = (Server::start(), new_tenant());
    let padding = "x".repeat(250);
    let event = |number: u64| json!({"type": "device_status", "device_id": format!("r{number}"), "data": {"padding": padding}});
    let events: Vec<Value> = (0..10_000).map(event).collect();
    server.publish_all(&tenant, &events);
    let access = server.viewer(&tenant);
    // The state has folded what was published when it answers.
    let target = format!("/tenants/{tenant}/state");
    server
        .exchange(&Request::get(&target).bearer(&access))
        .expect(200);
    for _ in 0..5 {
        let begun = Instant::now();
        let watch = server.stream_of(&tenant).bearer(&access);
        let mut stream = watch.query("snapshot", "true").open();
        assert_eq!(stream.next_of_any().expect("a subject").name, "snapshot");
        let first = begun.elapsed();
        stream.next_named("snapshot_end");
        let bytes = stream.raw.len() / 1000;
        println!(
            "first subject after {first:?}, all 10,000 ({bytes} KB) after {:?}",
            begun.elapsed()
        );
    }
}
