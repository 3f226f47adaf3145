//! The loop: accept, read, store, fan out.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tidings_protocol::{Cursor, Position, sse};

use crate::Options;
use crate::journal::Journal;
use crate::request;
use crate::room::{EPOCH, Room};

const LISTENER: u64 = u64::MAX;
/// Heartbeats are spread over this many slices of the interval.
const HEARTBEAT_SLICES: u32 = 100;

struct Connection {
    socket: OwnedFd,
    role: Role,
}

enum Role {
    /// Sends requests; the bytes of one that is not complete yet.
    Requests(Vec<u8>),
    /// Is sent the events of a room.
    Stream {
        room: usize,
        /// Its place among the room's streams.
        place: usize,
        /// The offset of the first byte that it has not been sent.
        sent: u64,
        /// The socket would have blocked; the system says when it takes more.
        blocked: bool,
    },
}

/// A body that waits for the group's sync.
struct Waiting {
    connection: usize,
    room: usize,
    body: std::ops::Range<usize>,
}

/// The server; everything belongs to its one thread.
pub(crate) struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    rooms: Vec<Room>,
    room_of_tenant: HashMap<String, usize>,
    dirty: Vec<usize>,
    tail: Position,
    journal: Option<Journal>,
    /// Bodies of this turn, one behind the other, and whose they are.
    group: Vec<u8>,
    waiting: Vec<Waiting>,
    window_bytes: usize,
    heartbeat: Option<Duration>,
    opened: u64,
    input: Vec<u8>,
}

impl Server {
    pub(crate) fn start(options: &Options) -> Result<Self> {
        let journal = options.sync.as_deref().map(Journal::create).transpose()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&listener, true)?;
        net::bind(&listener, &options.listen).context("binding")?;
        net::listen(&listener, 4096)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        let address = std::net::SocketAddr::try_from(net::getsockname(&listener)?)?;
        println!("listening on {address}");
        Ok(Self {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            rooms: Vec::new(),
            room_of_tenant: HashMap::new(),
            dirty: Vec::new(),
            tail: 0,
            journal,
            group: Vec::new(),
            waiting: Vec::new(),
            window_bytes: options.window_bytes,
            heartbeat: options.heartbeat,
            opened: 0,
            input: vec![0; 256 << 10],
        })
    }

    /// Serves until the process is ended.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(1024);
        let slice = self.heartbeat.map(|interval| interval / HEARTBEAT_SLICES);
        let mut next_slice = slice.map(|slice| Instant::now() + slice);
        let mut slice_number = 0;
        loop {
            let timeout = next_slice.map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let (data, flags) = (event.data.u64(), event.flags);
                if data == LISTENER {
                    self.accept()?;
                } else if let Ok(index) = usize::try_from(data) {
                    self.ready(index, flags)?;
                }
            }
            if !self.waiting.is_empty() {
                self.store()?;
                self.fan_out();
            }
            if let (Some(at), Some(slice)) = (next_slice.as_mut(), slice)
                && *at <= Instant::now()
            {
                self.beat(&mut slice_number);
                *at += slice;
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error).context("accepting"),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            let role = Role::Requests(Vec::new());
            self.connections[index] = Some(Connection { socket, role });
        }
    }

    fn ready(&mut self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        let Some(connection) = self.connections[index].as_mut() else {
            return Ok(());
        };
        if flags.contains(epoll::EventFlags::OUT) {
            if let Role::Stream { blocked, .. } = &mut connection.role {
                *blocked = false;
            }
            self.watch(index, false)?;
            if !self.send_rest(index) {
                self.close(index);
                return Ok(());
            }
        }
        let wants_read = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(wants_read) && !self.read(index).unwrap_or(false) {
            self.close(index);
        }
        Ok(())
    }

    /// Reads what is there; false at the end of the connection.
    fn read(&mut self, index: usize) -> Result<bool> {
        let Some(connection) = self.connections[index].as_mut() else {
            return Ok(true);
        };
        let length = match net::recv(&connection.socket, &mut self.input[..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(false),
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let Role::Requests(buffer) = &mut connection.role else {
            return Ok(true);
        };
        buffer.extend_from_slice(&self.input[..length]);
        self.take_requests(index)
    }

    fn take_requests(&mut self, index: usize) -> Result<bool> {
        let Some(connection) = self.connections[index].as_mut() else {
            return Ok(true);
        };
        let Role::Requests(buffer) = &mut connection.role else {
            return Ok(true);
        };
        let buffer = std::mem::take(buffer);
        let mut rest = &buffer[..];
        while let Some(request) = request::parse(rest)? {
            let path = request
                .path
                .strip_prefix("/tenants/")
                .and_then(|path| path.split_once('/'));
            match (request.method, path) {
                ("GET", Some((tenant, "events/stream"))) => {
                    let after = request.last_event_id.and_then(|text| text.parse().ok());
                    let room = self.room(tenant);
                    return self.open(index, room, after);
                }
                ("POST", Some((tenant, "events"))) => {
                    let start = self.group.len();
                    self.group.extend_from_slice(request.body);
                    let body = start..self.group.len();
                    let room = self.room(tenant);
                    self.waiting.push(Waiting {
                        connection: index,
                        room,
                        body,
                    });
                }
                _ => bail!("no such call"),
            }
            rest = &rest[request.length..];
        }
        let rest = rest.to_vec();
        if let Some(Connection {
            role: Role::Requests(buffer),
            ..
        }) = &mut self.connections[index]
        {
            *buffer = rest;
        }
        Ok(true)
    }

    fn room(&mut self, tenant: &str) -> usize {
        if let Some(&room) = self.room_of_tenant.get(tenant) {
            return room;
        }
        self.rooms.push(Room::default());
        self.room_of_tenant
            .insert(tenant.to_owned(), self.rooms.len() - 1);
        self.rooms.len() - 1
    }

    /// Makes a stream of the connection: its head, then what it missed.
    fn open(&mut self, index: usize, room: usize, after: Option<Cursor>) -> Result<bool> {
        self.opened += 1;
        let id = format!("sse-{:012x}", self.opened);
        let position = after.map_or(self.tail, |cursor| cursor.position);
        let mut head = Vec::with_capacity(512);
        write!(
            head,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
             Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n\
             X-Connection-Id: {id}\r\nConnection: close\r\n\r\nretry: 2000\n: connected {id}\n"
        )?;
        let cursor = Cursor {
            epoch: EPOCH,
            position,
        };
        sse::write_event(&mut head, cursor, "cursor", b"{}");
        let Some(connection) = self.connections[index].as_mut() else {
            return Ok(true);
        };
        if net::send(&connection.socket, &head, SendFlags::NOSIGNAL)? != head.len() {
            bail!("a fresh socket did not take the head");
        }
        let members = &mut self.rooms[room];
        connection.role = Role::Stream {
            room,
            place: members.streams.len(),
            sent: after.map_or(members.end(), |cursor| {
                members.offset_after(cursor.position)
            }),
            blocked: false,
        };
        members.streams.push(index);
        Ok(self.send_rest(index))
    }

    /// Makes the bodies of this turn durable with one sync, turns them into events and answers.
    fn store(&mut self) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.append(&self.group)?;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            let first = self.tail + 1;
            let room = &mut self.rooms[waiting.room];
            if !room.dirty {
                self.dirty.push(waiting.room);
            }
            let accepted = room.publish(&self.group[waiting.body], &mut self.tail)?;
            let body = format!(
                "{{\"accepted\":{accepted},\"duplicates\":0,\"first\":\"{EPOCH}.{first}\",\"last\":\"{EPOCH}.{}\"}}",
                self.tail
            );
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if let Some(connection) = &self.connections[waiting.connection] {
                // A publisher that has gone is noticed when its socket is read.
                let _ = net::send(&connection.socket, answer.as_bytes(), SendFlags::NOSIGNAL);
            }
        }
        self.group.clear();
        Ok(())
    }

    /// Sends every stream of a room with new events all that it has not had, in one call.
    fn fan_out(&mut self) {
        for room in std::mem::take(&mut self.dirty) {
            self.rooms[room].dirty = false;
            let mut place = 0;
            while let Some(&index) = self.rooms[room].streams.get(place) {
                if self.send_rest(index) {
                    place += 1;
                } else {
                    // Closing puts the room's last stream in this place.
                    self.close(index);
                }
            }
            self.rooms[room].trim(self.window_bytes);
        }
    }

    /// Sends what a stream has not had; false when the stream is over.
    fn send_rest(&mut self, index: usize) -> bool {
        let Some(Connection { socket, role }) = &mut self.connections[index] else {
            return true;
        };
        let Role::Stream {
            room,
            sent,
            blocked,
            ..
        } = role
        else {
            return true;
        };
        if *blocked {
            return true;
        }
        let Some(rest) = self.rooms[*room].after(*sent) else {
            return false;
        };
        if rest.is_empty() {
            return true;
        }
        match net::send(&*socket, rest, SendFlags::NOSIGNAL) {
            Ok(length) => {
                *sent += length as u64;
                *blocked = length < rest.len();
            }
            Err(Errno::AGAIN) => *blocked = true,
            Err(_) => return false,
        }
        !*blocked || self.watch(index, true).is_ok()
    }

    /// Asks the system to say, or not to say, when the socket takes more.
    fn watch(&self, index: usize, writable: bool) -> Result<()> {
        let Some(connection) = &self.connections[index] else {
            return Ok(());
        };
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, writable);
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(&self.epoll, &connection.socket, data, flags)?;
        Ok(())
    }

    /// Sends a slice of the streams a heartbeat.
    fn beat(&mut self, slice: &mut usize) {
        let (all, slices) = (self.connections.len(), HEARTBEAT_SLICES as usize);
        for connection in &self.connections[all * *slice / slices..all * (*slice + 1) / slices] {
            if let Some(Connection {
                socket,
                role: Role::Stream { blocked: false, .. },
            }) = connection
            {
                // A stream that has gone is noticed when its socket is read.
                let _ = net::send(socket, sse::HEARTBEAT, SendFlags::NOSIGNAL);
            }
        }
        *slice = (*slice + 1) % slices;
    }

    fn close(&mut self, index: usize) {
        let Some(connection) = self.connections[index].take() else {
            return;
        };
        self.free.push(index);
        let Role::Stream { room, place, .. } = connection.role else {
            return;
        };
        let streams = &mut self.rooms[room].streams;
        streams.swap_remove(place);
        if let Some(&moved) = streams.get(place)
            && let Some(Connection {
                role: Role::Stream { place: at, .. },
                ..
            }) = &mut self.connections[moved]
        {
            *at = place;
        }
    }
}
