// A device's measurements over time: against a server in memory that pages as the real one does.
import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { Measurements } = await bundled('src/measurements.ts');

const SECOND = 1_000;
const MINUTE = 60_000;
const NOW = Date.parse('2026-11-28T12:00:00Z');

const health = (load) => ({ type: 'health', health: { cpu_load: `${load}` } });
const traffic = (bytes) => ({ type: 'interfaces', interfaces: [{ rx_bytes: bytes, tx_bytes: 0 }] });
const iso = (at) => new Date(at).toISOString();
const told = (at, data) => ({ id: `e.${at}`, time: iso(at), type: 'metric_update', device_id: 'r1', data });

/** Looks at so many events of the tenant for a page; between two of the device there are many of others. */
class FakeApi {
  requests = [];
  /** A minute in a page: one is far from all. */
  examined = 600;
  clock = NOW;
  failures = 0;
  lostFrom = Infinity;
  lostTo = Infinity;

  constructor(events) {
    this.events = events;
  }

  now() {
    return this.clock;
  }

  get said() {
    return Math.floor(this.clock / SECOND) * SECOND;
  }

  history(tenant, query) {
    this.requests.push(query);
    if (this.failures-- > 0) return Promise.reject(new Error('not at the moment'));
    const since = query.after === undefined ? Date.parse(query.since) : Number(query.after) + 1;
    const until = Math.min(Date.parse(query.until ?? iso(this.clock + 1)), this.clock + 1);
    // An event of somebody comes every 100 ms; as many are looked at. First comes what is before what is missing.
    const { lostFrom, lostTo } = this;
    let end = Math.min(until, since + this.examined * 100);
    if (since < lostFrom && lostFrom < end) end = lostFrom;
    const events = this.events.filter(({ time }) => {
      const at = Date.parse(time);
      return at >= since && at < end && !(at >= lostFrom && at < lostTo);
    });
    const isGap = since >= lostFrom && since < lostTo;
    return Promise.resolve({
      events,
      next: String(Math.max(end - 1, since - 1)),
      ...(isGap ? { gap: { reason: 'expired', resumed_at: '' } } : {}),
    });
  }
}

const half = (every, data) => {
  const events = [];
  for (let at = NOW - 30 * MINUTE; at <= NOW; at += every) events.push(told(at, data(at)));
  return events;
};

const of = (api) => new Measurements(api, 'a', 'r1', () => {});
const find = (measurements, title) => measurements.series.find((series) => series.title === title);
const ascends = (at) => at.every((each, place) => place === 0 || each > at[place - 1]);

test('all pages of the last half hour are read, the newest first', async () => {
  const api = new FakeApi(half(10 * SECOND, () => health(7)));
  const measurements = of(api);
  await measurements.read();
  const { at, values } = find(measurements, 'Processor');
  assert.equal(values.length, 30 * 6 + 1);
  assert.ok(values.every((value) => value === 7));
  assert.ok(ascends(at));
  assert.equal(at.at(-1), NOW / 1000);
  const begins = api.requests.filter(({ since }) => since).map(({ since }) => Date.parse(since));
  assert.deepEqual(
    begins,
    [...begins].sort((one, other) => other - one),
    'the newest first',
  );
  assert.equal(measurements.isCut, false);
});

// What was published in the second in which the page was opened was missing for good where the first page ended early.
test('what came within the last second is read to its end, page by page', async () => {
  const events = [];
  for (let at = NOW; at < NOW + 500; at += 50) events.push(told(at, health(at - NOW)));
  const api = new FakeApi(events);
  api.clock = NOW + 500;
  api.examined = 47;
  const measurements = of(api);
  await measurements.read();
  const { values } = find(measurements, 'Processor');
  assert.deepEqual(values, [0, 50, 100, 150, 200, 250, 300, 350, 400, 450]);
});

test('where it is too much, what is newest is shown, and no line leads over what was not read', async () => {
  const api = new FakeApi(half(10 * SECOND, () => health(7)));
  api.examined = 60;
  const measurements = of(api);
  await measurements.read();
  assert.equal(measurements.isCut, true);
  const { at } = find(measurements, 'Processor');
  assert.equal(at.at(-1), NOW / 1000);
  assert.ok(at[0] > (NOW - 30 * MINUTE) / 1000, 'not the oldest');
});

test('what is not read yet breaks the line, and what is missing for good does so for ever', async () => {
  const api = new FakeApi(half(10 * SECOND, () => health(7)));
  const measurements = of(api);
  for (const [id, data] of [
    ['live.1', health(1)],
    ['live.2', health(2)],
  ]) {
    api.clock += 10 * SECOND;
    measurements.take(id, data, api.clock);
  }
  assert.deepEqual(find(measurements, 'Processor').values, [1, 2], 'since the page was opened');
  await measurements.read();
  assert.ok(!find(measurements, 'Processor').values.includes(null));
  // The stream tells of a gap.
  measurements.miss();
  assert.ok(find(measurements, 'Processor').values.includes(null), 'nothing is known until it is read');
  const before = api.requests.length;
  await measurements.read();
  while (measurements.isReading) await new Promise((resolve) => setTimeout(resolve));
  assert.ok(api.requests.length > before, 'it is read anew');
});

test('what was lost between two pages is no line', async () => {
  const api = new FakeApi(half(10 * SECOND, () => health(7)));
  [api.lostFrom, api.lostTo] = [NOW - 105 * SECOND, NOW - 65 * SECOND];
  const measurements = of(api);
  await measurements.read();
  assert.equal(find(measurements, 'Processor').values.filter((value) => value === null).length, 1);
});

test('samples that come at once after a pause have the rate of when they were made', async () => {
  // A megabyte each ten seconds: 0.8 Mbit/s.
  const data = (at) => traffic(((at - NOW + 60 * MINUTE) / 10_000) * 1e6);
  const api = new FakeApi(half(10 * SECOND, data));
  const measurements = of(api);
  await measurements.read();
  measurements.breakOff();
  const missed = [];
  for (let count = 1; count <= 12; count++)
    missed.push(told(NOW + count * 10 * SECOND, data(NOW + count * 10 * SECOND)));
  api.events.push(...missed);
  api.clock = NOW + 121 * SECOND;
  measurements.goOn();
  missed.forEach(({ id, data }, place) => measurements.take(id, data, api.clock + place));
  const isSane = () => {
    const { at, values } = find(measurements, 'Received');
    assert.ok(ascends(at));
    for (const value of values)
      if (value !== null) assert.ok(Math.abs(value - 0.8) < 0.01, `${value} Mbit/s`);
    return values;
  };
  isSane();
  while (measurements.isReading) await new Promise((resolve) => setTimeout(resolve));
  assert.ok(!isSane().includes(null), 'nothing is missing');
  assert.equal(find(measurements, 'Received').values.length, 180 + 12);
});

test('where it can’t be read after a pause, nothing of it is drawn', async () => {
  const data = (at) => traffic(((at - NOW + 60 * MINUTE) / 10_000) * 1e6);
  const api = new FakeApi(half(10 * SECOND, data));
  const measurements = of(api);
  await measurements.read();
  measurements.breakOff();
  api.clock = NOW + 60 * SECOND;
  api.failures = 1;
  measurements.goOn();
  for (let count = 1; count <= 5; count++)
    measurements.take(`e.${NOW + count * 10 * SECOND}`, data(NOW + count * 10 * SECOND), api.clock + count);
  while (measurements.isReading) await new Promise((resolve) => setTimeout(resolve));
  assert.equal(measurements.failure, 'not at the moment');
  for (let count = 7; count <= 9; count++)
    measurements.take(`later.${count}`, data(NOW + count * 10 * SECOND), NOW + count * 10 * SECOND);
  for (const value of find(measurements, 'Received').values)
    if (value !== null) assert.ok(Math.abs(value - 0.8) < 0.01, `${value} Mbit/s`);
  assert.ok(find(measurements, 'Received').values.includes(null));
});

test('a device’s own time counts, whatever clock the browser has, and the line ascends', async () => {
  const own = (at) => ({
    ...health(7),
    collected_at: iso(Math.floor(at / SECOND) * SECOND).replace('.000', ''),
  });
  const events = half(10 * SECOND, (at) => own(at - 2 * SECOND));
  const api = new FakeApi(events);
  const measurements = of(api);
  await measurements.read();
  api.clock += 10 * SECOND;
  // An hour late, as of a browser whose clock is wrong and of which nothing is known yet.
  measurements.take('live.1', own(api.clock - 2 * SECOND), api.clock + 20 * MINUTE);
  const { at } = find(measurements, 'Processor');
  assert.ok(ascends(at));
  assert.ok(Math.abs(at.at(-1) * 1000 - (api.clock - 2 * SECOND)) <= SECOND);
  // A device whose clock is years off has no time of its own.
  measurements.take(
    'live.2',
    { ...health(8), collected_at: '2001-01-01T00:00:00Z' },
    api.clock + 10 * SECOND,
  );
  assert.equal(find(measurements, 'Processor').at.at(-1) * 1000, api.clock + 10 * SECOND);
});
