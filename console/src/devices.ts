import type { DeviceStatus } from '@tidings/client';
import type { Fleet } from '@tidings/client/fleet';

export type Health = 'up' | 'down' | 'unknown';

/** A device as the fleet's pages show it. It never changes: what looks the same later is the same object. */
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

/** What the pages need of a fleet, as it is or as it was. */
export type Shown = Pick<Fleet, 'devices' | 'alerts' | 'pushes' | 'firmware'>;

/**
 * All devices, in the order of their groups and names.
 *
 * A fleet of ten thousand changes hundreds of times a second and hardly ever in its order: what has not changed is kept,
 * and nothing is sorted anew unless a device came, went, or has another name or group.
 */
export class Roster {
  #list: readonly Device[] = [];
  #places = new Map<string, number>();
  #of: Shown | undefined;
  #byTenant = false;

  /** The devices of `fleet`; the same list as before where none of them looks different. */
  list(fleet: Shown, byTenant: boolean): readonly Device[] {
    const before = this.#of;
    if (before && this.#byTenant === byTenant && isSame(before, fleet)) return this.#list;
    const isOrdered = this.#byTenant === byTenant && this.#list.length === fleet.devices.size;
    [this.#of, this.#byTenant] = [fleet, byTenant];
    const about = marks(fleet);
    if (!isOrdered || !this.#amend(fleet, about)) this.#sort(fleet, about);
    return this.#list;
  }

  /** Puts the devices that have changed in their places; false where the order may have changed. */
  #amend(fleet: Shown, about: Marks): boolean {
    let list: Device[] | undefined;
    for (const [key, status] of fleet.devices) {
      const place = this.#places.get(key);
      const known = place === undefined ? undefined : this.#list[place];
      if (place === undefined || known === undefined) return false;
      const mark = about.get(key) ?? NO_MARK;
      if (known.status === status && known.alerts === mark.alerts && known.isBusy === mark.isBusy) continue;
      const device = made(key, status, mark, this.#byTenant);
      if (device.name !== known.name || device.group !== known.group) return false;
      list ??= [...this.#list];
      list[place] = device;
    }
    this.#list = list ?? this.#list;
    return true;
  }

  #sort(fleet: Shown, about: Marks): void {
    const list: Device[] = [];
    for (const [key, status] of fleet.devices)
      list.push(made(key, status, about.get(key) ?? NO_MARK, this.#byTenant));
    this.#list = list.sort(
      (one, other) =>
        compare(one.group, other.group) || compare(one.name, other.name) || compare(one.key, other.key),
    );
    this.#places = new Map(list.map(({ key }, place) => [key, place]));
  }
}

interface Mark {
  alerts: number;
  isBusy: boolean;
}
type Marks = ReadonlyMap<string, Mark>;
const NO_MARK: Mark = { alerts: 0, isBusy: false };

const isSame = (one: Shown, other: Shown): boolean =>
  one.devices === other.devices &&
  one.alerts === other.alerts &&
  one.pushes === other.pushes &&
  one.firmware === other.firmware;

/** What stands at devices beside their status: few have anything. */
function marks(fleet: Shown): Marks {
  const found = new Map<string, Mark>();
  const mark = (of: { tenant_id: string; device_id?: string }) => {
    const key = keyOf(of);
    let made = found.get(key);
    if (made === undefined) found.set(key, (made = { ...NO_MARK }));
    return made;
  };
  for (const alert of fleet.alerts.values()) mark(alert).alerts += 1;
  for (const job of fleet.pushes.values()) mark(job).isBusy = true;
  for (const job of fleet.firmware.values()) mark(job).isBusy = true;
  return found;
}

/** The key under which the fleet keeps the device that a payload is about. */
export function keyOf({ tenant_id, device_id = '' }: { tenant_id: string; device_id?: string }): string {
  return `${tenant_id}/${device_id}`;
}

function made(key: string, status: DeviceStatus, mark: Mark, byTenant: boolean): Device {
  const { tenant_id: tenant, device_id: id = '' } = status;
  return {
    key,
    tenant,
    id,
    name: status.name ?? id,
    group: byTenant ? tenant : (status.site ?? ''),
    health: healthOf(status),
    alerts: mark.alerts,
    isBusy: mark.isBusy,
    status,
  };
}

export function healthOf(status: DeviceStatus): Health {
  return status.status === 'online' ? 'up' : status.status === 'offline' ? 'down' : 'unknown';
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
