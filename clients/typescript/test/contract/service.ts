/**
 * The client behind the HTTP interface by which suites of SSE tests drive implementations in any language: the one
 * of https://github.com/launchdarkly/sse-contract-tests (`docs/service_spec.md` there).
 *
 * Such suites send streams that no Tidings server would: data that is no JSON, ids that are no cursors. So what a
 * block says is left to the suite; lines, blocks, ids, attempts, pauses and silence are the client's own.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Block, type Message, type TidingsEvent, TidingsStream } from '../../src/index.js';

/** What a suite asks for; null counts as missing. */
interface Create {
  readonly streamUrl: string;
  readonly callbackUrl: string;
  readonly initialDelayMs?: number | null;
  readonly readTimeoutMs?: number | null;
  readonly lastEventId?: string | null;
  readonly headers?: Readonly<Record<string, string>> | null;
  readonly method?: string | null;
  readonly body?: string | null;
}

export const CAPABILITIES = ['headers', 'last-event-id', 'post', 'read-timeout', 'report'];

class AnyStream extends TidingsStream {
  protected override read({ event: type, id, data }: Block): Message {
    return { kind: 'event', event: { type, id, data } as unknown as TidingsEvent };
  }
}

/** One stream, and the calls by which the suite is told what comes of it. */
class Followed {
  readonly #callbackUrl: string;
  readonly #stream: TidingsStream;
  #calls = 0;
  #told = Promise.resolve();

  constructor(asked: Create) {
    this.#callbackUrl = asked.callbackUrl;
    const { initialDelayMs, readTimeoutMs, lastEventId } = asked;
    this.#stream = new AnyStream(
      {
        baseUrl: 'http://placeholder.invalid',
        token: () => Promise.resolve('placeholder'),
        fetch: (url, init) => request(asked, url as string, init ?? {}),
        ...(lastEventId ? { cursor: lastEventId } : {}),
        ...(initialDelayMs == null ? {} : { longestPause: initialDelayMs }),
        ...(readTimeoutMs == null ? {} : { heartbeat: readTimeoutMs / 2 }),
      },
      {
        event: ({ type, id, data }) => {
          this.#tell({ kind: 'event', event: { type, id, data } });
        },
        trouble: ({ message }) => {
          this.#fail(message);
        },
      },
    );
    this.#stream.run().catch((error: unknown) => {
      this.#fail(String(error));
    });
  }

  close(): void {
    this.#stream.close();
  }

  #fail(message: string): void {
    // The specification names `comment`, suites read `error`.
    this.#tell({ kind: 'error', error: message, comment: message });
  }

  /** Numbered, and one after the other, so that the suite need not put them in order. */
  #tell(what: object): void {
    const url = `${this.#callbackUrl}/${++this.#calls}`;
    const headers = { 'content-type': 'application/json' };
    this.#told = this.#told
      .then(async () => {
        await (await fetch(url, { method: 'POST', headers, body: JSON.stringify(what) })).arrayBuffer();
      })
      .catch(() => {
        // The suite has gone, or no longer wants to know.
      });
  }
}

/** The client's request, sent to where the suite wants it. The cursor goes as the header that suites look for. */
function request(asked: Create, url: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  const cursor = new URL(url).searchParams.get('last_event_id');
  if (cursor !== null) headers.set('last-event-id', cursor);
  for (const [name, value] of Object.entries(asked.headers ?? {})) headers.set(name, value);
  return fetch(asked.streamUrl, {
    ...init,
    headers,
    ...(asked.method ? { method: asked.method } : {}),
    ...(asked.body == null ? {} : { body: asked.body }),
  });
}

async function json(request: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  return JSON.parse(Buffer.concat(pieces).toString());
}

function isCreate(body: unknown): body is Create {
  const { streamUrl, callbackUrl } = (body ?? {}) as Record<string, unknown>;
  return typeof streamUrl === 'string' && typeof callbackUrl === 'string';
}

/** Starts the service on a port (0: any); it ends with `DELETE /`. */
export async function startService(port: number): Promise<Server> {
  const streams = new Map<string, Followed>();
  let count = 0;
  const answer = async (asked: IncomingMessage): Promise<[number, object?]> => {
    const path = asked.url ?? '/';
    const call = `${asked.method ?? ''} ${path === '/' ? '/' : 'stream'}`;
    switch (call) {
      case 'GET /':
        return [200, { name: '@tidings/client', capabilities: CAPABILITIES }];
      case 'DELETE /':
        for (const stream of streams.values()) stream.close();
        service.close();
        return [204];
      case 'POST /': {
        const body = await json(asked).catch(() => undefined);
        if (!isCreate(body)) return [400];
        const location = `/streams/${++count}`;
        streams.set(location, new Followed(body));
        return [201, { location }];
      }
      case 'DELETE stream': {
        streams.get(path)?.close();
        return [streams.delete(path) ? 204 : 404];
      }
      // Commands are for capabilities that are not in the list.
      case 'POST stream':
        return [streams.has(path) ? 400 : 404];
      default:
        return [405];
    }
  };
  const service = createServer((asked, response) => {
    void answer(asked).then(([status, body]) => {
      const location = body !== undefined && 'location' in body ? String(body.location) : undefined;
      response.writeHead(status, {
        'content-type': 'application/json',
        ...(location === undefined ? {} : { location: `http://${asked.headers.host ?? ''}${location}` }),
      });
      response.end(body === undefined ? undefined : JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve) => service.listen(port, '127.0.0.1', resolve));
  return service;
}

/** Where a service listens. */
export function urlOf(service: Server): string {
  return `http://127.0.0.1:${(service.address() as AddressInfo).port}`;
}
