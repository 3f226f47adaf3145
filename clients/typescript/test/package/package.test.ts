import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import test from 'node:test';

test('a fresh Vite project can use the package', () => {
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
        'typescript@5.9',
        '@types/react@19',
      ],
      folder,
    );
    writeFileSync(
      join(folder, 'index.html'),
      '<!doctype html><script type="module" src="/main.ts"></script>',
    );
    writeFileSync(
      join(folder, 'main.ts'),
      `import { TidingsStream } from '@tidings/client';
import { followFleet, type Fleet } from '@tidings/client/fleet';
import { useFleet } from '@tidings/client/react';
import { SharedStream } from '@tidings/client/shared';

const fleet = followFleet({ tenant: 'a' }, {}, (options, handlers) => new SharedStream({ ...options, name: 'a' }, handlers));
const show = (now: Fleet): void => { document.title = String(now.devices.size); };
fleet.store.subscribe(show);
for await (const message of new TidingsStream({ tenant: 'a' })) if (message.kind === 'event' && message.event.type === 'alert_fired') console.log(message.event.data.severity, useFleet);
`,
    );
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
    const [script] = readdirSync(join(folder, 'dist/assets')).filter((name) => name.endsWith('.js'));
    assert.ok(script);
    assert.match(readFileSync(join(folder, 'dist/assets', script), 'utf8'), /\/auth\/sse-token/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
