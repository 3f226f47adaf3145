// What the page under test runs: it follows a stream and keeps what it is given.
import { exchange, type Handlers, TidingsStream, type StreamOptions } from '../../src/index.js';
import { type FollowedFleet, followFleet } from '../../src/fleet.js';
import { SharedStream } from '../../src/shared.js';
import { type Case, wrongReadings } from '../vectors.js';

interface Follow {
  readonly baseUrl: string;
  readonly tenant: string;
  /** Left out: by cookies. */
  readonly access?: string;
  readonly shared?: string;
  readonly since?: string;
  /** A short one is for tests of silence: whatever stalls for two of it is given up. */
  readonly heartbeat?: number;
  readonly longestPause?: number;
}

const page = globalThis as unknown as Record<string, unknown>;
const numbers: number[] = [];
const states: string[] = [];

const reasons: string[] = [];
const closings: string[] = [];
const gaps: string[] = [];
const troubles: { status: number; waits: boolean }[] = [];
const end = new AbortController();
const told: Handlers = {
  connection: ({ state, reason }) => {
    states.push(state);
    if (state === 'stale') reasons.push(reason ?? '');
  },
  closing: ({ reason }) => closings.push(reason),
  gap: ({ reason }) => gaps.push(reason),
  trouble: ({ status, retryAfter }) => troubles.push({ status, waits: retryAfter !== undefined }),
};

page['follow'] = (asked: Follow): void => {
  const { baseUrl, tenant, access, shared, since, heartbeat = 15_000, longestPause = 500 } = asked;
  const options: StreamOptions = {
    baseUrl,
    tenant,
    ...(access === undefined ? {} : { token: exchange({ baseUrl, accessToken: () => access }) }),
    ...(since === undefined ? {} : { since }),
    signal: end.signal,
    heartbeat,
    longestPause,
  };
  const stream =
    shared === undefined
      ? new TidingsStream(options, told)
      : new SharedStream({ ...options, name: shared }, told);
  page['stream'] = stream;
  void (async () => {
    try {
      for await (const message of stream)
        if (message.kind === 'event')
          numbers.push((message.event.data as unknown as { number: number }).number);
    } catch (error) {
      page['failure'] = (error as { failure: string }).failure;
    }
  })();
};
page['got'] = () => ({ numbers, states, failure: page['failure'] ?? null });
page['told'] = () => ({ reasons, closings, gaps, troubles });
page['abort'] = () => {
  end.abort();
};
page['cookie'] = (cookie: string) => {
  document.cookie = cookie;
};
// What a browser does whose network goes or comes; no driver can take it from every browser.
page['network'] = (isThere: boolean) => {
  Object.defineProperty(navigator, 'onLine', { value: isThere, configurable: true });
  dispatchEvent(new Event(isThere ? 'online' : 'offline'));
};
// The tab does nothing at all for a while, as one that is frozen or busy.
page['hang'] = (milliseconds: number): void => {
  const end = Date.now() + milliseconds;
  while (Date.now() < end);
};
page['readsItself'] = () => (page['stream'] as SharedStream).readsItself;

page['fleet'] = ({ baseUrl, tenant, access = '' }: Follow): void => {
  const token = exchange({ baseUrl, accessToken: () => access });
  page['followed'] = followFleet({ baseUrl, tenant, token, longestPause: 500 }, told);
};
page['known'] = () => {
  const { devices, isComplete, connection } = (page['followed'] as FollowedFleet).store.getSnapshot();
  const numbers = [...devices.values()].map((device) => [device.device_id, device['number']]);
  return { devices: Object.fromEntries(numbers) as object, isComplete, state: connection.state };
};
page['wrongReadings'] = (cases: Case[]) => cases.flatMap((each) => wrongReadings(each));
