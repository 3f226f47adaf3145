//! Two nodes, over one JetStream and one Redis, behind one proxy.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::json;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::try_exchange;
use tidings_tests::proxies::Upstream;
use tidings_tests::publish::{self, status};
use tidings_tests::{
    AccessToken, Connection, NatsOptions, NatsServer, Proxy, ProxyKind, ProxyOptions, RedisOptions,
    RedisServer, Request, Server, Setup, Stream, Watch, new_tenant,
};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// Both nodes, what they stand on, and the proxy in front of them.
struct Deployment {
    proxy: Proxy,
    nodes: [Server; 2],
    tenant: String,
    _brokers: (NatsServer, RedisServer),
}

impl Deployment {
    /// `checks` is how HAProxy asks whether a node is ready, in place of what the sample has; the others do not ask.
    fn start(kind: ProxyKind, checks: &str, settings: impl Fn(Setup) -> Setup) -> Self {
        let nats = NatsServer::start(&NatsOptions::new());
        let redis = RedisServer::start(&RedisOptions::new());
        let nodes = ["one", "two"].map(|name| {
            let setup = Setup::new()
                .set("TIDINGS_NODE__NAME", name)
                .set("TIDINGS_AUTH__JWT__SECRET", SECRET)
                .set("TIDINGS_LOG__KIND", "jetstream")
                .set("TIDINGS_LOG__MAX_BYTES", "256MiB")
                .set("TIDINGS_NATS__URL", &json!([nats.url()]).to_string())
                .tokens_in(&redis.url());
            settings(setup).start()
        });
        let upstreams = nodes.each_ref().map(|node| Upstream {
            address: node.address,
            admin: node.admin,
        });
        let mut options = ProxyOptions::in_front_of(kind, &upstreams);
        if kind == ProxyKind::Haproxy {
            options = options.replace("inter 2s fall 2 rise 1", checks);
        }
        Self {
            proxy: options.start(),
            nodes,
            tenant: new_tenant(),
            _brokers: (nats, redis),
        }
    }

    fn sign(&self, role: &str) -> String {
        AccessToken::new("one", &self.tenant, role).sign(SECRET)
    }

    /// A stream token, from whichever node answers; none where that node goes just now.
    fn try_mint(&self) -> Option<String> {
        let request = Request::post("/auth/sse-token").bearer(&self.sign("viewer"));
        let answer = try_exchange(self.proxy.address, &request).ok()?;
        (answer.status == 200).then(|| answer.json()["token"].as_str().expect("a token").to_owned())
    }

    fn mint(&self) -> String {
        self.try_mint().expect("both nodes are there")
    }

    /// What a client does until it has its stream again, each time with a token of its own.
    fn open(&self, after: Option<&str>) -> Stream {
        let mut opened = None;
        wait_for("a stream", || {
            let Some(token) = self.try_mint() else {
                return false;
            };
            let mut watch = self.proxy.stream_of(&self.tenant).token(&token);
            if let Some(cursor) = after {
                watch = watch.after(cursor);
            }
            if let Ok(answer) = watch.try_open() {
                match answer {
                    Ok(stream) => opened = Some(stream),
                    // It goes, or has gone; a token that was used before would be refused with 401.
                    Err(refused) => {
                        assert!(matches!(refused.status, 502..=504), "{}", refused.head);
                    }
                }
            }
            opened.is_some()
        });
        opened.expect("a stream")
    }

    /// Publishes an event through the proxy until it is taken, as its key allows.
    fn publish(&self, device: &str, number: u64) {
        let mut event = status(device, number);
        event["key"] = json!(format!("key-{number}"));
        let request = publish::one(&self.tenant, &self.sign("publisher"), &event);
        wait_for("a receipt", || {
            let answer = try_exchange(self.proxy.address, &request);
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }
}

/// How many open streams each node has, asked of one that is there.
fn streams_at(asked: &Server) -> BTreeMap<String, usize> {
    let root = AccessToken::super_admin("root").sign(SECRET);
    let page = asked
        .exchange(&Request::get("/streams").bearer(&root))
        .expect(200);
    let mut counts = BTreeMap::new();
    for stream in page["streams"].as_array().expect("a list") {
        let node = stream["node"].as_str().expect("a name").to_owned();
        *counts.entry(node).or_default() += 1;
    }
    counts
}

/// Reads on from stream to stream until it has had the event of the device `last`; gives the numbers of all events.
fn follow(deployment: &Deployment, mut stream: Stream) -> Vec<u64> {
    let (mut numbers, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let Some(event) = stream.next_of_any() else {
            stream = deployment.open(cursor.as_deref());
            continue;
        };
        if event.name == "device_status" {
            let data = event.json();
            numbers.push(data["n"].as_u64().expect("a number"));
            if data["device_id"] == "last" {
                return numbers;
            }
        }
        if event.name == "device_status" || event.name == "cursor" {
            cursor = Some(event.cursor().to_owned());
        }
    }
}

/// The streams of a node that goes come back on the other one, while events are published through the same proxy.
fn a_node_leaves(kind: ProxyKind) {
    const STREAMS: usize = 12;
    // Without a time of its own a check has to be answered before the next one is due.
    let checks = "inter 100ms fall 2 rise 1\n    timeout check 10s";
    let mut deployment = Deployment::start(kind, checks, |setup| {
        setup
            .set("TIDINGS_SHUTDOWN__DELAY", "500ms")
            .set("TIDINGS_SHUTDOWN__DRAIN", "1s")
    });
    let streams: Vec<Stream> = (0..STREAMS).map(|_| deployment.open(None)).collect();
    let mut counts = BTreeMap::new();
    // A node that is late to say what it has is left out.
    wait_for("a listing with all streams", || {
        counts = streams_at(&deployment.nodes[0]);
        counts.values().sum::<usize>() == STREAMS
    });
    let is_spread = counts.len() == 2 && counts.values().all(|&count| count >= STREAMS / 3);
    assert!(is_spread, "{counts:?}");

    // A first event for everybody, so that everybody has a place to come back to.
    let mut count = 0;
    deployment.publish("r1", count);
    deployment.nodes[0].signal(Signal::TERM);
    let had: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let shared = &deployment;
        let follow = |stream| scope.spawn(move || follow(shared, stream));
        let readers: Vec<_> = streams.into_iter().map(follow).collect();
        let all_at_the_other = BTreeMap::from([("two".to_owned(), STREAMS)]);
        wait_for("all streams at the other node", || {
            count += 1;
            shared.publish("r1", count);
            streams_at(&shared.nodes[1]) == all_at_the_other
        });
        count += 1;
        shared.publish("last", count);
        readers
            .into_iter()
            .map(|reader| reader.join().expect("it reads"))
            .collect()
    });
    assert_eq!(deployment.nodes[0].wait().code(), Some(0));
    let all: Vec<u64> = (0..=count).collect();
    for numbers in had {
        assert_eq!(numbers, all);
    }
}

/// How many connections to this address have sent what nobody has read.
fn unread(address: std::net::SocketAddr) -> usize {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let port = format!(":{:04X}", address.port());
    let lines = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Each line has its number, both addresses, the state, and what waits to be sent and read (proc(5)).
    lines
        .filter(|line| line[1].ends_with(&port) && line[3] == "01")
        .filter(|line| {
            line[4]
                .split_once(':')
                .is_some_and(|(_, read)| u32::from_str_radix(read, 16) != Ok(0))
        })
        .count()
}

/// A node that has been sent a token and dies without an answer: the other one is never shown that token.
fn a_node_dies_with_a_token(kind: ProxyKind) {
    // A node that does not answer is not taken out for it, so that it is sent what it does not answer.
    let checks = "inter 2s fall 1000000 rise 1";
    let mut deployment = Deployment::start(kind, checks, |setup| setup);
    let tokens: Vec<String> = (0..8).map(|_| deployment.mint()).collect();
    let [frozen, other] = &deployment.nodes;
    frozen.freeze();
    // One after the other, until the node that is frozen has one that it does not read.
    let mut waiting = Vec::new();
    for token in tokens {
        let watch = deployment.proxy.stream_of(&deployment.tenant).token(&token);
        let mut connection = Connection::open(deployment.proxy.address).expect("connects");
        connection.send(&watch.request().bytes()).expect("sends");
        waiting.push((token, connection));
        let mut has_arrived = false;
        wait_for("a request at a node", || {
            has_arrived = unread(frozen.address) > 0;
            has_arrived || other.output.text().matches("stream_requested").count() == waiting.len()
        });
        if has_arrived {
            break;
        }
    }
    deployment.nodes[0].kill();
    let (token, mut connection) = waiting.pop().expect("a request");
    match connection.read_head() {
        Ok(head) => assert!(matches!(head.status, 502..=504), "{}", head.head),
        // Not a word is an answer too.
        Err(error) => println!("{error}"),
    }
    for (_, mut connection) in waiting {
        assert_eq!(connection.read_head().expect("a head").status, 200);
    }
    // Nobody has used it.
    let path = format!("/tenants/{}/events/stream", deployment.tenant);
    let watch = Watch::at(deployment.nodes[1].address, &path).token(&token);
    drop(watch.open());
    assert_eq!(watch.refused().status, 401);
}

#[test]
fn streams_of_a_node_that_leaves_come_back_on_the_other_with_nothing_lost_or_repeated() {
    for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
        println!("--- {kind:?}");
        a_node_leaves(kind);
    }
}

#[test]
fn a_token_that_a_node_died_with_is_not_shown_to_the_other() {
    super::for_each(a_node_dies_with_a_token);
}
