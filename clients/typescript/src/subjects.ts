import type { TidingsEvent } from './events.js';

/** How an event's subject is found in its payload, by the event's type. */
export interface SubjectRule {
  /** The type that the subject is kept as. */
  readonly keptAs: string;
  /** The fields that name it; of alternatives the first that is there. */
  readonly key: readonly (string | readonly string[])[];
  /** Whether the subject lives no longer after an event. */
  readonly ends?: (data: Readonly<Record<string, unknown>>) => boolean;
}

const ends =
  (...stages: string[]) =>
  (data: Readonly<Record<string, unknown>>) =>
    stages.includes(data['stage'] as string);

/** The server's own rules; a deployment that has others gives them to the store as well. */
export const SUBJECTS: Readonly<Record<string, SubjectRule>> = {
  device_status: { keptAs: 'device_status', key: ['device_id'] },
  metric_update: { keptAs: 'metric_update', key: ['device_id', 'type'] },
  alert_fired: { keptAs: 'alert_fired', key: ['alert_event_id'] },
  alert_resolved: { keptAs: 'alert_fired', key: ['alert_event_id'], ends: () => true },
  config_push: {
    keptAs: 'config_push',
    key: [['push_operation_id', 'device_id']],
    ends: ends('committed', 'reverted', 'failed'),
  },
  firmware_progress: { keptAs: 'firmware_progress', key: ['job_id'], ends: ends('completed', 'failed') },
};

/** What an event does to the subjects: which it is about, and whether it ends it. */
export interface Effect {
  readonly keptAs: string;
  /** Unique among the subjects that are kept as the same type, of all tenants. */
  readonly key: string;
  readonly ends: boolean;
}

/** Finds an event's subject; `undefined` where it has none. */
export function effectOf(
  event: TidingsEvent,
  rules: Readonly<Record<string, SubjectRule>>,
): Effect | undefined {
  const data: Readonly<Record<string, unknown>> = event.data;
  const tenant = event.data.tenant_id;
  if (event.type === 'removed') {
    const { type, subject } = data as { type?: string; subject?: string };
    if (type === undefined || subject === undefined) return undefined;
    return { keptAs: type, key: `${tenant}/${subject}`, ends: true };
  }
  const rule = Object.hasOwn(rules, event.type) ? rules[event.type] : undefined;
  if (rule === undefined) return undefined;
  const parts = [tenant];
  for (const names of rule.key) {
    const part = typeof names === 'string' ? value(data[names]) : alternative(data, names);
    if (part === undefined) return undefined;
    parts.push(part);
  }
  return { keptAs: rule.keptAs, key: parts.join('/'), ends: rule.ends?.(data) ?? false };
}

function alternative(data: Readonly<Record<string, unknown>>, names: readonly string[]): string | undefined {
  for (const [place, name] of names.entries()) {
    const found = value(data[name]);
    if (found !== undefined) return place === 0 ? found : `~${name}:${found}`;
    // A list or an object is no name, and nothing stands in for it.
    if (typeof data[name] === 'object' && data[name] !== null) return undefined;
  }
  return undefined;
}

function value(given: unknown): string | undefined {
  if (typeof given === 'number' || typeof given === 'boolean') return String(given);
  if (typeof given !== 'string' || given === '') return undefined;
  return given.replaceAll('~', '~0').replaceAll('/', '~1');
}
