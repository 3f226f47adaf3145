import { TidingsError } from '@tidings/client';
import type { Login } from './login';

/** An event of the history. */
export interface Told {
  readonly id: string;
  readonly type: string;
  readonly device_id: string | null;
  /** When it was appended, RFC 3339. */
  readonly time: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface HistoryPage {
  readonly events: readonly Told[];
  readonly next: string;
  readonly gap?: { readonly reason: string; readonly resumed_at: string } | null;
}

export interface OpenStream {
  readonly connection_id: string;
  readonly user_id: string;
  readonly role: string;
  readonly tenant_id: string | null;
  readonly remote_address: string;
  readonly opened_at: string;
  readonly lag_events: number;
  readonly lag_seconds: number;
  readonly events: number;
  readonly bytes: number;
  readonly conflated: number;
  readonly node: string | null;
  readonly view: Readonly<Record<string, unknown>>;
}

export interface TenantUsage {
  readonly id: string;
  readonly name: string | null;
  readonly events: number;
  readonly bytes: number;
  readonly streams: number;
  readonly oldest_at: string | null;
  /** Events that came since `appended_since`; it only grows. */
  readonly appended: number;
  readonly appended_since: string;
  readonly purged: { readonly at: string } | null;
  readonly settings: {
    readonly retention_seconds: number;
    readonly max_bytes: number;
    readonly streams: number;
  };
}

export interface Witness {
  readonly connection_id: string;
  readonly user_id: string;
  readonly role: string;
  readonly opened_at: string;
  readonly closed_at: string | null;
  readonly outcome: Readonly<Record<string, unknown>> | string;
}

/** A publisher's API key, without its secret. */
export interface PublisherKey {
  readonly id: string;
  readonly name: string | null;
  /** It stands in the server's configuration and is changed there. */
  readonly configured: boolean;
  /** `null`: all tenants. */
  readonly tenants: readonly string[] | null;
  readonly types: readonly string[] | null;
  readonly publish_rate: number | null;
  readonly created_at: string | null;
  readonly created_by: string | null;
  readonly expires_at: string | null;
  readonly old_secret_until: string | null;
  readonly last_used_at: string | null;
  readonly revoked_at: string | null;
}

/** What a new key may do. */
export interface NewKey {
  readonly name: string;
  readonly tenants?: readonly string[];
  readonly all_tenants?: boolean;
  readonly types?: readonly string[];
  readonly expires_at?: string;
}

/** A line of the audit log; of what is not known nothing is there. */
export interface AuditEntry {
  readonly id: number;
  readonly time: string;
  readonly what: string;
  readonly tenant_id?: string;
  readonly user_id?: string;
  readonly role?: string;
  readonly key_id?: string;
  readonly address?: string;
  readonly connection_id?: string;
  readonly target?: string;
  readonly status?: number;
  readonly reason?: string;
  readonly count?: number;
  readonly events?: number;
}

const AUDIT_PAGE = 10_000;

/** Where the API is: at the root or, beside an existing front end, below `/api`. */
export async function findMount(login: Login): Promise<string> {
  for (const mount of ['', '/api']) {
    const headers = { authorization: `Bearer ${login.token}` };
    const response = await fetch(`${mount}/streams?limit=1`, { headers, cache: 'no-store' }).catch(
      () => undefined,
    );
    // Also a refusal says that it is there.
    if (response !== undefined && response.status !== 404) return mount;
  }
  return '';
}

/** Calls the public API with the login that `access` gives; throws a {@link TidingsError} with the server's sentence. */
export class Api {
  constructor(
    readonly access: () => Promise<string>,
    readonly mount: string,
  ) {}

  history(tenant: string, query: Record<string, string>): Promise<HistoryPage> {
    return this.#get(`/tenants/${tenant}/events?${new URLSearchParams(query).toString()}`);
  }

  /** The oldest event that is retained, whether older ones were taken away, and the server's clock. */
  async oldest(tenant: string): Promise<{ at: number | undefined; isCut: boolean; now: number }> {
    const response = await this.#send('GET', `/tenants/${tenant}/events?since=1970-01-01T00:00:00Z&limit=1`);
    const { events, gap } = (await response.json()) as HistoryPage;
    const [first] = events;
    return {
      at: first === undefined ? undefined : Date.parse(first.time),
      isCut: gap !== undefined && gap !== null,
      now: Date.parse(response.headers.get('date') ?? '') || Date.now(),
    };
  }

  streams(): Promise<{ streams: OpenStream[]; next: string | null }> {
    return this.#get('/streams?limit=1000');
  }

  tenants(): Promise<{ tenants: TenantUsage[] }> {
    return this.#get('/tenants?limit=1000');
  }

  audience(tenant: string, cursor: string): Promise<{ streams: Witness[]; complete_since: string }> {
    return this.#get(`/tenants/${tenant}/events/${encodeURIComponent(cursor)}/audience`);
  }

  async disconnect(connection: string): Promise<void> {
    await this.#send('DELETE', `/streams/${encodeURIComponent(connection)}`);
  }

  keys(): Promise<{ keys: PublisherKey[] }> {
    return this.#get('/keys');
  }

  async makeKey(wanted: NewKey): Promise<{ key: string; info: PublisherKey }> {
    return (await (await this.#send('POST', '/keys', wanted)).json()) as { key: string; info: PublisherKey };
  }

  async rotateKey(id: string): Promise<{ key: string; info: PublisherKey }> {
    const answer = await this.#send('POST', `/keys/${encodeURIComponent(id)}/rotate`, {});
    return (await answer.json()) as { key: string; info: PublisherKey };
  }

  async revokeKey(id: string): Promise<void> {
    await this.#send('DELETE', `/keys/${encodeURIComponent(id)}`);
  }

  /** The audit log since a moment; `isCut` where there is more of it. */
  async audit(since: Date): Promise<{ entries: AuditEntry[]; isCut: boolean }> {
    const query = new URLSearchParams({ since: since.toISOString(), limit: String(AUDIT_PAGE) });
    const text = await (await this.#send('GET', `/audit?${query.toString()}`)).text();
    const lines = text.split('\n').filter(Boolean);
    return {
      entries: lines.map((line) => JSON.parse(line) as AuditEntry),
      isCut: lines.length >= AUDIT_PAGE,
    };
  }

  async #get<Answer>(path: string): Promise<Answer> {
    return (await (await this.#send('GET', path)).json()) as Answer;
  }

  async #send(method: string, path: string, body?: object): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${await this.access()}` };
    const request: RequestInit = { method, headers, cache: 'no-store' };
    if (body !== undefined) {
      headers['content-type'] = 'application/json';
      request.body = JSON.stringify(body);
    }
    const response = await fetch(this.mount + path, request);
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as { detail?: string };
    throw new TidingsError(
      'invalid',
      problem.detail ?? `${response.status} ${response.statusText}`,
      response.status,
    );
  }
}
