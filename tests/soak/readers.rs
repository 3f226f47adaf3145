//! Readers that know what must come: each tenant's numbers, one by one, over streams that break off anywhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidings_tests::{AccessToken, Event, GUARD, Item, Watch};

use crate::Soak;

/// Two readers for each tenant.
pub(crate) fn start(soak: &Arc<Soak>) -> Vec<JoinHandle<()>> {
    (0..soak.tenants.len() * 2)
        .map(|reader| {
            let soak = Arc::clone(soak);
            std::thread::spawn(move || follow(&soak, reader / 2))
        })
        .collect()
}

/// Where a reader is: the cursor that it resumes after, and the number that came with it; at first before all of them.
#[derive(Default)]
struct Place {
    cursor: Option<String>,
    number: u64,
}

impl Place {
    fn take(&mut self, event: &Event) {
        match event.name.as_str() {
            "device_status" => {
                let number = event.json()["n"].as_u64().expect("a number");
                assert_eq!(
                    number,
                    self.number + 1,
                    "lost, repeated or out of order: {event:?}"
                );
                self.number = number;
            }
            // A reader is back within moments, and what is retained reaches back for minutes: nothing is missing.
            "gap" => panic!("a gap after number {}: {event:?}", self.number),
            _ => {}
        }
        self.cursor = event.id.clone().or_else(|| self.cursor.take());
    }
}

/// Whether a reader has everything that its tenant's publisher was answered for, now that there is no more to come.
fn has_all(soak: &Soak, tenant: usize, place: &Place) -> bool {
    soak.all_published.load(Ordering::Acquire)
        && place.number >= soak.published[tenant].load(Ordering::Acquire)
}

fn follow(soak: &Soak, tenant: usize) {
    let id = &soak.tenants[tenant];
    let path = format!("/tenants/{id}/events/stream");
    let mut place = Place::default();
    // Set when there is no more to come, for a reader that has not got all of it.
    let mut deadline = None;
    while !has_all(soak, tenant, &place) {
        if soak.all_published.load(Ordering::Acquire) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + GUARD);
            assert!(
                Instant::now() < deadline,
                "a reader of {id} is at {} and gets no further; {} were published",
                place.number,
                soak.published[tenant].load(Ordering::Acquire)
            );
        }
        let token = soak.sign(&AccessToken::new("reader", id, "viewer"));
        let watch = Watch::at(soak.address, &path).bearer(&token);
        let watch = match &place.cursor {
            Some(cursor) => watch.after(cursor),
            None => watch.query("since", "2020-01-01T00:00:00Z"),
        };
        let Ok(Ok(mut stream)) = watch.try_open() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        soak.opened.fetch_add(1, Ordering::Relaxed);
        // Leaves after some events, by a reset as often as by a close; at the latest when heartbeats are all that comes.
        for _ in 0..fastrand::u32(1..2_000) {
            let Some(item) = stream.next_item() else {
                break;
            };
            if let Item::Event(event) = item {
                place.take(&event);
                soak.read.fetch_add(1, Ordering::Relaxed);
            } else if soak.all_published.load(Ordering::Acquire) {
                break;
            }
            if has_all(soak, tenant, &place) {
                break;
            }
        }
        if fastrand::bool() {
            stream.tear();
        }
    }
}
