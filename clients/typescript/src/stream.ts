import { refusal, TidingsError } from './errors.js';
import type { Closing, Gap, Message, TidingsEvent } from './events.js';
import { type Block, SseParser } from './sse.js';
import { exchange, type TokenSource } from './token.js';
import { isOffline, pause, silence } from './wait.js';

/**
 * How it stands with the line, as a dashboard shows it. Only under `live` is what is on the screen how things are.
 *
 * - `connecting`: not yet connected;
 * - `live`: connected, and nothing is known to be missing;
 * - `stale`: connected, but the server brings nothing new: its log can't be written, or a broker behind it is away;
 * - `reconnecting`: the line broke or was silent; the next attempt comes by itself;
 * - `offline`: the browser has no network;
 * - `closed`: over, by the caller or by an error that no attempt can mend.
 */
export type ConnectionState = 'connecting' | 'live' | 'stale' | 'reconnecting' | 'offline' | 'closed';

/** The state with what is known about it. */
export interface Connection {
  readonly state: ConnectionState;
  /** When it became so, in milliseconds since the Unix epoch. */
  readonly since: number;
  /** Under `stale`, the server's reason; under `reconnecting` and `closed`, what happened. */
  readonly reason?: string;
  readonly error?: TidingsError;
  /** Under `live` and `stale`: the name that the operators' list knows the stream by. */
  readonly id?: string;
}

/** What to follow, and how. */
export interface StreamOptions {
  /** Where the API is, without a slash at the end; the page's own origin where it is left out. */
  readonly baseUrl?: string;
  /** The tenant to watch. Without it all tenants: for a `super_admin` only. */
  readonly tenant?: string;
  /** Gives a fresh stream token; where it is left out, `POST /auth/sse-token` with cookies does. */
  readonly token?: TokenSource;
  /** Begin with how things are, and say it anew after a gap. */
  readonly snapshot?: boolean;
  readonly types?: readonly string[];
  readonly devices?: readonly string[];
  /** Types of which a stream that lags gets only the latest; `default` is the server's list. */
  readonly conflate?: readonly string[] | 'default';
  /** `tenant`: a `super_admin` sees only `tenant`. */
  readonly scope?: 'tenant';
  /** The cursor to come back with. */
  readonly cursor?: string | undefined;
  /** RFC 3339: begin with the first event since then. A cursor wins over it. */
  readonly since?: string;
  /** Ends the stream. */
  readonly signal?: AbortSignal;
  readonly fetch?: typeof fetch;
  /** The server's heartbeat in milliseconds (15,000). A line without a byte for two of them is given up. */
  readonly heartbeat?: number;
  /** The longest pause between two attempts, in milliseconds (30,000). */
  readonly longestPause?: number;
}

/** What a caller can be told, beside the iteration. */
export interface Handlers {
  event?(event: TidingsEvent): void;
  /** What is known so far is void; a `snapshot` for each living subject follows. */
  snapshotBegin?(): void;
  snapshot?(event: TidingsEvent): void;
  snapshotEnd?(cursor: string): void;
  /** Something is missing here, and why. With `snapshot`, the snapshot that mends it follows. */
  gap?(gap: Gap): void;
  connection?(connection: Connection): void;
  /** The server ends the stream and says why; the client comes back by itself. */
  closing?(closing: Closing): void;
  /** A failure that the next attempt may mend. */
  trouble?(error: TidingsError): void;
}

/**
 * One stream, held through broken lines: every attempt has a fresh token and the cursor of the last message that was
 * taken, so each event comes once and in order.
 *
 * Follow it with `for await`, or let {@link TidingsStream.run} call handlers; one of the two, once. Messages are read
 * as fast as they are taken: who is slow slows the server's sending, not the page's memory.
 */
export class TidingsStream implements AsyncIterable<Message> {
  /** The cursor of the last message that was taken. */
  cursor: string | undefined;

  readonly #options: StreamOptions;
  readonly #handlers: Handlers;
  readonly #end = new AbortController();
  #connection: Connection = { state: 'connecting', since: Date.now() };
  #isTaken = false;
  /** Whether the stream itself was asked for: what is refused before is the login. */
  #opening = false;
  #pause = 2000;

  constructor(options: StreamOptions, handlers: Handlers = {}) {
    this.#options = options;
    this.#handlers = handlers;
    this.cursor = options.cursor;
    const { signal } = options;
    const close = () => {
      this.close();
    };
    if (signal?.aborted) close();
    else signal?.addEventListener('abort', close, { signal: this.#end.signal });
  }

  /** How it stands with the line. */
  get connection(): Connection {
    return this.#connection;
  }

  /** Ends the stream; its iteration ends without an error. */
  close(): void {
    this.#end.abort();
    this.#become('closed');
  }

  /** Follows the stream and calls the handlers; ends with the stream, or throws what no attempt can mend. */
  async run(): Promise<void> {
    const to = this.#handlers;
    for await (const message of this) {
      if (message.kind === 'event') to.event?.(message.event);
      else if (message.kind === 'snapshot') to.snapshot?.(message.event);
      else if (message.kind === 'gap') to.gap?.(message.gap);
      else if (message.kind === 'snapshot_begin') to.snapshotBegin?.();
      else if (message.kind === 'snapshot_end') to.snapshotEnd?.(message.cursor);
    }
  }

  /** The messages, in order, until the stream is closed. Throws a {@link TidingsError} that no attempt can mend. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    if (this.#isTaken) throw new Error('a stream can be followed once');
    this.#isTaken = true;
    let failures = 0;
    let refused = false;
    try {
      while (!this.#isOver()) {
        let wait: number | undefined;
        let error: TidingsError | undefined;
        const line = new AbortController();
        const hangUp = () => {
          line.abort();
        };
        this.#end.signal.addEventListener('abort', hangUp);
        try {
          for await (const [message, id] of this.#attempt(line, (ms) => (wait = ms))) {
            failures = 0;
            refused = false;
            if (message) yield message;
            if (id) this.cursor = id;
          }
        } catch (thrown) {
          if (this.#isOver()) return;
          error = asError(thrown, line.signal);
          // A token can expire on its way; a second refusal is about the login.
          if (!error.isTransient && (refused || error.failure !== 'unauthorized' || !this.#opening)) {
            this.#become('closed', { error });
            throw error;
          }
          refused ||= error.failure === 'unauthorized';
          this.#handlers.trouble?.(error);
          wait = error.retryAfter;
          if (wait !== undefined) wait += Math.random() * this.#pause;
        } finally {
          this.#end.signal.removeEventListener('abort', hangUp);
          line.abort();
        }
        if (this.#isOver()) return;
        const offline = isOffline();
        this.#become(offline ? 'offline' : 'reconnecting', error && { error, reason: error.message });
        // Full jitter: what broke for all at once must not come back all at once.
        const { longestPause = 30_000 } = this.#options;
        const bound = Math.min(longestPause, this.#pause * 2 ** failures);
        failures += 1;
        await pause(offline ? longestPause : (wait ?? Math.random() * bound), this.#end.signal);
      }
    } finally {
      this.close();
    }
  }

  #isOver(): boolean {
    return this.#end.signal.aborted;
  }

  /** One connection: what it brings with the cursor to come back with. Ends with the body; throws what went wrong. */
  async *#attempt(
    line: AbortController,
    comeBackIn: (milliseconds: number) => void,
  ): AsyncGenerator<[Message | undefined, string]> {
    const { heartbeat = 15_000, fetch: send = fetch, baseUrl, token } = this.#options;
    let rest = (): void => undefined;
    const watch = () => {
      rest();
      rest = silence(2 * heartbeat, () => {
        line.abort(new TidingsError('network', 'no sign of life from the server'));
      });
    };
    // The browser knows at once what the line would show in half a minute.
    const cutOff = () => {
      line.abort(new TidingsError('network', 'the browser is offline'));
    };
    const page: Partial<EventTarget> = globalThis;
    page.addEventListener?.('offline', cutOff);
    try {
      watch();
      this.#opening = false;
      const source = token ?? exchange({ ...(baseUrl === undefined ? {} : { baseUrl }), fetch: send });
      const url = this.#url(await source(line.signal));
      this.#opening = true;
      const response = await send(url, {
        headers: { accept: 'text/event-stream' },
        cache: 'no-store',
        credentials: 'omit',
        signal: line.signal,
      });
      if (response.status !== 200) throw await refusal(response);
      const type = response.headers.get('content-type') ?? '';
      if (!type.startsWith('text/event-stream') || !response.body)
        throw new TidingsError('network', `not an event stream: ${type}`, 200);
      const id = response.headers.get('x-connection-id');
      this.#become('live', id === null ? {} : { id });
      const parser = new SseParser();
      const reader = response.body.getReader();
      let inSnapshot = false;
      while (true) {
        watch();
        const { done, value } = await reader.read();
        // While the caller takes its time, the line is not silent.
        rest();
        if (done) return;
        const blocks = parser.push(value);
        this.#pause = parser.retry ?? this.#pause;
        for (const block of blocks) {
          if ((block.event === 'snapshot' || block.event === 'snapshot_end') && !inSnapshot) {
            inSnapshot = true;
            yield [{ kind: 'snapshot_begin' }, ''];
          }
          if (block.event === 'snapshot_end') inSnapshot = false;
          const message = this.read(block, comeBackIn);
          // A closed view's cursor is not to come back with.
          yield [message, block.event === 'closing' ? '' : block.id];
        }
      }
    } finally {
      rest();
      page.removeEventListener?.('offline', cutOff);
    }
  }

  #url(token: string): string {
    const { baseUrl = '', tenant, types, devices, conflate, snapshot, scope, since } = this.#options;
    const query = new URLSearchParams({ token });
    const add = (name: string, value: string | undefined) => {
      if (value) query.set(name, value);
    };
    // A parameter, not the header: the header would cost a preflight across origins.
    add('last_event_id', this.cursor);
    add('types', types?.join());
    add('device_id', devices?.join());
    add('conflate', typeof conflate === 'string' ? conflate : conflate?.join());
    add('snapshot', snapshot ? 'true' : undefined);
    add('scope', scope);
    if (this.cursor === undefined) add('since', since);
    const path = tenant === undefined ? '' : `/tenants/${encodeURIComponent(tenant)}`;
    return `${baseUrl}${path}/events/stream?${query.toString()}`;
  }

  /**
   * What a block says. Not private, so that tests can follow streams that are not this server's.
   *
   * @internal
   */
  protected read(block: Block, comeBackIn: (milliseconds: number) => void): Message | undefined {
    const { event: type, id } = block;
    const data = parse(block);
    switch (type) {
      case 'snapshot': {
        return { kind: 'snapshot', event: data as unknown as TidingsEvent };
      }
      case 'snapshot_end':
        return { kind: 'snapshot_end', cursor: id };
      case 'cursor':
        return { kind: 'cursor', cursor: id };
      case 'gap':
        return { kind: 'gap', gap: data as unknown as Gap };
      case 'stale':
      case 'fresh':
        this.#become(type === 'stale' ? 'stale' : 'live', {
          ...(this.#connection.id === undefined ? {} : { id: this.#connection.id }),
          ...(typeof data['reason'] === 'string' ? { reason: data['reason'] } : {}),
        });
        return undefined;
      case 'closing': {
        const closing = data as unknown as Closing;
        if (closing.retry !== undefined) comeBackIn(closing.retry);
        // Another view: what was seen under the old one is void.
        if (closing.reason === 'view_changed' && this.#options.snapshot) this.cursor = undefined;
        this.#handlers.closing?.(closing);
        return undefined;
      }
      default:
        return { kind: 'event', event: { type, id, data } as TidingsEvent };
    }
  }

  #become(state: ConnectionState, more: Partial<Connection> = {}): void {
    const before = this.#connection;
    if (
      before.state === 'closed' ||
      (before.state === state && before.error === more.error && before.id === more.id)
    )
      return;
    this.#connection = { state, since: Date.now(), ...more };
    this.#handlers.connection?.(this.#connection);
  }
}

function parse(block: Block): Record<string, unknown> {
  try {
    const data: unknown = JSON.parse(block.data);
    if (typeof data === 'object' && data !== null) return data as Record<string, unknown>;
  } catch {
    // Told below.
  }
  throw new TidingsError('invalid', `the data of ${block.event} is no JSON object`, 200);
}

function asError(thrown: unknown, line: AbortSignal): TidingsError {
  const cause: unknown = line.aborted ? line.reason : thrown;
  if (cause instanceof TidingsError) return cause;
  return new TidingsError('network', cause instanceof Error ? cause.message : String(cause), 0, undefined, {
    cause,
  });
}
