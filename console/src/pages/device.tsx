import type { MetricUpdate } from '@tidings/client';
import { useMemo } from 'preact/hooks';
import { healthOf } from '../devices';
import { Plot } from '../plot';
import { href, type Route } from '../route';
import type { Told } from '../api';
import type { Seen, Session } from '../session';
import { short, span, words } from '../text';
import { useAsked, useFleet, useNow, useSeen } from '../use';
import { EventRows } from './feed';

const WINDOW = 30 * 60_000;

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
  const past = useAsked(
    () =>
      session.api.history(tenant, {
        device_id: id,
        types: 'metric_update',
        since: new Date(Date.now() - WINDOW).toISOString(),
        limit: '1000',
      }),
    key,
  );
  const events = session.seen.filter(({ event }) => isOwn(event.data));
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
      <Plots past={past.answer?.events ?? NONE} live={events} />
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
            <EventRows session={session} rows={events.slice(-100).reverse()} />
          )}
        </section>
      </div>
    </>
  );
}

const HIDDEN = new Set(['tenant_id', 'name', 'site', 'status', 'event_type']);

interface Series {
  readonly title: string;
  readonly unit: string;
  readonly at: number[];
  readonly values: number[];
}

interface Sample {
  readonly at: number;
  readonly data: Readonly<Record<string, unknown>>;
}

const NONE: readonly Told[] = [];

function Plots({ past, live }: { past: readonly Told[]; live: readonly Seen[] }) {
  const samples = useMemo(() => {
    // What is both in the history and on the stream is one measurement.
    const known = new Set(live.map(({ event }) => event.id));
    return [
      ...past.filter(({ id }) => !known.has(id)).map(({ time, data }) => ({ at: Date.parse(time), data })),
      ...live
        .filter(({ event }) => event.type === 'metric_update')
        .map(({ event, at }) => ({ at, data: event.data })),
    ];
  }, [past, live.length, live.at(-1)?.event.id]);
  const series = useMemo(() => seriesOf(samples), [samples]);
  if (series.length === 0) return null;
  return (
    <div class="plots">
      {series.map((each) => (
        <Plot key={each.title} {...each} />
      ))}
    </div>
  );
}

/** What a device's measurements say over time; numbers that it reports as text are read. */
function seriesOf(samples: readonly Sample[]): Series[] {
  const made = new Map<string, Series>();
  const add = (title: string, unit: string, at: number, value: unknown) => {
    const number = typeof value === 'string' ? Number.parseFloat(value) : value;
    if (typeof number !== 'number' || !Number.isFinite(number)) return;
    let series = made.get(title);
    if (series === undefined) made.set(title, (series = { title, unit, at: [], values: [] }));
    series.at.push(at / 1000);
    series.values.push(number);
  };
  let before: { at: number; received: number; sent: number } | undefined;
  for (const { data, at } of samples) {
    const metric = data as unknown as MetricUpdate;
    const { health } = metric;
    if (health) {
      add('Processor', '%', at, health['cpu_load']);
      const [free, total] = [Number(health['free_memory']), Number(health['total_memory'])];
      if (total > 0) add('Memory used', '%', at, (100 * (total - free)) / total);
      add('Temperature', '°C', at, health['temperature']);
    }
    if (metric.interfaces) {
      const sum = (name: string) =>
        metric.interfaces?.reduce((all, each) => all + (Number(each[name]) || 0), 0) ?? 0;
      const [received, sent] = [sum('rx_bytes'), sum('tx_bytes')];
      if (before && at > before.at && received >= before.received && sent >= before.sent) {
        const seconds = (at - before.at) / 1000;
        add('Received', 'Mbit/s', at, ((received - before.received) * 8) / 1e6 / seconds);
        add('Sent', 'Mbit/s', at, ((sent - before.sent) * 8) / 1e6 / seconds);
      }
      before = { at, received, sent };
    }
    const clients = metric.wireless?.reduce((all, each) => all + (Number(each['client_count']) || 0), 0);
    if (clients !== undefined) add('Wireless clients', '', at, clients);
  }
  return [...made.values()].filter(({ values }) => values.length > 1);
}
