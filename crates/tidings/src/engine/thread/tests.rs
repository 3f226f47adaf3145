//! A thread of the engine, stepped by hand.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};

use tidings_log::{EventRef, Health, Listener, Log, LogOptions};
use tidings_protocol::TenantId;

use super::*;
use crate::auth::Identity;
use crate::cursors::Cursors;
use crate::engine::catch_up::{Caught, Chunk};
use crate::engine::census::Inquiry;
use crate::engine::deliver::Due;
use crate::engine::select::pieces_of;
use crate::engine::stream::{Stage, Unsent};
use crate::engine::{
    Coding, ConnectionId, Engines, OpenStream, Recheck, StreamFilter, StreamRecord, StreamSink,
    Ticket,
};
use crate::fanout::block::Run;
use crate::fanout::{BlockBuilder, Follower as _, Rules, TypeTable, View, ViewRequest};
use crate::limits::Limits;

const STREAMS: usize = 50;
const EVENTS: u64 = 100;

struct NoListener;

impl Listener for NoListener {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

fn tenant() -> TenantId {
    TenantId::from_bytes([1; 16])
}

fn options(threads: usize) -> EngineOptions {
    EngineOptions {
        threads,
        heartbeat: Duration::from_secs(15),
        stall_timeout: Duration::from_secs(30),
        retry: Duration::from_secs(2),
        send_buffer: 64 * 1024,
        ended_streams: 100,
    }
}

/// An engine thread that the test drives itself, and the folder of its (empty) log.
fn engine() -> (Thread, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions::new(folder.path()), Box::new(NoListener)).unwrap();
    let types = Arc::new(TypeTable::default());
    let cursors = Arc::new(Cursors::of_log(&log));
    let pool = Arc::new(CatchUpPool::start(&log, &cursors, &types).unwrap());
    let (mailbox, poll) = Mailbox::new().unwrap();
    let options = options(1);
    let window = Arc::new(Window::new(1 << 20));
    let ended = Arc::new(EndedStreams::new(options.ended_streams));
    let thread = Thread::new(
        options,
        poll,
        mailbox,
        window,
        pool,
        ended,
        Evenly::random(),
    );
    (thread, folder)
}

/// Opens a stream of the tenant. Gives its other end.
fn open(thread: &mut Thread, limits: &Limits) -> TcpStream {
    let (stream, client) = authorised(thread, limits);
    thread.open(stream);
    client
}

/// A stream of the tenant that an engine can take over, and its other end.
fn authorised(thread: &Thread, limits: &Limits) -> (OpenStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let identity = Arc::new(Identity {
        user: "u".into(),
        tenant: Some(tenant()),
        role: "viewer".into(),
        super_admin: false,
        expires_at: i64::from(u32::MAX),
        issued_at: None,
        token_id: None,
        devices: None,
        types: None,
        device_group: None,
    });
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let types = TypeTable::default();
    let stream = OpenStream {
        sink: StreamSink::Socket(socket),
        view: View::new(&identity, Some(tenant()), &ViewRequest::default(), &types),
        after: thread.position,
        announced: 0,
        coding: Coding::Identity,
        head: Vec::new(),
        preamble: Vec::new(),
        snapshot: None,
        wants_snapshot: false,
        conflation: None,
        recheck: None,
        ticket: Ticket {
            connection: ConnectionId::random(),
            place: Some(limits.reserve(Some(tenant()), "u", address).unwrap()),
            rules: Rules::new(
                Arc::clone(&identity),
                Some(tenant()),
                None,
                ViewRequest::default(),
            ),
            identity,
            tenant: Some(tenant()),
            address,
            opened_at: 0,
        },
    };
    (stream, client)
}

/// An event of the tenant.
fn event(position: Position) -> EventRef<'static> {
    EventRef {
        position,
        appended_at: 0,
        time: None,
        tenant: tenant(),
        event_type: "device_status",
        device: Some("r1"),
        subject: None,
        origin: None,
        data: &[b'x'; 250],
    }
}

/// A block of one event of the tenant.
fn block(thread: &Thread, position: Position, types: &TypeTable) -> Block {
    let mut builder = BlockBuilder::new(thread.pool.cursors().ids(), position - 1);
    builder.push(&event(position), types);
    builder.finish(position)
}

#[test]
fn what_is_due_at_a_moment_comes_up_behind_it() {
    for (elapsed, remaining) in [(199, 1), (150, 150), (199, 199), (0, 100), (99, 1_000)] {
        let moment = Duration::from_millis(elapsed) + Duration::from_millis(remaining);
        let tick = u32::try_from(tick_behind(moment)).unwrap();
        assert!(
            tick * TICK > moment && (tick - 1) * TICK <= moment,
            "{moment:?}: {tick}"
        );
    }
}

/// The story: a group changes after a stream was authorised and before its engine has it. The engines
/// close the streams that they have, and this one is in nobody's hands. It must not be given what was
/// published since, by members that are no longer the group's.
#[test]
fn a_stream_whose_ground_is_gone_when_it_comes_is_given_no_event() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let types = TypeTable::default();
    let block = block(&thread, 1, &types);
    thread.window.push(block);
    thread.follow();
    let gone = Recheck::new(|| Some(ClosingReason::ViewChanged));
    let stands = Recheck::new(|| None);
    let open_from_the_start = |thread: &mut Thread, recheck| {
        let (mut stream, client) = authorised(thread, &limits);
        stream.after = 0;
        stream.preamble = b": the way to its start, with events\n\n".to_vec();
        stream.recheck = Some(recheck);
        thread.open(stream);
        client
    };
    let refused = open_from_the_start(&mut thread, gone);
    let text = received(refused);
    assert!(text.contains("\"reason\":\"view_changed\""), "{text}");
    assert!(!text.contains("device_status"), "{text}");
    assert!(!text.contains("the way to its start"), "{text}");

    let admitted = open_from_the_start(&mut thread, stands);
    thread.close_all(ClosingReason::Draining);
    let text = received(admitted);
    assert!(text.contains("device_status"), "{text}");
    assert!(text.contains("the way to its start"), "{text}");
}

/// A server that is only published to woke its engines for every commit, two switches of the processor each.
/// Now they sleep on, and whoever opens a stream must not pay for that with an event.
#[test]
fn a_thread_without_streams_sleeps_through_commits_and_a_stream_that_comes_begins_where_they_ended()
{
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let types = TypeTable::default();
    let mut events = Events::with_capacity(8);
    let mut wakes = |thread: &mut Thread| {
        let instant = Some(Duration::ZERO);
        thread.poll.poll(&mut events, instant).unwrap();
        !events.is_empty()
    };
    assert_eq!(thread.patience(), None);
    thread.mailbox.sleeps(true);
    let missed = block(&thread, 1, &types);
    thread.window.push(missed);
    thread.mailbox.tail_moved();
    assert!(!wakes(&mut thread), "there is nobody to give it to");

    let (mut stream, mut client) = authorised(&thread, &limits);
    stream.after = 1;
    thread.mailbox.open(stream).unwrap();
    assert!(wakes(&mut thread));
    thread.mailbox.has_woken();
    thread.read_mail();
    assert_eq!(thread.position, 1);
    let due = block(&thread, 2, &types);
    let expected = due.bytes().to_vec();
    thread.window.push(due);
    thread.mailbox.tail_moved();
    assert!(wakes(&mut thread));
    thread.follow();
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).unwrap();
    assert!(received == expected);

    assert!(thread.patience().is_some());
    thread.mailbox.sleeps(false);
    thread.read_mail();
    thread.mailbox.tail_moved();
    assert!(wakes(&mut thread), "it has a stream");
}

/// The story: a stream that read the log waited for its socket, nobody else read, and so the rest of its
/// chunk was thrown away and read again, two or three times over.
#[test]
fn what_was_read_of_the_log_stays_a_while_for_a_stream_that_waits_for_its_socket() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let types = TypeTable::default();
    let scope = Scope::Tenant(tenant());
    let bring = |thread: &mut Thread| {
        let chunk = Chunk {
            block: Arc::new(block(thread, 1, &types)),
            purges: 0,
            expired: None,
        };
        let outcome = Ok(chunk);
        thread.caught(Caught { scope, outcome });
        thread.take_turns();
    };
    bring(&mut thread);
    assert!(!thread.chunks.reach(scope, 0), "there is nobody");
    let client = open(&mut thread, &limits);
    bring(&mut thread);
    assert!(thread.chunks.reach(scope, 0));
    thread.now += ticks(Duration::from_millis(500));
    thread.take_turns();
    assert!(thread.chunks.reach(scope, 0));
    thread.now += ticks(Duration::from_secs(1));
    thread.take_turns();
    assert!(!thread.chunks.reach(scope, 0), "nobody came for it");
    drop(client);
}

#[test]
fn a_run_is_cut_where_its_pieces_are() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let types = TypeTable::default();
    let _clients = [open(&mut thread, &limits), open(&mut thread, &limits)];
    let mut builder = BlockBuilder::new(thread.pool.cursors().ids(), 0);
    for position in 1..=5 {
        builder.push(&event(position), &types);
    }
    let block = builder.finish(5);
    let bytes = block.extent(1).start..block.extent(3).end;
    let run = Run {
        events: 1..4,
        bytes: bytes.clone(),
    };
    let pieces = pieces_of(&block, &run);
    let due = Due::new(&block.bytes()[bytes], &pieces, Coding::Identity);
    for taken in 0..=due.bytes.len() {
        let [whole, cut] = [0, 1].map(|slot| {
            let stream = &mut thread.streams[slot];
            stream.cursor = 1;
            stream.told = 1;
            stream.events_sent = 0;
            stream.whole = Position::MAX;
            stream.unsent = Unsent::default();
            if slot == 0 {
                stream.note_cut(&due, taken);
            } else {
                stream.note_cut_run(&block, &run, taken);
            }
            let unsent = format!("{:?}", stream.unsent);
            (
                stream.cursor,
                stream.told,
                stream.events_sent,
                stream.whole,
                unsent,
            )
        });
        assert_eq!(whole, cut, "cut at {taken}");
    }
}

/// As many threads as there are cores: each has its share of the streams, and gives each of them everything in order.
#[tokio::test]
async fn several_threads_share_the_streams_and_lose_none_of_their_events() {
    const THREADS: usize = 3;
    const EACH: usize = 10;
    let (thread, _folder) = engine();
    let limits = no_limits();
    let types = Arc::new(TypeTable::default());
    let log_folder = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions::new(log_folder.path()), Box::new(NoListener)).unwrap();
    let cursors = Arc::new(Cursors::of_log(&log));
    let window = Arc::new(Window::new(1 << 20));
    // Nothing comes between the events, however long this takes.
    let options = EngineOptions {
        heartbeat: Duration::from_hours(1),
        ..options(THREADS)
    };
    let engines = Engines::start(&options, &log, &cursors, &window, &types).unwrap();
    let mut clients = Vec::new();
    for _ in 0..THREADS * EACH {
        let (stream, client) = authorised(&thread, &limits);
        engines.open(stream).await;
        clients.push(client);
    }
    let listed = engines.list(&StreamFilter::default(), None, 1000).await;
    assert_eq!(listed.len(), THREADS * EACH);
    let mut expected = Vec::new();
    for position in 1..=EVENTS {
        let block = block(&thread, position, &types);
        expected.extend_from_slice(block.bytes());
        window.push(block);
        engines.tail_moved();
    }
    for client in &mut clients {
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == expected);
    }
    engines.close_all();
    engines.stop(Instant::now() + Duration::from_secs(30));
    // What a thread counts it tells when it rests, at the latest at its end.
    let shares: Vec<_> = engines.counters().map(|one| one.deliveries.get()).collect();
    assert_eq!(shares, [EACH as u64 * EVENTS; THREADS]);
}

/// A heartbeat once took memory for its words, and gave it back, for each stream.
#[test]
fn heartbeats_allocate_nothing() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let clients: Vec<TcpStream> = (0..STREAMS).map(|_| open(&mut thread, &limits)).collect();
    let interval = |thread: &mut Thread| {
        let before = thread.mailbox.counters.heartbeats.get();
        let ticks = ticks(thread.options.heartbeat);
        let counted = allocation_counter::measure(|| {
            for _ in 0..ticks {
                thread.now += 1;
                thread.work_off_wheel();
            }
        });
        let beats = thread.mailbox.counters.heartbeats.get() - before;
        (beats, counted.count_total)
    };
    let drain = || {
        for mut client in &clients {
            client.set_nonblocking(true).unwrap();
            while client.read(&mut [0; 4096]).is_ok() {}
            client.set_nonblocking(false).unwrap();
        }
    };
    // Streams begin anywhere in the interval, and each place of the wheel grows when it is first used: 256 of its 512
    // are, since it has as many steps of an interval before it is where it was.
    for _ in 0..300 {
        thread.position += 1;
        interval(&mut thread);
        drain();
    }
    let mut expect = |words: &[u8]| {
        assert_eq!(interval(&mut thread), (STREAMS as u64, 0));
        for mut client in &clients {
            let mut received = vec![0; words.len()];
            client.read_exact(&mut received).unwrap();
            assert_eq!(
                received.escape_ascii().to_string(),
                words.escape_ascii().to_string()
            );
        }
        thread.position += 1;
        let mut cursor = Vec::new();
        crate::stream::preamble::write_cursor(
            &mut cursor,
            &thread.pool.cursors().text(thread.position),
        );
        cursor
    };
    // A comment where nothing has moved, then the places that others' events have moved to.
    let cursor = expect(tidings_protocol::sse::HEARTBEAT);
    let cursor = expect(&cursor);
    expect(&cursor);
}

/// What one event costs on its way from the window to every socket. `scripts/test` counts the
/// instructions of `follow` while this runs, so the numbers of streams and events are fixed.
#[test]
fn the_hot_path_delivers_every_event_to_every_stream() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let clients: Vec<TcpStream> = (0..STREAMS).map(|_| open(&mut thread, &limits)).collect();
    let types = TypeTable::default();
    let mut expected = Vec::new();
    for position in 1..=EVENTS {
        let block = block(&thread, position, &types);
        expected.extend_from_slice(block.bytes());
        thread.window.push(block);
        thread.follow();
    }
    for mut client in clients {
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == expected);
    }
}

/// Everything that came over a stream that has ended.
fn received(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

/// When a stream was told to come back, in milliseconds.
fn retry_in(text: &str) -> u64 {
    let (_, rest) = text.split_once("\"retry\":").expect("a closing event");
    rest[..rest.find(',').unwrap()].parse().unwrap()
}

#[test]
fn a_drain_closes_as_many_in_each_tick_and_serves_the_others_on() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let types = TypeTable::default();
    let clients = crowd(&mut thread, &limits, 300);
    let (underway, ended) = tokio::sync::mpsc::channel(1);
    thread.begin_drain(Duration::from_secs(3), underway);
    let open = |thread: &Thread| {
        let streams = thread.streams.iter();
        streams
            .filter(|(_, stream)| !matches!(stream.stage, Stage::Closing(_)))
            .count()
    };
    for tick in 1..=30 {
        thread.drain_on();
        thread.drain_on();
        assert_eq!(open(&thread), 300 - 10 * tick, "after {tick} ticks");
        if tick == 15 {
            let due = block(&thread, 1, &types);
            thread.window.push(due);
            thread.follow();
        }
        thread.now += 1;
    }
    assert!(!ended.is_closed(), "another could still be on its way");
    thread.drain_on();
    assert!(ended.is_closed());
    let texts: Vec<String> = clients.into_iter().map(received).collect();
    let given = texts.iter().filter(|text| text.contains("device_status"));
    assert_eq!(given.count(), 150);
    let retries: std::collections::BTreeSet<u64> =
        texts.iter().map(|text| retry_in(text)).collect();
    assert!(retries.len() > 250, "{} different times", retries.len());
    assert!(retries.iter().all(|retry| (1_500..=2_500).contains(retry)));
}

/// Where the last stream was gone before the drain's last tick, its thread waited for something to happen, and the
/// server for its thread: it never ended.
#[test]
fn a_drain_goes_on_to_its_end_though_no_stream_is_left() {
    let (mut thread, _folder) = engine();
    assert_eq!(thread.patience(), None);
    let (underway, ended) = tokio::sync::mpsc::channel(1);
    thread.begin_drain(Duration::from_secs(3), underway);
    assert_eq!(thread.patience(), Some(TICK));
    thread.now += 30;
    thread.drain_on();
    assert!(ended.is_closed());
    assert_eq!(thread.patience(), None);
}

#[test]
fn what_is_left_of_a_drain_that_is_cut_short_is_waited_for_by_the_clients() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let clients = crowd(&mut thread, &limits, 200);
    let (underway, ended) = tokio::sync::mpsc::channel(1);
    thread.begin_drain(Duration::from_secs(20), underway);
    let command = Command::CloseAll(ClosingReason::Draining);
    thread.mailbox.command(command);
    thread.read_mail();
    assert!(ended.is_closed());
    let retries: Vec<u64> = clients
        .into_iter()
        .map(|client| retry_in(&received(client)))
        .collect();
    assert!(retries.iter().all(|retry| (1_500..=22_500).contains(retry)));
    let late = retries.iter().filter(|&&retry| retry > 12_000).count();
    assert!(
        (80..=120).contains(&late),
        "{late} of 200 in the later half"
    );
}

fn ask_list(
    thread: &mut Thread,
    filter: StreamFilter,
    after: Option<ConnectionId>,
    limit: usize,
) -> tokio::sync::oneshot::Receiver<Vec<StreamRecord>> {
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = Arc::new(permits.try_acquire_owned().unwrap());
    let (inquiry, answer) = Inquiry::list(filter, after, limit, permit);
    thread.inquiries.push_back(inquiry);
    answer
}

/// More streams than one slice takes, with names in no order.
fn crowd(thread: &mut Thread, limits: &Limits, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| open(thread, limits)).collect()
}

fn no_limits() -> Limits {
    let config = crate::config::load(&crate::config::Sources::default());
    Limits::new(&config.unwrap().config)
}

#[test]
fn a_listing_goes_in_slices_and_its_pages_are_all_streams_once() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let _clients = crowd(&mut thread, &limits, 700);
    let mut answer = ask_list(&mut thread, StreamFilter::default(), None, 700);
    thread.work_off_inquiries();
    assert!(answer.try_recv().is_err(), "one slice is not all");
    while !thread.inquiries.is_empty() {
        thread.work_off_inquiries();
    }
    let all: Vec<ConnectionId> = answer
        .try_recv()
        .unwrap()
        .iter()
        .map(|record| record.connection)
        .collect();
    assert_eq!(all.len(), 700);
    assert!(all.is_sorted());
    let mut paged = Vec::new();
    loop {
        let filter = StreamFilter::default();
        let mut answer = ask_list(&mut thread, filter, paged.last().copied(), 99);
        while !thread.inquiries.is_empty() {
            thread.work_off_inquiries();
        }
        let page = answer.try_recv().unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.iter().map(|record| record.connection));
    }
    assert_eq!(paged, all);
}

#[test]
fn closing_goes_in_slices_and_meets_every_stream_that_was_there() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let clients = crowd(&mut thread, &limits, 150);
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = Arc::new(permits.try_acquire_owned().unwrap());
    let filter = StreamFilter {
        user: Some("u".into()),
        ..StreamFilter::default()
    };
    let (inquiry, mut answer) = Inquiry::close(filter, ClosingReason::Disconnected, permit);
    thread.inquiries.push_back(inquiry);
    thread.work_off_inquiries();
    assert!(answer.try_recv().is_err(), "one slice is not all");
    while !thread.inquiries.is_empty() {
        thread.work_off_inquiries();
    }
    assert_eq!(answer.try_recv(), Ok(150));
    for mut client in clients {
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        assert!(
            received.contains("\"reason\":\"disconnected\""),
            "{received}"
        );
    }
}

#[test]
fn a_listing_that_nobody_waits_for_is_given_up() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let _clients = crowd(&mut thread, &limits, 700);
    drop(ask_list(&mut thread, StreamFilter::default(), None, 700));
    thread.work_off_inquiries();
    assert!(thread.inquiries.is_empty());
}

/// Ten thousand streams that came back at once were all taken over, and given what they had missed,
/// before the tail was looked at again: others' events were late by as long as that took.
#[test]
fn a_crowd_is_taken_over_in_slices_and_what_was_said_behind_it_holds_for_all() {
    let (mut thread, _folder) = engine();
    let limits = no_limits();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let (stream, client) = authorised(&thread, &limits);
        thread.mailbox.open(stream).unwrap();
        clients.push(client);
    }
    let command = Command::CloseAll(ClosingReason::Draining);
    thread.mailbox.command(command);
    thread.read_mail();
    assert!(
        (1..200).contains(&thread.streams.len()),
        "one slice is not all"
    );
    assert!(thread.closing.is_none(), "the others would not hear of it");
    assert_eq!(
        thread.patience(),
        Some(Duration::ZERO),
        "it comes again by itself"
    );
    while thread.more_mail {
        thread.read_mail();
    }
    for mut client in clients {
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        assert!(received.contains("\"reason\":\"draining\""), "{received}");
    }
}
