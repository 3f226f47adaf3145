//! What can happen to a device, as a course of steps with the time between them.

use std::collections::VecDeque;

use fastrand::Rng;
use jiff::SignedDuration;

use super::device::Device;
use crate::demo::random_id;

/// A kind of scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Down for a while, then up again.
    Outage,
    /// A metric beyond its threshold, then back.
    Alert,
    /// A configuration on its way to the device.
    Push,
    /// A new firmware on its way to the device.
    Upgrade,
}

/// One event of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Down,
    Up,
    Fire(Alert),
    Resolve(Alert),
    Push {
        operation: String,
        stage: &'static str,
    },
    Upgrade {
        job: String,
        version: &'static str,
        stage: &'static str,
    },
}

/// An alert from firing to resolving.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Alert {
    pub(super) id: String,
    pub(super) severity: &'static str,
    pub(super) metric: &'static str,
    pub(super) value: f64,
    pub(super) threshold: f64,
    pub(super) flapping: bool,
}

/// How often a free slot begins a scenario, in thousandths, most frequent first. All of them together
/// bring about 0.3 further events to a free slot, so that metrics always get their share.
const CHANCES: [(Kind, u32); 4] = [
    (Kind::Alert, 30),
    (Kind::Outage, 15),
    (Kind::Push, 15),
    (Kind::Upgrade, 10),
];

/// Whether this slot begins a scenario, and which.
pub(super) fn draw(rng: &mut Rng) -> Option<Kind> {
    let mut number = rng.u32(..1000);
    for (kind, chance) in CHANCES {
        if number < chance {
            return Some(kind);
        }
        number -= chance;
    }
    None
}

/// The steps of a new scenario; the time of each counts from the step before it.
pub(super) fn steps(
    kind: Kind,
    rng: &mut Rng,
    device: &Device,
) -> VecDeque<(SignedDuration, Step)> {
    match kind {
        Kind::Outage => [
            (SignedDuration::ZERO, Step::Down),
            (between(rng, 15, 60), Step::Up),
        ]
        .into(),
        Kind::Alert => {
            let alert = alert(rng);
            [
                (SignedDuration::ZERO, Step::Fire(alert.clone())),
                (between(rng, 15, 90), Step::Resolve(alert)),
            ]
            .into()
        }
        Kind::Push => push(rng),
        Kind::Upgrade => upgrade(rng, device),
    }
}

fn alert(rng: &mut Rng) -> Alert {
    let (metric, threshold, least, most) = *rng
        .choice(&[
            ("cpu_load", 90.0, 91, 100),
            ("temperature", 70.0, 71, 84),
            ("packet_loss", 5.0, 6, 40),
        ])
        .expect("not empty");
    Alert {
        id: random_id(rng),
        severity: rng
            .choice(&["critical", "warning", "warning", "info"])
            .expect("not empty"),
        metric,
        value: f64::from(rng.u32(least..=most)),
        threshold,
        flapping: rng.u32(..10) == 0,
    }
}

/// Mostly committed; some fail on the way, some are taken back once the device has it.
fn push(rng: &mut Rng) -> VecDeque<(SignedDuration, Step)> {
    let operation = random_id(rng);
    let stages: &[&'static str] = match rng.u32(..10) {
        0 => &["started", "backing_up", "pushing", "failed"],
        1 => &[
            "started",
            "backing_up",
            "pushing",
            "settling",
            "verifying",
            "reverted",
        ],
        _ => &[
            "started",
            "backing_up",
            "pushing",
            "settling",
            "verifying",
            "committed",
        ],
    };
    stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let delay = if index == 0 {
                SignedDuration::ZERO
            } else {
                between(rng, 1, 6)
            };
            let operation = operation.clone();
            (delay, Step::Push { operation, stage })
        })
        .collect()
}

/// The device goes down while it reboots and comes up with the new version, or with the old one where the
/// upgrade failed.
fn upgrade(rng: &mut Rng, device: &Device) -> VecDeque<(SignedDuration, Step)> {
    let job = random_id(rng);
    let version = device.next_version();
    let stage = |stage| Step::Upgrade {
        job: job.clone(),
        version,
        stage,
    };
    let fails_early = rng.u32(..10) == 0;
    if fails_early {
        return [
            (SignedDuration::ZERO, stage("downloading")),
            (between(rng, 4, 15), stage("uploading")),
            (between(rng, 4, 15), stage("failed")),
        ]
        .into();
    }
    let last = if rng.u32(..10) == 0 {
        "failed"
    } else {
        "completed"
    };
    [
        (SignedDuration::ZERO, stage("downloading")),
        (between(rng, 4, 15), stage("uploading")),
        (between(rng, 4, 15), stage("rebooting")),
        (between(rng, 1, 3), Step::Down),
        (between(rng, 15, 40), Step::Up),
        (between(rng, 1, 4), stage("verifying")),
        (between(rng, 2, 8), stage(last)),
    ]
    .into()
}

fn between(rng: &mut Rng, least: i64, most: i64) -> SignedDuration {
    SignedDuration::from_millis(rng.i64(least * 1000..=most * 1000))
}
