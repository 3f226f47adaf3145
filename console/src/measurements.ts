import type { MetricUpdate } from '@tidings/client';
import type { Api, HistoryPage, Told } from './api';

/** How far back a device's measurements are shown, in milliseconds. */
export const WINDOW = 30 * 60_000;

/** How long the spans are that are read one after the other, the newest first. */
const STEPS = [2 * 60_000, 8 * 60_000, 20 * 60_000];

/** Requests for one device: a page of the history looks at 200,000 events of the tenant and then says where to go on. */
const MOST_REQUESTS = 60;

/** A device's own time is taken where it is not further than this ahead of when the server had the event. */
const AHEAD = 60_000;

/** Counters that were read nearer to each other than this say nothing of a rate: times can be of whole seconds. */
const NEAR = 500;

/** Measurements that are kept; of a page that stands for days the oldest go. */
const MOST_SAMPLES = 20_000;

/** What the newest page goes back beyond the page's opening, in milliseconds: more than two clocks can be apart unseen. */
const BACK = 5_000;

/** A measurement, and when it was made. */
interface Sample {
  readonly id: string;
  /** When it was made: the device's own time, else the server's. */
  readonly at: number;
  /** When the server had it; where that was not read yet, when this page had it, on the server's clock. */
  readonly storedAt: number;
  /** Whether `storedAt` is the server's. */
  readonly isStored: boolean;
  readonly isOwnTime: boolean;
  readonly data: Readonly<Record<string, unknown>>;
}

/** A span of which not everything was read, in milliseconds. */
interface Span {
  readonly from: number;
  readonly to: number;
}

/** A figure over time; `null` where the line is broken. */
export interface Series {
  readonly title: string;
  readonly unit: string;
  readonly at: number[];
  readonly values: (number | null)[];
}

/**
 * The measurements of one device: those that the stream brings, and those of the last half hour that the history has,
 * read from the newest to the oldest. Where something was not read, no line is drawn.
 */
export class Measurements {
  /** Why the history was not read to its end. */
  failure = '';
  isReading = false;
  /** Whether there was too much to read: what is older is not shown. */
  isCut = false;

  readonly #samples = new Map<string, Sample>();
  readonly #end = new AbortController();
  #unread: Span[];
  /** Of these something is gone for good. */
  readonly #lost: Span[] = [];
  /** Since when the line is not live. */
  #offSince: number | undefined;
  /** Since when the stream's times may be those of a catching up; until what it brought is read. */
  #inDoubtSince: number | undefined;
  #isDue = true;
  #series: Series[] | undefined;

  constructor(
    readonly api: Pick<Api, 'history' | 'now' | 'said'>,
    readonly tenant: string,
    readonly device: string,
    readonly onChange: () => void,
  ) {
    const now = api.now();
    this.#unread = [{ from: now - WINDOW, to: now }];
  }

  /** Takes what the stream brought. */
  take(id: string, data: Sample['data'], arrivedAt: number): void {
    const known = this.#samples.get(id);
    if (known?.isStored) return;
    this.#add(id, data, arrivedAt, false);
    this.#series = undefined;
  }

  /** The line is not live: what comes now is not told, or later and all at once. */
  breakOff(): void {
    this.#offSince ??= this.api.now();
    this.#series = undefined;
  }

  /** The line is live again: what there was meanwhile is read, for the times that it has in the history. */
  goOn(): void {
    if (this.#offSince === undefined) return;
    this.#unread.push({ from: this.#offSince, to: this.api.now() });
    this.#inDoubtSince ??= this.#offSince;
    this.#offSince = undefined;
    this.#isDue = true;
    void this.read();
  }

  /** Something is missing on the stream, and nobody knows since when. */
  miss(): void {
    const now = this.api.now();
    this.#unread = [{ from: now - WINDOW, to: now }];
    this.#series = undefined;
    this.#isDue = true;
    void this.read();
  }

  close(): void {
    this.#end.abort();
  }

  /** Reads anew what could not be read. */
  again(): void {
    this.#isDue = true;
    void this.read();
  }

  /** Reads what was not, the newest first. */
  async read(): Promise<void> {
    if (this.isReading) return;
    this.isReading = true;
    this.failure = '';
    try {
      while (this.#isWanted()) {
        this.#isDue = false;
        await this.#readAll();
      }
    } catch (error) {
      this.#isDue = false;
      this.failure = (error as Error).message;
      this.#dropDoubtful();
    } finally {
      this.isReading = false;
      this.#changed();
    }
  }

  #isWanted(): boolean {
    return this.#isDue && !this.#end.signal.aborted;
  }

  /** What came in a catching up and was not read has no time that can be trusted. */
  #dropDoubtful(): void {
    const doubt = this.#inDoubtSince;
    this.#inDoubtSince = undefined;
    if (doubt === undefined) return;
    for (const [id, { isStored, isOwnTime, storedAt }] of this.#samples)
      if (!isStored && !isOwnTime && storedAt >= doubt) this.#samples.delete(id);
  }

  /** What the measurements say over time. */
  get series(): readonly Series[] {
    return (this.#series ??= this.#draw());
  }

  #draw(): Series[] {
    const { POSITIVE_INFINITY: ever } = Number;
    const doubt = this.#inDoubtSince ?? ever;
    const samples = [...this.#samples.values()]
      .filter(({ isStored, isOwnTime, storedAt }) => isStored || isOwnTime || storedAt < doubt)
      .sort((one, other) => one.at - other.at);
    const off = this.#offSince === undefined ? [] : [{ from: this.#offSince, to: ever }];
    return seriesOf(samples, [...this.#unread, ...this.#lost, ...off]);
  }

  async #readAll(): Promise<void> {
    this.isCut = false;
    const begun = this.api.now();
    const newest = begun - BACK;
    const requests = { left: MOST_REQUESTS };
    // Everything up to the moment: what comes from here on the stream tells. A page can end before it does, so the end is
    // where a page has nothing.
    let begin: Record<string, string> = { since: new Date(newest).toISOString() };
    while (requests.left-- > 0) {
      const page = await this.#page(begin);
      this.#keep(page.events);
      if (page.events.length === 0 || page.next === begin['after']) break;
      begin = { after: page.next };
    }
    this.#unread = this.#unread.flatMap((span) => without(span, { from: newest, to: this.api.now() }));
    this.#changed();
    // The server's own word: before it nothing can be added any more, so that each span has an end.
    let to = this.api.said;
    const oldest = to - WINDOW;
    for (const step of STEPS) {
      const from = Math.max(oldest, to - step);
      if (this.#unread.some((span) => span.from < to && span.to > from)) {
        if (!(await this.#readSpan(from, to, requests))) {
          this.isCut = true;
          this.#dropDoubtful();
          return;
        }
        this.#unread = this.#unread.flatMap((span) => without(span, { from, to }));
        this.#changed();
      }
      to = from;
    }
    // Who came back meanwhile is read once more.
    if (!this.#isDue) this.#inDoubtSince = undefined;
  }

  /** Reads a span to its end, page by page; false where that takes too many. */
  async #readSpan(from: number, to: number, requests: { left: number }): Promise<boolean> {
    const until = new Date(to).toISOString();
    let begin: Record<string, string> = { since: new Date(from).toISOString() };
    const found: Told[] = [];
    let lostFrom: number | undefined;
    while (true) {
      if (requests.left-- <= 0) return false;
      const page = await this.#page({ ...begin, until });
      // Expired or damaged: what was before it and what is behind it do not belong together.
      if (page.gap) lostFrom ??= timeOf(found.at(-1)) ?? from;
      const first = timeOf(page.events[0]);
      if (lostFrom !== undefined && first !== undefined) {
        this.#lost.push({ from: lostFrom, to: first });
        lostFrom = undefined;
      }
      found.push(...page.events);
      if (page.next === begin['after']) break;
      begin = { after: page.next };
    }
    if (lostFrom !== undefined) this.#lost.push({ from: lostFrom, to });
    this.#keep(found);
    return true;
  }

  #page(query: Record<string, string>): Promise<HistoryPage> {
    const all = { device_id: this.device, types: 'metric_update', limit: '1000', ...query };
    return this.api.history(this.tenant, all, this.#end.signal);
  }

  #keep(found: readonly Told[]): void {
    for (const { id, time, data } of found) this.#add(id, data, Date.parse(time), true);
  }

  #add(id: string, data: Sample['data'], storedAt: number, isStored: boolean): void {
    const said = data['collected_at'];
    const text = typeof said === 'string' ? said : '';
    const own = Date.parse(text);
    const isOwnTime = own <= storedAt + AHEAD && own >= storedAt - WINDOW;
    // A time of whole seconds means somewhere in its second: where the server had it in that, then.
    const within = /\.\d/.test(text) ? 0 : 999;
    const at = isOwnTime ? Math.min(Math.max(storedAt, own), own + within) : storedAt;
    this.#samples.set(id, { id, at, storedAt, isStored, isOwnTime, data });
    if (this.#samples.size <= MOST_SAMPLES) return;
    const oldest = [...this.#samples.values()].sort((one, other) => one.at - other.at);
    for (const { id } of oldest.slice(0, MOST_SAMPLES / 10)) this.#samples.delete(id);
  }

  #changed(): void {
    this.#series = undefined;
    if (!this.#end.signal.aborted) this.onChange();
  }
}

const timeOf = (told: Told | undefined): number | undefined =>
  told === undefined ? undefined : Date.parse(told.time);

/** What is left of a span without another. */
function without(span: Span, read: Span): Span[] {
  const left = [
    { from: span.from, to: Math.min(span.to, read.from) },
    { from: Math.max(span.from, read.to), to: span.to },
  ];
  return left.filter(({ from, to }) => from < to);
}

/** What a device's measurements say over time; numbers that it reports as text are read. */
function seriesOf(samples: readonly Sample[], unread: readonly Span[]): Series[] {
  const made = new Map<string, Series & { last: Sample }>();
  const isBroken = (before: Sample, { storedAt }: Sample) => {
    const [from, to] = [Math.min(before.storedAt, storedAt), Math.max(before.storedAt, storedAt)];
    return unread.some((span) => span.from < to && span.to > from);
  };
  const add = (title: string, unit: string, sample: Sample, value: unknown) => {
    const number = typeof value === 'string' ? Number.parseFloat(value) : value;
    if (typeof number !== 'number' || !Number.isFinite(number)) return;
    const at = sample.at / 1000;
    let series = made.get(title);
    if (series === undefined) made.set(title, (series = { title, unit, at: [], values: [], last: sample }));
    else if (series.last.at === sample.at) return;
    else if (isBroken(series.last, sample)) {
      series.at.push((series.last.at / 1000 + at) / 2);
      series.values.push(null);
    }
    series.last = sample;
    series.at.push(at);
    series.values.push(number);
  };
  let before: { sample: Sample; received: number; sent: number } | undefined;
  for (const sample of samples) {
    const metric = sample.data as unknown as MetricUpdate;
    const { health } = metric;
    if (health) {
      add('Processor', '%', sample, health['cpu_load']);
      const [free, total] = [Number(health['free_memory']), Number(health['total_memory'])];
      if (total > 0) add('Memory used', '%', sample, (100 * (total - free)) / total);
      add('Temperature', '°C', sample, health['temperature']);
    }
    if (metric.interfaces) {
      const sum = (name: string) =>
        metric.interfaces?.reduce((all, each) => all + (Number(each[name]) || 0), 0) ?? 0;
      const [received, sent] = [sum('rx_bytes'), sum('tx_bytes')];
      const milliseconds = before === undefined ? 0 : sample.at - before.sample.at;
      if (before && milliseconds < NEAR) continue;
      if (before && !isBroken(before.sample, sample) && received >= before.received && sent >= before.sent) {
        const rate = (bytes: number) => (bytes * 8) / 1e3 / milliseconds;
        add('Received', 'Mbit/s', sample, rate(received - before.received));
        add('Sent', 'Mbit/s', sample, rate(sent - before.sent));
      }
      before = { sample, received, sent };
    }
    const clients = metric.wireless?.reduce((all, each) => all + (Number(each['client_count']) || 0), 0);
    if (clients !== undefined) add('Wireless clients', '', sample, clients);
  }
  return [...made.values()]
    .filter(({ values }) => values.filter((value) => value !== null).length > 1)
    .map(({ title, unit, at, values }) => ({ title, unit, at, values }));
}
