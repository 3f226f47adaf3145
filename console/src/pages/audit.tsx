import type { AuditEntry } from '../api';
import { amend, type Route } from '../route';
import type { Session } from '../session';
import { moment, short } from '../text';
import { useAsked } from '../use';

const SPANS = { '15': '15 minutes', '60': 'hour', '1440': 'day', '10080': 'week' } as const;
const MOST_ROWS = 300;

/** Who opened, was refused and why, published and changed what: the newest first. */
export function AuditPage({ session, route }: { session: Session; route: Route }) {
  const minutes = route.query.get('minutes') ?? '60';
  const what = route.query.get('what') ?? '';
  const search = (route.query.get('search') ?? '').toLowerCase();
  const asked = useAsked(
    () => session.api.audit(new Date(Date.now() - 60_000 * (Number(minutes) || 60))),
    minutes,
    10_000,
  );
  const entries = asked.answer?.entries ?? [];
  const kinds = [...new Set([...entries.map((entry) => entry.what), ...(what ? [what] : [])])].sort();
  const shown = entries
    .filter((entry) => what === '' || entry.what === what)
    .filter((entry) => search === '' || JSON.stringify(entry).toLowerCase().includes(search))
    .reverse();
  return (
    <>
      <div class="tools">
        <label>
          <span class="label">Last</span>
          <select value={minutes} onChange={(event) => amend(route, 'minutes', event.currentTarget.value)}>
            {Object.entries(SPANS).map(([value, name]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span class="label">What</span>
          <select value={what} onChange={(event) => amend(route, 'what', event.currentTarget.value)}>
            <option value="">All</option>
            {kinds.map((each) => (
              <option key={each} value={each}>
                {each.replaceAll('_', ' ')}
              </option>
            ))}
          </select>
        </label>
        <label class="grow">
          <span class="label">Search</span>
          <input
            type="search"
            value={route.query.get('search') ?? ''}
            placeholder="user, address, stream, reason"
            onInput={(event) => amend(route, 'search', event.currentTarget.value)}
          />
        </label>
      </div>
      {asked.error && <p class="bad">{asked.error}</p>}
      {asked.answer?.isCut && <p class="hint">There are more entries than are shown; these are the first.</p>}
      {shown.length === 0 ? (
        <p class="empty">{asked.answer ? 'Nothing is in the audit log of that time.' : 'Reading …'}</p>
      ) : (
        <div class="scroll">
          <table class="audit">
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col">What</th>
                <th scope="col">Who</th>
                <th scope="col">From</th>
                <th scope="col">About</th>
              </tr>
            </thead>
            <tbody>
              {shown.slice(0, MOST_ROWS).map((entry) => (
                <tr key={entry.id}>
                  <td class="number">{moment(Date.parse(entry.time))}</td>
                  <th scope="row" class={entry.what.endsWith('refused') ? 'bad' : ''}>
                    {entry.what.replaceAll('_', ' ')}
                  </th>
                  <td>
                    {entry.user_id ?? entry.key_id ?? ''} <span class="hint">{entry.role ?? ''}</span>
                  </td>
                  <td>{entry.address ?? ''}</td>
                  <td>{aboutOf(entry)}</td>
                </tr>
              ))}
            </tbody>
          </table>
          {shown.length > MOST_ROWS && (
            <p class="hint">{(shown.length - MOST_ROWS).toLocaleString()} more; search to narrow them.</p>
          )}
        </div>
      )}
    </>
  );
}

function aboutOf({ tenant_id, target, connection_id, status, reason, events, count }: AuditEntry): string {
  return [
    tenant_id && short(tenant_id),
    target,
    connection_id,
    status,
    reason,
    events !== undefined && `${events.toLocaleString()} events in ${(count ?? 0).toLocaleString()} bodies`,
    events === undefined && count !== undefined && `${count.toLocaleString()} times`,
  ]
    .filter(Boolean)
    .join(' · ');
}
