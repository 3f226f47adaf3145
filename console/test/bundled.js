import { build } from 'esbuild';

/** A module of the console's source, as its pages have it. */
export async function bundled(path) {
  const { outputFiles } = await build({ entryPoints: [path], bundle: true, format: 'esm', write: false });
  const text = Buffer.from(outputFiles[0].text).toString('base64');
  return await import(`data:text/javascript;base64,${text}`);
}
