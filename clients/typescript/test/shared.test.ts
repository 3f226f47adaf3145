import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import type { Message } from '../src/index.js';
import { SharedStream, type SharedOptions } from '../src/shared.js';

/** Web Locks as far as they are used: one holder a name, a queue, stealing, signals. */
class Locks {
  readonly #held = new Map<string, { steal: () => void }>();
  readonly #waiting: { name: string; grant: () => void }[] = [];

  request(name: string, options: LockOptions, callback: () => Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => {
        reject(new DOMException('stolen or aborted', 'AbortError'));
      };
      const grant = () => {
        const entry = { steal: abort };
        this.#held.set(name, entry);
        void callback().finally(() => {
          resolve();
          if (this.#held.get(name) !== entry) return;
          this.#held.delete(name);
          const place = this.#waiting.findIndex((each) => each.name === name);
          if (place >= 0) this.#waiting.splice(place, 1)[0]?.grant();
        });
      };
      if (options.steal) {
        this.#held.get(name)?.steal();
        grant();
        return;
      }
      if (options.signal?.aborted) {
        abort();
        return;
      }
      if (!this.#held.has(name)) {
        setImmediate(grant);
        this.#held.set(name, { steal: abort });
        return;
      }
      const waiting = { name, grant };
      this.#waiting.push(waiting);
      options.signal?.addEventListener('abort', () => {
        const place = this.#waiting.findIndex((each) => each === waiting);
        if (place < 0) return;
        this.#waiting.splice(place, 1);
        abort();
      });
    });
  }
}

/** A server of one tenant: a log, and the streams that follow it. */
class Server {
  readonly log: string[] = [];
  readonly open = new Set<ReadableStreamDefaultController<Uint8Array>>();
  opened = 0;
  /** How many streams a browser has at once; a further one waits for the end of one of them. */
  most = Infinity;

  readonly fetch: typeof fetch = async (input, init) => {
    this.opened += 1;
    while (this.open.size >= this.most && !init?.signal?.aborted)
      await new Promise((resolve) => setTimeout(resolve, 1));
    init?.signal?.throwIfAborted();
    const url = new URL(input as string);
    const cursor = url.searchParams.get('last_event_id');
    let mine: ReadableStreamDefaultController<Uint8Array>;
    const close = () => {
      if (!this.open.delete(mine)) return;
      try {
        mine.error(new TypeError('terminated'));
      } catch {
        // It is over already.
      }
    };
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        mine = controller;
        this.open.add(controller);
        const after = cursor === null ? this.log.length : Number(cursor.slice(2));
        send(controller, `id: e.${after}\nevent: cursor\ndata: {}\n\n`);
        for (let position = after + 1; position <= this.log.length; position++)
          send(controller, this.#block(position));
      },
      cancel: close,
    });
    init?.signal?.addEventListener('abort', close);
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  };

  /** The heart beats, or lines would be given up; answers how to end that. */
  beat(): () => void {
    const beating = setInterval(() => {
      for (const controller of this.open) send(controller, ': heartbeat\n');
    }, 10);
    return () => {
      clearInterval(beating);
    };
  }

  publish(text: string): void {
    this.log.push(text);
    for (const controller of this.open) send(controller, this.#block(this.log.length));
  }

  #block(position: number): string {
    return `id: e.${position}\nevent: note\ndata: ${JSON.stringify({ tenant_id: 'a', text: this.log[position - 1] })}\n\n`;
  }
}

const send = (controller: ReadableStreamDefaultController<Uint8Array>, text: string) => {
  controller.enqueue(new TextEncoder().encode(text));
};

class Tab {
  readonly got: string[] = [];
  readonly stream: SharedStream;
  readonly over: Promise<void>;

  constructor(server: Server, name: string, options: Partial<SharedOptions> = {}) {
    this.stream = new SharedStream({
      name,
      baseUrl: 'http://server.test',
      tenant: 'a',
      token: () => Promise.resolve('t'),
      fetch: server.fetch,
      longestPause: 1,
      ...options,
    });
    this.over = this.#follow();
  }

  /** Resolves when this tab goes on taking messages. */
  resting: Promise<void> | undefined;

  async #follow(): Promise<void> {
    for await (const message of this.stream) {
      this.#take(message);
      await this.resting;
    }
  }

  #take(message: Message): void {
    if (message.kind === 'event') this.got.push((message.event.data as { text?: string }).text ?? '');
  }
}

// Also where a test has the clock in its hands.
const { setTimeout: later } = globalThis;

async function until(holds: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not in a minute: ${what}`);
    await new Promise((resolve) => later(resolve, 1));
  }
}

let names = 0;
const navigatorBefore = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
test.beforeEach(() => {
  Object.defineProperty(globalThis, 'navigator', { value: { locks: new Locks() }, configurable: true });
});
test.after(() => {
  if (navigatorBefore) Object.defineProperty(globalThis, 'navigator', navigatorBefore);
  else Reflect.deleteProperty(globalThis, 'navigator');
});

async function several(server: Server, count = 8): Promise<Tab[]> {
  const name = `tabs-${++names}`;
  const tabs = Array.from({ length: count }, () => new Tab(server, name));
  await until(() => server.opened === count, 'every tab has begun');
  server.publish('first');
  await until(() => tabs.every(({ got }) => got.includes('first')), 'all have the first');
  await until(() => server.open.size === 1, 'one connection');
  return tabs;
}

const leaders = (tabs: readonly Tab[]) => tabs.filter(({ stream }) => stream.readsItself);

async function close(tabs: readonly Tab[]): Promise<void> {
  for (const { stream } of tabs) stream.close();
  await Promise.all(tabs.map(({ over }) => over));
}

test('eight tabs, one connection, each event once in each', async () => {
  const server = new Server();
  const tabs = await several(server);
  for (let number = 0; number < 100; number++) server.publish(`${number}`);
  await until(() => tabs.every(({ got }) => got.includes('99')), 'all have the last');
  for (const { got } of tabs) assert.deepEqual(got, server.log);
  assert.equal(server.open.size, 1);
  assert.equal(leaders(tabs).length, 1);
  await close(tabs);
  await until(() => server.open.size === 0, 'nothing is held');
});

test('a tab that takes nothing for long is not told without end: it reads on itself, and joins again', async () => {
  const server = new Server();
  const tabs = await several(server, 2);
  const slow = tabs.find(({ stream }) => !stream.readsItself);
  assert.ok(slow);
  let goOn = (): void => undefined;
  slow.resting = new Promise((resolve) => (goOn = resolve));
  try {
    let number = 0;
    const others = tabs.filter((tab) => tab !== slow);
    await until(() => {
      for (let count = 0; count < 500 && number < 50_000; count++) server.publish(`${++number}`);
      return slow.stream.readsItself;
    }, 'the slow tab reads itself: while nothing is taken, no more is kept for it');
    await until(() => others.every(({ got }) => got.at(-1) === `${number}`), 'the others have the last');
    slow.resting = undefined;
    goOn();
    await until(() => {
      server.publish(`${++number}`);
      return server.open.size === 1;
    }, 'one connection again');
    await until(() => tabs.every(({ got }) => got.at(-1) === `${number}`), 'all have the last');
    for (const { got } of tabs) assert.deepEqual(got, server.log);
  } finally {
    goOn();
    await close(tabs);
  }
});

test('when the leading tab closes another leads on, without loss or repeat', async () => {
  const server = new Server();
  const tabs = await several(server);
  let number = 0;
  for (let round = 0; round < 7; round++) {
    const left = tabs.filter(({ stream }) => stream.connection.state !== 'closed');
    const leader = leaders(left)[0];
    assert.ok(leader);
    for (let count = 0; count < 20; count++) {
      server.publish(`${++number}`);
      if (count === 10) leader.stream.close();
    }
    const rest = left.filter((tab) => tab !== leader);
    await until(
      () => rest.every(({ got }) => got.at(-1) === `${number}`),
      `round ${round}: all have the last`,
    );
    // A tab that bridges joins at the next event that both bring.
    await until(() => {
      if (server.open.size > 1) server.publish(`${++number}`);
      return server.open.size === 1;
    }, `round ${round}: one connection`);
    await until(
      () => rest.every(({ got }) => got.at(-1) === `${number}`),
      `round ${round}: all have the last again`,
    );
    for (const { got } of rest) assert.deepEqual(got, server.log);
  }
  await close(tabs);
});

test('a leader that says nothing any more is replaced, and stands behind when it wakes', async () => {
  const server = new Server();
  const name = `tabs-${++names}`;
  const [one, other] = [new Tab(server, name, { heartbeat: 50 }), new Tab(server, name, { heartbeat: 50 })];
  const rest = server.beat();
  try {
    await until(() => server.opened >= 2, 'both have begun');
    server.publish('first');
    await until(() => server.open.size === 1, 'one connection');
    const leader = leaders([one, other])[0] ?? one;
    const follower = leader === one ? other : one;
    // What it says reaches nobody, as of a page that is stopped.
    // eslint-disable-next-line @typescript-eslint/unbound-method -- it is put in its own place again
    const post = BroadcastChannel.prototype.postMessage;
    let isMute = true;
    BroadcastChannel.prototype.postMessage = function (this: BroadcastChannel, word: unknown) {
      const term = (word as { term?: string }).term;
      if (isMute && (silenced ??= term) === term) return;
      post.call(this, word);
    };
    let silenced: string | undefined;
    try {
      server.publish('second');
      await until(() => follower.got.includes('second'), 'the follower reads itself');
      isMute = false;
      await until(() => {
        server.publish('more');
        return server.open.size === 1;
      }, 'one connection again');
      server.publish('last');
      await until(() => [one, other].every(({ got }) => got.at(-1) === 'last'), 'both have the last');
      for (const { got } of [one, other]) assert.deepEqual(got, server.log);
    } finally {
      BroadcastChannel.prototype.postMessage = post;
    }
  } finally {
    rest();
    await close([one, other]);
  }
});

test('a leader that gets no line, since those who bridge have all that there are, hands over to one of them', async () => {
  // Over HTTP/1.1 six bridges held the six connections of a browser, and the leader waited for one for ever.
  const server = new Server();
  server.most = 2;
  const name = `tabs-${++names}`;
  const taken = until(() => server.open.size === server.most, 'the others have all connections');
  const late = { heartbeat: 50, token: () => taken.then(() => 't') };
  const leader = new Tab(server, name, late);
  const others = [new Tab(server, name, { heartbeat: 50 }), new Tab(server, name, { heartbeat: 50 })];
  const rest = server.beat();
  try {
    await taken;
    await until(() => {
      server.publish('more');
      return server.open.size === 1 && leaders([leader, ...others]).length === 1;
    }, 'one connection');
    server.publish('last');
    await until(() => [leader, ...others].every(({ got }) => got.at(-1) === 'last'), 'all have the last');
    for (const { got } of others) assert.deepEqual(got, server.log);
    assert.deepEqual(leader.got, server.log.slice(-leader.got.length), 'from its beginning on');
  } finally {
    rest();
    await close([leader, ...others]);
  }
});

test('a tab that itself stood still does not take its own late timers for the silence of others', async () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const server = new Server();
  let tabs: Tab[] = [];
  try {
    tabs = await several(server, 2);
    const { opened } = server;
    for (const text of ['one', 'other']) {
      // Longer than any silence that is borne. What came meanwhile is read after the timers.
      mock.timers.tick(60_000);
      server.publish(text);
      await until(() => tabs.every(({ got }) => got.at(-1) === text), `all have the ${text}`);
    }
    assert.equal(server.opened, opened, 'nobody began another line');
    assert.equal(leaders(tabs).length, 1);
  } finally {
    await close(tabs);
    mock.timers.reset();
  }
});

test('without locks every tab has its own stream', async () => {
  Object.defineProperty(globalThis, 'navigator', { value: {}, configurable: true });
  const server = new Server();
  const tabs = [new Tab(server, 'x'), new Tab(server, 'x')];
  await until(() => server.open.size === 2, 'two connections');
  server.publish('one');
  await until(() => tabs.every(({ got }) => got.length === 1), 'both have it');
  await close(tabs);
});

test('two names do not meet', async () => {
  const server = new Server();
  const tabs = [new Tab(server, 'user-1'), new Tab(server, 'user-2')];
  await until(() => server.open.size === 2, 'two connections');
  server.publish('one');
  await until(() => tabs.every(({ got }) => got.length === 1), 'both have it');
  assert.equal(server.open.size, 2);
  await close(tabs);
});

test('who leads on within a snapshot begins with a snapshot, not with the cursor of the view before', async () => {
  const name = `tabs-${++names}`;
  const asked: (string | null)[] = [];
  const controllers: ReadableStreamDefaultController<Uint8Array>[] = [];
  const answer: typeof fetch = (input) => {
    asked.push(new URL(input as string).searchParams.get('last_event_id'));
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void controllers.push(controller) });
    return Promise.resolve(new Response(body, { headers: { 'content-type': 'text/event-stream' } }));
  };
  const kinds: string[][] = [];
  const tab = () => {
    const mine: string[] = [];
    kinds.push(mine);
    const stream = new SharedStream({
      name,
      baseUrl: 'http://server.test',
      tenant: 'a',
      token: () => Promise.resolve('t'),
      fetch: answer,
      snapshot: true,
      longestPause: 1,
    });
    const over = (async () => {
      for await (const { kind } of stream) mine.push(kind);
    })();
    return { stream, over, kinds: mine };
  };
  const subject = 'event: snapshot\ndata: {"type":"note","id":"e.1","data":{"tenant_id":"a"}}\n\n';
  const whole = `${subject}id: e.1\nevent: snapshot_end\ndata: {}\n\n`;
  const sent = (place: number, text: string) => {
    const controller = controllers[place];
    assert.ok(controller);
    send(controller, text);
    return controller;
  };
  const leader = tab();
  await until(() => controllers.length === 1, 'the first tab reads');
  sent(0, whole);
  await until(() => leader.kinds.includes('snapshot_end'), 'it has the whole picture');
  const follower = tab();
  await until(() => controllers.length === 2, 'the second tab reads');
  sent(1, whole);
  sent(0, 'id: e.2\nevent: note\ndata: {"tenant_id":"a"}\n\n');
  sent(1, 'id: e.2\nevent: note\ndata: {"tenant_id":"a"}\n\n');
  await until(() => !follower.stream.readsItself, 'the second tab has joined');
  sent(0, 'event: closing\ndata: {"reason":"view_changed","retry":1}\n\n').close();
  await until(() => controllers.length === 3, 'the leader comes back');
  assert.equal(asked[2], null);
  sent(2, subject);
  await until(() => follower.kinds.at(-1) === 'snapshot', 'the second tab is told the beginning');
  leader.stream.close();
  await leader.over;
  await until(() => controllers.length === 4, 'the second tab leads on');
  assert.equal(asked[3], null);
  sent(3, whole);
  await until(() => follower.kinds.at(-1) === 'snapshot_end', 'it has the whole picture');
  follower.stream.close();
  await follower.over;
});
