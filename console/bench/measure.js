// What the console costs in Chromium beside a demo that it starts itself: `bench/console` runs it and tells how.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { machine, usageOf } from './machine.js';
import { Trace } from './trace.js';
import { use } from './use.js';

const { values: asked } = parseArgs({
  options: {
    server: { type: 'string' },
    out: { type: 'string', default: '' },
    seconds: { type: 'string', default: '600' },
    devices: { type: 'string', default: '10000' },
    rate: { type: 'string', default: '500' },
  },
});
const seconds = Number(asked.seconds);
/** A slice is traced whole; between two the page's garbage is collected and its heap measured. */
const SLICE = Math.min(30, seconds / 2);

async function freePort() {
  const listener = createServer();
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address();
  await new Promise((resolve) => listener.close(resolve));
  return port;
}

/** The demo, in a folder of its own; its URL is in its only line. */
async function demo(folder) {
  const [port, admin] = [await freePort(), await freePort()];
  const args = ['demo', '--listen', `127.0.0.1:${port}`, '--devices', asked.devices, '--rate', asked.rate];
  const env = { PATH: process.env.PATH, TIDINGS_ADMIN_LISTEN: `127.0.0.1:${admin}` };
  const child = spawn(resolve(asked.server), args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'ignore'] });
  const url = await new Promise((resolve, reject) => {
    let said = '';
    child.stdout.on('data', (piece) => {
      said += piece;
      const found = /http:\S+#token=\S+(?=\s)/.exec(said);
      if (found) resolve(found[0]);
    });
    child.once('exit', () => reject(new Error('the demo has ended')));
  });
  return { child, url };
}

const round = (value, digits = 3) => Number(value.toFixed(digits));
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function measure(folder) {
  const { child, url } = await demo(folder);
  const server = await chromium.launchServer({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox'],
  });
  try {
    const browser = await chromium.connect(server.wsEndpoint());
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    const devices = () =>
      page.evaluate(() => Number(document.querySelector('.figure b')?.textContent.replace(/\D/g, '')));
    await page.goto(url);
    await page.waitForSelector('.cells canvas');
    // The simulated fleet comes up one device after another.
    while ((await devices()) < Number(asked.devices)) await pause(500);
    // Then each has to tell each kind of its measurements once.
    await pause(Math.min(120_000, 250 * seconds));
    const inside = await context.newCDPSession(page);
    await inside.send('Performance.enable');
    const metrics = async () => {
      const { metrics: all } = await inside.send('Performance.getMetrics');
      return Object.fromEntries(all.map(({ name, value }) => [name, value]));
    };
    const trace = new Trace(await browser.newBrowserCDPSession());
    const pid = server.process().pid;
    const cpu = {};
    const memory = [];
    let watched = 0;
    let busy = 0;
    for (let slice = 0; slice < Math.max(2, Math.round(seconds / SLICE)); slice++) {
      await trace.start();
      const [began, from, before] = [performance.now(), usageOf(pid), await metrics()];
      await pause(1000 * SLICE);
      const [after, to] = [await metrics(), usageOf(pid)];
      watched += (performance.now() - began) / 1000;
      busy += after.TaskDuration - before.TaskDuration;
      for (const kind of Object.keys(to.cpu))
        cpu[kind] = (cpu[kind] ?? 0) + to.cpu[kind] - (from.cpu[kind] ?? 0);
      await trace.end('watching');
      await inside.send('HeapProfiler.collectGarbage');
      const { JSHeapUsedSize, Nodes } = await metrics();
      memory.push({
        seconds: Math.round(watched),
        heap_mib: round(JSHeapUsedSize / 2 ** 20, 2),
        nodes: Nodes,
        resident_mib: Math.round(to.resident),
      });
      process.stderr.write(`${Math.round(watched)} s: heap ${memory.at(-1).heap_mib} MiB\n`);
    }
    const events = await page.evaluate(async () => {
      location.hash = '#/rates';
      await new Promise((resolve) => setTimeout(resolve, 2000));
      const rates = [...document.querySelectorAll('.figure b')].map(({ textContent }) => textContent);
      location.hash = '#/fleet';
      return Number(rates[1].replace(/[^\d.]/g, ''));
    });
    await use(page, trace);
    const shares = Object.fromEntries(
      Object.entries(cpu).map(([kind, spent]) => [kind, round(spent / watched)]),
    );
    return {
      scenario: 'console',
      ...machine(),
      browser: `Chromium ${browser.version()}`,
      devices: Number(asked.devices),
      asked_events_per_s: Number(asked.rate),
      events_per_s: events,
      seconds: Math.round(watched),
      cpu: round(Object.values(cpu).reduce((sum, spent) => sum + spent, 0) / watched),
      cpu_by_process: shares,
      main_thread_busy: round(busy / watched),
      watching: trace.summary('watching'),
      using: trace.summary('using'),
      memory,
    };
  } finally {
    await server.close();
    const over = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await over;
  }
}

const folder = mkdtempSync(join(tmpdir(), 'tidings-measure-'));
try {
  execFileSync(resolve(asked.server), ['--version'], { stdio: 'ignore' });
  const text = `${JSON.stringify(await measure(folder), null, 2)}\n`;
  if (asked.out) writeFileSync(asked.out, text);
  else process.stdout.write(text);
} finally {
  rmSync(folder, { recursive: true });
}
