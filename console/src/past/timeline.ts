import type {
  Alert,
  ConfigPush,
  DeviceStatus,
  FirmwareProgress,
  Payload,
  TidingsEvent,
} from '@tidings/client';
import { effectOf, type Fleet, SUBJECTS } from '@tidings/client/fleet';
import type { Told } from '../api';

/** What became of a subject, and when: a stretch from here to the next step in which it looked the same. */
export interface Step {
  /** When the event was appended, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** How it looked; equal for events that change nothing that a glance shows. */
  readonly word: string;
  /** The payload of the first event of the stretch. */
  readonly data: Payload;
  /** The subject lived no longer. */
  readonly isEnd: boolean;
}

/** Events that change what the fleet's pages show; measurements are not among them. */
export const STATUS_TYPES = ['device_status'];
export const WORK_TYPES = ['alert_fired', 'alert_resolved', 'config_push', 'firmware_progress'];

/**
 * How subjects looked between two moments of the retained history. Of events that tell the same only the first is kept,
 * so that a device that reports every minute costs by its changes, not by its reports.
 */
export class Timeline {
  /** The steps of each subject, ascending: by what it is kept as, then by its key. */
  readonly kept = new Map<string, Map<string, Step[]>>();
  steps = 0;

  /** Takes an event that is later than all before. */
  take({ id, type, time, data }: Told): void {
    const event = { id, type, data } as TidingsEvent;
    const effect = effectOf(event, SUBJECTS);
    if (effect === undefined) return;
    const word = effect.ends ? 'ended' : wordOf(event);
    const steps = this.#of(effect.keptAs, effect.key);
    if (steps.at(-1)?.word === word) return;
    steps.push({ at: Date.parse(time), word, data: event.data, isEnd: effect.ends });
    this.steps += 1;
  }

  /** Puts what was between this one's end and a later moment behind it. */
  append(later: Timeline): void {
    for (const [type, subjects] of later.kept)
      for (const [key, steps] of subjects) {
        const own = this.#of(type, key);
        for (const step of steps) if (own.at(-1)?.word !== step.word) own.push(step);
      }
    this.steps = this.#count();
  }

  /** Puts what was between an earlier moment and this one's beginning before it. */
  prepend(earlier: Timeline): void {
    for (const [type, subjects] of earlier.kept)
      for (const [key, steps] of subjects) {
        const own = this.#of(type, key);
        // What goes on as it was before the seam began earlier.
        if (steps.at(-1)?.word === own[0]?.word) own.shift();
        own.unshift(...steps);
      }
    this.steps = this.#count();
  }

  #of(type: string, key: string): Step[] {
    let subjects = this.kept.get(type);
    if (subjects === undefined) this.kept.set(type, (subjects = new Map<string, Step[]>()));
    let steps = subjects.get(key);
    if (steps === undefined) subjects.set(key, (steps = []));
    return steps;
  }

  #count(): number {
    let count = 0;
    for (const subjects of this.kept.values()) for (const steps of subjects.values()) count += steps.length;
    return count;
  }
}

function wordOf({ type, data }: TidingsEvent): string {
  const told: Readonly<Record<string, unknown>> = data;
  const said =
    type === 'device_status' ? [told['status']] : [told['stage'], told['severity'], told['is_flapping']];
  return JSON.stringify(said);
}

/** A stretch of the history that was read, and what else is known of the subjects in it. */
export interface Stretch {
  readonly timeline: Timeline;
  /** Whether nothing was ever taken away: what begins within it did not exist before. */
  readonly isFromBeginning: boolean;
  /** How things are, where the stretch reaches up to it: what did not change within it was so all the time. */
  readonly end: Subjects | undefined;
}

type Subjects = ReadonlyMap<string, ReadonlyMap<string, Payload>>;

/** How things are, by what they are kept as. */
export function subjectsOf(fleet: Fleet): Subjects {
  return new Map<string, ReadonlyMap<string, Payload>>([
    ['device_status', fleet.devices],
    ['alert_fired', fleet.alerts],
    ['config_push', fleet.pushes],
    ['firmware_progress', fleet.firmware],
  ]);
}

/** What is known of the subjects of one kind at a moment. */
export interface Known {
  readonly subjects: Map<string, Payload>;
  /** Since when each looked so; absent where that is before all that was read. */
  readonly since: Map<string, number>;
  /** Those that there are or may have been, of which no event up to the moment was read. */
  readonly unknown: Map<string, Payload>;
}

/** How the subjects of one kind were at a moment within a stretch, as far as the events and the state now prove it. */
export function knownAt({ timeline, isFromBeginning, end }: Stretch, keptAs: string, at: number): Known {
  const known: Known = { subjects: new Map(), since: new Map(), unknown: new Map() };
  for (const [key, steps] of timeline.kept.get(keptAs) ?? []) {
    const step = steps[placeBefore(steps, at)];
    if (step !== undefined) {
      if (step.isEnd) continue;
      known.subjects.set(key, step.data);
      known.since.set(key, step.at);
      continue;
    }
    const [first] = steps;
    if (first === undefined) continue;
    // What ended later was there.
    if (first.isEnd && keptAs !== 'device_status') known.subjects.set(key, first.data);
    else if (!isFromBeginning && keptAs === 'device_status') known.unknown.set(key, first.data);
  }
  for (const [key, data] of end?.get(keptAs) ?? [])
    if (!timeline.kept.get(keptAs)?.has(key)) known.subjects.set(key, data);
  return known;
}

/** The place of the last step that is not after a moment, or -1. */
function placeBefore(steps: readonly Step[], at: number): number {
  let [low, high] = [0, steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((steps[middle]?.at ?? Infinity) <= at) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The fleet at a moment. */
export interface Then {
  readonly devices: Map<string, DeviceStatus>;
  readonly alerts: Map<string, Alert>;
  readonly pushes: Map<string, ConfigPush>;
  readonly firmware: Map<string, FirmwareProgress>;
  readonly since: ReadonlyMap<string, number>;
  /** Devices that are among `devices` without a status, since none is known. */
  readonly unknown: number;
}

/** Puts together what is known of devices and of alerts and jobs, each from a stretch of its own. */
export function fleetAt(
  statuses: Stretch,
  work: Stretch,
  live: Fleet,
  tenants: readonly string[],
  at: number,
): Then {
  const known = knownAt(statuses, 'device_status', at);
  const devices = known.subjects as Map<string, DeviceStatus>;
  const among = new Set(tenants);
  // A device that is there now and of which nothing was read may have been there as well.
  if (statuses.end === undefined && !statuses.isFromBeginning)
    for (const [key, status] of live.devices)
      if (among.has(status.tenant_id) && !statuses.timeline.kept.get('device_status')?.has(key))
        known.unknown.set(key, status);
  for (const key of [...devices.keys()]) if (!among.has(key.slice(0, key.indexOf('/')))) devices.delete(key);
  for (const [key, data] of known.unknown) {
    const { tenant_id, device_id, name, site } = data as DeviceStatus;
    devices.set(key, {
      tenant_id,
      ...(device_id === undefined ? {} : { device_id }),
      ...(name === undefined ? {} : { name }),
      ...(site === undefined ? {} : { site }),
    });
  }
  const of = (keptAs: string) => {
    const { subjects } = knownAt(work, keptAs, at);
    for (const [key, data] of subjects) if (!among.has(data.tenant_id)) subjects.delete(key);
    return subjects;
  };
  return {
    devices,
    alerts: of('alert_fired'),
    pushes: of('config_push'),
    firmware: of('firmware_progress'),
    since: known.since,
    unknown: known.unknown.size,
  };
}

/** When something changed that a glance shows, ascending: where somebody who looks for it steps to. */
export function changesOf(statuses: Timeline, work: Timeline): number[] {
  const changes: number[] = [];
  const add = (steps: readonly Step[], from: number) => {
    for (const step of steps.slice(from)) changes.push(step.at);
  };
  // A device's first step is only where what was read begins.
  for (const steps of statuses.kept.get('device_status')?.values() ?? []) add(steps, 1);
  for (const steps of work.kept.get('alert_fired')?.values() ?? []) add(steps, 0);
  return changes.sort((one, other) => one - other);
}

/** How many devices were down and how many alerts open, at evenly spaced moments. */
export interface Course {
  readonly down: readonly number[];
  readonly alerts: readonly number[];
}

export function courseOf(statuses: Stretch, work: Stretch, from: number, to: number, places: number): Course {
  const place = (at: number) =>
    Math.min(places, Math.max(0, Math.ceil((places * (at - from)) / Math.max(1, to - from))));
  const count = (stretch: Stretch, keptAs: string, counts: (step: Payload) => boolean) => {
    // Differences first: each stretch adds one where it begins and takes it away where it ends.
    const delta = new Array<number>(places + 1).fill(0);
    const add = (at: number, by: number) => (delta[place(at)] = (delta[place(at)] ?? 0) + by);
    for (const steps of stretch.timeline.kept.get(keptAs)?.values() ?? [])
      for (const [index, step] of steps.entries())
        if (!step.isEnd && counts(step.data)) {
          add(step.at, 1);
          const next = steps[index + 1];
          if (next !== undefined) add(next.at, -1);
        } else if (index === 0 && step.isEnd && keptAs !== 'device_status') {
          add(from, 1);
          add(step.at, -1);
        }
    for (const [key, data] of stretch.end?.get(keptAs) ?? [])
      if (!stretch.timeline.kept.get(keptAs)?.has(key) && counts(data)) add(from, 1);
    let sum = 0;
    return delta.slice(0, places).map((by) => (sum += by));
  };
  return {
    down: count(statuses, 'device_status', (data) => data['status'] === 'offline'),
    alerts: count(work, 'alert_fired', () => true),
  };
}
