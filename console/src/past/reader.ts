import type { Fleet } from '@tidings/client/fleet';
import type { Api, HistoryPage } from '../api';
import { type Stretch, STATUS_TYPES, subjectsOf, Timeline, WORK_TYPES } from './timeline';

/** A stretch of the history that is read, window by window, to both sides. */
interface Track extends Stretch {
  readonly types: string;
  timeline: Timeline;
  from: number;
  to: number;
  /** How long the next window is, in milliseconds. */
  step: number;
  isFromBeginning: boolean;
  end: ReturnType<typeof subjectsOf> | undefined;
}

/** How far reading is. */
export type Reading = 'reading' | 'done' | 'stopped' | 'failed';

const FIRST_STEP = 60_000;
/** Beyond this a new stretch is begun at the moment that is asked for, rather than everything up to it read. */
const FAR = 30 * 60_000;
/** What is read beyond the moment, so that steps around it cost nothing. */
const AHEAD = 2 * 60_000;
/** Requests for one moment; then somebody is asked whether to go on. */
const MOST_REQUESTS = 600;
/** Steps that a page holds; beyond that nothing older is read. */
const MOST_STEPS = 2_000_000;

/**
 * Reads as much of the history as a moment needs, newest first: back from it until something is known of every device,
 * and, for alerts and jobs, as far back as events are retained. The page is shown what is known meanwhile.
 */
export class Reader {
  /** The oldest retained event, and the moment up to which is read; of the server's clock. Equal until both are known. */
  oldest = 0;
  now = 0;
  readonly statuses: Track;
  readonly work: Track;
  reading: Reading = 'reading';
  failure = '';
  /** How many events were read. */
  events = 0;
  /** Counts what was read, for those who compute from it. */
  version = 0;

  #wanted: number | undefined;
  #requests = 0;
  #isRunning = false;
  #isBegun = false;
  #isCut = false;
  #isOver = false;
  #captured: ReturnType<typeof subjectsOf> | undefined;

  constructor(
    readonly api: Api,
    readonly tenants: readonly string[],
    readonly live: () => Fleet,
    readonly onChange: () => void,
  ) {
    this.statuses = track(STATUS_TYPES);
    this.work = track(WORK_TYPES);
  }

  /** Whether the fleet at a moment can be shown: what changes there was read. */
  covers(at: number): boolean {
    return this.#isBegun && at >= this.statuses.from && at <= this.statuses.to;
  }

  /** Reads for a moment; what was asked for before is given up where it is not needed for it. */
  look(at: number): void {
    if (this.#wanted === at) return;
    this.#wanted = at;
    this.#requests = 0;
    void this.#run();
  }

  stop(): void {
    if (this.reading === 'reading') this.#become('stopped');
  }

  goOn(): void {
    this.#requests = 0;
    void this.#run();
  }

  close(): void {
    this.#isOver = true;
  }

  /** How many devices have their first event behind the moment, so that earlier ones may tell of them. */
  unknownAt(at: number): number {
    let count = 0;
    const { timeline, end } = this.statuses;
    const kept = timeline.kept.get('device_status');
    for (const steps of kept?.values() ?? []) if ((steps[0]?.at ?? at) > at) count += 1;
    if (end === undefined)
      for (const [key, status] of this.live().devices)
        if (!kept?.has(key) && this.tenants.includes(status.tenant_id)) count += 1;
    return count;
  }

  async #run(): Promise<void> {
    this.#become('reading');
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      if (!this.#isBegun) await this.#begin();
      for (let window = this.#next(); window && this.#may(); window = this.#next()) await window();
      if (this.#isReading()) this.#become(this.#requests > MOST_REQUESTS ? 'stopped' : 'done');
    } catch (error) {
      this.failure = (error as Error).message;
      this.#become('failed');
    } finally {
      this.#isRunning = false;
    }
  }

  #isReading(): boolean {
    return !this.#isOver && this.reading === 'reading';
  }

  #may(): boolean {
    return this.#isReading() && this.#requests <= MOST_REQUESTS;
  }

  async #begin(): Promise<void> {
    // Before the time is asked for: every event in this picture is then older than the end of what is read.
    const live = this.live();
    const captured = live.isComplete && live.connection.state === 'live' ? subjectsOf(live) : undefined;
    let [oldest, now] = [Infinity, 0];
    for (const tenant of this.tenants) {
      const found = await this.api.oldest(tenant);
      oldest = Math.min(oldest, found.at ?? Infinity);
      // The header counts in whole seconds, and its second may have begun.
      now = Math.max(now, found.now + 1000);
      this.#isCut ||= found.isCut;
    }
    this.now = now;
    this.oldest = Math.min(oldest, now - 1000);
    this.#captured = captured;
    for (const each of [this.statuses, this.work]) this.#anchor(each, now);
    this.#isBegun = true;
    this.#tell();
  }

  /** Begins a stretch that ends at a moment. */
  #anchor(track: Track, end: number): void {
    track.timeline = new Timeline();
    track.from = track.to = Math.min(end, this.now);
    track.step = FIRST_STEP;
    track.isFromBeginning = false;
    track.end = track.to === this.now ? this.#captured : undefined;
  }

  /** What is to be read next, the most needed first. */
  #next(): (() => Promise<void>) | undefined {
    const at = this.#wanted ?? this.now;
    const { statuses, work } = this;
    if (this.#isFar()) this.#anchor(statuses, at + AHEAD);
    if (at > statuses.to) return () => this.#forth(statuses);
    const canGoBack = (track: Track) =>
      track.from > this.oldest && statuses.timeline.steps + work.timeline.steps < MOST_STEPS;
    if (canGoBack(statuses) && (at < statuses.from || statuses.from === statuses.to))
      return () => this.#back(statuses);
    if (canGoBack(work) && at < work.from) return () => this.#back(work);
    if (canGoBack(statuses) && this.unknownAt(at) > 0) return () => this.#back(statuses);
    if (canGoBack(work)) return () => this.#back(work);
    return undefined;
  }

  /** Whether the moment is so far from what was read of the devices that another stretch is begun there. */
  #isFar(): boolean {
    const at = this.#wanted ?? this.now;
    return at < this.statuses.from - FAR || at > this.statuses.to + FAR;
  }

  async #back(track: Track): Promise<void> {
    const to = track.from;
    const from = Math.max(this.oldest, to - track.step);
    const earlier = await this.#read(track, from, to);
    if (earlier === undefined || track.from !== to) return;
    track.timeline.prepend(earlier);
    track.from = from;
    track.isFromBeginning = from === this.oldest && !this.#isCut;
    this.#tell();
  }

  async #forth(track: Track): Promise<void> {
    const from = track.to;
    const to = Math.min(this.now, from + track.step);
    const later = await this.#read(track, from, to);
    if (later === undefined || track.to !== from) return;
    track.timeline.append(later);
    track.to = to;
    if (to === this.now) track.end = this.#captured;
    this.#tell();
  }

  /** Everything of a window, or nothing where the reader is stopped meanwhile. */
  async #read(track: Track, from: number, to: number): Promise<Timeline | undefined> {
    const read = new Timeline();
    const before = this.#requests;
    // The end is exclusive, the beginning is not; times have microseconds, of which a client's have three digits less.
    const [since, until] = [new Date(from).toISOString(), new Date(to).toISOString()];
    for (const tenant of this.tenants) {
      let after: string | undefined;
      while (true) {
        const begin = after === undefined ? { since } : { after };
        const query = { ...begin, until, types: track.types, limit: '1000' };
        const page: HistoryPage = await this.api.history(tenant, query);
        if (!this.#isReading() || (track === this.statuses && this.#isFar() && track.from !== track.to))
          return undefined;
        this.#requests += 1;
        this.events += page.events.length;
        for (const event of page.events) read.take(event);
        if (page.next === after) break;
        after = page.next;
        if (this.#requests % 10 === 0) this.onChange();
      }
    }
    // Longer windows cost fewer requests; too long a one is long in giving up.
    if (this.#requests - before < 20) track.step *= 2;
    return read;
  }

  #become(reading: Reading): void {
    this.reading = reading;
    if (!this.#isOver) this.onChange();
  }

  #tell(): void {
    this.version += 1;
    if (!this.#isOver) this.onChange();
  }
}

function track(types: readonly string[]): Track {
  return {
    types: types.join(),
    timeline: new Timeline(),
    from: 0,
    to: 0,
    step: FIRST_STEP,
    isFromBeginning: false,
    end: undefined,
  };
}
