// What the console costs in Chromium: `node test/measure.js URL SECONDS`, with the URL that `tidings demo --devices 10000 --rate 500`
// prints. Prints CPU of all of the browser's processes as a share of one core, frames that came late, and memory over time.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [, , url, seconds = '60'] = process.argv;
const marker = `--user-agent=tidings-measure-${process.pid}`;
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', marker],
});
const ticks = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

/** CPU seconds and resident MiB of the browser's processes: the one with the marker, and what descends from it. */
function usage() {
  const processes = new Map();
  for (const id of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      const fields = readFileSync(`/proc/${id}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      const isRoot = readFileSync(`/proc/${id}/cmdline`, 'utf8').includes(marker);
      processes.set(id, {
        parent: fields[1],
        cpu: (Number(fields[11]) + Number(fields[12])) / ticks,
        pages: Number(fields[21]),
        isRoot,
      });
    } catch {
      // It has ended meanwhile.
    }
  const isOurs = (id) => {
    for (let each = processes.get(id); each; each = processes.get(each.parent)) if (each.isRoot) return true;
    return false;
  };
  const ours = [...processes].filter(([id]) => isOurs(id)).map(([, each]) => each);
  return {
    cpu: ours.reduce((sum, { cpu }) => sum + cpu, 0),
    resident: ours.reduce((sum, { pages }) => sum + pages * 4096, 0) / 2 ** 20,
  };
}

const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
await page.goto(url);
await page.waitForSelector('.cells canvas');
const inside = await context.newCDPSession(page);
await inside.send('Performance.enable');
const metric = async (name) => {
  const { metrics } = await inside.send('Performance.getMetrics');
  return metrics.find((each) => each.name === name)?.value ?? 0;
};
await page.waitForTimeout(10_000);
await page.evaluate(() => {
  window.late = [];
  let before = performance.now();
  const frame = (now) => {
    if (now - before > 50) window.late.push(Math.round(now - before));
    before = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
});
const [start, began, tasks] = [Date.now(), usage(), await metric('TaskDuration')];
const heap = [];
for (let count = 0; count < 10; count++) {
  await page.waitForTimeout((1000 * Number(seconds)) / 10);
  await inside.send('HeapProfiler.collectGarbage');
  heap.push(Math.round((await metric('JSHeapUsedSize')) / 2 ** 20));
}
const wall = (Date.now() - start) / 1000;
const ended = usage();
const late = (await page.evaluate(() => window.late)).sort((one, other) => other - one);
console.log(
  JSON.stringify({
    devices: await page.textContent('.figure b'),
    seconds: Math.round(wall),
    cpu_of_one_core: Number(((ended.cpu - began.cpu) / wall).toFixed(3)),
    main_thread_busy: Number((((await metric('TaskDuration')) - tasks) / wall).toFixed(3)),
    frames_later_than_50_ms: late.length,
    longest_frames_ms: late.slice(0, 5),
    heap_mib: heap,
    resident_mib: [Math.round(began.resident), Math.round(ended.resident)],
  }),
);
await browser.close();
