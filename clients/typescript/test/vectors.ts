// Holds the parser to spec/vectors/, in Node and in browsers alike.
import { SseParser } from '../src/index.js';

type Piece = { text: string } | { bytes: number[] } | { repeat: { text: string; times: number } };

/** A case of spec/vectors/sse-decoding.json. */
export interface Case {
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

const bytes = (piece: Piece): Uint8Array =>
  'text' in piece
    ? new TextEncoder().encode(piece.text)
    : 'bytes' in piece
      ? Uint8Array.from(piece.bytes)
      : new TextEncoder().encode(piece.repeat.text.repeat(piece.repeat.times));

function join(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

const text = (data: Piece | Piece[] | string): string =>
  typeof data === 'string'
    ? data
    : new TextDecoder('utf-8', { ignoreBOM: true }).decode(join([data].flat().map(bytes)));

function read(pieces: readonly Uint8Array[]): string {
  const parser = new SseParser();
  const blocks = pieces.flatMap((piece) => parser.push(piece));
  return JSON.stringify([
    blocks.map(({ id, event, data }) => [id, event, data]),
    parser.lastEventId,
    parser.retry,
  ]);
}

/** Reads a case as the network may cut it; answers in which ways it was read wrongly. */
export function wrongReadings({ input, frames, last_event_id }: Case): string[] {
  const events = frames.flatMap((frame) =>
    'event' in frame ? [[frame.event.id, frame.event.event, text(frame.event.data)]] : [],
  );
  const retries = frames.flatMap((frame) => ('retry' in frame ? [frame.retry] : []));
  const expected = JSON.stringify([events, last_event_id, retries.at(-1)]);
  const pieces = input.map(bytes);
  const whole = join(pieces);
  const ways: [string, readonly Uint8Array[]][] = [
    ['as the network brings it', pieces],
    ['all at once', [whole]],
    ['byte by byte', Array.from(whole, (_, at) => whole.subarray(at, at + 1))],
  ];
  if (whole.length < 2_000)
    for (let at = 0; at <= whole.length; at++)
      ways.push([`cut at ${at}`, [whole.subarray(0, at), whole.subarray(at)]]);
  return ways.flatMap(([how, cut]) => {
    const got = read(cut);
    return got === expected ? [] : [`${how}: ${got.slice(0, 500)}, not ${expected.slice(0, 500)}`];
  });
}
