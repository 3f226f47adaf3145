// The server's clock, as its answers tell it: a slow answer tells less.
import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { bundled } from './bundled.js';

const { Api } = await bundled('src/api.ts');

/** A server whose clock is `ahead`, an answer that it makes `before` milliseconds after the call and that is there `after` more. */
async function call(api, { ahead = 0, before = 10, after = 10 }) {
  mock.method(globalThis, 'fetch', () => {
    mock.timers.tick(before);
    const date = new Date(Date.now() + ahead).toUTCString();
    mock.timers.tick(after);
    return Promise.resolve(new Response('{"keys":[]}', { headers: { date } }));
  });
  await api.keys();
}

test.beforeEach(() => mock.timers.enable({ apis: ['Date'], now: Date.parse('2026-11-28T12:00:00.300Z') }));
test.afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

const api = () => new Api(() => Promise.resolve('t'), '');

for (const [before, after] of [
  [20_000, 0],
  [0, 20_000],
])
  test(`an answer that is made ${before / 1000} s after the call, and read ${after / 1000} s later, puts no right clock wrong`, async () => {
    const asked = api();
    await call(asked, { before, after });
    assert.equal(asked.now(), Date.now());
  });

test('a clock that is ahead is known, also after a slow call, until it is put right', async () => {
  const asked = api();
  const isAhead = (milliseconds) => {
    const error = asked.now() - Date.now() - milliseconds;
    assert.ok(Math.abs(error) <= 1_000, `off by ${error} ms`);
  };
  await call(asked, { ahead: 60_000 });
  isAhead(60_000);
  await call(asked, { ahead: 60_000, before: 15_000 });
  isAhead(60_000);
  await call(asked, { ahead: 5_000 });
  isAhead(5_000);
  await call(asked, { ahead: 5_000, after: 15_000 });
  isAhead(5_000);
  await call(asked, {});
  assert.equal(asked.now(), Date.now());
});
