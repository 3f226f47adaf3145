// What is known of a moment from events that were read in windows, newest first, against a plain fold.
import assert from 'node:assert/strict';
import test from 'node:test';
import { bundled } from './bundled.js';

const { Timeline, changesOf, courseOf, fleetAt, knownAt } = await bundled('src/past/timeline.ts');

const TENANT = 'a';
const told = (second, type, data) => ({
  id: `e.${second}`,
  type,
  device_id: data.device_id ?? null,
  time: new Date(second * 1000).toISOString(),
  data: { tenant_id: TENANT, ...data },
});
const status = (second, device, state) =>
  told(second, 'device_status', { device_id: device, status: state, told: second });
const alert = (second, id, isOn) =>
  told(second, isOn ? 'alert_fired' : 'alert_resolved', { device_id: 'r1', alert_event_id: id });

const timeline = (events) => {
  const made = new Timeline();
  for (const event of events) made.take(event);
  return made;
};
const stretch = (events, more = {}) => ({
  timeline: timeline(events),
  isFromBeginning: false,
  end: undefined,
  ...more,
});
const statuses = (known) =>
  Object.fromEntries([...known.subjects].map(([key, { status }]) => [key, status]).sort());

/** A seeded generator, so that a failure can be run again. */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function history(draw, length) {
  return Array.from({ length }, (_, second) => {
    const device = `r${draw(4)}`;
    switch (draw(8)) {
      case 0:
        return alert(second, `a${draw(3)}`, true);
      case 1:
        return alert(second, `a${draw(3)}`, false);
      case 2:
        return told(second, 'removed', { device_id: device, type: 'device_status', subject: device });
      default:
        return status(second, device, draw(2) ? 'online' : 'offline');
    }
  });
}

/** The last event of each living subject, as anybody would fold it. */
function fold(events, keptAs) {
  const living = new Map();
  for (const { type, data } of events)
    if (keptAs === 'device_status' && type === 'device_status')
      living.set(`${TENANT}/${data.device_id}`, data.status);
    else if (keptAs === 'device_status' && type === 'removed') living.delete(`${TENANT}/${data.subject}`);
    else if (keptAs === 'alert_fired' && type === 'alert_fired')
      living.set(`${TENANT}/${data.alert_event_id}`, undefined);
    else if (keptAs === 'alert_fired' && type === 'alert_resolved')
      living.delete(`${TENANT}/${data.alert_event_id}`);
  return Object.fromEntries([...living].sort());
}

test('windows that are read from the newest to the oldest say what the whole says', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const draw = random(seed);
    const events = history(draw, 40);
    const whole = timeline(events);
    const begin = draw(40);
    let [from, to] = [begin, begin];
    const made = new Timeline();
    while (from > 0 || to < events.length)
      if (draw(2) === 0 && from > 0) {
        const next = Math.max(0, from - 1 - draw(10));
        made.prepend(timeline(events.slice(next, from)));
        from = next;
      } else if (to < events.length) {
        const next = Math.min(events.length, to + 1 + draw(10));
        made.append(timeline(events.slice(to, next)));
        to = next;
      }
    for (const [type, subjects] of whole.kept)
      for (const [key, steps] of subjects)
        assert.deepEqual(made.kept.get(type)?.get(key), steps, `seed ${seed}`);
    assert.equal(made.steps, whole.steps);
  }
});

test('a moment of a whole history is what a fold of the events up to it gives', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const draw = random(seed);
    const events = history(draw, 40);
    const all = stretch(events, { isFromBeginning: true });
    for (let at = 0; at < events.length; at++) {
      const known = knownAt(all, 'device_status', at * 1000);
      assert.deepEqual(statuses(known), fold(events.slice(0, at + 1), 'device_status'), `seed ${seed}`);
      assert.equal(known.unknown.size, 0);
    }
  }
});

test('a moment of a part of the history claims nothing that is not so', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const draw = random(seed);
    const events = history(draw, 40);
    const from = draw(40);
    const end = new Map();
    for (const keptAs of ['device_status', 'alert_fired'])
      end.set(
        keptAs,
        new Map(
          Object.entries(fold(events, keptAs)).map(([key, state]) => [
            key,
            { tenant_id: TENANT, status: state },
          ]),
        ),
      );
    const part = stretch(events.slice(from), { end });
    for (let at = from; at < events.length; at++) {
      const truth = fold(events.slice(0, at + 1), 'device_status');
      const known = knownAt(part, 'device_status', at * 1000);
      for (const [key, state] of Object.entries(statuses(known)))
        assert.equal(truth[key], state, `seed ${seed}`);
      for (const key of Object.keys(truth))
        assert.ok(known.subjects.has(key) || known.unknown.has(key), `seed ${seed}: ${key} is not forgotten`);
    }
  }
});

test('a device that tells the same again costs one step', () => {
  const made = timeline(Array.from({ length: 1000 }, (_, second) => status(second, 'r1', 'online')));
  assert.equal(made.steps, 1);
  assert.equal(made.kept.get('device_status').get('a/r1')[0].at, 0);
});

test('an alert that was resolved later was open, though nobody knows since when', () => {
  const known = knownAt(stretch([alert(50, 'a1', false)]), 'alert_fired', 40_000);
  assert.deepEqual([...known.subjects.keys()], ['a/a1']);
  assert.equal(known.since.size, 0);
});

test('without what was taken away a device is unknown, not absent; without a loss it was not there', () => {
  const events = [status(50, 'r1', 'online')];
  assert.equal(knownAt(stretch(events), 'device_status', 40_000).unknown.size, 1);
  const whole = knownAt(stretch(events, { isFromBeginning: true }), 'device_status', 40_000);
  assert.deepEqual([whole.unknown.size, whole.subjects.size], [0, 0]);
});

test('a fleet at a moment far from now counts as unknown what it knows of from now alone', () => {
  const live = {
    devices: new Map([['a/r9', { tenant_id: TENANT, device_id: 'r9', status: 'online', site: 'Lyon' }]]),
  };
  const then = fleetAt(stretch([status(10, 'r1', 'offline')]), stretch([]), live, [TENANT], 20_000);
  assert.equal(then.unknown, 1);
  assert.equal(then.devices.get('a/r9').status, undefined);
  assert.equal(then.devices.get('a/r9').site, 'Lyon');
  assert.equal(then.devices.get('a/r1').status, 'offline');
});

test('the course counts what was down and open, and changes are where somebody steps to', () => {
  const down = stretch([status(0, 'r1', 'online'), status(20, 'r1', 'offline'), status(60, 'r1', 'online')]);
  const open = stretch([alert(40, 'a1', true), alert(80, 'a1', false)]);
  const { down: counts, alerts } = courseOf(down, open, 0, 100_000, 10);
  assert.deepEqual(counts, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
  assert.deepEqual(alerts, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]);
  assert.deepEqual(changesOf(down.timeline, open.timeline), [20_000, 40_000, 60_000, 80_000]);
});

test('ten thousand devices with a day of changes are shown at a moment within moments', () => {
  const events = [];
  for (let second = 0; second < 200_000; second++)
    events.push(
      status(second, `r${second % 10_000}`, Math.floor(second / 10_000) % 2 ? 'offline' : 'online'),
    );
  const all = stretch(events, { isFromBeginning: true });
  assert.equal(all.timeline.steps, 200_000);
  const { subjects } = knownAt(all, 'device_status', 100_000_000);
  assert.equal(subjects.size, 10_000);
});
