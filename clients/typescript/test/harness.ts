import {
  TidingsError,
  TidingsStream,
  type Message,
  type StreamOptions,
  type Handlers,
} from '../src/index.js';

/** A body that the test writes to, and a fetch that answers with it. */
export class Line {
  readonly requests: { url: URL; init: RequestInit | undefined }[] = [];
  readonly #answers: ((signal: AbortSignal | null | undefined) => Response | Promise<Response>)[] = [];
  readonly #arrivals: (() => void)[] = [];

  /** The next request for a stream is answered so. */
  answer(make: (signal: AbortSignal | null | undefined) => Response | Promise<Response>): void {
    this.#answers.push(make);
  }

  /** The next request for a stream is answered with a body; the function writes to it. */
  open(): Body {
    const body = new Body();
    this.answer((signal) => {
      signal?.addEventListener('abort', () => {
        body.break(signal.reason);
      });
      return new Response(body.stream, {
        headers: {
          'content-type': 'text/event-stream; charset=utf-8',
          'x-connection-id': 'sse-0123456789ab',
        },
      });
    });
    return body;
  }

  /** Resolves with the n-th request (from 1). */
  async request(number: number): Promise<URL> {
    while (this.requests.length < number)
      await new Promise<void>((resolve) => {
        this.#arrivals.push(resolve);
      });
    const request = this.requests[number - 1];
    if (request === undefined) throw new Error('no such request');
    return request.url;
  }

  readonly fetch: typeof fetch = async (input, init) => {
    this.requests.push({ url: new URL(input as string, 'http://server.test'), init });
    for (const arrived of this.#arrivals.splice(0)) arrived();
    const make = this.#answers.shift();
    if (make === undefined) throw new TypeError('connection refused');
    return make(init?.signal);
  };
}

export class Body {
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #isOver = false;
  readonly stream = new ReadableStream<Uint8Array>({
    start: (controller) => {
      this.#controller = controller;
    },
    cancel: () => {
      this.#isOver = true;
    },
  });

  get isOver(): boolean {
    return this.#isOver;
  }

  write(text: string): void {
    this.#controller?.enqueue(new TextEncoder().encode(text));
  }

  end(): void {
    this.#isOver = true;
    this.#controller?.close();
  }

  break(reason: unknown = new TypeError('terminated')): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#controller?.error(reason);
  }
}

export function problem(status: number, detail: string, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify({ title: 'x', status, detail }), {
    status,
    headers: { 'content-type': 'application/problem+json', ...headers },
  });
}

export function open(
  line: Line,
  options: Partial<StreamOptions> = {},
  handlers: Handlers = {},
): TidingsStream {
  let tokens = 0;
  const token = () => Promise.resolve(`token-${++tokens}`);
  return new TidingsStream(
    { baseUrl: 'http://server.test', tenant: 'a', token, fetch: line.fetch, ...options },
    handlers,
  );
}

/** The next message of a kind, the others skipped. */
export async function next<Kind extends Message['kind']>(
  messages: AsyncIterator<Message>,
  kind: Kind,
): Promise<Extract<Message, { kind: Kind }>> {
  for (;;) {
    const { value, done } = (await messages.next()) as IteratorResult<Message, undefined>;
    if (done) throw new Error(`the stream ended before a ${kind}`);
    if (value.kind === kind) return value as Extract<Message, { kind: Kind }>;
  }
}

export async function thrown(promise: Promise<unknown>): Promise<TidingsError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof TidingsError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

export const block = (id: string, data = '{"tenant_id":"a"}', event = 'device_status'): string =>
  `id: ${id}\nevent: ${event}\ndata: ${data}\n\n`;
