import type { TidingsEvent } from '@tidings/client';
import { useEffect, useMemo, useReducer, useState } from 'preact/hooks';
import { keyOf, type Device } from '../devices';
import { Reader } from '../past/reader';
import { changesOf, courseOf, fleetAt, type Then } from '../past/timeline';
import { amend, amendAll, href, type Route } from '../route';
import type { Session } from '../session';
import { moment, short, span, words } from '../text';
import { useAsked, usePart, useTenants } from '../use';
import { AlertList } from './alerts';
import { Course } from './course';
import { EventRows } from './feed';
import { FleetView } from './fleet';
import { Work } from './work';

const MINUTE = 60_000;
const VIEWS = { fleet: 'Fleet', alerts: 'Alerts', work: 'Pushes & firmware', events: 'Events' } as const;

/** The fleet as it was at a moment of what is retained. */
export function PastPage({ session, route }: { session: Session; route: Route }) {
  const tenants = useTenants(session);
  const tenant = route.query.get('tenant') ?? '';
  const isComplete = usePart(session, (fleet) => fleet.isComplete);
  const of = tenant === '' ? tenants : [tenant];
  if (of.length === 0)
    return <p class="empty">{isComplete ? 'No tenant has events.' : 'Reading how things are …'}</p>;
  return <Past key={of.join()} session={session} route={route} tenants={tenants} of={of} />;
}

/** Reads as long as the page is open. */
function useReader(session: Session, of: readonly string[]): Reader {
  const [, render] = useReducer((count: number) => count + 1, 0);
  const [reader] = useState(
    () =>
      new Reader(
        session.api,
        of,
        () => session.store.getSnapshot(),
        () => render(undefined),
      ),
  );
  useEffect(() => () => reader.close(), [reader]);
  return reader;
}

function Past({
  session,
  route,
  tenants,
  of,
}: {
  session: Session;
  route: Route;
  tenants: readonly string[];
  of: readonly string[];
}) {
  const reader = useReader(session, of);
  const [moving, setMoving] = useState<number | undefined>();
  const { oldest, now } = reader;
  const isBegun = now > 0;
  const within = (at: number) => (isBegun ? Math.min(now, Math.max(oldest, at)) : at);
  const asked = readMoment(route.query.get('at'));
  const at = within(moving ?? asked ?? Math.max(oldest, (isBegun ? now : Date.now()) - 5 * MINUTE));
  useEffect(() => reader.look(at), [reader, at]);
  const { statuses, work, version } = reader;
  const then = useMemo(
    () => (reader.covers(at) ? fleetAt(statuses, work, session.store.getSnapshot(), of, at) : undefined),
    [reader, version, at],
  );
  const changes = useMemo(() => changesOf(statuses.timeline, work.timeline), [reader, version]);
  const course = useMemo(() => courseOf(statuses, work, oldest, now, 240), [reader, version, oldest, now]);
  const go = (to: number) => amend(route, 'at', new Date(within(to)).toISOString());
  const earlier = changes.findLast((change) => change < at);
  const later = changes.find((change) => change > at);
  const see = (route.query.get('see') ?? 'fleet') as keyof typeof VIEWS;
  return (
    <div class="then">
      <p class="strip notice">
        <b>Not live</b>
        <span class="grow">
          As it was on <time dateTime={new Date(at).toISOString()}>{moment(at)}</time>
          {isBegun && `, ${span(now - at)} before this page was opened`}.
        </span>
        <a href={href('fleet')}>Back to live</a>
      </p>
      <figure class="slider">
        <figcaption class="hidden">Devices down and alerts open over what is retained</figcaption>
        <Course
          course={course}
          from={oldest}
          to={now}
          read={isBegun ? [statuses.from, statuses.to] : undefined}
          at={at}
        />
        <input
          type="range"
          aria-label="Moment"
          min={oldest}
          max={now}
          step="any"
          value={at}
          disabled={!isBegun}
          aria-valuetext={moment(at)}
          onKeyDown={(event) => {
            const to = keyed(event.key, at, oldest, now);
            if (to === undefined) return;
            event.preventDefault();
            go(to);
          }}
          onInput={(event) => setMoving(event.currentTarget.valueAsNumber)}
          onChange={(event) => {
            setMoving(undefined);
            go(event.currentTarget.valueAsNumber);
          }}
        />
        <p class="ends hint">
          <span>{isBegun && moment(oldest)}</span>
          <span class="legend" aria-hidden="true">
            <span class="down">devices down</span> <span class="alert">alerts open</span>
          </span>
          <span>{isBegun && moment(now)}</span>
        </p>
      </figure>
      <div class="tools">
        <button type="button" disabled={!isBegun || at <= oldest} onClick={() => go(at - MINUTE)}>
          − 1 min
        </button>
        <button type="button" disabled={!isBegun || at >= now} onClick={() => go(at + MINUTE)}>
          + 1 min
        </button>
        <button type="button" disabled={earlier === undefined} onClick={() => go(earlier ?? at)}>
          Change before
        </button>
        <button type="button" disabled={later === undefined} onClick={() => go(later ?? at)}>
          Change after
        </button>
        <span class="grow" />
        {session.login.tenant === null && tenants.length > 1 && (
          <label>
            <span class="label">Tenant</span>
            <select
              value={route.query.get('tenant') ?? ''}
              onChange={(event) => amend(route, 'tenant', event.currentTarget.value)}
            >
              <option value="">All</option>
              {tenants.map((each) => (
                <option key={each} value={each}>
                  {short(each)}
                </option>
              ))}
            </select>
          </label>
        )}
        <label>
          <span class="label">See</span>
          <select value={see} onChange={(event) => amend(route, 'see', event.currentTarget.value)}>
            {Object.entries(VIEWS).map(([name, title]) => (
              <option key={name} value={name}>
                {title}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Progress reader={reader} at={at} unknown={then?.unknown ?? 0} />
      {see === 'events' ? (
        <Events key={at} session={session} of={of} at={at} />
      ) : then === undefined ? (
        <p class="empty">{reader.reading === 'reading' ? 'Reading the history …' : 'Not read.'}</p>
      ) : (
        <View see={see} then={then} at={at} route={route} session={session} />
      )}
    </div>
  );
}

/** Where a key moves the slider: by a second, a minute, or to an end. */
function keyed(key: string, at: number, oldest: number, now: number): number | undefined {
  const to: Record<string, number> = {
    ArrowLeft: at - 1_000,
    ArrowDown: at - 1_000,
    ArrowRight: at + 1_000,
    ArrowUp: at + 1_000,
    PageDown: at - MINUTE,
    PageUp: at + MINUTE,
    Home: oldest,
    End: now,
  };
  return to[key];
}

/** A moment of the address: RFC 3339, or milliseconds since the Unix epoch. */
function readMoment(text: string | null): number | undefined {
  if (text === null) return undefined;
  const at = /^\d+$/.test(text) ? Number(text) : Date.parse(text);
  return Number.isNaN(at) ? undefined : at;
}

/** How far reading is, and what is therefore not known. */
function Progress({ reader, at, unknown }: { reader: Reader; at: number; unknown: number }) {
  const { reading, statuses, work, oldest, events } = reader;
  const isAll = reader.now > 0 && statuses.from <= oldest;
  const gone =
    unknown > 0 &&
    (isAll
      ? `Of ${unknown.toLocaleString()} devices no event up to this moment is retained: how they were is not known.`
      : `Of ${unknown.toLocaleString()} devices nothing was found back to ${moment(statuses.from)}.`);
  const isWorkShort = reader.now > 0 && work.from > oldest && reading !== 'reading';
  return (
    <div class="progress" data-reading={reading}>
      {reading === 'reading' && (
        <p role="status">
          <progress aria-label="Reading the history" /> {events.toLocaleString()} events read
          {reader.now > 0 && `, back to ${moment(Math.min(statuses.from, work.from))}`}{' '}
          <button type="button" onClick={() => reader.stop()}>
            Stop
          </button>
        </p>
      )}
      {(reading === 'stopped' || reading === 'failed') && (
        <p role="status">
          {reading === 'failed' ? <span class="bad">{reader.failure}</span> : 'Reading was stopped.'}{' '}
          <button type="button" onClick={() => reader.goOn()}>
            Read on
          </button>
        </p>
      )}
      {gone && <p class="hint">{gone}</p>}
      {isWorkShort && at < reader.now && (
        <p class="hint">
          Alerts and jobs that began before {moment(work.from)} are shown where they ended later or are there
          now.
        </p>
      )}
    </div>
  );
}

function View({
  see,
  then,
  at,
  route,
  session,
}: {
  see: keyof typeof VIEWS;
  then: Then;
  at: number;
  route: Route;
  session: Session;
}) {
  if (see === 'alerts') return <AlertList fleet={then} now={at} empty="No alert was open." />;
  if (see === 'work') return <Work fleet={then} now={at} seen={[]} />;
  const same = Object.fromEntries(route.query);
  const chosen = route.query.get('device') ?? '';
  const open = ({ key }: Device) => amend(route, 'device', key);
  return (
    <>
      {chosen !== '' && <DeviceThen then={then} at={at} chosen={chosen} route={route} />}
      <FleetView
        fleet={then}
        route={route}
        isOfAll={session.login.tenant === null}
        empty="Nothing is known of any device at this moment."
        onOpen={open}
        linkOf={({ key }) => href('past', { ...same, device: key })}
        links={{
          down: href('past', { ...same, search: 'down' }),
          alerts: href('past', { ...same, see: 'alerts' }),
          work: href('past', { ...same, see: 'work' }),
        }}
      />
    </>
  );
}

/** One device as it was. */
function DeviceThen({ then, at, chosen, route }: { then: Then; at: number; chosen: string; route: Route }) {
  const status = then.devices.get(chosen);
  const since = then.since.get(chosen);
  const alerts = [...then.alerts.values()].filter((alert) => keyOf(alert) === chosen);
  const facts = Object.entries(status ?? {}).filter(
    ([name, value]) => typeof value !== 'object' && !['tenant_id', 'name', 'status'].includes(name),
  );
  return (
    <section class="card" aria-label="Device then">
      <header class="title">
        <h3>{status?.name ?? short(chosen.split('/')[1] ?? '')}</h3>
        <span>{status === undefined ? 'not there then' : words(status.status) || 'not known then'}</span>
        <span class="hint grow">
          {since === undefined ? '' : `for ${span(at - since)}, since ${moment(since)}`}
        </span>
        <a href={href('device', { key: chosen })}>As it is now</a>
        <button type="button" onClick={() => amendAll(route, { device: '' })}>
          Close
        </button>
      </header>
      {alerts.map((alert) => (
        <p class={`strip ${words(alert.severity)}`} key={alert.alert_event_id}>
          <b>{words(alert.severity)}</b> {words(alert.message)}
        </p>
      ))}
      <dl class="facts wide">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name.replaceAll('_', ' ')}</dt>
            <dd>{words(value)}</dd>
          </div>
        ))}
      </dl>
      {since !== undefined && <p class="hint">As told when it became so.</p>}
    </section>
  );
}

const PAGE = 100;

/** What happened from the moment on, of one tenant after the other. */
function Events({ session, of, at }: { session: Session; of: readonly string[]; at: number }) {
  const [since, setSince] = useState(at);
  const second = Math.floor(since / 1000);
  const page = useAsked(async () => {
    const query = { since: new Date(second * 1000).toISOString(), limit: String(PAGE) };
    const pages = await Promise.all(of.slice(0, 10).map((each) => session.api.history(each, query)));
    return pages
      .flatMap(({ events }) => events)
      .sort((one, other) => Date.parse(one.time) - Date.parse(other.time))
      .slice(0, PAGE);
  }, `${of.join()} ${second}`);
  const events = page.answer ?? [];
  return (
    <>
      <div class="tools">
        <p class="hint grow">
          The first {PAGE} events from {moment(since)} on.
        </p>
        <button
          type="button"
          disabled={events.length < PAGE}
          onClick={() => setSince(Date.parse(events.at(-1)?.time ?? '') || since)}
        >
          Further
        </button>
      </div>
      {page.error && <p class="bad">{page.error}</p>}
      {events.length === 0 ? (
        <p class="empty">{page.answer ? 'Nothing happened after that.' : 'Reading …'}</p>
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
