//! `kill -9` keeps what lies in the page cache, so no kill can show that an answer waits for the
//! disk. The kernel's own record can: `strace` writes down every system call of the server, and in
//! it the sync after the event's bytes returns before the answer, or the stream's bytes, are sent.

use std::collections::HashMap;

use tidings_tests::publish::{self, status};
use tidings_tests::{Connection, Receipt, Setup, new_tenant};

/// A system call that returned, in the order of returning.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    /// The line at which it began.
    began: usize,
    /// The line at which it returned.
    returned: usize,
    succeeded: bool,
}

impl Call {
    /// The first argument, which is the descriptor in all the calls that are looked at.
    fn descriptor(&self) -> &str {
        let arguments = self.text.split_once('(').map_or("", |(_, rest)| rest);
        arguments
            .split([',', ')'])
            .next()
            .unwrap_or_default()
            .trim()
    }
}

/// Reads what `strace -f` writes; calls that other threads interrupt come in two halves.
fn parse(trace: &str) -> Vec<Call> {
    let mut open: HashMap<(String, String), (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        let (name, began, text) = if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((name, tail)) = resumed.split_once(" resumed>") else {
                continue;
            };
            let Some((began, head)) = open.remove(&(thread.to_owned(), name.to_owned())) else {
                continue;
            };
            (name.to_owned(), began, format!("{head}{tail}"))
        } else if let Some((name, _)) = rest.split_once('(') {
            if let Some(head) = rest.strip_suffix("<unfinished ...>") {
                open.insert(
                    (thread.to_owned(), name.to_owned()),
                    (number, head.to_owned()),
                );
                continue;
            }
            (name.to_owned(), number, rest.to_owned())
        } else {
            continue;
        };
        let result = text.rsplit_once(" = ").map_or("", |(_, result)| result);
        calls.push(Call {
            succeeded: result.starts_with(|first: char| first.is_ascii_digit()),
            name,
            text,
            began,
            returned: number,
        });
    }
    calls
}

const FILE_WRITES: [&str; 5] = ["write", "writev", "pwrite64", "pwritev", "pwritev2"];
const SYNCS: [&str; 2] = ["fdatasync", "fsync"];
const SENDS: [&str; 5] = ["sendto", "sendmsg", "write", "writev", "sendmmsg"];

fn first<'a>(
    calls: &'a [Call],
    names: &[&str],
    matches: impl Fn(&Call) -> bool,
) -> Option<&'a Call> {
    calls
        .iter()
        .find(|call| names.contains(&call.name.as_str()) && call.succeeded && matches(call))
}

#[test]
fn the_sync_returns_before_the_answer_and_the_event_are_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let path = trace.display().to_string();
    // -D: the server itself is the child, and the tracer is a process beside it.
    let mut server = Setup::new()
        .under(&[
            "strace",
            "-D",
            "-f",
            "-q",
            "-s",
            "4096",
            "-o",
            &path,
            "-e",
            "trace=fdatasync,fsync,sendto,sendmsg,sendmmsg,write,writev,pwrite64,pwritev,pwritev2",
        ])
        .start();
    let tenant = new_tenant();
    let access = server.publisher(&tenant);
    let mut stream = server.watch(&tenant).open();
    let mut connection = Connection::open(server.address).expect("connects");
    let mut published = Vec::new();
    for number in 0..10 {
        let device = format!("durable-{:016x}", fastrand::u64(..));
        let request = publish::one(&tenant, &access, &status(&device, number));
        let receipt = Receipt::of(&connection.exchange(&request).expect("answers"));
        assert_eq!(stream.next_event().cursor(), receipt.last);
        published.push((device, receipt.last));
    }
    let pid = server.pid().as_raw_nonzero().to_string();
    assert!(server.stop().success());
    let text = trace_at_its_end(&trace, &pid);
    let calls = parse(&text);

    for (device, cursor) in &published {
        let to_client =
            |call: &Call| call.text.contains("HTTP/1.1 200") || call.text.contains("\\r\\n\\r\\n{");
        let written = first(&calls, &FILE_WRITES, |call| {
            call.text.contains(device.as_str()) && !call.text.contains("event: ")
        })
        .unwrap_or_else(|| panic!("{device} was never written to a file"));
        let synced = first(&calls, &SYNCS, |call| {
            call.began > written.returned && call.descriptor() == written.descriptor()
        })
        .unwrap_or_else(|| panic!("no sync after {device} was written"));
        let answered = first(&calls, &SENDS, |call| {
            call.text.contains(cursor.as_str()) && to_client(call)
        })
        .unwrap_or_else(|| panic!("no answer names {cursor}"));
        let shown = first(&calls, &SENDS, |call| {
            call.text.contains(device.as_str()) && call.text.contains("event: device_status")
        })
        .unwrap_or_else(|| panic!("{device} was never sent to the stream"));
        for sent in [answered, shown] {
            assert!(
                sent.began > synced.returned,
                "sent before the sync returned:\n{written:?}\n{synced:?}\n{sent:?}"
            );
        }
    }
}

/// The record once the tracer has written it all: it goes on a moment longer than the server.
fn trace_at_its_end(path: &std::path::Path, pid: &str) -> String {
    let deadline = std::time::Instant::now() + tidings_tests::GUARD;
    loop {
        let text = std::fs::read_to_string(path).expect("strace has written");
        let ended = |line: &str| line.starts_with(pid) && line.ends_with("+++ exited with 0 +++");
        if text.lines().any(ended) {
            return text;
        }
        assert!(std::time::Instant::now() < deadline, "strace did not end");
        std::thread::yield_now();
    }
}
