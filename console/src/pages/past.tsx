import { useState } from 'preact/hooks';
import type { TidingsEvent } from '@tidings/client';
import { amend, type Route } from '../route';
import type { Session } from '../session';
import { moment, short, span } from '../text';
import { useAsked, useNow } from '../use';
import { EventRows } from './feed';

const PAGE = '100';

/** What is retained, at any time of it: a slider from the oldest event to now. */
export function PastPage({ session, route }: { session: Session; route: Route }) {
  const tenants = useTenants(session);
  const tenant = route.query.get('tenant') ?? session.login.tenant ?? tenants[0] ?? '';
  const oldest = useAsked(
    async () => (tenant === '' ? undefined : await session.api.history(tenant, { limit: '1' })),
    tenant,
    60_000,
  );
  const now = useNow(10_000);
  const from = Date.parse(oldest.answer?.events[0]?.time ?? '') || now - 60_000;
  const at = Math.min(
    now,
    Math.max(from, Number(route.query.get('at')) || now - Math.min(now - from, 5 * 60_000)),
  );
  const [moving, setMoving] = useState<number | undefined>();
  const page = useAsked(
    async () =>
      tenant === ''
        ? undefined
        : await session.api.history(tenant, { since: new Date(at).toISOString(), limit: PAGE }),
    `${tenant} ${Math.round(at / 1000)}`,
  );
  const events = page.answer?.events ?? [];
  return (
    <>
      <div class="tools">
        {session.login.tenant === null && (
          <label>
            <span class="label">Tenant</span>
            <select value={tenant} onChange={(event) => amend(route, 'tenant', event.currentTarget.value)}>
              {[...new Set([tenant, ...tenants])].map((each) => (
                <option key={each} value={each}>
                  {short(each)}
                </option>
              ))}
            </select>
          </label>
        )}
        <label class="grow">
          <span class="label">
            {moment(moving ?? at)} · {span(now - (moving ?? at))} ago
          </span>
          <input
            type="range"
            min={from}
            max={now}
            step={1_000}
            value={moving ?? at}
            aria-valuetext={moment(moving ?? at)}
            onInput={(event) => setMoving(event.currentTarget.valueAsNumber)}
            onChange={(event) => {
              setMoving(undefined);
              amend(route, 'at', String(event.currentTarget.valueAsNumber));
            }}
          />
        </label>
        <button
          type="button"
          disabled={events.length < Number(PAGE)}
          onClick={() => amend(route, 'at', String(Date.parse(events.at(-1)?.time ?? '') || at))}
        >
          Further
        </button>
      </div>
      <p class="hint">
        {oldest.answer?.events[0] ? `Retained since ${moment(from)}.` : ''} The first {PAGE} events from that
        moment on.
      </p>
      {page.error && <p class="bad">{page.error}</p>}
      {events.length === 0 ? (
        <p class="empty">Nothing happened after that.</p>
      ) : (
        <EventRows
          session={session}
          rows={events.map(({ id, type, data, time }) => ({
            event: { id, type, data } as TidingsEvent,
            at: Date.parse(time),
          }))}
        />
      )}
    </>
  );
}

/** The tenants that this login's fleet knows. */
function useTenants(session: Session): string[] {
  const fleet = session.store.getSnapshot();
  return [...new Set([...fleet.devices.values()].map(({ tenant_id }) => tenant_id))].sort();
}
