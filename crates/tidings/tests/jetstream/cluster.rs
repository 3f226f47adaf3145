//! Three brokers.

use std::sync::Arc;

use tidings::jetstream::Publisher;
use tidings_log::NewEvent;
use tidings_tests::NatsCluster;
use tokio::task::JoinSet;

use crate::support::{
    Reading, STREAM, keyed, node, number, publish_surely, stored_last, stream, tenant, within,
};

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
    let last = stored_last(&nats).await;
    read.extend(reading.read_through(last).await);
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
    let last = stored_last(&nats).await;
    assert_eq!(reading.read_through(last).await.len(), 1);
    reading.source.stop().await;
    drop(brokers);
}
