//! `raw`: what the bare client of NATS publishes to a stream of JetStream in some seconds, every message acknowledged.
//!
//! It does for each event what Tidings can't do without: a message under the tenant's subject, with an id by which
//! a repetition is recognised, and so many on their way at once. The messages are those that Tidings makes of what
//! the load generator publishes: as many subjects, in batches. It parses nothing, checks nobody and reads nothing
//! back.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::HeaderMap;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream;
use bench_load::payload::Lane;
use bytes::Bytes;
use clap::Parser;

#[derive(Debug, Parser)]
struct Arguments {
    /// Where the server is.
    #[arg(long)]
    url: String,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Messages on their way at once: as many as Tidings has.
    #[arg(long, default_value_t = 16_384)]
    window: usize,
    /// Tenants with a device each, so subjects.
    #[arg(long, default_value_t = 32)]
    lanes: usize,
    /// Messages to one of them, before those to the next.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 250)]
    payload_bytes: usize,
}

// One thread: it is pinned to one core.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let client = async_nats::connect(&arguments.url).await?;
    let context = ContextBuilder::new()
        .max_ack_inflight(2 * arguments.window)
        .timeout(Duration::from_secs(30))
        .build(client);
    let wanted = stream::Config {
        name: "TIDINGS".to_owned(),
        subjects: vec!["tidings.*.*.*".to_owned()],
        storage: stream::StorageType::File,
        ..stream::Config::default()
    };
    context.create_stream(wanted).await?;
    let mut lanes: Vec<Lane> = (0..arguments.lanes)
        .map(|tenant| Lane::new(tenant, 0))
        .collect();
    let mut sent_before: usize = 0;
    let mut on_their_way = VecDeque::with_capacity(arguments.window);
    let mut begun = Instant::now() + Duration::from_secs_f64(arguments.warmup);
    let mut acknowledged: u64 = 0;
    let mut is_measured = false;
    let seconds = loop {
        let now = Instant::now();
        if !is_measured && now >= begun {
            (is_measured, begun, acknowledged) = (true, now, 0);
        }
        if is_measured && (now - begun).as_secs_f64() >= arguments.seconds {
            break (now - begun).as_secs_f64();
        }
        let lane = &mut lanes[sent_before / arguments.batch % arguments.lanes];
        sent_before += 1;
        let subject = format!("tidings.{}.device_status.{}", lane.tenant, lane.device);
        let mut payload = Vec::with_capacity(arguments.payload_bytes);
        lane.write_data(&mut payload, arguments.payload_bytes, 0);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{sent_before:032x}").as_str());
        let sent = context
            .publish_with_headers(subject, headers, Bytes::from(payload))
            .await?;
        on_their_way.push_back(sent.into_future());
        if on_their_way.len() == arguments.window
            && let Some(oldest) = on_their_way.pop_front()
        {
            oldest.await?;
            acknowledged += 1;
        }
    };
    for sent in on_their_way {
        sent.await?;
    }
    println!("{{\"events\":{acknowledged},\"seconds\":{seconds}}}");
    Ok(())
}
