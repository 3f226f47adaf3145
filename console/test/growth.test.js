import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { Growth } = await bundled('src/growth.ts');

const since = '2026-11-28T00:00:00Z';

test('a rate is that of the last answers, and falls to nothing where nothing comes any more', () => {
  const growth = new Growth();
  growth.take('a', { count: 100, since }, 0);
  assert.equal(growth.rate('a', since), undefined, 'one count is no rate');
  growth.take('a', { count: 600, since }, 1_000);
  assert.equal(growth.rate('a', since), 500);
  for (const at of [2_000, 3_000, 4_000]) growth.take('a', { count: 1_100, since }, at);
  assert.equal(growth.rate('a', since), 0);
  assert.equal(growth.rate('b', since), undefined);
});

test('counters of another beginning are not compared', () => {
  const growth = new Growth();
  const later = '2026-11-28T01:00:00Z';
  growth.take('a', { count: 1_000, since }, 0);
  growth.take('a', { count: 10, since: later }, 1_000);
  assert.equal(growth.rate('a', later), undefined);
  // Two nodes that answer in turn: each is compared with itself.
  growth.take('a', { count: 1_200, since }, 2_000);
  growth.take('a', { count: 40, since: later }, 3_000);
  assert.equal(growth.rate('a', since), 100);
  assert.equal(growth.rate('a', later), 15);
});
