//! A node's connection, publisher and readers, as the server has them.

use std::time::Duration;

use serde_json::{Value, json};
use tidings::config::{self, Config, Sources};
use tidings::jetstream::message::KnownTypes;
use tidings::jetstream::source::{Decoder, SourcePlace, SourceReport};
use tidings::jetstream::{
    OwnStream, Published, Publisher, Source, SourceBatch, SourceEvent, SourceMessage, SourceSpec,
};
use tidings::nats::{Connectivity, Nats, NatsOptions};
use tidings_log::{IdempotencyKey, NewEvent};
use tidings_protocol::TenantId;
use tidings_tests::{GUARD, NatsServer};
use tokio::sync::mpsc;

pub(crate) const STREAM: &str = "TIDINGS";

/// A tenant by its number.
pub(crate) fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number; 16])
}

/// A configuration for JetStream at these addresses.
pub(crate) fn configuration(url: &str, settings: &[(&str, &str)]) -> Config {
    let mut flags = vec![
        ("log.kind".to_owned(), "jetstream".to_owned()),
        ("nats.url".to_owned(), url.to_owned()),
        ("log.max_bytes".to_owned(), "0".to_owned()),
    ];
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    flags.extend(settings.iter().map(own));
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    config::load(&sources).expect("a good configuration").config
}

/// A node that is connected, or tries to be.
pub(crate) async fn node_with(config: &Config) -> Nats {
    let options = NatsOptions::from_config(&config.nats, "test").expect("readable secrets");
    Nats::connect(options).await.expect("good addresses")
}

/// A node that is connected.
pub(crate) async fn node(url: &str) -> Nats {
    let nats = node_with(&configuration(url, &[])).await;
    connected(&nats).await;
    nats
}

pub(crate) async fn connected(nats: &Nats) {
    let mut connectivity = nats.connectivity();
    let connected = connectivity.wait_for(|state| *state == Connectivity::Connected);
    within("a connection", connected).await.expect("a client");
}

/// What must come before long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, future)
        .await
        .unwrap_or_else(|_| panic!("{what} never came"))
}

/// Asks until `is_so`; for what only asking tells.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Makes the own stream as `settings` have it; waits for a leader.
pub(crate) async fn stream(nats: &Nats, settings: &[(&str, &str)]) {
    let config = configuration("nats://127.0.0.1", settings);
    let own = OwnStream::from_config(&config);
    until("the stream", async || {
        own.ensure(nats.client()).await.is_ok()
    })
    .await;
}

/// The event with this number of a tenant.
pub(crate) fn event(tenant: TenantId, number: u64) -> NewEvent {
    let device = format!("r.{}", number % 7);
    let data = json!({ "tenant_id": tenant.to_string(), "device_id": device, "number": number });
    NewEvent {
        event_type: "device_status".parse().unwrap(),
        device: Some(device.parse().unwrap()),
        time: None,
        key: None,
        origin: None,
        subject: None,
        data: data.to_string().into_bytes(),
    }
}

/// The same under a key that is its number.
pub(crate) fn keyed(tenant: TenantId, number: u64) -> NewEvent {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    NewEvent {
        key: Some(IdempotencyKey { key, digest: key }),
        ..event(tenant, number)
    }
}

/// The number of an event.
pub(crate) fn number(message: &SourceMessage) -> u64 {
    let data: Value = serde_json::from_slice(&message.event.data).expect("JSON");
    data["number"].as_u64().expect("a number")
}

/// Publishes events of one tenant until they are stored, whatever goes wrong in between.
pub(crate) async fn publish_surely(
    publisher: &Publisher,
    tenant: TenantId,
    events: &[NewEvent],
) -> Published {
    within("an acknowledgement", async {
        loop {
            match publisher.publish(tenant, events.to_vec()).await {
                Ok(published) => return published,
                Err(error) => eprintln!("once more: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// A reader of the own stream.
pub(crate) struct Reading {
    pub(crate) source: Source,
    pub(crate) reports: mpsc::Receiver<SourceReport>,
}

impl Reading {
    pub(crate) fn of_own(nats: &Nats, after: Option<SourcePlace>, room: usize) -> Self {
        let types = KnownTypes::new(&["device_status".parse().unwrap()]);
        Self::start(nats, STREAM, Decoder::Own(types), after, room)
    }

    pub(crate) fn start(
        nats: &Nats,
        stream: &str,
        decoder: Decoder,
        after: Option<SourcePlace>,
        room: usize,
    ) -> Self {
        let (sender, reports) = mpsc::channel(room);
        let spec = SourceSpec {
            index: 3,
            stream: stream.to_owned(),
            decoder,
            after,
            description: "a test".to_owned(),
        };
        Self {
            source: Source::start(nats, spec, sender),
            reports,
        }
    }

    pub(crate) async fn next(&mut self) -> SourceEvent {
        let report = within("a report", self.reports.recv()).await;
        let report = report.expect("a source that runs");
        assert_eq!(report.source, 3);
        report.event
    }

    /// The next report that is no batch.
    pub(crate) async fn next_word(&mut self) -> SourceEvent {
        loop {
            match self.next().await {
                SourceEvent::Batch(_) => {}
                word => return word,
            }
        }
    }

    /// The next word that is wanted. On a slow machine the broker may be away for a while at any moment, and the
    /// source says so.
    pub(crate) async fn word(&mut self, is_wanted: impl Fn(&SourceEvent) -> bool) -> SourceEvent {
        loop {
            match self.next_word().await {
                word if is_wanted(&word) => return word,
                SourceEvent::Waiting | SourceEvent::Away { .. } | SourceEvent::Back => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn next_batch(&mut self) -> SourceBatch {
        loop {
            if let SourceEvent::Batch(batch) = self.next().await {
                return batch;
            }
        }
    }

    /// Reads until everything up to `through` has come; asserts that it is in order.
    pub(crate) async fn read_through(&mut self, through: u64) -> Vec<SourceMessage> {
        let mut messages: Vec<SourceMessage> = Vec::new();
        loop {
            let batch = self.next_batch().await;
            let mut last = messages.last().map_or(0, |message| message.sequence);
            for message in &batch.messages {
                assert!(message.sequence > last, "out of order");
                last = message.sequence;
            }
            assert!(batch.through >= last);
            messages.extend(batch.messages);
            if batch.through >= through {
                return messages;
            }
        }
    }

    /// Reads until a batch says that nothing is to come.
    pub(crate) async fn caught_up(&mut self) -> Vec<SourceMessage> {
        let mut messages = Vec::new();
        loop {
            let batch = self.next_batch().await;
            messages.extend(batch.messages);
            if batch.pending == 0 {
                return messages;
            }
        }
    }
}

/// How many consumers a stream has, by the broker's word.
pub(crate) async fn consumers(nats: &Nats, stream: &str) -> u64 {
    let answer = nats
        .client()
        .request(format!("$JS.API.STREAM.INFO.{stream}"), "".into())
        .await
        .expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    answer["state"]["consumer_count"].as_u64().expect("a count")
}

/// A call of JetStream's API, as an operator makes it.
pub(crate) async fn call(nats: &Nats, subject: &str, body: &Value) -> Value {
    let answer = nats
        .client()
        .request(format!("$JS.API.{subject}"), body.to_string().into())
        .await
        .expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer["error"], Value::Null, "{subject}");
    answer
}

/// `kill -9`, and another start.
pub(crate) async fn killed_and_started(mut server: NatsServer) -> NatsServer {
    let restarting = tokio::task::spawn_blocking(move || {
        server.kill();
        server.start_again();
        server
    });
    restarting.await.expect("a restart")
}

/// The sequence of the own stream's newest message, by the first server that answers.
pub(crate) async fn stored_last(nats: &Nats) -> u64 {
    let mut last = None;
    until("a word of the stream's leader", async || {
        let info = tidings::jetstream::api::stream_info(nats.client(), STREAM).await;
        last = info.ok().map(|info| info.last_sequence);
        last.is_some()
    })
    .await;
    last.expect("it was told just now")
}
