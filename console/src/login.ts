import { TidingsError } from '@tidings/client';

/** What an access token says of itself, for the page's own convenience: the server decides. */
export interface Login {
  readonly token: string;
  readonly user: string;
  /** `null`: all tenants. */
  readonly tenant: string | null;
  readonly role: string;
  /** Milliseconds since the Unix epoch; `Infinity` where the token does not say. */
  readonly expiresAt: number;
  /**
   * What logins must have in common to share a stream. A pasted token shares with the same token alone; fetched ones with
   * all that say the same of who it is and of what they may see, since every tab fetches one of its own.
   */
  readonly identity: string;
  /** A path of this host that gives a fresh token; absent where the token was pasted. */
  readonly source?: string;
}

// This tab's alone: other tabs and what a browser keeps never see it, and only scripts of this server run here.
const KEPT = 'tidings.access_token';
const KEPT_SOURCE = 'tidings.token_source';

/** The login of this tab: from the address's fragment, or kept from before a reload. */
export function kept(): Login | undefined {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  // Neither the address bar nor the history keeps it.
  if (given !== null) history.replaceState(null, '', location.pathname + location.search);
  const token = given ?? sessionStorage.getItem(KEPT);
  const source = given === null ? sessionStorage.getItem(KEPT_SOURCE) : null;
  return token === null ? undefined : keep(token, source ?? undefined);
}

/** Takes a token that somebody pasted or a source gave; `undefined` where it is none. */
export function keep(token: string, source?: string): Login | undefined {
  const claims = claimsOf(token.trim());
  if (claims === undefined) return undefined;
  sessionStorage.setItem(KEPT, token.trim());
  if (source === undefined) sessionStorage.removeItem(KEPT_SOURCE);
  else sessionStorage.setItem(KEPT_SOURCE, source);
  const { sub, tenant_id, role, exp } = claims;
  return {
    token: token.trim(),
    user: typeof sub === 'string' || typeof sub === 'number' ? String(sub) : '?',
    tenant: typeof tenant_id === 'string' ? tenant_id : null,
    role: typeof role === 'string' ? role : '',
    identity: source === undefined ? token.trim() : identityOf(claims),
    expiresAt: typeof exp === 'number' ? exp * 1000 : Infinity,
    ...(source === undefined ? {} : { source }),
  };
}

export function forget(): void {
  sessionStorage.removeItem(KEPT);
  sessionStorage.removeItem(KEPT_SOURCE);
}

/**
 * Fetches an access token with the cookies of this host, as text or as JSON with `access_token` or `token`.
 *
 * @throws where the path is another host's, or what it gives is no token.
 */
export async function fetchLogin(source: string): Promise<Login> {
  const url = new URL(source, location.origin);
  if (url.origin !== location.origin) throw new Error('A token is fetched from this host alone.');
  const path = url.pathname + url.search;
  const response = await fetch(path, { credentials: 'same-origin', cache: 'no-store' });
  if (!response.ok)
    // A refusal is about the login; anything else may be over soon.
    throw new TidingsError(
      response.status === 401 || response.status === 403 ? 'unauthorized' : 'network',
      `${path} answers ${response.status}.`,
      response.status,
    );
  const login = keep(tokenIn((await response.text()).trim()), path);
  if (login === undefined) throw new Error(`What ${path} gives holds no access token.`);
  return login;
}

function tokenIn(text: string): string {
  if (!text.startsWith('{')) return text;
  try {
    const { access_token, token } = JSON.parse(text) as { access_token?: unknown; token?: unknown };
    const found = access_token ?? token;
    return typeof found === 'string' ? found : '';
  } catch {
    return '';
  }
}

/** Claims that are another in every token of the same login. */
const OF_ONE_TOKEN = new Set(['exp', 'iat', 'nbf', 'jti']);

/** All other claims: one that is not known here may be a bound. */
function identityOf(claims: Record<string, unknown>): string {
  const kept = Object.entries(claims).filter(([name]) => !OF_ONE_TOKEN.has(name));
  return JSON.stringify(kept.sort(([one], [other]) => (one < other ? -1 : 1)));
}

function claimsOf(token: string): Record<string, unknown> | undefined {
  try {
    const part = token.split('.')[1]?.replaceAll('-', '+').replaceAll('_', '/') ?? '';
    const bytes = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === 'object' && claims !== null ? (claims as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
