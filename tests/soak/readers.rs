//! Readers that know what must come: each tenant's numbers, one by one, over streams that break off anywhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_tests::{AccessToken, Event, Item, Watch};

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

/// Where a reader is: the cursor that it resumes after, and the number that came with it.
#[derive(Default)]
struct Place {
    cursor: Option<String>,
    number: Option<u64>,
}

impl Place {
    fn take(&mut self, event: &Event) {
        match event.name.as_str() {
            "device_status" => {
                let number = event.json()["n"].as_u64().expect("a number");
                if let Some(last) = self.number {
                    assert_eq!(
                        number,
                        last + 1,
                        "lost, repeated or out of order: {event:?}"
                    );
                }
                self.number = Some(number);
            }
            // Retention has overtaken this reader; it goes on from the oldest.
            "gap" => {
                assert_eq!(event.json()["reason"], "expired", "{event:?}");
                self.number = None;
            }
            _ => {}
        }
        self.cursor = event.id.clone().or_else(|| self.cursor.take());
    }
}

fn follow(soak: &Soak, tenant: usize) {
    let id = &soak.tenants[tenant];
    let path = format!("/tenants/{id}/events/stream");
    let mut place = Place::default();
    while soak.goes_on() {
        let token = soak.sign(&AccessToken::new("reader", id, "viewer"));
        let mut watch = Watch::at(soak.address, &path).bearer(&token);
        if let Some(cursor) = &place.cursor {
            watch = watch.after(cursor);
        }
        let Ok(Ok(mut stream)) = watch.try_open() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        soak.opened.fetch_add(1, Ordering::Relaxed);
        // Leaves after some events, by a reset as often as by a close.
        for _ in 0..fastrand::u32(1..2_000) {
            // At the end nobody publishes any more, and heartbeats are all that comes.
            let Some(item) = stream.next_item() else {
                break;
            };
            let Item::Event(event) = item else {
                if soak.goes_on() {
                    continue;
                }
                break;
            };
            place.take(&event);
            soak.read.fetch_add(1, Ordering::Relaxed);
            if !soak.goes_on() {
                break;
            }
        }
        if fastrand::bool() {
            stream.tear();
        }
    }
}
