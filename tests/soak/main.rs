//! The soak: for as long as it is told, everything at once on one real server, and at the end memory and
//! descriptors where they were. `scripts/soak` runs it; it prints a line every ten seconds.
//!
//! - [`publishers`]: each tenant's publisher counts up, and repeats a number under its key until it is answered.
//! - [`readers`]: follow a tenant over any number of streams and hold every number to be the next one, from the first to
//!   the last that its publisher was answered for.
//! - [`others`]: streams that come and go, that never read, that are revoked; requests that are refused.
//! - [`measure`]: memory and descriptors over each life of the process, which is killed between lives.

mod measure;
mod others;
mod publishers;
mod readers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidings_tests::{AccessToken, Request, Setup, new_tenant};

/// How long one life of the process is at least, so that its memory has a shape.
const SHORTEST_LIFE: Duration = Duration::from_mins(2);

/// What all threads share.
pub(crate) struct Soak {
    pub(crate) address: SocketAddr,
    pub(crate) secret: String,
    pub(crate) tenants: Vec<String>,
    /// No more of anything.
    pub(crate) stop: AtomicBool,
    /// The publishers have ended: readers end when they have it all.
    pub(crate) all_published: AtomicBool,
    /// The last number that each tenant's publisher was answered for.
    pub(crate) published: Vec<AtomicU64>,
    pub(crate) read: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) revoked: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Soak {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn sign(&self, token: &AccessToken) -> String {
        token.sign(&self.secret)
    }

    /// One request; none while the server is dead.
    pub(crate) fn ask(&self, request: &Request) -> Option<tidings_tests::Answer> {
        tidings_tests::http::try_exchange(self.address, request).ok()
    }
}

fn main() {
    let minutes = std::env::var("TIDINGS_SOAK_MINUTES")
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(60);
    let whole = Duration::from_mins(minutes);
    let life = (whole / 4).max(SHORTEST_LIFE);
    let tenants: Vec<String> = (0..20).map(|_| new_tenant()).collect();
    // Retention and the cap are reached within the shortest soak, so that the disk is flat too.
    let mut server = Setup::new()
        .set("TIDINGS_LOG__MAX_BYTES", "64MiB")
        .set("TIDINGS_LOG__RETENTION", "1h")
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10s")
        .set("TIDINGS_STREAM__WINDOW_BYTES", "8MiB")
        .start();
    let soak = Arc::new(Soak {
        address: server.address,
        secret: server.secret.clone(),
        published: tenants.iter().map(|_| AtomicU64::new(0)).collect(),
        tenants,
        stop: AtomicBool::new(false),
        all_published: AtomicBool::new(false),
        read: AtomicU64::new(0),
        opened: AtomicU64::new(0),
        revoked: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let publishers = publishers::start(&soak);
    let mut threads = readers::start(&soak);
    threads.extend(others::start(&soak));

    let end = Instant::now() + whole;
    let mut lives = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let this = if left < life + SHORTEST_LIFE {
            left
        } else {
            life
        };
        lives.push(measure::over(&server, this, &soak, lives.len() + 1));
        if this == left {
            break;
        }
        server.kill();
        server.start_again();
    }
    soak.stop.store(true, Ordering::Relaxed);
    join(publishers);
    soak.all_published.store(true, Ordering::Release);
    join(threads);
    let status = server.stop();
    assert!(status.success(), "it stops well: {status}");
    for life in &lives {
        life.must_be_flat();
    }
    let mut published = 0;
    for (tenant, number) in soak.tenants.iter().zip(&soak.published) {
        let number = number.load(Ordering::Acquire);
        assert!(number > 0, "nothing was published for {tenant}");
        published += number;
    }
    println!(
        "soak: {minutes} min, {} lives, {published} events published, {} read, {} streams opened, {} revoked, {} refusals; nothing lost, repeated or out of order, memory and descriptors flat",
        lives.len(),
        some("events read", &soak.read),
        some("streams opened", &soak.opened),
        some("users revoked", &soak.revoked),
        some("refusals", &soak.refused),
    );
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("a thread has seen what must not be");
    }
}

/// A count that must not be nothing: a server that refuses everybody loses nothing either.
fn some(what: &str, count: &AtomicU64) -> u64 {
    let count = count.load(Ordering::Relaxed);
    assert!(count > 0, "no {what}");
    count
}
