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

  async #get<Answer>(path: string): Promise<Answer> {
    return (await (await this.#send('GET', path)).json()) as Answer;
  }

  async #send(method: string, path: string): Promise<Response> {
    const headers = { authorization: `Bearer ${await this.access()}` };
    const response = await fetch(this.mount + path, { method, headers, cache: 'no-store' });
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as { detail?: string };
    throw new TidingsError(
      'invalid',
      problem.detail ?? `${response.status} ${response.statusText}`,
      response.status,
    );
  }
}
