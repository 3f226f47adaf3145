/**
 * What stands in an event stream, block by block (WHATWG HTML, section 9.2.6).
 * A comment is told as well: on a quiet line it is the sign of life.
 */
export interface Block {
  /** The `event` field; `message` where there was none. */
  readonly event: string;
  /** The `data` fields, joined by line feeds. */
  readonly data: string;
  /** The last event id as of the end of this block. */
  readonly id: string;
}

/** Takes bytes as the network cuts them, and gives the blocks that they complete. */
export class SseParser {
  /** The last event id: what a client resumes with. Empty before the first. */
  lastEventId = '';
  /** The last `retry` field, in milliseconds; `undefined` before the first. */
  retry: number | undefined;

  // Puts U+FFFD for what is no UTF-8. Node 24 and later would drop a second byte order mark too, where the first comes
  // in pieces, so none is left to the decoder.
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #hasBegun = false;
  #line = '';
  #afterReturn = false;
  #id = '';
  #event = '';
  #data: string[] = [];

  /** Takes the next bytes; answers the blocks that are complete now, in order. */
  push(bytes: Uint8Array): Block[] {
    const blocks: Block[] = [];
    const text = this.#decoder.decode(bytes, { stream: true });
    let from = !this.#hasBegun && text.startsWith('\uFEFF') ? 1 : 0;
    this.#hasBegun ||= text.length > 0;
    // A carriage return that ended a piece has ended its line; a line feed behind it belongs to it.
    if (this.#afterReturn && text.length > 0) {
      this.#afterReturn = false;
      if (text.startsWith('\n')) from = 1;
    }
    const ends = /\r\n|\r|\n/g;
    ends.lastIndex = from;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      const block = this.#take(this.#line + text.slice(from, end.index));
      if (block !== undefined) blocks.push(block);
      this.#line = '';
      from = ends.lastIndex;
      this.#afterReturn = from === text.length && end[0] === '\r';
    }
    // Only what is new was searched: a line of many pieces costs by its length.
    this.#line += text.slice(from);
    return blocks;
  }

  #take(line: string): Block | undefined {
    if (line === '') return this.#finish();
    const colon = line.indexOf(':');
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#event = value;
    else if (field === 'id') {
      if (!value.includes('\0')) this.#id = value;
    } else if (field === 'retry' && /^[0-9]+$/.test(value)) this.retry = Number(value);
    return undefined;
  }

  #finish(): Block | undefined {
    this.lastEventId = this.#id;
    const [event, data] = [this.#event, this.#data];
    this.#event = '';
    this.#data = [];
    if (data.length === 0) return undefined;
    return { event: event || 'message', data: data.join('\n'), id: this.#id };
  }
}
