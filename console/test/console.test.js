// The console in Chromium, against the real server: what a person sees when things happen.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { chromium } from 'playwright-core';

const TENANT = '11111111-1111-4111-8111-111111111111';
const binary = process.env.TIDINGS_BIN;
assert.ok(binary, 'TIDINGS_BIN must name the server to test against');

/** Two ports that nobody has; both are held until both are known, or they could be the same. */
async function freePorts() {
  const listeners = [createServer(), createServer()];
  for (const each of listeners) await new Promise((resolve) => each.listen(0, '127.0.0.1', resolve));
  const ports = listeners.map((each) => each.address().port);
  for (const each of listeners) await new Promise((resolve) => each.close(resolve));
  return ports;
}

class Server {
  folder = mkdtempSync(join(tmpdir(), 'tidings-console-'));
  secret = randomBytes(32).toString('base64');

  static async start(more = {}) {
    for (let left = 5; left > 0; left--) {
      const server = new Server();
      server.more = more;
      [server.port, server.admin] = await freePorts();
      server.origin = `http://127.0.0.1:${server.port}`;
      if (await server.begin()) return server;
      await server.stop();
    }
    assert.fail('the server ends before it is ready, whatever its ports');
  }

  get environment() {
    return {
      PATH: process.env.PATH,
      TIDINGS_LISTEN: `127.0.0.1:${this.port}`,
      TIDINGS_ADMIN_LISTEN: `127.0.0.1:${this.admin}`,
      TIDINGS_AUTH__JWT__SECRET: this.secret,
      TIDINGS_LOG__PATH: join(this.folder, 'log'),
      ...this.more,
    };
  }

  async start() {
    assert.ok(await this.begin(), 'the server is ready');
  }

  /** False where it ends before it is ready, as where somebody has taken a port meanwhile. */
  async begin() {
    this.child = spawn(binary, ['serve'], { env: this.environment, cwd: this.folder, stdio: 'ignore' });
    const deadline = Date.now() + 60_000;
    const ready = () =>
      fetch(`http://127.0.0.1:${this.admin}/readyz`).then(
        (answer) => answer.ok,
        () => false,
      );
    while (this.child.exitCode === null && !(await ready())) {
      assert.ok(Date.now() < deadline, 'the server is ready within a minute');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return this.child.exitCode === null;
  }

  async kill(child = this.child) {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const over = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await over;
  }

  token(role, { lifetime = '1h', tenant = TENANT, more = [] } = {}) {
    const whose = tenant === null ? [] : ['--tenant', tenant];
    const args = ['token', ...whose, '--role', role, '--lifetime', lifetime, ...more];
    return execFileSync(binary, args, {
      env: this.environment,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  }

  async publish(type, data, tenant = TENANT) {
    const answer = await fetch(`${this.origin}/tenants/${tenant}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...this.operator },
      body: JSON.stringify({ type, data }),
    });
    assert.equal(answer.status, 200, await answer.text());
    // The next event is of a later millisecond, so that a moment lies between the two.
    for (const now = Date.now(); Date.now() <= now;);
  }

  /** When each of the tenant's events was appended. */
  async times(count) {
    const path = `${this.origin}/tenants/${TENANT}/events?limit=1000`;
    const answer = await fetch(path, { headers: this.operator });
    const { events } = await answer.json();
    assert.equal(events.length, count);
    return events.map(({ time }) => new Date(time).toISOString());
  }

  get operator() {
    this.publisher ??= this.token('super_admin', { tenant: null });
    return { authorization: `Bearer ${this.publisher}` };
  }

  async streams() {
    return (await (await fetch(`${this.origin}/streams`, { headers: this.operator })).json()).streams;
  }

  /** Ends all streams, as an operator does. */
  async disconnectAll() {
    for (const { connection_id: id } of await this.streams())
      await fetch(`${this.origin}/streams/${id}`, { method: 'DELETE', headers: this.operator });
  }

  async stop() {
    await this.kill();
    rmSync(this.folder, { recursive: true });
  }
}

/** Tries what `CONSOLE_BUILT` names in place of what is in the binary, for who works on the console. */
async function withBuilt(context) {
  const folder = process.env.CONSOLE_BUILT;
  if (folder === undefined) return;
  for (const name of ['console.js', 'console.css'])
    await context.route(`**/assets/${name}`, async (route) =>
      route.fulfill({ response: await route.fetch(), body: readFileSync(join(folder, name), 'utf8') }),
    );
}

test.describe('the console', () => {
  let browser;
  let context;
  let server;
  let violations;
  let foreign;

  test.before(async () => {
    browser = await chromium.launch({
      executablePath: '/usr/bin/chromium',
      args: ['--no-sandbox'],
      timeout: 120_000,
    });
  });
  test.after(() => browser.close());
  test.beforeEach(async () => {
    server = await Server.start();
    context = await browser.newContext();
    context.setDefaultTimeout(60_000);
    await withBuilt(context);
    [violations, foreign] = [[], []];
  });
  test.afterEach(async () => {
    // What is still on its way through a test's hands can't be given to a page that is gone.
    for (const routed of [context, ...context.pages()]) await routed.unrouteAll({ behavior: 'ignoreErrors' });
    await context.close();
    await server.stop();
    assert.deepEqual(violations, [], 'the content security policy holds');
    assert.deepEqual(foreign, [], 'no request to another host');
  });

  async function open(token, route = '', shown = '.line[data-state=live]') {
    const page = await context.newPage();
    page.on('console', (said) => /Content Security Policy/.test(said.text()) && violations.push(said.text()));
    page.on('pageerror', (error) => violations.push(error.message));
    page.on('request', (request) => {
      if (!request.url().startsWith(server.origin) && !request.url().startsWith('data:'))
        foreign.push(request.url());
    });
    await page.goto(`${server.origin}/`);
    await page.fill('#token', token);
    await page.click('button[type=submit]');
    await page.waitForSelector(shown);
    if (route) await page.evaluate((hash) => (location.hash = hash), route);
    return page;
  }

  const status = (name, state) => ({ device_id: name, name, site: 'Lyon', status: state });
  const shows = (page, selector, text) =>
    page.waitForFunction(
      ([where, what]) => document.querySelector(where)?.textContent.includes(what),
      [selector, text],
    );

  test('a device goes down and comes up, an alert fires and is resolved', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('viewer'), '#/fleet?as=list');
    await shows(page, 'tbody tr .state', 'up');
    await server.publish('device_status', status('edge-1', 'offline'));
    await shows(page, 'tbody tr .state', 'down');
    await shows(page, '.figure.down', '1');
    await server.publish('device_status', status('edge-1', 'online'));
    await shows(page, 'tbody tr .state', 'up');
    const alert = {
      device_id: 'edge-1',
      alert_event_id: 'a1',
      severity: 'critical',
      message: 'cpu is hot',
      fired_at: new Date().toISOString(),
    };
    await server.publish('alert_fired', alert);
    await shows(page, 'nav .badge', '1');
    await page.click('nav a:has-text("Alerts")');
    await shows(page, '.alerts .critical', 'cpu is hot');
    await server.publish('alert_resolved', { device_id: 'edge-1', alert_event_id: 'a1' });
    await shows(page, '.empty', 'No alert is open');
  });

  test('a device has its facts, its measurements and its events', async () => {
    await server.publish('device_status', { ...status('edge-1', 'online'), serial_number: 'SN77' });
    const health = (load) => ({
      device_id: 'edge-1',
      type: 'health',
      health: { cpu_load: `${load}`, free_memory: '50', total_memory: '100' },
    });
    await server.publish('metric_update', health(11));
    const page = await open(server.token('viewer'), '#/fleet?as=list');
    await page.click('tbody th a');
    await shows(page, '.facts', 'SN77');
    await server.publish('metric_update', health(73));
    await shows(page, '.plots', 'Processor 73 %');
    await shows(page, '.plots', 'Memory used 50 %');
    await shows(page, '.events', 'metric_update');
    await page.click('.events .row');
    await shows(page, '.events pre', '"cpu_load": "73"');
  });

  test('an event that comes between a device’s page and its next paint is among its events', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('viewer'));
    await page.waitForSelector('.cells canvas');
    // As in a browser that has much to do: what waits for the next paint waits for long.
    await page.evaluate(() => {
      const { setTimeout: later } = window;
      window.requestAnimationFrame = () => 0;
      window.setTimeout = (run, wait = 0) => later(run, wait < 100 ? 3_000 : wait);
    });
    await page.evaluate((hash) => (location.hash = hash), `#/device?key=${TENANT}/edge-1`);
    await page.waitForSelector('.facts');
    await server.publish('device_status', status('edge-1', 'offline'));
    await shows(page, '.events', 'device_status');
  });

  test('a push and a firmware job show their stages, and how they ended', async () => {
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'pushing' });
    await server.publish('firmware_progress', {
      device_id: 'edge-2',
      job_id: 'j1',
      stage: 'rebooting',
      target_version: '7.17',
    });
    const page = await open(server.token('viewer'), '#/work');
    await shows(page, 'section:first-of-type .jobs .now', 'pushing');
    await shows(page, 'section:last-of-type .jobs .now', 'rebooting');
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'failed' });
    await shows(page, '.jobs.ended .bad', 'failed');
  });

  test('it never looks live when it is not, and comes back with everything after the server was killed', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('viewer'), '#/feed');
    await server.publish('device_status', status('edge-1', 'offline'));
    await page.waitForSelector('.events li');
    await server.kill();
    await page.waitForSelector('.shell.old .line[data-state=reconnecting]');
    await server.start();
    await server.publish('device_status', status('edge-1', 'online'));
    await page.waitForSelector('.shell:not(.old) .line[data-state=live]');
    await page.waitForFunction(() => document.querySelectorAll('.events li').length === 2);
  });

  test('every page is grey while the line is not live, and is not grey when it is', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('alert_fired', {
      device_id: 'edge-1',
      alert_event_id: 'a1',
      severity: 'critical',
      message: 'cpu is hot',
    });
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'pushing' });
    const page = await open(server.token('super_admin', { tenant: null }));
    const health = (load) => ({ device_id: 'edge-1', type: 'health', health: { cpu_load: `${load}` } });
    for (const load of [11, 12]) await server.publish('metric_update', health(load));
    // What says how things are, on each page.
    const shown = {
      fleet: ['.figures', '.cells', 'nav .badge'],
      'fleet?as=list': ['.figures', 'tbody .state'],
      [`device?key=${TENANT}/edge-1`]: [
        'header.title .state',
        '.strip.critical',
        '.strip.busy',
        '.plots',
        '.facts',
        '.events',
      ],
      alerts: ['.alerts .critical'],
      work: ['.jobs .job'],
      feed: ['.events'],
      rates: ['.figures', '.plot', '.rates-type'],
      streams: ['table'],
      tenants: ['tbody tr'],
      audit: ['.audit tbody'],
    };
    const colours = async (expected) => {
      for (const [name, selectors] of Object.entries(shown)) {
        await page.evaluate((hash) => (location.hash = hash), `#/${name}`);
        for (const selector of selectors) {
          const element = await page.waitForSelector(
            selector.startsWith('nav') ? selector : `#content ${selector}`,
          );
          const look = await element.evaluate((found) => {
            const filters = [];
            for (let each = found; each; each = each.parentElement)
              filters.push(getComputedStyle(each).filter);
            return filters.some((filter) => filter.includes('grayscale(1)')) ? 'grey' : 'coloured';
          });
          assert.equal(look, expected, `${name}: ${selector}`);
        }
      }
    };
    await colours('coloured');
    // The stream is ended and can't come back, while the operators' calls are answered as before.
    await page.route('**/events/stream**', (route) => route.abort());
    await server.disconnectAll();
    await page.waitForSelector('.line[data-state=reconnecting]');
    await colours('grey');
    await page.unroute('**/events/stream**');
    await page.waitForSelector('.line[data-state=live]');
    await colours('coloured');
  });

  test('in the demo this machine is a device, and its measurements move', async () => {
    let demo;
    /** Where to look at it; nothing where it ends, as where somebody has taken a port meanwhile. */
    const begin = async () => {
      const [port, admin] = await freePorts();
      const args = ['demo', '--listen', `127.0.0.1:${port}`, '--devices', '3'];
      const env = { PATH: process.env.PATH, TIDINGS_ADMIN_LISTEN: `127.0.0.1:${admin}` };
      demo = spawn(binary, args, { cwd: server.folder, env, stdio: ['ignore', 'pipe', 'ignore'] });
      return await new Promise((resolve) => {
        demo.once('exit', () => resolve(undefined));
        let said = '';
        demo.stdout.on('data', (piece) => {
          said += piece;
          const found = /http:\S+#token=\S+(?=\s)/.exec(said);
          if (found) resolve(found[0]);
        });
      });
    };
    try {
      let url;
      for (let left = 5; left > 0 && url === undefined; left--) url = await begin();
      assert.ok(url, 'the demo ends before it is ready, whatever its ports');
      const page = await context.newPage();
      await page.goto(url);
      await page.waitForSelector('.cells canvas');
      assert.equal(
        await page.evaluate(() => location.hash.includes('token')),
        false,
        'no token in the address',
      );
      await page.evaluate(() => (location.hash = '#/fleet?as=list&search=this+machine'));
      await page.click('tbody th a');
      await shows(page, '.plots', 'Processor');
      const before = await page.textContent('.plots figcaption .hint');
      await page.waitForFunction(
        (text) => document.querySelector('.plots figcaption .hint')?.textContent !== text,
        before,
      );
    } finally {
      await server.kill(demo);
    }
  });

  test('another tenant shows nothing of this one', async () => {
    await server.publish('device_status', status('secret-1', 'online'));
    const page = await open(
      server.token('viewer', { tenant: '22222222-2222-4222-8222-222222222222' }),
      '#/fleet?as=list',
    );
    await server.publish('device_status', status('secret-1', 'offline'));
    await server.publish('device_status', status('theirs', 'online'), '22222222-2222-4222-8222-222222222222');
    await shows(page, 'tbody', 'theirs');
    assert.ok(!(await page.content()).includes('secret-1'));
    assert.equal(
      await page.locator('nav a:has-text("Streams")').count(),
      0,
      'no operator, no operators’ pages',
    );
  });

  test('a login that has ended asks for another, and says why', async () => {
    let page;
    let wasLive = false;
    // Where all is slow a short login ends before its line is live, and that shows nothing: then a longer one does.
    for (let lifetime = 4; !wasLive && lifetime <= 32; lifetime *= 2) {
      await page?.close();
      const token = server.token('viewer', { lifetime: `${lifetime}s` });
      page = await open(token, '', '.line[data-state=live], .signin [role=alert]');
      wasLive = (await page.locator('.line[data-state=live]').count()) > 0;
    }
    assert.ok(wasLive, 'a line is live before its login ends');
    await page.waitForSelector('.signin [role=alert]');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0, 'the token is forgotten');
    await page.fill('#token', 'no token');
    await page.click('button[type=submit]');
    await shows(page, '.signin', 'three parts');
  });

  test('a device that a login may not see is not there', async () => {
    await server.publish('device_status', status('mine', 'online'));
    await server.publish('device_status', status('other', 'online'));
    const page = await open(server.token('viewer', { more: ['--devices', 'mine'] }), '#/fleet?as=list');
    await shows(page, 'tbody', 'mine');
    assert.ok(!(await page.content()).includes('other'));
  });

  test('eight tabs, one stream', async () => {
    const token = server.token('viewer');
    const pages = [];
    for (let count = 0; count < 8; count++) pages.push(await open(token, '#/feed'));
    await server.publish('device_status', status('edge-1', 'online'));
    for (const page of pages) await page.waitForSelector('.events li');
    const deadline = Date.now() + 60_000;
    while ((await server.streams()).length !== 1) {
      assert.ok(Date.now() < deadline, 'one stream within a minute');
      await server.publish('device_status', status('edge-1', 'online'));
    }
  });

  test('an operator sees the streams, ends one, and asks who was shown an event', async () => {
    const page = await open(server.token('tenant_operator'), '#/streams');
    await shows(page, 'tbody', 'developer');
    const [{ connection_id: first }] = await server.streams();
    await page.click('tbody button');
    await page.waitForFunction(
      (id) => !document.querySelector('tbody button')?.ariaLabel.includes(id),
      first,
    );
    await page.evaluate(() => (location.hash = '#/feed'));
    await page.waitForSelector('.line[data-state=live]');
    await server.publish('device_status', status('edge-1', 'online'));
    await page.click('.events .row');
    await page.click('text=Who was shown this?');
    await shows(page, '.inside table', 'developer');
    await page.evaluate(() => (location.hash = '#/tenants'));
    await shows(page, 'tbody', '11111111');
  });

  test('a tenant’s rate is there while something is published, and goes when nothing is any more', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('tenant_operator'), '#/tenants');
    const rate = 'tbody td:nth-of-type(2)';
    await shows(page, rate, '0.0/s');
    // So many that there is a rate also over two answers that are far from each other.
    for (let count = 0; count < 20; count++)
      await server.publish('device_status', status('edge-1', 'offline'));
    await page.waitForFunction(
      (where) => Number.parseFloat(document.querySelector(where).textContent) > 0,
      rate,
    );
    await shows(page, rate, '0.0/s');
  });

  test('all pages of a device’s measurements are read, and the newest is what is shown', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    for (let load = 1; load <= 10; load++)
      await server.publish('metric_update', {
        device_id: 'edge-1',
        type: 'health',
        health: { cpu_load: `${load}` },
      });
    const page = await open(server.token('viewer'));
    // Pages end early, as they do where much is published: by the server itself.
    await page.route('**/tenants/*/events?**', (route) =>
      route.continue({ url: route.request().url().replace('limit=1000', 'limit=3') }),
    );
    await page.evaluate((hash) => (location.hash = hash), `#/device?key=${TENANT}/edge-1`);
    await shows(page, '.plots', 'Processor 10 %');
    await page.waitForSelector('.plots[aria-busy=false]');
  });

  test('why somebody was not shown an event is told of all, and where it is not remembered that is said', async () => {
    const forgetful = await Server.start({ TIDINGS_STREAM__ENDED_STREAMS: '1' });
    const watching = new Set();
    const watch = async (more) => {
      const headers = { authorization: `Bearer ${forgetful.token('viewer', { more })}` };
      const end = new AbortController();
      const path = `${forgetful.origin}/tenants/${TENANT}/events/stream`;
      const { body } = await fetch(path, { headers, signal: end.signal });
      watching.add(end);
      await body.getReader().read();
      return end;
    };
    try {
      await watch(['--devices', 'other']);
      const second = await watch([]);
      const third = await watch([]);
      const page = await context.newPage();
      await page.goto(`${forgetful.origin}/`);
      await page.fill('#token', forgetful.token('tenant_operator'));
      await page.click('button[type=submit]');
      await page.waitForSelector('.line[data-state=live]');
      await page.evaluate(() => (location.hash = '#/feed'));
      await forgetful.publish('device_status', status('edge-1', 'online'));
      await page.route('**/audience?**', (route) =>
        route.continue({ url: route.request().url().replace('limit=1000', 'limit=1') }),
      );
      await page.click('.events .row');
      await page.click('text=Who was shown this?');
      await page.waitForFunction(() => document.querySelectorAll('.inside tbody tr').length === 4);
      await shows(page, '.inside tbody', 'devices claim');
      assert.equal(await page.locator('.inside .notice').count(), 0, 'all is remembered');
      // One of the two that end is forgotten.
      second.abort();
      third.abort();
      const headers = { authorization: `Bearer ${forgetful.publisher}` };
      const open = async () =>
        (await (await fetch(`${forgetful.origin}/streams`, { headers })).json()).streams.length;
      while ((await open()) > 2);
      await page.click('.events .row');
      await page.click('.events .row');
      await page.click('text=Who was shown this?');
      await shows(page, '.inside .notice', 'are not remembered');
      await page.waitForFunction(() => document.querySelectorAll('.inside tbody tr').length === 3);
    } finally {
      for (const end of watching) end.abort();
      await forgetful.stop();
    }
  });

  test('the list of streams says what it does not have: other pages, nodes that are silent, a lag that was not counted', async () => {
    await open(server.token('viewer'));
    const page = await open(server.token('tenant_operator'));
    const is = (url) => url.pathname === '/streams';
    await page.route(is, (route) =>
      route.continue({ url: route.request().url().replace('limit=1000', 'limit=1') }),
    );
    await page.evaluate(() => (location.hash = '#/streams'));
    await shows(page, '#content > .hint', 'there are more');
    const first = await page.getAttribute('tbody button', 'aria-label');
    await page.click('text=Next page');
    await page.waitForFunction(
      (label) => ![null, undefined, label].includes(document.querySelector('tbody button')?.ariaLabel),
      first,
    );
    assert.equal(await page.locator('text=Next page').count(), 0, 'it was the last');
    await page.click('text=First page');
    await page.waitForSelector(`tbody button[aria-label="${first}"]`);
    await page.unroute(is);
    await page.route(is, async (route) => {
      const response = await route.fetch();
      const answer = await response.json();
      const streams = answer.streams.map((stream) => ({
        ...stream,
        lag_events: 10_000,
        lag_exact: false,
        lag_seconds: 12,
      }));
      const nodes = [
        { node: 'north', id: 'a', answered: true },
        { node: 'south', id: 'b', answered: false },
      ];
      await route.fulfill({ response, json: { ...answer, streams, nodes } });
    });
    await shows(page, '.notice', 'The node south does not answer');
    await shows(page, 'tbody', 'more than 10,000');
  });

  test('a server that does not answer is asked one thing at a time, and said to be silent', async () => {
    const page = await open(server.token('tenant_operator'), '#/streams');
    await shows(page, 'tbody', 'developer');
    const is = (url) => url.pathname === '/streams';
    const asking = new Set();
    let most = 0;
    page.on('request', (request) => {
      if (is(new URL(request.url()))) asking.add(request);
      most = Math.max(most, asking.size);
    });
    for (const over of ['requestfinished', 'requestfailed'])
      page.on(over, (request) => asking.delete(request));
    await page.route(is, () => undefined);
    await shows(page, '.bad', 'did not answer within');
    assert.equal(most, 1);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    await page.waitForFunction(() => document.querySelector('.bad') === null);
  });

  test('a server that can’t write its log is said to bring nothing new, with its reason', async () => {
    const page = await open(server.token('viewer'), '#/feed');
    await page.evaluate(() => (location.hash = '#/fleet'));
    const reason = 'no space left on the device';
    // What the server says when its disk is full; the rest of this page's line is the server's own.
    await page.route('**/events/stream**', (route) =>
      route.fulfill({
        contentType: 'text/event-stream',
        body: `id: a.1\nevent: snapshot_end\ndata: {}\n\nevent: stale\ndata: {"since":"2026-11-28T00:00:00Z","reason":"${reason}"}\n\nretry: 3600000\n\n`,
      }),
    );
    const states = [];
    await page.exposeFunction('told', (text) => states.push(text));
    await page.evaluate(() =>
      new MutationObserver(() => window.told(document.querySelector('.line').textContent)).observe(
        document.querySelector('.line'),
        { subtree: true, childList: true, characterData: true, attributes: true },
      ),
    );
    await server.disconnectAll();
    const deadline = Date.now() + 60_000;
    while (!states.some((text) => text.includes(`The server brings nothing new${reason}`))) {
      assert.ok(Date.now() < deadline, states.join('\n'));
      await page.evaluate(() => undefined);
    }
  });

  test('an operator makes an API key that publishes, gives it a new secret, and revokes it', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('tenant_operator'), '#/keys');
    const publishes = async (key) => {
      const answer = await fetch(`${server.origin}/tenants/${TENANT}/events`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
        body: JSON.stringify({ type: 'device_status', data: status('edge-2', 'online') }),
      });
      return answer.status;
    };
    await page.fill('input[name=name]', 'poller');
    await page.fill('input[name=types]', 'device_status');
    await page.click('button:text-is("Make")');
    const first = await page.textContent('.secret');
    assert.equal(await publishes(first), 200);
    await shows(page, 'tbody', 'poller');
    await shows(page, 'tbody', 'device_status');
    await page.click('button:text-is("Rotate")');
    await page.waitForFunction((before) => document.querySelector('.secret')?.textContent !== before, first);
    await page.waitForSelector('.secret');
    assert.equal(await publishes(await page.textContent('.secret')), 200);
    await page.click('button:text-is("Done")');
    assert.equal(await page.locator('.secret').count(), 0);
    await page.click('button:has-text("Revoke …")');
    await page.click('button:text-is("Revoke for good")');
    await shows(page, 'tbody', 'revoked');
    assert.equal(await publishes(first), 401);
    assert.ok(!(await page.content()).includes(first.split('_')[2]), 'the secret is not shown again');
  });

  test('an operator reads in the audit log who was refused and what was changed', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    const page = await open(server.token('tenant_operator'), '#/keys');
    await page.fill('input[name=name]', 'poller');
    await page.click('button:text-is("Make")');
    await page.waitForSelector('.secret');
    const elsewhere = `${server.origin}/tenants/22222222-2222-4222-8222-222222222222/events`;
    const headers = { authorization: `Bearer ${server.token('viewer')}` };
    assert.equal((await fetch(elsewhere, { headers })).status, 403);
    // What is audited waits for no disk: it is there when it is there.
    const tells = async (hash, text) => {
      for (let turn = 0; turn < 600; turn++) {
        await page.evaluate(() => (location.hash = '#/hand'));
        await page.waitForSelector('.command');
        await page.evaluate((to) => (location.hash = to), `${hash}&turn=${turn}`);
        const answered = await page.waitForFunction(() => {
          const rows = document.querySelector('.audit tbody')?.textContent;
          return rows ?? /Nothing is in/.exec(document.querySelector('.empty')?.textContent)?.[0];
        });
        if ((await answered.jsonValue()).includes(text)) return;
      }
      assert.fail(`${text} is not in the audit log`);
    };
    await tells('#/audit?what=read_refused', '403');
    await tells('#/audit?what=key_created', 'key created');
    await tells('#/audit?search=stream_opened', 'developer');
    assert.equal(await page.locator('.audit tbody tr:has-text("read refused")').count(), 0);
  });

  test('the fleet is shown as it was at a moment of the history', async () => {
    const alert = { device_id: 'edge-1', alert_event_id: 'a1', severity: 'critical', message: 'cpu is hot' };
    const push = { device_id: 'edge-1', push_operation_id: 'p1' };
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('alert_fired', alert);
    await server.publish('config_push', { ...push, stage: 'pushing' });
    const [came, , during] = await server.times(3);
    await server.publish('device_status', status('edge-1', 'offline'));
    await server.publish('device_status', status('edge-2', 'online'));
    await server.publish('alert_resolved', { device_id: 'edge-1', alert_event_id: 'a1' });
    await server.publish('config_push', { ...push, stage: 'committed' });
    const after = (await server.times(7)).at(-1);
    const page = await open(server.token('viewer'));
    const go = (query) => page.evaluate((hash) => (location.hash = hash), `#/past?${query}`);
    const figures = async (expected) => {
      await page.waitForSelector('.progress[data-reading=done]', { state: 'attached' });
      const told = () =>
        page.evaluate(() =>
          [...document.querySelectorAll('.then .figure')].map((each) => each.textContent).join(),
        );
      const deadline = Date.now() + 30_000;
      while ((await told()) !== expected && Date.now() < deadline) await page.waitForTimeout(50);
      assert.equal(await told(), expected);
    };
    await go(`at=${during}`);
    await figures('1 device,1 up,0 down,1 alert open,1 under way');
    await shows(page, '.then .notice', 'Not live');
    await shows(page, '.line', 'Looking back');
    await go(`at=${during}&see=alerts`);
    await shows(page, '.then .alerts', 'cpu is hot');
    await go(`at=${during}&see=work`);
    await shows(page, '.then .jobs .now', 'pushing');
    await go(`at=${during}&see=events`);
    await shows(page, '.then .events', 'config_push');
    await go(`at=${after}`);
    await figures('2 devices,1 up,1 down,0 alerts open,0 under way');
    await go(`at=${came}`);
    await figures('1 device,1 up,0 down,0 alerts open,0 under way');
    // Somebody who looks for what happened steps from change to change.
    await page.click('text=Change after');
    await page.waitForFunction((text) => !location.hash.includes(text), encodeURIComponent(came));
    await figures('1 device,1 up,0 down,1 alert open,0 under way');
    await go(`at=${after}&as=list`);
    await page.click('.then tbody tr:first-child a');
    await shows(page, '.then .card', 'edge-1');
    await shows(page, '.then .card', 'offline');
    // By keyboard: the end of the slider is the newest moment.
    await page.focus('.then input[type=range]');
    await page.keyboard.press('Home');
    // The slider is at least a second long: where all of this took less, its beginning lies before the first event.
    const beginning = await page.evaluate(() =>
      Number(document.querySelector('.then input[type=range]').min),
    );
    const isBefore = beginning < Date.parse(came);
    await figures(
      isBefore
        ? '0 devices,0 up,0 down,0 alerts open,0 under way'
        : '1 device,1 up,0 down,0 alerts open,0 under way',
    );
    await page.keyboard.press('End');
    await figures('2 devices,1 up,1 down,0 alerts open,0 under way');
    assert.match(await page.evaluate(() => location.hash), /at=\d{4}-/, 'the moment is in the address');
    await page.click('text=Back to live');
    await page.waitForSelector('main > .figures');
    assert.equal(await page.locator('.then').count(), 0);
  });

  test('what did not change in what was read of the history is known from how it is now', async () => {
    for (let count = 1; count <= 30; count++)
      await server.publish('device_status', status(`edge-${count}`, 'online'));
    const page = await open(server.token('super_admin', { tenant: null }));
    await server.publish('device_status', status('edge-1', 'offline'));
    const times = await server.times(31);
    await page.evaluate((hash) => (location.hash = hash), `#/past?at=${times[29]}`);
    await shows(page, '.then .figure.up', '30');
    await page.waitForSelector('.progress[data-reading=done]', { state: 'attached' });
  });

  test('rates by type are counted from what arrives', async () => {
    const page = await open(server.token('viewer'), '#/rates');
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('metric_update', { device_id: 'edge-1', type: 'health', health: {} });
    await shows(page, '.rates-type', 'device_status');
    await shows(page, '.rates-type', 'metric_update');
    await page.waitForFunction(() => Number(document.querySelectorAll('.figure b')[3].textContent) > 0);
  });

  test('search and filters stand in the address, so that a link and a reload show the same', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('device_status', status('edge-2', 'offline'));
    const page = await open(server.token('viewer'));
    await page.fill('input[type=search]', 'edge-2');
    await page.selectOption('label:has-text("Show") select', 'list');
    await page.selectOption('label:has-text("Groups") select', 'tenant');
    assert.equal(await page.evaluate(() => location.hash), '#/fleet?search=edge-2&as=list&by=tenant');
    await page.reload();
    await shows(page, 'tbody', 'edge-2');
    assert.equal(await page.locator('tbody tr').count(), 1);
    await page.evaluate(() => (location.hash = '#/feed?type=device_status&device=edge-1'));
    await server.publish('device_status', status('edge-2', 'online'));
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'pushing' });
    await server.publish('device_status', status('edge-1', 'offline'));
    await shows(page, '.events', 'edge-1');
    assert.equal(await page.locator('.events li').count(), 1);
    assert.equal(await page.inputValue('.tools select'), 'device_status');
    await page.click('text=Pause');
    await server.publish('device_status', status('edge-1', 'online'));
    await shows(page, '.tools button', '1 new');
    assert.equal(await page.locator('.events li').count(), 1);
  });

  test('a log that is another one is told as a gap, and the fleet is read anew', async () => {
    await server.publish('device_status', status('before', 'online'));
    const page = await open(server.token('viewer'), '#/fleet?as=list');
    await shows(page, 'tbody', 'before');
    await server.kill();
    rmSync(join(server.folder, 'log'), { recursive: true });
    await server.start();
    await server.publish('device_status', status('after', 'online'));
    await shows(page, '.strip.notice', 'Events are missing here (unknown epoch)');
    await shows(page, 'tbody', 'after');
    assert.equal(await page.locator('tbody tr').count(), 1);
    await page.waitForSelector('.shell:not(.old) .line[data-state=live]');
  });

  test('a token is fetched from this host, anew before it ends, and is stored for this tab alone', async () => {
    const page = await context.newPage();
    let [fetched, exchanged] = [0, 0];
    page.on('request', (request) => {
      if (request.url().endsWith('/auth/sse-token')) exchanged += 1;
    });
    await page.route('**/login/token', (route) => {
      fetched += 1;
      return route.fulfill({ json: { access_token: server.token('viewer', { lifetime: '25s' }) } });
    });
    await page.goto(`${server.origin}/#fetch=/login/token`);
    assert.equal(await page.inputValue('#source'), '/login/token');
    await page.fill('#source', 'https://elsewhere.test/token');
    await page.click('button:text-is("Fetch")');
    await shows(page, '.signin [role=alert]', 'this host alone');
    await page.fill('#source', '/login/token');
    await page.click('button:text-is("Fetch")');
    await page.waitForSelector('.line[data-state=live]');
    const [first, deadline] = [exchanged, Date.now() + 60_000];
    while (exchanged === first) {
      assert.ok(Date.now() < deadline, 'a next stream');
      await server.disconnectAll();
      await page.waitForTimeout(50);
    }
    await page.waitForSelector('.line[data-state=live]');
    // Each was good for a while: one for the login, and one for each stream.
    assert.ok(fetched > exchanged, 'a fresh token for the next stream');
    const kept = await page.evaluate(async () => ({
      local: localStorage.length,
      cookies: document.cookie,
      databases: (await indexedDB.databases()).length,
      address: location.href.includes('eyJ'),
    }));
    assert.deepEqual(kept, { local: 0, cookies: '', databases: 0, address: false });
  });

  test('tabs that fetched a token each share one stream, and who is somebody else does not', async () => {
    let fetched = 0;
    const tokens = new Set();
    let more = [];
    await context.route('**/login/token', (route) => {
      fetched += 1;
      const token = server.token('viewer', { lifetime: `${1_000 + fetched}s`, more });
      tokens.add(token);
      return route.fulfill({ json: { access_token: token } });
    });
    const fetching = async () => {
      const page = await context.newPage();
      await page.goto(`${server.origin}/#fetch=/login/token`);
      await page.click('button:text-is("Fetch")');
      await page.waitForSelector('.line[data-state=live]');
      await page.evaluate(() => (location.hash = '#/feed'));
      return page;
    };
    const pages = [await fetching(), await fetching(), await fetching()];
    assert.equal(tokens.size, 3, 'a token for each');
    const settle = async (expected) => {
      const deadline = Date.now() + 60_000;
      while ((await server.streams()).length !== expected) {
        assert.ok(Date.now() < deadline, `${expected} within a minute`);
        await server.publish('device_status', status('edge-1', 'online'));
      }
    };
    await server.publish('device_status', status('edge-1', 'online'));
    await settle(1);
    for (const page of pages) await page.waitForSelector('.events li');
    // The same user, who may see less.
    more = ['--devices', 'mine'];
    const other = await fetching();
    await settle(2);
    await server.publish('device_status', status('mine', 'online'));
    await shows(other, '.events', 'mine');
    assert.equal(await other.locator('.events li').count(), 1);
  });

  test('a tab whose login has become another one shows nothing for it', async () => {
    let user = 'one';
    await context.route('**/login/token', (route) =>
      route.fulfill({ json: { token: server.token('viewer', { lifetime: '25s', more: ['--user', user] }) } }),
    );
    const page = await context.newPage();
    await page.goto(`${server.origin}/#fetch=/login/token`);
    await page.click('button:text-is("Fetch")');
    await page.waitForSelector('.line[data-state=live]');
    user = 'another';
    // The next stream needs a fresh token.
    await server.disconnectAll();
    await shows(page, '.signin [role=alert]', 'Another login');
  });

  test('it works where the API is below /api', async () => {
    const below = await Server.start({ TIDINGS_MOUNT: '/api' });
    try {
      const page = await context.newPage();
      await page.goto(`${below.origin}/`);
      await page.fill('#token', below.token('viewer'));
      await page.click('button[type=submit]');
      await page.waitForSelector('.line[data-state=live]');
    } finally {
      await below.stop();
    }
  });

  test('keyboard and screen readers: axe finds nothing, a cell opens by Enter', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('alert_fired', {
      device_id: 'edge-1',
      alert_event_id: 'a1',
      severity: 'warning',
      message: 'm',
    });
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'pushing' });
    const axe = readFileSync(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');
    for (const load of [11, 12])
      await server.publish('metric_update', {
        device_id: 'edge-1',
        type: 'health',
        health: { cpu_load: `${load}` },
      });
    const isClean = async (page, name) => {
      const { violations: found } = await page.evaluate(() =>
        window.axe.run(document, { resultTypes: ['violations'] }),
      );
      assert.deepEqual(
        found.map(({ id, nodes }) => `${name}: ${id}: ${nodes[0].html}`),
        [],
      );
    };
    for (const colorScheme of ['light', 'dark']) {
      const outside = await context.newPage();
      await outside.emulateMedia({ colorScheme });
      await outside.goto(`${server.origin}/`);
      await outside.waitForSelector('.signin form');
      await outside.evaluate(axe);
      await isClean(outside, `sign in, ${colorScheme}`);
      await outside.fill('#token', 'no token');
      await outside.click('button[type=submit]');
      await outside.waitForSelector('.signin [role=alert]');
      await isClean(outside, `refused, ${colorScheme}`);
      await outside.close();
      const page = await open(server.token('tenant_operator'));
      await page.emulateMedia({ colorScheme });
      // Evaluated by the test's own connection: the page's policy lets no such script in.
      await page.evaluate(axe);
      for (const name of [
        'fleet',
        'fleet?as=list',
        'alerts',
        'work',
        'feed',
        'past',
        'past?as=list',
        'past?see=alerts',
        'past?see=work',
        'past?see=events',
        `device?key=${TENANT}/edge-1`,
        'rates',
        'streams',
        'tenants',
        'keys',
        'audit',
        'hand',
      ]) {
        await page.evaluate((hash) => (location.hash = hash), `#/${name}`);
        await page.waitForFunction(() => document.querySelector('#content')?.childElementCount > 1);
        if (name.startsWith('device')) await page.waitForSelector('.plots');
        await isClean(page, `${name}, ${colorScheme}`);
      }
      await page.evaluate(() => (location.hash = '#/fleet'));
      await page.focus('.cells canvas');
      await page.keyboard.press('ArrowRight');
      await shows(page, '#cell-about', 'edge-1: up');
      await page.keyboard.press('Enter');
      await shows(page, '#content h2', 'edge-1');
      await page.close();
    }
  });

  test('what the keys chose stays where the page moves under a pointer that rests, and when a device comes before it', async () => {
    await server.publish('device_status', status('edge-2', 'online'));
    const page = await open(server.token('viewer'), '#/fleet');
    const canvas = await page.waitForSelector('.cells canvas');
    await page.focus('.cells canvas');
    await page.keyboard.press('ArrowRight');
    await shows(page, '#cell-about', 'edge-2: up');
    // What Chromium tells after a layout: a move by nothing, over no cell.
    await canvas.dispatchEvent('mousemove', { movementX: 0, movementY: 0, bubbles: true });
    await canvas.dispatchEvent('mouseleave', { bubbles: true });
    await server.publish('device_status', status('edge-1', 'offline'));
    await shows(page, '.figure.down', '1');
    await shows(page, '#cell-about', 'edge-2: up');
    await page.keyboard.press('ArrowLeft');
    await shows(page, '#cell-about', 'edge-1: down');
    const { x, y, width } = await canvas.boundingBox();
    await page.mouse.move(x + width - 2, y + 2);
    await page.mouse.move(x + width - 3, y + 3);
    await shows(page, '#cell-about', 'Point at a cell');
  });

  test('at 360 pixels nothing hangs out', async () => {
    await server.publish('device_status', status('edge-1', 'online'));
    await server.publish('alert_fired', {
      device_id: 'edge-1',
      alert_event_id: 'a1',
      severity: 'critical',
      message: 'a message of some length, as devices have them that have much to say',
    });
    await server.publish('config_push', { device_id: 'edge-1', push_operation_id: 'p1', stage: 'pushing' });
    for (const load of [11, 12])
      await server.publish('metric_update', {
        device_id: 'edge-1',
        type: 'health',
        health: { cpu_load: `${load}` },
      });
    const narrow = { width: 360, height: 740 };
    const fits = async (page, name) => {
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 360, `${name}: ${width}`);
    };
    const outside = await context.newPage();
    await outside.setViewportSize(narrow);
    await outside.goto(`${server.origin}/`);
    await outside.waitForSelector('.signin form');
    await fits(outside, 'sign in');
    const page = await open(server.token('tenant_operator'));
    await page.setViewportSize(narrow);
    for (const name of [
      'fleet',
      'fleet?as=list',
      'alerts',
      'work',
      'feed',
      'past',
      'past?as=list',
      'past?see=alerts',
      'past?see=work',
      'past?see=events',
      `device?key=${TENANT}/edge-1`,
      'rates',
      'streams',
      'tenants',
      'keys',
      'audit',
      'hand',
    ]) {
      await page.evaluate((hash) => (location.hash = hash), `#/${name}`);
      await page.waitForFunction(() => document.querySelector('#content')?.childElementCount > 1);
      if (name.startsWith('past'))
        await page.waitForSelector('.progress[data-reading=done]', { state: 'attached' });
      if (name.startsWith('device')) await page.waitForSelector('.plots');
      await fits(page, name);
    }
  });
});
