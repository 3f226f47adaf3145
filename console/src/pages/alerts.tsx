import { href } from '../route';
import type { Session } from '../session';
import { short, span, words } from '../text';
import { useFleet, useNow } from '../use';

const ORDER = ['critical', 'warning', 'info'];

/** Alerts that are on now, the gravest and oldest first. */
export function AlertsPage({ session }: { session: Session }) {
  const fleet = useFleet(session);
  const now = useNow(1_000);
  const rank = (severity: unknown) => {
    const place = ORDER.indexOf(words(severity));
    return place < 0 ? ORDER.length : place;
  };
  const alerts = [...fleet.alerts].sort(
    ([, one], [, other]) =>
      rank(one.severity) - rank(other.severity) || words(one.fired_at).localeCompare(words(other.fired_at)),
  );
  if (alerts.length === 0)
    return <p class="empty">{fleet.isComplete ? 'No alert is open.' : 'Reading how things are …'}</p>;
  return (
    <ul class="alerts">
      {alerts.map(([key, alert]) => {
        const device = `${alert.tenant_id}/${alert.device_id ?? ''}`;
        return (
          <li key={key} class={`strip ${words(alert.severity)}`}>
            <b>{words(alert.severity) || 'alert'}</b>
            <a href={href('device', { key: device })}>
              {fleet.devices.get(device)?.name ?? short(alert.device_id ?? '')}
            </a>
            <span class="grow">{words(alert.message) || words(alert.metric)}</span>
            {alert.is_flapping && <span class="tag">flapping</span>}
            {alert.fired_at && (
              <time dateTime={alert.fired_at}>{span(now - Date.parse(alert.fired_at))}</time>
            )}
          </li>
        );
      })}
    </ul>
  );
}
