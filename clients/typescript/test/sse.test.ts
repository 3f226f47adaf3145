import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { SseParser } from '../src/index.js';

type Piece = { text: string } | { bytes: number[] } | { repeat: { text: string; times: number } };
interface Case {
  name: string;
  input: Piece[];
  frames: (
    | { event: { id: string; event: string; data: Piece | Piece[] | string } }
    | { retry: number }
    | { comment: unknown }
  )[];
  last_event_id: string;
  limit?: number;
}

const path = new URL('../../../../spec/vectors/sse-decoding.json', import.meta.url);
const { cases } = JSON.parse(readFileSync(path, 'utf8')) as { cases: Case[] };

const bytes = (piece: Piece): Uint8Array =>
  'text' in piece
    ? new TextEncoder().encode(piece.text)
    : 'bytes' in piece
      ? Uint8Array.from(piece.bytes)
      : new TextEncoder().encode(piece.repeat.text.repeat(piece.repeat.times));

const join = (pieces: Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(pieces));

const text = (data: Piece | Piece[] | string): string =>
  typeof data === 'string'
    ? data
    : new TextDecoder('utf-8', { ignoreBOM: true }).decode(join([data].flat().map(bytes)));

function read(pieces: Iterable<Uint8Array>) {
  const parser = new SseParser();
  const blocks = [...pieces].flatMap((piece) => parser.push(piece));
  return { blocks, lastEventId: parser.lastEventId, retry: parser.retry };
}

for (const { name, input, frames, last_event_id, limit } of cases) {
  if (limit !== undefined) continue;
  test(`vector: ${name}`, () => {
    const events = frames.flatMap((frame) =>
      'event' in frame ? [{ ...frame.event, data: text(frame.event.data) }] : [],
    );
    const retries = frames.flatMap((frame) => ('retry' in frame ? [frame.retry] : []));
    const pieces = input.map(bytes);
    const whole = join(pieces);
    const check = (cut: Iterable<Uint8Array>, how: string) => {
      const { blocks, lastEventId, retry } = read(cut);
      assert.deepEqual(
        blocks.map(({ id, event, data }) => ({ id, event, data })),
        events,
        how,
      );
      assert.equal(lastEventId, last_event_id, how);
      assert.equal(retry, retries.at(-1), how);
    };
    check(pieces, 'as the network brings it');
    check([whole], 'all at once');
    check(
      Array.from(whole, (_, at) => whole.subarray(at, at + 1)),
      'byte by byte',
    );
    if (whole.length < 2_000)
      for (let at = 0; at <= whole.length; at++)
        check([whole.subarray(0, at), whole.subarray(at)], `cut at ${at}`);
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
