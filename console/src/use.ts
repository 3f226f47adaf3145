import type { Fleet } from '@tidings/client/fleet';
import { useEffect, useReducer, useRef, useState } from 'preact/hooks';
import type { Session } from './session';

/** Renders with the fleet, at most five times a second. */
export function useFleet(session: Session): Fleet {
  const [fleet, setFleet] = useState(() => session.store.getSnapshot());
  useEffect(() => session.store.subscribe(setFleet), [session]);
  return fleet;
}

/** Renders after new events. */
export function useSeen(session: Session): void {
  const [, render] = useReducer((count: number) => count + 1, 0);
  useEffect(() => session.subscribe(() => render(undefined)), [session]);
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

export function useAsked<Answer>(ask: () => Promise<Answer>, key: string, every?: number): Asked<Answer> {
  const [got, setGot] = useState<{ answer?: Answer; error?: string }>({});
  const [turn, again] = useReducer((count: number) => count + 1, 0);
  const asking = useRef(ask);
  asking.current = ask;
  useEffect(() => {
    let isOver = false;
    const load = async () => {
      try {
        const answer = await asking.current();
        if (!isOver) setGot({ answer });
      } catch (error) {
        if (!isOver) setGot((before) => ({ ...before, error: (error as Error).message }));
      }
    };
    void load();
    const timer = every === undefined ? undefined : setInterval(() => void load(), every);
    return () => {
      isOver = true;
      clearInterval(timer);
    };
  }, [key, every, turn]);
  return { ...got, again: () => again(undefined) };
}
