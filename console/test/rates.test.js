import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { mean, Rates, REMEMBERED } = await bundled('src/rates.ts');

test('events are counted by the second, the type and the tenant', () => {
  const rates = new Rates();
  for (let second = 100; second < 110; second++) {
    rates.note(true, second * 1000);
    for (let count = 0; count < second - 100; count++)
      rates.count('metric_update', 'a', second * 1000 + count);
    rates.count('device_status', 'b', second * 1000 + 999);
  }
  const all = rates.course('all', '', 110_000);
  assert.deepEqual(all.at, [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]);
  assert.deepEqual(all.values, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  assert.deepEqual(rates.names('type'), ['device_status', 'metric_update']);
  assert.deepEqual(rates.course('tenant', 'b', 110_000).values, Array(10).fill(1));
  assert.equal(mean(all.values, 4), 8.5);
});

test('a second without a live line is not a second without events', () => {
  const rates = new Rates();
  rates.note(true, 1_000_000);
  rates.note(false, 1_001_000);
  rates.note(true, 1_002_000);
  assert.deepEqual(rates.course('all', '', 1_003_000).values, [0, null, 0]);
  assert.equal(mean([null, null], 2), undefined);
});

test('what is older than a quarter of an hour is forgotten, and a clock that is set back breaks nothing', () => {
  const rates = new Rates();
  rates.note(true, 1_000_000);
  rates.count('device_status', 'a', 1_000_000);
  const later = 1_000_000 + REMEMBERED * 5_000;
  rates.note(true, later);
  rates.count('device_status', 'a', later);
  rates.count('device_status', 'a', later - 60_000);
  const { values } = rates.course('all', '', later + 1_000);
  assert.equal(values.length, REMEMBERED - 1);
  assert.equal(values.at(-1), 2);
  assert.equal(values.filter((value) => value !== null).length, 1);
});

test('tenants beyond the bound count in the sum alone', () => {
  const rates = new Rates();
  rates.note(true, 1_000_000);
  for (let tenant = 0; tenant < 2_000; tenant++) rates.count('device_status', `t${tenant}`, 1_000_000);
  assert.equal(rates.names('tenant').length, 500);
  assert.deepEqual(rates.course('all', '', 1_001_000).values, [2_000]);
});
