// What the page under test runs: it follows a stream and keeps what it is given.
import { exchange, TidingsStream, type StreamOptions } from '../../src/index.js';
import { type FollowedFleet, followFleet } from '../../src/fleet.js';
import { SharedStream } from '../../src/shared.js';
import { type Case, wrongReadings } from '../vectors.js';

interface Follow {
  readonly baseUrl: string;
  readonly tenant: string;
  readonly access: string;
  readonly shared?: string;
}

const page = globalThis as unknown as Record<string, unknown>;
const numbers: number[] = [];
const states: string[] = [];

page['follow'] = ({ baseUrl, tenant, access, shared }: Follow): void => {
  const options: StreamOptions = {
    baseUrl,
    tenant,
    token: exchange({ baseUrl, accessToken: () => access }),
    heartbeat: 1_500,
    longestPause: 500,
  };
  const handlers = { connection: ({ state }: { state: string }) => states.push(state) };
  const stream =
    shared === undefined
      ? new TidingsStream(options, handlers)
      : new SharedStream({ ...options, name: shared }, handlers);
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
// The tab does nothing at all for a while, as one that is frozen or busy.
page['hang'] = (milliseconds: number): void => {
  const end = Date.now() + milliseconds;
  while (Date.now() < end);
};
page['readsItself'] = () => (page['stream'] as SharedStream).readsItself;

page['fleet'] = ({ baseUrl, tenant, access }: Follow): void => {
  const token = exchange({ baseUrl, accessToken: () => access });
  page['followed'] = followFleet({ baseUrl, tenant, token, heartbeat: 1_500, longestPause: 500 });
};
page['known'] = () => {
  const { devices, isComplete, connection } = (page['followed'] as FollowedFleet).store.getSnapshot();
  const numbers = [...devices.values()].map((device) => [device.device_id, device['number']]);
  return { devices: Object.fromEntries(numbers) as object, isComplete, state: connection.state };
};
page['wrongReadings'] = (cases: Case[]) => cases.flatMap((each) => wrongReadings(each));
