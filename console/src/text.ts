/** A span as people say it: `12 s`, `4 min`, `3 h`, `2 d`. */
export function span(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit] ?? ''}`;
}

export const clock = (at: number): string => new Date(at).toLocaleTimeString(undefined, { hour12: false });

export const moment = (at: number): string =>
  new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

/** A short form of a long id, that still tells two apart. Names that people gave are left as they are. */
export function short(id: string): string {
  const isForPeople = /[^0-9a-f-]/i.test(id) && id.length <= 48;
  return isForPeople || id.length <= 20 ? id : `${id.slice(0, 8)}…${id.slice(-4)}`;
}

/** A text of a payload, whatever stands there. */
export function words(value: unknown): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean') return value.toString();
  return value === null || value === undefined ? '' : JSON.stringify(value);
}

/** One line that says what an event is about. */
export function gist(type: string, data: Readonly<Record<string, unknown>>): string {
  const kind =
    type === 'metric_update' ? data['type'] : (data['status'] ?? data['severity'] ?? data['stage']);
  const said = data['message'] ?? data['target_version'] ?? data['metric'];
  return [kind, said].map(words).filter(Boolean).join(' · ');
}
