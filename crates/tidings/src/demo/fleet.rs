//! The simulated fleet: a pure state machine from time to events.
//!
//! [`Fleet::step`] gives what has happened up to a moment. Its rate is held exactly: each event takes a
//! slot, and slots come at the rate. A slot is used by what is due in a scenario (a push's next stage, an
//! alert's end), else by a new scenario now and then, else by the next device's next metric.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use tidings_client::NewEvent;
use tidings_protocol::TenantId;

use super::device::Device;
use super::scenario::{self, Kind, Step};

/// How large and how lively the fleet is.
#[derive(Clone, Copy, Debug)]
pub struct FleetOptions {
    /// Devices in all, spread over the tenants; at least 1.
    pub devices: usize,
    /// Tenants; at least 1.
    pub tenants: usize,
    /// Events a second, of all tenants together; above 0.
    pub rate: f64,
    /// The same seed gives the same course of events at the same times.
    pub seed: u64,
}

/// What has happened and what is going to.
#[derive(Debug)]
pub struct Fleet {
    rate: f64,
    rng: Rng,
    devices: Vec<Device>,
    /// From when on slots are counted; moves when the fleet was not stepped for long.
    counted_from: Timestamp,
    slots_used: u64,
    /// The scenarios by the time of their next step; the number keeps those of one time apart.
    agenda: BTreeMap<(Timestamp, u64), Course>,
    courses: u64,
    /// Whose metric comes next.
    next_device: usize,
}

/// The rest of one device's scenario.
#[derive(Debug)]
struct Course {
    device: usize,
    kind: Kind,
    steps: VecDeque<(SignedDuration, Step)>,
}

/// How much time is made up for after the fleet was not stepped (the server was away, the machine asleep).
const LONGEST_ARREARS: SignedDuration = SignedDuration::from_secs(2);

impl Fleet {
    /// A fleet whose devices come up one after another from `start` on. Tenants and devices are the same
    /// whatever the seed, so that a demo that starts again on its log goes on with its devices.
    #[must_use]
    pub fn new(options: FleetOptions, start: Timestamp) -> Self {
        let tenants = options.tenants.max(1);
        let devices = (0..options.devices.max(1))
            .map(|index| Device::new(index, tenant(index % tenants), start))
            .collect();
        Self {
            rate: options.rate,
            rng: Rng::with_seed(options.seed),
            devices,
            counted_from: start,
            slots_used: 0,
            agenda: BTreeMap::new(),
            courses: 0,
            next_device: 0,
        }
    }

    /// The tenants that have devices, in order.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantId> {
        let mut tenants = Vec::new();
        for device in &self.devices {
            if tenants.contains(&device.tenant) {
                break;
            }
            tenants.push(device.tenant);
        }
        tenants
    }

    /// What has happened since the last step, up to `now`, in order. A clock that goes back gives nothing
    /// until it has caught up.
    pub fn step(&mut self, now: Timestamp) -> Vec<(TenantId, NewEvent)> {
        let elapsed = now.duration_since(self.counted_from).as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is negative or too large saturates"
        )]
        let slots = (elapsed * self.rate) as u64;
        let due = slots.saturating_sub(self.slots_used);
        let most = self.most_at_once();
        if due > most {
            // What lies further back is left out; counting begins anew so that the rate holds from here.
            self.counted_from = now;
            self.slots_used = 0;
        } else {
            self.slots_used += due;
        }
        (0..due.min(most)).map(|_| self.slot(now)).collect()
    }

    fn most_at_once(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the rate is positive, and a float that is too large saturates"
        )]
        let arrears = (LONGEST_ARREARS.as_secs_f64() * self.rate) as u64;
        arrears.max(1)
    }

    /// The event of one slot.
    fn slot(&mut self, now: Timestamp) -> (TenantId, NewEvent) {
        if let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now
        {
            let course = entry.remove();
            return self.go_on(course, now);
        }
        if let Some(kind) = scenario::draw(&mut self.rng)
            && let Some(device) = self.device_for(kind)
        {
            let steps = scenario::steps(kind, &mut self.rng, &self.devices[device]);
            self.devices[device].engage(kind);
            let course = Course {
                device,
                kind,
                steps,
            };
            return self.go_on(course, now);
        }
        let device = self.next_to_report();
        let event = self.devices[device].report(&mut self.rng, now);
        (self.devices[device].tenant, event)
    }

    /// Does a course's next step and puts the rest of it on the agenda. The time to the step after it
    /// counts from now, so that stages keep their distance also where slots are scarce.
    fn go_on(&mut self, mut course: Course, now: Timestamp) -> (TenantId, NewEvent) {
        let device = &mut self.devices[course.device];
        let (_, step) = course
            .steps
            .pop_front()
            .expect("a course on the agenda has a step left");
        let event = device.perform(&step, &mut self.rng, now);
        let tenant = device.tenant;
        match course.steps.front() {
            Some((delay, _)) => {
                self.courses += 1;
                let due = now.saturating_add(*delay).unwrap_or(now);
                self.agenda.insert((due, self.courses), course);
            }
            None => device.release(course.kind),
        }
        (tenant, event)
    }

    /// A device that has reported and is free for it; a few draws, so that a busy fleet costs no search.
    fn device_for(&mut self, kind: Kind) -> Option<usize> {
        (0..4)
            .map(|_| self.rng.usize(..self.devices.len()))
            .find(|device| self.devices[*device].is_free_for(kind))
    }

    /// The next device in turn that is not down, if there is one.
    fn next_to_report(&mut self) -> usize {
        let count = self.devices.len();
        let first = self.next_device;
        let device = (0..count)
            .map(|offset| (first + offset) % count)
            .find(|device| self.devices[*device].can_report())
            .unwrap_or(first);
        self.next_device = (device + 1) % count;
        device
    }
}

/// The demo's tenants: `11111111-1111-4111-8111-111111111111` and so on for the first nine.
fn tenant(index: usize) -> TenantId {
    let number = index + 1;
    let text = if number < 10 {
        let digit = number.to_string();
        format!(
            "{}-{}-4{}-8{}-{}",
            digit.repeat(8),
            digit.repeat(4),
            digit.repeat(3),
            digit.repeat(3),
            digit.repeat(12)
        )
    } else {
        format!("00000000-0000-4000-8000-{number:012}")
    };
    text.parse().expect("a UUID")
}

#[cfg(test)]
mod tests;
