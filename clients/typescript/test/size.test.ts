import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

test('the root entry is at most 5,120 bytes, minified and compressed', async () => {
  const result = await build({
    entryPoints: ['dist/index.js'],
    bundle: true,
    minify: true,
    format: 'esm',
    write: false,
  });
  const size = gzipSync(result.outputFiles[0]?.contents ?? '', { level: 9 }).length;
  console.log(`# ${size} bytes`);
  assert.ok(size > 1_000 && size <= 5_120, `${size} bytes`);
});
