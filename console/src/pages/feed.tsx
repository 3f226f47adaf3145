import { useState } from 'preact/hooks';
import type { Audience, Witness } from '../api';
import { amend, href, type Route } from '../route';
import type { Seen, Session } from '../session';
import { clock, gist, moment, short, words } from '../text';
import { useSeen } from '../use';
import { Silent } from './operate';

const ROWS = 100;

/** Events as they come: pause, filter, look into one. */
export function FeedPage({ session, route }: { session: Session; route: Route }) {
  useSeen(session);
  const [held, setHeld] = useState<readonly Seen[] | undefined>();
  const type = route.query.get('type') ?? '';
  const device = route.query.get('device') ?? '';
  const types = [...new Set(session.seen.map(({ event }) => event.type))].sort();
  const rows = (held ?? session.seen).filter(
    ({ event }) => (type === '' || event.type === type) && (device === '' || contains(event.data, device)),
  );
  return (
    <>
      <div class="tools">
        <label>
          <span class="label">Type</span>
          <select value={type} onChange={(event) => amend(route, 'type', event.currentTarget.value)}>
            <option value="">All</option>
            {[...new Set([...types, ...(type ? [type] : [])])].map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
        <label class="grow">
          <span class="label">Device</span>
          <input
            type="search"
            value={device}
            placeholder="id or name"
            onInput={(event) => amend(route, 'device', event.currentTarget.value)}
          />
        </label>
        <button
          type="button"
          aria-pressed={held !== undefined}
          onClick={() => setHeld(held ? undefined : [...session.seen])}
        >
          {held ? `Go on (${countSince(session, held)} new)` : 'Pause'}
        </button>
      </div>
      {rows.length === 0 ? (
        <p class="empty">
          {session.seen.length === 0 ? 'Waiting for the first event.' : 'No event matches.'}
        </p>
      ) : (
        <EventRows session={session} rows={rows.slice(-ROWS).reverse()} />
      )}
    </>
  );
}

function contains(data: Readonly<Record<string, unknown>>, text: string): boolean {
  return `${words(data['device_id'])} ${words(data['name'])}`.toLowerCase().includes(text.toLowerCase());
}

function countSince(session: Session, held: readonly Seen[]): number {
  const last = held.at(-1);
  return last === undefined ? session.seen.length : session.seen.length - 1 - session.seen.lastIndexOf(last);
}

/** Rows of events; one opens to its JSON and, for operators, to who was shown it. */
export function EventRows({ session, rows }: { session: Session; rows: readonly Seen[] }) {
  const [open, setOpen] = useState<string | undefined>();
  const fleet = session.store.getSnapshot();
  return (
    <ol class="events">
      {rows.map(({ event, at }) => {
        const device = `${event.data.tenant_id}/${event.data.device_id ?? ''}`;
        const isOpen = open === event.id;
        return (
          <li key={event.id} class={isOpen ? 'open' : ''}>
            <button
              type="button"
              class="row"
              aria-expanded={isOpen}
              onClick={() => setOpen(isOpen ? undefined : event.id)}
            >
              <time>{clock(at)}</time>
              <span class={`type ${event.type}`}>{event.type}</span>
              <span class="who">{fleet.devices.get(device)?.name ?? short(event.data.device_id ?? '')}</span>
              <span class="gist">{gist(event.type, event.data)}</span>
            </button>
            {isOpen && (
              <div class="inside">
                <p class="hint">
                  {moment(at)} · cursor <code>{event.id}</code>{' '}
                  {event.data.device_id && <a href={href('device', { key: device })}>Device</a>}
                </p>
                <pre>{JSON.stringify(event.data, null, 2)}</pre>
                {isOperator(session) && (
                  <AudienceOf session={session} tenant={event.data.tenant_id} cursor={event.id} />
                )}
              </div>
            )}
          </li>
        );
      })}
    </ol>
  );
}

export const isOperator = (session: Session): boolean => /admin|operator/.test(session.login.role);

/** How many rows of an audience are shown at once; a search finds the others. */
const MOST_WITNESSES = 200;

function AudienceOf({ session, tenant, cursor }: { session: Session; tenant: string; cursor: string }) {
  const [told, setTold] = useState<{ audience?: Audience; error?: string } | undefined>();
  const [search, setSearch] = useState('');
  const ask = () => {
    session.api.audience(tenant, cursor).then(
      (audience) => setTold({ audience }),
      (error: unknown) => setTold({ error: (error as Error).message }),
    );
  };
  if (told === undefined)
    return (
      <button type="button" onClick={ask}>
        Who was shown this?
      </button>
    );
  if (told.audience === undefined) return <p class="bad">{told.error}</p>;
  const { streams, nodes, isCut } = told.audience;
  // Streams that had ended by then had nothing to be shown; of later ones some may be forgotten.
  const isComplete = Date.parse(told.audience.complete_since) <= Date.parse(told.audience.event.time);
  const found = streams.filter(({ user_id, role, connection_id }) =>
    `${user_id} ${role} ${connection_id}`.toLowerCase().includes(search.toLowerCase()),
  );
  return (
    <>
      <Silent nodes={nodes} what="Who was shown this by it is not known." />
      {!isComplete && (
        <p class="strip notice">
          Streams that ended before {moment(Date.parse(told.audience.complete_since))} are not remembered: who
          was shown this on one of them is not in this list.
        </p>
      )}
      {isCut && (
        <p class="strip notice">
          Only the first {streams.length.toLocaleString()} streams were read; there are more.
        </p>
      )}
      {streams.length === 0 ? (
        <p class="hint">{isComplete ? 'No stream was open.' : 'No stream that is remembered was open.'}</p>
      ) : (
        <>
          {streams.length > 10 && (
            <label>
              <span class="label">
                User or stream, of {streams.length.toLocaleString()}
                {found.length > MOST_WITNESSES ? `; the first ${MOST_WITNESSES} are shown` : ''}
              </span>{' '}
              <input type="search" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
            </label>
          )}
          <div class="scroll">
            <table>
              <thead>
                <tr>
                  <th scope="col">User</th>
                  <th scope="col">Role</th>
                  <th scope="col">Stream</th>
                  <th scope="col">Shown, or why not</th>
                </tr>
              </thead>
              <tbody>
                {found.slice(0, MOST_WITNESSES).map((stream) => (
                  <tr key={stream.connection_id}>
                    <th scope="row">{stream.user_id}</th>
                    <td>{stream.role}</td>
                    <td>
                      <code>{stream.connection_id}</code>
                    </td>
                    <td>{outcome(stream.outcome)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </>
  );
}

function outcome(given: Witness['outcome']): string {
  if (typeof given === 'string') return given.replaceAll('_', ' ');
  return Object.values(given).map(words).filter(Boolean).join(': ').replaceAll('_', ' ');
}
