//! The state against folding the whole history, over random histories with restarts, crashes,
//! retention and checkpoints in them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tidings_log::{EventRef, NewEvent, NewSubject, Resume, Scope, StateSnapshot};
use tidings_protocol::{Position, TenantId};

use crate::support::{Bench, NO_LIMIT, SECOND, event, tenant};

const TENANTS: u8 = 3;
const KINDS: [&str; 2] = ["alert_fired", "device_status"];

/// Kind, key and whether the subject ends.
type SubjectPlan = Option<(usize, u8, bool)>;

#[derive(Clone, Debug)]
struct BodyPlan {
    tenant: u8,
    events: Vec<(SubjectPlan, usize)>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<BodyPlan>),
    Pass(i64),
    Upkeep,
    Checkpoint,
    /// A snapshot of whatever the state is at this moment.
    Look,
    Restart,
    Kill,
    PowerLoss(Vec<BodyPlan>, u64, u64),
    /// The state's file is gone.
    Lose,
}

fn bodies() -> impl Strategy<Value = Vec<BodyPlan>> {
    let subject = prop::option::weighted(0.8, (0..KINDS.len(), 0..6_u8, prop::bool::weighted(0.3)));
    let size = prop_oneof![3 => 0..300_usize, 1 => 3_000..30_000_usize];
    let body = (0..TENANTS, prop::collection::vec((subject, size), 1..8))
        .prop_map(|(tenant, events)| BodyPlan { tenant, events });
    prop::collection::vec(body, 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => bodies().prop_map(Step::Append),
        2 => (1..400_i64).prop_map(|seconds| Step::Pass(seconds * SECOND)),
        2 => Just(Step::Upkeep),
        2 => Just(Step::Checkpoint),
        3 => Just(Step::Look),
        1 => Just(Step::Restart),
        2 => Just(Step::Kill),
        2 => (bodies(), 1..8_u64, any::<u64>())
            .prop_map(|(bodies, operations, bits)| Step::PowerLoss(bodies, operations, bits)),
    ]
}

/// Tenant, kind and key.
type Name = (TenantId, String, String);

/// Position and data of each subject's last event.
type Subjects = BTreeMap<Name, (Position, Vec<u8>)>;

fn fold(subjects: &mut Subjects, event: &EventRef<'_>) {
    if let Some(subject) = event.subject {
        let name = (
            event.tenant,
            subject.kind.to_owned(),
            subject.key.to_owned(),
        );
        if subject.ends {
            subjects.remove(&name);
        } else {
            subjects.insert(name, (event.position, event.data.to_vec()));
        }
    }
}

/// In the order in which the state gives them.
fn listed(snapshot: &StateSnapshot) -> Vec<(Name, (Position, Vec<u8>))> {
    snapshot
        .clone()
        .into_entries()
        .map(|entry| {
            let name = (entry.tenant(), entry.kind().into(), entry.key().into());
            (name, (entry.position(), entry.event().data.to_vec()))
        })
        .collect()
}

struct Model {
    /// What folding the whole history gives, at each position where a body ended.
    history: Vec<(Position, Subjects)>,
    /// Snapshots that were taken on the way.
    taken: Vec<StateSnapshot>,
    next_text: u64,
}

impl Model {
    fn last(&self) -> Position {
        self.history.last().map_or(0, |(position, _)| *position)
    }

    fn now(&self) -> Subjects {
        self.history
            .last()
            .map(|(_, subjects)| subjects.clone())
            .unwrap_or_default()
    }

    fn events(&mut self, plan: &BodyPlan) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for (subject, size) in &plan.events {
            self.next_text += 1;
            let text = format!("{:08}{}", self.next_text, "z".repeat(*size));
            events.push(NewEvent {
                subject: subject.map(|(kind, key, ends)| NewSubject {
                    kind: KINDS[kind].parse().unwrap(),
                    key: format!("subject {key}").parse().unwrap(),
                    ends,
                }),
                ..event(&text)
            });
        }
        events
    }

    /// Takes in what the log stored since. It is read right after it was appended, before retention
    /// can have taken it.
    fn take_in(&mut self, bench: &Bench) {
        let mut subjects = self.now();
        let mut added = Vec::new();
        let end = bench
            .log()
            .read(Scope::All, self.last(), NO_LIMIT, &mut |event| {
                fold(&mut subjects, &event);
                added.push((event.position, subjects.clone()));
            })
            .unwrap();
        assert_eq!(end.lost, None);
        self.history.extend(added);
    }

    fn at(&self, position: Position) -> Subjects {
        let place = self.history.partition_point(|(at, _)| *at <= position);
        place
            .checked_sub(1)
            .map(|place| self.history[place].1.clone())
            .unwrap_or_default()
    }

    /// A snapshot is what folding everything up to its position gives.
    fn check(&self, snapshot: &StateSnapshot, scope: Scope) -> Result<(), TestCaseError> {
        let expected: Vec<_> = self
            .at(snapshot.through())
            .into_iter()
            .filter(|((tenant, ..), _)| scope == Scope::All || scope == Scope::Tenant(*tenant))
            .collect();
        prop_assert_eq!(snapshot.len(), expected.len());
        prop_assert_eq!(listed(snapshot), expected);
        Ok(())
    }

    fn check_now(&self, bench: &Bench) -> Result<(), TestCaseError> {
        let snapshot = bench.state(Scope::All);
        prop_assert!(snapshot.through() >= self.last());
        self.check(&snapshot, Scope::All)?;
        for number in 0..TENANTS {
            let scope = Scope::Tenant(tenant(number));
            self.check(&bench.state(scope), scope)?;
        }
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(plans) => {
                for plan in &plans {
                    let events = self.events(plan);
                    bench.append(tenant(plan.tenant), events).expect("stored");
                    self.take_in(bench);
                }
            }
            Step::Pass(micros) => bench.clock.pass(micros),
            Step::Upkeep => bench.log().run_upkeep(),
            Step::Checkpoint => {
                bench.log().state().checkpoint().expect("the disk is well");
                prop_assert!(bench.log().state().health().checkpointed >= self.last());
            }
            Step::Look => {
                if let Ok(snapshot) = bench.log().state().snapshot(Scope::All) {
                    self.check(&snapshot, Scope::All)?;
                    self.taken.push(snapshot);
                }
            }
            Step::Restart => bench.restart(),
            Step::Kill => bench.kill_and_restart(),
            Step::PowerLoss(plans, operations, mut bits) => {
                bench.storage.die_after(operations);
                let answers: Vec<_> = plans
                    .iter()
                    .map(|plan| bench.submit(tenant(plan.tenant), self.events(plan)))
                    .collect();
                for answer in answers {
                    let _ = answer.recv().expect("an answer");
                }
                bits |= 1;
                bench.lose_power(|| {
                    bits ^= bits << 13;
                    bits ^= bits >> 7;
                    bits ^= bits << 17;
                    bits % 4 != 0
                });
                bench.open();
                self.take_in(bench);
                self.check_now(bench)?;
            }
            Step::Lose => {
                bench.close();
                bench.storage.delete("state.redb");
                bench.open();
            }
        }
        Ok(())
    }

    /// Every snapshot, with the events after it, is the state of now.
    fn check_taken(&self, bench: &Bench) -> Result<(), TestCaseError> {
        for snapshot in &self.taken {
            let after = snapshot.through();
            if bench.log().resume_point(Scope::All, after) != Resume::Exact {
                continue;
            }
            let mut subjects: Subjects = listed(snapshot).into_iter().collect();
            let (mut through, mut is_whole) = (after, true);
            // A read ends where the upkeep thread takes a segment from under it; the next goes on there.
            loop {
                let end = bench
                    .log()
                    .read(Scope::All, through, NO_LIMIT, &mut |event| {
                        fold(&mut subjects, &event);
                    })
                    .unwrap();
                is_whole &= end.expired.is_none();
                prop_assert!(end.reached_tail || end.examined_through > through);
                through = end.examined_through;
                if end.reached_tail {
                    break;
                }
            }
            if is_whole {
                prop_assert_eq!(subjects, self.now(), "from {} on", after);
            }
        }
        Ok(())
    }
}

fn bench(bytes: bool, often: bool) -> Bench {
    Bench::with(|options| {
        if bytes {
            options.max_bytes = 1 << 20;
        } else {
            options.retention = Duration::from_mins(10);
        }
        options.state_checkpoint_interval = if often {
            Duration::from_millis(1)
        } else {
            Duration::from_hours(1000)
        };
    })
}

fn model() -> Model {
    Model {
        history: Vec::new(),
        taken: Vec::new(),
        next_text: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_snapshot_and_the_events_after_it_are_what_the_whole_history_gives(
        bytes in any::<bool>(),
        often in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut model, mut bench) = (model(), bench(bytes, often));
        for step in steps {
            model.run(&mut bench, step)?;
        }
        model.check_now(&bench)?;
        model.check_taken(&bench)?;
        bench.restart();
        model.check_now(&bench)?;
    }

    /// Without retention the file can be lost at any time.
    #[test]
    fn a_state_that_is_lost_comes_back_from_the_log(
        often in any::<bool>(),
        steps in prop::collection::vec(
            prop_oneof![4 => bodies().prop_map(Step::Append), 1 => Just(Step::Kill), 1 => Just(Step::Lose)],
            1..20,
        ),
    ) {
        let (mut model, mut bench) = (model(), bench(false, often));
        for step in steps {
            model.run(&mut bench, step)?;
        }
        model.check_now(&bench)?;
    }
}
