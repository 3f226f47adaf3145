import { useMemo, useRef, useState } from 'preact/hooks';
import type { Node } from '../api';
import { Growth } from '../growth';
import { href, type Route } from '../route';
import type { Session } from '../session';
import { bytes, short, span, words } from '../text';
import { useAsked, useNow } from '../use';

/** Open streams: who, from where, what they see, how far behind; one can be ended. */
export function StreamsPage({ session, route }: { session: Session; route: Route }) {
  const after = route.query.get('after') ?? '';
  const asked = useAsked(() => session.api.streams(after), `streams ${after}`, 2_000);
  const now = useNow(1_000);
  const [trouble, setTrouble] = useState('');
  const streams = asked.answer?.streams ?? [];
  const end = (connection: string) => {
    session.api
      .disconnect(connection)
      .then(asked.again, (error: unknown) => setTrouble((error as Error).message));
  };
  return (
    <>
      {(asked.error ?? trouble) && <p class="bad">{asked.error ?? trouble}</p>}
      <Silent nodes={asked.answer?.nodes} what="The streams on it are not in this list." />
      <p class="hint">
        {streams.length.toLocaleString()} open
        {asked.answer?.next || after ? ' on this page; there are more' : ''}. Ending one only disconnects it:
        its client comes back. {after && <a href={href('streams')}>First page</a>}{' '}
        {asked.answer?.next && <a href={href('streams', { after: asked.answer.next })}>Next page</a>}
      </p>
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">User</th>
              <th scope="col">Sees</th>
              <th scope="col">From</th>
              <th scope="col">Open for</th>
              <th scope="col">Behind</th>
              <th scope="col">Sent</th>
              <th scope="col">Left out</th>
              <th scope="col">
                <span class="hidden">Act</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {streams.map((stream) => (
              <tr key={stream.connection_id}>
                <th scope="row">
                  {stream.user_id} <span class="hint">{stream.role}</span>
                </th>
                <td>{viewText(stream.view)}</td>
                <td>
                  {stream.remote_address}
                  {stream.node ? ` · ${stream.node}` : ''}
                </td>
                <td class="number">{span(now - Date.parse(stream.opened_at))}</td>
                <td class={stream.lag_seconds > 2 ? 'number bad' : 'number'}>
                  {stream.lag_events === 0
                    ? '0'
                    : `${stream.lag_exact ? '' : 'more than '}${stream.lag_events.toLocaleString()} · ${stream.lag_seconds.toFixed(1)} s`}
                </td>
                <td class="number">
                  {stream.events.toLocaleString()} · {bytes(stream.bytes)}
                </td>
                <td class="number">{stream.conflated}</td>
                <td>
                  <button
                    type="button"
                    aria-label={`End the stream ${stream.connection_id} of ${stream.user_id}`}
                    onClick={() => end(stream.connection_id)}
                  >
                    End
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** What a node of several that did not answer means for what is shown. */
export function Silent({ nodes, what }: { nodes: readonly Node[] | undefined; what: string }) {
  const silent = (nodes ?? []).filter(({ answered }) => !answered);
  if (silent.length === 0) return null;
  const names = silent.map(({ node }) => node).join(', ');
  return (
    <p class="strip notice" role="status">
      {silent.length === 1 ? `The node ${names} does` : `The nodes ${names} do`} not answer. {what}
    </p>
  );
}

function viewText(view: Readonly<Record<string, unknown>>): string {
  const tenant = view['tenant_id'];
  const bounds = Object.entries(view)
    .filter(([name, value]) => name !== 'tenant_id' && value !== null)
    .map(
      ([name, value]) =>
        `${name.replaceAll('_', ' ')}: ${Array.isArray(value) ? value.join(', ') : words(value)}`,
    );
  return [typeof tenant === 'string' ? short(tenant) : 'all tenants', ...bounds].join(' · ');
}

/** What each tenant has, and how fast it grows. */
export function TenantsPage({ session }: { session: Session }) {
  const asked = useAsked(() => session.api.tenants(), 'tenants', 3_000);
  const now = useNow(3_000);
  const growth = useRef(new Growth()).current;
  // With each answer, whether or not anything came: what stands still has a rate too.
  useMemo(() => {
    for (const { id, appended, appended_since } of asked.answer?.tenants ?? [])
      growth.take(id, { count: appended, since: appended_since }, performance.now());
  }, [asked.answer]);
  return (
    <>
      {asked.error && <p class="bad">{asked.error}</p>}
      {asked.answer?.isCut && (
        <p class="hint">
          These are the first {asked.answer.tenants.length.toLocaleString()} tenants; there are more.
        </p>
      )}
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">Tenant</th>
              <th scope="col">Events kept</th>
              <th scope="col">Published</th>
              <th scope="col">On disk</th>
              <th scope="col">Since</th>
              <th scope="col">Streams</th>
              <th scope="col">Retention</th>
            </tr>
          </thead>
          <tbody>
            {(asked.answer?.tenants ?? []).map((tenant) => (
              <tr key={tenant.id}>
                <th scope="row" title={tenant.id}>
                  {tenant.name ?? short(tenant.id)} {tenant.purged && <span class="tag">purged</span>}
                </th>
                <td class="number">{tenant.events.toLocaleString()}</td>
                <td class="number">{perSecond(growth.rate(tenant.id, tenant.appended_since))}</td>
                <td class="number">
                  {bytes(tenant.bytes)}
                  {tenant.settings.max_bytes > 0 && (
                    <meter
                      min={0}
                      max={tenant.settings.max_bytes}
                      value={tenant.bytes}
                      aria-label="of its bytes"
                    />
                  )}
                </td>
                <td class="number">{tenant.oldest_at ? span(now - Date.parse(tenant.oldest_at)) : ''}</td>
                <td class="number">{tenant.streams}</td>
                <td class="number">{span(tenant.settings.retention_seconds * 1000)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

const perSecond = (rate: number | undefined): string => (rate === undefined ? '–' : `${rate.toFixed(1)}/s`);
