import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, extname, join } from 'node:path';
import test from 'node:test';
import { type Browser, chromium } from 'playwright-core';
import { CHROMIUM, first } from '../browsers/browsers.js';
import { TENANT, Tidings } from '../browsers/server.js';

/** A page that uses every entry of the package. */
const PAGE = `import { exchange, TidingsStream } from '@tidings/client';
import { followFleet, type FleetStore } from '@tidings/client/fleet';
import { useFleet } from '@tidings/client/react';
import { SharedStream } from '@tidings/client/shared';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';

const given = new URLSearchParams(location.search);
const baseUrl = given.get('base') ?? '';
const tenant = given.get('tenant') ?? '';
const token = exchange({ baseUrl, accessToken: () => given.get('access') ?? '' });

const { store } = followFleet({ baseUrl, tenant, token }, {}, (options, handlers) => new SharedStream({ ...options, name: 'a' }, handlers));
function Fleet({ store }: { store: FleetStore }) {
  const state = useFleet(store, ({ connection }) => connection.state);
  const status: string | undefined = useFleet(store, ({ devices }) => devices.get(tenant + '/r1')?.status);
  return createElement('p', { id: 'fleet' }, state + ' ' + (status ?? '-'));
}
const root = document.getElementById('root');
if (root) createRoot(root).render(createElement(Fleet, { store }));

for await (const message of new TidingsStream({ baseUrl, tenant, token }, { connection: ({ state }) => (document.body.dataset['state'] = state) }))
  if (message.kind === 'event' && message.event.type === 'device_status') document.title = message.event.type + ' ' + message.event.data.status;
`;

const TYPES: Readonly<Record<string, string>> = { '.html': 'text/html', '.js': 'text/javascript' };

/** Opens what was built in Chromium, and publishes to the real server what it must show. */
async function shows(folder: string): Promise<void> {
  const files = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://files.test').pathname;
    const name = path === '/' ? '/index.html' : path;
    try {
      const bytes = readFileSync(join(folder, name));
      response.setHeader('content-type', TYPES[extname(name)] ?? 'application/octet-stream');
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve));
  const origin = `http://127.0.0.1:${(files.address() as AddressInfo).port}`;
  let server: Tidings | undefined;
  let browser: Browser | undefined;
  try {
    server = await Tidings.start(origin);
    browser = await chromium.launch({ executablePath: first(CHROMIUM), args: ['--no-sandbox'] });
    const page = await browser.newPage();
    const trouble: string[] = [];
    page.on('pageerror', (error) => trouble.push(error.message));
    const base = `http://127.0.0.1:${server.port}`;
    const query = new URLSearchParams({ base, tenant: TENANT, access: server.token('viewer') });
    await page.goto(`${origin}/?${query.toString()}`);
    await page.waitForSelector('body[data-state=live]');
    await page.waitForSelector('#fleet:text("live -")');
    await server.publish(1);
    await page.waitForSelector('#fleet:text("live online")');
    await page.waitForFunction('document.title === "device_status online"');
    assert.deepEqual(trouble, []);
  } finally {
    await browser?.close();
    await server?.stop();
    files.closeAllConnections();
    files.close();
  }
}

test('a fresh Vite project can use the package, and its page shows what the server tells', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tidings-vite-'));
  // Debian's npm runs on Debian's Node only, not on the newer one that its scripts find first.
  const PATH = (process.env['PATH'] ?? '').split(delimiter).filter((part) => !part.includes('node_modules'));
  const run = (command: string, args: string[], cwd: string) =>
    execFileSync(command, args, {
      cwd,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, PATH: PATH.join(delimiter) },
    });
  try {
    const packed = run('npm', ['pack', '--silent', '--pack-destination', folder], '.')
      .trim()
      .split('\n')
      .at(-1);
    assert.ok(packed?.endsWith('.tgz'), packed);
    writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}');
    run(
      'npm',
      [
        'install',
        '--no-audit',
        '--no-fund',
        '--silent',
        `./${packed}`,
        'vite@7',
        'react@19',
        'react-dom@19',
        'typescript@5.9',
        '@types/react@19',
        '@types/react-dom@19',
      ],
      folder,
    );
    writeFileSync(
      join(folder, 'index.html'),
      '<!doctype html><div id="root"></div><script type="module" src="/main.ts"></script>',
    );
    writeFileSync(join(folder, 'main.ts'), PAGE);
    writeFileSync(
      join(folder, 'tsconfig.json'),
      '{"compilerOptions":{"target":"ES2022","module":"ESNext","moduleResolution":"bundler","lib":["ES2022","DOM"],"strict":true,"noEmit":true}}',
    );
    run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', '.'], folder);
    run(
      process.execPath,
      ['node_modules/vite/bin/vite.js', 'build', '--logLevel', 'warn', '--target', 'es2022'],
      folder,
    );
    await shows(join(folder, 'dist'));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
