//! Order and exactly-once: across disconnects, restarts and kills, and what is said where retention
//! has taken something. See `spec/protocol.md`, "What is promised", 1 to 3.

use serde_json::{Value, json};
use tidings_tests::brokers::wait_for;
use tidings_tests::publish::{self, status};
use tidings_tests::{Event, Server, Setup, Stream, epoch, new_tenant, position};

/// The seed of this run: `TIDINGS_SEED`, or one that is drawn and printed, so that a failure can be
/// played again.
fn seeded(what: &str) -> fastrand::Rng {
    let seed = std::env::var("TIDINGS_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("{what}: TIDINGS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// One who watches, and remembers no more than a client does: the last id it has processed.
struct Reader {
    /// None: a `super_admin`, who sees all tenants.
    tenant: Option<usize>,
    /// None: all types.
    only: Option<&'static str>,
    /// The number, among what it may see, of the next event that is due.
    next: usize,
    last_event_id: Option<String>,
    stream: Option<Stream>,
}

/// What was published: tenant, type and number.
struct Published {
    tenant: usize,
    event_type: &'static str,
    number: u64,
}

struct Story {
    server: Server,
    rng: fastrand::Rng,
    tenants: Vec<String>,
    published: Vec<Published>,
    readers: Vec<Reader>,
}

const TYPES: [&str; 3] = ["device_status", "metric_update", "alert_fired"];

impl Story {
    fn new(rng: fastrand::Rng) -> Self {
        let reader = |tenant, only| Reader {
            tenant,
            only,
            next: 0,
            last_event_id: None,
            stream: None,
        };
        Self {
            server: Server::start(),
            rng,
            tenants: (0..3).map(|_| new_tenant()).collect(),
            published: Vec::new(),
            readers: vec![
                reader(Some(0), None),
                reader(Some(0), Some("alert_fired")),
                reader(Some(1), None),
                reader(Some(1), Some("metric_update")),
                reader(Some(2), None),
                reader(None, None),
                reader(None, Some("device_status")),
            ],
        }
    }

    fn due(&self, reader: &Reader) -> Vec<u64> {
        self.published
            .iter()
            .filter(|published| {
                reader
                    .tenant
                    .is_none_or(|tenant| tenant == published.tenant)
            })
            .filter(|published| reader.only.is_none_or(|only| only == published.event_type))
            .map(|published| published.number)
            .collect()
    }

    fn publish(&mut self) {
        let tenant = self.rng.usize(..self.tenants.len());
        let count = *self.rng.choice(&[1, 1, 1, 2, 10, 50]).expect("not empty");
        let first = self.published.len() as u64;
        let events: Vec<Value> = (first..first + count)
            .map(|number| {
                let event_type = *self.rng.choice(&TYPES).expect("not empty");
                let padding = "p".repeat(self.rng.usize(..200));
                self.published.push(Published {
                    tenant,
                    event_type,
                    number,
                });
                json!({"type": event_type, "device_id": "r1", "data": {"n": number, "p": padding}})
            })
            .collect();
        let receipt = self.server.publish_all(&self.tenants[tenant], &events);
        assert_eq!((receipt.accepted, receipt.duplicates), (count, 0));
    }

    /// Opens the stream of this reader, if it is not open, after what the reader has processed.
    fn open(&mut self, index: usize) {
        let reader = &self.readers[index];
        if reader.stream.is_some() {
            return;
        }
        let (tenant, access) = match reader.tenant {
            Some(tenant) => (tenant, self.server.viewer(&self.tenants[tenant])),
            None => (0, self.server.super_admin()),
        };
        let mut watch = self.server.stream_of(&self.tenants[tenant]);
        watch = if self.rng.bool() {
            watch.bearer(&access)
        } else {
            watch.token(&self.server.stream_token(&access))
        };
        if let Some(only) = reader.only {
            watch = watch.query("types", only);
        }
        watch = match &reader.last_event_id {
            Some(cursor) if self.rng.bool() => watch.after(cursor),
            Some(cursor) => watch.query("last_event_id", cursor),
            // Its first stream began with the log.
            None => watch.query("since", "2020-01-01T00:00:00Z"),
        };
        self.readers[index].stream = Some(watch.open());
    }

    /// Lets a reader process up to this many events, each of which must be the one that is due.
    fn read(&mut self, index: usize, most: usize) {
        self.open(index);
        let due = self.due(&self.readers[index]);
        let reader = &mut self.readers[index];
        let until = due.len().min(reader.next + most);
        let stream = reader.stream.as_mut().expect("just opened");
        while reader.next < until {
            let event = stream.next_of_any().expect("the stream stays open");
            reader.last_event_id = Some(event.last_event_id.clone());
            if event.name == "cursor" {
                continue;
            }
            let number = event.json()["n"].as_u64();
            assert_eq!(number, Some(due[reader.next]), "reader {index}: {event:?}");
            reader.next += 1;
        }
    }

    fn restart(&mut self, kill: bool) {
        if kill {
            self.server.kill();
        } else {
            assert!(self.server.stop().success());
        }
        // What lay unread in a stream is lost with it; the reader asks for it again.
        for reader in &mut self.readers {
            reader.stream = None;
        }
        self.server.start_again();
    }
}

#[test]
fn every_reader_gets_everything_once_and_in_order_whatever_breaks() {
    let mut story = Story::new(seeded("every_reader_gets_everything"));
    for _ in 0..600 {
        let reader = story.rng.usize(..story.readers.len());
        match story.rng.u8(..100) {
            0..45 => story.publish(),
            45..75 => {
                let most = story.rng.usize(1..80);
                story.read(reader, most);
            }
            75..82 => story.open(reader),
            82..90 => story.readers[reader].stream = None,
            90..96 => {
                if let Some(stream) = story.readers[reader].stream.take() {
                    stream.tear();
                }
            }
            96..98 => story.restart(false),
            _ => story.restart(true),
        }
    }
    for reader in 0..story.readers.len() {
        story.read(reader, usize::MAX - story.published.len());
        let due = story.due(&story.readers[reader]);
        assert_eq!(story.readers[reader].next, due.len());
    }
}

#[test]
fn resume_after_restart_repeats_nothing() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).open();
    let events: Vec<Value> = (0..10).map(|number| status("r1", number)).collect();
    server.publish_all(&tenant, &events);
    let last = stream.events(10).pop().expect("ten events");
    assert!(server.stop().success());
    server.start_again();
    let mut again = server.watch(&tenant).after(last.cursor()).open();
    let receipt = server.publish(&tenant, &status("r1", 10));
    let next = again.next_event();
    assert_eq!(
        (next.cursor(), &next.json()["n"]),
        (receipt.last.as_str(), &json!(10))
    );
    assert_eq!(
        epoch(&receipt.last),
        epoch(last.cursor()),
        "a restart starts no new log"
    );
}

#[test]
fn positions_rise_over_all_tenants_and_receipts_name_them() {
    let server = Server::start();
    let (one, two) = (new_tenant(), new_tenant());
    let mut last = 0;
    for number in 0..20 {
        for tenant in [&one, &two] {
            let events: Vec<Value> = (0..3).map(|_| status("r1", number)).collect();
            let receipt = server.publish_all(tenant, &events);
            assert!(last < position(&receipt.first));
            assert!(position(&receipt.first) < position(&receipt.last));
            last = position(&receipt.last);
        }
    }
}

#[test]
fn a_stream_without_a_cursor_shows_what_is_published_after_its_head_and_nothing_before() {
    let server = Server::start();
    let tenant = new_tenant();
    for number in 0..50 {
        server.publish(&tenant, &status("r1", number));
        let mut stream = server.watch(&tenant).open();
        let receipt = server.publish(&tenant, &status("r1", 1000 + number));
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
}

#[test]
fn a_cursor_wins_over_since_and_the_header_over_the_parameter() {
    let server = Server::start();
    let tenant = new_tenant();
    let cursors: Vec<String> = (0..4)
        .map(|number| server.publish(&tenant, &status("r1", number)).last)
        .collect();
    let mut stream = server
        .watch(&tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .query("last_event_id", &cursors[0])
        .open();
    assert_eq!(stream.next_event().cursor(), cursors[1]);
    let mut stream = server
        .watch(&tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .query("last_event_id", &cursors[0])
        .after(&cursors[2])
        .open();
    assert_eq!(stream.next_event().cursor(), cursors[3]);
    let mut stream = server
        .watch(&tenant)
        .query("since", "2020-01-01T02:00:00.5+02:00")
        .open();
    assert_eq!(stream.next_event().cursor(), cursors[0]);
}

/// Checks a gap's own form.
fn check_gap(gap: &Event, reason: &str, requested: &str) {
    assert_eq!(gap.name, "gap", "{gap:?}");
    let data = gap.json();
    assert_eq!(data["reason"], reason, "{gap:?}");
    assert_eq!(data["requested"], requested, "{gap:?}");
    assert_eq!(data["resumed_at"], gap.cursor(), "{gap:?}");
    assert!(
        data.get("source").is_none(),
        "there is one source only: {gap:?}"
    );
}

#[test]
fn a_cursor_that_is_not_of_this_log_is_told_as_a_gap_and_the_stream_goes_on_from_now() {
    let server = Server::start();
    let tenant = new_tenant();
    let old = server.publish(&tenant, &status("r1", 0)).last;
    let own = epoch(&old).to_owned();
    let ahead = format!("{own}.{}", position(&old) + 1000);
    for (cursor, reason) in [
        ("zzzzz.1", "unknown_epoch"),
        (ahead.as_str(), "ahead_of_log"),
        ("nonsense", "malformed"),
        ("1.2.3", "malformed"),
        ("-", "malformed"),
        ("<script>\"\\", "malformed"),
        ("18446744073709551616.1", "malformed"),
    ] {
        for by_header in [true, false] {
            let watch = server.watch(&tenant);
            let mut stream = if by_header {
                watch.after(cursor).open()
            } else {
                watch.query("last_event_id", cursor).open()
            };
            let gap = stream.next_event();
            // A text of the right form in digits is another log's, whatever its size.
            if cursor.starts_with("1844") && gap.json()["reason"] == "unknown_epoch" {
                check_gap(&gap, "unknown_epoch", cursor);
            } else {
                check_gap(&gap, reason, cursor);
            }
            let now = server.publish(&tenant, &status("r1", 1)).last;
            assert_eq!(stream.next_event().cursor(), now, "{cursor}");
            // The gap's own id resumes without another gap.
            let mut again = server.watch(&tenant).after(gap.cursor()).open();
            assert_eq!(again.next_event().cursor(), now, "{cursor}");
        }
    }
}

#[test]
fn a_cursor_of_the_log_as_it_was_before_its_folder_was_emptied_is_of_an_unknown_epoch() {
    let mut server = Server::start();
    let tenant = new_tenant();
    let old = server.publish(&tenant, &status("r1", 0)).last;
    assert!(server.stop().success());
    std::fs::remove_dir_all(server.folder()).expect("removes the log");
    server.start_again();
    let mut stream = server.watch(&tenant).after(&old).open();
    check_gap(&stream.next_event(), "unknown_epoch", &old);
}

#[test]
fn an_empty_cursor_is_no_cursor() {
    let server = Server::start();
    let tenant = new_tenant();
    let mut stream = server.watch(&tenant).after("").open();
    let receipt = server.publish(&tenant, &status("r1", 0));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}

/// A server that keeps about a mebibyte.
fn forgetful() -> Setup {
    Setup::new()
        .set("TIDINGS_LOG__MAX_BYTES", "1MiB")
        .set("TIDINGS_STREAM__WINDOW_BYTES", "1MiB")
}

/// Publishes numbered events of about a kilobyte from `first` on; gives their cursors.
fn fill(server: &Server, tenant: &str, first: usize, count: usize) -> Vec<String> {
    let padding = "x".repeat(900);
    let access = server.publisher(tenant);
    let mut connection = tidings_tests::Connection::open(server.address).expect("connects");
    let mut cursors = Vec::new();
    for chunk in 0..count / 10 {
        let events: Vec<Value> = (0..10)
            .map(|offset| {
                let number = first + chunk * 10 + offset;
                json!({"type": "metric_update", "device_id": "r1", "data": {"n": number, "p": padding}})
            })
            .collect();
        let answer = connection
            .exchange(&publish::many(tenant, &access, &events))
            .expect("answers");
        let receipt = tidings_tests::Receipt::of(&answer);
        let start = position(&receipt.first);
        assert_eq!(
            position(&receipt.last),
            start + 9,
            "a body lies together in the log"
        );
        cursors.extend((start..start + 10).map(|at| format!("{}.{at}", epoch(&receipt.first))));
    }
    cursors
}

fn number(event: &Event) -> usize {
    let number = event.json()["n"].as_u64().expect("a number");
    usize::try_from(number).expect("small")
}

/// Resumes after event `after`; gives whether a gap was told and the number of the next event.
/// Checks that a gap is told exactly where something is missing, and that nothing is after it.
fn resume(server: &Server, tenant: &str, cursors: &[String], after: usize) -> (bool, usize) {
    let mut stream = server.watch(tenant).after(&cursors[after]).open();
    let mut event = stream.next_event();
    let told = event.name == "gap";
    if told {
        check_gap(&event, "expired", &cursors[after]);
        let resumed_at = position(event.cursor());
        event = stream.next_event();
        let next = number(&event);
        assert!(
            next > after + 1,
            "a gap where nothing is missing: {event:?}"
        );
        assert!(
            (position(&cursors[after])..position(event.cursor())).contains(&resumed_at),
            "{resumed_at}"
        );
    } else {
        assert_eq!(
            number(&event),
            after + 1,
            "something is missing and nothing was said"
        );
    }
    let first = number(&event);
    for (expected, cursor) in cursors.iter().enumerate().skip(first + 1) {
        let event = stream.next_event();
        assert_eq!(event.cursor(), cursor);
        assert_eq!(number(&event), expected);
    }
    (told, first)
}

/// Resumes after the first event until retention, which works in the background, has taken
/// something; gives the number of the oldest event that is left.
fn wait_for_expiry(server: &Server, tenant: &str, cursors: &[String]) -> usize {
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    loop {
        let (told, oldest) = resume(server, tenant, cursors, 0);
        if told {
            return oldest;
        }
        assert!(std::time::Instant::now() < deadline, "nothing has expired");
    }
}

#[test]
fn a_gap_is_told_exactly_where_retention_has_taken_something() {
    let server = forgetful().start();
    let tenant = new_tenant();
    let mut rng = seeded("a_gap_is_told_exactly");
    let mut cursors = Vec::new();
    for _ in 0..5 {
        cursors.extend(fill(&server, &tenant, cursors.len(), 1000));
        for _ in 0..4 {
            let after = rng.usize(..cursors.len() - 1);
            resume(&server, &tenant, &cursors, after);
        }
    }
    // After four times its size something is gone. Around the oldest event that is left, a gap is
    // told one event before and not one event later.
    loop {
        let oldest = wait_for_expiry(&server, &tenant, &cursors);
        assert!(oldest > 1, "retention takes more than one event at a time");
        let around =
            [oldest - 2, oldest - 1, oldest].map(|after| resume(&server, &tenant, &cursors, after));
        // Retention works in the background, and what was the oldest may be gone by now.
        if resume(&server, &tenant, &cursors, 0) == (true, oldest) {
            assert_eq!(
                around,
                [(true, oldest), (false, oldest), (false, oldest + 1)]
            );
            return;
        }
    }
}

#[test]
fn what_has_expired_stays_expired_after_a_restart() {
    let mut server = forgetful().start();
    let tenant = new_tenant();
    let cursors = fill(&server, &tenant, 0, 4000);
    let oldest = wait_for_expiry(&server, &tenant, &cursors);
    server.kill();
    server.start_again();
    let (told, again) = resume(&server, &tenant, &cursors, 0);
    assert!(
        told && again >= oldest,
        "{again} was expired before {oldest}"
    );
    assert!(server.stop().success());
    server.start_again();
    resume(&server, &tenant, &cursors, oldest);
}

#[test]
fn a_laggard_that_retention_overtakes_is_told_in_its_place() {
    let server = forgetful()
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        .start();
    let tenant = new_tenant();
    let mut laggard = server.watch(&tenant).receive_buffer(4096).open();
    let mut cursors = fill(&server, &tenant, 0, 8000);
    cursors.extend(fill(&server, &tenant, 8000, 2000));
    while wait_for_expiry(&server, &tenant, &cursors) < 5000 {}
    let mut next = 0;
    let mut gaps = 0;
    while next < cursors.len() {
        let event = laggard.next_event();
        if event.name == "gap" {
            assert_eq!(event.json()["reason"], "expired");
            gaps += 1;
            let after = laggard.next_event();
            assert!(
                number(&after) > next,
                "a gap where nothing is missing: {after:?}"
            );
            next = number(&after) + 1;
        } else {
            assert_eq!(
                number(&event),
                next,
                "something is missing and nothing was said"
            );
            next += 1;
        }
    }
    assert!(gaps > 0, "ten times the log's size was kept for a laggard");
}

#[test]
fn a_noisy_tenant_expires_its_own_events_only() {
    let server = Setup::new()
        .set("TIDINGS_LOG__TENANT_MAX_BYTES", "256KiB")
        .start();
    let (noisy, quiet) = (new_tenant(), new_tenant());
    let quiet_cursors = fill(&server, &quiet, 0, 20);
    let noisy_cursors = fill(&server, &noisy, 0, 4000);
    // Retention works in the background.
    wait_for("what a cap of a quarter of a mebibyte leaves", || {
        wait_for_expiry(&server, &noisy, &noisy_cursors) > 2000
    });
    assert_eq!(resume(&server, &quiet, &quiet_cursors, 0), (false, 1));
}

#[test]
fn what_is_older_than_the_retention_expires() {
    let server = Setup::new().set("TIDINGS_LOG__RETENTION", "2s").start();
    let tenant = new_tenant();
    let mut cursors = fill(&server, &tenant, 0, 100);
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    loop {
        assert!(std::time::Instant::now() < deadline, "nothing has expired");
        cursors.extend(fill(&server, &tenant, cursors.len(), 10));
        let mut stream = server.watch(&tenant).after(&cursors[0]).open();
        let event = stream.next_event();
        if event.name == "gap" {
            check_gap(&event, "expired", &cursors[0]);
            break;
        }
        assert_eq!(number(&event), 1);
        let last = cursors.last().expect("some");
        // A handshake with the server, which also lets time pass.
        while stream.next_of_any().expect("open").cursor() != last {}
    }
}
