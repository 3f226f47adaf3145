import type { Fleet } from '@tidings/client/fleet';
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from 'preact/hooks';
import type { Notice, Session } from './session';

/** Renders with the fleet, at most five times a second. */
export function useFleet(session: Session): Fleet {
  const [fleet, setFleet] = useState(() => session.store.getSnapshot());
  useEffect(() => session.store.subscribe(setFleet), [session]);
  return fleet;
}

/** The part of the fleet that `select` picks; renders only when that is another. */
export function usePart<Part>(session: Session, select: (fleet: Fleet) => Part): Part {
  const [part, setPart] = useState(() => select(session.store.getSnapshot()));
  useEffect(() => session.store.subscribe((fleet) => setPart(() => select(fleet))), [session]);
  return part;
}

/** The tenants whose devices this login sees, or its own. */
export function useTenants(session: Session): readonly string[] {
  const devices = usePart(session, ({ devices, isComplete }) => (isComplete ? devices.size : 0));
  const own = session.login.tenant;
  return useMemo(() => {
    if (own !== null) return [own];
    const tenants = new Set<string>();
    for (const { tenant_id } of session.store.getSnapshot().devices.values()) tenants.add(tenant_id);
    return [...tenants].sort();
  }, [session, own, devices]);
}

/** What somebody must know who looks at the screen. */
export function useNotices(session: Session): readonly Notice[] {
  const [notices, setNotices] = useState(session.notices);
  // At once: what is told before the next paint would be missed.
  useLayoutEffect(() => session.subscribe(() => setNotices(session.notices)), [session]);
  return notices;
}

/** Renders after new events. */
export function useSeen(session: Session): void {
  const [, render] = useReducer((count: number) => count + 1, 0);
  useLayoutEffect(() => session.subscribe(() => render(undefined)), [session]);
}

/** The time, that goes on while the page is shown. */
export function useNow(every: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** Something that is asked for, again and again; the last answer stays until the next. */
export interface Asked<Answer> {
  readonly answer?: Answer;
  readonly error?: string;
  readonly again: () => void;
}

/**
 * Asks once, or again so many milliseconds after each answer: a server that is slow has one question at a time. What was
 * asked under another `key`, or before `again`, is not listened to any more.
 */
export function useAsked<Answer>(ask: () => Promise<Answer>, key: string, every?: number): Asked<Answer> {
  const [got, setGot] = useState<{ of: string; answer?: Answer; error?: string }>({ of: key });
  const [turn, again] = useReducer((count: number) => count + 1, 0);
  const asking = useRef(ask);
  asking.current = ask;
  useEffect(() => {
    let isOver = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = async () => {
      try {
        const answer = await asking.current();
        if (!isOver) setGot({ of: key, answer });
      } catch (error) {
        // What was known under the same key stays, beside what went wrong.
        const kept = (before: typeof got) => (before.of === key ? before : { of: key });
        if (!isOver) setGot((before) => ({ ...kept(before), error: (error as Error).message }));
      }
      if (!isOver && every !== undefined) timer = setTimeout(() => void load(), every);
    };
    void load();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [key, every, turn]);
  return { ...got, again: () => again(undefined) };
}
