import type { DeviceStatus } from '@tidings/client';
import type { Fleet } from '@tidings/client/fleet';

export type Health = 'up' | 'down' | 'unknown';

/** A device as the fleet's pages show it. */
export interface Device {
  readonly key: string;
  readonly tenant: string;
  readonly id: string;
  readonly name: string;
  readonly group: string;
  readonly health: Health;
  readonly alerts: number;
  readonly isBusy: boolean;
  readonly status: DeviceStatus;
}

/** All devices, in the order of their groups and names. */
export function devicesOf(fleet: Fleet, byTenant: boolean): Device[] {
  const alerts = new Map<string, number>();
  for (const alert of fleet.alerts.values()) count(alerts, `${alert.tenant_id}/${alert.device_id ?? ''}`);
  const busy = new Set<string>();
  for (const work of [...fleet.pushes.values(), ...fleet.firmware.values()])
    busy.add(`${work.tenant_id}/${work.device_id ?? ''}`);
  const devices: Device[] = [];
  for (const [key, status] of fleet.devices) {
    const { tenant_id: tenant, device_id: id = '' } = status;
    const place = `${tenant}/${id}`;
    devices.push({
      key,
      tenant,
      id,
      name: status.name ?? id,
      group: byTenant ? tenant : (status.site ?? ''),
      health: status.status === 'online' ? 'up' : status.status === 'offline' ? 'down' : 'unknown',
      alerts: alerts.get(place) ?? 0,
      isBusy: busy.has(place),
      status,
    });
  }
  return devices.sort((one, other) => compare(one.group, other.group) || compare(one.name, other.name));
}

/** Whether a device is among what was searched for: every word stands in its name, id or site, or is its state. */
export function matches(device: Device, search: string): boolean {
  const text = `${device.name} ${device.id} ${device.status.site ?? ''} ${device.tenant} ${device.health}${device.alerts > 0 ? ' alert' : ''}`;
  const lower = text.toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => lower.includes(word));
}

const compare = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0);

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
