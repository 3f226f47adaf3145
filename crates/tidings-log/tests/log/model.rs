//! The log against a simple model, over random histories with crashes in them.
//!
//! The model knows of every body what the log answered. A body that was cut off by a fault may be
//! there after the restart or not, but whole, and from then on for good. Everything else is exact:
//! what is read, in which order, what has expired, and what a reader of any scope is told of it.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use proptest::prelude::*;
use tidings_log::{
    AppendError, Appended, Expired, IdempotencyKey, NewEvent, ReadEnd, ReadLimit, Resume, Scope,
    TenantOptions,
};
use tidings_protocol::{Position, TenantId};

use crate::support::{Bench, Heard, Read, SECOND, event, tenant};

const TENANTS: u8 = 3;
const RETENTION: i64 = 600 * SECOND;
const KEY_WINDOW: i64 = 120 * SECOND;
const TENANT_CAP: u64 = 24_000;
/// Of each tenant where they differ: less than of all, as of all, and more.
const RETENTIONS: [Option<i64>; TENANTS as usize] =
    [Some(200 * SECOND), None, Some(1_500 * SECOND)];

fn micros(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

#[derive(Clone, Debug)]
struct BodyPlan {
    tenant: u8,
    /// Size, key and, for a key, which of two contents.
    events: Vec<(usize, Option<(u8, bool)>)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Bodies that are submitted together, so that they share commits.
    Append(Vec<BodyPlan>),
    Pass(i64),
    Upkeep,
    Restart,
    Kill,
    /// Bodies during which the disk dies after so many operations; then the power is gone, and the
    /// bits say which unsynced sectors the disk has.
    PowerLoss(Vec<BodyPlan>, u64, u64),
    FailedSync(Vec<BodyPlan>),
    TornWrite(Vec<BodyPlan>, usize),
    /// The last tenant is purged.
    Purge,
    Read {
        scope: u8,
        after: u64,
        events: usize,
    },
}

/// Bodies of any size.
fn bodies() -> impl Strategy<Value = Vec<BodyPlan>> {
    bodies_with(prop_oneof![4 => 0..400_usize, 1 => 400..9_000_usize])
}

/// Bodies that meet a fault. They are small, so that a tenant's cap does not take what survived of
/// them before the model could see it.
fn small_bodies() -> impl Strategy<Value = Vec<BodyPlan>> {
    bodies_with(0..400_usize)
}

fn bodies_with(size: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<BodyPlan>> {
    let event = (
        size,
        prop::option::weighted(0.4, (0..6_u8, prop::bool::weighted(0.2))),
    );
    let body = (0..TENANTS, prop::collection::vec(event, 1..5))
        .prop_map(|(tenant, events)| BodyPlan { tenant, events });
    prop::collection::vec(body, 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => bodies().prop_map(Step::Append),
        3 => (1..400_i64).prop_map(|seconds| Step::Pass(seconds * SECOND)),
        1 => Just(Step::Upkeep),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        2 => (small_bodies(), 1..8_u64, any::<u64>())
            .prop_map(|(bodies, operations, bits)| Step::PowerLoss(bodies, operations, bits)),
        1 => small_bodies().prop_map(Step::FailedSync),
        1 => (small_bodies(), 0..3_000_usize).prop_map(|(bodies, after)| Step::TornWrite(bodies, after)),
        1 => Just(Step::Purge),
        4 => (0..=TENANTS, any::<u64>(), 1..40_usize)
            .prop_map(|(scope, after, events)| Step::Read { scope, after, events }),
    ]
}

/// An event that is durable.
#[derive(Clone, Debug)]
struct Stored {
    position: Position,
    tenant: TenantId,
    data: Vec<u8>,
    at: i64,
    /// Its frame, by the position of the frame's first event, and the frame's bytes.
    frame: Position,
    frame_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Age,
    /// By age, and each tenant has a retention of its own.
    TenantAge,
    TenantCap,
    Bytes,
}

struct Model {
    kind: Kind,
    stored: Vec<Stored>,
    keys: HashMap<(TenantId, [u8; 16]), (IdempotencyKey, Position, i64)>,
    next_text: u64,
    purged: bool,
    /// What the log's listener was told, as far as it was asked.
    heard: Vec<Read>,
}

/// A body with what the model knows of it.
struct Sent {
    tenant: TenantId,
    events: Vec<NewEvent>,
    answer: Receiver<Result<Appended, AppendError>>,
}

impl Model {
    fn open(kind: Kind) -> (Self, Bench) {
        let bench = Bench::with(|options| {
            options.key_window = Duration::from_secs(KEY_WINDOW.unsigned_abs() / 1_000_000);
            match kind {
                Kind::Age => {
                    options.retention = micros(RETENTION);
                }
                Kind::TenantAge => {
                    options.retention = micros(RETENTION);
                    for (number, retention) in (0..).zip(RETENTIONS) {
                        let own = TenantOptions {
                            retention: retention.map(micros),
                            max_bytes: None,
                        };
                        options.tenants.insert(tenant(number), own);
                    }
                }
                Kind::TenantCap => options.tenant_max_bytes = TENANT_CAP,
                Kind::Bytes => options.max_bytes = 1 << 20,
            }
        });
        let model = Self {
            kind,
            stored: Vec::new(),
            keys: HashMap::new(),
            next_text: 0,
            purged: false,
            heard: Vec::new(),
        };
        (model, bench)
    }

    fn send(&mut self, bench: &Bench, plans: &[BodyPlan]) -> Vec<Sent> {
        plans
            .iter()
            .map(|plan| {
                let tenant = tenant(plan.tenant);
                let events: Vec<NewEvent> = plan
                    .events
                    .iter()
                    .map(|(size, key)| self.event(*size, *key))
                    .collect();
                Sent {
                    tenant,
                    answer: bench.submit(tenant, events.clone()),
                    events,
                }
            })
            .collect()
    }

    fn event(&mut self, size: usize, key: Option<(u8, bool)>) -> NewEvent {
        self.next_text += 1;
        let text = format!("{:08}{}", self.next_text, "y".repeat(size));
        NewEvent {
            key: key.map(|(key, other)| IdempotencyKey {
                key: [key; 16],
                digest: [u8::from(other); 16],
            }),
            ..event(&text)
        }
    }

    /// What the log must answer, where nothing fails: which events are new, or the conflict.
    fn sort_out(&self, sent: &Sent, now: i64) -> Result<Vec<Option<Position>>, usize> {
        let mut within: HashMap<[u8; 16], (IdempotencyKey, usize)> = HashMap::new();
        let mut sorted: Vec<Option<Position>> = Vec::new();
        let mut fresh = 0;
        let next = self.stored.last().map_or(1, |last| last.position + 1);
        for (index, event) in sent.events.iter().enumerate() {
            let Some(key) = event.key else {
                sorted.push(None);
                fresh += 1;
                continue;
            };
            let known = self
                .keys
                .get(&(sent.tenant, key.key))
                .filter(|(_, _, at)| now - at <= KEY_WINDOW)
                .map(|(known, position, _)| (*known, *position));
            let known = known.or_else(|| {
                let (known, place) = within.get(&key.key)?;
                Some((*known, next + *place as u64))
            });
            match known {
                Some((known, _)) if known.digest != key.digest => return Err(index),
                Some((_, position)) => sorted.push(Some(position)),
                None => {
                    within.insert(key.key, (key, fresh));
                    sorted.push(None);
                    fresh += 1;
                }
            }
        }
        Ok(sorted)
    }

    /// Takes a body's new events in, at the positions that the log gave them.
    fn store(&mut self, sent: &Sent, sorted: &[Option<Position>], first: Position, now: i64) {
        let fresh: Vec<&NewEvent> = sent
            .events
            .iter()
            .zip(sorted)
            .filter(|(_, known)| known.is_none())
            .map(|(event, _)| event)
            .collect();
        let payload: usize = fresh
            .iter()
            .map(|event| {
                let names = "device_status".len() + "router-1".len();
                8 + 32 * usize::from(event.key.is_some()) + names + event.data.len()
            })
            .sum();
        let frame_bytes = (88 + payload as u64).next_multiple_of(8);
        for (event, position) in fresh.into_iter().zip(first..) {
            if let Some(key) = event.key {
                self.keys
                    .insert((sent.tenant, key.key), (key, position, now));
            }
            self.stored.push(Stored {
                position,
                tenant: sent.tenant,
                data: event.data.clone(),
                at: now,
                frame: first,
                frame_bytes,
            });
        }
    }

    /// Bodies that nothing disturbs.
    fn append(&mut self, bench: &Bench, plans: &[BodyPlan]) -> Result<(), TestCaseError> {
        let now = bench.clock.wall();
        for sent in self.send(bench, plans) {
            let answer = sent.answer.recv().unwrap();
            self.check_answer(bench, &sent, answer, now)?;
        }
        Ok(())
    }

    fn check_answer(
        &mut self,
        bench: &Bench,
        sent: &Sent,
        answer: Result<Appended, AppendError>,
        now: i64,
    ) -> Result<(), TestCaseError> {
        if self.is_purged(sent.tenant) {
            prop_assert_eq!(answer, Err(AppendError::Purged));
            return Ok(());
        }
        let sorted = match (self.sort_out(sent, now), answer) {
            (Err(index), answer) => {
                prop_assert_eq!(answer, Err(AppendError::KeyConflict { index }));
                return Ok(());
            }
            (Ok(sorted), Ok(appended)) => {
                let fresh = sorted.iter().filter(|known| known.is_none()).count() as u64;
                prop_assert_eq!(appended.accepted, fresh);
                prop_assert_eq!(appended.duplicates, sorted.len() as u64 - fresh);
                let known = [
                    (sorted[0], appended.first),
                    (sorted[sorted.len() - 1], appended.last),
                ];
                for (expected, position) in known {
                    if let Some(expected) = expected {
                        // A repetition within the body stands at a position that the log chose.
                        let last = self.stored.last().map_or(0, |last| last.position);
                        prop_assert!(position == expected || expected > last);
                    }
                }
                (fresh > 0).then_some((sorted, appended))
            }
            (Ok(_), Err(error)) => {
                return Err(TestCaseError::fail(format!(
                    "refused without a reason: {error}"
                )));
            }
        };
        if let Some((sorted, appended)) = sorted {
            let first = self.first_position(bench, sent, &sorted, &appended);
            self.store(sent, &sorted, first, now);
        }
        Ok(())
    }

    /// Where a body's new events begin: by what the log answered, or, where its first and last were
    /// stored before, by what the log holds or its listener was told.
    fn first_position(
        &mut self,
        bench: &Bench,
        sent: &Sent,
        sorted: &[Option<Position>],
        appended: &Appended,
    ) -> Position {
        if sorted[0].is_none() {
            return appended.first;
        }
        if sorted[sorted.len() - 1].is_none() {
            return appended.last + 1 - appended.accepted;
        }
        let place = sorted.iter().position(Option::is_none).unwrap();
        let after = self.stored.last().map_or(0, |last| last.position);
        let (events, _) = bench.read(Scope::Tenant(sent.tenant), after);
        let is_wanted = |event: &&Read| event.data == sent.events[place].data;
        if let Some(found) = events.iter().find(is_wanted) {
            return found.position;
        }
        // The tenant's cap has taken it already, for a body that was submitted with this one.
        for heard in bench.heard.lock().unwrap().try_iter() {
            if let Heard::Committed(events) = heard {
                self.heard.extend(events);
            }
        }
        let found = self.heard.iter().find(is_wanted);
        found.expect("an accepted event was told").position
    }

    /// After a fault: bodies that were answered are there; those that were cut off are there whole
    /// or not at all.
    fn settle(&mut self, bench: &Bench, sent: Vec<Sent>, now: i64) -> Result<(), TestCaseError> {
        let mut known: HashMap<Vec<u8>, Position> = HashMap::new();
        let mut after = self.stored.last().map_or(0, |last| last.position);
        loop {
            let (events, end) = bench.read(Scope::All, after);
            prop_assert_eq!(end.lost, None, "nothing that was acknowledged is lost");
            known.extend(events.into_iter().map(|event| (event.data, event.position)));
            after = end.examined_through;
            if end.reached_tail {
                break;
            }
        }
        for sent in sent {
            let answer = sent.answer.recv().unwrap();
            if answer.is_ok()
                || matches!(
                    answer,
                    Err(AppendError::KeyConflict { .. } | AppendError::Purged)
                )
            {
                self.check_answer(bench, &sent, answer, now)?;
                continue;
            }
            let Ok(sorted) = self.sort_out(&sent, now) else {
                continue;
            };
            let fresh: Vec<Option<&Position>> = sent
                .events
                .iter()
                .zip(&sorted)
                .filter(|(_, known)| known.is_none())
                .map(|(event, _)| known.get(&event.data))
                .collect();
            let present = fresh.iter().filter(|position| position.is_some()).count();
            prop_assert!(
                present == 0 || present == fresh.len(),
                "half a body: {} of {}",
                present,
                fresh.len()
            );
            if let Some(Some(first)) = fresh.first() {
                let first = **first;
                self.store(&sent, &sorted, first, now);
            }
        }
        Ok(())
    }

    fn is_purged(&self, owner: TenantId) -> bool {
        self.purged && owner == tenant(TENANTS - 1)
    }

    /// The position up to which a tenant's events have gone, and that of all, by the model.
    fn visible(&self, bench: &Bench) -> Result<Vec<bool>, TestCaseError> {
        let now = bench.clock.wall();
        Ok(match self.kind {
            Kind::Age => self
                .stored
                .iter()
                .map(|event| now - event.at <= RETENTION)
                .collect(),
            Kind::TenantAge => {
                let retention = |owner: TenantId| {
                    let own = (0..)
                        .zip(RETENTIONS)
                        .find(|(number, _)| owner == tenant(*number));
                    own.and_then(|(_, own)| own).unwrap_or(RETENTION)
                };
                self.stored
                    .iter()
                    .map(|event| now - event.at <= retention(event.tenant))
                    .collect()
            }
            Kind::TenantCap => {
                let mut kept: HashMap<TenantId, (u64, Position, bool)> = HashMap::new();
                let mut visible = vec![false; self.stored.len()];
                for (place, event) in self.stored.iter().enumerate().rev() {
                    let (bytes, frame, full) = kept.entry(event.tenant).or_default();
                    if *frame != event.frame {
                        *full |= *bytes > 0 && *bytes + event.frame_bytes > TENANT_CAP;
                        *frame = event.frame;
                        *bytes += event.frame_bytes;
                    }
                    visible[place] = !*full;
                }
                visible
            }
            Kind::Bytes => {
                // How much fits is the log's own business within these bounds.
                let usage = bench.log().usage();
                prop_assert!(usage.bytes <= 1 << 20, "{:?}", usage);
                let oldest = usage.oldest.unwrap_or(Position::MAX);
                let kept = self.stored.iter().filter(|event| event.position >= oldest);
                let gone = self.stored.iter().any(|event| event.position < oldest);
                let bytes: usize = kept.map(|event| event.data.len()).sum();
                prop_assert!(!gone || bytes > 400_000, "only {bytes} bytes are kept");
                self.stored
                    .iter()
                    .map(|event| event.position >= oldest)
                    .collect()
            }
        })
    }

    /// Checks a read; where the upkeep thread removed or rewrote a segment between the looks that belong
    /// together, another.
    fn check(
        &self,
        bench: &Bench,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
    ) -> Result<(), TestCaseError> {
        loop {
            bench.log().run_upkeep();
            let usage = bench.log().usage();
            let outcome = self.check_once(bench, scope, after, limit);
            if bench.log().usage() == usage {
                return outcome;
            }
        }
    }

    fn check_once(
        &self,
        bench: &Bench,
        scope: Scope,
        after: Position,
        limit: ReadLimit,
    ) -> Result<(), TestCaseError> {
        let visible = self.visible(bench)?;
        let in_scope = |event: &Stored| match scope {
            Scope::All => true,
            Scope::Tenant(tenant) => event.tenant == tenant,
        };
        let of_scope: Vec<(&Stored, bool)> = self
            .stored
            .iter()
            .zip(visible)
            .filter(|(event, _)| in_scope(event))
            .collect();
        let last_removed = |count_purged: bool| {
            of_scope
                .iter()
                .filter(|(event, visible)| {
                    !visible && (count_purged || !self.is_purged(event.tenant))
                })
                .map(|(event, _)| event.position)
                .max()
                .unwrap_or(0)
        };
        // What had expired of a tenant before it was purged may still be counted, for readers of all.
        let (removed, most) = (last_removed(false), last_removed(scope == Scope::All));
        let expected: Vec<&Stored> = of_scope
            .iter()
            .filter(|(event, visible)| {
                *visible && event.position > after && !self.is_purged(event.tenant)
            })
            .map(|(event, _)| *event)
            .collect();
        let wanted = expected.len().min(limit.events);
        let (read, end) = read_up_to(bench, scope, after, limit, wanted)?;
        prop_assert_eq!(
            read.len(),
            wanted,
            "{:?} after {}: ended {:?}; read {:?}, expected {:?}",
            scope,
            after,
            end,
            read.iter().map(|event| event.position).collect::<Vec<_>>(),
            expected
                .iter()
                .map(|event| event.position)
                .collect::<Vec<_>>()
        );
        check_same(&read, &expected)?;
        match bench.log().resume_point(scope, after) {
            Resume::Exact => {
                prop_assert!(after >= removed, "after {}, {} was removed", after, removed);
                prop_assert_eq!(end.expired, None);
            }
            Resume::Expired(expired) => {
                prop_assert!(after < most, "nothing after {} was removed", after);
                prop_assert!(
                    (removed..=most).contains(&expired.removed_through),
                    "{:?} after {}: {:?}, removed {} to {}",
                    scope,
                    after,
                    expired,
                    removed,
                    most
                );
                prop_assert!(expired.resume_after >= after);
                let next = expected
                    .first()
                    .map_or(Position::MAX, |event| event.position);
                prop_assert!(expired.resume_after < next, "nothing retained is skipped");
                prop_assert_eq!(end.expired, Some::<Expired>(expired));
            }
        }
        Ok(())
    }

    fn check_everything(&self, bench: &Bench) -> Result<(), TestCaseError> {
        let limit = ReadLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        self.check(bench, Scope::All, 0, limit)?;
        for number in 0..TENANTS {
            self.check(bench, Scope::Tenant(tenant(number)), 0, limit)?;
        }
        let last = self.stored.last().map_or(0, |last| last.position);
        prop_assert!(bench.log().tail() >= last);
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(plans) => self.append(bench, &plans)?,
            Step::Pass(micros) => bench.clock.pass(micros),
            Step::Upkeep => bench.log().run_upkeep(),
            // Where bytes are counted, what is blank counts too, and the model would have to know how.
            Step::Purge if self.kind == Kind::Bytes => {}
            Step::Purge => {
                bench.log().purge(tenant(TENANTS - 1)).unwrap();
                self.purged = true;
                self.check_everything(bench)?;
            }
            Step::Restart => {
                bench.restart();
                self.check_everything(bench)?;
            }
            Step::Kill => {
                bench.kill_and_restart();
                self.check_everything(bench)?;
            }
            Step::PowerLoss(plans, operations, bits) => {
                bench.storage.die_after(operations);
                let (sent, now) = (self.send(bench, &plans), bench.clock.wall());
                let fates: Vec<_> = sent.into_iter().map(answered).collect();
                let mut bits = bits | 1;
                bench.lose_power(|| {
                    bits ^= bits << 13;
                    bits ^= bits >> 7;
                    bits ^= bits << 17;
                    bits % 4 != 0
                });
                bench.open();
                self.settle(bench, fates, now)?;
                self.check_everything(bench)?;
            }
            Step::FailedSync(plans) => {
                bench.storage.fail_next_sync();
                self.break_off(bench, &plans)?;
            }
            Step::TornWrite(plans, after) => {
                bench.storage.tear_next_write(after);
                self.break_off(bench, &plans)?;
            }
            Step::Read {
                scope,
                after,
                events,
            } => {
                let tail = bench.log().tail();
                let after = after % (tail + 2);
                let scope = if scope == TENANTS {
                    Scope::All
                } else {
                    Scope::Tenant(tenant(scope))
                };
                self.check(
                    bench,
                    scope,
                    after,
                    ReadLimit {
                        events,
                        bytes: usize::MAX,
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Bodies of which one meets the fault that was set; then the process dies.
    fn break_off(&mut self, bench: &mut Bench, plans: &[BodyPlan]) -> Result<(), TestCaseError> {
        let (sent, now) = (self.send(bench, plans), bench.clock.wall());
        let fates: Vec<_> = sent.into_iter().map(answered).collect();
        bench.kill_and_restart();
        self.settle(bench, fates, now)?;
        self.check_everything(bench)
    }
}

/// Reads as many events as are wanted. A read that has visited something ends where the upkeep thread takes
/// a segment from under it; the next goes on there. Seen on a busy machine.
fn read_up_to(
    bench: &Bench,
    scope: Scope,
    after: Position,
    limit: ReadLimit,
    wanted: usize,
) -> Result<(Vec<Read>, ReadEnd), TestCaseError> {
    let (mut read, mut end) = bench.read_limited(scope, after, limit);
    prop_assert_eq!(end.lost, None);
    while read.len() < wanted && !end.reached_tail {
        let left = ReadLimit {
            events: limit.events - read.len(),
            ..limit
        };
        let (more, next) = bench.read_limited(scope, end.examined_through, left);
        prop_assert!(next.examined_through > end.examined_through || next.reached_tail);
        read.extend(more);
        end = ReadEnd {
            expired: end.expired,
            ..next
        };
    }
    Ok((read, end))
}

/// What was read is what the model holds.
fn check_same(read: &[Read], expected: &[&Stored]) -> Result<(), TestCaseError> {
    for (read, stored) in read.iter().zip(expected) {
        let Read {
            position,
            tenant,
            data,
            appended_at,
        } = read;
        prop_assert_eq!(
            (*position, *tenant, *appended_at),
            (stored.position, stored.tenant, stored.at)
        );
        prop_assert_eq!(data, &stored.data);
    }
    Ok(())
}

/// Waits for a body's answer, and keeps it.
fn answered(sent: Sent) -> Sent {
    let (sender, receiver) = std::sync::mpsc::channel();
    sender.send(sent.answer.recv().expect("an answer")).unwrap();
    Sent {
        answer: receiver,
        ..sent
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_log_does_what_the_model_does(
        kind in prop_oneof![
            Just(Kind::Age),
            Just(Kind::TenantAge),
            Just(Kind::TenantCap),
            Just(Kind::Bytes)
        ],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut model, mut bench) = Model::open(kind);
        for step in steps {
            model.run(&mut bench, step)?;
        }
        model.check_everything(&bench)?;
        bench.restart();
        model.check_everything(&bench)?;
    }
}
