/** Whether the browser says that it has no network. Elsewhere nobody says. */
export function isOffline(): boolean {
  return typeof navigator !== 'undefined' && 'onLine' in navigator && !navigator.onLine;
}

/**
 * Waits so many milliseconds; less where the network comes back or the page comes to the front, as timers of hidden
 * pages are late. Ends at once where `signal` does.
 */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // Node has neither.
    const targets: (Partial<EventTarget> | undefined)[] = [globalThis, globalThis.document];
    const done = (event?: Event) => {
      if (event?.type === 'visibilitychange' && document.visibilityState !== 'visible') return;
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      for (const target of targets) {
        target?.removeEventListener?.('online', done);
        target?.removeEventListener?.('visibilitychange', done);
      }
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done);
    for (const target of targets) {
      target?.addEventListener?.('online', done);
      target?.addEventListener?.('visibilitychange', done);
    }
    if (signal.aborted) done();
  });
}

/** How late a timer is, at least, of a page that itself stood still, and how long that then still listens; in milliseconds. */
const LATE = 1_000;

/**
 * Calls `over` after so many milliseconds of silence. Where this page itself stood still so long, what the other side
 * said meanwhile is still to be read: then a moment more is waited, once. Answers how to end the wait.
 */
export function silence(milliseconds: number, over: () => void): () => void {
  const due = Date.now() + milliseconds;
  let timer = setTimeout(() => {
    if (Date.now() < due + LATE) over();
    else timer = setTimeout(over, LATE);
  }, milliseconds);
  return () => {
    clearTimeout(timer);
  };
}
