//! Taking over from an endpoint that is there (`docs/replace.md`), end to end: its streams in NATS, its tokens in
//! Redis, its paths, its publishers and its browser hook, with nothing else changed.

use async_nats::jetstream;
use serde_json::{Value, json};
use tidings_tests::{
    Event, NatsClient, NatsOptions, NatsServer, Redis, RedisOptions, RedisServer, Request, Server,
    Setup, Watch, new_tenant,
};

/// What the platform has: its brokers, and the server that takes over.
struct Platform {
    nats: NatsServer,
    redis: RedisServer,
    server: Server,
}

impl Platform {
    /// The configuration of `docs/replace.md`.
    fn new() -> Self {
        let nats = NatsServer::start(&NatsOptions::new());
        let redis = RedisOptions::new().start();
        let mut operator = NatsClient::connect(nats.address);
        operator.create(("DEVICE_EVENTS", &["device.>", "config.>"]));
        operator.create(("ALERT_EVENTS", &["alert.>"]));
        operator.create(("OPERATION_EVENTS", &["firmware.>"]));
        let server = Setup::new()
            .set("TIDINGS_MOUNT", r#"["/", "/api"]"#)
            .set("TIDINGS_LOG__KIND", "jetstream")
            .set("TIDINGS_LOG__LAYOUT", "fleet")
            .set("TIDINGS_NATS__URL", &nats.url())
            .set("TIDINGS_TOKENS__SHARED", "true")
            .tokens_in(&redis.url())
            .start();
        Self {
            nats,
            redis,
            server,
        }
    }

    /// What the platform's pollers do: the Rust client of NATS, each message acknowledged.
    fn publish(&self, messages: &[(String, Value)]) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let client = async_nats::connect(self.nats.url()).await.expect("NATS");
            let context = jetstream::new(client);
            for (subject, payload) in messages {
                let payload = payload.to_string().into();
                let sent = context.publish(subject.clone(), payload).await;
                sent.expect("sent").await.expect("acknowledged");
            }
        });
    }

    /// A stream under one of the mounts.
    fn stream(&self, mount: &str, tenant: &str, token: &str) -> Watch {
        let path = format!("{mount}/tenants/{tenant}/events/stream");
        Watch::at(self.server.address, &path).token(token)
    }

    /// What the browser's hook does first: a fresh token, for its login.
    fn mint(&self, tenant: &str) -> String {
        let request = Request::post("/api/auth/sse-token").bearer(&self.server.viewer(tenant));
        let answer = self.server.exchange(&request).expect(200);
        answer["token"].as_str().expect("a token").to_owned()
    }

    fn redis(&self) -> Redis {
        Redis::connect(self.redis.address)
    }
}

fn status(tenant: &str, device: &str, number: u64) -> (String, Value) {
    (
        format!("device.status.{device}"),
        json!({"tenant_id": tenant, "device_id": device, "status": "online", "n": number}),
    )
}

fn number(event: &Event) -> u64 {
    event.json()["n"].as_u64().expect("a number")
}

#[test]
fn a_token_of_either_back_end_opens_a_stream_of_what_pollers_publish_under_both_mounts() {
    let platform = Platform::new();
    let (tenant, other) = (new_tenant(), new_tenant());
    let user = json!({"user_id": "ada", "tenant_id": tenant, "role": "viewer"}).to_string();
    platform
        .redis()
        .command(&["SET", "sse_token:of-the-other", &user, "EX", "30"]);
    let mut theirs = platform.stream("/api", &tenant, "of-the-other").open();
    let mut ours = platform.stream("", &tenant, &platform.mint(&tenant)).open();
    platform.publish(&[
        status(&tenant, "r1", 1),
        status(&other, "r1", 100),
        (
            "device.metrics.health.r1".to_owned(),
            json!({"tenant_id": tenant, "device_id": "r1", "type": "health", "n": 2}),
        ),
        (
            format!("config.push.{tenant}.r1"),
            json!({"tenant_id": tenant, "device_id": "r1", "stage": "pushing", "n": 3}),
        ),
        status(&tenant, "r2", 4),
    ]);
    let expected = [
        (1, "device_status"),
        (2, "metric_update"),
        (3, "config_push"),
        (4, "device_status"),
    ];
    for stream in [&mut theirs, &mut ours] {
        let events = stream.events(4);
        let seen: Vec<_> = events
            .iter()
            .map(|event| (number(event), event.name.as_str()))
            .collect();
        assert_eq!(seen, expected);
    }
    platform.publish(&[
        (
            format!("alert.fired.{tenant}"),
            json!({"tenant_id": tenant, "alert_event_id": "a1", "n": 5}),
        ),
        (
            format!("firmware.progress.{tenant}.r1"),
            json!({"tenant_id": tenant, "device_id": "r1", "job_id": "j1", "n": 6}),
        ),
    ]);
    for stream in [&mut theirs, &mut ours] {
        let mut seen: Vec<String> = stream
            .events(2)
            .into_iter()
            .map(|event| event.name)
            .collect();
        // Of two sources.
        seen.sort();
        assert_eq!(seen, ["alert_fired", "firmware_progress"]);
    }
    // One of ours, for the other back end to take.
    let token = platform.mint(&tenant);
    let taken = platform
        .redis()
        .command(&["GETDEL", &format!("sse_token:{token}")]);
    let read: Value = serde_json::from_str(taken.text()).expect("JSON");
    assert_eq!(
        read,
        json!({"user_id": "viewer-1", "tenant_id": tenant, "role": "viewer"})
    );
    platform
        .stream("/api", &tenant, &token)
        .refused()
        .problem(401);
}

/// The hook of the front end that is there: every 25 s a fresh token and a fresh stream, without a cursor. It knows of
/// nothing that Tidings has beside events, and must not be disturbed by it.
#[test]
fn a_hook_that_comes_back_with_a_fresh_token_and_no_cursor_is_shown_what_is_new() {
    let platform = Platform::new();
    let tenant = new_tenant();
    // What it has not read from NATS yet, is news to the server when it comes.
    let mut witness = platform.stream("", &tenant, &platform.mint(&tenant)).open();
    for round in 1..=4 {
        let mut stream = platform
            .stream("/api", &tenant, &platform.mint(&tenant))
            .open();
        // It is told of nothing that it has missed, since it has named nothing that it had.
        assert_eq!(stream.next_of_any().expect("a word").name, "cursor");
        platform.publish(&[
            status(&tenant, "r1", round * 10),
            status(&tenant, "r1", round * 10 + 1),
        ]);
        let seen: Vec<u64> = stream.events(2).iter().map(number).collect();
        assert_eq!(seen, [round * 10, round * 10 + 1]);
        stream.tear();
        platform.publish(&[status(&tenant, "r1", round * 10 + 5)]);
        while number(&witness.next_event()) != round * 10 + 5 {}
    }
    // The ids of the endpoint that was there were bare numbers.
    let mut old = platform
        .stream("/api", &tenant, &platform.mint(&tenant))
        .after("4711")
        .open();
    let gap = old.next_event();
    assert_eq!(
        (gap.name.as_str(), &gap.json()["reason"]),
        ("gap", &json!("malformed"))
    );
    platform.publish(&[status(&tenant, "r1", 100)]);
    assert_eq!(number(&old.next_event()), 100);
}
