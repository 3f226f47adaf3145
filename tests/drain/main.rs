//! A node with thousands of streams is stopped, and its streams come back on another as they are told to: how evenly they
//! arrive there. `scripts/drain` runs it.
//!
//! Both nodes are real, and so is each client: it reads until it is told to come back, waits for as long as it was told,
//! and opens its stream on the other node. Who left and who arrived when is read from the nodes' own logs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tidings_tests::moments::seconds;
use tidings_tests::{AccessToken, GUARD, Server, Setup, new_tenant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// What is counted together, in seconds.
const SLICE: f64 = 0.1;

/// How many streams a user has here; a thousand are allowed.
const OF_A_USER: usize = 500;

/// How many are being opened at a time on the first node. On the other nothing holds them up.
const OPENING: usize = 64;

/// How much more than the even rate may come in a slice. Twice is no spike: a node that takes one is not troubled by it.
const MOST: f64 = 2.0;

fn number(name: &str, usual: usize) -> usize {
    let text = std::env::var(name).ok();
    text.map_or(usual, |text| text.parse().expect("a number"))
}

fn start(drain: usize) -> Server {
    Setup::new()
        .set("TIDINGS_AUTH__JWT__SECRET", SECRET)
        .set("TIDINGS_STREAM__HEARTBEAT", "15s")
        .set("TIDINGS_SHUTDOWN__DRAIN", &format!("{drain}s"))
        .start()
}

/// A client: on the one node until it is told to come back, then on the other until that ends.
struct Client {
    target: String,
    access: String,
}

/// What all clients are counted in.
#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    arrived: AtomicUsize,
}

impl Client {
    /// Opens the stream; gives what was read behind the head.
    async fn open(&self, address: SocketAddr) -> (TcpStream, Vec<u8>) {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nAuthorization: Bearer {}\r\n\r\n",
            self.target, self.access
        );
        socket.write_all(request.as_bytes()).await.expect("sends");
        let mut read = Vec::new();
        loop {
            let count = socket.read_buf(&mut read).await.expect("an answer");
            assert!(count > 0, "no answer: {}", String::from_utf8_lossy(&read));
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                assert!(
                    read.starts_with(b"HTTP/1.1 200 "),
                    "{}",
                    String::from_utf8_lossy(&read)
                );
                return (socket, read.split_off(end + 4));
            }
        }
    }

    async fn live(self, nodes: [SocketAddr; 2], opening: Arc<Semaphore>, counts: Arc<Counts>) {
        let permit = opening.acquire().await.expect("never closed");
        let (mut socket, mut read) = self.open(nodes[0]).await;
        drop(permit);
        counts.opened.fetch_add(1, Ordering::Relaxed);
        while socket.read_buf(&mut read).await.expect("no reset") > 0 {}
        drop(socket);
        let text = String::from_utf8(read).expect("text");
        let (_, closing) = text.split_once("event: closing\n").expect("a reason");
        let data = closing.lines().find_map(|line| line.strip_prefix("data: "));
        let data: Value = serde_json::from_str(data.expect("data")).expect("JSON");
        assert_eq!(data["reason"], "draining");
        let retry = data["retry"].as_u64().expect("milliseconds");
        tokio::time::sleep(Duration::from_millis(retry)).await;
        let (mut socket, _) = self.open(nodes[1]).await;
        counts.arrived.fetch_add(1, Ordering::Relaxed);
        let mut rest = [0; 4096];
        while socket.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    }
}

/// Waits until a count is as high as it must be.
fn wait_for(what: &str, count: &AtomicUsize, all: usize, longest: Duration) {
    let end = std::time::Instant::now() + longest;
    loop {
        let so_far = count.load(Ordering::Relaxed);
        if so_far == all {
            return;
        }
        assert!(
            std::time::Instant::now() < end,
            "{so_far} of {all} have {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// When a node logged lines with this word, by its own clock, in order.
fn times_of(server: &Server, word: &str) -> Vec<f64> {
    let said = server.output.text_at_end();
    let lines = said.lines().filter(|line| line.contains(word));
    let mut times: Vec<f64> = lines
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line in JSON");
            seconds(line["timestamp"].as_str().expect("a time"))
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "minutes at most, in tenths of a second, and none before the first"
)]
fn slice_of(seconds: f64) -> usize {
    (seconds / SLICE) as usize
}

/// The most that came in a slice, beside what would come in each if all came evenly.
fn evenness(what: &str, times: &[f64]) -> f64 {
    let (first, last) = (times[0], times[times.len() - 1]);
    let span = last - first;
    let even = times.len() as f64 * SLICE / span;
    let mut counts = vec![0_u32; slice_of(span) + 1];
    for time in times {
        counts[slice_of(time - first)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or_default();
    let ratio = f64::from(most) / even;
    println!(
        "{} {what} within {span:.1} s: {even:.1} each 100 ms if evenly, {most} at most, {ratio:.2} times as many",
        times.len()
    );
    ratio
}

fn main() {
    let streams = number("TIDINGS_DRAIN_STREAMS", 9_000);
    let drain = number("TIDINGS_DRAIN_SECONDS", 30);
    let (mut leaving, mut staying) = (start(drain), start(drain));
    let tenant = new_tenant();
    let (counts, opening) = (Arc::<Counts>::default(), Arc::new(Semaphore::new(OPENING)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for number in 0..streams {
        let user = format!("user-{}", number / OF_A_USER);
        let client = Client {
            target: format!("/tenants/{tenant}/events/stream"),
            access: AccessToken::new(&user, &tenant, "viewer").sign(SECRET),
        };
        let nodes = [leaving.address, staying.address];
        let life = client.live(nodes, Arc::clone(&opening), Arc::clone(&counts));
        // One that panics is counted by nobody, so that whoever waits for all fails.
        runtime.spawn(life);
    }
    wait_for("opened", &counts.opened, streams, 2 * GUARD);
    leaving.signal(Signal::TERM);
    let status = leaving.wait();
    assert!(status.success(), "it stops well: {status}");
    wait_for("arrived", &counts.arrived, streams, GUARD);
    // Each arrival was logged before its client had an answer; with the process ended all of it can be read.
    staying.kill();
    let (left, arrived) = (
        times_of(&leaving, "stream_closed"),
        times_of(&staying, "stream_requested"),
    );
    assert_eq!((left.len(), arrived.len()), (streams, streams));
    evenness("left", &left);
    let ratio = evenness("arrived", &arrived);
    runtime.shutdown_background();
    assert!(ratio <= MOST, "a spike: {ratio:.2} times the even rate");
}
