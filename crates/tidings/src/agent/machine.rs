//! What the operating system says about this machine.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sysinfo::{
    Components, CpuRefreshKind, Disks, InterfaceOperationalState, MemoryRefreshKind, Networks,
    RefreshKind, System,
};
use tidings_client::NewEvent;
use tidings_protocol::{DeviceId, TenantId};

use super::payload::{
    DeviceStatus, Health, Interface, Metric, MetricUpdate, Payload as _, seconds, uptime,
};

/// Who the machine is in its events.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Whose device it is.
    pub tenant: TenantId,
    /// Its id among the tenant's devices.
    pub device: DeviceId,
    /// Its name, for people.
    pub name: String,
    /// Where it stands, for people.
    pub site: Option<String>,
}

/// The machine's sensors. A part that this system does not offer is left out of the events.
pub(crate) struct Machine {
    system: Option<System>,
    disks: Option<Disks>,
    components: Option<Components>,
    networks: Option<Networks>,
}

impl Machine {
    /// Opens the sensors. The first CPU load is right only a moment after this.
    pub(crate) fn new() -> Self {
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        Self {
            system: System::new_with_specifics(wanted).ok(),
            disks: Disks::new().ok(),
            components: Components::new().ok(),
            networks: Networks::new().ok(),
        }
    }

    /// Reads all sensors: a status, the health and the interfaces.
    pub(crate) fn read(&mut self, identity: &Identity, now: Timestamp) -> Vec<NewEvent> {
        self.refresh();
        let mut events = vec![self.status(identity, "online", now).event()];
        let metrics = [
            self.health().map(Metric::Health),
            self.interfaces().map(Metric::Interfaces),
        ];
        for metric in metrics.into_iter().flatten() {
            let update = MetricUpdate {
                device_id: identity.device.clone(),
                tenant_id: identity.tenant,
                collected_at: seconds(now),
                kind: metric.kind(),
                simulated: false,
                metric,
            };
            events.push(update.event());
        }
        events
    }

    /// The status with which the agent takes leave.
    pub(crate) fn farewell(&self, identity: &Identity, now: Timestamp) -> NewEvent {
        self.status(identity, "offline", now).event()
    }

    fn refresh(&mut self) {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory();
        }
        if let Some(disks) = &mut self.disks {
            disks.refresh(true);
        }
        if let Some(components) = &mut self.components {
            components.refresh(true);
        }
        if let Some(networks) = &mut self.networks {
            networks.refresh(true);
        }
    }

    fn status(&self, identity: &Identity, status: &'static str, now: Timestamp) -> DeviceStatus {
        let memory = self.memory();
        DeviceStatus {
            device_id: identity.device.clone(),
            tenant_id: identity.tenant,
            status,
            name: Some(identity.name.clone()),
            site: identity.site.clone(),
            // It is no router: what only routers have is left out rather than made up.
            routeros_version: None,
            major_version: None,
            board_name: System::long_os_version().ok(),
            architecture: Some(System::cpu_arch()).filter(|text| !text.is_empty()),
            uptime: System::uptime().ok().map(uptime),
            cpu_load: self.cpu_load(),
            free_memory: memory.map(|(free, _)| free.to_string()),
            total_memory: memory.map(|(_, total)| total.to_string()),
            serial_number: None,
            firmware_version: System::kernel_version().ok(),
            last_seen: seconds(now),
            simulated: false,
        }
    }

    fn health(&self) -> Option<Health> {
        let (free_memory, total_memory) = self.memory()?;
        let disk = self.disk();
        Some(Health {
            cpu_load: self.cpu_load()?,
            free_memory: free_memory.to_string(),
            total_memory: total_memory.to_string(),
            free_disk: disk.map(|(free, _)| free.to_string()),
            total_disk: disk.map(|(_, total)| total.to_string()),
            temperature: self.temperature(),
        })
    }

    /// Percent of all processors together, in whole numbers.
    fn cpu_load(&self) -> Option<String> {
        let load = self.system.as_ref()?.global_cpu_usage();
        Some(format!("{:.0}", load.clamp(0.0, 100.0)))
    }

    /// Available and total bytes. What the kernel would give back (its caches) counts as free.
    fn memory(&self) -> Option<(u64, u64)> {
        let system = self.system.as_ref()?;
        Some((system.available_memory(), system.total_memory()))
    }

    /// Available and total bytes of all disks, each once however often it is mounted.
    fn disk(&self) -> Option<(u64, u64)> {
        let mut seen = BTreeSet::new();
        let (mut free, mut total) = (0_u64, 0_u64);
        for disk in self.disks.as_ref()? {
            if seen.insert(disk.name().to_owned()) {
                free = free.saturating_add(disk.available_space());
                total = total.saturating_add(disk.total_space());
            }
        }
        (total > 0).then_some((free, total))
    }

    /// The hottest sensor, in degrees Celsius.
    fn temperature(&self) -> Option<String> {
        let hottest = self
            .components
            .as_ref()?
            .iter()
            .filter_map(sysinfo::Component::temperature)
            .filter(|degrees| degrees.is_finite())
            .reduce(f32::max)?;
        Some(format!("{hottest:.0}"))
    }

    fn interfaces(&self) -> Option<Vec<Interface>> {
        let mut interfaces: Vec<Interface> = self
            .networks
            .as_ref()?
            .iter()
            .map(|(name, data)| (name.to_string_lossy(), data))
            .map(|(name, data)| Interface {
                kind: interface_kind(&name),
                rx_bytes: data.total_received(),
                tx_bytes: data.total_transmitted(),
                // The loopback and many tunnels say "unknown" while they carry traffic.
                running: matches!(
                    data.operational_state(),
                    InterfaceOperationalState::Up | InterfaceOperationalState::Unknown
                ),
                name: name.into_owned(),
            })
            .collect();
        interfaces.sort_by(|one, other| one.name.cmp(&other.name));
        Some(interfaces)
    }
}

/// The kind by the name's beginning, as Linux and the BSDs name interfaces.
fn interface_kind(name: &str) -> &'static str {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if name == "lo" || name == "lo0" {
        "loopback"
    } else if begins(&["wl"]) {
        "wlan"
    } else if begins(&["br", "docker", "virbr"]) {
        "bridge"
    } else if begins(&["veth", "tap", "tun", "wg"]) {
        "virtual"
    } else {
        "ether"
    }
}

/// This machine's host name as a device id, where it has one that will do.
#[must_use]
pub fn host_device() -> Option<(DeviceId, String)> {
    let name = System::host_name().ok()?;
    let id: String = name
        .chars()
        .map(|character| match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' | ':' | '-' => character,
            _ => '-',
        })
        .take(128)
        .collect();
    Some((id.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::payload::tests::assert_like_example;

    #[test]
    fn this_machine_is_read_in_the_shapes_of_the_examples() {
        let identity = Identity {
            tenant: "11111111-1111-4111-8111-111111111111".parse().unwrap(),
            device: "here".parse().unwrap(),
            name: "Here".to_owned(),
            site: None,
        };
        let mut machine = Machine::new();
        let now = Timestamp::now();
        let events = machine.read(&identity, now);
        assert_eq!(events.len(), 3);
        let absent = [
            "routeros_version",
            "major_version",
            "serial_number",
            // Virtual machines have no sensor.
            "temperature",
        ];
        for event in &events {
            assert_like_example(event, &absent);
            assert!(!event.data.get().contains("simulated"));
        }
        let status: serde_json::Value = serde_json::from_str(events[0].data.get()).unwrap();
        assert_eq!(status["status"], "online");
        let total: u64 = status["total_memory"].as_str().unwrap().parse().unwrap();
        let free: u64 = status["free_memory"].as_str().unwrap().parse().unwrap();
        assert!(0 < free && free < total);
        let farewell: serde_json::Value =
            serde_json::from_str(machine.farewell(&identity, now).data.get()).unwrap();
        assert_eq!(farewell["status"], "offline");
    }
}
