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
