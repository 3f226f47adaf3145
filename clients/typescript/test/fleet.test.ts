import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { type Fleet, FleetStore, followFleet } from '../src/fleet.js';
import type { Message, TidingsEvent } from '../src/index.js';
import { effectOf, SUBJECTS } from '../src/subjects.js';
import { block, Line } from './harness.js';

let position = 0;
const event = (type: string, data: Record<string, unknown>): TidingsEvent => ({
  type,
  id: `e.${++position}`,
  data: { tenant_id: 'a', ...data },
});
const live = (type: string, data: Record<string, unknown>): Message => ({
  kind: 'event',
  event: event(type, data),
});
const told = (type: string, data: Record<string, unknown>): Message => ({
  kind: 'snapshot',
  event: event(type, data),
});
const END: Message = { kind: 'snapshot_end', cursor: 'e.0' };

test.beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
});
test.afterEach(() => {
  mock.timers.reset();
});

test('nothing of a snapshot shows before its end', () => {
  const store = new FleetStore();
  store.take({ kind: 'snapshot_begin' });
  store.take(told('device_status', { device_id: 'r1', status: 'online' }));
  mock.timers.tick(1_000);
  assert.equal(store.getSnapshot().devices.size, 0);
  assert.equal(store.getSnapshot().isComplete, false);
  store.take(END);
  assert.equal(store.getSnapshot().devices.get('a/r1')?.status, 'online');
  assert.equal(store.getSnapshot().isComplete, true);
});

test('a new snapshot takes away what is not in it', () => {
  const store = new FleetStore();
  for (const message of [told('device_status', { device_id: 'r1' }), END]) store.take(message);
  store.take({ kind: 'gap', gap: { requested: 'e.1', resumed_at: 'e.9', reason: 'expired' } });
  assert.equal(store.getSnapshot().isComplete, false);
  store.take({ kind: 'snapshot_begin' });
  store.take(told('device_status', { device_id: 'r2' }));
  store.take(END);
  assert.deepEqual([...store.getSnapshot().devices.keys()], ['a/r2']);
});

test('what ends leaves, what is removed leaves, and two tenants do not meet', () => {
  const store = new FleetStore();
  for (const message of [
    live('alert_fired', { alert_event_id: '1', severity: 'critical' }),
    live('alert_fired', { alert_event_id: '2' }),
    live('alert_fired', { alert_event_id: '1', tenant_id: 'b' }),
    live('alert_resolved', { alert_event_id: '1' }),
    live('config_push', { push_operation_id: null, device_id: 'r/1', stage: 'pushing' }),
    live('config_push', { push_operation_id: 'p', stage: 'pushing' }),
    live('config_push', { push_operation_id: 'p', stage: 'committed' }),
    live('firmware_progress', { job_id: 'j', stage: 'rebooting' }),
    live('metric_update', { device_id: 'r1', type: 'health', health: {} }),
    live('metric_update', { device_id: 'r1', type: 'wireless' }),
    live('removed', { type: 'metric_update', subject: 'r1/health' }),
    live('x_own', { anything: 1 }),
  ])
    store.take(message);
  mock.timers.tick(100);
  const fleet = store.getSnapshot();
  assert.deepEqual([...fleet.alerts.keys()], ['a/2', 'b/1']);
  assert.deepEqual([...fleet.pushes.keys()], ['a/~device_id:r~11']);
  assert.deepEqual([...fleet.firmware.keys()], ['a/j']);
  assert.deepEqual([...fleet.metrics.keys()], ['a/r1/wireless']);
});

test('a deployment has rules of its own', () => {
  const store = new FleetStore({
    subjects: { lease: { keptAs: 'lease', key: ['ip'], ends: (data) => data['over'] === true } },
  });
  store.take(live('lease', { ip: '10.0.0.1' }));
  store.take(live('lease', { ip: '10.0.0.2' }));
  store.take(live('lease', { ip: '10.0.0.1', over: true }));
  mock.timers.tick(100);
  assert.deepEqual([...(store.getSnapshot().others.get('lease')?.keys() ?? [])], ['a/10.0.0.2']);
});

test('changes are told in batches, and what did not change is the same object', () => {
  const store = new FleetStore({ interval: 100 });
  for (let number = 0; number < 100; number++)
    store.take(live('device_status', { device_id: `r${number}`, status: 'online' }));
  mock.timers.tick(100);
  const tellings: Fleet[] = [];
  const end = store.subscribe((fleet) => tellings.push(fleet));
  const before = store.getSnapshot();
  assert.deepEqual(tellings, [before], 'called at once, as Svelte expects');
  for (let number = 0; number < 500; number++) store.take(live('device_status', { device_id: 'r7', number }));
  assert.equal(store.getSnapshot(), before);
  mock.timers.tick(100);
  assert.equal(tellings.length, 2);
  const after = store.getSnapshot();
  assert.notEqual(after.devices, before.devices);
  assert.equal(after.devices.get('a/r8'), before.devices.get('a/r8'));
  assert.equal(after.alerts, before.alerts);
  assert.equal(after.devices.get('a/r7')?.['number'], 499);
  end();
  store.takeConnection({ state: 'stale', since: 0 });
  assert.equal(tellings.length, 2);
  assert.equal(store.getSnapshot().connection.state, 'stale', 'at once');
});

/** Numbers that look random and are the same in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
}

test('a snapshot and what follows shows what a stream from the beginning shows', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const any = numbers(seed);
    const history: TidingsEvent[] = [];
    for (let count = any(120); count > 0; count--) {
      const [subject, tenant_id] = [`s${any(4)}`, `t${any(2)}`];
      history.push(
        [
          () =>
            event('device_status', { tenant_id, device_id: subject, status: any(2) ? 'online' : 'offline' }),
          () =>
            event('metric_update', { tenant_id, device_id: subject, type: ['health', 'wireless'][any(2)] }),
          () => event('alert_fired', { tenant_id, alert_event_id: subject }),
          () => event('alert_resolved', { tenant_id, alert_event_id: subject }),
          () =>
            event('config_push', {
              tenant_id,
              push_operation_id: subject,
              stage: ['pushing', 'failed'][any(2)],
            }),
          () =>
            event('firmware_progress', {
              tenant_id,
              job_id: subject,
              stage: ['verifying', 'completed'][any(2)],
            }),
          () => event('removed', { tenant_id, type: 'device_status', subject }),
        ][any(7)]?.() ?? event('x_own', {}),
      );
    }
    const whole = new FleetStore();
    for (const each of history) whole.take({ kind: 'event', event: each });
    // The server's snapshot at a random point: the last event of each living subject.
    const cut = any(history.length + 1);
    const living = new Map<string, TidingsEvent>();
    for (const each of history.slice(0, cut)) {
      const effect = effectOf(each, SUBJECTS);
      if (effect === undefined) continue;
      living.delete(`${effect.keptAs} ${effect.key}`);
      if (!effect.ends) living.set(`${effect.keptAs} ${effect.key}`, each);
    }
    const joined = new FleetStore();
    joined.take({ kind: 'snapshot_begin' });
    for (const each of living.values()) joined.take({ kind: 'snapshot', event: each });
    joined.take(END);
    for (const each of history.slice(cut)) joined.take({ kind: 'event', event: each });
    mock.timers.tick(100);
    const sorted = (fleet: Fleet) =>
      [fleet.devices, fleet.metrics, fleet.alerts, fleet.pushes, fleet.firmware].map((subjects) =>
        [...subjects].sort(([one], [other]) => (one < other ? -1 : 1)),
      );
    assert.deepEqual(sorted(joined.getSnapshot()), sorted(whole.getSnapshot()), `seed ${seed}`);
  }
});

test('ten thousand devices at five hundred events a second cost little', () => {
  const store = new FleetStore();
  for (let number = 0; number < 10_000; number++)
    store.take(live('device_status', { device_id: `r${number}` }));
  mock.timers.tick(100);
  let tellings = 0;
  store.subscribe(() => (tellings += 1));
  for (let second = 0; second < 10; second++)
    for (let tenth = 0; tenth < 10; tenth++) {
      for (let count = 0; count < 50; count++)
        store.take(live('device_status', { device_id: `r${count * 7}` }));
      mock.timers.tick(100);
    }
  // 5,000 events, and a page is told a hundred times.
  assert.equal(tellings, 101);
});

test('a fleet is followed from a stream', async () => {
  const line = new Line();
  const body = line.open();
  const events: string[] = [];
  const followed = followFleet(
    { baseUrl: 'http://server.test', tenant: 'a', token: () => Promise.resolve('t'), fetch: line.fetch },
    { event: ({ type }) => events.push(type) },
  );
  const url = await line.request(1);
  assert.equal(url.searchParams.get('snapshot'), 'true');
  body.write(
    'event: snapshot\ndata: {"type":"device_status","id":"e.1","data":{"tenant_id":"a","device_id":"r1"}}\n\n',
  );
  body.write(
    'id: e.2\nevent: snapshot_end\ndata: {}\n\n' + block('e.3', '{"tenant_id":"a","device_id":"r2"}'),
  );
  await new Promise<void>((resolve) => {
    const look = () => {
      mock.timers.tick(100);
      if (followed.store.getSnapshot().devices.size === 2) resolve();
      else setImmediate(look);
    };
    look();
  });
  assert.equal(followed.store.getSnapshot().connection.state, 'live');
  followed.close();
  await followed.done;
  assert.equal(followed.store.getSnapshot().connection.state, 'closed');
  assert.deepEqual(events, ['device_status']);
});
