import { useLayoutEffect, useMemo, useReducer } from 'preact/hooks';
import { healthOf } from '../devices';
import { Measurements } from '../measurements';
import { Plot } from '../plot';
import { href, type Route } from '../route';
import type { Seen, Session } from '../session';
import { short, span, words } from '../text';
import { useFleet, useNow, useSeen } from '../use';
import { EventRows } from './feed';

/** One device: its facts, its measurements as they go on, what is open about it, and its events. */
export function DevicePage({ session, route }: { session: Session; route: Route }) {
  const key = route.query.get('key') ?? '';
  const fleet = useFleet(session);
  useSeen(session);
  const now = useNow(1_000);
  const [tenant = '', ...rest] = key.split('/');
  const id = rest.join('/').replaceAll('~1', '/').replaceAll('~0', '~');
  const status = fleet.devices.get(key);
  const isOwn = (data: { tenant_id: string; device_id?: string }) =>
    data.tenant_id === tenant && data.device_id === id;
  const alerts = [...fleet.alerts.values()].filter(isOwn);
  const work = [...fleet.pushes.values(), ...fleet.firmware.values()].filter(isOwn);
  const { measurements, events } = useDevice(session, tenant, id);
  if (status === undefined)
    return (
      <p class="empty">
        {fleet.isComplete ? `No device ${short(id)} in what this login sees.` : 'Reading how things are …'}{' '}
        <a href={href('fleet')}>To the fleet</a>
      </p>
    );
  const facts = Object.entries(status).filter(
    ([name, value]) => typeof value !== 'object' && !HIDDEN.has(name),
  );
  return (
    <>
      <header class="title">
        <h2>{status.name ?? short(id)}</h2>
        <span class={`state ${healthOf(status)}`}>{words(status.status) || 'unknown'}</span>
        <span class="hint">
          {status.site ?? ''}{' '}
          {status.last_seen ? `· told ${span(now - Date.parse(status.last_seen))} ago` : ''}
        </span>
      </header>
      {alerts.map((alert) => (
        <p class={`strip ${words(alert.severity)}`} key={alert.alert_event_id}>
          <b>{words(alert.severity)}</b> {words(alert.message)}{' '}
          {alert.fired_at && <span class="hint">for {span(now - Date.parse(alert.fired_at))}</span>}
        </p>
      ))}
      {work.map((job) => (
        <p class="strip busy" key={words(job['push_operation_id'] ?? job['job_id'])}>
          <b>{words(job.stage)}</b> {words(job.message)}
        </p>
      ))}
      <Plots of={measurements} />
      <div class="columns">
        <section>
          <h3>Facts</h3>
          <dl class="facts">
            {facts.map(([name, value]) => (
              <div key={name}>
                <dt>{name.replaceAll('_', ' ')}</dt>
                <dd>{words(value)}</dd>
              </div>
            ))}
          </dl>
        </section>
        <section>
          <h3>Events since this page was opened</h3>
          {events.length === 0 ? (
            <p class="empty">None yet.</p>
          ) : (
            <EventRows session={session} rows={[...events].reverse()} />
          )}
        </section>
      </div>
    </>
  );
}

const HIDDEN = new Set(['tenant_id', 'name', 'site', 'status', 'event_type']);

/** Events of the device that are listed. */
const MOST_LISTED = 100;

/** What becomes of a device while its page is open. Other devices' events push nothing of it out. */
function useDevice(session: Session, tenant: string, device: string) {
  const [, render] = useReducer((count: number) => count + 1, 0);
  const known = useMemo(() => {
    const isOwn = ({ event: { data } }: Seen) => data.tenant_id === tenant && data.device_id === device;
    const measurements = new Measurements(session.api, tenant, device, () => render(undefined));
    const events = session.seen.filter(isOwn).slice(-MOST_LISTED);
    const take = (seen: Seen) => {
      // When this page had it, by the server's clock: what is drawn together is of one clock.
      const at = seen.at + session.api.now() - Date.now();
      if (seen.event.type === 'metric_update') measurements.take(seen.event.id, seen.event.data, at);
    };
    for (const seen of session.seen) if (isOwn(seen)) take(seen);
    return { measurements, events, isOwn, take };
  }, [session, tenant, device]);
  // Not after the next paint: what comes between would be neither in what was seen nor told.
  useLayoutEffect(() => {
    const { measurements, events, isOwn, take } = known;
    void measurements.read();
    const leave = session.watch({
      event: (event) => {
        const seen = { event, at: Date.now() };
        if (!isOwn(seen)) return;
        take(seen);
        events.push(seen);
        if (events.length > MOST_LISTED) events.shift();
      },
      gap: () => measurements.miss(),
      connection: ({ state }) => (state === 'live' ? measurements.goOn() : measurements.breakOff()),
    });
    return () => {
      leave();
      measurements.close();
    };
  }, [known]);
  return known;
}

function Plots({ of }: { of: Measurements }) {
  const { series } = of;
  return (
    <>
      {of.failure && (
        <p class="bad">
          The history can’t be read: {of.failure}{' '}
          <button type="button" onClick={() => of.again()}>
            Read again
          </button>
        </p>
      )}
      {of.isCut && <p class="hint">There is too much to read: older measurements are not shown.</p>}
      {series.length > 0 && (
        <div class="plots" aria-busy={of.isReading}>
          {series.map((each) => (
            <Plot key={each.title} {...each} />
          ))}
        </div>
      )}
    </>
  );
}
