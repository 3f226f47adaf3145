import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { FleetStore } from '../src/fleet.js';
import type { Connection, Message } from '../src/index.js';
import { block, Line, next, open, problem, thrown } from './harness.js';

/** Lets what is ready run, as far as it comes without a timer. */
const settle = async () => {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
};

test('every attempt has a fresh token and the cursor of the last message', async () => {
  const line = new Line();
  const [first, second] = [line.open(), line.open()];
  const stream = open(line, { longestPause: 0 });
  const messages = stream[Symbol.asyncIterator]();
  first.write(`retry: 10\n: connected\nid: e.1\nevent: cursor\ndata: {}\n\n${block('e.2')}`);
  assert.deepEqual(await next(messages, 'cursor'), { kind: 'cursor', cursor: 'e.1' });
  assert.equal((await next(messages, 'event')).event.id, 'e.2');
  first.write('id: e.3\nevent: device_status\nda');
  first.break();
  second.write(block('e.3'));
  assert.equal((await next(messages, 'event')).event.id, 'e.3');
  const [one, two] = [await line.request(1), await line.request(2)];
  assert.equal(one.pathname, '/tenants/a/events/stream');
  assert.deepEqual(Object.fromEntries(one.searchParams), { token: 'token-1' });
  assert.deepEqual(Object.fromEntries(two.searchParams), { token: 'token-2', last_event_id: 'e.2' });
  stream.close();
  assert.equal((await messages.next()).done, true);
  await settle();
  assert.ok(second.isOver, 'the line is hung up');
});

test('the cursor is that of what was taken, not of what was read', async () => {
  const line = new Line();
  const body = line.open();
  const stream = open(line);
  const messages = stream[Symbol.asyncIterator]();
  body.write(block('e.1') + block('e.2'));
  await next(messages, 'event');
  assert.equal(stream.cursor, undefined, 'the first may still be on its way through the caller');
  await next(messages, 'event');
  assert.equal(stream.cursor, 'e.1');
  stream.close();
});

test('all that can be asked for stands in the URL', async () => {
  const line = new Line();
  line.open();
  const stream = open(line, {
    types: ['device_status', 'alert_fired'],
    devices: ['r1'],
    conflate: 'default',
    snapshot: true,
    scope: 'tenant',
  });
  void stream.run();
  assert.deepEqual(Object.fromEntries((await line.request(1)).searchParams), {
    token: 'token-1',
    types: 'device_status,alert_fired',
    device_id: 'r1',
    conflate: 'default',
    snapshot: 'true',
    scope: 'tenant',
  });
  stream.close();
});

test('a snapshot is begun, told and ended, and begun anew where the line broke in it', async () => {
  const line = new Line();
  const [first, second] = [line.open(), line.open()];
  const stream = open(line, { snapshot: true, longestPause: 0 });
  const messages = stream[Symbol.asyncIterator]();
  const subject = 'event: snapshot\ndata: {"type":"device_status","id":"e.1","data":{"tenant_id":"a"}}\n\n';
  first.write(subject);
  await next(messages, 'snapshot_begin');
  assert.equal((await next(messages, 'snapshot')).event.type, 'device_status');
  first.break();
  second.write(`${subject}id: e.9\nevent: snapshot_end\ndata: {}\n\n`);
  await next(messages, 'snapshot_begin');
  await next(messages, 'snapshot');
  assert.equal((await next(messages, 'snapshot_end')).cursor, 'e.9');
  assert.equal((await line.request(2)).searchParams.get('last_event_id'), null);
  stream.close();
});

test('an empty snapshot is begun and ended too', async () => {
  const line = new Line();
  const body = line.open();
  const stream = open(line, { snapshot: true });
  const messages = stream[Symbol.asyncIterator]();
  body.write('id: e.9\nevent: snapshot_end\ndata: {}\n\n');
  const kinds = [await messages.next(), await messages.next()].map(({ value }) => (value as Message).kind);
  assert.deepEqual(kinds, ['snapshot_begin', 'snapshot_end']);
  stream.close();
});

test('a type that this client does not know is given like any other, also one that is named unknown', async () => {
  const line = new Line();
  const body = line.open();
  const stream = open(line);
  const messages = stream[Symbol.asyncIterator]();
  for (const [type, id] of [
    ['door_opened', 'e.1'],
    ['unknown', 'e.2'],
    ['constructor', 'e.3'],
  ] as const) {
    body.write(`id: ${id}\nevent: ${type}\ndata: {"tenant_id":"a","floor":3}\n\n`);
    const { event } = await next(messages, 'event');
    assert.deepEqual(event, { type, id, data: { tenant_id: 'a', floor: 3 } });
    const store = new FleetStore();
    store.take({ kind: 'event', event });
    assert.equal(store.getSnapshot().devices.size, 0, 'it is the state of nothing');
  }
  assert.equal(stream.connection.state, 'live');
  stream.close();
});

test('a gap is told in its place', async () => {
  const line = new Line();
  const body = line.open();
  const stream = open(line, { cursor: 'e.1' });
  const messages = stream[Symbol.asyncIterator]();
  const gap = { requested: 'e.1', resumed_at: 'e.5', reason: 'expired' };
  body.write(`id: e.5\nevent: gap\ndata: ${JSON.stringify(gap)}\n\n${block('e.6')}`);
  assert.deepEqual((await next(messages, 'gap')).gap, gap);
  await next(messages, 'event');
  assert.equal(stream.cursor, 'e.5');
  stream.close();
});

test('stale and fresh are states, at once', async () => {
  const line = new Line();
  const body = line.open();
  const states: Connection[] = [];
  const stream = open(line, {}, { connection: (connection) => states.push(connection) });
  const messages = stream[Symbol.asyncIterator]();
  body.write('event: stale\ndata: {"since":"2026-01-01T00:00:00Z","reason":"broker"}\n\n');
  body.write('event: fresh\ndata: {}\n\n' + block('e.1'));
  await next(messages, 'event');
  stream.close();
  assert.deepEqual(
    states.map(({ state, reason }) => [state, reason]),
    [
      ['live', undefined],
      ['stale', 'broker'],
      ['live', undefined],
      ['closed', undefined],
    ],
  );
  assert.equal(states[1]?.id, 'sse-0123456789ab');
});

for (const [status, failure] of [
  [403, 'forbidden'],
  [404, 'invalid'],
  [410, 'gone'],
  [422, 'invalid'],
] as const)
  test(`${status} is ${failure}, and ends the stream`, async () => {
    const line = new Line();
    line.answer(() => problem(status, 'the sentence'));
    const stream = open(line);
    const error = await thrown(stream.run());
    assert.deepEqual([error.failure, error.status, error.message], [failure, status, 'the sentence']);
    assert.equal(stream.connection.state, 'closed');
    assert.equal(stream.connection.error, error);
    assert.equal(line.requests.length, 1);
  });

test('a token that was refused once is replaced, twice is the login', async () => {
  const line = new Line();
  line.answer(() => problem(401, 'Invalid or expired SSE token'));
  const body = line.open();
  body.write(block('e.1'));
  body.end();
  line.answer(() => problem(401, 'Invalid or expired SSE token'));
  line.answer(() => problem(401, 'Invalid or expired SSE token'));
  const stream = open(line, { longestPause: 0 });
  const error = await thrown(stream.run());
  assert.equal(error.failure, 'unauthorized');
  assert.equal(line.requests.length, 4);
});

test('a login that is refused ends the stream', async () => {
  const line = new Line();
  line.answer(() => problem(401, 'the access token has expired'));
  const { exchange } = await import('../src/index.js');
  const token = exchange({ baseUrl: 'http://server.test', fetch: line.fetch, accessToken: () => 'jwt' });
  const error = await thrown(open(line, { token }).run());
  assert.deepEqual([error.failure, line.requests.length], ['unauthorized', 1]);
  const [mint] = line.requests;
  assert.equal(mint?.url.pathname, '/auth/sse-token');
  assert.deepEqual(mint.init?.headers, { authorization: 'Bearer jwt' });
});

test('what is no event stream and what is no JSON are told apart', async () => {
  const line = new Line();
  line.answer(() => new Response('<html>', { headers: { 'content-type': 'text/html' } }));
  const body = line.open();
  body.write('id: 1\nevent: x\ndata: no\n\n');
  const troubles: string[] = [];
  const stream = open(line, { longestPause: 0 }, { trouble: (error) => troubles.push(error.message) });
  const error = await thrown(stream.run());
  assert.deepEqual(troubles, ['not an event stream: text/html']);
  assert.equal(error.message, 'the data of x is no JSON object');
});

test.describe('by the clock', () => {
  test.beforeEach(() => {
    mock.timers.enable({ apis: ['setTimeout', 'Date'] });
    mock.method(Math, 'random', () => 0.5);
  });
  test.afterEach(() => {
    mock.timers.reset();
    mock.restoreAll();
  });

  test('pauses double with full jitter up to the longest', async () => {
    const line = new Line();
    const stream = open(line, { longestPause: 10_000 });
    const end = stream.run();
    for (const [attempt, wait] of [1_000, 2_000, 4_000, 5_000, 5_000].entries()) {
      await line.request(attempt + 1);
      await settle();
      assert.equal(stream.connection.state, 'reconnecting');
      mock.timers.tick(wait - 1);
      await settle();
      assert.equal(line.requests.length, attempt + 1);
      mock.timers.tick(1);
    }
    await line.request(6);
    stream.close();
    await end;
  });

  test("the server's retry is the unit, and a message begins anew", async () => {
    const line = new Line();
    const body = line.open();
    const stream = open(line);
    const messages = stream[Symbol.asyncIterator]();
    body.write(`retry: 600\n\n${block('e.1')}`);
    await next(messages, 'event');
    body.end();
    const pending = messages.next();
    await settle();
    mock.timers.tick(300);
    await line.request(2);
    stream.close();
    await pending;
  });

  test('Retry-After is obeyed, with jitter on top', async () => {
    const line = new Line();
    line.answer(() => problem(503, 'not ready', { 'retry-after': '7' }));
    const stream = open(line);
    const end = stream.run();
    await line.request(1);
    await settle();
    mock.timers.tick(7_999);
    await settle();
    assert.equal(line.requests.length, 1);
    mock.timers.tick(1);
    await line.request(2);
    stream.close();
    await end;
  });

  test('a closing stream says when to come back', async () => {
    const line = new Line();
    const body = line.open();
    const reasons: string[] = [];
    const stream = open(line, {}, { closing: ({ reason }) => reasons.push(reason) });
    const end = stream.run();
    body.write('event: closing\ndata: {"reason":"draining","retry":4321,"conflated":0}\n\n');
    body.end();
    await settle();
    mock.timers.tick(4_320);
    await settle();
    assert.equal(line.requests.length, 1);
    mock.timers.tick(1);
    await line.request(2);
    assert.deepEqual(reasons, ['draining']);
    stream.close();
    await end;
  });

  test('a view that changed is seen anew, from a snapshot', async () => {
    const line = new Line();
    const body = line.open();
    const stream = open(line, { snapshot: true, cursor: 'e.1' });
    const end = stream.run();
    body.write(block('e.2') + 'event: closing\ndata: {"reason":"view_changed","retry":1}\n\n');
    body.end();
    await settle();
    mock.timers.tick(1);
    assert.equal((await line.request(2)).searchParams.get('last_event_id'), null);
    stream.close();
    await end;
  });

  test('a line without a byte for two heartbeats is given up, a comment is a sign of life', async () => {
    const line = new Line();
    const [body, again] = [line.open(), line.open()];
    const stream = open(line, { longestPause: 0 });
    const messages = stream[Symbol.asyncIterator]();
    body.write(block('e.1'));
    await next(messages, 'event');
    const pending = messages.next();
    await settle();
    mock.timers.tick(29_000);
    body.write(': heartbeat\n');
    await settle();
    mock.timers.tick(29_999);
    await settle();
    assert.equal(stream.connection.state, 'live');
    mock.timers.tick(1);
    await settle();
    assert.equal(stream.connection.state, 'reconnecting');
    assert.equal(stream.connection.reason, 'no sign of life from the server');
    mock.timers.tick(0);
    await line.request(2);
    again.write(block('e.2'));
    await pending;
    stream.close();
  });

  test('a page that itself stood still reads first what came meanwhile', async () => {
    const line = new Line();
    const body = line.open();
    const stream = open(line);
    const end = stream.run();
    await settle();
    mock.timers.tick(90_000);
    await settle();
    assert.equal(stream.connection.state, 'live');
    body.write(': heartbeat\n');
    await settle();
    mock.timers.tick(29_999);
    await settle();
    assert.equal(stream.connection.state, 'live');
    // Where nothing came, the line is given up after a moment.
    mock.timers.tick(90_000);
    await settle();
    assert.equal(stream.connection.state, 'live');
    mock.timers.tick(1_000);
    await settle();
    assert.equal(stream.connection.reason, 'no sign of life from the server');
    stream.close();
    await end;
  });

  test('a caller that takes its time is no silence of the server', async () => {
    const line = new Line();
    const body = line.open();
    const stream = open(line);
    const messages = stream[Symbol.asyncIterator]();
    body.write(block('e.1'));
    await next(messages, 'event');
    mock.timers.tick(600_000);
    await settle();
    body.write(block('e.2'));
    assert.equal((await next(messages, 'event')).event.id, 'e.2');
    assert.equal(line.requests.length, 1);
    stream.close();
  });

  test('without a network it waits for one, and goes on at once when it is there', async () => {
    const line = new Line();
    const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    const listeners = new Set<() => void>();
    Object.defineProperty(globalThis, 'navigator', { value: { onLine: false }, configurable: true });
    Object.assign(globalThis, {
      addEventListener: (type: string, listener: () => void) => type === 'online' && listeners.add(listener),
      removeEventListener: (_: string, listener: () => void) => listeners.delete(listener),
    });
    try {
      const stream = open(line);
      const end = stream.run();
      await line.request(1);
      await settle();
      assert.equal(stream.connection.state, 'offline');
      mock.timers.tick(29_999);
      await settle();
      assert.equal(line.requests.length, 1);
      for (const listener of listeners) listener();
      await line.request(2);
      stream.close();
      await end;
      assert.equal(listeners.size, 0);
    } finally {
      if (before) Object.defineProperty(globalThis, 'navigator', before);
      else Reflect.deleteProperty(globalThis, 'navigator');
      Reflect.deleteProperty(globalThis, 'addEventListener');
      Reflect.deleteProperty(globalThis, 'removeEventListener');
    }
  });

  test('a browser that loses its network is told offline at once, not after two heartbeats', async () => {
    const line = new Line();
    const body = line.open();
    const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    const network = new EventTarget();
    const navigator = { onLine: true };
    Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
    Object.assign(globalThis, {
      addEventListener: network.addEventListener.bind(network),
      removeEventListener: network.removeEventListener.bind(network),
    });
    try {
      const stream = open(line);
      const end = stream.run();
      body.write(block('e.1'));
      await settle();
      assert.equal(stream.connection.state, 'live');
      navigator.onLine = false;
      network.dispatchEvent(new Event('offline'));
      await settle();
      assert.equal(stream.connection.state, 'offline');
      assert.ok(body.isOver);
      navigator.onLine = true;
      network.dispatchEvent(new Event('online'));
      assert.equal((await line.request(2)).searchParams.get('last_event_id'), 'e.1');
      stream.close();
      await end;
    } finally {
      if (before) Object.defineProperty(globalThis, 'navigator', before);
      else Reflect.deleteProperty(globalThis, 'navigator');
      Reflect.deleteProperty(globalThis, 'addEventListener');
      Reflect.deleteProperty(globalThis, 'removeEventListener');
    }
  });

  test('a page that comes to the front ends a pause, one that goes to the back does not', async () => {
    const line = new Line();
    const page = Object.assign(new EventTarget(), { visibilityState: 'hidden' });
    Object.assign(globalThis, { document: page });
    try {
      const stream = open(line);
      const end = stream.run();
      await line.request(1);
      await settle();
      assert.equal(stream.connection.state, 'reconnecting');
      page.dispatchEvent(new Event('visibilitychange'));
      await settle();
      assert.equal(line.requests.length, 1);
      page.visibilityState = 'visible';
      page.dispatchEvent(new Event('visibilitychange'));
      await line.request(2);
      stream.close();
      await end;
    } finally {
      Reflect.deleteProperty(globalThis, 'document');
    }
  });

  test('the end of a signal ends a pause, a line and the iteration', async () => {
    const line = new Line();
    const end = new AbortController();
    const stream = open(line, { signal: end.signal });
    const run = stream.run();
    await line.request(1);
    await settle();
    end.abort();
    await run;
    assert.equal(stream.connection.state, 'closed');
    const over = open(line, { signal: AbortSignal.abort() });
    await over.run();
    assert.equal(line.requests.length, 1);
  });
});
