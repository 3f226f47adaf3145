//! Random histories of logs that are backed up, restored and go on, against a model: a tree of branches, each
//! with the events of its parent up to a fork and its own after it.
//!
//! A client may come with any cursor that any branch has ever shown. Where the branch that it meets descends from
//! the client's, up to the fork nothing is lost and nothing repeated; everything else is told.

use proptest::prelude::*;
use tidings_log::{Kinship, Scope};
use tidings_protocol::{Epoch, Position};

use crate::backup::{back_up, bench_on, restore_into};
use crate::simulated::SimulatedStorage;
use crate::support::{Bench, bulky, tenant};

#[derive(Clone, Debug)]
enum Step {
    /// Events appended to a branch.
    Append(usize, usize),
    /// A backup of a branch, into a place that may hold an earlier one of the same.
    Backup(usize, usize),
    /// A new branch from the backup in a place.
    Restore(usize),
    Restart(usize),
    Kill(usize),
}

const BRANCHES: usize = 6;
const PLACES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..BRANCHES, 1..6_usize).prop_map(|(branch, count)| Step::Append(branch, count)),
        3 => (0..BRANCHES, 0..PLACES).prop_map(|(branch, place)| Step::Backup(branch, place)),
        3 => (0..PLACES).prop_map(Step::Restore),
        1 => (0..BRANCHES).prop_map(Step::Restart),
        1 => (0..BRANCHES).prop_map(Step::Kill),
    ]
}

struct Branch {
    bench: Bench,
    epoch: Epoch,
    /// The epochs that it descends from, nearest first, and the last position that it shares with each.
    ancestors: Vec<(Epoch, Position)>,
    /// What stands at each position from 1 on.
    events: Vec<usize>,
}

/// A backup that was made.
struct Made {
    branch: usize,
    through: Position,
}

struct World {
    branches: Vec<Branch>,
    places: Vec<(SimulatedStorage, Option<Made>)>,
    next_event: usize,
}

impl World {
    fn new() -> Self {
        let bench = Bench::with(|options| options.max_bytes = 32 << 20);
        let epoch = bench.log().epoch();
        Self {
            branches: vec![Branch {
                bench,
                epoch,
                ancestors: Vec::new(),
                events: Vec::new(),
            }],
            places: (0..PLACES)
                .map(|_| (SimulatedStorage::new(), None))
                .collect(),
            next_event: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        let count = self.branches.len();
        match *step {
            Step::Append(branch, events) => {
                let branch = &mut self.branches[branch % count];
                for _ in 0..events {
                    // Of such a size that segments are sealed now and then.
                    let body = vec![bulky(self.next_event, 200_000)];
                    let appended = branch.bench.append(tenant(1), body).unwrap();
                    branch.events.push(self.next_event);
                    assert_eq!(appended.last, branch.events.len() as u64);
                    self.next_event += 1;
                }
            }
            Step::Backup(branch, place) => {
                let branch = branch % count;
                let (storage, made) = &mut self.places[place];
                let of = &self.branches[branch];
                match back_up(&of.bench, storage) {
                    Ok(report) => {
                        assert_eq!(report.through, of.events.len() as u64);
                        *made = Some(Made {
                            branch,
                            through: report.through,
                        });
                    }
                    // What is there is another log's, and stays.
                    Err(error) => {
                        let there = made.as_ref().expect("an empty place is taken").branch;
                        let there = self.branches[there].epoch;
                        assert!(!of.knows(there), "{error}");
                    }
                }
            }
            Step::Restore(place) => {
                let (storage, Some(made)) = &self.places[place] else {
                    return;
                };
                if count == BRANCHES {
                    return;
                }
                let parent = &self.branches[made.branch];
                let into = SimulatedStorage::new();
                let report = restore_into(storage, &into, &[]).unwrap();
                assert_eq!((report.fork, report.lost), (made.through, vec![]));
                let bench = bench_on(&into, &parent.bench);
                let older = parent.ancestors.iter();
                let older = older.map(|(epoch, fork)| (*epoch, (*fork).min(made.through)));
                let through = usize::try_from(made.through).unwrap();
                let branch = Branch {
                    epoch: bench.log().epoch(),
                    bench,
                    ancestors: std::iter::once((parent.epoch, made.through))
                        .chain(older)
                        .collect(),
                    events: parent.events[..through].to_vec(),
                };
                self.branches.push(branch);
            }
            Step::Restart(branch) => self.branches[branch % count].bench.restart(),
            Step::Kill(branch) => self.branches[branch % count].bench.kill_and_restart(),
        }
    }

    /// Has clients with every cursor of every branch meet every branch.
    fn check(&self) {
        for here in &self.branches {
            let log = here.bench.log();
            assert_eq!(log.epoch(), here.epoch);
            let read: Vec<usize> = here
                .bench
                .texts(Scope::All)
                .iter()
                .map(|text| text[..8].parse().unwrap())
                .collect();
            assert_eq!(read, here.events);
            for there in &self.branches {
                let shared = here.shares_with(there.epoch);
                for position in 0..=there.events.len() as u64 {
                    let at = usize::try_from(position).unwrap();
                    match (log.lineage().kinship(there.epoch, position), shared) {
                        (Kinship::Same, Some(fork)) => {
                            assert!(position <= fork);
                            // What the client has, and what it is given, are together what the branch has.
                            assert_eq!(there.events[..at], here.events[..at]);
                        }
                        (Kinship::Parted(parted), Some(fork)) => {
                            assert_eq!(parted, fork);
                            assert!(position > fork);
                        }
                        (Kinship::Strange, None) => {}
                        (kinship, shared) => panic!("{kinship:?} where {shared:?} is shared"),
                    }
                }
            }
        }
    }
}

impl Branch {
    fn knows(&self, epoch: Epoch) -> bool {
        self.shares_with(epoch).is_some()
    }

    fn shares_with(&self, epoch: Epoch) -> Option<Position> {
        if epoch == self.epoch {
            return Some(Position::MAX);
        }
        let known = self.ancestors.iter().find(|(known, _)| *known == epoch);
        known.map(|(_, fork)| *fork)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_cursor_of_any_ancestor_leads_on_exactly_up_to_the_fork_and_nowhere_beyond(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.check();
    }
}
