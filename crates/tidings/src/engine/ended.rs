//! The streams that have ended lately, so that an operator can be told who was shown an event.
//!
//! Kept for a day, up to a number of streams and of bytes; the oldest go first, and how far back the
//! record is complete is known.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tidings_protocol::{DeviceId, Position};

use super::ticket::ConnectionId;
use crate::fanout::{Conflation, Rules};
use crate::time::unix_microseconds;

/// How long a stream is remembered.
const KEPT_FOR: Duration = Duration::from_hours(24);

/// How many bytes the record may take.
const CAPACITY: usize = 64 * 1024 * 1024;

/// A stream that has ended. Times are in microseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct EndedStream {
    /// Its name.
    pub connection: ConnectionId,
    /// What bounded its view, and whose it was.
    pub rules: Rules,
    /// The address that its connection came from.
    pub address: IpAddr,
    /// When it was opened.
    pub opened_at: i64,
    /// When it ended.
    pub closed_at: i64,
    /// Why, as the log has it.
    pub because: &'static str,
    /// It began after this position.
    pub after: Position,
    /// It was given everything of its view up to here.
    pub given: Position,
    /// What it did without while it lagged, if it did.
    pub conflated: Option<Arc<Conflation>>,
}

/// The record. Engine threads add to it, handlers read it, each under one short lock.
#[derive(Debug)]
pub struct EndedStreams {
    /// How many streams are kept at most.
    most: usize,
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// In the order in which they ended.
    streams: VecDeque<EndedStream>,
    bytes: usize,
    /// How many records share each list of a group's members, by its address: the lists of groups that
    /// were changed since are kept alive by the records alone, and count once.
    groups: HashMap<usize, usize>,
    /// Streams that ended up to here may be missing.
    complete_since: i64,
}

impl EndedStreams {
    /// An empty record of at most `most` streams, complete from now on.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self::with_capacity(most, CAPACITY)
    }

    fn with_capacity(most: usize, capacity: usize) -> Self {
        Self {
            most,
            capacity,
            kept: Mutex::new(Kept {
                streams: VecDeque::new(),
                bytes: 0,
                groups: HashMap::new(),
                complete_since: unix_microseconds(SystemTime::now()),
            }),
        }
    }

    /// Remembers a stream.
    pub fn add(&self, stream: EndedStream) {
        let mut kept = self.kept.lock();
        kept.expire(stream.closed_at);
        kept.charge(&stream);
        kept.streams.push_back(stream);
        while kept.streams.len() > self.most || kept.bytes > self.capacity {
            kept.forget_oldest();
        }
    }

    /// The streams of which `meant` is true, in the order in which they ended, and the time, in microseconds
    /// since the Unix epoch, up to which streams that ended may be missing.
    #[must_use]
    pub fn find(&self, meant: impl Fn(&EndedStream) -> bool) -> (Vec<EndedStream>, i64) {
        let mut kept = self.kept.lock();
        kept.expire(unix_microseconds(SystemTime::now()));
        let found = kept.streams.iter().filter(|stream| meant(stream));
        (found.cloned().collect(), kept.complete_since)
    }
}

impl Kept {
    /// Lets go of what ended more than a day before `now`.
    fn expire(&mut self, now: i64) {
        let age = i64::try_from(KEPT_FOR.as_micros()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age);
        while self
            .streams
            .front()
            .is_some_and(|stream| stream.closed_at < oldest)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(stream) = self.streams.pop_front() {
            self.complete_since = self.complete_since.max(stream.closed_at);
            self.discharge(&stream);
        }
    }

    fn charge(&mut self, stream: &EndedStream) {
        self.bytes += weight(stream);
        if let Some(group) = stream.rules.group_members() {
            let holders = self.groups.entry(address(group)).or_default();
            *holders += 1;
            if *holders == 1 {
                self.bytes += group_weight(group);
            }
        }
    }

    fn discharge(&mut self, stream: &EndedStream) {
        self.bytes -= weight(stream);
        if let Some(group) = stream.rules.group_members()
            && let Some(holders) = self.groups.get_mut(&address(group))
        {
            *holders -= 1;
            if *holders == 0 {
                self.groups.remove(&address(group));
                self.bytes -= group_weight(group);
            }
        }
    }
}

fn weight(stream: &EndedStream) -> usize {
    size_of::<EndedStream>() + stream.rules.weight()
}

/// Tells lists from each other for as long as records hold them.
fn address(group: &Arc<[DeviceId]>) -> usize {
    group.as_ptr().addr()
}

fn group_weight(group: &Arc<[DeviceId]>) -> usize {
    // A device is two words here, two for its counts, and its text.
    group.iter().map(|device| 32 + device.as_str().len()).sum()
}

#[cfg(test)]
mod tests {
    use tidings_protocol::TenantId;

    use super::*;
    use crate::auth::Identity;
    use crate::fanout::ViewRequest;

    const HOUR: i64 = 3_600_000_000;

    fn ended(closed_at: i64, group: Option<&Arc<[DeviceId]>>) -> EndedStream {
        let identity = Identity {
            user: "u".into(),
            tenant: Some(TenantId::from_bytes([1; 16])),
            role: "viewer".into(),
            super_admin: false,
            expires_at: 0,
            issued_at: None,
            token_id: None,
            devices: None,
            types: None,
            device_group: group.map(|_| "core".into()),
        };
        EndedStream {
            connection: ConnectionId::random(),
            rules: Rules::new(
                Arc::new(identity),
                Some(TenantId::from_bytes([1; 16])),
                group.cloned(),
                ViewRequest::default(),
            ),
            address: IpAddr::from([127, 0, 0, 1]),
            opened_at: 0,
            closed_at,
            because: "client_left",
            after: 0,
            given: 0,
            conflated: None,
        }
    }

    fn now() -> i64 {
        unix_microseconds(SystemTime::now())
    }

    fn group(count: usize) -> Arc<[DeviceId]> {
        let names = (0..count).map(|number| format!("device-{number}"));
        names.map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_oldest_go_first_and_are_known_to_be_missing() {
        let start = now();
        let streams = EndedStreams::new(2);
        let (none, complete_since) = streams.find(|_| true);
        assert!(none.is_empty() && complete_since >= start);
        for place in 1..=3 {
            streams.add(ended(complete_since + place, None));
        }
        let (found, since) = streams.find(|_| true);
        let times: Vec<i64> = found.iter().map(|stream| stream.closed_at).collect();
        assert_eq!(times, [complete_since + 2, complete_since + 3]);
        assert_eq!(since, complete_since + 1);
    }

    #[test]
    fn a_day_later_nothing_is_left() {
        let streams = EndedStreams::new(10);
        streams.add(ended(now() - 25 * HOUR, None));
        streams.add(ended(now() - 23 * HOUR, None));
        let (found, _) = streams.find(|_| true);
        assert_eq!(found.len(), 1);
        streams.add(ended(now() + 2 * HOUR, None));
        assert_eq!(streams.kept.lock().streams.len(), 1);
    }

    #[test]
    fn a_list_of_members_counts_once_and_as_long_as_it_is_held() {
        let members = group(1000);
        let heavy = group_weight(&members);
        let one = weight(&ended(0, Some(&members)));
        let streams = EndedStreams::with_capacity(10, heavy + 3 * one);
        let time = now();
        for _ in 0..3 {
            streams.add(ended(time, Some(&members)));
        }
        assert_eq!(streams.kept.lock().bytes, heavy + 3 * one);
        // The members of a group that has changed since don't fit beside it.
        let other = group(1000);
        streams.add(ended(time, Some(&other)));
        let kept = streams.kept.lock();
        assert_eq!((kept.streams.len(), kept.bytes), (1, heavy + one));
        assert_eq!(kept.groups.len(), 1);
    }

    #[test]
    fn none_are_kept_where_none_are_wanted() {
        let streams = EndedStreams::new(0);
        streams.add(ended(now(), None));
        let kept = streams.kept.lock();
        assert_eq!((kept.streams.len(), kept.bytes), (0, 0));
    }
}
