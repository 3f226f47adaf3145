import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

/** A tab of a real browser, as far as these tests drive it. */
export interface Tab {
  /** Calls a function of the page by its name, with one argument that JSON can carry. */
  call<Answer>(name: string, argument?: unknown): Promise<Answer>;
  close(): Promise<void>;
  /** Stops the page as the browser does with one that is hidden for long, and lets it go on; where it can be driven. */
  freeze?(): Promise<void>;
  thaw?(): Promise<void>;
}

export interface Browser {
  open(url: string): Promise<Tab>;
  close(): Promise<void>;
}

const first = (paths: readonly string[]): string => {
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`none of these browsers is installed: ${paths.join(', ')}`);
  return found;
};

// In the page: its functions stand on the global object.
const call = ([name, argument]: [string, unknown]): unknown =>
  (globalThis as unknown as Record<string, (argument: unknown) => unknown>)[name]?.(argument);

export const BROWSERS: Readonly<Record<string, () => Promise<Browser>>> = {
  // The sandbox needs rights that a container's root has not.
  Chromium: async () => {
    const executablePath = first(['/usr/bin/chromium', '/usr/bin/chromium-browser']);
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
    const context = await browser.newContext();
    return {
      open: async (url) => {
        const page = await context.newPage();
        await page.goto(url);
        const inside = await context.newCDPSession(page);
        const become = async (state: 'frozen' | 'active') => {
          await inside.send('Page.setWebLifecycleState', { state });
        };
        return {
          call: async (name, argument) =>
            (await page.evaluate(call, [name, argument] as [string, unknown])) as never,
          close: () => page.close({ runBeforeUnload: false }),
          freeze: () => become('frozen'),
          thaw: () => become('active'),
        };
      },
      close: () => browser.close(),
    };
  },
  // Debian's Firefox speaks WebDriver BiDi.
  Firefox: async () => {
    const executablePath = first(['/usr/bin/firefox-esr', '/usr/bin/firefox']);
    const browser = await puppeteer.launch({ browser: 'firefox', executablePath, headless: true });
    return {
      open: async (url) => {
        const page = await browser.newPage();
        await page.goto(url);
        return {
          call: async (name, argument) =>
            (await page.evaluate(call, [name, argument] as [string, unknown])) as never,
          close: () => page.close(),
        };
      },
      close: () => browser.close(),
    };
  },
};
