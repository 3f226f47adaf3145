import { useState } from 'preact/hooks';
import type { Login } from '../login';

/** The same with curl: what the console does can be done by hand. */
export function HandPage({ login, mount }: { login: Login; mount: string }) {
  const tenant = login.tenant ?? '11111111-1111-4111-8111-111111111111';
  const base = location.origin + mount;
  return (
    <>
      <p>
        The console calls nothing but the <a href="/docs">public API</a>. The same in a shell; the first line
        takes your token.
      </p>
      <Command title="Your token" text={`export TOKEN='${login.token}'`} isSecret />
      <Command
        title="Follow a tenant"
        text={`curl -N -H "Authorization: Bearer $TOKEN" \\\n  '${base}/tenants/${tenant}/events/stream?snapshot=true'`}
      />
      <Command
        title="How things are"
        text={`curl -H "Authorization: Bearer $TOKEN" '${base}/tenants/${tenant}/state'`}
      />
      <Command
        title="What happened"
        text={`curl -H "Authorization: Bearer $TOKEN" '${base}/tenants/${tenant}/events?limit=10'`}
      />
      <Command
        title="Publish, as a publisher"
        text={`curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\\n  -d '{"type":"device_status","device_id":"r1","data":{"status":"online"}}' \\\n  '${base}/tenants/${tenant}/events'`}
      />
    </>
  );
}

function Command({ title, text, isSecret = false }: { title: string; text: string; isSecret?: boolean }) {
  const [isCopied, setCopied] = useState(false);
  const copy = () => {
    navigator.clipboard.writeText(text).then(
      () => setCopied(true),
      () => setCopied(false),
    );
  };
  return (
    <figure class="command">
      <figcaption>
        {title}{' '}
        <button type="button" onClick={copy}>
          {isCopied ? 'Copied' : 'Copy'}
        </button>
      </figcaption>
      <pre>{isSecret ? text.replace(/'.*'/, "'…'") : text}</pre>
    </figure>
  );
}
