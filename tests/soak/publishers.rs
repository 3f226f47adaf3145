//! Publishing without an end: each tenant's numbers, one after the other, each stored once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_tests::{AccessToken, Receipt, publish};

use crate::Soak;

/// So many numbers in a body.
const BATCH: u64 = 10;
/// Between two bodies of a tenant: twenty tenants come to some two thousand events a second.
const PAUSE: Duration = Duration::from_millis(100);

/// One thread for each tenant.
pub(crate) fn start(soak: &Arc<Soak>) -> Vec<JoinHandle<()>> {
    (0..soak.tenants.len())
        .map(|tenant| {
            let soak = Arc::clone(soak);
            std::thread::spawn(move || publish_all(&soak, tenant))
        })
        .collect()
}

fn publish_all(soak: &Soak, tenant: usize) {
    let id = &soak.tenants[tenant];
    let mut next = 1;
    while soak.goes_on() {
        let token = soak.sign(&AccessToken::new("publisher", id, "publisher"));
        let events: Vec<_> = (next..next + BATCH)
            .map(|number| {
                let mut event = publish::status(&format!("device-{}", number % 50), number);
                event["key"] = format!("n{number}").into();
                event
            })
            .collect();
        // Repeated under the same keys until it is answered, also by the server's next life.
        while let Some(answer) =
            wait_for_life(soak, || soak.ask(&publish::many(id, &token, &events)))
        {
            if answer.status == 200 {
                let receipt = Receipt::of(&answer);
                assert_eq!(receipt.accepted + receipt.duplicates, BATCH, "{receipt:?}");
                next += BATCH;
                soak.published[tenant].store(next - 1, Ordering::Release);
                break;
            }
            assert!(
                matches!(answer.status, 429 | 503),
                "{}\n{}",
                answer.head,
                answer.text()
            );
            if !soak.goes_on() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks until there is an answer; none when the soak is over.
fn wait_for_life<T>(soak: &Soak, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if !soak.goes_on() {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
