import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import test from 'node:test';
import { CAPABILITIES, startService, urlOf } from './contract/service.js';

interface Told {
  readonly kind: string;
  readonly event?: { readonly type: string; readonly id: string; readonly data: string };
  readonly error?: string;
}

/** What waits for one who asks, in order. */
class Arrivals<Item> {
  readonly #items: Item[] = [];
  readonly #waiting: ((item: Item) => void)[] = [];

  add(item: Item): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#items.push(item);
    else waiting(item);
  }

  next(): Promise<Item> {
    const item = this.#items.shift();
    return item === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(item);
  }
}

interface Connection {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly body: string;
}

/** The other side: a suite with a stream that it writes by hand, and the endpoint for callbacks. */
class Suite {
  readonly connections = new Arrivals<Connection>();
  readonly told = new Arrivals<Told>();
  readonly paths: string[] = [];
  readonly #server: Server;

  private constructor(readonly service: Server) {
    this.#server = createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8');
      request.on('data', (piece: string) => (body += piece));
      request.on('end', () => {
        if (request.url === '/stream') {
          response.writeHead(200, { 'content-type': 'text/event-stream' });
          response.flushHeaders();
          this.connections.add({ request, response, body });
          return;
        }
        this.paths.push(request.url ?? '');
        this.told.add(JSON.parse(body) as Told);
        response.end();
      });
    });
  }

  static async start(): Promise<Suite> {
    const suite = new Suite(await startService(0));
    await new Promise<void>((resolve) => suite.#server.listen(0, '127.0.0.1', resolve));
    return suite;
  }

  async create(options: object = {}): Promise<string> {
    const url = urlOf(this.#server);
    const created = await fetch(urlOf(this.service), {
      method: 'POST',
      body: JSON.stringify({
        streamUrl: `${url}/stream`,
        callbackUrl: `${url}/calls`,
        tag: 'x',
        initialDelayMs: 0,
        readTimeoutMs: null,
        ...options,
      }),
    });
    assert.equal(created.status, 201);
    return created.headers.get('location') ?? '';
  }

  async event(): Promise<[string | undefined, string | undefined, string | undefined]> {
    const { event } = await this.told.next();
    return [event?.type, event?.id, event?.data];
  }

  async stop(): Promise<void> {
    assert.equal((await fetch(urlOf(this.service), { method: 'DELETE' })).status, 204);
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

test.describe('a contract suite drives the client', { timeout: 60_000 }, () => {
  let suite: Suite;
  test.beforeEach(async () => {
    suite = await Suite.start();
  });
  test.afterEach(() => suite.stop());

  test('what it can is told', async () => {
    const answer = await fetch(urlOf(suite.service));
    assert.deepEqual(((await answer.json()) as { capabilities: string[] }).capabilities, CAPABILITIES);
  });

  test('blocks are told as they are, in order, by numbered calls', async () => {
    await suite.create();
    const { request, response } = await suite.connections.next();
    assert.equal(request.method, 'GET');
    assert.equal(request.headers.accept, 'text/event-stream');
    assert.equal(request.headers['cache-control'], 'no-cache');
    assert.equal(request.headers['last-event-id'], undefined);
    response.write('data: Hel');
    response.write(
      'lo\n\nid: a\nevent: greeting\ndata:  x\ndata:y\n\ndata\n\nid: a\0b\ncolor: blue\ndata: €豆腐\r\n\r\n',
    );
    assert.deepEqual(await suite.event(), ['message', '', 'Hello']);
    assert.deepEqual(await suite.event(), ['greeting', 'a', ' x\ny']);
    assert.deepEqual(await suite.event(), ['message', 'a', '']);
    assert.deepEqual(await suite.event(), ['message', 'a', '€豆腐']);
    assert.deepEqual(suite.paths, ['/calls/1', '/calls/2', '/calls/3', '/calls/4']);
  });

  test('a broken line is taken up with the last id', async () => {
    await suite.create();
    const first = await suite.connections.next();
    first.response.write('id: abc\ndata: Hello\n\ndata: World\n\n');
    assert.deepEqual(await suite.event(), ['message', 'abc', 'Hello']);
    assert.deepEqual(await suite.event(), ['message', 'abc', 'World']);
    first.response.destroy();
    const second = await suite.connections.next();
    assert.equal(second.request.headers['last-event-id'], 'abc');
  });

  test('headers, a body, a method and a first id go with every attempt', async () => {
    const headers = { 'header-name-1': 'value-1', 'content-type': 'application/json; charset=utf-8' };
    await suite.create({ headers, method: 'REPORT', body: '{"hello":"world"}', lastEventId: 'abc' });
    for (let attempt = 0; attempt < 2; attempt++) {
      const { request, response, body } = await suite.connections.next();
      assert.equal(request.method, 'REPORT');
      assert.equal(body, '{"hello":"world"}');
      assert.equal(request.headers['header-name-1'], 'value-1');
      assert.equal(request.headers['content-type'], headers['content-type']);
      assert.equal(request.headers['last-event-id'], 'abc');
      response.end();
    }
  });

  test('a silent line is an error, and is tried again', async () => {
    await suite.create({ readTimeoutMs: 50 });
    await suite.connections.next();
    assert.equal((await suite.told.next()).error, 'no sign of life from the server');
    await suite.connections.next();
  });

  test('a stream that is closed lets go of its line', async () => {
    const location = await suite.create();
    const { response } = await suite.connections.next();
    const gone = new Promise((resolve) => response.once('close', resolve));
    assert.equal((await fetch(location, { method: 'DELETE' })).status, 204);
    await gone;
    assert.equal((await fetch(location, { method: 'DELETE' })).status, 404);
  });

  test('what is no request is refused', async () => {
    const refused = async (body: string) =>
      (await fetch(urlOf(suite.service), { method: 'POST', body })).status;
    assert.equal(await refused('no JSON'), 400);
    assert.equal(await refused('{"streamUrl":1}'), 400);
  });
});
