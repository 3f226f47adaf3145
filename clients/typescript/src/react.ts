/**
 * The fleet store in React.
 *
 * @packageDocumentation
 */
import { useSyncExternalStore } from 'react';
import type { Fleet, FleetStore } from './fleet.js';

/**
 * Renders with the fleet, or with the part of it that `select` picks. What has not changed is the same object, so
 * `(fleet) => fleet.devices.get(key)` renders only with its device.
 */
export function useFleet(store: FleetStore): Fleet;
export function useFleet<Part>(store: FleetStore, select: (fleet: Fleet) => Part): Part;
export function useFleet(store: FleetStore, select: (fleet: Fleet) => unknown = (fleet) => fleet): unknown {
  const part = () => select(store.getSnapshot());
  return useSyncExternalStore(store.subscribe, part, part);
}
