// Somebody at the console: points, presses keys, searches, scrolls the list.

const SECONDS = 8;

/** Uses the page while the fleet goes on; what the trace says of it is kept under `using`. */
export async function use(page, trace) {
  await page.waitForSelector('.cells canvas');
  const box = await page.locator('.cells canvas').boundingBox();
  await trace.start();
  const until = Date.now() + 1000 * SECONDS;
  for (let step = 0; Date.now() < until; step++) {
    const turn = step / 20;
    await page.mouse.move(
      box.x + box.width * (0.5 + 0.45 * Math.cos(turn)),
      box.y + Math.min(box.height, 500) * (0.5 + 0.45 * Math.sin(turn * 1.3)),
    );
    await page.waitForTimeout(16);
  }
  await page.focus('.cells canvas');
  for (let step = 0; step < 40; step++) await page.keyboard.press(step % 3 ? 'ArrowRight' : 'ArrowDown');
  await page.locator('input[type=search]').pressSequentially('lyon', { delay: 120 });
  await page.locator('input[type=search]').fill('');
  await page.evaluate(() => (location.hash = '#/fleet?as=list'));
  await page.waitForSelector('tbody tr');
  await page.mouse.move(600, 600);
  for (let step = 0; step < 60; step++) {
    await page.mouse.wheel(0, step < 40 ? 60 : -60);
    await page.waitForTimeout(16);
  }
  await trace.end('using');
}
