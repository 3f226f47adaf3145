//! The engine thread: its state and its loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Poll};
use slab::Slab;
use tidings_log::Scope;
use tidings_protocol::Position;
use tidings_protocol::api::ClosingReason;

use super::EngineOptions;
use super::catch_up::CatchUpPool;
use super::census::Inquiries;
use super::coding::Coder;
use super::counters::{Survey, Tally};
use super::deliver::Scratch;
use super::drain::{Drain, Evenly};
use super::ended::EndedStreams;
use super::index::{GroupId, Index};
use super::lifecycle::End;
use super::mailbox::{Command, Mailbox, WAKER};
use super::pull::{Chunks, CodedReading};
use super::stream::Stream;
use super::wheel::{TICK, Tick, Wheel};
use crate::fanout::{Block, Stale, Window};

/// How many socket events one look at the poll brings.
const EVENTS: usize = 1024;

/// The tick at which a thread starts.
const START: Tick = 1 << 32;

/// What one engine thread owns.
pub(super) struct Thread {
    pub(super) options: EngineOptions,
    pub(super) poll: Poll,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) window: Arc<Window>,
    pub(super) pool: Arc<CatchUpPool>,
    /// Shared by all engines; told of every end.
    pub(super) ended: Arc<EndedStreams>,
    pub(super) streams: Slab<Stream>,
    pub(super) index: Index,
    pub(super) wheel: Wheel,
    /// Live streams have been given everything up to here.
    pub(super) position: Position,
    /// Streams that have more to read, each waiting for its turn.
    pub(super) turns: VecDeque<u32>,
    /// The streams that the pool reads for, by scope. A scope with an entry has a request under way.
    pub(super) waiting: HashMap<Scope, Vec<u32>>,
    pub(super) chunks: Chunks,
    /// What operators have asked and is not answered yet.
    pub(super) inquiries: Inquiries,
    /// Why what is shown may be old, if it may: the data of a `stale` event.
    pub(super) stale: Option<String>,
    /// Every stream is to end for this reason.
    pub(super) closing: Option<ClosingReason>,
    /// The streams leave, a few in each tick.
    pub(super) drain: Option<Drain>,
    /// What streams that leave are told beyond the usual time to come back.
    pub(super) retry_spread: Duration,
    pub(super) retries: Evenly,
    pub(super) now: Tick,
    /// The mailbox held more than was taken.
    more_mail: bool,
    started: Instant,
    stop: Option<Instant>,
    pub(super) tally: Tally,
    pub(super) survey: Survey,
    /// Kept from one wake-up to the next, so that a delivery allocates nothing.
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) touched: Vec<GroupId>,
    pub(super) scratch: Scratch,
    pub(super) coder: Coder,
    pub(super) coded_reading: Option<CodedReading>,
    pub(super) read_buffer: Box<[u8]>,
}

impl Thread {
    pub(super) fn new(
        options: EngineOptions,
        poll: Poll,
        mailbox: Arc<Mailbox>,
        window: Arc<Window>,
        pool: Arc<CatchUpPool>,
        ended: Arc<EndedStreams>,
        retries: Evenly,
    ) -> Self {
        let position = window.tail();
        Self {
            options,
            poll,
            mailbox,
            window,
            pool,
            ended,
            streams: Slab::new(),
            index: Index::default(),
            wheel: Wheel::new(START),
            position,
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            chunks: Chunks::default(),
            inquiries: Inquiries::new(),
            stale: None,
            closing: None,
            drain: None,
            retry_spread: Duration::ZERO,
            retries,
            now: START,
            started: Instant::now(),
            stop: None,
            more_mail: false,
            tally: Tally::default(),
            survey: Survey::default(),
            blocks: Vec::new(),
            touched: Vec::new(),
            scratch: Scratch::default(),
            coder: Coder::default(),
            coded_reading: None,
            read_buffer: vec![0; 16 * 1024].into_boxed_slice(),
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        self.work();
        self.mailbox.end();
    }

    fn work(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let patience = self.patience();
            self.mailbox.sleeps(patience.is_none());
            let polled = self.poll.poll(&mut events, patience);
            self.mailbox.has_woken();
            if let Err(error) = polled
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "an engine thread can't poll its sockets");
                return;
            }
            self.now = self.ticks_since_start();
            self.read_mail();
            for event in &events {
                if event.token() != WAKER {
                    self.socket_ready(event.token().0, event.is_readable(), event.is_writable());
                }
            }
            self.follow();
            self.take_turns();
            self.work_off_inquiries();
            self.drain_on();
            self.work_off_wheel();
            self.mailbox.set_stream_count(self.streams.len());
            self.publish_counts();
            if self.is_done() {
                return;
            }
        }
    }

    /// How long there is nothing to do unless something happens.
    fn patience(&self) -> Option<Duration> {
        let busy = self.more_mail
            || !self.turns.is_empty()
            || !self.inquiries.is_empty()
            || self.drain.as_ref().is_some_and(|drain| drain.is_behind);
        if busy || self.position < self.window.tail() {
            Some(Duration::ZERO)
        } else if self.streams.is_empty() && self.stop.is_none() && self.drain.is_none() {
            None
        } else {
            Some(TICK)
        }
    }

    fn read_mail(&mut self) {
        let mail = self.mailbox.take();
        self.more_mail = mail.more;
        if !mail.opens.is_empty() || !mail.commands.is_empty() {
            // A stream begins at a tail that this thread may not have handed out yet; and what was
            // acknowledged before the streams are closed, or hear that the log is full, comes first.
            while self.position < self.window.tail() {
                self.follow();
            }
        }
        for stream in mail.opens {
            self.open(stream);
        }
        for caught in mail.caught {
            self.caught(caught);
        }
        for slot in mail.ready {
            self.socket_ready(slot, true, true);
        }
        self.inquiries.extend(mail.inquiries);
        for command in mail.commands {
            match command {
                Command::CloseAll(reason) => {
                    self.cut_drain_short();
                    self.close_all(reason);
                }
                Command::Drain { over, underway } => self.begin_drain(over, underway),
                Command::Liveness(stale) => self.liveness_changed(stale.as_ref()),
                Command::Stop { deadline } => self.stop = Some(deadline),
            }
        }
    }

    fn liveness_changed(&mut self, stale: Option<&Stale>) {
        self.stale = stale.map(|Stale { since, reason }| {
            let since = crate::time::rfc3339(*since);
            serde_json::json!({ "since": since, "reason": reason }).to_string()
        });
        let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.tell_liveness(slot);
        }
    }

    fn is_done(&mut self) -> bool {
        let Some(deadline) = self.stop else {
            return false;
        };
        if Instant::now() >= deadline {
            let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                self.remove(slot, End::ServerStopped);
            }
        }
        self.streams.is_empty()
    }

    /// Ticks begin well above zero, so that a stream's last write can lie before the start.
    fn ticks_since_start(&self) -> Tick {
        START + ticks(self.started.elapsed())
    }

    /// The tick of a time of day, in seconds since the Unix epoch, rounded up to the next tick.
    pub(super) fn tick_of(&self, unix_seconds: i64) -> Tick {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let due = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
        self.ticks_since_start() + ticks(due.saturating_sub(now)) + 1
    }
}

/// A duration in whole ticks.
pub(super) fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(Tick::MAX / 2)
}

#[cfg(test)]
mod tests {
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
        Coding, ConnectionId, OpenStream, Recheck, StreamFilter, StreamRecord, StreamSink, Ticket,
    };
    use crate::fanout::block::Run;
    use crate::fanout::{BlockBuilder, Rules, TypeTable, View, ViewRequest};
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

    /// An engine thread that the test drives itself, and the folder of its (empty) log.
    fn engine() -> (Thread, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::new(folder.path()), Box::new(NoListener)).unwrap();
        let types = Arc::new(TypeTable::default());
        let cursors = Arc::new(Cursors::of_log(&log));
        let pool = Arc::new(CatchUpPool::start(&log, &cursors, &types).unwrap());
        let (mailbox, poll) = Mailbox::new().unwrap();
        let options = EngineOptions {
            threads: 1,
            heartbeat: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            send_buffer: 64 * 1024,
            ended_streams: 100,
        };
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
}
