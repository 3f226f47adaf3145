//! Streams that others publish to.

use serde_json::{Value, json};
use tidings::jetstream::fleet::FleetDecoder;
use tidings::jetstream::source::Decoder;
use tidings_tests::{NatsOptions, NatsServer};

use crate::support::{Reading, call, configuration, node, tenant, within};

#[tokio::test]
async fn what_pollers_publish_arrives_typed_and_in_order_and_the_rest_is_counted() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    let config = configuration(&server.url(), &[("log.layout", "fleet")]);
    let devices = config.nats.fleet[0].clone();
    assert_eq!(&*devices.name, "DEVICE_EVENTS");
    let decoder = Decoder::Fleet(FleetDecoder::new(devices, &config));
    let mut reading = Reading::start(&nats, "DEVICE_EVENTS", decoder, None, 4);

    let stream = json!({
        "name": "DEVICE_EVENTS",
        "subjects": ["device.>", "config.>"],
        "storage": "file",
    });
    call(&nats, "STREAM.CREATE.DEVICE_EVENTS", &stream).await;
    let id = tenant(1).to_string();
    let good = json!({ "tenant_id": id, "status": "online" });
    let messages = [
        ("device.status.r1".to_owned(), good.to_string()),
        ("device.status.r1".to_owned(), "not JSON".to_owned()),
        ("device.metrics.health.r1".to_owned(), good.to_string()),
        (
            "device.status.r1".to_owned(),
            json!({ "status": "online" }).to_string(),
        ),
        ("device.rebooted.r1".to_owned(), good.to_string()),
        (format!("config.push.{}.r1", tenant(2)), good.to_string()),
        (format!("config.push.{id}.r1"), good.to_string()),
        ("config.push.rollback.r1".to_owned(), good.to_string()),
    ];
    for (subject, payload) in messages {
        nats.client()
            .publish(subject, payload.into())
            .await
            .unwrap();
    }
    within("a flush", nats.client().flush()).await.unwrap();

    let read = reading.read_through(8).await;
    let found: Vec<_> = read
        .iter()
        .map(|message| (message.sequence, message.event.event_type.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (1, "device_status"),
            (3, "metric_update"),
            (7, "config_push"),
            (8, "config_push"),
        ]
    );
    assert!(read.iter().all(|message| message.tenant == tenant(1)));
    let data: Value = serde_json::from_slice(&read[0].event.data).unwrap();
    assert_eq!(data["device_id"], "r1");
    let counters = reading.source.counters();
    assert_eq!(counters.ignored(), 1);
    let counts: Vec<_> = counters
        .malformed()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(
        counts,
        [("payload", 1), ("no_tenant", 1), ("other_tenant", 1)]
    );
    reading.source.stop().await;
}
