//! What is run: the cases of each scenario.

use std::time::Duration;

use crate::server::{Kind, Setup};

/// One setting of a scenario, run against each of its servers in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What distinguishes it within its scenario.
    pub(crate) name: String,
    /// Arguments of the load generator behind those that name the server.
    pub(crate) load: Vec<String>,
    /// Which servers can do this.
    pub(crate) servers: Vec<Kind>,
    /// How the servers are started.
    pub(crate) setup: Setup,
    /// How long a run may take.
    pub(crate) limit: Duration,
}

impl Case {
    /// The seconds that the load generator is told to measure.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let mut words = self.load.iter().skip_while(|word| *word != "--seconds");
        words.nth(1)?.parse().ok()
    }
}

/// A scenario and how it is explained in the results.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    cases: fn(&Wish) -> Vec<Case>,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// A smoke test: little of everything.
    pub(crate) quick: bool,
    /// Other numbers of streams than a scenario's own.
    pub(crate) streams: Vec<usize>,
    /// Seconds that are measured, instead of a scenario's own.
    pub(crate) seconds: Option<f64>,
}

impl Wish {
    fn seconds(&self, usual: f64) -> f64 {
        self.seconds.unwrap_or(if self.quick { 1.0 } else { usual })
    }

    /// `usual`, or a tenth of it in a smoke test.
    fn scaled(&self, usual: usize) -> usize {
        if self.quick {
            (usual / 10).max(1)
        } else {
            usual
        }
    }

    fn streams(&self, usual: &[usize]) -> Vec<usize> {
        if !self.streams.is_empty() {
            return self.streams.clone();
        }
        usual.iter().map(|streams| self.scaled(*streams)).collect()
    }
}

impl Scenario {
    pub(crate) fn cases(&self, wish: &Wish) -> Vec<Case> {
        (self.cases)(wish)
    }
}

/// All scenarios, in the order of the results.
pub(crate) const SCENARIOS: [Scenario; 17] = [
    Scenario {
        name: "cpu-per-delivery",
        about: "One event per write: what the server's process spends on one delivery, publishing and its sync included.",
        cases: cpu_per_delivery,
    },
    Scenario {
        name: "latency",
        about: "From the publisher's send to a stream's receipt, at 50 events/s; durable before visible on the floor and on Tidings.",
        cases: latency,
    },
    Scenario {
        name: "streams",
        about: "The same over the number of streams, at no more than 50,000 deliveries/s.",
        cases: streams,
    },
    Scenario {
        name: "peers",
        about: "The same at 5,000 deliveries/s, and the memory of up to 5,000 idle streams with a heartbeat every five seconds: all of it within what every server does on a core. Pushpin does not keep up with the 50,000/s of the scenarios above, a burst, or a heartbeat a second to many thousands, and would be measured by its queues.",
        cases: peers,
    },
    Scenario {
        name: "burst",
        about: "10,000 events as NDJSON, 100 a body, one body at a time, to the streams of one tenant.",
        cases: burst,
    },
    Scenario {
        name: "compression",
        about: "What compression costs the server and saves on the wire: the steady load and the burst, plain, gzip and zstd, all streams of one view.",
        cases: compression,
    },
    Scenario {
        name: "tls",
        about: "What TLS costs: the steady load at 25,000 deliveries/s, and the memory of idle streams, in the clear and over TLS 1.3 (AES-256-GCM). What is published is in the clear in both.",
        cases: tls,
    },
    Scenario {
        name: "idle",
        about: "Memory of streams that get nothing (PSS; kernel: slab and socket buffers of both ends of all connections), and heartbeats once a second. Memory is read ten seconds after the last stream was opened, when the allocator has given back what opening took.",
        cases: idle,
    },
    Scenario {
        name: "open",
        about: "Streams opened as fast as it goes: tokens drawn for all, then all opened, 64 at a time. The floor asks for no token.",
        cases: open,
    },
    Scenario {
        name: "resume",
        about: "Streams that come back at once, each 100 events behind, while 100 streams of another tenant are live at 50 events/s; tokens are drawn before.",
        cases: resume,
    },
    Scenario {
        name: "stalled",
        about: "The latency of 1,000 streams without, with and again without 1,000 others that never read.",
        cases: stalled,
    },
    Scenario {
        name: "tenants",
        about: "More and more tenants, 40 streams on each that has any; 500 events/s in every case, each to 40 streams. CPU per delivery includes publishing.",
        cases: tenants,
    },
    Scenario {
        name: "fleet",
        about: "One tenant whose streams each watch one device, three a device; 500 events/s in both cases. On the floor, which can't filter, a device is a tenant of its own. CPU per delivery includes publishing.",
        cases: fleet,
    },
    Scenario {
        name: "bounds",
        about: "1,000 streams of one tenant at 50 events/s, all of which pass: without bounds, with the stream's own filters by type and device, with claims that list types and fifty devices, and with a claim that names a group of fifty devices. The floor knows no bounds and does the same in every case.",
        cases: bounds,
    },
    Scenario {
        name: "publish",
        about: "Durable publishing without any stream, beside a bare append and sync of the same bytes without network (append).",
        cases: publish,
    },
    Scenario {
        name: "replay",
        about: "A log of a million events, and one of ten, read from its beginning by one stream: a tenant with a thousandth of it, a tenant with a ninth, all tenants. What is timed begins before the stream is opened, which is half of what a thousand events take. Then the server starts anew on that log.",
        cases: replay,
    },
    Scenario {
        name: "jetstream",
        about: "The log in NATS JetStream, on one nats-server that has a core for itself, file storage, one replica; Tidings and the load generator share the other. Publishing is beside the bare client of NATS (raw), which has that other core for itself and as many messages on their way, to as many subjects (32 tenants), with an id each, and neither parses, checks nor reads back anything. Then events at a steady rate to more and more streams: what they cost the broker.",
        cases: jetstream,
    },
];

const ALL: [Kind; 3] = [Kind::Floor, Kind::Tidings, Kind::Nchan];
const JETSTREAM: [Kind; 2] = [Kind::Tidings, Kind::Raw];
const WITH_PUSHPIN: [Kind; 4] = [Kind::Floor, Kind::Tidings, Kind::Nchan, Kind::Pushpin];
const OURS: [Kind; 2] = [Kind::Floor, Kind::Tidings];

fn case(name: String, servers: &[Kind], load: &[String]) -> Case {
    Case {
        name,
        load: load.to_vec(),
        servers: servers.to_vec(),
        setup: Setup::default(),
        limit: Duration::from_mins(3),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Not more than 50 events/s and 50,000 deliveries/s, of which one core is capable.
fn rate(streams: usize) -> f64 {
    (50_000.0 / streams as f64).min(50.0)
}

fn steady(wish: &Wish, streams: usize, seconds: f64) -> Case {
    let (rate, seconds) = (rate(streams), wish.seconds(seconds));
    case(
        format!("{streams} streams, {rate:.1} events/s"),
        &ALL,
        &words(&format!(
            "steady --streams {streams} --rate {rate} --seconds {seconds}"
        )),
    )
}

fn cpu_per_delivery(wish: &Wish) -> Vec<Case> {
    let streams = wish.streams(&[1_000, 5_000]);
    streams
        .into_iter()
        .map(|streams| steady(wish, streams, 5.0))
        .collect()
}

fn latency(wish: &Wish) -> Vec<Case> {
    let streams = wish.streams(&[1_000]);
    streams
        .into_iter()
        .map(|streams| steady(wish, streams, 10.0))
        .collect()
}

fn streams(wish: &Wish) -> Vec<Case> {
    let streams = wish.streams(&[100, 300, 1_000, 3_000, 10_000, 15_000]);
    streams
        .into_iter()
        .map(|streams| steady(wish, streams, 4.0))
        .collect()
}

/// As [`steady`], at a tenth of its deliveries a second; and as [`idle`], with fewer heartbeats.
fn peers(wish: &Wish) -> Vec<Case> {
    let seconds = wish.seconds(5.0);
    let one = |streams: usize| {
        let rate = rate(streams * 10);
        let load = format!("steady --streams {streams} --rate {rate} --seconds {seconds}");
        case(
            format!("{streams} streams, {rate:.1} events/s"),
            &WITH_PUSHPIN,
            &words(&load),
        )
    };
    let mut cases: Vec<Case> = wish.streams(&[100, 1_000]).into_iter().map(one).collect();
    let (few, many) = (wish.scaled(1_000), wish.scaled(5_000));
    let rest = if wish.quick { 1 } else { 10 };
    let load = format!(
        "idle --steps {few},{many} --seconds {} --rest {rest}",
        seconds.max(5.0)
    );
    let mut idle = case(
        format!("up to {many} idle streams"),
        &WITH_PUSHPIN,
        &words(&load),
    );
    idle.setup.heartbeat = Some(Duration::from_secs(5));
    cases.push(idle);
    cases
}

fn burst(wish: &Wish) -> Vec<Case> {
    let streams = wish.streams(&[1_000]);
    let events = wish.scaled(10_000);
    let one = |streams: usize| {
        let load = words(&format!("burst --streams {streams} --events {events}"));
        case(format!("{streams} streams, {events} events"), &OURS, &load)
    };
    streams.into_iter().map(one).collect()
}

fn compression(wish: &Wish) -> Vec<Case> {
    let streams = wish.streams(&[1_000])[0];
    let (seconds, rate) = (wish.seconds(5.0), rate(streams));
    let events = wish.scaled(10_000);
    let mut cases = Vec::new();
    for coding in ["", "gzip", "zstd"] {
        let (name, asked) = match coding {
            "" => ("plain", String::new()),
            coding => (coding, format!(" --coding {coding}")),
        };
        let steady = format!("steady --streams {streams} --rate {rate} --seconds {seconds}{asked}");
        let burst = format!("burst --streams {streams} --events {events}{asked}");
        cases.push((
            format!("{streams} streams, {rate:.1} events/s, {name}"),
            steady,
        ));
        cases.push((
            format!("{streams} streams, burst of {events}, {name}"),
            burst,
        ));
    }
    let one = |(name, load): (String, String)| {
        let mut one = case(name, &[Kind::Tidings], &words(&load));
        one.setup.compression = true;
        one
    };
    cases.into_iter().map(one).collect()
}

fn idle(wish: &Wish) -> Vec<Case> {
    let steps = wish.streams(&[1_000, 10_000, 18_000]);
    let most = steps.iter().max().copied().unwrap_or_default();
    let steps: Vec<String> = steps.iter().map(usize::to_string).collect();
    let load = words(&format!(
        "idle --steps {} --seconds {} --rest {}",
        steps.join(","),
        wish.seconds(5.0),
        if wish.quick { 1 } else { 10 }
    ));
    let mut idle = case(format!("up to {most} streams"), &ALL, &load);
    idle.setup.heartbeat = Some(Duration::from_secs(1));
    vec![idle]
}

/// At half the usual rate: the load generator must decrypt on its one core.
fn tls(wish: &Wish) -> Vec<Case> {
    const BOTH: [Kind; 2] = [Kind::Tidings, Kind::TidingsTls];
    let seconds = wish.seconds(5.0);
    let one = |streams: usize| {
        let rate = rate(streams * 2);
        let load = format!("steady --streams {streams} --rate {rate} --seconds {seconds}");
        let name = format!("{streams} streams, {rate:.1} events/s");
        case(name, &BOTH, &words(&load))
    };
    let mut cases: Vec<Case> = wish.streams(&[1_000]).into_iter().map(one).collect();
    let (few, many) = (wish.scaled(1_000), wish.scaled(5_000));
    let rest = if wish.quick { 1 } else { 10 };
    let load = format!("idle --steps {few},{many} --seconds {seconds} --rest {rest}");
    let mut idle = case(format!("up to {many} idle streams"), &BOTH, &words(&load));
    idle.setup.heartbeat = Some(Duration::from_secs(1));
    cases.push(idle);
    cases
}

fn open(wish: &Wish) -> Vec<Case> {
    let one = |streams: usize| {
        let load = words(&format!("open --streams {streams}"));
        case(format!("{streams} streams"), &OURS, &load)
    };
    wish.streams(&[5_000]).into_iter().map(one).collect()
}

fn resume(wish: &Wish) -> Vec<Case> {
    let one = |streams: usize| {
        let load = words(&format!("resume --streams {streams} --behind 100"));
        case(
            format!("{streams} streams, 100 events behind"),
            &OURS,
            &load,
        )
    };
    wish.streams(&[10_000]).into_iter().map(one).collect()
}

fn stalled(wish: &Wish) -> Vec<Case> {
    let one = |streams: usize| {
        let seconds = wish.seconds(5.0);
        let load = format!(
            "stalled --streams {streams} --deaf {streams} --rate {} --seconds {seconds} --close-within 30",
            rate(streams)
        );
        let mut stalled = case(
            format!("{streams} streams beside {streams} that never read"),
            &[Kind::Tidings],
            &words(&load),
        );
        // Long enough that all of "with" is measured before the first is closed.
        stalled.setup.stall_timeout = Some(Duration::from_secs_f64(seconds + 10.0));
        stalled
    };
    wish.streams(&[1_000]).into_iter().map(one).collect()
}

/// Every event goes to as many streams and as many events are published in every case, so that only
/// the number of tenants and streams differs.
fn tenants(wish: &Wish) -> Vec<Case> {
    const STREAMS_OF_A_TENANT: usize = 40;
    let seconds = wish.seconds(4.0);
    let one = |tenants: usize, others: usize| {
        let streams = tenants * STREAMS_OF_A_TENANT;
        let load = format!(
            "steady --publishers 1 --streams {streams} --tenants {tenants} --other-tenants {others} --rate 500 --seconds {seconds}"
        );
        let name = format!(
            "{tenants} of {} tenants, {streams} streams",
            tenants + others
        );
        case(name, &OURS, &words(&load))
    };
    let most = wish.scaled(250);
    vec![
        one(1, 0),
        one(wish.scaled(25), 0),
        one(most, 0),
        one(most, wish.scaled(100_000) - most),
    ]
}

fn fleet(wish: &Wish) -> Vec<Case> {
    const STREAMS_OF_A_DEVICE: usize = 3;
    let seconds = wish.seconds(4.0);
    let one = |devices: usize| {
        let streams = devices * STREAMS_OF_A_DEVICE;
        let load = format!(
            "steady --publishers 1 --streams {streams} --devices {devices} --rate 500 --seconds {seconds}"
        );
        case(
            format!("each event to 3 of {streams} streams"),
            &OURS,
            &words(&load),
        )
    };
    vec![one(1), one(wish.scaled(3_333))]
}

fn bounds(wish: &Wish) -> Vec<Case> {
    let seconds = wish.seconds(4.0);
    let streams = wish.scaled(1_000);
    let one = |name: &str, bound: &str| {
        let load = format!("{bound} steady --streams {streams} --rate 50 --seconds {seconds}");
        case(name.to_owned(), &OURS, &words(&load))
    };
    vec![
        one("no bounds", ""),
        one("filters", "--bound filters"),
        one("claims", "--bound claims"),
        one("a group claim", "--bound group"),
    ]
}

fn publish(wish: &Wish) -> Vec<Case> {
    let seconds = wish.seconds(5.0);
    let one = |publishers: usize, batch: usize| {
        let name = match batch {
            1 => format!("{publishers} publishers of single events"),
            _ => format!("{publishers} publishers of batches of {batch}"),
        };
        let name = name.replace("1 publishers", "1 publisher");
        let load = format!("publish --publishers {publishers} --batch {batch} --seconds {seconds}");
        let mut publish = case(name, &OURS, &words(&load));
        if batch > 1 {
            publish.servers.push(Kind::Append);
            publish.setup.append_events = batch;
        }
        publish
    };
    vec![one(64, 1), one(1, 100), one(8, 100)]
}

fn replay(wish: &Wish) -> Vec<Case> {
    let of = |events: usize| {
        let events = wish.scaled(events);
        let load = words(&format!("replay --events {events}"));
        let mut replay = case(format!("{events} events"), &[Kind::Tidings], &load);
        replay.setup.restart = true;
        replay
    };
    vec![of(1_000_000), of(10_000_000)]
}

fn jetstream(wish: &Wish) -> Vec<Case> {
    let seconds = wish.seconds(4.0);
    let publish = |publishers: usize, batch: usize, name: &str| {
        let load = format!(
            "publish --publishers {publishers} --batch {batch} --tenants 32 --seconds {seconds}"
        );
        case(name.to_owned(), &JETSTREAM, &words(&load))
    };
    let steps: Vec<String> = wish
        .streams(&[100, 1_000, 10_000])
        .iter()
        .map(usize::to_string)
        .collect();
    let load = format!("broker --steps {} --seconds {seconds}", steps.join(","));
    let most = steps.last().map_or("", String::as_str);
    let mut cases = vec![
        publish(128, 100, "128 publishers of batches of 100"),
        publish(64, 1, "64 publishers of single events"),
        case(
            format!("up to {most} streams"),
            &[Kind::Tidings],
            &words(&load),
        ),
    ];
    // The bare client knows no publishers: it is the same in both cases.
    cases[1].servers = vec![Kind::Tidings];
    for case in &mut cases {
        case.setup.jetstream = true;
    }
    cases
}
