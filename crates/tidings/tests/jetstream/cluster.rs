//! Three brokers.

use std::sync::Arc;

use tidings::jetstream::{Publisher, SourceMessage};
use tidings::nats::Nats;
use tidings_log::NewEvent;
use tidings_tests::NatsCluster;
use tokio::task::JoinSet;

use crate::support::{
    Reading, STREAM, keyed, node, number, publish_surely, stored_last, stream, tenant, until,
    within,
};

/// Reads on until there are as many messages as were acknowledged, and then what else the stream holds.
async fn read_all(
    nats: &Nats,
    reading: &mut Reading,
    read: &mut Vec<SourceMessage>,
    acknowledged: usize,
) {
    // In this order: a leader that is new may not know the last of them yet.
    while read.len() < acknowledged {
        read.extend(reading.next_batch().await.messages);
    }
    let last = stored_last(nats).await;
    if read.last().is_none_or(|newest| newest.sequence < last) {
        read.extend(reading.read_through(last).await);
    }
    assert!(
        read.is_sorted_by(|one, next| one.sequence < next.sequence),
        "out of order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_leader_loses_repeats_and_disorders_nothing() {
    const ROUNDS: u64 = 40;
    let brokers = NatsCluster::start(3);
    let nats = node(&brokers.url()).await;
    stream(&nats, &[("nats.replicas", "3")]).await;
    let publisher = Arc::new(Publisher::start(&nats, STREAM));
    let mut reading = Reading::of_own(&nats, None, 4);
    let mut publishing = JoinSet::new();
    for who in 1..=3 {
        let publisher = Arc::clone(&publisher);
        publishing.spawn(async move {
            for round in 0..ROUNDS {
                let numbers = round * 25..(round + 1) * 25;
                let body: Vec<NewEvent> = numbers.map(|each| keyed(tenant(who), each)).collect();
                publish_surely(&publisher, tenant(who), &body).await;
            }
        });
    }
    let mut read = reading.next_batch().await.messages;
    let restarting = tokio::task::spawn_blocking(move || {
        let mut brokers = brokers;
        let leader = loop {
            if let Some(leader) = brokers.leader_of(STREAM) {
                break leader;
            }
        };
        brokers.servers[leader].kill();
        brokers
    });
    let mut brokers = restarting.await.unwrap();
    while let Some(done) = within("the publishers", publishing.join_next()).await {
        done.unwrap();
    }
    let published = usize::try_from(3 * ROUNDS * 25).unwrap();
    read_all(&nats, &mut reading, &mut read, published).await;
    for who in 1..=3 {
        let of_one: Vec<u64> = read
            .iter()
            .filter(|message| message.tenant == tenant(who))
            .map(number)
            .collect();
        assert_eq!(
            of_one,
            (0..ROUNDS * 25).collect::<Vec<_>>(),
            "of tenant {who}"
        );
    }
    let brokers = tokio::task::spawn_blocking(move || {
        brokers.start_all_again();
        brokers
    });
    let brokers = brokers.await.unwrap();
    let body = [keyed(tenant(4), 1)];
    publish_surely(&publisher, tenant(4), &body).await;
    read_all(&nats, &mut reading, &mut read, published + 1).await;
    assert_eq!(read.len(), published + 1);
    assert_eq!(read[published].tenant, tenant(4));
    reading.source.stop().await;
    drop(brokers);
}

/// A leader that gives up its place drops what it has not stored while its successor takes what comes next.
/// The publisher can't prevent such holes; it must not fill them behind the publisher's back.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_steps_down_disorders_nothing_that_is_acknowledged() {
    const BODY: u64 = 200;
    let brokers = NatsCluster::start(3);
    let nats = node(&brokers.url()).await;
    stream(&nats, &[("nats.replicas", "3")]).await;
    let publisher = Arc::new(Publisher::start(&nats, STREAM));
    let mut reading = Reading::of_own(&nats, None, 4);
    let mut publishing = JoinSet::new();
    for who in 1..=2 {
        let publisher = Arc::clone(&publisher);
        publishing.spawn(async move {
            // The bodies that were acknowledged at the first attempt.
            let mut at_once = Vec::new();
            for round in 0..60 {
                let numbers = round * BODY..(round + 1) * BODY;
                let body: Vec<NewEvent> = numbers.map(|each| keyed(tenant(who), each)).collect();
                match publisher.publish(tenant(who), body.clone()).await {
                    Ok(_) => at_once.push(round),
                    Err(_) => {
                        publish_surely(&publisher, tenant(who), &body).await;
                    }
                }
            }
            (who, at_once)
        });
    }
    let mut read = Vec::new();
    for _ in 0..2 {
        read.extend(reading.next_batch().await.messages);
        // While there is no leader, nobody hears.
        until("a leader that hears", async || {
            let stepping = nats
                .client()
                .request("$JS.API.STREAM.LEADER.STEPDOWN.TIDINGS", "".into());
            stepping.await.is_ok()
        })
        .await;
    }
    let mut answers = Vec::new();
    while let Some(done) = within("the publishers", publishing.join_next()).await {
        answers.push(done.unwrap());
    }
    let published = usize::try_from(2 * 60 * BODY).unwrap();
    read_all(&nats, &mut reading, &mut read, published).await;
    for (who, at_once) in answers {
        let of_one: Vec<u64> = read
            .iter()
            .filter(|message| message.tenant == tenant(who))
            .map(number)
            .collect();
        let mut sorted = of_one.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            (0..60 * BODY).collect::<Vec<_>>(),
            "none lost, none twice"
        );
        assert!(!at_once.is_empty());
        for round in at_once {
            let body: Vec<u64> = of_one
                .iter()
                .copied()
                .filter(|number| number / BODY == round)
                .collect();
            assert!(body.is_sorted(), "body {round} of {who}");
        }
    }
    reading.source.stop().await;
}
