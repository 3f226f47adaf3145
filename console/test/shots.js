// Pictures of every page, at two sizes and in both themes: `node test/shots.js URL FOLDER`.
import { mkdirSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [, , url, folder] = process.argv;
mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
const sizes = { wide: { width: 1440, height: 900 }, narrow: { width: 360, height: 740 } };
for (const [size, viewport] of Object.entries(sizes))
  for (const colorScheme of ['light', 'dark']) {
    const context = await browser.newContext({ viewport, colorScheme });
    const page = await context.newPage();
    page.on('console', (said) => said.type() === 'error' && console.log('console:', said.text()));
    page.on('pageerror', (error) => console.log('error:', error.message));
    await page.goto(url);
    await page.waitForSelector('.line[data-state=live]');
    await page.waitForSelector('.cells canvas');
    for (const name of [
      'fleet',
      'fleet?as=list',
      'alerts',
      'work',
      'feed',
      'past',
      'past?see=alerts',
      'past?as=list',
      'rates',
      'streams',
      'tenants',
      'keys',
      'audit',
      'hand',
    ]) {
      await page.evaluate((hash) => (location.hash = `#/${hash}`), name);
      await page.waitForTimeout(1200);
      await page.screenshot({ path: `${folder}/${name.replace(/\W/g, '-')}-${size}-${colorScheme}.png` });
    }
    await page.evaluate(() => (location.hash = '#/fleet?as=list'));
    await page.waitForSelector('td .state.up');
    await page.click('tbody tr:has(.state.up) a');
    await page.waitForTimeout(2500);
    await page.screenshot({ path: `${folder}/device-${size}-${colorScheme}.png` });
    await context.close();
  }
await browser.close();
