import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { Roster } = await bundled('src/devices.ts');

const fleet = (devices, more = {}) => ({
  devices: new Map(devices.map((status) => [`a/${status.device_id}`, { tenant_id: 'a', ...status }])),
  alerts: new Map(),
  pushes: new Map(),
  firmware: new Map(),
  ...more,
});
const seen = (list) =>
  list.map(({ id, group, health, alerts, isBusy }) => [id, group, health, alerts, isBusy]);

test('a roster that goes along shows what one that is made anew shows', () => {
  let state = 7;
  const draw = (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const roster = new Roster();
  const devices = new Map();
  let alerts = new Map();
  let pushes = new Map();
  for (let turn = 0; turn < 2_000; turn++) {
    const id = `r${draw(12)}`;
    const key = `a/${id}`;
    const status = draw(2) ? 'online' : 'offline';
    if (draw(12) === 0) devices.delete(key);
    else
      devices.set(key, { tenant_id: 'a', device_id: id, status, site: draw(9) ? 'Lyon' : 'Oslo', name: id });
    if (draw(3) === 0) alerts = new Map(draw(2) ? [['a/x', { tenant_id: 'a', device_id: id }]] : []);
    if (draw(3) === 0) pushes = new Map(draw(2) ? [['a/p', { tenant_id: 'a', device_id: id }]] : []);
    const now = { devices: new Map(devices), alerts, pushes, firmware: new Map() };
    const byTenant = draw(20) === 0;
    assert.deepEqual(
      seen(roster.list(now, byTenant)),
      seen(new Roster().list(now, byTenant)),
      `turn ${turn}`,
    );
  }
});

test('what does not look different is the same object, and the same list', () => {
  const roster = new Roster();
  const first = fleet([
    { device_id: 'r1', status: 'online' },
    { device_id: 'r2', status: 'online' },
  ]);
  const before = roster.list(first, false);
  assert.equal(roster.list({ ...first, devices: new Map(first.devices) }, false), before);
  const devices = new Map(first.devices).set('a/r2', { tenant_id: 'a', device_id: 'r2', status: 'offline' });
  const after = roster.list({ ...first, devices }, false);
  assert.notEqual(after, before);
  assert.equal(after[0], before[0]);
  assert.equal(before[1].health, 'up', 'who holds the list of before sees no change');
  assert.equal(after[1].health, 'down');
});
