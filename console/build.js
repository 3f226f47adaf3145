// Builds the console into the folder that is named: what is checked in is what this makes.
import { copyFileSync, mkdirSync } from 'node:fs';
import { build } from 'esbuild';

const [, , folder] = process.argv;
mkdirSync(folder, { recursive: true });
await build({
  entryPoints: { console: 'src/main.tsx' },
  outdir: folder,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
});
copyFileSync('src/index.html', `${folder}/index.html`);
