import { keyOf, type Shown } from '../devices';
import { href } from '../route';
import type { Session } from '../session';
import { short, span, words } from '../text';
import { useFleet, useNow } from '../use';

const ORDER = ['critical', 'warning', 'info'];

/** Alerts that are on now. */
export function AlertsPage({ session }: { session: Session }) {
  const fleet = useFleet(session);
  const now = useNow(1_000);
  return (
    <AlertList
      fleet={fleet}
      now={now}
      empty={fleet.isComplete ? 'No alert is open.' : 'Reading how things are …'}
    />
  );
}

/** Open alerts, the gravest and oldest first, with their age at `now`. */
export function AlertList({ fleet, now, empty }: { fleet: Shown; now: number; empty: string }) {
  const rank = (severity: unknown) => {
    const place = ORDER.indexOf(words(severity));
    return place < 0 ? ORDER.length : place;
  };
  const alerts = [...fleet.alerts].sort(
    ([, one], [, other]) =>
      rank(one.severity) - rank(other.severity) || words(one.fired_at).localeCompare(words(other.fired_at)),
  );
  if (alerts.length === 0) return <p class="empty">{empty}</p>;
  return (
    <ul class="alerts">
      {alerts.slice(0, MOST_ROWS).map(([key, alert]) => (
        <li key={key} class={`strip ${words(alert.severity)}`}>
          <b>{words(alert.severity) || 'alert'}</b>
          <a href={href('device', { key: keyOf(alert) })}>
            {fleet.devices.get(keyOf(alert))?.name ?? short(alert.device_id ?? '')}
          </a>
          <span class="grow">{words(alert.message) || words(alert.metric)}</span>
          {alert.is_flapping && <span class="tag">flapping</span>}
          {alert.fired_at && <time dateTime={alert.fired_at}>{span(now - Date.parse(alert.fired_at))}</time>}
        </li>
      ))}
      {alerts.length > MOST_ROWS && (
        <li class="hint">{(alerts.length - MOST_ROWS).toLocaleString()} more, less grave or younger.</li>
      )}
    </ul>
  );
}

const MOST_ROWS = 300;
