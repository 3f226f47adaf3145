/** Seconds that are remembered. */
export const REMEMBERED = 900;

/** Seconds without a note after which the line's state in them is not known. */
const LONGEST_PAUSE = 30;

/** Tenants of which each has counts of its own; the events of further ones count in the sum alone. */
const MOST_TENANTS = 500;

/** What is counted apart: all events, those of a type, those of a tenant. */
export type Kind = 'all' | 'type' | 'tenant';

/**
 * How many events this page's stream brought in each of the last seconds, in memory of one size however long it stands.
 * Seconds without a live line are marked: what is missing there was not nothing.
 */
export class Rates {
  readonly #counts = new Map<string, Uint32Array>();
  readonly #isLive = new Uint8Array(REMEMBERED);
  #wasLive = false;
  #second = 0;
  #began = 0;
  #tenants = 0;

  /** Counts an event that arrived at `now` (milliseconds since the Unix epoch). */
  count(type: string, tenant: string, now: number): void {
    this.#advance(now);
    const place = this.#second % REMEMBERED;
    this.#add('all', place);
    this.#add(`type:${type}`, place);
    const name = `tenant:${tenant}`;
    if (!this.#counts.has(name) && ++this.#tenants > MOST_TENANTS) return;
    this.#add(name, place);
  }

  /** Notes how it stands with the line; called every second or so, and when that changes. */
  note(isLive: boolean, now: number): void {
    this.#advance(now);
    this.#wasLive = isLive;
    this.#isLive[this.#second % REMEMBERED] = isLive ? 1 : 0;
  }

  /** What is counted under a kind. */
  names(kind: Kind): string[] {
    const prefix = `${kind}:`;
    return [...this.#counts.keys()]
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length));
  }

  /** Events in each whole second up to `now`, the newest last; `null` for a second without a live line. */
  course(kind: Kind, name: string, now: number): { at: number[]; values: (number | null)[] } {
    this.#advance(now);
    const counts = this.#counts.get(kind === 'all' ? 'all' : `${kind}:${name}`);
    const at: number[] = [];
    const values: (number | null)[] = [];
    // The second that goes on is not whole.
    for (let second = Math.max(this.#began, this.#second - REMEMBERED + 1); second < this.#second; second++) {
      const place = second % REMEMBERED;
      at.push(second);
      values.push(this.#isLive[place] ? (counts?.[place] ?? 0) : null);
    }
    return { at, values };
  }

  #add(name: string, place: number): void {
    let counts = this.#counts.get(name);
    if (counts === undefined) this.#counts.set(name, (counts = new Uint32Array(REMEMBERED)));
    counts[place] = (counts[place] ?? 0) + 1;
  }

  /** Goes on to the second of `now`; a clock that was set back counts on in the newest second. */
  #advance(now: number): void {
    const second = Math.floor(now / 1000);
    if (this.#began === 0) this.#began = this.#second = second;
    const passed = Math.min(REMEMBERED, second - this.#second);
    // A timer that is a little late skips a second; after a longer pause, as of a computer that slept, nothing is known.
    const isLive = this.#wasLive && passed <= LONGEST_PAUSE ? 1 : 0;
    for (let step = passed - 1; step >= 0; step--) {
      const place = (second - step) % REMEMBERED;
      this.#isLive[place] = isLive;
      for (const counts of this.#counts.values()) counts[place] = 0;
    }
    if (passed > 0) this.#second = second;
  }
}

/** The mean of the newest values that are known, or nothing. */
export function mean(values: readonly (number | null)[], newest: number): number | undefined {
  const known = values.slice(-newest).filter((value) => value !== null);
  return known.length === 0 ? undefined : known.reduce((sum, value) => sum + value, 0) / known.length;
}
