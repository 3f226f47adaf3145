// What is read of a history for a moment: against a server in memory that pages as the real one does.
import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { Reader } = await bundled('src/past/reader.ts');
const { fleetAt } = await bundled('src/past/timeline.ts');

const TENANT = 'a';
const HOUR = 3_600_000;
const BEGIN = Date.parse('2026-11-27T00:00:00Z');

const told = (at, type, data) => ({
  id: `e.${at}`,
  type,
  device_id: data.device_id,
  time: new Date(at).toISOString(),
  data: { tenant_id: TENANT, ...data },
});

/** A history of so many hours: device r1 tells every minute, r2 at the beginning alone. */
function history(hours) {
  const events = [told(BEGIN, 'device_status', { device_id: 'r2', status: 'offline' })];
  for (let minute = 0; minute < hours * 60; minute++) {
    const status = minute % 120 < 60 ? 'online' : 'offline';
    events.push(told(BEGIN + minute * 60_000 + 1_000, 'device_status', { device_id: 'r1', status }));
  }
  events.push(told(BEGIN + 30 * 60_000, 'alert_fired', { device_id: 'r1', alert_event_id: 'x' }));
  events.push(told(BEGIN + 90 * 60_000, 'alert_resolved', { device_id: 'r1', alert_event_id: 'x' }));
  return events.sort((one, other) => Date.parse(one.time) - Date.parse(other.time));
}

class FakeApi {
  requests = [];
  failures = 0;

  constructor(events, { isCut = false } = {}) {
    this.events = events;
    this.isCut = isCut;
    this.now = Date.parse(events.at(-1).time);
  }

  oldest() {
    return Promise.resolve({ at: Date.parse(this.events[0].time), isCut: this.isCut, now: this.now });
  }

  history(tenant, query) {
    this.requests.push(query);
    if (this.failures-- > 0) return Promise.reject(new Error('not at the moment'));
    const from = query.after === undefined ? -1 : Number(query.after);
    const events = this.events
      .map((event, place) => [event, place])
      .filter(([{ time }, place]) => {
        const at = Date.parse(time);
        return place > from && at < Date.parse(query.until) && !(at < Date.parse(query.since ?? 0));
      });
    const page = events.slice(0, 50);
    return Promise.resolve({
      events: page.map(([event]) => event).filter(({ type }) => query.types.split(',').includes(type)),
      next: String(page.at(-1)?.[1] ?? query.after ?? -1),
    });
  }
}

function live(events) {
  const devices = new Map();
  for (const { type, data } of events) if (type === 'device_status') devices.set(`a/${data.device_id}`, data);
  return {
    devices,
    alerts: new Map(),
    pushes: new Map(),
    firmware: new Map(),
    isComplete: true,
    connection: { state: 'live' },
  };
}

function reading(events, options) {
  const api = new FakeApi(events, options);
  let settle;
  const fleet = live(events);
  const reader = new Reader(
    api,
    [TENANT],
    () => fleet,
    () => reader.reading !== 'reading' && settle?.(),
  );
  const look = (at) =>
    new Promise((resolve) => {
      settle = resolve;
      reader.look(at);
    });
  const states = (at) => {
    assert.ok(reader.covers(at));
    const then = fleetAt(reader.statuses, reader.work, fleet, [TENANT], at);
    return {
      ...Object.fromEntries([...then.devices].map(([key, { status }]) => [key.slice(2), status])),
      alerts: then.alerts.size,
    };
  };
  return {
    api,
    reader,
    look,
    states,
    goOn: () => new Promise((resolve) => ((settle = resolve), reader.goOn())),
  };
}

test('a moment of minutes ago needs minutes of statuses; who was silent is known from how it is now', async () => {
  const events = history(20);
  const { reader, look, states } = reading(events);
  const at = reader.now || Date.parse(events.at(-1).time) - 2 * 60_000;
  await look(at);
  assert.deepEqual(states(at), { r1: 'offline', r2: 'offline', alerts: 0 });
  assert.ok(reader.statuses.from > at - HOUR, 'no more was read than needed');
  assert.equal(reader.work.from, BEGIN, 'alerts are read to the oldest');
});

test('a moment of many hours ago is read there, not everything up to it', async () => {
  const events = history(20);
  const { reader, look, states } = reading(events);
  const at = BEGIN + 75 * 60_000;
  await look(at);
  assert.deepEqual(states(at), { r1: 'offline', r2: 'offline', alerts: 1 });
  assert.ok(reader.statuses.to < BEGIN + 3 * HOUR);
  // A little later is read on from there, hours later is begun anew.
  await look(at + 20 * 60_000);
  assert.deepEqual(states(at + 20 * 60_000), { r1: 'offline', r2: 'offline', alerts: 0 });
  assert.equal(reader.statuses.from, BEGIN);
  const late = BEGIN + 18.5 * HOUR;
  await look(late);
  assert.equal(states(late).r1, 'online');
});

test('every moment is what a fold of all events gives', async () => {
  const events = history(5);
  const { look, states } = reading(events);
  for (let turn = 0; turn < 60; turn++) {
    const at = BEGIN + ((turn * 7_919) % (5 * 60)) * 60_000 + 30_000;
    await look(at);
    const expected = { alerts: 0 };
    for (const { type, data } of events.filter((event) => Date.parse(event.time) <= at))
      if (type === 'device_status') expected[data.device_id] = data.status;
      else expected.alerts = type === 'alert_fired' ? 1 : 0;
    assert.deepEqual(states(at), expected, new Date(at).toISOString());
  }
});

test('where older events were taken away a device is unknown, and reading ends', async () => {
  const events = history(5).filter(
    ({ data, time }) => data.device_id !== 'r1' || Date.parse(time) > BEGIN + HOUR,
  );
  const { look, states, reader } = reading(events, { isCut: true });
  const at = BEGIN + 1_000;
  await look(at);
  assert.equal(reader.reading, 'done');
  assert.ok('r1' in states(at), 'it is listed');
  assert.equal(states(at).r1, undefined, 'as unknown');
  assert.equal(reader.unknownAt(at), 1);
  const whole = reading(events);
  await whole.look(at);
  assert.ok(!('r1' in whole.states(at)), 'where nothing was taken away it was not there yet');
});

test('a failure is told, and reading goes on when somebody asks', async () => {
  const events = history(5);
  const { api, reader, look, goOn, states } = reading(events);
  api.failures = 1;
  const at = BEGIN + 4.5 * HOUR;
  await look(at);
  assert.equal(reader.reading, 'failed');
  assert.equal(reader.failure, 'not at the moment');
  await goOn();
  assert.equal(reader.reading, 'done');
  assert.equal(states(at).r1, 'online');
});
