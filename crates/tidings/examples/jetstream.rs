//! How fast events go into JetStream and come out of it, beside the bare client on the same server.
//!
//! `cargo run --release -p tidings --example jetstream -- [EVENTS] [ROUNDS] [REPLICAS]` starts `nats-server` (three
//! where there are three replicas), publishes so many events of 250 bytes in alternating rounds, each into a
//! stream of its own, and reads them. Medians are printed last.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use tidings::config::{self, Config, Sources};
use tidings::jetstream::message::KnownTypes;
use tidings::jetstream::source::Decoder;
use tidings::jetstream::{OwnStream, Publisher, Source, SourceEvent, SourceSpec, api};
use tidings::nats::{Connectivity, Nats, NatsOptions};
use tidings_log::NewEvent;
use tidings_protocol::TenantId;
use tidings_tests::{NatsCluster, NatsOptions as BrokerOptions, NatsServer};
use tokio::task::JoinSet;

/// How many messages the bare client has on their way: as many as the publisher may have.
const WINDOW: usize = 2_048;

/// Events in one body.
const BODY: usize = 100;

/// Publishers at once.
const PUBLISHERS: usize = 32;

type Failure = Box<dyn std::error::Error + Send + Sync>;

enum Brokers {
    One(Box<NatsServer>),
    Three(NatsCluster),
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut number = |default| arguments.next().unwrap_or(Ok(default));
    let (events, rounds, replicas) = (number(100_000)?, number(5)?, number(1)?);
    let brokers = if replicas > 1 {
        Brokers::Three(NatsCluster::start(3))
    } else {
        Brokers::One(Box::new(NatsServer::start(&BrokerOptions::new())))
    };
    let url = match &brokers {
        Brokers::One(server) => server.url(),
        Brokers::Three(cluster) => cluster.url(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&url, events, rounds, replicas))
}

fn configuration(url: &str, replicas: usize) -> Result<Config, Failure> {
    let flags = [
        ("log.kind", "jetstream"),
        ("nats.url", url),
        ("log.max_bytes", "0"),
        ("nats.replicas", &replicas.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let loaded = config::load(&Sources {
        flags: flags.to_vec(),
        ..Sources::default()
    })?;
    Ok(loaded.config)
}

async fn measure(url: &str, events: usize, rounds: usize, replicas: usize) -> Result<(), Failure> {
    let config = configuration(url, replicas)?;
    let nats = Nats::connect(NatsOptions::from_config(&config.nats, "example")?).await?;
    nats.connectivity()
        .wait_for(|state| *state == Connectivity::Connected)
        .await?;
    let own = OwnStream::from_config(&config);
    let mut rates: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        let steps: [usize; 2] = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for step in steps {
            while let Err(error) = own.ensure(nats.client()).await {
                eprintln!("waiting for the stream: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let took = match step {
                0 => bare(&nats, events).await?,
                _ => published(&nats, events).await?,
            };
            rates[step].push(rate(events, took));
            if step == 1 {
                rates[2].push(rate(events, read(&nats, events).await?));
            }
            delete(&nats).await?;
        }
        println!(
            "round {round}: bare {:.0}/s, publisher {:.0}/s, reader {:.0}/s",
            rates[0][round], rates[1][round], rates[2][round]
        );
    }
    let [bare, published, read] = rates.map(median);
    println!(
        "medians of {rounds}: bare {bare:.0}/s, publisher {published:.0}/s ({:.2} of it), reader {read:.0}/s",
        published / bare
    );
    Ok(())
}

fn rate(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn payload(number: usize) -> Vec<u8> {
    let text = format!(
        "{{\"tenant_id\":\"{}\",\"number\":{number},\"text\":\"",
        tenant()
    );
    let rest = "x".repeat(248_usize.saturating_sub(text.len()));
    format!("{text}{rest}\"}}").into_bytes()
}

fn tenant() -> TenantId {
    TenantId::from_bytes([1; 16])
}

/// The client by itself: as many messages, with an id each, up to a window on their way.
async fn bare(nats: &Nats, events: usize) -> Result<Duration, Failure> {
    let client = async_nats::connect(nats.client().server_pool().await?[0].addr.clone()).await?;
    let context = jetstream::context::ContextBuilder::new()
        .max_ack_inflight(2 * WINDOW)
        .timeout(Duration::from_secs(30))
        .build(client);
    let subject = format!("tidings.{}.device_status.r1", tenant());
    let started = Instant::now();
    let mut on_their_way = VecDeque::with_capacity(WINDOW);
    for number in 0..events {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{number:032x}").as_str());
        let acknowledged = context
            .publish_with_headers(subject.clone(), headers, Bytes::from(payload(number)))
            .await?;
        on_their_way.push_back(acknowledged.into_future());
        if on_their_way.len() == WINDOW
            && let Some(oldest) = on_their_way.pop_front()
        {
            oldest.await?;
        }
    }
    for acknowledged in on_their_way {
        acknowledged.await?;
    }
    Ok(started.elapsed())
}

/// The publisher: bodies of many at once.
async fn published(nats: &Nats, events: usize) -> Result<Duration, Failure> {
    let publisher = Arc::new(Publisher::start(nats, "TIDINGS"));
    let started = Instant::now();
    let mut publishing: JoinSet<Result<(), Failure>> = JoinSet::new();
    for number in 0..PUBLISHERS {
        let publisher = Arc::clone(&publisher);
        publishing.spawn(async move {
            for body in (number..events / BODY).step_by(PUBLISHERS) {
                let events = (0..BODY).map(|index| event(body * BODY + index)).collect();
                publisher.publish(tenant(), events).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = publishing.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

fn event(number: usize) -> NewEvent {
    NewEvent {
        event_type: "device_status".parse().expect("a built-in type"),
        device: Some("r1".parse().expect("a device")),
        time: None,
        key: None,
        origin: None,
        subject: None,
        data: payload(number),
    }
}

/// The reader, from the oldest event on.
async fn read(nats: &Nats, events: usize) -> Result<Duration, Failure> {
    let (reports, mut received) = tokio::sync::mpsc::channel(8);
    let spec = SourceSpec {
        index: 0,
        stream: "TIDINGS".to_owned(),
        decoder: Decoder::Own(KnownTypes::new(&["device_status".parse()?])),
        after: None,
        description: "example".to_owned(),
    };
    let started = Instant::now();
    let source = Source::start(nats, spec, reports);
    let mut count = 0;
    while count < events / BODY * BODY {
        let report = received.recv().await.ok_or("the source has ended")?;
        if let SourceEvent::Batch(batch) = report.event {
            count += batch.messages.len();
        }
    }
    let took = started.elapsed();
    source.stop().await;
    Ok(took)
}

async fn delete(nats: &Nats) -> Result<(), Failure> {
    let request = nats
        .client()
        .request("$JS.API.STREAM.DELETE.TIDINGS", "".into());
    request.await?;
    while api::stream_info(nats.client(), "TIDINGS").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
