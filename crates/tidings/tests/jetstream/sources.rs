//! What the reader of a source promises.

use serde_json::json;
use tidings::jetstream::api::{self, ApiError};
use tidings::jetstream::source::SourcePlace;
use tidings::jetstream::{Publisher, SourceEvent, SourceMessage};
use tidings::nats::Nats;
use tidings_log::NewEvent;
use tidings_tests::{NatsOptions, NatsServer};

use crate::support::{
    Reading, STREAM, call, consumers, keyed, killed_and_started, node, number, publish_surely,
    stream, tenant, until, within,
};

/// Publishes events with these numbers. They have keys: what is published again is stored once.
async fn publish(publisher: &Publisher, numbers: std::ops::Range<u64>) {
    let body: Vec<NewEvent> = numbers.map(|number| keyed(tenant(1), number)).collect();
    publish_surely(publisher, tenant(1), &body).await;
}

fn numbers(messages: &[SourceMessage]) -> Vec<u64> {
    messages.iter().map(number).collect()
}

fn range(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.collect()
}

fn is_waiting(word: &SourceEvent) -> bool {
    matches!(word, SourceEvent::Waiting)
}

fn is_away(word: &SourceEvent) -> bool {
    matches!(word, SourceEvent::Away { .. })
}

fn is_back(word: &SourceEvent) -> bool {
    matches!(word, SourceEvent::Back)
}

async fn sole_consumer(nats: &Nats) -> String {
    let listed = call(nats, "CONSUMER.NAMES.TIDINGS", &json!({})).await;
    let names = listed["consumers"].as_array().expect("names").clone();
    assert_eq!(names.len(), 1, "{listed}");
    names[0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_that_is_not_there_yet_is_waited_for() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    reading.word(is_waiting).await;
    stream(&nats, &[]).await;
    reading.word(is_back).await;
    let batch = reading.next_batch().await;
    assert_eq!(
        (batch.messages.len(), batch.through, batch.pending),
        (0, 0, 0)
    );
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..10).await;
    assert_eq!(numbers(&reading.read_through(10).await), range(0..10));
    assert_eq!(reading.source.counters().events(), 10);
    reading.source.stop().await;
}

#[tokio::test]
async fn a_source_has_one_consumer_and_leaves_none_behind() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..5_000).await;
    assert_eq!(consumers(&nats, STREAM).await, 0);
    let mut reading = Reading::of_own(&nats, None, 1);
    let mut other = Reading::of_own(&nats, None, 1);
    assert_eq!(numbers(&reading.caught_up().await), range(0..5_000));
    other.caught_up().await;
    assert_eq!(consumers(&nats, STREAM).await, 2, "one for each source");
    reading.source.stop().await;
    assert_eq!(consumers(&nats, STREAM).await, 1);
    other.source.stop().await;
    assert_eq!(consumers(&nats, STREAM).await, 0);
}

#[tokio::test]
async fn reading_goes_on_behind_what_was_read() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..100).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    let incarnation = reading.next_batch().await.incarnation;
    reading.source.stop().await;
    let after = |incarnation, sequence| {
        Some(SourcePlace {
            incarnation,
            sequence,
        })
    };
    let mut reading = Reading::of_own(&nats, after(incarnation, 40), 4);
    assert_eq!(numbers(&reading.caught_up().await), range(40..100));
    reading.source.stop().await;

    // A place in another stream of that name says nothing about this one.
    let mut reading = Reading::of_own(&nats, after(incarnation - 1, 40), 4);
    let is_recreated = |word: &SourceEvent| matches!(word, SourceEvent::Recreated { .. });
    let word = reading.word(is_recreated).await;
    assert!(
        matches!(word, SourceEvent::Recreated { incarnation: now } if now == incarnation),
        "{word:?}"
    );
    assert_eq!(numbers(&reading.caught_up().await), range(0..100));
    reading.source.stop().await;
}

#[tokio::test]
async fn a_recreated_stream_is_read_from_its_oldest_message() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..10).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    reading.read_through(10).await;
    call(&nats, "STREAM.DELETE.TIDINGS", &json!({})).await;
    stream(&nats, &[]).await;
    publish(&publisher, 100..103).await;
    let mut words = vec![reading.next_word().await];
    while !matches!(words.last(), Some(SourceEvent::Recreated { .. })) {
        words.push(reading.next_word().await);
    }
    let read = reading.read_through(3).await;
    assert_eq!(numbers(&read), [100, 101, 102]);
    assert_eq!(read[0].sequence, 1);
    reading.source.stop().await;
}

#[tokio::test]
async fn what_a_stream_has_lost_before_it_was_read_is_told_in_its_place() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..20_000).await;
    // A reader that is slow: with one report on its way, and what the broker has sent ahead.
    let mut reading = Reading::of_own(&nats, None, 1);
    let incarnation = reading.next_batch().await.incarnation;
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({ "seq": 19_001 })).await;
    let mut expected = 0;
    let mut lost = Vec::new();
    while expected < 20_000 {
        match reading.next().await {
            SourceEvent::Batch(batch) => {
                // The first of them was looked at above.
                let first = batch.messages.first().map(|message| message.sequence);
                if let Some(first) = first.filter(|_| expected > 0) {
                    assert_eq!(first, expected + 1, "a hole that was not told");
                }
                expected = batch.through;
            }
            SourceEvent::Lost {
                incarnation: of,
                through,
            } => {
                assert_eq!(of, incarnation);
                assert!(through > expected && through <= 19_000, "{through}");
                lost.push(through);
                expected = through;
            }
            _ => {}
        }
    }
    assert_eq!(lost.last(), Some(&19_000));
    reading.source.stop().await;

    // One that comes back.
    let after = SourcePlace {
        incarnation,
        sequence: 40,
    };
    let mut reading = Reading::of_own(&nats, Some(after), 4);
    let is_lost = |word: &SourceEvent| matches!(word, SourceEvent::Lost { .. });
    let word = reading.word(is_lost).await;
    let lost = matches!(
        word,
        SourceEvent::Lost {
            through: 19_000,
            ..
        }
    );
    assert!(lost, "{word:?}");
    assert_eq!(numbers(&reading.caught_up().await), range(19_000..20_000));
    reading.source.stop().await;
}

#[tokio::test]
async fn purged_and_removed_messages_are_jumped_over() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..20).await;
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({ "seq": 6 })).await;
    call(&nats, "STREAM.MSG.DELETE.TIDINGS", &json!({ "seq": 10 })).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    let batch = reading.next_batch().await;
    assert_eq!(batch.first_sequence, 6);
    let mut read = numbers(&batch.messages);
    if batch.through < 20 {
        read.extend(numbers(&reading.read_through(20).await));
    }
    let kept: Vec<u64> = (5..20).filter(|number| *number != 9).collect();
    assert_eq!(read, kept);
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({})).await;
    publish(&publisher, 20..21).await;
    assert_eq!(numbers(&reading.read_through(21).await), [20]);
    reading.source.stop().await;

    // What is gone is through all the same.
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({})).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    let batch = reading.next_batch().await;
    assert_eq!((batch.through, batch.pending), (21, 0));
    reading.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_when_consumers_go_and_brokers_restart() {
    let mut server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    // More than is ever on its way, so that a part has to come by another consumer.
    for round in 0..4 {
        publish(&publisher, round * 5_000..(round + 1) * 5_000).await;
    }
    let mut reading = Reading::of_own(&nats, None, 1);
    let mut read = reading.next_batch().await.messages;
    // An operator, or an election, takes the consumer away while messages are on their way.
    let consumer = sole_consumer(&nats).await;
    call(
        &nats,
        &format!("CONSUMER.DELETE.TIDINGS.{consumer}"),
        &json!({}),
    )
    .await;
    read.extend(reading.read_through(20_000).await);
    // A broker that is slow for a while costs one more.
    assert!(reading.source.counters().consumers() >= 2);
    server = killed_and_started(server).await;
    reading.word(is_away).await;
    reading.word(is_back).await;
    publish(&publisher, 20_000..20_500).await;
    read.extend(reading.read_through(20_500).await);
    assert_eq!(numbers(&read), range(0..20_500));
    reading.source.stop().await;
    drop(server);
}

#[tokio::test]
async fn a_frozen_broker_is_noticed_and_nothing_is_missing_after_it() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..10).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    let mut read = reading.read_through(10).await;
    server.pause();
    reading.word(is_away).await;
    server.resume();
    reading.word(is_back).await;
    publish(&publisher, 10..20).await;
    read.extend(reading.read_through(20).await);
    assert_eq!(numbers(&read), range(0..20));
    reading.source.stop().await;
}

/// Waits until the broker has answered what a reader asked for, and delivers no more; how far it has come.
async fn standstill(server: &NatsServer) -> u64 {
    let delivered = || {
        // A broker that is slow to answer does not say where it stands.
        let page = server.monitoring("/jsz?consumers=true")?;
        let consumer = &page["account_details"][0]["stream_detail"][0]["consumer_detail"][0];
        consumer["delivered"]["stream_seq"].as_u64()
    };
    let mut before = None;
    // Two requests are answered, and then no more.
    until("a standstill", async || {
        let now = delivered();
        let stands = now.is_some_and(|now| now > 0) && now == before;
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        stands
    })
    .await;
    before.expect("it was told just now")
}

/// The broker had said that more was pending, and says nothing when that is removed: a node was never ready, since it
/// waited for the rest.
#[tokio::test]
async fn what_is_removed_before_it_was_read_is_not_waited_for() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    for round in 0..4 {
        publish(&publisher, round * 5_000..(round + 1) * 5_000).await;
    }
    let others: Vec<NewEvent> = (0..1_000).map(|number| keyed(tenant(2), number)).collect();
    publish_surely(&publisher, tenant(2), &others).await;
    let mut reading = Reading::of_own(&nats, None, 1);
    standstill(&server).await;
    let filter = format!("tidings.{}.>", tenant(2));
    call(&nats, "STREAM.PURGE.TIDINGS", &json!({ "filter": filter })).await;
    let read = within("the end", reading.caught_up()).await;
    assert_eq!(numbers(&read), range(0..20_000));
    reading.source.stop().await;
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_holds_the_reader_up() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    for round in 0..10 {
        publish(&publisher, round * 5_000..(round + 1) * 5_000).await;
    }
    let mut reading = Reading::of_own(&nats, None, 1);
    let before = standstill(&server).await;
    assert!(before < 20_000, "{before} of 50,000 were taken");
    assert_eq!(
        numbers(&reading.read_through(50_000).await),
        range(0..50_000)
    );
    reading.source.stop().await;
}

/// nats-server 2.9 ended with a nil pointer when a node asked for the last message of a bucket that another node was just
/// making.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_just_being_made_may_be_asked_for_its_last_message() {
    let server = NatsServer::start(&NatsOptions::new());
    let (maker, asker) = (node(&server.url()).await, node(&server.url()).await);
    // One that has ended refuses at once; one that is slow is given some time.
    let is_alive = || (0..5).any(|_| server.monitoring("/healthz").is_some());
    for round in 0..100 {
        let name = format!("MADE{round}");
        let subject = format!("made.{round}");
        let config = json!({ "name": &name, "subjects": [&subject], "storage": "file" });
        let made = async {
            loop {
                match api::create_stream(maker.client(), &config).await {
                    Ok(_) => break,
                    // The second may find it just being made by the first.
                    Err(ApiError::Unanswered(_) | ApiError::NoStream) if is_alive() => {}
                    Err(error) => panic!("{error} in round {round}"),
                }
            }
            let sent = maker.client().publish(subject.clone(), "last".into()).await;
            sent.unwrap();
        };
        // Without a pause: the moment in which it is being made is short.
        let asked = within("the last message", async {
            loop {
                match api::last_message(asker.client(), &name, &subject).await {
                    Ok(message) => return assert_eq!(message.payload, b"last"),
                    Err(ApiError::NoStream | ApiError::NoMessage) => {}
                    Err(ApiError::Unanswered(_)) if is_alive() => {}
                    Err(error) => panic!("{error} in round {round}"),
                }
            }
        });
        tokio::join!(made, asked);
    }
}

#[tokio::test]
async fn messages_of_strangers_are_counted_and_skipped() {
    let server = NatsServer::start(&NatsOptions::new());
    let nats = node(&server.url()).await;
    stream(&nats, &[]).await;
    let mine = format!("tidings.{}.device_status.-", tenant(1));
    for subject in [mine.as_str(), "tidings.x.y.z"] {
        nats.client()
            .publish(subject.to_owned(), "{}".into())
            .await
            .unwrap();
    }
    within("a flush", nats.client().flush()).await.unwrap();
    let publisher = Publisher::start(&nats, STREAM);
    publish(&publisher, 0..1).await;
    let mut reading = Reading::of_own(&nats, None, 4);
    assert_eq!(numbers(&reading.read_through(3).await), [0]);
    let counts: Vec<_> = reading
        .source
        .counters()
        .malformed()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(counts, [("subject", 1), ("header", 1)]);
    reading.source.stop().await;
}
