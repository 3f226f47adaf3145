//! The recorder of faults. While a test breaks things it publishes with acknowledgement on many tenants and reads
//! through clients that resume on random nodes; in the end it compares: none lost, none twice, none out of order,
//! none to a wrong tenant.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::{
    Connection, Event, Heard, Item, Receipt, Request, Stream, Watch, new_tenant, position, publish,
};

use crate::support::{Node, issued, root, until};

/// Each with a publisher of its own.
const TENANTS: usize = 5;

/// How many clients read each tenant, beside one that reads all.
const READERS: usize = 2;

/// Between two bodies of a publisher: a steady load, not as much as goes.
const PACE: Duration = Duration::from_millis(20);

/// Before a client tries its luck again.
const AGAIN: Duration = Duration::from_millis(20);

/// How long a client waits for an answer or, where heartbeats come each second, for a word, before it goes elsewhere.
const PATIENCE: Duration = Duration::from_secs(9);

/// How long a body may remain without acknowledgement, and a reader without the end, before that is a hang.
const OVERDUE: Duration = Duration::from_mins(3);

/// A recording that goes on.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<Vec<Body>>>,
    readers: Vec<JoinHandle<Record>>,
}

/// What all threads share.
struct Shared {
    nodes: Vec<SocketAddr>,
    tenants: Vec<Tenant>,
    /// Streams are opened with stream tokens, which another node has minted; otherwise with access tokens.
    by_stream_token: bool,
    /// What is under way is brought to its end, and no more.
    enough: AtomicBool,
    /// Answers other than 200, by status; 0 where there was none.
    refused: Mutex<BTreeMap<u16, u64>>,
    /// What the streams that never leave their node were told, events aside.
    told: Mutex<BTreeMap<String, u64>>,
}

struct Tenant {
    id: String,
    publisher: String,
    viewer: String,
    acknowledged: AtomicU64,
}

/// A body that was acknowledged in the end.
struct Body {
    numbers: Range<u64>,
    attempts: u64,
    first: String,
    last: String,
}

impl Body {
    /// Of a body that was broken off, a later event can have been stored before an earlier one. Its receipt says so.
    fn is_out_of_order(&self) -> bool {
        self.attempts > 1 && position(&self.first) > position(&self.last)
    }
}

/// Whose events a reader is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Tenant(usize),
    All,
}

/// What a reader was shown.
struct Record {
    scope: Scope,
    last_event_id: Option<String>,
    events: Vec<Seen>,
    /// Of which tenants it has seen the end.
    ended: Vec<bool>,
    openings: u64,
}

struct Seen {
    tenant: usize,
    number: u64,
    id: String,
}

impl Recorder {
    /// Begins to publish and read, on any of these nodes.
    pub(crate) fn start(nodes: &[&Node]) -> Self {
        Self::begin(nodes, false, None)
    }

    /// The same; streams are opened with stream tokens.
    pub(crate) fn start_with_stream_tokens(nodes: &[&Node]) -> Self {
        Self::begin(nodes, true, None)
    }

    /// The same as [`Self::start`], and each tenant has one more reader, that stays on this node's stream to the end.
    pub(crate) fn start_with_steady_readers(nodes: &[&Node], on: &Node) -> Self {
        Self::begin(nodes, false, Some(on.address))
    }

    fn begin(nodes: &[&Node], by_stream_token: bool, steady: Option<SocketAddr>) -> Self {
        let tenant = |_| {
            let id = new_tenant();
            Tenant {
                publisher: issued("poller", &id, "publisher", 0),
                viewer: issued("ada", &id, "viewer", 0),
                acknowledged: AtomicU64::new(0),
                id,
            }
        };
        let shared = Arc::new(Shared {
            nodes: nodes.iter().map(|node| node.address).collect(),
            tenants: (0..TENANTS).map(tenant).collect(),
            by_stream_token,
            enough: AtomicBool::new(false),
            refused: Mutex::default(),
            told: Mutex::default(),
        });
        let scopes = (0..TENANTS * READERS).map(|reader| Scope::Tenant(reader % TENANTS));
        let mut readers: Vec<_> = scopes
            .chain([Scope::All])
            .map(|scope| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || read_here_and_there(&shared, scope))
            })
            .collect();
        for tenant in (0..TENANTS).filter(|_| steady.is_some()) {
            let (shared, address) = (Arc::clone(&shared), steady.expect("just asked"));
            readers.push(thread::spawn(move || {
                read_steadily(&shared, tenant, address)
            }));
        }
        let publishers = (0..TENANTS)
            .map(|tenant| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || publish_until_enough(&shared, tenant))
            })
            .collect();
        let recorder = Self {
            shared,
            publishers,
            readers,
        };
        recorder.wait_for_more(5);
        recorder
    }

    /// Waits until so many more bodies of each tenant are acknowledged.
    pub(crate) fn wait_for_more(&self, bodies: u64) {
        let tenants = &self.shared.tenants;
        let count = |tenant: &Tenant| tenant.acknowledged.load(Ordering::SeqCst);
        let due: Vec<u64> = tenants
            .iter()
            .map(|tenant| count(tenant) + bodies)
            .collect();
        until("further acknowledgements", || {
            let mut both = tenants.iter().zip(&due);
            both.all(|(tenant, due)| count(tenant) >= *due)
        });
    }

    /// How often something was refused with this status.
    pub(crate) fn refused(&self, status: u16) -> u64 {
        let refused = self.shared.refused.lock().expect("nobody panics with it");
        refused.get(&status).copied().unwrap_or(0)
    }

    /// Waits until something is refused with this status, so many times more.
    pub(crate) fn wait_for_refusals(&self, status: u16, more: u64) {
        let due = self.refused(status) + more;
        until(&format!("{more} refusals with {status}"), || {
            self.refused(status) >= due
        });
    }

    /// How often steady readers were told this: `stale`, `fresh`, or `heartbeat`.
    pub(crate) fn told(&self, what: &str) -> u64 {
        let told = self.shared.told.lock().expect("nobody panics with it");
        told.get(what).copied().unwrap_or(0)
    }

    /// A tenant's id.
    pub(crate) fn tenant(&self, index: usize) -> &str {
        &self.shared.tenants[index].id
    }

    /// Brings what is under way to its end, and compares what was published with what each reader was shown.
    pub(crate) fn finish(self) {
        self.shared.enough.store(true, Ordering::SeqCst);
        let published: Vec<Vec<Body>> = self
            .publishers
            .into_iter()
            .map(|thread| thread.join().expect("a publisher failed"))
            .collect();
        let records: Vec<Record> = self
            .readers
            .into_iter()
            .map(|thread| thread.join().expect("a reader failed"))
            .collect();
        for record in &records {
            record.check(&published);
        }
        let bodies: usize = published.iter().map(Vec::len).sum();
        let repeated = published.iter().flatten().filter(|body| body.attempts > 1);
        let out_of_order = published
            .iter()
            .flatten()
            .filter(|body| body.is_out_of_order());
        let events: usize = records.iter().map(|record| record.events.len()).sum();
        let openings: u64 = records.iter().map(|record| record.openings).sum();
        println!(
            "recorder: {bodies} bodies of {TENANTS} tenants acknowledged, {} of them repeated, {} stored out of their own order; {} readers were shown {events} \
             events over {openings} streams, each once, in order and at its tenant; refused: {:?}",
            repeated.count(),
            out_of_order.count(),
            records.len(),
            self.shared.refused.lock().expect("nobody panics with it")
        );
    }
}

impl Shared {
    fn any_node(&self) -> SocketAddr {
        self.nodes[fastrand::usize(..self.nodes.len())]
    }

    fn was_refused(&self, status: u16) {
        let mut refused = self.refused.lock().expect("nobody panics with it");
        *refused.entry(status).or_default() += 1;
    }

    /// One request to a node, which may be dead or frozen: its answer, if it is a 200.
    fn ask(&self, address: SocketAddr, request: &Request) -> Option<tidings_tests::Answer> {
        let asked = Connection::open(address).and_then(|mut connection| {
            connection.patience(PATIENCE)?;
            connection.exchange(request)
        });
        let answer = asked.ok();
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        if status == 200 {
            return answer;
        }
        // A server that is in trouble says so, and nothing else.
        assert!(
            matches!(status, 0 | 503 | 507),
            "{status} where none was due: {answer:?}"
        );
        self.was_refused(status);
        None
    }

    /// Opens a stream on a node, behind what a reader has seen; `None` where it is refused or there is no answer.
    fn open(&self, address: SocketAddr, record: &Record) -> Option<Stream> {
        let watch = match record.scope {
            Scope::All => Watch::at(address, "/events/stream").bearer(&root()),
            Scope::Tenant(tenant) => {
                let tenant = &self.tenants[tenant];
                let path = format!("/tenants/{}/events/stream", tenant.id);
                let watch = Watch::at(address, &path);
                if self.by_stream_token {
                    let mint = Request::post("/auth/sse-token").bearer(&tenant.viewer);
                    let minted = self.ask(self.any_node(), &mint)?.json();
                    watch.token(minted["token"].as_str().expect("a token"))
                } else {
                    watch.bearer(&tenant.viewer)
                }
            }
        };
        let watch = match &record.last_event_id {
            Some(cursor) => watch.after(cursor),
            None => watch.query("since", "2020-01-01T00:00:00Z"),
        };
        match watch.patience(PATIENCE).try_open() {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(answer)) => {
                assert_eq!(answer.status, 503, "{}\n{}", answer.head, answer.text());
                self.was_refused(503);
                None
            }
            Err(_) => {
                self.was_refused(0);
                None
            }
        }
    }
}

/// A publisher: one body after the other, each repeated with its keys on any node until it is acknowledged.
fn publish_until_enough(shared: &Shared, index: usize) -> Vec<Body> {
    let tenant = &shared.tenants[index];
    let mut bodies: Vec<Body> = Vec::new();
    loop {
        let is_last = shared.enough.load(Ordering::SeqCst);
        let next = bodies.last().map_or(0, |body| body.numbers.end);
        let count = if is_last {
            1
        } else {
            [1, 1, 4][fastrand::usize(..3)]
        };
        let numbers = next..next + count;
        let event = |number: u64| {
            json!({
                "type": "metric_update",
                "key": number.to_string(),
                "data": {"of": index, "n": number, "end": is_last, "text": "x".repeat(fastrand::usize(..300))},
            })
        };
        let events: Vec<Value> = numbers.clone().map(event).collect();
        let request = publish::many(&tenant.id, &tenant.publisher, &events);
        let begun = Instant::now();
        let mut attempts = 1;
        let receipt = loop {
            if let Some(answer) = shared.ask(shared.any_node(), &request) {
                break Receipt::of(&answer);
            }
            assert!(begun.elapsed() < OVERDUE, "a body is never acknowledged");
            attempts += 1;
            thread::sleep(AGAIN);
        };
        assert_eq!(receipt.accepted + receipt.duplicates, count, "{receipt:?}");
        assert!(attempts > 1 || receipt.duplicates == 0, "{receipt:?}");
        bodies.push(Body {
            numbers,
            attempts,
            first: receipt.first,
            last: receipt.last,
        });
        tenant.acknowledged.fetch_add(1, Ordering::SeqCst);
        if is_last {
            return bodies;
        }
        thread::sleep(PACE);
    }
}

/// A reader that stays nowhere for long.
fn read_here_and_there(shared: &Shared, scope: Scope) -> Record {
    let mut record = Record::new(scope);
    let mut overdue = Overdue::default();
    while !record.is_complete() {
        overdue.check(shared);
        let Some(mut stream) = shared.open(shared.any_node(), &record) else {
            thread::sleep(AGAIN);
            continue;
        };
        record.openings += 1;
        let leaves_at = Instant::now() + Duration::from_millis(fastrand::u64(50..2_000));
        while !record.is_complete() && Instant::now() < leaves_at {
            match stream.hear(PATIENCE) {
                Heard::Item(Item::Event(event)) => {
                    record.take(shared, &event);
                }
                Heard::Item(_) => {}
                Heard::Silence | Heard::End => break,
            }
        }
    }
    record
}

/// A reader whose stream must never end.
fn read_steadily(shared: &Shared, tenant: usize, address: SocketAddr) -> Record {
    let mut record = Record::new(Scope::Tenant(tenant));
    let mut overdue = Overdue::default();
    let mut stream = shared.open(address, &record).expect("a stream");
    record.openings += 1;
    while !record.is_complete() {
        overdue.check(shared);
        let told = match stream.hear(PATIENCE) {
            Heard::Item(Item::Event(event)) => record.take(shared, &event),
            Heard::Item(_) => Some("heartbeat".to_owned()),
            Heard::Silence => panic!("not even heartbeats came: {}", stream.tail()),
            Heard::End => panic!("the stream has ended: {}", stream.tail()),
        };
        if let Some(told) = told {
            let mut all = shared.told.lock().expect("nobody panics with it");
            *all.entry(told).or_default() += 1;
        }
    }
    record
}

/// Since when nothing more is published.
#[derive(Default)]
struct Overdue(Option<Instant>);

impl Overdue {
    fn check(&mut self, shared: &Shared) {
        if shared.enough.load(Ordering::SeqCst) {
            let since = *self.0.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < OVERDUE, "a reader never comes to the end");
        }
    }
}

impl Record {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            last_event_id: None,
            events: Vec::new(),
            ended: vec![false; TENANTS],
            openings: 0,
        }
    }

    fn is_complete(&self) -> bool {
        match self.scope {
            Scope::Tenant(tenant) => self.ended[tenant],
            Scope::All => self.ended.iter().all(|ended| *ended),
        }
    }

    /// Takes an event; gives its name where it is none of a publisher.
    fn take(&mut self, shared: &Shared, event: &Event) -> Option<String> {
        let before = self.events.last().map_or(0, |seen| position(&seen.id));
        match event.name.as_str() {
            "metric_update" => {}
            "cursor" => {
                let at = position(event.cursor());
                assert!(
                    at >= before,
                    "a cursor goes back to before {before}: {event:?}"
                );
                self.last_event_id = Some(event.cursor().to_owned());
                return None;
            }
            "stale" | "fresh" | "closing" => return Some(event.name.clone()),
            _ => panic!("nothing was to be missing: {event:?}"),
        }
        assert!(
            position(event.cursor()) > before,
            "repeated or out of order, behind {before}: {event:?}"
        );
        let data = event.json();
        let number = |name: &str| {
            data[name]
                .as_u64()
                .unwrap_or_else(|| panic!("{name}: {data}"))
        };
        let tenant = usize::try_from(number("of")).expect("small");
        let is_due = self.scope == Scope::All || self.scope == Scope::Tenant(tenant);
        assert!(
            is_due && data["tenant_id"] == *shared.tenants[tenant].id,
            "at a wrong tenant: {event:?}"
        );
        self.ended[tenant] |= data["end"] == true;
        self.last_event_id = Some(event.cursor().to_owned());
        self.events.push(Seen {
            tenant,
            number: number("n"),
            id: event.cursor().to_owned(),
        });
        None
    }

    /// Holds what was shown against what was acknowledged.
    fn check(&self, published: &[Vec<Body>]) {
        for (tenant, bodies) in published.iter().enumerate() {
            if self.scope != Scope::All && self.scope != Scope::Tenant(tenant) {
                continue;
            }
            let mut shown = self.events.iter().filter(|seen| seen.tenant == tenant);
            for body in bodies {
                let count = body.numbers.clone().count();
                let seen: Vec<&Seen> = shown.by_ref().take(count).collect();
                let mut numbers: Vec<u64> = seen.iter().map(|seen| seen.number).collect();
                if body.is_out_of_order() {
                    numbers.sort_unstable();
                }
                let due: Vec<u64> = body.numbers.clone().collect();
                assert_eq!(
                    numbers, due,
                    "of tenant {tenant}, in {} attempts",
                    body.attempts
                );
                let id_of = |number: u64| {
                    let found = seen.iter().find(|seen| seen.number == number);
                    found.map(|seen| seen.id.as_str())
                };
                // The receipt named them before any node had read them back.
                assert_eq!(id_of(due[0]), Some(body.first.as_str()));
                assert_eq!(id_of(due[count - 1]), Some(body.last.as_str()));
            }
            let more: Vec<u64> = shown.map(|seen| seen.number).collect();
            assert!(more.is_empty(), "shown and never acknowledged: {more:?}");
        }
    }
}
