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
  /** False where it was not counted to its end: there can be more. */
  readonly lag_exact: boolean;
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

/** One node of several; what one that did not answer has is missing. */
export interface Node {
  readonly node: string;
  readonly answered: boolean;
}

export interface StreamsPage {
  readonly streams: readonly OpenStream[];
  /** What the next page comes after; `null` on the last. */
  readonly next: string | null;
  readonly nodes?: readonly Node[];
}

/** Who was shown an event, and why the others were not. */
export interface Audience {
  readonly event: { readonly time: string };
  readonly streams: readonly Witness[];
  /** Streams that ended before are not remembered. */
  readonly complete_since: string;
  readonly nodes?: readonly Node[];
  /** There are more than were read. */
  readonly isCut: boolean;
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

/** Pages of a list that are read at most, each of 1,000. */
const MOST_PAGES = 20;

/** How long a call may take, in milliseconds; pages of a large history take their time. */
const PATIENCE = 15_000;
const PATIENCE_OF_READING = 60_000;

/** A difference between two clocks that a `Date` header, in whole seconds, does not show for sure. */
const CLOCK_DOUBT = 2_000;

/** Where the API is: at the root or, beside an existing front end, below `/api`. */
export async function findMount(login: Login): Promise<string> {
  for (const mount of ['', '/api']) {
    const headers = { authorization: `Bearer ${login.token}` };
    const signal = AbortSignal.timeout(PATIENCE);
    const request: RequestInit = { headers, cache: 'no-store', signal };
    const response = await fetch(`${mount}/streams?limit=1`, request).catch(() => undefined);
    // Also a refusal says that it is there.
    if (response !== undefined && response.status !== 404) return mount;
  }
  return '';
}

/** Calls the public API with the login that `access` gives; throws a {@link TidingsError} with the server's sentence. */
export class Api {
  /** The last whole second that the server said it is, in milliseconds: it is not earlier there. */
  said = 0;
  #ahead = 0;

  constructor(
    readonly access: () => Promise<string>,
    readonly mount: string,
  ) {}

  /** The server's time, as far as its answers told it: a browser's clock can be anything. */
  now(): number {
    return Date.now() + this.#ahead;
  }

  history(tenant: string, query: Record<string, string>, signal?: AbortSignal): Promise<HistoryPage> {
    const path = `/tenants/${tenant}/events?${new URLSearchParams(query).toString()}`;
    return this.#get(path, { patience: PATIENCE_OF_READING, ...(signal && { signal }) });
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

  /** A page of the open streams; nothing in `after` is the first. */
  streams(after: string): Promise<StreamsPage> {
    return this.#get(`/streams?limit=1000${after && `&after=${encodeURIComponent(after)}`}`);
  }

  async tenants(): Promise<{ tenants: readonly TenantUsage[]; isCut: boolean }> {
    type Page = { tenants: TenantUsage[]; next: string | null };
    const { pages, isCut } = await this.#pages<Page>('/tenants');
    return { tenants: pages.flatMap((page) => page.tenants), isCut };
  }

  async audience(tenant: string, cursor: string): Promise<Audience> {
    type Page = Omit<Audience, 'isCut'> & { next: string | null };
    const path = `/tenants/${tenant}/events/${encodeURIComponent(cursor)}/audience`;
    const { first, pages, isCut } = await this.#pages<Page>(path);
    // A node that was silent once is missing in that page; what one page does not remember is not complete.
    const nodes = new Map<string, Node>();
    for (const each of pages.flatMap((page) => page.nodes ?? []))
      if (nodes.get(each.node)?.answered !== false) nodes.set(each.node, each);
    return {
      event: first.event,
      streams: pages.flatMap((page) => page.streams),
      complete_since: pages.reduce(
        (latest, page) => (page.complete_since > latest ? page.complete_since : latest),
        first.complete_since,
      ),
      nodes: [...nodes.values()],
      isCut,
    };
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

  async #get<Answer>(path: string, how: { signal?: AbortSignal; patience?: number } = {}): Promise<Answer> {
    return (await (await this.#send('GET', path, undefined, how)).json()) as Answer;
  }

  /** All pages of a list, or as many as a page of the console can bear. */
  async #pages<Page extends { next: string | null }>(path: string) {
    const first = await this.#get<Page>(`${path}?limit=1000`);
    const pages = [first];
    let { next } = first;
    while (next !== null && pages.length < MOST_PAGES) {
      const page: Page = await this.#get<Page>(`${path}?limit=1000&after=${encodeURIComponent(next)}`);
      pages.push(page);
      next = page.next;
    }
    return { first, pages, isCut: next !== null };
  }

  async #send(
    method: string,
    path: string,
    body?: object,
    { signal, patience = PATIENCE }: { signal?: AbortSignal; patience?: number } = {},
  ): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${await this.access()}` };
    // A server that is there and says nothing must not collect calls; it covers the reading of the body too.
    const late = AbortSignal.timeout(patience);
    const request: RequestInit = {
      method,
      headers,
      cache: 'no-store',
      signal: signal ? AbortSignal.any([signal, late]) : late,
    };
    if (body !== undefined) {
      headers['content-type'] = 'application/json';
      request.body = JSON.stringify(body);
    }
    const asked = Date.now();
    const response = await fetch(this.mount + path, request).catch((error: unknown) => {
      if (late.aborted)
        throw new TidingsError('network', `The server did not answer within ${patience / 1000} seconds.`);
      throw error;
    });
    this.#compareClocks(response, asked, Date.now());
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as { detail?: string };
    throw new TidingsError(
      'invalid',
      problem.detail ?? `${response.status} ${response.statusText}`,
      response.status,
    );
  }

  #compareClocks(response: Response, asked: number, answered: number): void {
    const said = Date.parse(response.headers.get('date') ?? '');
    if (Number.isNaN(said)) return;
    this.said = said;
    // The second that the header names has begun: it is half over in the middle. When within the call it was named is
    // not known, and what a quick call told is better than what a slow one does not contradict.
    const ahead = said + 500 - (asked + answered) / 2;
    const doubt = CLOCK_DOUBT + (answered - asked) / 2;
    if (Math.abs(ahead - this.#ahead) > doubt) this.#ahead = Math.abs(ahead) > doubt ? ahead : 0;
  }
}
