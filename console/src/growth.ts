/** What a counter of the server stood at. */
export interface Count {
  readonly count: number;
  /** When it began: counters with another beginning are not the same one, as of another node or of before a restart. */
  readonly since: string;
}

/** Answers over which a rate is taken: single ones vary with when a publisher's body came. */
const LOOKED_AT = 3;

/** How fast counters grow, by a name for each. */
export class Growth {
  readonly #samples = new Map<string, { at: number; count: number }[]>();

  /** Takes what a counter stood at; `at` is in milliseconds, of a clock that only goes forward. */
  take(name: string, { count, since }: Count, at: number): void {
    const key = `${name} ${since}`;
    let samples = this.#samples.get(key);
    if (samples === undefined) this.#samples.set(key, (samples = []));
    const last = samples.at(-1);
    if (last !== undefined && (count < last.count || at <= last.at)) samples.length = 0;
    samples.push({ at, count });
    if (samples.length > LOOKED_AT) samples.shift();
  }

  /** A second's growth; `undefined` before there are two counts of the same beginning. */
  rate(name: string, since: string): number | undefined {
    const samples = this.#samples.get(`${name} ${since}`) ?? [];
    const [first, last] = [samples[0], samples.at(-1)];
    if (first === undefined || last === undefined || first === last) return undefined;
    return (1000 * (last.count - first.count)) / (last.at - first.at);
  }
}
