import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

/** A tab of a real browser, as far as these tests drive it. */
export interface Tab {
  /** Calls a function of the page by its name, with one argument that JSON can carry. */
  call<Answer>(name: string, argument?: unknown): Promise<Answer>;
  close(): Promise<void>;
}

/** A tab that can be stopped as a browser does that saves power, and woken. It must not be the one in front. */
export interface FreezableTab extends Tab {
  freeze(isFrozen: boolean): Promise<void>;
}

export interface Browser<Opened extends Tab = Tab> {
  open(url: string): Promise<Opened>;
  close(): Promise<void>;
}

/** The first of these programs that is installed. */
export const first = (paths: readonly string[]): string => {
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`none of these browsers is installed: ${paths.join(', ')}`);
  return found;
};

/** How long a browser may take to start, and a page to open, where the machine has much else to do. */
const PATIENCE = { timeout: 120_000 };

// In the page: its functions stand on the global object.
const call = ([name, argument]: [string, unknown]): unknown =>
  (globalThis as unknown as Record<string, (argument: unknown) => unknown>)[name]?.(argument);

export const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser'];

/**
 * Chromium with tabs that are hidden behind the one opened last, and can be frozen: Playwright keeps all of them visible.
 * No driver can freeze a tab of Firefox.
 */
export async function freezableChromium(): Promise<Browser<FreezableTab>> {
  const browser = await puppeteer.launch({
    executablePath: first(CHROMIUM),
    args: ['--no-sandbox'],
    ...PATIENCE,
  });
  return {
    open: async (url) => {
      const page = await browser.newPage();
      await page.goto(url, PATIENCE);
      const session = await page.createCDPSession();
      return {
        call: async (name, argument) =>
          (await page.evaluate(call, [name, argument] as [string, unknown])) as never,
        freeze: async (isFrozen) => {
          await session.send('Page.setWebLifecycleState', { state: isFrozen ? 'frozen' : 'active' });
        },
        close: () => page.close(),
      };
    },
    close: () => browser.close(),
  };
}

export const BROWSERS: Readonly<Record<string, () => Promise<Browser>>> = {
  // The sandbox needs rights that a container's root has not.
  Chromium: async () => {
    const executablePath = first(CHROMIUM);
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'], ...PATIENCE });
    const context = await browser.newContext();
    return {
      open: async (url) => {
        const page = await context.newPage();
        await page.goto(url, PATIENCE);
        return {
          call: async (name, argument) =>
            (await page.evaluate(call, [name, argument] as [string, unknown])) as never,
          close: () => page.close({ runBeforeUnload: false }),
        };
      },
      close: () => browser.close(),
    };
  },
  // Debian's Firefox speaks WebDriver BiDi.
  Firefox: async () => {
    const executablePath = first(['/usr/bin/firefox-esr', '/usr/bin/firefox']);
    const browser = await puppeteer.launch({
      browser: 'firefox',
      executablePath,
      headless: true,
      ...PATIENCE,
      // A process for each tab, so that one can hang alone.
      extraPrefsFirefox: { 'dom.ipc.processCount.webIsolated': 10 },
    });
    return {
      open: async (url) => {
        const page = await browser.newPage();
        await page.goto(url, PATIENCE);
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
