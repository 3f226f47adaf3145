import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { build } from 'esbuild';
import type { Case } from '../vectors.js';
import { BROWSERS, type Browser, freezableChromium, type FreezableTab, type Tab } from './browsers.js';
import { FaultyProxy, TENANT, Tidings, until } from './server.js';

interface Got {
  readonly numbers: number[];
  readonly states: string[];
  readonly failure: string | null;
}

const script = await build({
  entryPoints: ['test/browsers/page.ts'],
  bundle: true,
  format: 'iife',
  write: false,
});
const text = script.outputFiles[0]?.text ?? '';

const vectors = readFileSync('../../spec/vectors/sse-decoding.json', 'utf8');
const cases = (JSON.parse(vectors) as { cases: Case[] }).cases.filter(({ limit }) => limit === undefined);

interface Known {
  readonly devices: Readonly<Record<string, number>>;
  readonly isComplete: boolean;
  readonly state: string;
}

const got = (tab: Tab): Promise<Got> => tab.call('got');

interface Told {
  readonly reasons: readonly string[];
  readonly closings: readonly string[];
  readonly gaps: readonly string[];
  readonly troubles: readonly { readonly status: number; readonly waits: boolean }[];
}

const told = (tab: Tab): Promise<Told> => tab.call('told');

async function hasAll(tab: Tab, server: Tidings): Promise<void> {
  const expected = Array.from({ length: server.published }, (_, index) => index + 1);
  await until(async () => (await got(tab)).numbers.length >= expected.length, `${expected.length} events`);
  assert.deepEqual((await got(tab)).numbers, expected, 'each once, in order');
}

/** The tab that leads, once it alone reads, with one connection; who bridges joins at an event that comes by both ways. */
async function leading<Opened extends Tab>(tabs: readonly Opened[], server: Tidings): Promise<Opened> {
  let readers: Opened[] = [];
  await until(async () => {
    await server.publish(1);
    const reads = await Promise.all(tabs.map((tab) => tab.call<boolean>('readsItself')));
    readers = tabs.filter((_, place) => reads[place]);
    return readers.length === 1 && (await server.streams()) === 1;
  }, 'one tab leads, with one connection');
  for (const tab of tabs) await hasAll(tab, server);
  const [leader] = readers;
  assert.ok(leader);
  return leader;
}

for (const [name, launch] of Object.entries(BROWSERS))
  test.describe(name, () => {
    let pages: Server;
    let url: string;
    let browser: Browser;
    let server: Tidings;
    let proxy: FaultyProxy;
    let follow: Record<string, string>;
    /** Streams of an API that this test plays by hand, and how often it refuses first. */
    const played: ServerResponse[] = [];
    let refusals = 0;

    const hand = (asked: string, response: ServerResponse): void => {
      if (asked.includes('sse-token')) {
        response.setHeader('content-type', 'application/json');
        response.end('{"token":"t","expires_in":30}');
      } else if (refusals > 0) {
        refusals -= 1;
        response.writeHead(503, { 'retry-after': '1', 'content-type': 'application/problem+json' });
        response.end('{"detail":"not yet"}');
      } else {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('id: a.1\nevent: cursor\ndata: {}\n\n');
        // A silent line would be given up.
        const beating = setInterval(() => response.write(': beat\n\n'), 500);
        response.on('close', () => {
          clearInterval(beating);
        });
        played.push(response);
      }
    };

    test.before(async () => {
      pages = createServer((request, response) => {
        if (request.url?.startsWith('/hand/')) {
          hand(request.url, response);
          return;
        }
        response.setHeader('content-type', request.url === '/page.js' ? 'text/javascript' : 'text/html');
        response.end(request.url === '/page.js' ? text : '<!doctype html><script src="/page.js"></script>');
      });
      await new Promise<void>((resolve) => pages.listen(0, '127.0.0.1', resolve));
      url = `http://127.0.0.1:${(pages.address() as AddressInfo).port}`;
      browser = await launch();
    });
    test.after(async () => {
      await browser.close();
      pages.closeAllConnections();
      pages.close();
    });
    test.beforeEach(async () => {
      server = await Tidings.start(url);
      proxy = new FaultyProxy(() => server.port);
      const port = await proxy.listen();
      follow = { baseUrl: `http://127.0.0.1:${port}`, tenant: TENANT, access: server.token('viewer') };
    });
    test.afterEach(async () => {
      await proxy.close();
      await server.stop();
    });

    const live = async (more: object = {}): Promise<Tab> => {
      const tab = await browser.open(url);
      await tab.call('follow', { ...follow, ...more });
      await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live');
      return tab;
    };

    test('events arrive once and in order over cuts, stalls, delays and a killed server', async () => {
      const tab = await live({ heartbeat: 1_500 });
      await server.publish(20);
      await hasAll(tab, server);
      for (let round = 1; round <= 3; round++) {
        proxy.cutAll();
        // The next connections are the token's and the stream's: one of them is cut within what it brings.
        proxy.cutAfter = 300 * round;
        await server.publish(20);
        await hasAll(tab, server);
      }
      const before = (await got(tab)).states.length;
      proxy.isStalled = true;
      await server.publish(20);
      await until(
        async () => (await got(tab)).states.slice(before).includes('reconnecting'),
        'a silent line is given up',
      );
      proxy.isStalled = false;
      // What was held back never comes; those lines are given up as well.
      await hasAll(tab, server);
      proxy.delay = 50;
      await server.publish(20);
      await hasAll(tab, server);
      proxy.delay = 0;
      await server.kill();
      await until(async () => (await got(tab)).states.at(-1) !== 'live', 'the page knows');
      await server.start();
      await server.publish(20);
      await hasAll(tab, server);
      await tab.close();
    });

    test('a tenant that is not the user’s is told, not tried for ever', async () => {
      const tab = await browser.open(url);
      await tab.call('follow', { ...follow, tenant: '22222222-2222-4222-8222-222222222222' });
      await until(async () => (await got(tab)).failure !== null, 'the failure');
      assert.equal((await got(tab)).failure, 'forbidden');
      await tab.close();
    });

    test('a login that ends while the page is open is told as such', async () => {
      const tab = await browser.open(url);
      await tab.call('follow', { ...follow, access: server.token('viewer', '5s') });
      await until(async () => (await got(tab)).failure !== null, 'the failure');
      assert.equal((await got(tab)).failure, 'unauthorized');
      await tab.close();
    });

    test('every vector is read as it should be, however it is cut', async () => {
      assert.ok(cases.length > 20);
      const tab = await browser.open(url);
      assert.deepEqual(await tab.call('wrongReadings', cases), []);
      await tab.close();
    });

    test('the fleet is shown whole, and again after cuts and a killed server', async () => {
      const device = (number: number) => `r${number % 300}`;
      const expected = () => {
        const newest: Record<string, number> = {};
        for (let number = 1; number <= server.published; number++) newest[device(number)] = number;
        return newest;
      };
      await server.publish(500, device);
      const tab = await browser.open(url);
      await tab.call('fleet', follow);
      const shows = async () => {
        const wanted = expected();
        await until(async () => {
          const known = await tab.call<Known>('known');
          return known.isComplete && known.state === 'live' && known.devices['r1'] === wanted['r1'];
        }, 'the fleet is whole and live');
        await until(async () => {
          const { devices } = await tab.call<Known>('known');
          return Object.entries(wanted).every(([key, number]) => devices[key] === number);
        }, 'every device as it is');
        assert.deepEqual((await tab.call<Known>('known')).devices, wanted);
      };
      await shows();
      proxy.cutAll();
      await server.publish(500, device);
      await shows();
      await server.kill();
      await until(
        async () => (await tab.call<Known>('known')).state !== 'live',
        'the page does not look live',
      );
      await server.start();
      await server.publish(500, device);
      await shows();
      await tab.close();
    });

    test('another log is told as a gap, and the fleet is read anew', async () => {
      await server.publish(3, (number) => `before-${number}`);
      const tab = await browser.open(url);
      await tab.call('fleet', follow);
      const known = () => tab.call<Known>('known');
      await until(async () => (await known()).isComplete, 'the fleet is whole');
      await server.kill();
      server.loseLog();
      await server.start();
      await server.publish(1, () => 'after');
      await until(async () => {
        const { devices, isComplete } = await known();
        return isComplete && devices['after'] === 4;
      }, 'the fleet is whole again');
      assert.deepEqual((await known()).devices, { after: 4 }, 'what was before is void');
      const { gaps } = await told(tab);
      assert.ok(gaps.length > 0 && gaps.every((reason) => reason === 'unknown_epoch'), gaps.join());
      await tab.close();
    });

    test('a stream that an operator ends says so, and comes back without loss', async () => {
      const tab = await live();
      await server.publish(5);
      await hasAll(tab, server);
      await until(async () => {
        await server.disconnectAll();
        return (await told(tab)).closings.length > 0;
      }, 'the closing');
      await server.publish(5);
      await hasAll(tab, server);
      const { closings } = await told(tab);
      assert.ok(
        closings.every((reason) => reason === 'disconnected'),
        closings.join(),
      );
      await tab.close();
    });

    test('since when, and an end by an AbortSignal', async () => {
      await server.publish(5);
      const tab = await browser.open(url);
      await tab.call('follow', { ...follow, since: '2020-01-01T00:00:00Z' });
      await hasAll(tab, server);
      await tab.call('abort');
      await until(async () => (await got(tab)).states.at(-1) === 'closed', 'the end');
      await until(async () => (await server.streams()) === 0, 'nothing is held');
      assert.equal((await got(tab)).failure, null);
      await tab.close();
    });

    test('no network is told as such, and its coming back ends the pause', async () => {
      // No attempt comes by itself meanwhile, which would find the network that is there.
      const tab = await live({ longestPause: 120_000 });
      await tab.call('network', false);
      await until(async () => (await got(tab)).states.at(-1) === 'offline', 'offline');
      await server.publish(5);
      await tab.call('network', true);
      await hasAll(tab, server);
      await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live again');
      await tab.close();
    });

    test('too many streams is a matter of waiting: 429 with Retry-After', async () => {
      const strict = await Tidings.start(url, { TIDINGS_LIMITS__STREAMS_PER_TENANT: '1' });
      try {
        const own = {
          baseUrl: `http://127.0.0.1:${strict.port}`,
          tenant: TENANT,
          access: strict.token('viewer'),
        };
        const [first, second] = [await browser.open(url), await browser.open(url)];
        await first.call('follow', own);
        await until(async () => (await got(first)).states.at(-1) === 'live', 'the first is live');
        await second.call('follow', own);
        const refused = async () => (await told(second)).troubles.find(({ status }) => status === 429);
        await until(async () => (await refused()) !== undefined, 'the second is refused');
        assert.equal((await refused())?.waits, true);
        await first.call('abort');
        await until(async () => (await got(second)).states.at(-1) === 'live', 'the second is live');
        for (const tab of [first, second]) await tab.close();
      } finally {
        await strict.stop();
      }
    });

    test('503 is waited out; stale is told with its reason, and fresh ends it', async () => {
      refusals = 1;
      played.length = 0;
      const tab = await browser.open(url);
      await tab.call('follow', { baseUrl: `${url}/hand`, tenant: TENANT, access: 'x' });
      await until(() => played.length > 0, 'the second attempt');
      const { troubles } = await told(tab);
      assert.ok(troubles.some(({ status, waits }) => status === 503 && waits));
      played
        .at(-1)
        ?.write('event: stale\ndata: {"since":"2026-11-28T00:00:00Z","reason":"the disk is full"}\n\n');
      await until(async () => (await got(tab)).states.includes('stale'), 'stale');
      assert.deepEqual((await told(tab)).reasons, ['the disk is full']);
      played.at(-1)?.write('event: fresh\ndata: {}\n\n');
      await until(async () => (await got(tab)).states.at(-1) === 'live', 'live again');
      await tab.call('abort');
      await tab.close();
    });

    test('a login by cookie gets its stream tokens, without a function', async () => {
      const tab = await browser.open(url);
      // Cookies are of a host, whatever its port: as where an API stands beside the page.
      await tab.call('cookie', `access_token=${server.token('viewer')}; path=/`);
      const { baseUrl, tenant } = follow;
      await tab.call('follow', { baseUrl, tenant });
      await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live');
      await server.publish(5);
      await hasAll(tab, server);
      proxy.cutAll();
      await server.publish(5);
      await hasAll(tab, server);
      await tab.call('cookie', 'access_token=; path=/; max-age=0');
      await tab.close();
    });

    test('a compressed stream is read as it comes', async () => {
      await server.stop();
      server = await Tidings.start(url, { TIDINGS_STREAM__COMPRESSION: 'gzip' });
      follow = { ...follow, access: server.token('viewer') };
      const tab = await live();
      for (let count = 0; count < 3; count++) {
        // Each arrives while the stream goes on: nothing waits for the end of a coded body.
        await server.publish(1);
        await hasAll(tab, server);
      }
      assert.match(proxy.passed.toLowerCase(), /content-encoding: gzip/);
      await tab.close();
    });

    test('eight tabs, one connection, handed over when the leading tab closes', async () => {
      const tabs: Tab[] = [];
      for (let count = 0; count < 8; count++) {
        const tab = await browser.open(url);
        await tab.call('follow', { ...follow, shared: 'one' });
        await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live');
        tabs.push(tab);
      }
      await server.publish(20);
      for (const tab of tabs) await hasAll(tab, server);
      for (let round = 0; round < 3; round++) {
        const leader = await leading(tabs, server);
        tabs.splice(tabs.indexOf(leader), 1);
        await Promise.all([server.publish(20), leader.close()]);
        await server.publish(20);
        for (const tab of tabs) await hasAll(tab, server);
      }
      await leading(tabs, server);
      for (const tab of tabs) await tab.close();
    });

    // Firefox freezes no tab of a computer, and no driver can tell it to. To the other tabs one that hangs is the same.
    if (name === 'Firefox')
      test('a leading tab that hangs hands over, and misses nothing when it goes on', async () => {
        const tabs: Tab[] = [];
        for (let count = 0; count < 3; count++) {
          const tab = await browser.open(url);
          await tab.call('follow', { ...follow, shared: 'hanging', heartbeat: 1_500 });
          await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live');
          tabs.push(tab);
        }
        const hung = await leading(tabs, server);
        const others = tabs.filter((tab) => tab !== hung);
        const hanging = hung.call('hang', 20_000);
        // Some of these may still be read by that one: nothing tells when it begins to hang.
        await until(async () => {
          await server.publish(1);
          const reads = await Promise.all(others.map((tab) => tab.call<boolean>('readsItself')));
          return reads.some(Boolean);
        }, 'another leads meanwhile');
        await server.publish(20);
        for (const tab of others) await hasAll(tab, server);
        await hanging;
        await server.publish(20);
        await until(async () => {
          await server.publish(1);
          return (await server.streams()) === 1 && !(await hung.call<boolean>('readsItself'));
        }, 'who hung stands behind, and there is one connection');
        for (const tab of tabs) await hasAll(tab, server);
        for (const tab of tabs) await tab.close();
      });

    if (name === 'Chromium')
      test('a leading tab that the browser freezes hands over, and misses nothing when it wakes', async () => {
        const freezable = await freezableChromium();
        try {
          const tabs: FreezableTab[] = [];
          for (let count = 0; count < 3; count++) {
            const tab = await freezable.open(url);
            // It hands over when it is frozen: nobody waits for its silence.
            await tab.call('follow', { ...follow, shared: 'frozen', heartbeat: 60_000 });
            await until(async () => (await got(tab)).states.at(-1) === 'live', 'the line is live');
            tabs.push(tab);
          }
          const [first, ...others] = tabs;
          assert.ok(first);
          assert.equal(await leading(tabs, server), first, 'who came first leads, and is behind the others');
          await first.freeze(true);
          await server.publish(20);
          await leading(others, server);
          await first.freeze(false);
          await server.publish(20);
          assert.notEqual(await leading(tabs, server), first, 'who woke stands behind');
        } finally {
          await freezable.close();
        }
      });
  });
