//! One simulated device: what it is, how it is, and what it says.

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use tidings_client::NewEvent;
use tidings_protocol::{DeviceId, TenantId};

use super::catalogue::{MODELS, Model, SITES, VERSIONS};
use super::random_id;
use super::scenario::{Alert, Kind, Step};
use crate::agent::payload::{
    AlertFired, AlertResolved, ConfigPush, DeviceStatus, FirmwareProgress, Health, Interface,
    Metric, MetricUpdate, Payload as _, Wireless, seconds, uptime,
};

/// What the world knows of a device's being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It has said nothing yet.
    Unannounced,
    Up,
    Down,
}

/// A device and its state.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) tenant: TenantId,
    id: DeviceId,
    name: String,
    site: String,
    serial: String,
    model: &'static Model,
    version: usize,
    booted: Timestamp,
    presence: Presence,
    /// In an outage, a push or an upgrade: one at a time.
    occupied: bool,
    alert: Option<Alert>,
    /// The version that the upgrade under way brings with the next boot.
    upgrading: bool,
    reports: usize,
    /// In tenths of a percent.
    cpu: u32,
    received: u64,
    sent: u64,
    counted: Timestamp,
    last_seen: Timestamp,
}

impl Device {
    /// The device with this number in the fleet; its identity follows from the number alone.
    pub(super) fn new(index: usize, tenant: TenantId, start: Timestamp) -> Self {
        let mut rng = Rng::with_seed(index as u64);
        let model = &MODELS[index % MODELS.len()];
        let number = index / MODELS.len() + 1;
        let up_for = SignedDuration::from_secs(rng.i64(3_600..60 * 86_400));
        Self {
            tenant,
            id: random_id(&mut rng).parse().expect("a UUID is a device id"),
            name: format!("sim-{}-{number}", model.role),
            site: format!("Simulated site {}", rng.choice(SITES).expect("not empty")),
            serial: format!("SIM{:08}", index + 1),
            model,
            version: rng.usize(..2),
            booted: start.saturating_sub(up_for).unwrap_or(start),
            presence: Presence::Unannounced,
            occupied: false,
            alert: None,
            upgrading: false,
            reports: 0,
            cpu: rng.u32(30..330),
            received: rng.u64(..1 << 40),
            sent: rng.u64(..1 << 38),
            counted: start,
            last_seen: start,
        }
    }

    pub(super) fn can_report(&self) -> bool {
        self.presence != Presence::Down
    }

    /// An alert can come on top of an operation, but not while the device is down; nothing comes before it
    /// has announced itself.
    pub(super) fn is_free_for(&self, kind: Kind) -> bool {
        self.presence == Presence::Up
            && match kind {
                Kind::Alert => self.alert.is_none(),
                Kind::Outage | Kind::Push | Kind::Upgrade => !self.occupied,
            }
    }

    pub(super) fn engage(&mut self, kind: Kind) {
        if kind != Kind::Alert {
            self.occupied = true;
        }
    }

    pub(super) fn release(&mut self, kind: Kind) {
        if kind != Kind::Alert {
            self.occupied = false;
        }
    }

    /// The version after the one that runs.
    pub(super) fn next_version(&self) -> &'static str {
        VERSIONS[(self.version + 1).min(VERSIONS.len() - 1)]
    }

    /// What the device says in its turn: first that it is there, then its metrics one after the other and
    /// its status now and then.
    pub(super) fn report(&mut self, rng: &mut Rng, now: Timestamp) -> NewEvent {
        match self.presence {
            Presence::Unannounced => {
                self.presence = Presence::Up;
                return self.status(now);
            }
            // Only where nobody else is up: whoever polls it says again that it is away.
            Presence::Down => return self.status(now),
            Presence::Up => {}
        }
        self.drift(rng, now);
        self.reports += 1;
        let metric = match self.reports % 4 {
            0 => return self.status(now),
            1 => self.interfaces(),
            2 if self.model.wireless => wireless(rng),
            _ => self.health(),
        };
        MetricUpdate {
            device_id: self.id.clone(),
            tenant_id: self.tenant,
            collected_at: seconds(now),
            kind: metric.kind(),
            simulated: true,
            metric,
        }
        .event()
    }

    /// Takes a step of a scenario.
    pub(super) fn perform(&mut self, step: &Step, rng: &mut Rng, now: Timestamp) -> NewEvent {
        self.drift(rng, now);
        match step {
            Step::Down => {
                self.presence = Presence::Down;
                self.status(now)
            }
            Step::Up => {
                self.presence = Presence::Up;
                self.booted = now;
                if std::mem::take(&mut self.upgrading) {
                    self.version = (self.version + 1).min(VERSIONS.len() - 1);
                }
                self.status(now)
            }
            Step::Fire(alert) => {
                self.alert = Some(alert.clone());
                self.fired(alert, now)
            }
            Step::Resolve(alert) => {
                self.alert = None;
                self.resolved(alert, rng, now)
            }
            Step::Push { operation, stage } => self.push(operation, stage, now),
            Step::Upgrade {
                job,
                version,
                stage,
            } => {
                self.upgrading = *stage == "rebooting";
                self.upgrade(job, version, stage, now)
            }
        }
    }

    /// Load wanders; an alert on it holds it up. Counters run with the time.
    fn drift(&mut self, rng: &mut Rng, now: Timestamp) {
        self.cpu = (self.cpu + rng.u32(..=80))
            .saturating_sub(40)
            .clamp(20, 600);
        let elapsed = now.duration_since(self.counted).as_secs_f64().max(0.0);
        self.counted = now;
        if self.presence == Presence::Up {
            let bytes = |rng: &mut Rng, rate: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "positive, and a float that is too large saturates"
                )]
                let bytes = (elapsed * rate * (0.5 + rng.f64())) as u64;
                bytes
            };
            self.received = self.received.wrapping_add(bytes(rng, 4e6));
            self.sent = self.sent.wrapping_add(bytes(rng, 1e6));
        }
    }

    fn measured(&self, metric: &str, usual: f64) -> f64 {
        match &self.alert {
            Some(alert) if alert.metric == metric => alert.value,
            _ => usual,
        }
    }

    fn cpu_load(&self) -> String {
        format!(
            "{:.0}",
            self.measured("cpu_load", f64::from(self.cpu) / 10.0)
        )
    }

    fn free_memory(&self) -> u64 {
        self.model.memory / 100 * (90 - u64::from(self.cpu) / 20)
    }

    fn status(&mut self, now: Timestamp) -> NewEvent {
        if self.presence != Presence::Down {
            self.last_seen = now;
        }
        let up_for = self.last_seen.duration_since(self.booted).as_secs();
        DeviceStatus {
            device_id: self.id.clone(),
            tenant_id: self.tenant,
            status: if self.presence == Presence::Down {
                "offline"
            } else {
                "online"
            },
            name: Some(self.name.clone()),
            site: Some(self.site.clone()),
            routeros_version: Some(VERSIONS[self.version].to_owned()),
            major_version: Some(7),
            board_name: Some(self.model.board.to_owned()),
            architecture: Some(self.model.architecture.to_owned()),
            uptime: Some(uptime(up_for.try_into().unwrap_or_default())),
            cpu_load: Some(self.cpu_load()),
            free_memory: Some(self.free_memory().to_string()),
            total_memory: Some(self.model.memory.to_string()),
            serial_number: Some(self.serial.clone()),
            firmware_version: Some(VERSIONS[self.version].to_owned()),
            last_seen: seconds(self.last_seen),
            simulated: true,
        }
        .event()
    }

    fn health(&self) -> Metric {
        let temperature = self.measured("temperature", 30.0 + f64::from(self.cpu) / 20.0);
        Metric::Health(Health {
            cpu_load: self.cpu_load(),
            free_memory: self.free_memory().to_string(),
            total_memory: self.model.memory.to_string(),
            free_disk: Some((self.model.disk / 100 * 72).to_string()),
            total_disk: Some(self.model.disk.to_string()),
            temperature: Some(format!("{temperature:.0}")),
        })
    }

    fn interfaces(&self) -> Metric {
        let interfaces = self.model.interfaces.iter().enumerate();
        Metric::Interfaces(
            interfaces
                .map(|(index, name)| Interface {
                    name: (*name).to_owned(),
                    rx_bytes: self.received >> (4 * index),
                    tx_bytes: self.sent >> (4 * index),
                    running: index < 2,
                    kind: if name.starts_with("wlan") {
                        "wlan"
                    } else {
                        "ether"
                    },
                })
                .collect(),
        )
    }

    fn fired(&self, alert: &Alert, now: Timestamp) -> NewEvent {
        let Alert {
            metric,
            value,
            threshold,
            ..
        } = alert;
        AlertFired {
            event_type: AlertFired::EVENT_TYPE,
            tenant_id: self.tenant,
            device_id: self.id.clone(),
            alert_event_id: alert.id.clone(),
            severity: alert.severity,
            metric,
            current_value: *value,
            threshold: *threshold,
            message: format!(
                "Simulated: {metric} of {} is {value} (> {threshold}) for 5 min",
                self.name
            ),
            is_flapping: alert.flapping,
            fired_at: seconds(now),
            simulated: true,
        }
        .event()
    }

    fn resolved(&self, alert: &Alert, rng: &mut Rng, now: Timestamp) -> NewEvent {
        let back = (alert.threshold * (0.3 + rng.f64() * 0.5)).round();
        AlertResolved {
            event_type: AlertResolved::EVENT_TYPE,
            tenant_id: self.tenant,
            device_id: self.id.clone(),
            alert_event_id: alert.id.clone(),
            severity: alert.severity,
            metric: alert.metric,
            message: format!(
                "Simulated: {} of {} is back to {back}",
                alert.metric, self.name
            ),
            resolved_at: seconds(now),
            simulated: true,
        }
        .event()
    }

    fn push(&self, operation: &str, stage: &'static str, now: Timestamp) -> NewEvent {
        let what = match stage {
            "started" => "Starting a push to",
            "backing_up" => "Backing up",
            "pushing" => "Pushing configuration to",
            "settling" => "Waiting for",
            "verifying" => "Verifying",
            "committed" => "Committed the configuration of",
            "reverted" => "Took back the configuration of",
            _ => "Could not push to",
        };
        ConfigPush {
            event_type: ConfigPush::EVENT_TYPE,
            tenant_id: self.tenant,
            device_id: self.id.clone(),
            push_operation_id: operation.to_owned(),
            stage,
            message: format!("Simulated: {what} {}", self.name),
            timestamp: seconds(now),
            simulated: true,
        }
        .event()
    }

    fn upgrade(&self, job: &str, version: &str, stage: &'static str, now: Timestamp) -> NewEvent {
        let what = match stage {
            "downloading" => "Downloading firmware for",
            "uploading" => "Uploading firmware to",
            "rebooting" => "Rebooting",
            "verifying" => "Verifying",
            "completed" => "Upgraded",
            _ => "Could not upgrade",
        };
        FirmwareProgress {
            event_type: FirmwareProgress::EVENT_TYPE,
            tenant_id: self.tenant,
            device_id: self.id.clone(),
            job_id: job.to_owned(),
            stage,
            target_version: version.to_owned(),
            message: format!("Simulated: {what} {}", self.name),
            timestamp: seconds(now),
            simulated: true,
        }
        .event()
    }
}

fn wireless(rng: &mut Rng) -> Metric {
    Metric::Wireless(vec![Wireless {
        interface: "wlan1",
        client_count: rng.u32(0..40),
        avg_signal: rng.i32(-80..=-50),
        ccq: rng.u32(60..=100),
        frequency: 5180,
    }])
}
