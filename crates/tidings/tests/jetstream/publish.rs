//! What the publisher promises.

use std::sync::Arc;

use serde_json::json;
use tidings::jetstream::{OwnStream, PublishError, Published, Publisher};
use tidings_log::{IdempotencyKey, NewEvent, NewSubject};
use tidings_tests::{NatsOptions, NatsServer};

use crate::support::{
    Reading, STREAM, call, configuration, event, keyed, killed_and_started, node, node_with,
    number, publish_surely, stored_last, stream, tenant, within,
};

#[tokio::test]
async fn the_stream_is_made_grows_and_is_never_shrunk() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    let own = |settings: &[(&str, &str)]| {
        OwnStream::from_config(&configuration("nats://127.0.0.1", settings))
    };
    let small = own(&[("log.retention", "1h"), ("log.max_bytes", "1MiB")]);
    let large = own(&[
        ("log.retention", "2h"),
        ("log.max_bytes", "2MiB"),
        ("nats.duplicate_window", "5m"),
    ]);
    let made = small.ensure(nats.client()).await.unwrap();
    assert_eq!(small.ensure(nats.client()).await.unwrap(), made);
    let grown = large.ensure(nats.client()).await.unwrap();
    assert_eq!(grown.config["max_bytes"], 2 << 20);
    assert_eq!(grown.config["max_age"], 7_200_000_000_000_u64);
    assert_eq!(grown.config["duplicate_window"], 300_000_000_000_u64);
    assert_eq!(small.ensure(nats.client()).await.unwrap(), grown);
    assert_eq!(grown.incarnation, made.incarnation);
}

#[tokio::test]
async fn what_is_published_is_read_as_it_was_given() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let whole = NewEvent {
        event_type: "metric_update".parse().unwrap(),
        device: Some("AA:BB.1".parse().unwrap()),
        time: Some(-5),
        key: Some(IdempotencyKey {
            key: [1; 16],
            digest: [2; 16],
        }),
        origin: None,
        subject: Some(NewSubject {
            kind: "metric_update".parse().unwrap(),
            key: "é %/\n".parse().unwrap(),
            ends: true,
        }),
        data: "{\"tenant_id\":\"…\",\"a\":\"é\"}".into(),
    };
    let removed = NewEvent {
        event_type: tidings_protocol::EventType::removed(),
        device: None,
        key: None,
        time: None,
        ..whole.clone()
    };
    let published = publisher
        .publish(tenant(1), vec![whole.clone(), removed.clone()])
        .await;
    let expected = Published {
        accepted: 2,
        duplicates: 0,
        first: 1,
        last: 2,
    };
    assert_eq!(published, Ok(expected));

    let mut reading = Reading::of_own(&nats, None, 8);
    let read = reading.read_through(2).await;
    assert_eq!(read[0].tenant, tenant(1));
    assert_eq!(read[0].event, NewEvent { key: None, ..whole });
    assert_eq!(read[1].event, removed);
    assert!(read[1].stored_at >= read[0].stored_at && read[0].stored_at > 1_600_000_000_000_000);
    reading.source.stop().await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_key_makes_a_repetition_safe_also_over_a_restart_of_the_broker() {
    let mut server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let body: Vec<NewEvent> = (0..3).map(|number| keyed(tenant(1), number)).collect();
    let first = publisher.publish(tenant(1), body.clone()).await.unwrap();
    let again = Published {
        accepted: 0,
        duplicates: 3,
        ..first
    };
    assert_eq!(publisher.publish(tenant(1), body.clone()).await, Ok(again));
    // Another tenant's key is another key.
    let others = publisher.publish(tenant(2), body.clone()).await.unwrap();
    assert_eq!(others.accepted, 3);

    server.stop();
    server.start_again();
    assert_eq!(publish_surely(&publisher, tenant(1), &body).await, again);

    let mut other = body.clone();
    other[1].key = Some(IdempotencyKey {
        digest: [9; 16],
        ..other[1].key.unwrap()
    });
    assert_eq!(
        publisher.publish(tenant(1), other.clone()).await,
        Err(PublishError::KeyConflict { index: 1 })
    );
    // A body that contradicts itself is told at once, and none of it is stored.
    let mut twice = vec![keyed(tenant(1), 8), keyed(tenant(1), 9)];
    twice[1].key = Some(IdempotencyKey {
        digest: [7; 16],
        ..twice[0].key.unwrap()
    });
    assert_eq!(
        publisher.publish(tenant(1), twice).await,
        Err(PublishError::KeyConflict { index: 1 })
    );
    let without = vec![event(tenant(1), 1), event(tenant(1), 1)];
    let published = publisher.publish(tenant(1), without).await.unwrap();
    assert_eq!(published.accepted, 2, "without a key each is its own");
    assert_eq!(published.last, 8);
    publisher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_many_publishers_are_each_in_order() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Arc::new(Publisher::start(&nats, STREAM));
    let mut publishing = tokio::task::JoinSet::new();
    for number in 1..=4 {
        let publisher = Arc::clone(&publisher);
        publishing.spawn(async move {
            for round in 0..10 {
                let numbers = round * 100..(round + 1) * 100;
                let body: Vec<NewEvent> = numbers.map(|each| event(tenant(number), each)).collect();
                let published = publisher.publish(tenant(number), body).await.unwrap();
                assert_eq!((published.accepted, published.duplicates), (100, 0));
            }
        });
    }
    while let Some(done) = within("the publishers", publishing.join_next()).await {
        done.unwrap();
    }
    let mut reading = Reading::of_own(&nats, None, 2);
    let read = reading.read_through(4_000).await;
    for who in 1..=4 {
        let of_one: Vec<u64> = read
            .iter()
            .filter(|message| message.tenant == tenant(who))
            .map(number)
            .collect();
        assert_eq!(of_one, (0..1_000).collect::<Vec<_>>());
    }
    reading.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_repeats_and_disorders_nothing() {
    let mut server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Arc::new(Publisher::start(&nats, STREAM));
    let mut reading = Reading::of_own(&nats, None, 4);
    let mut publishing = tokio::task::JoinSet::new();
    for number in 1..=3 {
        let publisher = Arc::clone(&publisher);
        publishing.spawn(async move {
            for round in 0..60 {
                let numbers = round * 20..(round + 1) * 20;
                let body: Vec<NewEvent> = numbers.map(|each| keyed(tenant(number), each)).collect();
                publish_surely(&publisher, tenant(number), &body).await;
            }
        });
    }
    let mut read = Vec::new();
    for _ in 0..2 {
        // Whatever is on its way is cut off.
        read.extend(reading.next_batch().await.messages);
        server = killed_and_started(server).await;
    }
    while let Some(done) = within("the publishers", publishing.join_next()).await {
        done.unwrap();
    }
    let last = stored_last(&nats).await;
    read.extend(reading.read_through(last).await);
    for who in 1..=3 {
        let of_one: Vec<u64> = read
            .iter()
            .filter(|message| message.tenant == tenant(who))
            .map(number)
            .collect();
        assert_eq!(of_one, (0..1_200).collect::<Vec<_>>());
    }
    assert!(
        read.windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence)
    );
    reading.source.stop().await;
}

#[tokio::test]
async fn a_node_starts_without_nats_and_says_so_to_publishers() {
    let mut server = NatsServer::start(&NatsOptions::new());
    server.stop();
    let nats = node_with(&configuration(&server.url(), &[])).await;
    let publisher = Publisher::start(&nats, STREAM);
    let body = vec![event(tenant(1), 1)];
    let refused = within("an answer", publisher.publish(tenant(1), body.clone())).await;
    assert!(
        matches!(refused, Err(PublishError::Unavailable { stored: 0, .. })),
        "{refused:?}"
    );
    server.start_again();
    stream(&nats, &[]).await;
    let published = publish_surely(&publisher, tenant(1), &body).await;
    assert_eq!(published.accepted, 1);
    publisher.stop().await;
}

#[tokio::test]
async fn a_full_store_is_told_with_what_is_stored_and_ends_by_itself() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    // An operator who wants the oldest kept made it.
    let config = json!({
        "name": STREAM,
        "subjects": ["tidings.*.*.*"],
        "storage": "file",
        "max_bytes": 64 << 10,
        "discard": "new",
    });
    call(&nats, "STREAM.CREATE.TIDINGS", &config).await;
    stream(&nats, &[("log.max_bytes", "64KiB")]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let body: Vec<NewEvent> = (0..1_000).map(|number| keyed(tenant(1), number)).collect();
    let Err(PublishError::Full { stored, .. }) = publisher.publish(tenant(1), body.clone()).await
    else {
        panic!("64 KiB took all");
    };
    assert!(stored > 50 && stored < 1_000, "{stored}");
    let mut reading = Reading::of_own(&nats, None, 4);
    let numbers: Vec<u64> = reading
        .read_through(stored)
        .await
        .iter()
        .map(number)
        .collect();
    // nats-server 2.9 counts a message as smaller when it takes it than when it keeps it, and lets go of the
    // oldest after all. What it acknowledged last is there.
    let kept = numbers[0]..stored;
    assert_eq!(numbers, kept.collect::<Vec<_>>());
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({})).await;
    let rest = publish_surely(&publisher, tenant(1), &body[..60]).await;
    assert_eq!(rest.duplicates, 60.min(stored));
    reading.source.stop().await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_full_server_is_told_as_full() {
    let server = NatsOptions::new()
        .jetstream("max_file_store: 256KB")
        .start();
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let body: Vec<NewEvent> = (0..5_000).map(|number| event(tenant(1), number)).collect();
    let refused = publisher.publish(tenant(1), body).await;
    let Err(PublishError::Full { stored, reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(stored > 0 && stored < 5_000, "{stored} {reason}");
    publisher.stop().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_is_told_before_any_is_stored() {
    let server = NatsOptions::new().configuration("max_payload: 4KB").start();
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let mut large = event(tenant(1), 2);
    large.data = format!("{{\"text\":\"{}\"}}", "x".repeat(4_000)).into_bytes();
    let body = vec![event(tenant(1), 1), large.clone()];
    let refused = publisher.publish(tenant(1), body).await;
    assert!(
        matches!(
            refused,
            Err(PublishError::TooLarge {
                index: 1,
                limit: 4_096,
                ..
            })
        ),
        "{refused:?}"
    );
    large.data.truncate(3_000);
    let published = publisher.publish(tenant(1), vec![large]).await.unwrap();
    assert_eq!(published.first, 1, "nothing of the refused body is stored");
    publisher.stop().await;
}
