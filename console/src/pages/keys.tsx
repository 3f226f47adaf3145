import { useState } from 'preact/hooks';
import type { NewKey, PublisherKey } from '../api';
import type { Session } from '../session';
import { moment, short, span } from '../text';
import { useAsked, useNow, useTenants } from '../use';

/** Publishers' API keys: which there are, for whom, when they were last used; one is made, rotated, revoked. */
export function KeysPage({ session }: { session: Session }) {
  const asked = useAsked(() => session.api.keys(), 'keys', 30_000);
  const now = useNow(5_000);
  const [made, setMade] = useState<{ key: string; name: string } | undefined>();
  const [trouble, setTrouble] = useState('');
  const act = (doing: Promise<{ key: string; info: PublisherKey } | undefined>) => {
    setTrouble('');
    setMade(undefined);
    doing.then(
      (answer) => {
        if (answer) setMade({ key: answer.key, name: answer.info.name ?? answer.info.id });
        asked.again();
      },
      (error: unknown) => setTrouble((error as Error).message),
    );
  };
  const keys = asked.answer?.keys ?? [];
  return (
    <>
      {(asked.error ?? trouble) && (
        <p class="bad" role="alert">
          {asked.error ?? trouble}
        </p>
      )}
      {made && (
        <p class="strip notice" role="status">
          <span>
            The key of <b>{made.name}</b>, shown this once:
          </span>
          <code class="secret">{made.key}</code>
          <button type="button" onClick={() => void navigator.clipboard.writeText(made.key)}>
            Copy
          </button>
          <button type="button" onClick={() => setMade(undefined)}>
            Done
          </button>
        </p>
      )}
      <Make session={session} onMake={(wanted) => act(session.api.makeKey(wanted))} />
      {keys.length === 0 ? (
        <p class="empty">{asked.answer ? 'No publisher has an API key.' : 'Reading …'}</p>
      ) : (
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Key</th>
                <th scope="col">Publishes</th>
                <th scope="col">Made</th>
                <th scope="col">Last used</th>
                <th scope="col">Good until</th>
                <th scope="col">
                  <span class="hidden">Act</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {keys.map((key) => (
                <KeyRow
                  key={key.id}
                  of={key}
                  now={now}
                  onRotate={() => act(session.api.rotateKey(key.id))}
                  onRevoke={() => act(session.api.revokeKey(key.id).then(() => undefined))}
                />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

function KeyRow({
  of: key,
  now,
  onRotate,
  onRevoke,
}: {
  of: PublisherKey;
  now: number;
  onRotate: () => void;
  onRevoke: () => void;
}) {
  const [isAsked, setAsked] = useState(false);
  const name = key.name ?? key.id;
  const ago = (time: string | null | undefined) => (time ? `${span(now - Date.parse(time))} ago` : '');
  return (
    <tr>
      <th scope="row">
        {name} <span class="hint">{name === key.id ? '' : key.id}</span>
      </th>
      <td>
        {key.tenants === null ? 'for all tenants' : key.tenants.map(short).join(', ')}
        {key.types && ` · ${key.types.join(', ')}`}
        {key.publish_rate ? ` · ${key.publish_rate}/s` : ''}
      </td>
      <td>
        {key.configured ? 'in the configuration' : ago(key.created_at)}{' '}
        <span class="hint">{key.created_by ?? ''}</span>
      </td>
      <td class="number">{ago(key.last_used_at)}</td>
      <td>
        {key.revoked_at ? (
          <span class="tag bad">revoked {ago(key.revoked_at)}</span>
        ) : key.expires_at ? (
          moment(Date.parse(key.expires_at))
        ) : (
          'no end'
        )}
        {key.old_secret_until && !key.revoked_at && Date.parse(key.old_secret_until) > now && (
          <span class="hint"> the old secret for {span(Date.parse(key.old_secret_until) - now)}</span>
        )}
      </td>
      <td class="acts">
        {!key.configured && !key.revoked_at && (
          <>
            <button type="button" aria-label={`Give ${name} a new secret`} onClick={onRotate}>
              Rotate
            </button>
            {isAsked ? (
              <button type="button" class="grave" onClick={onRevoke} onBlur={() => setAsked(false)}>
                Revoke for good
              </button>
            ) : (
              <button type="button" aria-label={`Revoke ${name}`} onClick={() => setAsked(true)}>
                Revoke …
              </button>
            )}
          </>
        )}
      </td>
    </tr>
  );
}

/** A form for a new key. */
function Make({ session, onMake }: { session: Session; onMake: (wanted: NewKey) => void }) {
  const tenants = useTenants(session);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const given = new FormData(form);
    const text = (name: string) => {
      const value = given.get(name);
      return typeof value === 'string' ? value.trim() : '';
    };
    const tenant = session.login.tenant ?? text('tenant');
    const types = text('types')
      .split(/[\s,]+/)
      .filter(Boolean);
    const days = Number(text('days'));
    onMake({
      name: text('name'),
      ...(tenant === '' ? { all_tenants: true } : { tenants: [tenant] }),
      ...(types.length > 0 ? { types } : {}),
      ...(days > 0 ? { expires_at: new Date(Date.now() + days * 86_400_000).toISOString() } : {}),
    });
    form.reset();
  };
  return (
    <form class="tools" onSubmit={submit}>
      <label class="grow">
        <span class="label">New key for</span>
        <input name="name" required placeholder="a publisher’s name" autocomplete="off" />
      </label>
      {session.login.tenant === null && (
        <label>
          <span class="label">Tenant</span>
          <select name="tenant">
            {tenants.map((each) => (
              <option key={each} value={each}>
                {short(each)}
              </option>
            ))}
            <option value="">All tenants</option>
          </select>
        </label>
      )}
      <label>
        <span class="label">Types</span>
        <input name="types" placeholder="all" autocomplete="off" />
      </label>
      <label>
        <span class="label">Days</span>
        <input name="days" type="number" min={1} placeholder="no end" />
      </label>
      <button type="submit" class="primary">
        Make
      </button>
    </form>
  );
}
