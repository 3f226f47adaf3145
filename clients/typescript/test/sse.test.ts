import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { SseParser } from '../src/index.js';
import { type Case, wrongReadings } from './vectors.js';

const path = new URL('../../../../spec/vectors/sse-decoding.json', import.meta.url);
const { cases } = JSON.parse(readFileSync(path, 'utf8')) as { cases: Case[] };

for (const each of cases) {
  if (each.limit !== undefined) continue;
  test(`vector: ${each.name}`, () => {
    assert.deepEqual(wrongReadings(each), []);
  });
}

test('the vectors are there', () => {
  assert.ok(cases.length > 20, `${cases.length} cases`);
});

test('a line of many pieces costs by its length', () => {
  const parser = new SseParser();
  const piece = new TextEncoder().encode('x'.repeat(1_000));
  parser.push(new TextEncoder().encode('data: '));
  for (let count = 0; count < 16_000; count++) parser.push(piece);
  const [block] = parser.push(new TextEncoder().encode('\n\n'));
  assert.equal(block?.data.length, 16_000_000);
});
